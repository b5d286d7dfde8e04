"""Rounding numbers to a data type: what `DataType.encode` does, for each kind of type.

Floats of at most 8 bits are rounded by a table of the upper 17 bits of a float32, made
from the exact boundaries between neighbouring values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilus.dtypes.values import float_value, greatest_code, mask
from tilus.errors import TilusError

if TYPE_CHECKING:
    from tilus.dtypes.data_type import Array, DataType, Kind


def as_numbers(values: ArrayLike) -> Array:
    """`values` as a NumPy array of real numbers; else a `TilusError`."""
    numbers = np.asarray(values)
    if numbers.dtype == ml_dtypes.bfloat16:
        return numbers.astype(np.float32)
    if numbers.dtype.kind not in "biuf" or numbers.dtype.itemsize > 8:
        raise TilusError(
            "only real numbers can be encoded",
            found=f"a NumPy array of {numbers.dtype}",
            expected="bool, integers of up to 64 bits, float16, bfloat16, float32 or float64",
        )
    return numbers


def _encode_integer(dtype: DataType, numbers: Array, saturate: bool) -> Array:
    del saturate  # from floats always, from integers never
    if numbers.dtype.kind == "f":
        numbers = _truncate(dtype, numbers)
    wrapped = numbers.astype(dtype.carrier, copy=False)
    return wrapped & np.uint8(mask(dtype)) if dtype.nbits < 8 else wrapped


def _truncate(dtype: DataType, numbers: Array) -> Array:
    """Floats -> int64 (or uint64) toward zero, within the range of `dtype`; nan -> 0."""
    # float32 counts exactly to 2^24, float64 to 2^53; the range must be exact to clip to it
    single_is_exact = dtype.nbits <= 24 and numbers.itemsize <= 4
    wide = numbers.astype(np.float32 if single_is_exact else np.float64, copy=False)
    low, high = int(dtype.min_value), int(dtype.max_value)
    target = np.uint64 if dtype.kind == "uint" else np.int64
    ceiling = float(high) if dtype.nbits <= 53 else np.nextafter(float(high), 0.0)
    number = wide.dtype.type
    clipped = np.clip(np.where(np.isnan(wide), number(0), wide), number(low), number(ceiling))
    integers = clipped.astype(target)
    return integers if dtype.nbits <= 53 else np.where(wide > ceiling, target(high), integers)


def _encode_pointer(dtype: DataType, numbers: Array, saturate: bool) -> Array:
    del saturate
    if numbers.dtype.kind == "f":
        raise TilusError(
            f"cannot cast a float to {dtype}", hint="addresses are integers: cast to int64 first"
        )
    return numbers.astype(dtype.carrier, copy=False)


def _encode_bool(dtype: DataType, numbers: Array, saturate: bool) -> Array:
    del dtype, saturate
    return numbers != 0


def _encode_codebook(dtype: DataType, numbers: Array, saturate: bool) -> Array:
    del saturate  # a codebook has nothing to overflow to
    return _nearest_code(dtype, _to_double(numbers), True)


def _encode_float(dtype: DataType, numbers: Array, saturate: bool) -> Array:
    # NumPy rounds once, to nearest even, from every type
    if dtype.name in ("float16", "float32", "float64"):
        return numbers.astype(dtype.carrier, copy=False)
    single = _to_single(numbers)
    if dtype.name == "bfloat16":
        return single.astype(ml_dtypes.bfloat16)
    if dtype.name == "tfloat32":
        return _round_to_tf32(single)
    return np.take(_single_table(dtype, saturate), _single_key(single))


ENCODERS: dict[Kind, Callable[[DataType, Array, bool], Array]] = {
    "int": _encode_integer,
    "uint": _encode_integer,
    "bool": _encode_bool,
    "pointer": _encode_pointer,
    "float": _encode_float,
    "codebook": _encode_codebook,
}


def _to_double(numbers: Array) -> NDArray[np.float64]:
    """Numbers as float64; integers beyond 2^53 are rounded to odd at bit 11, see `_to_single`."""
    if numbers.dtype.kind not in "iu" or numbers.itemsize < 8:
        return numbers.astype(np.float64, copy=False)
    bits = numbers.astype(np.uint64)
    magnitude = np.asarray(np.where(numbers < 0, ~bits + np.uint64(1), bits))
    tail = magnitude & np.uint64(0x7FF)
    odd = (magnitude - tail) | ((tail != 0).astype(np.uint64) << np.uint64(11))
    doubles = np.where(magnitude >> np.uint64(53), odd, magnitude).astype(np.float64)
    return np.where(numbers < 0, -doubles, doubles)


def _to_single(numbers: Array) -> NDArray[np.float32]:
    """Numbers as float32, rounded to odd: where it is inexact, the neighbour whose last bit is 1.

    Rounding that result to nearest even at 22 bits of precision or fewer equals rounding the number
    itself, so a cast from float64 or int64 rounds once in effect (Boldo and Melquiond, "Emulation
    of a FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
    """
    if numbers.itemsize <= 2 or numbers.dtype == np.float32:
        return numbers.astype(np.float32, copy=False)
    doubles = _to_double(numbers)
    single = np.asarray(doubles.astype(np.float32))
    inexact = (single != doubles) & ~np.isnan(doubles)
    bits = single.view(np.uint32)
    toward_zero = bits - (np.abs(single) > np.abs(doubles)).astype(np.uint32)
    return np.asarray(np.where(inexact, toward_zero | np.uint32(1), bits)).view(np.float32)


def drop_tail(single: Array) -> Array:
    """float32 -> the upper 19 bits of it, which are what tensor cores read."""
    return np.asarray(single.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def _round_to_tf32(single: NDArray[np.float32]) -> Array:
    """Round float32 to nearest even at 10 mantissa bits (the upper 19 bits)."""
    bits = single.view(np.uint32)
    rounded = bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))
    kept = np.where(np.isnan(single), bits | np.uint32(1 << 22), rounded)
    return drop_tail(np.asarray(kept))


# sign, exponent and 8 mantissa bits: rounding to nearest needs the 6 of float8_e1m6 and two more
_KEY_NBITS = 17


def _single_key(single: NDArray[np.float32]) -> Array:
    """The upper 17 bits of a float32, the last set where any lower is: all that rounding needs."""
    bits = single.view(np.uint32)
    shift = np.uint32(32 - _KEY_NBITS)
    tail = (bits & np.uint32((1 << (32 - _KEY_NBITS)) - 1)) != 0
    return (bits >> shift) | tail


@cache
def _single_table(dtype: DataType, saturate: bool) -> Array:
    """(2^17,) the code of every `_single_key`; read-only."""
    keys = np.arange(1 << _KEY_NBITS, dtype=np.uint32)
    singles = (keys << np.uint32(32 - _KEY_NBITS)).view(np.float32)
    table = _nearest_code(dtype, singles.astype(np.float64), saturate)
    table.setflags(write=False)
    return table


def _nearest_code(dtype: DataType, numbers: NDArray[np.float64], saturate: bool) -> Array:
    """The code of the nearest value: the definition of rounding that the tables are made from."""
    boundaries, codes = _boundaries(dtype, saturate)
    if dtype.kind == "codebook":
        return codes[np.searchsorted(boundaries, numbers, side="right")]
    nearest = codes[
        np.searchsorted(boundaries, np.abs(numbers), side="right")
    ]  # nan is sorted behind all
    if dtype.specials == "scale":
        no_power = np.isnan(numbers) | (numbers < 0) | ((numbers == 0) & (not saturate))
        return np.where(no_power, np.uint8(0xFF), nearest)
    sign = np.where(np.signbit(numbers), np.uint8(1 << (dtype.nbits - 1)), np.uint8(0))
    # PTX cvt gives this nan (sign clear, the rest set), or the largest number where there is none
    not_a_number = np.uint8(mask(dtype) >> 1)
    return np.where(np.isnan(numbers), not_a_number, nearest | sign).astype(np.uint8)


@cache
def _boundaries(dtype: DataType, saturate: bool) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """The codes in the order of their magnitudes; between each two, the upper's least float64.

    Without saturation the first special code behind the largest number (inf, or nan) takes part,
    as if it went on counting.
    """
    values = _ordered_values(dtype, saturate)
    bounds = [_boundary(dtype, lower, upper) for lower, upper in pairwise(values)]
    return np.array(bounds, np.float64), np.array([code for _, code in values], np.uint8)


def _ordered_values(dtype: DataType, saturate: bool) -> list[tuple[Fraction, int]]:
    if dtype.kind == "codebook":
        first_code = {value: code for code, value in reversed(list(enumerate(dtype.values)))}
        return [(Fraction(value), first_code[value]) for value in sorted(first_code)]
    overflow = dtype.specials != "none" and not saturate
    return [(float_value(dtype, code), code) for code in range(greatest_code(dtype) + 1 + overflow)]


def _boundary(dtype: DataType, lower: tuple[Fraction, int], upper: tuple[Fraction, int]) -> float:
    middle = (lower[0] + upper[0]) / 2
    if dtype.kind == "codebook":
        upper_wins_tie = upper[1] < lower[1]
    else:
        upper_wins_tie = dtype.specials == "scale" or upper[1] % 2 == 0
    bound = float(middle)
    if Fraction(bound) < middle or (Fraction(bound) == middle and not upper_wins_tie):
        return math.nextafter(bound, math.inf)
    return bound
