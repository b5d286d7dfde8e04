"""The operators that torch knows: `tilus::matmul`, its `out` form, and `tilus::dequantize`.

    torch.ops.tilus.matmul(x, codes, scales, zeros, bias, "uint4b", [n, k], 128, 8.0)

They take the plain tensors of a weight, so that modules keep them as buffers and compiled graphs as
inputs. What kernels pack from them is found by the memory of the codes (`storage.py`), so neither
a copy, a load, nor a move to another device leaves anything stale. The first call with a weight and
a kind of operands checks all of it and keeps what is ready to be launched; later ones check what
may differ from call to call.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from tilus.dtypes import dtype_from_name
from tilus.ops.matmul import multiply, multiply_ready
from tilus.ops.operands import check_operands
from tilus.ops.quantized_tensor import QuantizedTensor
from tilus.ops.storage import find_prepared

Tensor = torch.Tensor

_WEIGHT = "str dtype, int[] shape, int group_size, float zero"
OPERANDS = f"Tensor x, Tensor codes, Tensor scales, Tensor? zeros, Tensor? bias, {_WEIGHT}"
BIAS = 4  # its place among them
_ARGUMENTS = 10  # of matmul

library = torch.library.Library("tilus", "DEF")
library.define(f"matmul({OPERANDS}, ScalarType? out_dtype=None) -> Tensor")
library.define(f"matmul.out({OPERANDS}, *, Tensor(a!) out) -> ()")
library.define(
    f"dequantize(Tensor codes, Tensor scales, Tensor? zeros, {_WEIGHT}, ScalarType out_dtype)"
    " -> Tensor"
)

_dtype = cache(dtype_from_name)


def _weight(
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    dtype: str,
    shape: Sequence[int],
    group_size: int,
    zero: float,
) -> QuantizedTensor:
    """Unchecked: its first use checks that the parts fit (`QuantizedTensor.prepared`)."""
    n, k = shape
    return QuantizedTensor.unchecked(_dtype(dtype), (n, k), group_size, codes, scales, zeros, zero)


def _matmul(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    dtype: str,
    shape: Sequence[int],
    group_size: int,
    zero: float,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    result_dtype = x.dtype if out_dtype is None else out_dtype
    prepared = find_prepared(codes, scales, zeros, dtype, shape, group_size, zero)
    if prepared is not None:
        out = x.new_empty((*x.shape[:-1], shape[0]), dtype=result_dtype)
        if multiply_ready(prepared.calls, shape, x, scales, zeros, bias, out):
            return out
    weight = _weight(codes, scales, zeros, dtype, shape, group_size, zero)
    check_operands(x, weight, bias, result_dtype)
    out = x.new_empty((*x.shape[:-1], shape[0]), dtype=result_dtype)
    multiply(x, weight, bias, out)
    return out


def _matmul_fake(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    dtype: str,
    shape: Sequence[int],
    group_size: int,
    zero: float,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Only the shape, in which M may be a symbol."""
    weight = _weight(codes, scales, zeros, dtype, shape, group_size, zero)
    result_dtype = x.dtype if out_dtype is None else out_dtype
    check_operands(x, weight, bias, result_dtype)
    return x.new_empty((*x.shape[:-1], shape[0]), dtype=result_dtype)


def _matmul_out(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    dtype: str,
    shape: Sequence[int],
    group_size: int,
    zero: float,
    *,
    out: Tensor,
) -> None:
    prepared = find_prepared(codes, scales, zeros, dtype, shape, group_size, zero)
    if prepared is not None and multiply_ready(prepared.calls, shape, x, scales, zeros, bias, out):
        return
    weight = _weight(codes, scales, zeros, dtype, shape, group_size, zero)
    check_operands(x, weight, bias, out.dtype, out)
    multiply(x, weight, bias, out)


def _matmul_out_fake(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    dtype: str,
    shape: Sequence[int],
    group_size: int,
    zero: float,
    *,
    out: Tensor,
) -> None:
    weight = _weight(codes, scales, zeros, dtype, shape, group_size, zero)
    check_operands(x, weight, bias, out.dtype, out)


def _dequantize(*arguments: Any) -> Tensor:
    *parts, out_dtype = arguments
    weight = _weight(*parts)
    weight.check()
    return weight.dequantize(out_dtype)


def _dequantize_fake(*arguments: Any) -> Tensor:
    codes, *_, shape, _group_size, _zero, out_dtype = arguments
    return codes.new_empty(shape, dtype=out_dtype)


# ---- gradients -----------------------------------------------------------------------------------


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, codes, scales, zeros, bias, *description, _out_dtype = inputs
    ctx.save_for_backward(codes, scales, zeros)
    ctx.description = description
    ctx.dtypes = (x.dtype, None if bias is None else bias.dtype)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    """To x, the gradient times the dequantised W; to the bias, its sum over the rows. In float32,
    rounded once.
    """
    x_dtype, bias_dtype = ctx.dtypes
    gradients: list[Any] = [None] * _ARGUMENTS
    with torch.autocast(gradient.device.type, enabled=False):
        if ctx.needs_input_grad[0]:
            dequantize: Any = torch.ops.tilus.dequantize
            weight = dequantize(*ctx.saved_tensors, *ctx.description, torch.float32)
            gradients[0] = (gradient.float() @ weight).to(x_dtype)
        if ctx.needs_input_grad[BIAS]:
            gradients[BIAS] = gradient.float().reshape(-1, gradient.shape[-1]).sum(0).to(bias_dtype)
    return tuple(gradients)


for _device in ("CPU", "CUDA"):
    library.impl("matmul", _matmul, _device)
    library.impl("matmul.out", _matmul_out, _device)
    library.impl("dequantize", _dequantize, _device)
torch.library.register_fake("tilus::matmul", _matmul_fake, lib=library)
torch.library.register_fake("tilus::matmul.out", _matmul_out_fake, lib=library)
torch.library.register_fake("tilus::dequantize", _dequantize_fake, lib=library)
torch.library.register_autograd("tilus::matmul", _backward, setup_context=_remember, lib=library)
