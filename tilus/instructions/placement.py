"""Which layout makes a memory access wide: used by the instructions that load and store."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilus.dtypes import DataType
from tilus.ir.expr import Expr, as_int
from tilus.ir.instruction import Known
from tilus.ir.layout import RegisterLayout, auto_local_spatial, local
from tilus.ir.tensor import GlobalTensor

WIDEST_ACCESS_BITS = (
    128  # CUDA C++ Programming Guide, "Device Memory Accesses": 1, 2, 4, 8 or 16 bytes
)


def vectorized_layout(
    num_threads: int, shape: Sequence[int], dtype: DataType, contiguous: int
) -> RegisterLayout:
    """A layout in which each thread holds runs of up to 128 bits along the last dimension.

    `contiguous` is how many elements, from any multiple of itself, are known to be adjacent and
    aligned.
    """
    if not shape:
        return auto_local_spatial(num_threads, ())
    width = vector_width(shape, dtype, contiguous, num_threads)
    outer = auto_local_spatial(num_threads, (*shape[:-1], shape[-1] // width))
    return outer * local(*(1,) * (len(shape) - 1), width)


def vector_width(shape: Sequence[int], dtype: DataType, contiguous: int, num_threads: int) -> int:
    """Elements per access: at most 128 bits, whole bytes, and no wider than leaves every thread
    something to do.
    """
    per_thread = max(1, math.prod(shape) // num_threads)
    width = math.gcd(shape[-1], contiguous, max(1, WIDEST_ACCESS_BITS // dtype.nbits))
    width = math.gcd(width, 1 << (per_thread.bit_length() - 1))
    return max(width, 1)


def contiguous_elements(
    known: Known, tensor: GlobalTensor, offsets: Sequence[Expr], last_dim: int
) -> int:
    """How many elements along `last_dim` are adjacent and start at a multiple of themselves, as far
    as known.
    """
    stride = as_int(tensor.layout.strides[last_dim])
    if stride != 1 or known.facts is None:
        return 1
    result = known.divisibility(offsets[last_dim])
    for dim, other in enumerate(tensor.layout.strides):
        if dim != last_dim and as_int(offsets[dim]) != 0:
            result = math.gcd(result, known.divisibility(other))
    return math.gcd(result, known.divisibility(tensor.shape[last_dim]), known.alignment(tensor))
