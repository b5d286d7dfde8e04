"""One meaning on every engine: run a launch on an engine, and compare what it leaves.

    check_engine(launch, emulator("sm_80"))         # the PTX of the generated code
    check_engine(launch, run_program, "cuda")       # the compiled kernel

The interpreter's results, recorded in the launch, are what the others are compared with. What is
allowed to differ, and by how much, is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from tests.kernels import Launch, copied
from tilus.dtypes import DataType, unpack
from tilus.instructions.elementwise import Elementwise
from tilus.instructions.unpack import Unpack
from tilus.ir.program import Program
from tilus.ir.visit import instructions
from tilus.runtime.emulate import emulate
from tilus.target import target_from_name
from tilus.tensor import Tensor, from_torch, storage_of

Array = np.ndarray[Any, Any]
Run = Callable[[Program, list[Any]], None]

# Instructions whose floats depend on the order of additions, and operators that are not rounded
# correctly (CUDA C++ Programming Guide, "Mathematical Functions", states their errors).
ORDERED = {"dot", "sum", "cumsum", "cumprod", "scan", "atomic.global_add", "atomic.global_sub"}
APPROXIMATE = {
    "exp", "exp2", "log", "log2", "rsqrt", "reciprocal", "sin", "cos", "tanh", "sigmoid", "erf",
    "randn",
}  # fmt: skip
# Which of two zeros is the smaller is left open by the language: where a program asks for the
# smaller or larger of two numbers, the sign of a zero may differ.
SIGNLESS = {"min", "max", "minimum", "maximum"}
# A program is free to differ by this many roundings of its accumulator, float32 or float64, each
# of a partial result no larger than the largest of the tensor; and by one rounding of the result.
ROUNDINGS = 64


def emulator(arch: str = "sm_90a") -> Run:
    """The engine that executes the PTX of the code generated for `arch`."""
    target = target_from_name(arch)
    return lambda program, values: emulate(program, values, target)


def check_engine(launch: Launch, run: Run, device: str = "cpu") -> None:
    """Run a recorded launch; every tensor ends as the interpreter left it, or it is an error."""
    values = [copied(v, device) for v in launch.before]
    run(launch.program, values)
    free = rounds_freely(launch.program)
    offset, signless = largest_offset(launch.program), zeros_freely(launch.program)
    for param, value, expected in zip(launch.program.params, values, launch.after, strict=True):
        if storage_of(expected) is not None:
            compare(param.var.name, _tensor(value), _tensor(expected), free, offset, signless)


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else from_torch(value)


def rounds_freely(program: Program) -> bool:
    """Whether its floats may differ in rounding: else every engine gives the same bits."""
    used = set(_names(program))
    # NVRTC makes a fused multiply-add, rounded once, of a product and a sum ("--fmad=true").
    fused = bool(used & {"mul", "square"}) and bool(used & {"add", "sub"})
    return fused or bool(used & (ORDERED | APPROXIMATE))


def _names(program: Program) -> Iterator[str]:
    for instruction in instructions(program):
        yield instruction.op if isinstance(instruction, Elementwise) else instruction.name


def zeros_freely(program: Program) -> bool:
    """Whether a zero may have either sign."""
    return bool(set(_names(program)) & SIGNLESS)


def largest_offset(program: Program) -> float:
    """By how much partial results may exceed the results: weights are multiplied with the bases of
    their unpack plan, which cancel later.
    """
    plans = [i.plan for i in instructions(program) if isinstance(i, Unpack)]
    return max([1.0, *(abs(base) for plan in plans for base in plan.base)])


def compare(
    name: str,
    have: Tensor,
    want: Tensor,
    free: bool,
    offset: float = 1.0,
    signless: bool = False,
) -> None:
    """The bytes are the same; floats may be other NaNs and, where `free`, rounded otherwise."""
    left, right = _bytes(have), _bytes(want)
    if np.array_equal(left, right):
        return
    dtype = want.dtype
    codes = [unpack(data, dtype.nbits, want.numel) for data in (left, right)]
    wrong = codes[0] != codes[1]
    if not wrong.any():
        raise AssertionError(f"{name}: bits behind the last element of {want} have changed")
    x, y = (np.asarray(dtype.decode(dtype.from_bits(c))) for c in codes)
    if dtype.is_float():
        wrong &= ~_close(x, y, dtype, free, offset)
        wrong &= ~(signless & (x == 0) & (y == 0))
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise AssertionError(
            f"{name}, {want}: {int(wrong.sum())} of {wrong.size} elements differ; "
            f"element {at} is {x[at]} instead of {y[at]}"
        )


def _close(have: Array, want: Array, dtype: DataType, free: bool, offset: float) -> Array:
    with np.errstate(invalid="ignore"):  # a signalling nan is a nan like others
        x, y = have.astype(np.float64), want.astype(np.float64)
    same = np.isnan(x) & np.isnan(y)
    if not free:
        return same
    finite = np.isfinite(y)
    largest = np.abs(y[finite]).max(initial=0)
    accumulator = 2.0**-53 if dtype.nbits == 64 else 2.0**-24
    with np.errstate(invalid="ignore"):
        error = np.abs(x - y)
    # Only a part of the roundings is of a partial result as large as the offset makes it.
    roundings = ROUNDINGS if offset == 1 else offset * ROUNDINGS / 4
    allowed = 2.0**-dtype.mantissa_nbits * np.abs(y) + roundings * accumulator * largest
    return same | (finite & (error <= allowed))


def _bytes(tensor: Tensor) -> Array:
    return tensor.storage.detach().cpu().reshape(-1).view(torch.uint8).numpy()
