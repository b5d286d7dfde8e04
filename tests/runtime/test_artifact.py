"""Kernels saved ahead of time, and loaded where there is neither the program nor NVRTC."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest
import torch

from tests.runtime.fakes import DeviceTensor, FakeDevices, FakeDriver, unpack
from tilus import dtypes
from tilus.codegen.source import CudaSource, Workspace
from tilus.errors import TilusError
from tilus.ir.expr import Var, apply, cast, const, mul
from tilus.ir.program import Param, Program
from tilus.runtime.artifact import load, save
from tilus.runtime.build import build
from tilus.runtime.cuda import Cuda
from tilus.target import get_current_target, nvgpu_sm80

TEXT = """
extern "C" __global__ void scale(int n, float factor, float* x, int* counter) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && blockIdx.y + blockIdx.z == 0) x[i] *= factor;
}
"""


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path / "cache"))


def kernel(target=nvgpu_sm80):
    n, x = Var(dtypes.int32, "n"), Var(~dtypes.float32, "x")
    factor = Var(dtypes.float32, "factor")
    program = Program(
        "scale",
        (Param(n, 16), Param(factor), Param(x, 16)),
        ((n + 127) // 128, const(2), cast(apply("truediv", n, 16), dtypes.int32)),
        4,
        (),
    )
    space = Workspace(mul(cast(n, dtypes.int64), 4), clean=True)
    return build(CudaSource("scale", TEXT, 128, 256, (space,)), target), program


@pytest.fixture
def saved(tmp_path):
    binary, program = kernel()
    return save(binary, program, tmp_path / "out" / "deep")


def edit(path, **fields):
    header = json.loads(path.read_text())
    path.write_text(json.dumps({**header, **fields}))


def refused(path):
    with pytest.raises(TilusError) as caught:
        load(path)
    return caught.value


def test_the_files_of_a_kernel(saved):
    binary, _ = kernel()
    assert {"scale.cu", "scale.cubin", "scale.json", "scale.ptx"} == {
        file.name for file in saved.parent.iterdir()
    }
    assert TEXT == saved.with_suffix(".cu").read_text()
    assert binary.cubin == saved.with_suffix(".cubin").read_bytes()
    assert ".target sm_80" in saved.with_suffix(".ptx").read_text()


def test_what_the_json_says(saved):
    header = json.loads(saved.read_text())
    assert [
        {"name": "n", "dtype": "int32", "divisible_by": 16},
        {"name": "factor", "dtype": "float32", "divisible_by": 1},
        {"name": "x", "dtype": "~float32", "divisible_by": 16},
    ] == header["parameters"]
    assert ["(n + 127) // 128", "2", "cast(n / 16, int32)"] == header["grid"]
    assert [{"nbytes": "cast(n, int64) * int64(4)", "clean": True}] == header["workspaces"]
    cubin = saved.with_suffix(".cubin").read_bytes()
    assert ("scale", "sm_80", 128, 256, hashlib.sha256(cubin).hexdigest()) == tuple(
        header[name] for name in ("name", "target", "threads", "shared_bytes", "sha256")
    )
    assert header["resources"]["registers"] >= 4
    assert {"nvrtc", "tilus"} == set(header["versions"])


def test_a_loaded_kernel_launches_as_the_saved_one_would(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    driver = FakeDriver([4, 4, 8, 8])
    loaded = load(saved, Cuda(driver, FakeDevices()))
    loaded.launch([160, 1.5, DeviceTensor(4096)])
    (launch,) = driver.launches
    assert ((2, 2, 10), (128, 1, 1), 256) == (launch.grid, launch.block, launch.shared_bytes)
    values = [unpack(*each) for each in zip("ifQ", launch.arguments[:3], strict=True)]
    assert [160, 1.5, 4096] == values
    assert ("cuModuleLoadData", saved.with_suffix(".cubin").read_bytes()) in driver.calls
    with pytest.raises(TilusError, match="the argument n breaks"):
        loaded.launch([161, 1.5, DeviceTensor(4096)])


def test_a_loaded_kernel_can_be_saved_again(saved, tmp_path):
    loaded = load(saved)
    again = save(loaded.binary, loaded.program, tmp_path / "again")
    assert saved.read_text() == again.read_text()
    assert saved.with_suffix(".ptx").read_text() == again.with_suffix(".ptx").read_text()


def test_the_text_is_not_needed(saved):
    saved.with_suffix(".cu").unlink()
    saved.with_suffix(".ptx").unlink()
    assert "" == load(saved).binary.source.text


def test_parameters_called_like_words_of_the_text_form(tmp_path):
    odd = [Var(dtypes.int32, name) for name in ("max", "n", "n")]
    program = Program("scale", tuple(map(Param, odd)), (odd[0], odd[1], odd[2]), 1, ())
    source = CudaSource("scale", 'extern "C" __global__ void scale(int a, int b, int c) {}', 32)
    path = save(build(source, nvgpu_sm80), program, tmp_path)
    driver = FakeDriver([4, 4, 4])
    load(path, Cuda(driver, FakeDevices())).launch([5, 6, 7])
    assert (5, 6, 7) == driver.launches[0].grid


def test_a_damaged_cubin(saved):
    cubin = bytearray(saved.with_suffix(".cubin").read_bytes())
    cubin[100] ^= 1
    saved.with_suffix(".cubin").write_bytes(cubin)
    assert "the machine code is not what the kernel was saved with" == refused(saved).message


@pytest.mark.parametrize("suffix", [".cubin", ".json"])
def test_a_missing_file(saved, suffix):
    saved.with_suffix(suffix).unlink()
    assert f"scale{suffix}" in refused(saved).found


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"format": 2}'])
def test_a_json_that_is_no_description(saved, text):
    saved.write_text(text)
    assert str(saved) in refused(saved).message


@pytest.mark.parametrize(
    "field",
    [
        "name", "target", "parameters", "grid", "threads", "shared_bytes", "workspaces",
        "versions", "sha256",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [None, 1.5])
def test_a_field_of_another_type(saved, field, value):
    edit(saved, **{field: value})
    assert f"the field {field} is {value}" == refused(saved).found


@pytest.mark.parametrize("value", [None, 7, {}, {"name": "n", "dtype": "int32"}])
def test_a_parameter_that_is_none(saved, value):
    edit(saved, parameters=[value])
    assert "the field" in refused(saved).found


def test_an_expression_that_does_not_parse_is_shown(saved):
    edit(saved, grid=["n +", "1", "1"])
    error = refused(saved)
    assert "blocks=[n +, 1, 1]" in str(error) and str(saved) == error.location.file


def test_an_unknown_target(saved):
    edit(saved, target="sm_1")
    assert "there is no such target" == refused(saved).message


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TilusError) as caught:
        save(*kernel(), tmp_path / "file")
    assert "the files of scale cannot be written" == caught.value.message


@pytest.mark.gpu
def test_gpu_a_loaded_kernel_runs(tmp_path):
    path = save(*kernel(get_current_target()), tmp_path)
    x = torch.ones(160, device="cuda")
    load(path).launch([160, 0.5, x])
    assert torch.equal(torch.full_like(x, 0.5), x)
