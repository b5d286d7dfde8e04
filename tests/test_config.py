"""Settings: where a value comes from, which values are refused, what the documentation says."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest

from tilus import config, option
from tilus.config import SETTINGS, Settings, context, get_option, set_option, settings
from tilus.errors import TilusError


@pytest.fixture(autouse=True)
def process_values(monkeypatch):
    monkeypatch.setattr(config, "_process_values", {})


def test_defaults():
    now = settings()
    assert "tilus-vm" in now.cache_dir.parts
    assert now.parallel_workers >= 1
    expected = {
        "engine": "auto",
        "bench_warmup": 1,
        "bench_repeat": 5,
        "debug": 0,
        "dump": None,
        "target": None,
        "debug_dump_ir": False,
    }
    actual = dataclasses.asdict(now)
    assert expected == {name: actual[name] for name in expected}


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("TILUS_CACHE_DIR", "some/where", "cache_dir", Path("some/where")),
        ("TILUS_CACHE_DIR", "~/kernels", "cache_dir", Path.home() / "kernels"),
        ("TILUS_ENGINE", "emulator", "engine", "emulator"),
        ("TILUS_PARALLEL_WORKERS", "3", "parallel_workers", 3),
        ("TILUS_BENCH_WARMUP", "0", "bench_warmup", 0),
        ("TILUS_BENCH_REPEAT", "9", "bench_repeat", 9),
        ("TILUS_DEBUG", "5", "debug", 5),
        ("TILUS_DUMP", "ir", "dump", Path("ir")),
        ("TILUS_TARGET", " sm_80 ", "target", "sm_80"),
        ("TILUS_DEBUG_DUMP_IR", "on", "debug.dump_ir", True),
        ("TILUS_DEBUG_DUMP_IR", "0", "debug.dump_ir", False),
        ("TILUS_ENGINE", "", "engine", "auto"),  # empty is unset
    ],
)
def test_environment(monkeypatch, variable, text, name, value):
    monkeypatch.setenv(variable, text)
    assert value == get_option(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("engine", "gpu"),
        ("engine", 1),
        ("parallel_workers", 0),
        ("parallel_workers", "many"),
        ("bench_warmup", -1),
        ("bench_repeat", 0),
        ("bench_repeat", 2.5),
        ("debug", 6),
        ("debug", True),
        ("dump", "  "),
        ("cache_dir", None),
        ("cache_dir", __file__),  # a file, not a directory
        ("target", 90),
        ("debug.dump_ir", "maybe"),
    ],
)
def test_bad_values_are_refused(name, value):
    with pytest.raises(TilusError) as caught:
        set_option(name, value)
    assert f"setting `{name}` has a bad value" == caught.value.message
    assert repr(value) == caught.value.found
    assert config._find(name).kind.expected == caught.value.expected


def test_a_bad_variable_is_named(monkeypatch):
    monkeypatch.setenv("TILUS_DEBUG", "verbose")
    with pytest.raises(TilusError) as caught:
        settings()
    assert str(caught.value).splitlines() == [
        "error: environment variable TILUS_DEBUG has a bad value",
        "  found:    'verbose'",
        "  expected: an integer from 0 to 5",
        "  hint:     how much the compiler reports; 0 is silent; default: 0",
    ]


@pytest.mark.parametrize("use", [get_option, lambda name: set_option(name, 1)])
def test_an_unknown_setting_suggests_a_known_one(use):
    with pytest.raises(TilusError) as caught:
        use("bench_repeats")
    assert "'bench_repeats'" == caught.value.found
    assert "did you mean `bench_repeat`?" == caught.value.hint


def test_context_beats_process_beats_environment(monkeypatch):
    monkeypatch.setenv("TILUS_BENCH_REPEAT", "2")
    assert 2 == get_option("bench_repeat")
    option.bench_repeat(3)
    assert 3 == get_option("bench_repeat")
    with context(bench_repeat=4):
        with context(bench_repeat=5, debug=1):
            assert (5, 1) == (get_option("bench_repeat"), get_option("debug"))
        assert (4, 0) == (get_option("bench_repeat"), get_option("debug"))
    assert 3 == get_option("bench_repeat")


def test_setting_inside_a_context_ends_with_it():
    with context(bench_repeat=4):
        option.bench_repeat(6)
        option.bench_warmup(7)  # not named by the context: for the process
        assert 6 == get_option("bench_repeat")
    assert (5, 7) == (get_option("bench_repeat"), get_option("bench_warmup"))


def test_context_is_left_after_an_error():
    with pytest.raises(RuntimeError), context(debug=3):
        raise RuntimeError
    assert 0 == get_option("debug")


def test_a_bad_context_changes_nothing():
    with pytest.raises(TilusError), context(debug=3, engine="abacus"):
        pass
    assert 0 == get_option("debug")


def test_threads_do_not_see_each_others_context():
    seen: dict[int, int] = {}
    together = threading.Barrier(4)

    def work(level: int) -> None:
        with context(debug=level):
            together.wait(timeout=10)
            seen[level] = get_option("debug")
            together.wait(timeout=10)

    threads = [threading.Thread(target=work, args=(level,)) for level in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {1: 1, 2: 2, 3: 3, 4: 4} == seen
    assert 0 == get_option("debug")


def test_public_option_functions(tmp_path):
    option.cache_dir(tmp_path)
    option.engine("interpreter")
    option.parallel_workers(2)
    option.bench_warmup(3)
    option.bench_repeat(4)
    option.debug.dump_ir(True)
    expected = Settings(
        cache_dir=tmp_path,
        engine="interpreter",
        parallel_workers=2,
        bench_warmup=3,
        bench_repeat=4,
        debug_dump_ir=True,
    )
    assert expected == settings()


def test_dump_directory(tmp_path):
    with option.context(cache_dir=tmp_path):
        assert settings().dump_directory is None
        with option.context(debug_dump_ir=True):
            assert tmp_path / "dump" == settings().dump_directory
            with option.context(dump=tmp_path / "ir"):
                assert tmp_path / "ir" == settings().dump_directory


def test_the_table_documents_every_setting():
    rows = config.settings_table().splitlines()
    assert len(SETTINGS) == len(dataclasses.fields(Settings)) == len(rows) - 2
    assert {5} == {row.count(" | ") + 1 for row in rows}
    assert (
        "| `debug.dump_ir` | `TILUS_DEBUG_DUMP_IR` | on or off (1, true, on; 0, false, off) | off |"
        " write the IR after every pass; without `dump`, below `cache_dir` |"
    ) == rows[-1]
