"""Bit layouts: where each bit of a thread's sub-byte elements lies in its 32-bit registers.

    layout : (element k, bit b) -> position, that is bit `position % 32` of word `position // 32`

The default is the little-endian stream, `bit_layout(8, 4)`: position = k * 4 + b. Since weights are
packed once and unpacked many times, any placement is free, and a good one makes unpacking short:
`bit_layout(8, 4, [2, 4, 4], [4, 8, 1])` puts element k + 4 above element k in byte k, so that two
masks find all elements at the bottom of a byte, four at a time.

The surprise: modes have strides over *bit positions*, not only words and bits, so the stream of a
width that does not divide 32 is one mode too. What no strides describe is given by a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tilus.ir.layout.modes import (
    Digit,
    LayoutError,
    as_int,
    as_ints,
    as_shape,
    coalesce,
    group_modes,
)

IntArray = npt.NDArray[np.int64]
WORD_NBITS = 32
MAX_ELEMENT_NBITS = 64


@dataclass(frozen=True, repr=False)
class BitLayout:
    """A placement of `count` elements of `nbits` bits in 32-bit words.

    Args:
        count: elements a thread.
        nbits: bits an element, 1..64.
        position_table: the position of bit b of element k at entry `k * nbits + b`; no two are
            equal.

    Raises:
        LayoutError: a position is missing, negative, or used twice.

    >>> BitLayout.stream(8, 4).pack(np.arange(8)).tolist() == [0x76543210]
    True
    """

    count: int
    nbits: int
    position_table: tuple[int, ...]

    def __post_init__(self) -> None:
        count, nbits = (
            as_int(self.count, "count", minimum=1),
            as_int(self.nbits, "nbits", minimum=1),
        )
        table = as_ints(self.position_table, "positions", minimum=0)
        for field, value in (("count", count), ("nbits", nbits), ("position_table", table)):
            object.__setattr__(self, field, value)
        if nbits > MAX_ELEMENT_NBITS:
            raise LayoutError("elements are too wide", found=f"{nbits} bits", expected="1..64 bits")
        if len(table) != count * nbits:
            raise LayoutError(
                "every bit of every element needs a position",
                found=f"{len(table)} positions",
                expected=f"{count} x {nbits} = {count * nbits}",
            )
        if len(set(table)) != len(table):
            twice = next(p for n, p in enumerate(table) if p in table[:n])
            raise LayoutError("two bits share a position", found=f"position {twice} twice")

    # ---- constructors

    @staticmethod
    def stream(count: int, nbits: int) -> BitLayout:
        """The little-endian bit stream: element k at bits [k * nbits, (k + 1) * nbits)."""
        return BitLayout(count, nbits, tuple(range(_total(count, nbits))))

    @staticmethod
    def table(count: int, nbits: int, positions: Sequence[int] | IntArray) -> BitLayout:
        """An explicit table of `count * nbits` positions, in any nesting."""
        try:
            flat = np.asarray(positions)
        except ValueError:  # ragged nesting
            raise LayoutError("positions must be integers", found=repr(positions)) from None
        if flat.dtype.kind not in "iu":
            raise LayoutError("positions must be integers", found=str(flat.dtype))
        return BitLayout(count, nbits, tuple(flat.ravel().tolist()))

    @staticmethod
    def strided(
        count: int, nbits: int, mode_shape: Sequence[int], mode_strides: Sequence[int]
    ) -> BitLayout:
        """Modes over the row-major (element, bit) index, each with a stride over bit positions.

        >>> BitLayout.strided(8, 4, [32], [1]) == BitLayout.stream(8, 4)
        True
        """
        sizes, strides = as_shape(mode_shape, "mode_shape"), as_ints(mode_strides, "mode_strides")
        group_modes([_total(count, nbits)], sizes)
        if len(sizes) != len(strides):
            raise LayoutError(
                "every mode needs one stride", found=f"{len(sizes)} modes, {len(strides)} strides"
            )
        positions = np.zeros(1, dtype=np.int64)
        for size, stride in zip(sizes, strides, strict=True):
            positions = (positions[:, None] + np.arange(size) * stride).ravel()
        return BitLayout(count, nbits, tuple(positions.tolist()))

    @staticmethod
    def modes(
        count: int,
        nbits: int,
        mode_shape: Sequence[int],
        word_modes: Sequence[int],
        bit_modes: Sequence[int],
    ) -> BitLayout:
        """The register algebra one level down: modes of (count, nbits) number words and bits.

        Args:
            mode_shape: modes of the element index, then of the bit index.
            word_modes: modes numbering the words, most significant first.
            bit_modes: modes numbering the bits of a word, most significant first; at most 32
                together.

        >>> BitLayout.modes(16, 4, [2, 8, 4], [0], [1, 2]) == BitLayout.stream(16, 4)
        True
        """
        sizes = as_shape(mode_shape, "mode_shape")
        group_modes([count, nbits], sizes)
        words, bits = (as_ints(m, "modes", minimum=0) for m in (word_modes, bit_modes))
        if sorted(words + bits) != list(range(len(sizes))):
            raise LayoutError(
                "every mode must be in exactly one of word_modes and bit_modes",
                found=f"word_modes {list(words)}, bit_modes {list(bits)}",
                expected=f"the modes 0..{len(sizes) - 1}, once each",
            )
        strides = [0] * len(sizes)
        for order, unit in ((bits, 1), (words, WORD_NBITS)):
            for mode in reversed(order):
                strides[mode] = unit
                unit *= sizes[mode]
            if order is bits and unit > WORD_NBITS:
                raise LayoutError(
                    "bit_modes exceed a word", found=f"{unit} bits", expected="at most 32"
                )
        return BitLayout.strided(count, nbits, sizes, strides)

    # ---- properties

    @property
    def words(self) -> int:
        """Number of 32-bit words."""
        return max(self.position_table) // WORD_NBITS + 1

    @property
    def is_stream(self) -> bool:
        """Whether this is the little-endian bit stream."""
        return self.position_table == tuple(range(self.count * self.nbits))

    def positions(self) -> IntArray:
        """int64 (count, nbits): the position of every bit. Read-only."""
        return _positions(self)

    def inverse(self) -> IntArray:
        """int64 (words * 32): `element * nbits + bit` at each position, -1 for none. Read-only."""
        return _inverse(self)

    def __str__(self) -> str:
        head = f"{self.count}, {self.nbits}"
        if self.is_stream:
            return f"bit_layout({head})"
        modes = _as_modes(self.position_table)
        if modes is None:
            return f"bit_layout({head}, table={list(self.position_table)})"
        return f"bit_layout({head}, {[m.size for m in modes]}, {[m.stride for m in modes]})"

    __repr__ = __str__

    # ---- new layouts

    def permute_elements(self, order: Sequence[int]) -> BitLayout:
        """Element k of the result lies where element `order[k]` lies."""
        if sorted(as_ints(order, "order")) != list(range(self.count)):
            raise LayoutError("order must be a permutation of the elements", found=str(list(order)))
        return BitLayout.table(self.count, self.nbits, self.positions()[list(order)])

    def repeat(self, times: int) -> BitLayout:
        """`times` such tiles, each in words of its own."""
        starts = np.arange(as_int(times, "times", minimum=1)) * (self.words * WORD_NBITS)
        table = starts[:, None, None] + self.positions()
        return BitLayout.table(self.count * times, self.nbits, table)

    # ---- moving data

    def pack(self, codes: npt.ArrayLike) -> npt.NDArray[np.uint32]:
        """Place the low `nbits` bits of each code.

        Args:
            codes: integers (..., count).

        Returns:
            uint32 (..., words); positions no bit goes to are 0.
        """
        array: npt.NDArray[Any] = np.asarray(codes)
        if array.ndim == 0 or array.shape[-1] != self.count or array.dtype.kind not in "iu":
            raise LayoutError(
                "pack needs integer codes, one an element",
                found=f"{array.dtype} of shape {array.shape}",
                expected=f"integers of shape (..., {self.count})",
            )
        octets = array.astype(_code_dtype(self.nbits))[..., None].view(np.uint8)
        bits = np.unpackbits(octets, axis=-1, bitorder="little")[..., : self.nbits]
        placed = np.zeros((*array.shape[:-1], self.words * WORD_NBITS), dtype=np.uint8)
        placed[..., self.positions().ravel()] = bits.reshape(*array.shape[:-1], -1)
        return (
            np.packbits(placed, axis=-1, bitorder="little")
            .view("<u4")
            .astype(np.uint32, copy=False)
        )

    def unpack(self, words: npt.NDArray[np.uint32]) -> npt.NDArray[Any]:
        """The inverse of `pack`.

        Args:
            words: uint32 (..., words).

        Returns:
            Unsigned codes (..., count), of the narrowest dtype that holds `nbits` bits.
        """
        if words.dtype != np.uint32 or words.ndim == 0 or words.shape[-1] != self.words:
            raise LayoutError(
                "unpack needs the words of this layout",
                found=f"{words.dtype} of shape {words.shape}",
                expected=f"uint32 of shape (..., {self.words})",
            )
        octets = np.ascontiguousarray(words).astype("<u4", copy=False).view(np.uint8)
        bits = np.unpackbits(octets, axis=-1, bitorder="little")[..., self.positions()]
        dtype = _code_dtype(self.nbits)
        padded = np.zeros((*bits.shape[:-1], dtype.itemsize * 8), dtype=np.uint8)
        padded[..., : self.nbits] = bits
        return np.packbits(padded, axis=-1, bitorder="little").view(dtype)[..., 0]


def bit_layout(
    count: int,
    nbits: int,
    mode_shape: Sequence[int] | None = None,
    mode_strides: Sequence[int] | None = None,
    *,
    table: Sequence[int] | None = None,
) -> BitLayout:
    """A bit layout as its text form writes it: the stream, modes with strides, or a table."""
    if table is not None and mode_shape is None and mode_strides is None:
        return BitLayout.table(count, nbits, table)
    if table is None and mode_shape is not None and mode_strides is not None:
        return BitLayout.strided(count, nbits, mode_shape, mode_strides)
    if table is mode_shape is mode_strides is None:
        return BitLayout.stream(count, nbits)
    raise LayoutError("bit_layout takes modes with their strides, or a table, or neither")


@lru_cache(maxsize=512)
def _positions(layout: BitLayout) -> IntArray:
    table = np.array(layout.position_table, dtype=np.int64).reshape(layout.count, layout.nbits)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=512)
def _inverse(layout: BitLayout) -> IntArray:
    inverse = np.full(layout.words * WORD_NBITS, -1, dtype=np.int64)
    inverse[list(layout.position_table)] = np.arange(len(layout.position_table))
    inverse.flags.writeable = False
    return inverse


def _as_modes(table: tuple[int, ...]) -> tuple[Digit, ...] | None:
    """The fewest modes with strides that make this table; None where none do."""
    modes: list[Digit] = []
    rest = np.array(table, dtype=np.int64)
    if rest[0] != 0:
        return None
    while rest.size > 1:
        stride = int(rest[1] - rest[0])
        steps = np.flatnonzero(np.diff(rest) != stride)
        run = int(steps[0]) + 1 if steps.size else rest.size
        if stride <= 0 or rest.size % run:
            return None
        rows = rest.reshape(-1, run)
        if np.any(rows != rows[:, :1] + np.arange(run) * stride):
            return None
        modes.insert(0, Digit(run, None, stride))
        rest = rows[:, 0]
    return coalesce(modes)


def _total(count: int, nbits: int) -> int:
    return as_int(count, "count", minimum=1) * as_int(nbits, "nbits", minimum=1)


def _code_dtype(nbits: int) -> np.dtype[Any]:
    return np.dtype(next(f"<u{size}" for size in (1, 2, 4, 8) if size * 8 >= nbits))
