"""The cache on disk: whole entries or none, whatever happens to the files, and never an error."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from pathlib import Path

import pytest

from tilus.runtime import cache as cache_module
from tilus.runtime.cache import Entry, KernelCache, content_key

ENTRY = Entry({"name": "add", "registers": 40}, b"machine code" * 100)
KEY = "ab12"


@pytest.fixture
def cache(tmp_path):
    return KernelCache(tmp_path / "kernels")


def file_of(cache, key=KEY):
    return cache.directory / f"{key}.kernel"


def run_python(code, *arguments):
    """A process of its own, started but not waited for."""
    program = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(program, cwd=Path(__file__).parents[2])


# ---- what it does when all is well --------------------------------------------------------------


def test_an_entry_comes_back_as_it_was(cache):
    cache.put(KEY, ENTRY)
    assert ENTRY == cache.get(KEY)


def test_what_was_not_put_is_not_there(cache):
    assert cache.get(KEY) is None
    cache.put(KEY, ENTRY)
    assert cache.get("cd34") is None


def test_the_directory_and_the_files_are_the_users_own(cache):
    cache.put(KEY, ENTRY)
    assert 0o700 == cache.directory.stat().st_mode & 0o777
    assert 0o600 == file_of(cache).stat().st_mode & 0o777


def test_a_later_entry_replaces_an_earlier_one(cache):
    cache.put(KEY, ENTRY)
    cache.put(KEY, Entry({}, b""))
    assert Entry({}, b"") == cache.get(KEY)


def test_keys_tell_where_one_part_ends():
    keys = [content_key("ab", "c"), content_key("a", "bc"), content_key("abc"), content_key("")]
    assert 4 == len(set(keys))


def test_the_least_recently_used_go_when_it_is_full(tmp_path):
    size = len(cache_module._encode("k0", ENTRY))
    cache = KernelCache(tmp_path, limit=3 * size)
    for number in range(3):
        cache.put(f"k{number}", ENTRY)
        os.utime(file_of(cache, f"k{number}"), (number, number))
    assert cache.get("k0")  # which makes it the most recent one
    cache.put("k3", ENTRY)
    assert [True, False, True, True] == [file_of(cache, f"k{n}").exists() for n in range(4)]


def test_entries_are_listed_the_most_recent_first(cache):
    for number, key in enumerate(("old", "new")):
        cache.put(key, Entry({"name": key}, b""))
        os.utime(file_of(cache, key), (number, number))
    (cache.directory / "damaged.kernel").write_bytes(b"?")
    listed = cache.entries()
    assert [("new", "new", 1.0), ("old", "old", 0.0)] == [
        (one.key, one.header["name"], one.used) for one in listed
    ]
    assert file_of(cache, "new").stat().st_size == listed[0].nbytes


def test_clear_removes_all(cache):
    cache.put(KEY, ENTRY)
    cache.put("cd34", ENTRY)
    assert (2, 0) == (cache.clear(), cache.clear())
    assert cache.get(KEY) is None


# ---- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 20, 50, -1])
def test_a_truncated_entry_is_removed(cache, keep):
    cache.put(KEY, ENTRY)
    file_of(cache).write_bytes(file_of(cache).read_bytes()[:keep])
    assert cache.get(KEY) is None
    assert not file_of(cache).exists()


def test_any_flipped_byte_is_noticed(tmp_path):
    cache = KernelCache(tmp_path)
    cache.put(KEY, Entry({"name": "add"}, b"machine code"))
    whole = file_of(cache).read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        file_of(cache).write_bytes(damaged)
        assert cache.get(KEY) is None, position


def test_an_entry_under_another_name_is_not_that_entry(cache):
    cache.put(KEY, ENTRY)
    os.rename(file_of(cache), file_of(cache, "cd34"))
    assert cache.get("cd34") is None


def test_an_entry_of_another_format_is_none(cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "_MAGIC", b"TILUSKC0")
        cache.put(KEY, ENTRY)
    assert cache.get(KEY) is None


@pytest.mark.parametrize("when", ["before_any_byte", "in_the_middle", "before_the_rename"])
def test_a_process_killed_while_it_writes_leaves_no_entry(cache, when):
    killed = run_python(
        """
        import os, signal, sys
        from pathlib import Path
        from tilus.runtime import cache as module

        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        class DyingFile:
            def __init__(self, descriptor, mode):
                self.descriptor = descriptor
            def __enter__(self):
                return self
            def __exit__(self, *_):
                pass
            def write(self, data):
                os.write(self.descriptor, data[: len(data) // 2])
                die()

        when = sys.argv[2]
        if when == "before_any_byte":
            os.fdopen = die
        elif when == "in_the_middle":
            os.fdopen = DyingFile
        else:
            os.replace = die
        module.KernelCache(Path(sys.argv[1])).put("ab12", module.Entry({}, b"code" * 1000))
        """,
        cache.directory,
        when,
    )
    assert -signal.SIGKILL == killed.wait(timeout=60)
    (remains,) = cache.directory.iterdir()
    assert ".tmp" == remains.suffix
    assert cache.get(KEY) is None
    cache.put(KEY, ENTRY)
    assert ENTRY == cache.get(KEY)
    assert remains.exists()  # its writer may be alive, for all we know

    long_ago = time.time() - 2 * 3600
    os.utime(remains, (long_ago, long_ago))
    KernelCache(cache.directory).put(KEY, ENTRY)
    assert [file_of(cache)] == list(cache.directory.iterdir())


def test_two_processes_compile_the_same_kernel_at_once(tmp_path):
    code = """
        import os, sys, time
        from pathlib import Path
        os.environ["TILUS_CACHE_DIR"] = sys.argv[1]
        from tilus.codegen.source import CudaSource
        from tilus.runtime import build
        from tilus.target import nvgpu_sm80

        root, name, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
        compile_cuda = build.compile_cuda
        def meet(*arguments, **options):  # both have missed the cache before either compiles
            (root / name).touch()
            while not (root / other).exists():
                time.sleep(0.001)
            return compile_cuda(*arguments, **options)
        build.compile_cuda = meet
        text = 'extern "C" __global__ void f(int* x) { *x = 1; }'
        binary = build.build(CudaSource("f", text, 32), nvgpu_sm80)
        (root / f"{name}.cubin").write_bytes(binary.cubin)
    """
    both = [run_python(code, tmp_path, "a", "b"), run_python(code, tmp_path, "b", "a")]
    assert [0, 0] == [process.wait(timeout=120) for process in both]
    assert (tmp_path / "a.cubin").read_bytes() == (tmp_path / "b.cubin").read_bytes()
    (listed,) = KernelCache(tmp_path / "kernels").entries()
    assert "f" == listed.header["name"]
    assert 1 == len(list((tmp_path / "kernels").iterdir()))


# ---- directories that cannot be used ------------------------------------------------------------


def warned_once(cache, expected):
    """Put twice and get: one warning, no error, no entry."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            cache.put(KEY, ENTRY)
            assert cache.get(KEY) is None
    (warning,) = caught
    assert warning.category is RuntimeWarning
    assert "kernels are compiled without the cache: " in str(warning.message)
    assert expected in str(warning.message)


@pytest.fixture
def ordinary_user():
    """Root may write anywhere, so permissions are tested as somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def own_directory(ordinary_user):
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)
        os.chmod(directory, 0o700)


def test_a_read_only_directory(own_directory):
    os.chmod(own_directory, 0o500)
    warned_once(KernelCache(own_directory), "Permission denied")


def test_a_read_only_parent(own_directory):
    os.chmod(own_directory, 0o500)
    warned_once(KernelCache(own_directory / "kernels"), "Permission denied")


def test_a_read_only_directory_still_serves_its_entries(own_directory):
    cache = KernelCache(own_directory)
    cache.put(KEY, ENTRY)
    os.chmod(own_directory, 0o500)
    assert ENTRY == cache.get(KEY)


def test_a_full_disk(cache, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    warned_once(cache, "No space left on device")
    assert [] == list(cache.directory.iterdir())


def test_a_file_in_the_place_of_the_directory(cache):
    cache.directory.touch()
    warned_once(cache, "File exists")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o720])
def test_a_directory_that_others_may_write_to(cache, mode):
    cache.put(KEY, ENTRY)
    cache.directory.chmod(mode)
    warned_once(cache, f"can be written to by others (mode {mode:04o})")


def test_a_directory_of_another_user(cache, monkeypatch):
    cache.put(KEY, ENTRY)
    monkeypatch.setattr(os, "geteuid", lambda: cache.directory.stat().st_uid + 1)
    warned_once(cache, "belongs to another user")


def test_a_file_of_another_user_is_not_read(cache, monkeypatch):
    cache.put(KEY, ENTRY)
    real = os.fstat

    def other_owner(descriptor):
        facts = list(real(descriptor))
        facts[4] += 1  # st_uid
        return os.stat_result(facts)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", other_owner)
        assert cache.get(KEY) is None
    cache.put(KEY, ENTRY)
    assert ENTRY == cache.get(KEY)


def test_a_link_is_not_followed(cache, tmp_path):
    cache.put(KEY, ENTRY)
    os.rename(file_of(cache), tmp_path / "elsewhere")
    file_of(cache).symlink_to(tmp_path / "elsewhere")
    with pytest.warns(RuntimeWarning, match="symbolic links"):
        assert cache.get(KEY) is None


def test_a_pipe_is_not_waited_for(cache):
    cache.directory.mkdir(mode=0o700)
    os.mkfifo(file_of(cache))
    assert cache.get(KEY) is None
