"""One meaning on every engine: what the interpreter computes, the compiled kernels compute too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tilus
from tests.codegen.test_kernels import MATMUL
from tests.engines import Run, check_engine, compare, emulator, rounds_freely
from tests.kernels import EXAMPLES, Launch, example_launches, load_example, matmul_launches
from tests.strategies import random_program
from tilus import TilusError
from tilus.codegen.kernel import generate
from tilus.codegen.source import CudaSource
from tilus.dtypes import LOW_PRECISION, DataType, float16, float32, int32, uint4b
from tilus.ir.parser import parse_program
from tilus.passes import compile_program
from tilus.ptx.launch import execute
from tilus.ptx.memory import GlobalMemory
from tilus.ptx.parse import parse_ptx
from tilus.runtime.launch import run_program
from tilus.runtime.nvrtc import compile_ptx
from tilus.target import nvgpu_sm90a
from tilus.tensor import Tensor, full, view_torch

# ---- the comparison itself ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "want", "have", "free", "same"),
    [
        (int32, 7, 8, True, False),
        (float32, 1.0, 1.0 + 2**-23, False, False),
        (float32, 1.0, 1.0 + 2**-23, True, True),
        (float32, 1.0, 1.0 + 2**-17, True, False),
        (float16, 1.0, 1.0 + 2**-10, True, True),
        (float16, 1.0, 1.0 + 2**-9, True, False),
        (float16, float("nan"), float("nan"), False, True),
        (float16, float("nan"), 1.0, True, False),
        (float16, 0.0, -0.0, False, False),
        (float16, float("inf"), 65504.0, True, False),
        (float16, 65504.0, float("inf"), True, False),
    ],
)
def test_results_are_the_same_within_a_rounding(
    dtype: DataType, want: float, have: float, free: bool, same: bool
):
    right, wrong = full([3], want, dtype, "cpu"), full([3], want, dtype, "cpu")
    wrong.storage[1] = have
    if same:
        compare("x", wrong, right, free)
        return
    with pytest.raises(AssertionError, match="1 of 3 elements differ; element 1 is"):
        compare("x", wrong, right, free)


def test_bits_behind_the_last_element_stay():
    have, want = (
        view_torch(torch.tensor([0x21, last], dtype=torch.uint8), dtype=uint4b, shape=[3])
        for last in (0x13, 0x03)
    )
    with pytest.raises(AssertionError, match="bits behind the last element"):
        compare("x", have, want, True)


def test_programs_that_copy_must_agree_to_the_bit():
    launches = example_launches()
    assert not rounds_freely(launches["01_vector_add/0"].program)
    assert rounds_freely(launches["04_naive_matmul/0"].program)


# ---- examples, matmuls and faults ---------------------------------------------------------------


def test_recorded_launches_are_those_of_the_interpreter():
    """The recordings that engines are compared with hold inputs and results."""
    launch = example_launches()["01_vector_add/0"]
    n, x, y, _ = launch.before
    assert torch.equal(launch.after[3], x + y) and n == len(x)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("name", list(example_launches()))
def test_examples_on_the_emulator(name: str, arch: str):
    check_engine(example_launches()[name], emulator(arch))


@pytest.mark.parametrize("activations", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_quantised_matmuls_on_the_emulator(dtype: DataType, activations: torch.dtype):
    for launch in matmul_launches(dtype, activations):
        check_engine(launch, emulator("sm_90a" if activations == torch.float16 else "sm_80"))


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
    ("copy_async_16<2048>(", "copy_async_16<4096>(", "out of bounds"),
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
    check_engine(example_launches()[name], run_program, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("activations", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_quantised_matmuls_on_the_gpu(dtype: DataType, activations: torch.dtype):
    for launch in matmul_launches(dtype, activations):
        check_engine(launch, run_program, "cuda")


def check_random(seed: int, run: Run, device: str = "cpu") -> None:
    """A random program's outputs on an engine are those of the interpreter."""
    case = random_program(seed)
    program = compile_program(case.program)
    inputs: list[Any] = [torch.from_numpy(data.copy()) for _, data in case.inputs]
    expected = [
        view_torch(torch.from_numpy(data), dtype=dtype, shape=shape)
        for data, (_, dtype, shape) in zip(case.run(program), case.outputs, strict=True)
    ]
    zeros = [Tensor(e.dtype, e.shape, torch.zeros_like(e.storage)) for e in expected]
    check_engine(Launch(program, inputs + zeros, inputs + expected), run, device)


# 1099 and 1171 store sub-byte elements to the last bytes of tensors; in 2284 and 2317 some lanes
# of a warp do so before it multiplies matrices; 20136 copies words that bytes fill in part, which
# the compiler kept in local memory; 40273 asks for the smaller of two zeros;
# 41097 packs a register of which one half is undefined.
@pytest.mark.parametrize("seed", [*range(100), 1099, 1171, 2284, 2317, 20136, 40273, 41097])
def test_random_programs_on_the_emulator(seed: int):
    check_random(seed, emulator())


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(100))
def test_random_programs_on_the_gpu(seed: int):
    check_random(seed, run_program, "cuda")
