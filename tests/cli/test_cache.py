"""`tilus cache list` and `tilus cache clear`."""

from __future__ import annotations

import pytest

from tilus.cli import main
from tilus.codegen.source import CudaSource
from tilus.runtime.build import build
from tilus.runtime.nvrtc import nvrtc_release
from tilus.target import nvgpu_sm80


@pytest.fixture(autouse=True)
def kernels(tmp_path, monkeypatch):
    monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path))
    return tmp_path / "kernels"


def make(name):
    text = f'extern "C" __global__ void {name}(int* x) {{ *x = 1; }}'
    return build(CudaSource(name, text, threads=32), nvgpu_sm80)


def output(capsys, *argv):
    assert main(argv) == 0
    return capsys.readouterr().out


def test_list_names_each_kernel(capsys, kernels):
    keys = {name: make(name).code.key for name in ("add", "mul")}
    out = output(capsys, "cache", "list")
    for name, key in keys.items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        assert "sm_80" in line and nvrtc_release() in line and line.endswith(key[:12])
    assert f"2 kernels, {sum(f.stat().st_size for f in kernels.iterdir()) / 1024:.1f} KiB" in out


def test_list_of_nothing(capsys, kernels):
    assert f"0 kernels, 0.0 KiB in {kernels}\n" == output(capsys, "cache", "list")


def test_clear_removes_every_kernel(capsys, kernels):
    make("add"), make("mul")
    assert f"2 kernels removed from {kernels}\n" == output(capsys, "cache", "clear")
    assert [] == list(kernels.iterdir())
    assert f"0 kernels removed from {kernels}\n" == output(capsys, "cache", "clear")


@pytest.mark.parametrize("action", ["list", "clear"])
def test_a_directory_that_is_not_trusted(capsys, kernels, action):
    make("add")
    kernels.chmod(0o777)
    assert main(["cache", action]) == 1
    out, err = capsys.readouterr()
    assert "" == out and "can be written to by others (mode 0777)" in err
    assert 1 == len(list(kernels.iterdir()))


def test_an_action_is_needed(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["cache"])
    assert 2 == exit.value.code
    assert "ACTION" in capsys.readouterr().err
