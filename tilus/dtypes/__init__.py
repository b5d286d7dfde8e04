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
import re
from collections.abc import Sequence

import numpy as np

from tilus.dtypes.arrays import convert as convert
from tilus.dtypes.arrays import pack as pack
from tilus.dtypes.arrays import storage_nbytes as storage_nbytes
from tilus.dtypes.arrays import unpack as unpack
from tilus.dtypes.data_type import POINTER_NBITS
from tilus.dtypes.data_type import Array as Array
from tilus.dtypes.data_type import DataType as DataType
from tilus.dtypes.data_type import Kind as Kind
from tilus.dtypes.data_type import Number as Number
from tilus.dtypes.data_type import Specials as Specials
from tilus.dtypes.data_type import set_constant_factory as set_constant_factory
from tilus.errors import TilusError

# ---- declaring -----------------------------------------------------------------------------------

_declared: list[DataType] = []


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
void_p = _declare(DataType("void_p", "void_p", "pointer", POINTER_NBITS))

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
