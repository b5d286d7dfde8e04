"""Running the lean kernels: which format and schedule a weight and a number of tokens take.

    if (form := lean_form(weight, float16)) is not None:
        kernel = lean_kernel(weight, form, bucket(m), epilogue)
        kernel(m, x, packed_blobs(weight, form), bias, out)

Everything that depends on the weight alone happens once and is kept with it. Weights that have no
exact unpack plan are left to the kernel of kernels.py, which casts element by element.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import torch

from tilus.dtypes import DataType, dtype_from_name
from tilus.errors import TilusError
from tilus.ir.layout import plan_unpack
from tilus.ops import large_schedule
from tilus.ops.blobs import PART, TOKENS, BlobFormat, pack_blobs
from tilus.ops.choose import SMS as SMS
from tilus.ops.choose import large_for, small_for
from tilus.ops.choose import split_of as split_of
from tilus.ops.codes import unpack_bits
from tilus.ops.large_m import LargeMatmul, scales_are_steady
from tilus.ops.quantized_tensor import QuantizedTensor
from tilus.ops.small_m import COLUMNS, Epilogue, Schedule, SmallMatmul
from tilus.tensor import dtype_from_torch

FEW = TOKENS * COLUMNS[-1]  # tokens, up to which memory bounds the time
MOST_TOKENS = 4096  # schedules are the same beyond


@dataclass(frozen=True)
class LeanForm:
    """A weight as the lean kernels take it."""

    blobs: BlobFormat
    zero: float  # the zero point that all codes have in common
    repeats: int  # groups of the kernel in a group of the weight


def lean_form(weight: QuantizedTensor, activation: DataType) -> LeanForm | None:
    """The form of `weight`; None where no lean kernel multiplies it exactly."""
    dtype = _stored(weight.dtype)
    group = _group(weight)
    if group is None or not _is_exact(dtype, activation):
        return None
    n, k = weight.shape
    zero = weight.zero + _offset(weight.dtype)
    has_zeros = weight.zeros is not None or not _fits_fragments(dtype, activation, zero)
    blobs = BlobFormat(
        dtype, activation, n, k, group, dtype_from_torch(weight.scales.dtype), has_zeros
    )
    repeats = weight.group_size // group if group < k else 1
    return LeanForm(blobs, 0.0 if has_zeros else zero, repeats)


@cache
def _fits_fragments(dtype: DataType, activation: DataType, zero: float) -> bool:
    """Whether a common zero point is exact in the constant fragments, beside the bases."""
    plan = plan_unpack(dtype, activation)
    sums = np.array([base + plan.scale * zero for base in plan.base])
    return bool((activation.encode(sums).astype(np.float64) == sums).all())


def _stored(dtype: DataType) -> DataType:
    """Signed codes are stored offset-binary, as the unsigned ones of their width."""
    if dtype.kind != "int":
        return dtype
    return dtype_from_name(f"uint{dtype.nbits}b" if dtype.nbits < 8 else "uint8")


def _offset(dtype: DataType) -> float:
    """Stored code minus value."""
    return float(1 << (dtype.nbits - 1)) if dtype.kind == "int" else 0.0


def _group(weight: QuantizedTensor) -> int | None:
    """The group size of the kernel: a larger one whose scales repeat counts as smaller ones."""
    size = weight.group_size
    if size == weight.shape[1] or size % PART == 0:
        return size
    return next((part for part in (32, 16) if size % part == 0), None)


@cache
def _is_exact(dtype: DataType, activation: DataType) -> bool:
    """Whether every finite code is unpacked exactly, once a codebook's numbers are rounded."""
    try:
        plan = plan_unpack(dtype, activation)
    except TilusError:
        return False
    codes = np.arange(1 << dtype.nbits, dtype=np.uint8)
    finite = np.isfinite(dtype.decode(dtype.from_bits(codes)).astype(np.float64))
    return bool(np.isin(codes[finite], plan.exact_codes).all())


def packed_blobs(weight: QuantizedTensor, form: LeanForm) -> torch.Tensor:
    """The blobs of `weight`, made at the first call and kept with it."""
    forms = weight.prepared
    if form.blobs not in forms:
        forms[form.blobs] = _pack(weight, form)
    return forms[form.blobs]


def _pack(weight: QuantizedTensor, form: LeanForm) -> torch.Tensor:
    n, k = weight.shape
    codes = unpack_bits(weight.data, weight.dtype.nbits, n * k).reshape(n, k)
    if weight.dtype.kind == "int":
        codes = codes ^ (1 << (weight.dtype.nbits - 1))
    scales = weight.scales.repeat_interleave(form.repeats, 0)
    zeros = weight.zeros
    if zeros is None and form.blobs.has_zeros:
        zeros = torch.full_like(weight.scales, weight.zero)
    if zeros is not None:
        zeros = (zeros + _offset(weight.dtype)).to(zeros.dtype).repeat_interleave(form.repeats, 0)
    return pack_blobs(codes, scales, zeros, form.blobs)


def _is_steady(weight: QuantizedTensor) -> bool:
    """Whether the kernel for many tokens takes its scales; found at the first call, and kept."""
    forms = weight.prepared
    if "steady" not in forms:
        forms["steady"] = torch.tensor(scales_are_steady(weight.scales))
    return bool(forms["steady"])


@cache
def _large_kernel(
    blobs: BlobFormat, schedule: large_schedule.Schedule, epilogue: Epilogue, zero: float
) -> LargeMatmul:
    return LargeMatmul(blobs, schedule, epilogue, zero)


@cache
def _small_kernel(
    blobs: BlobFormat, schedule: Schedule, epilogue: Epilogue, columns: int, zero: float
) -> SmallMatmul:
    return SmallMatmul(blobs, schedule, epilogue, columns, zero)


def lean_kernel(
    weight: QuantizedTensor, form: LeanForm, tokens: int, epilogue: Epilogue
) -> SmallMatmul | LargeMatmul:
    """The kernel for `tokens` tokens, as `bucket` gives them, on the device of `weight`.

    It computes y [m, n] = x [m, padded_k] W^T + bias for any m.
    """
    choose = _few if tokens <= FEW or not _is_steady(weight) else _many
    return choose(form, tokens, weight.device, epilogue)


@lru_cache(MOST_TOKENS)  # this is in the path of every call
def bucket(m: int) -> int:
    """The most tokens that have the kernel of `m` tokens: the next power of two, within bounds.

    >>> bucket(1), bucket(9), bucket(65), bucket(100_000)
    (8, 16, 128, 4096)
    """
    return min(MOST_TOKENS, max(TOKENS, 1 << (m - 1).bit_length()))


def _few(form: LeanForm, tokens: int, device: torch.device, epilogue: Epilogue) -> SmallMatmul:
    columns, schedule = small_for(form.blobs, tokens, device)
    return _small_kernel(form.blobs, schedule, epilogue, columns, form.zero)


def _many(form: LeanForm, tokens: int, device: torch.device, epilogue: Epilogue) -> LargeMatmul:
    schedule = large_for(form.blobs, tokens, device)
    return _large_kernel(form.blobs, schedule, epilogue, form.zero)
