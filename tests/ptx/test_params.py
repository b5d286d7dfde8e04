"""Scalar parameters as a program gives them to the emulator: the bytes that a launch would pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.instructions.harness import Kernel
from tilus import dtypes
from tilus.codegen.source import CudaSource
from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.ir.expr import Var, as_expr
from tilus.ir.program import Param, Program
from tilus.passes import compile_program
from tilus.runtime.emulate import emulate, run_source
from tilus.target import nvgpu_sm90a

GRID = (as_expr(1), as_expr(1), as_expr(1))


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (dtypes.int8, -2, "fe"),
        (dtypes.uint16, 65535, "ffff"),
        (dtypes.int32, -2, "feffffff"),
        (dtypes.uint64, 2**64 - 1, "ffffffffffffffff"),
        (dtypes.float16, 1.5, "003e"),
        (dtypes.bfloat16, 1.5, "c03f"),
        (dtypes.bfloat16, -0.1, "cdbd"),
        (dtypes.float32, 1.5, "0000c03f"),
        (dtypes.tfloat32, 1.5, "0000c03f"),
        (dtypes.float64, 1.5, "000000000000f83f"),
        (dtypes.boolean, True, "01"),
        (dtypes.float8_e4m3, 1.0, "38"),
        (dtypes.int4b, -1, "0f"),
        (dtypes.void_p, 2**63, "0000000000000080"),
    ],
)
def test_the_bytes_of_a_scalar(dtype: DataType, value: float, expected: str):
    wanted = bytes.fromhex(expected)
    bits = {1: "char", 2: "short", 4: "int", 8: "long long"}[len(wanted)]
    text = f'extern "C" __global__ void k({bits} s, {bits}* y) {{ *y = s; }}'
    params = (Param(Var(dtype, "s")), Param(Var(~dtypes.uint8, "y")))
    y = torch.zeros(8, dtype=torch.uint8)
    run_source(CudaSource("k", text, 1), Program("k", params, GRID, 1, ()), [value, y], nvgpu_sm90a)
    assert y.numpy().tobytes() == wanted.ljust(8, b"\0")


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=str)
def test_half_precision_scalars_are_refused(dtype: DataType):
    """The code generator does so before anything runs, with a hint."""
    kernel, scalar = Kernel(1, 1), Var(dtype, "s")
    result = kernel.array(np.zeros(4), dtype)
    tile = kernel("register_tensor", dtype=dtype, shape=[4], init=scalar)
    kernel("store_global", result, tile, offsets=[0])
    params = (*map(Param, kernel.args), Param(scalar))
    program = compile_program(Program("test", params, GRID, 1, tuple(kernel.body)))
    with pytest.raises(TilusError, match="the parameter s cannot be passed") as info:
        emulate(program, [*kernel.values(), 1.5])
    assert info.value.hint is not None and "float32" in info.value.hint
