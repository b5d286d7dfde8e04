"""Whole arrays: cast from one type to another, and packed into bit streams and read back."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilus.dtypes.data_type import Array, DataType
from tilus.dtypes.values import as_carrier, bits_dtype
from tilus.errors import TilusError

# ---- casting -------------------------------------------------------------------------------------


def convert(array: ArrayLike, src: DataType, dst: DataType) -> Array:
    """Cast a carrier of `src` to a carrier of `dst`, same shape, by the rules of `DataType.encode`.

    Types of at most 8 bits, and 16-bit floats on their way to one, go through a table of all bit
    patterns. The result may be `array` itself where the types are equal. Raises `TilusError` for a
    cast between floats and pointers.

    >>> from tilus.dtypes import float16, int4b
    >>> convert(np.array([3, 15], np.uint8), int4b, float16)
    array([ 3., -1.], dtype=float16)
    """
    if src == dst:
        return as_carrier(src, array)
    if src.is_pointer() and not (dst.is_pointer() or dst.is_integer() or dst.kind == "bool"):
        raise TilusError(f"cannot cast {src} to {dst}", hint="cast the pointer to int64 first")
    if src.nbits <= 8 or (src.is_any_float16() and dst.nbits <= 8):
        bits = np.asarray(np.take(_conversion_table(src, dst), src.to_bits(array)))
        return bits.view(dst.carrier)
    return dst.encode(as_carrier(src, array) if src.name != "tfloat32" else src.decode(array))


@cache
def _conversion_table(src: DataType, dst: DataType) -> Array:
    """(2^nbits,) the `dst` bits of every bit pattern of `src`, which has at most 16; read-only."""
    codes = np.arange(1 << src.nbits, dtype=bits_dtype(src))
    table = dst.to_bits(dst.encode(src.decode(src.from_bits(codes))))
    table.setflags(write=False)
    return table


# ---- memory --------------------------------------------------------------------------------------


def storage_nbytes(dtype: DataType, count: int) -> int:
    """Bytes of `count` packed elements: ceil(count * nbits / 8).

    >>> from tilus.dtypes import int5b
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
