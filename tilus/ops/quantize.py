"""Quantised weights: a matrix as codes of 1 to 8 bits with a scale (and maybe a zero point) per
group.

    w[n, k]  ~  (value(code[n, k]) - zero[k // group, n]) * scale[k // group, n]

Groups run along k, the input dimension, as in every checkpoint format. The matrix is [N, K] =
[out, in] like torch's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.tensor import Tensor, from_carrier

WIDEST_VALUE = 448.0  # codes are scaled to at most this, so that scales stay normal float16 numbers


@dataclass(eq=False)
class QuantizedTensor:
    """A quantised matrix [N, K].

    Attributes:
        dtype: the type of the codes, 1 to 8 bits.
        shape: (N, K).
        group_size: elements along K that share a scale; it divides K.
        codes: [N, K] tensor of `dtype`, packed.
        scales: [K / group_size, N], float16, bfloat16 or float32.
        zeros: [K / group_size, N] of the scales' dtype, or None where 0 stands for 0.
    """

    dtype: DataType
    shape: tuple[int, int]
    group_size: int
    codes: Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None = None
    prepared: dict[Any, torch.Tensor] = field(default_factory=dict[Any, torch.Tensor], repr=False)

    def __post_init__(self) -> None:
        n, k = self.shape
        _check_groups(k, self.group_size)
        expected = (k // self.group_size, n)
        for name, tensor in (("scales", self.scales), ("zeros", self.zeros)):
            if tensor is not None and tuple(tensor.shape) != expected:
                raise TilusError(
                    f"the {name} have another shape than the groups",
                    found=str(list(tensor.shape)),
                    expected=f"{list(expected)} = [K / group_size, N]",
                )
        if self.codes.dtype != self.dtype or tuple(self.codes.shape) != (n, k):
            raise TilusError(
                "the codes do not fit the quantised tensor",
                found=f"{self.codes.dtype}{list(self.codes.shape)}",
                expected=f"{self.dtype}{[n, k]}",
            )

    @property
    def device(self) -> torch.device:
        return self.scales.device

    @property
    def bits_per_weight(self) -> float:
        """Storage of codes, scales and zero points, per weight."""
        n, k = self.shape
        extra = self.scales.numel() * self.scales.element_size()
        if self.zeros is not None:
            extra += self.zeros.numel() * self.zeros.element_size()
        return self.dtype.nbits + 8 * extra / (n * k)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The matrix [N, K] that the codes stand for, computed in float64 and rounded once to
        `dtype`.
        """
        values = torch.from_numpy(self.dtype.decode(self.codes.numpy_carrier()).astype("float64"))
        scales = self.scales.cpu().double().repeat_interleave(self.group_size, 0).T
        if self.zeros is not None:
            values = values - self.zeros.cpu().double().repeat_interleave(self.group_size, 0).T
        return (values * scales).to(dtype).to(self.device)


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
        dtype: integer or float of 1 to 8 bits.
        group_size: along K; -1 means one group per row. It must divide K.
        symmetric: no zero point per group. Integers only: with False each group gets one, so that
            its range is that of its weights.
        method: "rtn" rounds to nearest with the scale that fits the extremes; "mse" also tries
            smaller scales and keeps the one with the least squared error.
        scale_dtype: float16, bfloat16 or float32.

    Raises:
        TilusError: weight is no matrix, not finite or empty; K is not a multiple of the group;
            dtype is not a 1..8-bit type.

    >>> import tilus
    >>> w = torch.linspace(-1, 1, 64).reshape(2, 32)
    >>> q = quantize(w, tilus.uint4b, group_size=32, symmetric=False)
    >>> bool((q.dequantize() - w).abs().max() < 0.04)
    True
    """
    _check_weight(weight, dtype, method)
    n, k = weight.shape
    group = k if group_size == -1 else group_size
    _check_groups(k, group)
    grouped = weight.detach().double().cpu().reshape(n, k // group, group)
    scale, zero = _fit(grouped, dtype, symmetric, scale_dtype)
    if method == "mse":
        scale, zero = _search(grouped, dtype, scale, zero, scale_dtype)
    codes = from_carrier(_round(grouped, scale, zero, dtype).reshape(n, k), dtype)
    device = weight.device
    return QuantizedTensor(
        dtype,
        (n, k),
        group,
        Tensor(dtype, (n, k), codes.storage.to(device)),
        scale.squeeze(-1).T.contiguous().to(scale_dtype).to(device),
        None if zero is None else zero.squeeze(-1).T.contiguous().to(scale_dtype).to(device),
    )


def _fit(
    grouped: torch.Tensor, dtype: DataType, symmetric: bool, scale_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scale and zero point, [N, groups, 1] float64 (as the scale dtype rounds them), that fit
    the extremes.
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
        scale = _rounded(extreme / (int(dtype.min_value) - middle), scale_dtype)
        return scale, torch.full_like(scale, middle) if middle else None
    extreme = grouped.abs().amax(-1, keepdim=True)
    return _rounded(extreme / _largest(dtype), scale_dtype), None


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
    grouped: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, dtype: DataType
) -> Any:
    """Codes of the nearest values, as a carrier array [N, groups, group]."""
    target = grouped / scale
    if zero is not None:
        target = target + zero
    if dtype.is_integer():
        target = target.round()
    return dtype.encode(target.numpy())


def _search(
    grouped: torch.Tensor,
    dtype: DataType,
    scale: torch.Tensor,
    zero: torch.Tensor | None,
    scale_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The scale among 0.5..1 of the fitting one with the least squared error in its group."""
    best, best_error = scale, _squared_error(grouped, dtype, scale, zero)
    for step in range(1, 51):
        trial = _rounded(scale * (1 - step / 100), scale_dtype)
        error = _squared_error(grouped, dtype, trial, zero)
        best = torch.where(error < best_error, trial, best)
        best_error = torch.minimum(error, best_error)
    return best, zero


def _squared_error(
    grouped: torch.Tensor, dtype: DataType, scale: torch.Tensor, zero: torch.Tensor | None
) -> torch.Tensor:
    values = torch.from_numpy(dtype.decode(_round(grouped, scale, zero, dtype)).astype("float64"))
    if zero is not None:
        values = values - zero
    return ((values * scale - grouped) ** 2).sum(-1, keepdim=True)


def _check_groups(k: int, group_size: int) -> None:
    if group_size <= 0 or k % group_size:
        divisors = [g for g in (256, 128, 64, 32, 16) if k % g == 0]
        raise TilusError(
            "K is not a multiple of the group size",
            found=f"K = {k}, group_size = {group_size}",
            expected="a group size that divides K, or -1 for one group per row",
            hint=f"{k} is divisible by {', '.join(map(str, divisors))}" if divisors else "use -1",
        )


def _check_weight(weight: torch.Tensor, dtype: DataType, method: str) -> None:
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
    if not bool(torch.isfinite(weight).all()):
        raise TilusError(
            "the weight has infinities or NaNs",
            hint="check the checkpoint: they cannot be quantised",
        )
    if not isinstance(dtype, DataType) or dtype.nbits > 8 or dtype.kind in ("bool", "pointer"):
        raise TilusError(
            "weights are quantised to a type of 1 to 8 bits",
            found=str(dtype),
            expected="for example tilus.uint4b",
        )
    if dtype.specials == "scale":
        raise TilusError(f"{dtype} has no sign and no zero", hint="it is a type for scales")
    if method not in ("rtn", "mse"):
        raise TilusError("the method is not known", found=repr(method), expected='"rtn" or "mse"')
