"""Rounding a weight to codes: `quantize(w, tilus.uint4b, group_size=128)`.

Two ways to choose the scale of a group: "rtn" fits its extremes, "mse" searches below that for the
least squared error. The surprise: scales are rounded to their stored dtype before the codes are
chosen, so that each weight goes to the nearest number that will be read back.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.ir.layout import NF4
from tilus.ops.quantized_tensor import QuantizedTensor
from tilus.ops.weight_checks import FLOATS, check_code_type, check_groups
from tilus.tensor import from_carrier

__all__ = ["NF4", "QuantizedTensor", "quantize"]

WIDEST_VALUE = 448.0  # codes are scaled to at most this, so that scales stay normal float16 numbers


def quantize(
    weight: torch.Tensor,
    dtype: DataType,
    group_size: int = 128,
    symmetric: bool = True,
    method: str = "rtn",
    *,
    scale_dtype: torch.dtype = torch.float16,
) -> QuantizedTensor:
    """Round a matrix to `dtype`, group by group.

    Args:
        weight: [N, K] floating point, on any device.
        dtype: integer, float or codebook of 1 to 8 bits.
        group_size: along K; -1 means one group per row. It must divide K.
        symmetric: no zero point per group; unsigned integers then have 2^(bits - 1) as common
            one. Integers only: with False each group gets one, so that its range is that of its
            weights.
        method: "rtn" rounds to nearest with the scale that fits the extremes; "mse" also tries
            smaller scales and keeps the one with the least squared error.
        scale_dtype: float16, bfloat16 or float32.

    Raises:
        TilusError: weight is no matrix, not finite or empty; K is not a multiple of the group;
            dtype is not a 1..8-bit type, or scale_dtype not one of the three.

    >>> import tilus
    >>> w = torch.linspace(-1, 1, 64).reshape(2, 32)
    >>> q = quantize(w, tilus.uint4b, group_size=32, symmetric=False)
    >>> bool((q.dequantize() - w).abs().max() < 0.04)
    True
    """
    check_weight(weight)
    check_choices(dtype, method, scale_dtype)
    n, k = weight.shape
    group = k if group_size == -1 else group_size
    check_groups(k, group)
    grouped = weight.detach().double().cpu().reshape(n, k // group, group)
    scale, zero = _fit(grouped, dtype, symmetric, scale_dtype)
    _check_scale(scale, scale_dtype)
    if method == "mse":
        scale = _search(grouped, dtype, scale, zero, scale_dtype)
    codes = from_carrier(_round(grouped, scale, zero, dtype).reshape(n, k), dtype)
    scales = _per_group(scale, scale_dtype)
    per_group = isinstance(zero, torch.Tensor)
    zeros = _per_group(zero, scale_dtype) if per_group else None
    common = 0.0 if per_group else zero
    return QuantizedTensor(dtype, (n, k), group, codes, scales, zeros, common).to(weight.device)


def _per_group(numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[N, groups, 1] -> [groups, N]"""
    return numbers.squeeze(-1).T.contiguous().to(dtype)


def _fit(
    grouped: torch.Tensor, dtype: DataType, symmetric: bool, scale_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | float]:
    """Scale, [N, groups, 1] float64 (as the scale dtype rounds it), that fits the extremes; and
    the zero point, of the same shape or common.
    """
    if dtype.is_integer() and not symmetric:
        low, high = int(dtype.min_value), int(dtype.max_value)
        least = grouped.amin(-1, keepdim=True).clamp(max=0)
        most = grouped.amax(-1, keepdim=True).clamp(min=0)
        scale = _rounded((most - least) / (high - low), scale_dtype)
        return scale, (low - least / scale).round().clamp(low, high)
    if dtype.is_integer():
        # The extreme of a group goes to the end of the range that reaches further, whatever its
        # sign.
        middle = 2 ** (dtype.nbits - 1) if dtype.kind == "uint" else 0
        extreme = grouped.gather(-1, grouped.abs().argmax(-1, keepdim=True))
        return _rounded(extreme / (int(dtype.min_value) - middle), scale_dtype), float(middle)
    extreme = grouped.abs().amax(-1, keepdim=True)
    return _rounded(extreme / _largest(dtype), scale_dtype), 0.0


