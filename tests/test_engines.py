"""One meaning on every engine: what the interpreter computes, the compiled kernels compute too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tilus
from tests.codegen.test_kernels import MATMUL
from tests.kernels import (
    EXAMPLES,
    Launch,
    copied,
    example_launches,
    load_example,
    matmul_launches,
)
from tests.strategies import random_program
from tilus import TilusError
from tilus.codegen.kernel import generate
from tilus.codegen.source import CudaSource
from tilus.dtypes import LOW_PRECISION, DataType, unpack
from tilus.ir.parser import parse_program
from tilus.ir.program import Program
from tilus.passes import compile_program
from tilus.ptx.machine import execute
from tilus.ptx.memory import GlobalMemory
from tilus.ptx.parse import parse_ptx
from tilus.runtime.emulate import emulate
from tilus.runtime.launch import run_program
from tilus.runtime.nvrtc import compile_ptx
from tilus.target import nvgpu_sm90a, target_from_name
from tilus.tensor import storage_of


def check_equal(values: list[Any], launch: Launch, tolerance: float) -> None:
    """Compare every tensor with what the interpreter left.

    Integers and bytes are equal; floats agree within the order of additions and the accuracy of
    the functions.
    """
    for value, expected in zip(values, launch.after, strict=True):
        have, want = storage_of(value), storage_of(expected)
        if have is None or want is None:
            continue
        if want.is_floating_point() and want.itemsize > 1:
            close = {"rtol": tolerance, "atol": tolerance, "equal_nan": True}
            torch.testing.assert_close(have.cpu(), want, **close)
        else:
            assert torch.equal(have.cpu().view(torch.uint8), want.view(torch.uint8))


def check_on_emulator(launch: Launch, arch: str = "sm_90a") -> None:
    """Run a recorded launch on the emulator: the PTX of the generated CUDA."""
    values = [copied(v) for v in launch.before]
    emulate(launch.program, values, target_from_name(arch))
    check_equal(values, launch, 2e-3)


def check_on_gpu(launch: Launch) -> None:
    values = [copied(v, "cuda") for v in launch.before]
    run_program(launch.program, values)
    torch.cuda.synchronize()
    check_equal(values, launch, 5e-3)


def test_recorded_launches_are_those_of_the_interpreter():
    """The recordings that engines are compared with hold inputs and results."""
    launch = example_launches()["01_vector_add/0"]
    n, x, y, _ = launch.before
    assert torch.equal(launch.after[3], x + y) and n == len(x)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("name", list(example_launches()))
def test_examples_on_the_emulator(name: str, arch: str):
    check_on_emulator(example_launches()[name], arch)


@pytest.mark.parametrize("activations", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_quantised_matmuls_on_the_emulator(dtype: DataType, activations: torch.dtype):
    for launch in matmul_launches(dtype, activations):
        check_on_emulator(launch, "sm_90a" if activations == torch.float16 else "sm_80")


def test_the_engine_setting_chooses_the_emulator():
    x = torch.arange(8.0)
    y = torch.zeros(8)
    with tilus.option.context(engine="emulator"):
        load_example(EXAMPLES[0]).VectorAdd()(8, x, x, y)
    assert torch.equal(y, 2 * x)


FAULTS = [
    ('asm volatile("cp.async.wait_all;" ::: "memory");', "", "in flight"),
    ("__syncthreads();", "", "read after write"),
    ("swizzle<3, 3, 3>(", "swizzle<3, 3, 4>(", None),
    ("ldmatrix_x4_trans(", "ldmatrix_x4(", None),
    ("* 2048, true);", "* 4096, true);", "out of bounds"),
]


@pytest.mark.parametrize(("text", "fault", "message"), FAULTS)
def test_planted_faults_are_found(text: str, fault: str, message: str | None):
    """A wrong kernel is an error at its line, or gives a wrong result."""
    program = compile_program(parse_program(MATMUL))
    source, _ = generate(program, nvgpu_sm90a)
    assert text in source.text.split("extern")[-1]
    head, body = source.text.rsplit('extern "C"', 1)
    broken = f'{head}extern "C"{body.replace(text, fault, 1)}'
    a, b = torch.randn(32, 64).half(), torch.randn(64, 64).half()
    good = run_text(source.text, source, a, b)
    torch.testing.assert_close(good, a.float() @ b.float(), rtol=1e-3, atol=1e-3)
    if message is None:
        assert not torch.allclose(run_text(broken, source, a, b), good)
        return
    with pytest.raises(TilusError, match=message) as info:
        run_text(broken, source, a, b)
    assert info.value.location is not None


def run_text(text: str, source: CudaSource, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    memory, c = GlobalMemory(), torch.zeros(32, 64)
    tensors = {"a": a, "b": b, "c": c}
    params = [
        ("u64", memory.add(name, t.reshape(-1).view(torch.uint8).numpy()))
        for name, t in tensors.items()
    ]
    memory.load()
    kernel = parse_ptx(compile_ptx(text, source.name, "sm_90a"))
    execute(kernel, params, memory, (1, 1, 1), source.threads, source.shared_bytes)
    memory.store()
    return c


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(example_launches()))
def test_examples_on_the_gpu(name: str):
    check_on_gpu(example_launches()[name])


@pytest.mark.gpu
@pytest.mark.parametrize("activations", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_quantised_matmuls_on_the_gpu(dtype: DataType, activations: torch.dtype):
    for launch in matmul_launches(dtype, activations):
        check_on_gpu(launch)


def check_random(seed: int, run: Callable[[Program, list[Any]], None], device: str) -> None:
    """A random program's outputs on an engine are those of the interpreter."""
    case = random_program(seed)
    program = compile_program(case.program)
    expected = case.run(program)
    values: list[Any] = [torch.from_numpy(data.copy()).to(device) for _, data in case.inputs]
    values += [torch.zeros(len(e), dtype=torch.uint8, device=device) for e in expected]
    run(program, values)
    outputs = [v.cpu().numpy() for v in values[len(case.inputs) :]]
    for have, want, (_, dtype, shape) in zip(outputs, expected, case.outputs, strict=True):
        if not dtype.is_float():
            np.testing.assert_array_equal(have, want)
            continue
        numbers = [
            dtype.decode(dtype.from_bits(unpack(data, dtype.nbits, int(np.prod(shape)))))
            for data in (have, want)
        ]
        np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-2, atol=1e-2)


# 1099 and 1171 store sub-byte elements to the last bytes of tensors; in 2284 and 2317 some lanes
# of a warp do so before it multiplies matrices; 20136 copies words that bytes fill in part, which
# the compiler kept in local memory.
@pytest.mark.parametrize("seed", [*range(100), 1099, 1171, 2284, 2317, 20136])
def test_random_programs_on_the_emulator(seed: int):
    check_random(seed, lambda program, values: emulate(program, values, nvgpu_sm90a), "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(100))
def test_random_programs_on_the_gpu(seed: int):
    check_random(seed, run_program, "cuda")
