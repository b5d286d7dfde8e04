"""What a data type holds: its carrier, its range, the number of every code, its constants.

The surprise: the wide floats that NumPy or tensor cores treat in their own way are told by their
names, as they are declared only after `DataType`, which stands on this module.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from tilus.errors import TilusError

if TYPE_CHECKING:
    from tilus.dtypes.data_type import Array, DataType, Number


def mask(dtype: DataType) -> int:
    """All ones in the bits of one element."""
    return (1 << dtype.nbits) - 1


def is_coded(dtype: DataType) -> bool:
    """Whether the carrier holds bit patterns in uint8."""
    return dtype.nbits < 8 or dtype.kind == "codebook" or (dtype.is_float() and dtype.nbits == 8)


@cache
def carrier_dtype(dtype: DataType) -> np.dtype[Any]:
    """The NumPy dtype that holds one element unpacked."""
    if is_coded(dtype):
        return np.dtype(np.uint8)
    if dtype.name == "bfloat16":
        return np.dtype(ml_dtypes.bfloat16)
    if dtype.kind == "bool":
        return np.dtype(np.bool_)
    letter = {"uint": "u", "float": "f"}.get(dtype.kind, "i")  # a pointer is an int64
    return np.dtype(f"{letter}{dtype.nbits // 8}")


@cache
def bits_dtype(dtype: DataType) -> np.dtype[Any]:
    """The unsigned NumPy dtype as wide as the carrier."""
    return np.dtype(f"u{dtype.carrier.itemsize}")


@cache
def number_dtype(dtype: DataType) -> np.dtype[Any]:
    """The NumPy dtype that `DataType.decode` gives."""
    if dtype.name == "float64":
        return np.dtype(np.float64)
    numbers = {"uint": "u8", "float": "f4", "codebook": "f4", "bool": "?"}
    return np.dtype(numbers.get(dtype.kind, "i8"))


@cache
def value_range(dtype: DataType) -> tuple[Number, Number]:
    """The least and the greatest finite value."""
    if dtype.kind == "bool":
        return False, True
    if dtype.kind == "pointer":
        return 0, (1 << 63) - 1  # the carrier is int64; device addresses are far below
    if dtype.kind == "int":
        return -(1 << (dtype.nbits - 1)), (1 << (dtype.nbits - 1)) - 1
    if dtype.kind == "uint":
        return 0, mask(dtype)
    if dtype.kind == "codebook":
        return min(dtype.values), max(dtype.values)
    if dtype.specials == "scale":
        return float(float_value(dtype, 0)), float(float_value(dtype, 0xFE))
    greatest = float(float_value(dtype, greatest_code(dtype)))
    return -greatest, greatest


def float_value(dtype: DataType, code: int) -> Fraction:
    """The number of a sign-less bit pattern of a float, as if no pattern were special."""
    exponent, mantissa = code >> dtype.mantissa_nbits, code & ((1 << dtype.mantissa_nbits) - 1)
    if dtype.specials == "scale":
        return Fraction(2) ** (exponent - dtype.bias)
    fraction = Fraction(mantissa, 1 << dtype.mantissa_nbits)
    if exponent == 0:
        return Fraction(2) ** (1 - dtype.bias) * fraction
    return Fraction(2) ** (exponent - dtype.bias) * (1 + fraction)


def greatest_code(dtype: DataType) -> int:
    """The sign-less bit pattern of the largest finite number of a float."""
    all_ones = (1 << (dtype.exponent_nbits + dtype.mantissa_nbits)) - 1
    if dtype.specials == "ieee":
        return all_ones - (1 << dtype.mantissa_nbits)
    return all_ones if dtype.specials == "none" else all_ones - 1


@cache
def code_values(dtype: DataType) -> Array:
    """(2^nbits,) the number of every code of a type carried as codes; read-only."""
    if dtype.kind == "codebook":
        table = np.array(dtype.values, np.float32)
    elif dtype.is_float():
        table = np.array([_code_value(dtype, code) for code in range(1 << dtype.nbits)], np.float32)
    else:
        table = np.arange(1 << dtype.nbits, dtype=number_dtype(dtype))
        table[table > int(dtype.max_value)] -= 1 << dtype.nbits
    table.setflags(write=False)
    return table


def _code_value(dtype: DataType, code: int) -> float:
    if dtype.specials == "scale":
        return math.nan if code == 0xFF else float(float_value(dtype, code))
    sign_bit = 1 << (dtype.nbits - 1)
    magnitude = code & (sign_bit - 1)
    return math.copysign(_magnitude_value(dtype, magnitude), -1.0 if code & sign_bit else 1.0)


def _magnitude_value(dtype: DataType, magnitude: int) -> float:
    greatest = greatest_code(dtype)
    if magnitude <= greatest:
        return float(float_value(dtype, magnitude))
    return math.inf if dtype.specials == "ieee" and magnitude == greatest + 1 else math.nan


def as_carrier(dtype: DataType, array: ArrayLike) -> Array:
    """`array` as a NumPy array, which must be a carrier of `dtype`; else a `TilusError`."""
    carrier = np.asarray(array)
    if carrier.dtype != dtype.carrier:
        raise TilusError(
            f"this array does not hold {dtype}",
            found=f"a NumPy array of {carrier.dtype}",
            expected=f"its carrier, {dtype.carrier}",
            hint="use dtype.encode to turn numbers into a carrier",
        )
    return carrier


# ---- constants -----------------------------------------------------------------------------------


def as_constant(dtype: DataType, value: Number) -> Number:
    """See `DataType.constant`."""
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) is int and dtype.is_integer() and value in _integers(dtype):
        return value
    if not isinstance(value, (bool, int, float)):
        raise TilusError(f"a constant of {dtype} is a number", found=repr(value))
    if dtype.is_float() or dtype.kind == "codebook":
        return _float_constant(dtype, value)
    if isinstance(value, float) and not value.is_integer():
        raise TilusError(
            f"{value!r} is no value of {dtype}",
            expected="a whole number",
            hint="round it yourself: a constant is never truncated silently",
        )
    number = int(value)
    if not dtype.min_value <= number <= dtype.max_value:
        raise _out_of_range(dtype, value)
    return bool(number) if dtype.kind == "bool" else number


@cache
def _integers(dtype: DataType) -> range:
    return range(int(dtype.min_value), int(dtype.max_value) + 1)


def _float_constant(dtype: DataType, value: Number) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise _out_of_range(dtype, value) from None
    if math.isnan(number) and dtype.specials == "none":
        raise TilusError(f"{dtype} has no nan", found=repr(value))
    rounded = float(dtype.decode(dtype.encode(number, saturate=False)))
    if math.isinf(number):
        fits = rounded == number
    else:  # a wide float may round a slightly greater decimal down to its largest number
        in_range = dtype.min_value <= number <= dtype.max_value
        fits = in_range or (dtype.nbits > 8 and math.isfinite(rounded))
    if not (fits or math.isnan(number)):
        raise _out_of_range(dtype, value)
    return rounded


def _out_of_range(dtype: DataType, value: Number) -> TilusError:
    return TilusError(
        f"constant out of range of {dtype}",
        found=repr(value),
        expected=f"{dtype.min_value} to {dtype.max_value}",
        hint="use a wider type, or cast a value at run time, which saturates or wraps",
    )


def exact_constant(dtype: DataType, value: int) -> Number:
    """`value` as a constant; a `TilusError` where the type has only numbers near it."""
    constant = dtype.constant(value)
    if constant != value:
        raise TilusError(
            f"{dtype} cannot represent {value}", found=f"the nearest value is {constant}"
        )
    return constant