def _largest(dtype: DataType) -> float:
    """The value a group's extreme is scaled to: the largest, or a power of two less where that
    is beyond use.
    """
    largest = float(dtype.max_value)
    if dtype.kind == "codebook":
        return max(abs(v) for v in dtype.values)
    excess = max(0, math.ceil(math.log2(largest / WIDEST_VALUE)))
    return largest / 2**excess


def _rounded(scale: torch.Tensor, scale_dtype: torch.dtype) -> torch.Tensor:
    """The scale as it will be stored; a group of zeros gets 1."""
    stored = scale.to(scale_dtype).double()
    return torch.where(stored == 0, torch.ones_like(stored), stored)


def _round(
    grouped: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | float, dtype: DataType
) -> Any:
    """Codes of the nearest values, as a carrier array [N, groups, group]."""
    target = grouped / scale + zero
    if dtype.is_integer():
        target = target.round()
    return dtype.encode(target.numpy())


def _search(
    grouped: torch.Tensor,
    dtype: DataType,
    scale: torch.Tensor,
    zero: torch.Tensor | float,
    scale_dtype: torch.dtype,
) -> torch.Tensor:
    """The scale among 0.5..1 of the fitting one with the least squared error in its group."""
    best, best_error = scale, _squared_error(grouped, dtype, scale, zero)
    for step in range(1, 51):
        trial = _rounded(scale * (1 - step / 100), scale_dtype)
        error = _squared_error(grouped, dtype, trial, zero)
        best = torch.where(error < best_error, trial, best)
        best_error = torch.minimum(error, best_error)
    return best


def _squared_error(
    grouped: torch.Tensor, dtype: DataType, scale: torch.Tensor, zero: torch.Tensor | float
) -> torch.Tensor:
    values = torch.from_numpy(dtype.decode(_round(grouped, scale, zero, dtype)).astype("float64"))
    return (((values - zero) * scale - grouped) ** 2).sum(-1, keepdim=True)


def check_weight(weight: torch.Tensor) -> None:
    """Raises: TilusError unless it is a matrix of finite numbers."""
    if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
        raise TilusError(
            "quantize needs a floating-point tensor",
            found=f"{weight.dtype} tensor"
            if isinstance(weight, torch.Tensor)
            else type(weight).__name__,
        )
    if weight.ndim != 2 or weight.numel() == 0:
        raise TilusError(
            "quantize needs a matrix",
            found=f"shape {list(weight.shape)}",
            expected="[N, K], not empty",
        )
    if weight.is_meta:
        raise TilusError(
            "quantize needs the numbers of the weight",
            found="a tensor on the meta device",
            hint="load the checkpoint first",
        )
    if not bool(torch.isfinite(weight).all()):
        raise TilusError(
            "the weight has infinities or NaNs",
            hint="check the checkpoint: they cannot be quantised",
        )


def _check_scale(scale: torch.Tensor, scale_dtype: torch.dtype) -> None:
    if not bool(torch.isfinite(scale).all()):
        raise TilusError(
            f"the weight is too large for scales of {scale_dtype}",
            hint="pass scale_dtype=torch.float32, or bfloat16",
        )


def check_choices(dtype: DataType, method: str, scale_dtype: torch.dtype) -> None:
    """Raises: TilusError for arguments of `quantize` that are out of question for any weight."""
    check_code_type(dtype)
    if dtype.kind == "codebook" and not any(dtype.values):
        raise TilusError("all values of the codebook are 0", found=dtype.name)
    if method not in ("rtn", "mse"):
        raise TilusError("the method is not known", found=repr(method), expected='"rtn" or "mse"')
    if scale_dtype not in FLOATS:
        raise TilusError(
            "scales are not kept in this dtype",
            found=str(scale_dtype),
            expected="torch.float16, torch.bfloat16 or torch.float32",
        )
