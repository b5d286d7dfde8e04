"""Data types of any width: what they mean, how they are written, and how NumPy holds them.

    int4b (i4)            signed integer, 4 bits, two's complement: -8..7
    uint3b (u3)           unsigned integer, 3 bits: 0..7
    float6_e3m2 (f6e3m2)  sign, 3 exponent bits, 2 mantissa bits
    float_(3, 1)          the same for any split of 2..8 bits (a sign, at least one exponent bit)
    codebook(4, values)   4-bit codes that stand for 16 given numbers (NF4 and friends)
    ~float16              pointer to float16

An array of a dtype has three forms. The *carrier* is the unpacked NumPy form: native where NumPy
(or `ml_dtypes`) has the type; otherwise, for every sub-byte integer, every float of at most 8 bits
and every codebook, a `uint8` holding the bit pattern ("code") in its low bits. `decode` turns a
carrier into numbers, `encode` rounds numbers to a carrier, and `convert` does both. In memory,
elements are a *packed* little-endian bit stream: see `pack`.

The surprise: floats of 3..7 bits, and 8-bit ones other than float8_e4m3 and float8_e5m2, have
neither infinity nor nan. The all-ones exponent holds ordinary numbers. They saturate, and a nan
becomes the largest number, as PTX `cvt.satfinite` does for the OCP types (PTX ISA, "cvt").
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilus.errors import TilusError

Array = NDArray[Any]
Number = int | float | bool
Kind = Literal["int", "uint", "float", "bool", "pointer", "codebook"]
# Which bit patterns of a float are no number: none; only S.11..1 is nan (OCP e4m3); the all-ones
# exponent is inf and nan (IEEE 754); 0xFF of the sign-less power-of-two scale is nan (OCP e8m0).
Specials = Literal["none", "nan", "ieee", "scale"]

_POINTER_NBITS = 64


@dataclass(frozen=True, repr=False)
class DataType:
    """A type of element; equal and hashable by value, and printed as its name.

    `exponent_nbits` and `mantissa_nbits` are 0 where the type is no float; `values` are the numbers
    of a codebook by code; `pointee` is the type a pointer points to (None for `void_p`).

    >>> int4b.min_value, int4b.nbits, float6_e3m2.max_value, ~float16
    (-8, 4, 28.0, ~float16)
    """

    name: str
    short_name: str
    kind: Kind
    nbits: int
    exponent_nbits: int = 0
    mantissa_nbits: int = 0
    specials: Specials = "none"
    pointee: DataType | None = None
    values: tuple[float, ...] = ()

    def __eq__(self, other: object) -> bool:
        if self is other:  # nearly always, where they are equal
            return True
        if not isinstance(other, DataType) or self.name != other.name:
            return False
        return vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(self.name)  # the name tells everything, and a str remembers its hash

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name

    def __call__(self, value: Any) -> Any:
        """A constant of this dtype, made by the factory of `set_constant_factory`."""
        return _constant_factory(self, value)

    def __invert__(self) -> DataType:
        """The type of a pointer to this one."""
        return DataType(
            f"~{self.name}", f"~{self.short_name}", "pointer", _POINTER_NBITS, pointee=self
        )

    # What it is

    def is_integer(self) -> bool:
        """Whether it is a signed or unsigned integer (boolean and pointers are not)."""
        return self.kind in ("int", "uint")

    def is_float(self) -> bool:
        """Whether it is a float, the MX scale `ufloat8_e8m0` included (codebooks are not)."""
        return self.kind == "float"

    def is_pointer(self) -> bool:
        """Whether it is an address."""
        return self.kind == "pointer"

    def is_subbyte(self) -> bool:
        """Whether an element is narrower than a byte."""
        return self.nbits < 8

    def is_any_float16(self) -> bool:
        """Whether it is float16 or bfloat16."""
        return self.kind == "float" and self.nbits == 16

    @property
    def nbytes(self) -> int:
        """Bytes of one element; a `TilusError` for a sub-byte type, which has no address."""
        if self.is_subbyte():
            raise TilusError(
                f"{self} has no size in bytes",
                found=f"{self.nbits} bits an element",
                expected="a type of 8 bits or more",
                hint="use .nbits, or storage_nbytes(dtype, count) for the bytes of a packed tensor",
            )
        return self.nbits // 8

    @property
    def bias(self) -> int:
        """The exponent bias of a float, 2^(exponent_nbits - 1) - 1; 0 where it is no float."""
        return (1 << (self.exponent_nbits - 1)) - 1 if self.is_float() else 0

    @property
    def min_value(self) -> Number:
        """The least finite value, as a Python number."""
        return _range(self)[0]

    @property
    def max_value(self) -> Number:
        """The greatest finite value, as a Python number."""
        return _range(self)[1]

    @property
    def zero(self) -> Number:
        """0 as a constant of this type; a `TilusError` where there is none (`ufloat8_e8m0`)."""
        return _exact_constant(self, 0)

    @property
    def one(self) -> Number:
        """1 as a constant of this type; a `TilusError` where there is none (`int1b`)."""
        return _exact_constant(self, 1)

    def constant(self, value: Number) -> Number:
        """`value` as this type holds it: an int, a bool, or a float rounded to the type.

        Raises `TilusError` where the value is out of range, no number, or has a fraction that an
        integer would lose.

        >>> int4b.constant(-8), float6_e3m2.constant(1.1), boolean.constant(1)
        (-8, 1.0, True)
        """
        return _constant(self, value)

    # Its arrays

    @property
    def carrier(self) -> np.dtype[Any]:
        """The NumPy dtype that holds one element unpacked."""
        return _carrier(self)

    def to_bits(self, array: ArrayLike) -> Array:
        """Carrier -> bit patterns in uint8, uint16, uint32 or uint64, any shape; a view of `array`.

        >>> float16.to_bits(np.array([1.0], np.float16))
        array([15360], dtype=uint16)
        """
        return _as_carrier(self, array).view(_bits_dtype(self))

    def from_bits(self, bits: ArrayLike) -> Array:
        """Bit patterns in unsigned integers -> carrier, any shape; bits above `nbits` are dropped.

        A byte of `boolean` that is neither 0 nor 1 counts as true.
        """
        unsigned = np.asarray(bits).astype(_bits_dtype(self), copy=False)
        if self.kind == "bool":
            return np.asarray(unsigned != 0)
        if self.nbits < 8:
            return np.asarray(unsigned & np.uint8(_mask(self)))
        return unsigned.view(self.carrier)

    def decode(self, array: ArrayLike) -> Array:
        """Carrier -> the numbers it stands for, exactly, in the same shape.

        float64 gives float64, other floats and codebooks float32, signed integers and pointers
        int64, unsigned integers uint64, boolean bool.

        >>> float4_e2m1.decode(np.array([1, 7, 15], np.uint8))
        array([ 0.5,  6. , -6. ], dtype=float32)
        """
        carrier = _as_carrier(self, array)
        if _is_coded(self):
            return np.asarray(np.take(_code_values(self), carrier))
        if self == tfloat32:
            return _drop_tail(carrier)  # memory may hold more; tensor cores read 19 bits of it
        with np.errstate(invalid="ignore"):  # a signalling nan is a nan like others
            return carrier.astype(_number_dtype(self), copy=False)

    def encode(self, values: ArrayLike, *, saturate: bool = True) -> Array:
        """Numbers (float, integer or bool, any shape) -> carrier: the casts of the language.

        * To a float: round once, to nearest even, subnormals included. Floats of at most 8 bits
          saturate at their largest number, infinity too; nan stays nan where there is one, else it
          becomes the largest number. Wider ones overflow to infinity. `saturate=False` lets
          float8_e5m2 overflow to infinity and float8_e4m3 to nan.
        * To `ufloat8_e8m0`: the nearest power of two, the greater one of two equally near (as
          `ml_dtypes`); zero becomes the least one (nan if not `saturate`), negative numbers become
          nan.
        * To a codebook: the nearest value, the lower code of two equally near; nan becomes the
          greatest value.
        * Float to integer: truncate toward zero, saturate; nan becomes 0.
        * Integer to integer or pointer: keep the low bits (two's complement wraps around).
        * To boolean: whether it differs from 0.

        The result may be `values` itself where they are in the carrier already. Raises `TilusError`
        where values are no real numbers, or a float is cast to a pointer.

        >>> float4_e2m1.decode(float4_e2m1.encode([0.3, 2.5, 100.0]))
        array([0.5, 2. , 6. ], dtype=float32)
        """
        numbers = _as_numbers(values)
        with np.errstate(over="ignore", invalid="ignore"):  # overflow and nan have their rules
            return np.asarray(_ENCODERS[self.kind](self, numbers, saturate))


# Declaring


_constant_factory: Callable[[DataType, Any], Any] = DataType.constant
_declared: list[DataType] = []


def set_constant_factory(factory: Callable[[DataType, Any], Any]) -> None:
    """Make `dtype(value)` return `factory(dtype, value)`; the IR installs its constants here."""
    global _constant_factory
    _constant_factory = factory


def _declare(dtype: DataType) -> DataType:
    _declared.append(dtype)
    return dtype


def _int(nbits: int) -> DataType:
    return _declare(DataType(f"int{nbits}" + "b" * (nbits < 8), f"i{nbits}", "int", nbits))


def _uint(nbits: int) -> DataType:
    return _declare(DataType(f"uint{nbits}" + "b" * (nbits < 8), f"u{nbits}", "uint", nbits))


def _ieee(name: str, short_name: str, nbits: int, exponent: int, mantissa: int) -> DataType:
    return _declare(DataType(name, short_name, "float", nbits, exponent, mantissa, "ieee"))


def _minifloat(exponent: int, mantissa: int, specials: Specials = "none") -> DataType:
    nbits, format_name = 1 + exponent + mantissa, f"e{exponent}m{mantissa}"
    return DataType(
        f"float{nbits}_{format_name}",
        f"f{nbits}{format_name}",
        "float",
        nbits,
        exponent,
        mantissa,
        specials,
    )


int1b = i1 = _int(1)
int2b = i2 = _int(2)
int3b = i3 = _int(3)
int4b = i4 = _int(4)
int5b = i5 = _int(5)
int6b = i6 = _int(6)
int7b = i7 = _int(7)
int8 = i8 = _int(8)
int16 = i16 = _int(16)
int32 = i32 = _int(32)
int64 = i64 = _int(64)

uint1b = u1 = _uint(1)
uint2b = u2 = _uint(2)
uint3b = u3 = _uint(3)
uint4b = u4 = _uint(4)
uint5b = u5 = _uint(5)
uint6b = u6 = _uint(6)
uint7b = u7 = _uint(7)
uint8 = u8 = _uint(8)
uint16 = u16 = _uint(16)
uint32 = u32 = _uint(32)
uint64 = u64 = _uint(64)

float3_e1m1 = f3e1m1 = _declare(_minifloat(1, 1))
float3_e2m0 = f3e2m0 = _declare(_minifloat(2, 0))
float4_e1m2 = f4e1m2 = _declare(_minifloat(1, 2))
float4_e2m1 = f4e2m1 = _declare(_minifloat(2, 1))
float5_e1m3 = f5e1m3 = _declare(_minifloat(1, 3))
float5_e2m2 = f5e2m2 = _declare(_minifloat(2, 2))
float5_e3m1 = f5e3m1 = _declare(_minifloat(3, 1))
float6_e2m3 = f6e2m3 = _declare(_minifloat(2, 3))
float6_e3m2 = f6e3m2 = _declare(_minifloat(3, 2))
float6_e4m1 = f6e4m1 = _declare(_minifloat(4, 1))
float7_e2m4 = f7e2m4 = _declare(_minifloat(2, 4))
float7_e3m3 = f7e3m3 = _declare(_minifloat(3, 3))
float7_e4m2 = f7e4m2 = _declare(_minifloat(4, 2))
float7_e5m1 = f7e5m1 = _declare(_minifloat(5, 1))
float8_e4m3 = f8e4m3 = _declare(_minifloat(4, 3, "nan"))
float8_e5m2 = f8e5m2 = _declare(_minifloat(5, 2, "ieee"))
ufloat8_e8m0 = uf8e8m0 = _declare(DataType("ufloat8_e8m0", "uf8e8m0", "float", 8, 8, 0, "scale"))

float16 = f16 = _ieee("float16", "f16", 16, 5, 10)
bfloat16 = bf16 = _ieee("bfloat16", "bf16", 16, 8, 7)
tfloat32 = tf32 = _ieee(
    "tfloat32", "tf32", 32, 8, 10
)  # a float32 in memory whose last 13 bits do not count
float32 = f32 = _ieee("float32", "f32", 32, 8, 23)
float64 = f64 = _ieee("float64", "f64", 64, 11, 52)

boolean = _declare(DataType("boolean", "bool", "bool", 8))  # a byte in memory, 0 or 1
void_p = _declare(DataType("void_p", "void_p", "pointer", _POINTER_NBITS))

ALL_DTYPES: tuple[DataType, ...] = tuple(_declared)
LOW_PRECISION: tuple[DataType, ...] = tuple(
    dtype
    for dtype in ALL_DTYPES
    if dtype.nbits <= 8 and dtype.kind in ("int", "uint", "float") and dtype != ufloat8_e8m0
)
_BY_NAME: dict[str, DataType] = {
    name: dtype for dtype in ALL_DTYPES for name in (dtype.name, dtype.short_name)
}


def float_(exponent: int, mantissa: int) -> DataType:
    """The signed float of `exponent` and `mantissa` bits, 2..8 bits with its sign.

    float_(4, 3) and float_(5, 2) are the OCP types float8_e4m3 and float8_e5m2; all others have no
    inf and no nan. Raises `TilusError` for other widths or without an exponent bit.

    >>> float_(3, 4), float_(3, 4).max_value, float_(3, 2) == float6_e3m2
    (float8_e3m4, 31.0, True)
    """
    if exponent < 1 or mantissa < 0 or 1 + exponent + mantissa > 8:
        raise TilusError(
            "there is no such low-precision float",
            found=f"{exponent} exponent and {mantissa} mantissa bits",
            expected="at least 1 exponent bit, and 2..8 bits together with the sign",
            hint="wider floats are float16, bfloat16, tfloat32, float32 and float64",
        )
    dtype = _minifloat(exponent, mantissa)
    return _BY_NAME.get(dtype.name, dtype)


def codebook(bits: int, values: Sequence[float]) -> DataType:
    """The type whose code k, of `bits` (1..8) bits, stands for `values[k]`.

    There are 2^bits values, kept as float32. The name spells them, so that a printed program reads
    back. Raises `TilusError` for another number of bits or values, or a value that is not finite.

    >>> codebook(1, [-1.0, 0.1])
    codebook1[-1.0,0.1]
    """
    if not 1 <= bits <= 8:
        raise TilusError("a codebook has 1..8 bits", found=f"{bits} bits")
    if len(values) != 1 << bits:
        raise TilusError(
            f"a codebook of {bits} bits has one value for each of its codes",
            found=f"{len(values)} values",
            expected=f"{1 << bits} values",
        )
    with np.errstate(over="ignore"):
        # adding 0 makes -0.0 into 0.0: equal values must have equal names
        singles = np.asarray(values, np.float32) + np.float32(0)
    if not np.isfinite(singles).all():
        raise TilusError(
            "the values of a codebook are finite float32 numbers", found=str(list(values))
        )
    name = f"codebook{bits}[{','.join(str(single) for single in singles)}]"
    return DataType(
        name, f"cb{bits}", "codebook", bits, values=tuple(float(single) for single in singles)
    )


def dtype_from_name(name: str) -> DataType:
    """The dtype that prints as `name`.

    Short names, `~` pointers, any `floatN_eXmY` and codebooks are read too. Raises `TilusError` for
    an unknown name, with the nearest known one as a hint.

    >>> dtype_from_name("f16"), dtype_from_name("~int4b"), dtype_from_name("float8_e3m4")
    (float16, ~int4b, float8_e3m4)
    """
    if name.startswith("~"):
        return ~dtype_from_name(name[1:])
    if name in _BY_NAME:
        return _BY_NAME[name]
    if match := re.fullmatch(r"(?:float(\d+)_|f(\d+))e(\d+)m(\d+)", name):
        dtype = float_(int(match[3]), int(match[4]))
        if dtype.nbits == int(match[1] or match[2]):
            return dtype
    if match := re.fullmatch(r"codebook(\d+)\[([-+.,\w\s]*)\]", name):
        return codebook(int(match[1]), [_parse_number(text, name) for text in match[2].split(",")])
    # int4 is nearer to int4b than to int64, whatever the letters say
    nearest = difflib.get_close_matches(f"{name}b" if f"{name}b" in _BY_NAME else name, _BY_NAME, 1)
    raise TilusError(
        f"unknown data type {name!r}",
        found=name,
        hint=f"did you mean {nearest[0]}?" if nearest else "names look like int4b or float6_e3m2",
    )


def _parse_number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise TilusError(f"a value of {name!r} is no number", found=text.strip()) from None


# Casting and memory


def convert(array: ArrayLike, src: DataType, dst: DataType) -> Array:
    """Cast a carrier of `src` to a carrier of `dst`, same shape, by the rules of `DataType.encode`.

    Types of at most 8 bits, and 16-bit floats on their way to one, go through a table of all bit
    patterns. The result may be `array` itself where the types are equal. Raises `TilusError` for a
    cast between floats and pointers.

    >>> convert(np.array([3, 15], np.uint8), int4b, float16)
    array([ 3., -1.], dtype=float16)
    """
    if src == dst:
        return _as_carrier(src, array)
    if src.is_pointer() and not (dst.is_pointer() or dst.is_integer() or dst.kind == "bool"):
        raise TilusError(f"cannot cast {src} to {dst}", hint="cast the pointer to int64 first")
    if src.nbits <= 8 or (src.is_any_float16() and dst.nbits <= 8):
        bits = np.asarray(np.take(_conversion_table(src, dst), src.to_bits(array)))
        return bits.view(dst.carrier)
    return dst.encode(_as_carrier(src, array) if src != tfloat32 else src.decode(array))


def storage_nbytes(dtype: DataType, count: int) -> int:
    """Bytes of `count` packed elements: ceil(count * nbits / 8).

    >>> storage_nbytes(int5b, 3)
    2
    """
    return (count * dtype.nbits + 7) // 8


def pack(bits: ArrayLike, nbits: int) -> NDArray[np.uint8]:
    """Pack bit patterns into a little-endian bit stream.

    Element k takes bits [k * nbits, (k + 1) * nbits). `bits` is (..., count), unsigned; the result
    is (..., ceil(count * nbits / 8)) uint8, unused last bits 0. Works along the last axis, and may
    share memory. `nbits` is 1..8, 16, 32 or 64, else a `TilusError`.

    >>> [f"{byte:08b}" for byte in pack([1, 2, 3], 3)]
    ['11010001', '00000000']
    """
    _check_packable(nbits)
    if nbits >= 8:
        whole = np.ascontiguousarray(np.atleast_1d(bits), np.dtype(f"<u{nbits // 8}"))
        return whole.view(np.uint8)
    codes = np.atleast_1d(bits).astype(np.uint8, copy=False) & np.uint8((1 << nbits) - 1)
    count = codes.shape[-1]
    groups = _pad_last_axis(codes, -count % 8).reshape(*codes.shape[:-1], -(-count // 8), 8)
    words = np.zeros(groups.shape[:-1], "<u8")  # 8 elements make nbits whole bytes, in one word
    for index in range(8):
        words |= groups[..., index].astype(np.uint64) << np.uint64(index * nbits)
    stream = words.view(np.uint8).reshape(*groups.shape[:-1], 8)[..., :nbits]
    whole = np.ascontiguousarray(stream).reshape(*codes.shape[:-1], groups.shape[-2] * nbits)
    return whole[..., : (count * nbits + 7) // 8]


def unpack(data: ArrayLike, nbits: int, count: int) -> Array:
    """Read `count` bit patterns back from the bit stream that `pack` wrote: the inverse of `pack`.

    `data` is (..., bytes) uint8 with at least ceil(count * nbits / 8) bytes, else a `TilusError`;
    the result is (..., count) in uint8, uint16, uint32 or uint64.

    >>> unpack(pack([1, 2, 3], 3), 3, 3)
    array([1, 2, 3], dtype=uint8)
    """
    _check_packable(nbits)
    stream = np.atleast_1d(np.asarray(data, np.uint8))
    nbytes = (count * nbits + 7) // 8
    if count < 0 or stream.shape[-1] < nbytes:
        raise TilusError(
            f"cannot read {count} elements of {nbits} bits",
            found=f"{stream.shape[-1]} bytes",
            expected=f"at least {max(0, nbytes)} bytes, and a count of at least 0",
        )
    stream = stream[..., :nbytes]
    if nbits >= 8:
        return np.ascontiguousarray(stream).view(f"<u{nbits // 8}")
    padded = _pad_last_axis(stream, -nbytes % nbits)
    groups = padded.reshape(*stream.shape[:-1], padded.shape[-1] // nbits, nbits)
    octets = np.zeros((*groups.shape[:-1], 8), np.uint8)  # nbits bytes hold 8 elements; as one word
    octets[..., :nbits] = groups
    words = octets.view("<u8")[..., 0]
    codes = np.empty_like(octets)
    for index in range(8):
        codes[..., index] = (words >> np.uint64(index * nbits)) & np.uint64((1 << nbits) - 1)
    return codes.reshape(*stream.shape[:-1], groups.shape[-2] * 8)[..., :count]


def _check_packable(nbits: int) -> None:
    if not (1 <= nbits <= 8 or nbits in (16, 32, 64)):
        raise TilusError(
            "elements of this width cannot be packed",
            found=f"{nbits} bits",
            expected="1..8, 16, 32 or 64 bits",
        )


def _pad_last_axis(array: Array, amount: int) -> Array:
    if amount == 0:
        return np.ascontiguousarray(array)
    return np.concatenate([array, np.zeros((*array.shape[:-1], amount), array.dtype)], axis=-1)


# Values of one type


def _mask(dtype: DataType) -> int:
    return (1 << dtype.nbits) - 1


def _is_coded(dtype: DataType) -> bool:
    """Whether the carrier holds bit patterns in uint8."""
    return dtype.nbits < 8 or dtype.kind == "codebook" or (dtype.is_float() and dtype.nbits == 8)


@cache
def _carrier(dtype: DataType) -> np.dtype[Any]:
    if _is_coded(dtype):
        return np.dtype(np.uint8)
    if dtype == bfloat16:
        return np.dtype(ml_dtypes.bfloat16)
    if dtype.kind == "bool":
        return np.dtype(np.bool_)
    letter = {"uint": "u", "float": "f"}.get(dtype.kind, "i")  # a pointer is an int64
    return np.dtype(f"{letter}{dtype.nbits // 8}")


@cache
def _bits_dtype(dtype: DataType) -> np.dtype[Any]:
    return np.dtype(f"u{dtype.carrier.itemsize}")


@cache
def _number_dtype(dtype: DataType) -> np.dtype[Any]:
    if dtype == float64:
        return np.dtype(np.float64)
    numbers = {"uint": "u8", "float": "f4", "codebook": "f4", "bool": "?"}
    return np.dtype(numbers.get(dtype.kind, "i8"))


@cache
def _range(dtype: DataType) -> tuple[Number, Number]:
    if dtype.kind == "bool":
        return False, True
    if dtype.kind == "pointer":
        return 0, (1 << 63) - 1  # the carrier is int64; device addresses are far below
    if dtype.kind == "int":
        return -(1 << (dtype.nbits - 1)), (1 << (dtype.nbits - 1)) - 1
    if dtype.kind == "uint":
        return 0, _mask(dtype)
    if dtype.kind == "codebook":
        return min(dtype.values), max(dtype.values)
    if dtype.specials == "scale":
        return float(_float_value(dtype, 0)), float(_float_value(dtype, 0xFE))
    greatest = float(_float_value(dtype, _greatest_code(dtype)))
    return -greatest, greatest


def _float_value(dtype: DataType, code: int) -> Fraction:
    """The number of a sign-less bit pattern of a float, as if no pattern were special."""
    exponent, mantissa = code >> dtype.mantissa_nbits, code & ((1 << dtype.mantissa_nbits) - 1)
    if dtype.specials == "scale":
        return Fraction(2) ** (exponent - dtype.bias)
    fraction = Fraction(mantissa, 1 << dtype.mantissa_nbits)
    if exponent == 0:
        return Fraction(2) ** (1 - dtype.bias) * fraction
    return Fraction(2) ** (exponent - dtype.bias) * (1 + fraction)


def _greatest_code(dtype: DataType) -> int:
    """The sign-less bit pattern of the largest finite number of a float."""
    all_ones = (1 << (dtype.exponent_nbits + dtype.mantissa_nbits)) - 1
    if dtype.specials == "ieee":
        return all_ones - (1 << dtype.mantissa_nbits)
    return all_ones if dtype.specials == "none" else all_ones - 1


@cache
def _code_values(dtype: DataType) -> Array:
    """(2^nbits,) the number of every code of a type carried as codes; read-only."""
    if dtype.kind == "codebook":
        table = np.array(dtype.values, np.float32)
    elif dtype.is_float():
        table = np.array([_code_value(dtype, code) for code in range(1 << dtype.nbits)], np.float32)
    else:
        table = np.arange(1 << dtype.nbits, dtype=_number_dtype(dtype))
        table[table > int(dtype.max_value)] -= 1 << dtype.nbits
    table.setflags(write=False)
    return table


def _code_value(dtype: DataType, code: int) -> float:
    if dtype.specials == "scale":
        return math.nan if code == 0xFF else float(_float_value(dtype, code))
    sign_bit = 1 << (dtype.nbits - 1)
    magnitude = code & (sign_bit - 1)
    return math.copysign(_magnitude_value(dtype, magnitude), -1.0 if code & sign_bit else 1.0)


def _magnitude_value(dtype: DataType, magnitude: int) -> float:
    greatest = _greatest_code(dtype)
    if magnitude <= greatest:
        return float(_float_value(dtype, magnitude))
    return math.inf if dtype.specials == "ieee" and magnitude == greatest + 1 else math.nan


def _as_carrier(dtype: DataType, array: ArrayLike) -> Array:
    carrier = np.asarray(array)
    if carrier.dtype != dtype.carrier:
        raise TilusError(
            f"this array does not hold {dtype}",
            found=f"a NumPy array of {carrier.dtype}",
            expected=f"its carrier, {dtype.carrier}",
            hint="use dtype.encode to turn numbers into a carrier",
        )
    return carrier


# Constants


def _constant(dtype: DataType, value: Number) -> Number:
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


def _exact_constant(dtype: DataType, value: int) -> Number:
    constant = dtype.constant(value)
    if constant != value:
        raise TilusError(
            f"{dtype} cannot represent {value}", found=f"the nearest value is {constant}"
        )
    return constant


# Encoding


def _as_numbers(values: ArrayLike) -> Array:
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
    return wrapped & np.uint8(_mask(dtype)) if dtype.nbits < 8 else wrapped


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
    if dtype in (float16, float32, float64):  # NumPy rounds once, to nearest even, from every type
        return numbers.astype(dtype.carrier, copy=False)
    single = _to_single(numbers)
    if dtype == bfloat16:
        return single.astype(ml_dtypes.bfloat16)
    if dtype == tfloat32:
        return _round_to_tf32(single)
    return np.take(_single_table(dtype, saturate), _single_key(single))


_ENCODERS: dict[Kind, Callable[[DataType, Array, bool], Array]] = {
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


def _drop_tail(single: Array) -> Array:
    return np.asarray(single.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def _round_to_tf32(single: NDArray[np.float32]) -> Array:
    """Round float32 to nearest even at 10 mantissa bits (the upper 19 bits)."""
    bits = single.view(np.uint32)
    rounded = bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))
    kept = np.where(np.isnan(single), bits | np.uint32(1 << 22), rounded)
    return _drop_tail(np.asarray(kept))


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
    not_a_number = np.uint8(_mask(dtype) >> 1)
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
    return [
        (_float_value(dtype, code), code) for code in range(_greatest_code(dtype) + 1 + overflow)
    ]


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


@cache
def _conversion_table(src: DataType, dst: DataType) -> Array:
    """(2^nbits,) the `dst` bits of every bit pattern of `src`, which has at most 16; read-only."""
    codes = np.arange(1 << src.nbits, dtype=_bits_dtype(src))
    table = dst.to_bits(dst.encode(src.decode(src.from_bits(codes))))
    table.setflags(write=False)
    return table
