"""Register tiles under another shape or another type: nothing moves between threads.

    w = packed.view(layout=la, dtype=int4b)   # the bits that each thread holds, as other elements
    y = x.reshape([8, 4]).transpose()         # the same registers, other indices
    z = scale.repeat_interleave([16, 1])      # each thread already holds what it copies

Every instruction here maps the layout of its operand to that of its result, and most map it back;
layout inference follows them in both directions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tilus.codegen.emitter import array_size, element_bytes
from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.instructions.arguments import describe, expect, int_tuple, shape_tuple
from tilus.instructions.elementwise import default_layout
from tilus.interp.registers import check_view, reinterpret
from tilus.ir.instruction import Instruction, Known, Proposal, Strength
from tilus.ir.layout import (
    BitLayout,
    LayoutError,
    RegisterLayout,
    holds_operands,
    local,
    register_layout,
    reshape,
)
from tilus.ir.tensor import RegisterTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine

Array = np.ndarray[Any, Any]
P = TypeVar("P", bound="Repeat")


# ---- view ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class View(Instruction, name="view", methods=((RegisterTensor, "view"),)):
    """Each thread's bits read as other elements; the result carries layout and bit layout."""

    out: RegisterTensor
    x: RegisterTensor

    @classmethod
    def build(cls, x: Any, *, layout: Any = None, dtype: Any = None, bits: Any = None) -> View:
        """Read the bits each thread holds of `x` as a tile of `dtype` in `layout`: nothing moves.

        Both sides have the same threads and the same number of bits in each thread. `layout`
        defaults to that of `x` where the width of the dtype stays; `dtype` to that of `x`; `bits`
        says where the bits of a thread's elements lie in its 32-bit words (default: the
        little-endian bit stream).

        Raises `TilusError` where the sizes differ, and where threads that hold one element of the
        result hold different bits of `x`.

        Example: `w = x.view(layout=spatial(32).local(8), dtype=int4b)` of 4 bytes in each of 32
        threads.
        """
        tile = expect(x, RegisterTensor, "view: x")
        new = tile.dtype if dtype is None else expect(dtype, DataType, "view: dtype")
        if bits is not None:
            bits = expect(bits, BitLayout, "view: bits")
        if layout is not None:
            layout = expect(layout, RegisterLayout, "view: layout")
        elif new.nbits != tile.dtype.nbits:
            layout = _regrouped(tile, new)
        shape = tile.shape if layout is None else layout.shape
        return cls(RegisterTensor(new, shape, layout=layout, bits=bits), tile)

    def verify(self) -> None:
        layout, out = self.out.layout, self.out
        if layout is None:
            self.require(
                (out.shape, out.dtype.nbits) == (self.x.shape, self.x.dtype.nbits),
                "a result without a layout has the shape and the width of the operand",
                found=f"{self.x} to {out}",
                hint="give the layout of the result: layout=...",
            )
            return
        self.require(
            layout.shape == out.shape,
            "the layout is of another shape than the tile",
            found=f"{layout} for {out}",
        )
        held = layout.num_threads * layout.local_size * out.dtype.nbits
        bits = self.x.size * self.x.dtype.nbits
        # Each thread may hold elements that others hold too, so the operand can only be smaller.
        self.require(
            held % bits == 0,
            "the operand and the result differ in size",
            found=f"{self.x} of {bits} bits; the result takes {layout.local_size} x "
            f"{out.dtype.nbits} bits in each of {layout.num_threads} threads",
            expected=f"{held} bits, or a part of them that replication multiplies",
            hint="local size times the width of the dtype is what each thread holds",
        )
        if out.bits is not None:
            self._verify_bits(out.bits, layout)

    def _verify_bits(self, bits: BitLayout, layout: RegisterLayout) -> None:
        want = (layout.local_size, self.out.dtype.nbits)
        self.require(
            (bits.count, bits.nbits) == want,
            "the bit layout is of other elements than a thread holds",
            found=f"{bits.count} elements of {bits.nbits} bits",
            expected=f"{want[0]} elements of {want[1]} bits",
        )
        words = -(-want[0] * want[1] // 32)
        self.require(
            bits.words == words,
            "the bit layout leaves gaps",
            found=f"{bits.words} words",
            expected=f"{words} words for {want[0]} x {want[1]} bits",
        )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        source, target = known.register(self.x), known.register(self.out)
        if self.out.layout is None:
            if source is not None and target is None:
                yield Proposal(self.out, source, Strength.MUST)
            if target is not None and source is None:
                yield Proposal(self.x, target, Strength.MUST)
        elif source is None:
            linear = _linear_source(self.x, self.out.dtype, self.out.layout)
            if linear is not None:
                yield Proposal(self.x, linear, Strength.MUST)

    def check_layouts(self) -> None:
        if self.out.bits is not None and self.out.layout is not None:
            self._verify_bits(self.out.bits, self.out.layout)
        check_view(self.x, self.out)

    def run(self, machine: Machine) -> None:
        machine[self.out] = reinterpret(self.x, machine[self.x], self.out)

    def emit(self, e: Emitter) -> None:
        if e.alias(self.out, self.x):
            return
        out, x = e.declare(self.out), e.tile(self.x)
        words = array_size(self.x) * element_bytes(self.x.dtype) // 4
        e(f"static_assert(sizeof({out}) == sizeof({x}));")
        with e.unrolled(words) as i:
            e(f"reinterpret_cast<uint32_t*>({out})[{i}] = reinterpret_cast<uint32_t*>({x})[{i}];")


def _regrouped(x: RegisterTensor, dtype: DataType) -> RegisterLayout:
    """The layout of `x` as `dtype`, where its runs along the last dimension regroup."""
    run = 1 if x.layout is None else x.layout.contiguous_local()
    if x.layout is None or run * x.dtype.nbits % dtype.nbits:
        raise TilusError(
            f"view: the width of an element changes from {x.dtype.nbits} to {dtype.nbits} bits",
            found=f"{x} as {dtype}",
            hint="say how the new elements lie in the threads: layout=...",
        )
    ones = (1,) * (len(x.shape) - 1)
    outer = x.layout / local(*ones, run)
    return outer * local(*ones, run * x.dtype.nbits // dtype.nbits)


def _linear_source(
    x: RegisterTensor, dtype: DataType, target: RegisterLayout
) -> RegisterLayout | None:
    """The layout in which the threads of `target` hold `x` in order, in equal shares.

    With no replication that is `spatial(threads).local(share)`: what a tile loaded as plain bytes
    has.
    """
    share, rest = divmod(target.local_size * dtype.nbits, x.dtype.nbits)
    threads = target.num_threads // target.replication
    if rest or threads * share != x.size:
        return None
    sizes: list[int] = []
    modes: list[int] = []
    for mode in target.spatial_modes:
        modes.append(mode if mode < 0 else len(sizes))
        if mode >= 0:
            sizes.append(target.mode_shape[mode])
    flat = register_layout([x.size], [*sizes, share], modes, [len(sizes)])
    try:
        return reshape(flat, x.shape)
    except LayoutError:
        return None  # the shape cuts through a thread's share: the tile keeps its own layout


# ---- other indices for the same elements --------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reindex(Instruction):
    """Base of those that only rename elements, one to one: the registers stay as they are."""

    out: RegisterTensor
    x: RegisterTensor

    @abstractmethod
    def forward(self, layout: RegisterLayout) -> RegisterLayout:
        """The layout of the result, given that of the operand."""

    @abstractmethod
    def backward(self, layout: RegisterLayout) -> RegisterLayout:
        """The layout of the operand, given that of the result."""

    def compute(self, values: Array) -> Array:
        """(blocks, *x.shape) -> (blocks, *out.shape); row-major order is kept unless overridden."""
        return values.reshape(values.shape[0], *self.out.shape)

    def verify(self) -> None:
        self.require(
            self.out.dtype == self.x.dtype,
            "the dtype changes",
            found=f"{self.x} to {self.out}",
            hint="use view to reinterpret bits, cast to convert",
        )
        self.require(
            self.out.size == self.x.size,
            "the number of elements changes",
            found=f"{self.x} to shape {list(self.out.shape)} of {self.out.size} elements",
            expected=f"{self.x.size} elements",
        )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        source, target = known.register(self.x), known.register(self.out)
        if source is not None and target is None:
            yield Proposal(self.out, self.forward(source), Strength.MUST)
        if target is not None and source is None:
            yield Proposal(self.x, self.backward(target), Strength.MUST)

    def check_layouts(self) -> None:
        assert self.x.layout is not None and self.out.layout is not None
        have = self.forward(self.x.layout)
        self.require(
            holds_operands(self.out.layout, have),
            "threads do not hold the elements of the result",
            found=f"operand as {have}; result {self.out.layout}",
            hint="annotate_layout one of them, or pass the data through shared memory",
        )

    def run(self, machine: Machine) -> None:
        machine[self.out] = self.compute(machine[self.x])

    def emit(self, e: Emitter) -> None:
        elements = np.arange(self.x.size).reshape(1, *self.x.shape)
        move_registers(e, self.out, self.x, self.compute(elements)[0])


class _RowMajor(Reindex):
    """The elements keep their row-major order; only the shape changes."""

    def forward(self, layout: RegisterLayout) -> RegisterLayout:
        return layout.reshape(self.out.shape)

    def backward(self, layout: RegisterLayout) -> RegisterLayout:
        return layout.reshape(self.x.shape)


@dataclass(frozen=True, eq=False)
class Reshape(_RowMajor, name="reshape", methods=((RegisterTensor, "reshape"),)):
    @classmethod
    def build(cls, x: Any, shape: Any) -> Reshape:
        """The elements of `x` in row-major order under `shape`, which has as many elements.

        Raises `LayoutError` in layout inference where the layout of `x` is cut by the new extents.

        Example: `x.reshape([4, 32])` of a tile of 128 elements.
        """
        tile = expect(x, RegisterTensor, "reshape: x")
        return cls(RegisterTensor(tile.dtype, shape_tuple(shape, "reshape: shape")), tile)


@dataclass(frozen=True, eq=False)
class Flatten(_RowMajor, name="flatten", methods=((RegisterTensor, "flatten"),)):
    @classmethod
    def build(cls, x: Any, start_dim: Any = 0, end_dim: Any = -1) -> Flatten:
        """Merge the dimensions `start_dim..end_dim` (inclusive) into one, in row-major order.

        Example: `x.flatten()` of shape [2, 3, 4] has shape [24], `x.flatten(1)` has [2, 12].
        """
        tile = expect(x, RegisterTensor, "flatten: x")
        shape = tile.shape or (1,)
        first, last = dims_of((start_dim, end_dim), len(shape), "flatten", distinct=False)
        if first > last:
            raise TilusError(
                "flatten: start_dim lies behind end_dim", found=f"{start_dim} and {end_dim}"
            )
        merged = (*shape[:first], prod(shape[first : last + 1]), *shape[last + 1 :])
        return cls(RegisterTensor(tile.dtype, merged), tile)


@dataclass(frozen=True, eq=False)
class Squeeze(_RowMajor, name="squeeze", methods=((RegisterTensor, "squeeze"),)):
    @classmethod
    def build(cls, x: Any, dim: Any = None) -> Squeeze:
        """Drop `dim` (an int or a list), each of extent 1; all such dimensions by default.

        Example: `x.squeeze(0)` of shape [1, 32] has shape [32].
        """
        tile = expect(x, RegisterTensor, "squeeze: x")
        if dim is None:
            dim = [d for d, extent in enumerate(tile.shape) if extent == 1]
        gone = dims_of(dim, len(tile.shape), "squeeze")
        for d in gone:
            if tile.shape[d] != 1:
                raise TilusError(
                    "squeeze: the dimension has more than one element",
                    found=f"dim {d} of {tile}",
                    expected="extent 1",
                    hint="use sum, max, ... to reduce a dimension",
                )
        shape = tuple(e for d, e in enumerate(tile.shape) if d not in gone)
        return cls(RegisterTensor(tile.dtype, shape), tile)


@dataclass(frozen=True, eq=False)
class Unsqueeze(_RowMajor, name="unsqueeze", methods=((RegisterTensor, "unsqueeze"),)):
    @classmethod
    def build(cls, x: Any, dim: Any) -> Unsqueeze:
        """Insert dimensions of extent 1 at `dim` (an int or a list), positions in the result.

        Example: `x.unsqueeze(0)` of shape [32] has shape [1, 32], `x.unsqueeze(-1)` has [32, 1].
        """
        tile = expect(x, RegisterTensor, "unsqueeze: x")
        count = len(dim) if isinstance(dim, (list, tuple)) else 1
        new = dims_of(dim, len(tile.shape) + count, "unsqueeze")
        rest = iter(tile.shape)
        shape = tuple(1 if d in new else next(rest) for d in range(len(tile.shape) + count))
        return cls(RegisterTensor(tile.dtype, shape), tile)


@dataclass(frozen=True, eq=False)
class Transpose(Reindex, name="transpose", methods=((RegisterTensor, "transpose"),)):
    """Dimension k of the result is dimension `dims[k]` of the operand."""

    dims: tuple[int, ...]

    @classmethod
    def build(cls, x: Any, dim0: Any = -2, dim1: Any = -1) -> Transpose:
        """Exchange two dimensions, by default the last two.

        Example: `x.transpose()` of shape [16, 8] has shape [8, 16].
        """
        tile = expect(x, RegisterTensor, "transpose: x")
        dims = exchanged(dim0, dim1, len(tile.shape), "transpose")
        return cls(RegisterTensor(tile.dtype, tuple(tile.shape[d] for d in dims)), tile, dims)

    def verify(self) -> None:
        super().verify()
        self.require(
            sorted(self.dims) == list(range(len(self.x.shape)))
            and self.out.shape == tuple(self.x.shape[d] for d in self.dims),
            "dims is no permutation from the operand to the result",
            found=f"dims={list(self.dims)}, {self.x} to {self.out}",
        )

    def forward(self, layout: RegisterLayout) -> RegisterLayout:
        return layout.permute(self.dims)

    def backward(self, layout: RegisterLayout) -> RegisterLayout:
        return layout.permute(inverse_permutation(self.dims))

    def compute(self, values: Array) -> Array:
        return values.transpose(0, *(d + 1 for d in self.dims))


# ---- repetition ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Repeat(Instruction, name="repeat", methods=((RegisterTensor, "repeat"),)):
    """Copies of the whole tile; `repeats` has one entry a dimension of the result."""

    out: RegisterTensor
    x: RegisterTensor
    repeats: tuple[int, ...]

    @classmethod
    def build(cls, x: Any, repeats: Any) -> Repeat:
        """`x` laid side by side, `repeats[d]` times along dimension d, as `numpy.tile` does.

        `repeats` with more entries than `x` has dimensions adds leading dimensions, with fewer it
        leaves the leading ones as they are. Each thread keeps the copies of what it holds.

        Example: `x.repeat([2, 1])` of [[1, 2]] is [[1, 2], [1, 2]].
        """
        tile = expect(x, RegisterTensor, "repeat: x")
        return cls._of(tile, shape_tuple(repeats, "repeat: repeats"))

    @classmethod
    def _of(cls: type[P], tile: RegisterTensor, repeats: tuple[int, ...]) -> P:
        rank = max(len(repeats), len(tile.shape))
        repeats = (1,) * (rank - len(repeats)) + repeats
        shape = (1,) * (rank - len(tile.shape)) + tile.shape
        out = tuple(r * e for r, e in zip(repeats, shape, strict=True))
        return cls(RegisterTensor(tile.dtype, out), tile, repeats)

    # The result is the operand broadcast along new dimensions that are then merged with the old
    # ones. These say in which order: the copies outside each extent here, inside it in
    # RepeatInterleave.
    def merged(self, copies: int, extent: int) -> tuple[int, int]:
        return copies, extent

    @property
    def _extents(self) -> tuple[int, ...]:
        return (1,) * (len(self.repeats) - len(self.x.shape)) + self.x.shape

    def _split(self, copies: tuple[int, ...]) -> tuple[int, ...]:
        pairs = zip(copies, self._extents, strict=True)
        return tuple(part for c, e in pairs for part in self.merged(c, e))

    @property
    def _copy_dims(self) -> tuple[int, ...]:
        first = self.merged(0, 1).index(0)
        return tuple(2 * d + first for d in range(len(self.repeats)))

    def verify(self) -> None:
        fits = len(self.repeats) >= len(self.x.shape)
        self.require(fits, "one repeat for each dimension is needed", found=f"{list(self.repeats)}")
        shape = tuple(r * e for r, e in zip(self.repeats, self._extents, strict=True))
        self.require(
            (self.out.dtype, self.out.shape) == (self.x.dtype, shape),
            "the result is of another type",
            found=str(self.out),
            expected=str(RegisterTensor(self.x.dtype, shape)),
        )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        source, target = known.register(self.x), known.register(self.out)
        if source is not None and target is None:
            yield Proposal(self.out, self.copied(source), Strength.SHOULD)
        if target is not None and source is None:
            split = target.reshape(self._split(self.repeats))
            kept = split.reduce(self._copy_dims).reshape(self.x.shape)
            yield Proposal(self.x, kept, Strength.MUST)
        if source is None and target is None:
            yield Proposal(self.x, default_layout(known.num_threads, self.x), Strength.MAY)

    def copied(self, layout: RegisterLayout) -> RegisterLayout:
        return local(*self.repeats) * layout

    def check_layouts(self) -> None:
        assert self.x.layout is not None and self.out.layout is not None
        ones = (1,) * len(self.repeats)
        target = self.out.layout.reshape(self._split(self.repeats))
        source = self.x.layout.reshape(self._split(ones))
        self.require(
            holds_operands(target, source),
            "threads do not hold the elements they copy",
            found=f"operand {self.x.layout}; result {self.out.layout}",
            expected="a result in which each thread copies what it holds",
            hint="annotate_layout one of them, or pass the data through shared memory",
        )

    def run(self, machine: Machine) -> None:
        values = machine[self.x]
        blocks = values.shape[0]
        split = values.reshape(blocks, *self._split((1,) * len(self.repeats)))
        copies = np.broadcast_to(split, (blocks, *self._split(self.repeats)))
        machine[self.out] = copies.reshape(blocks, *self.out.shape)

    def emit(self, e: Emitter) -> None:
        elements = np.arange(self.x.size).reshape(self._split((1,) * len(self.repeats)))
        copies = np.broadcast_to(elements, self._split(self.repeats))
        move_registers(e, self.out, self.x, copies.reshape(self.out.shape))


@dataclass(frozen=True, eq=False)
class RepeatInterleave(
    Repeat, name="repeat_interleave", methods=((RegisterTensor, "repeat_interleave"),)
):
    @classmethod
    def build(cls, x: Any, repeats: Any, dim: Any = None) -> RepeatInterleave:
        """Repeat elements in place: `repeats` times along `dim`, or `repeats[d]` along each d.

        Each thread keeps the copies of what it holds.

        Example: `x.repeat_interleave(2, dim=0)` of [1, 2] is [1, 1, 2, 2].
        """
        tile = expect(x, RegisterTensor, "repeat_interleave: x")
        counts = shape_tuple(repeats, "repeat_interleave: repeats")
        if dim is not None:
            (axis,) = dims_of(dim, len(tile.shape), "repeat_interleave")
            if len(counts) != 1:
                raise TilusError(
                    "repeat_interleave: with dim, repeats is one count", found=f"{list(counts)}"
                )
            counts = tuple(counts[0] if d == axis else 1 for d in range(len(tile.shape)))
        if len(counts) > len(tile.shape):
            raise TilusError(
                "repeat_interleave: more repeats than dimensions",
                found=f"{list(counts)} for {tile}",
                expected=f"{len(tile.shape)} repeats",
                hint="unsqueeze the tile first",
            )
        return cls._of(tile, counts)

    def merged(self, copies: int, extent: int) -> tuple[int, int]:
        return extent, copies

    def copied(self, layout: RegisterLayout) -> RegisterLayout:
        return layout * local(*self.repeats)


def move_registers(e: Emitter, out: RegisterTensor, x: RegisterTensor, elements: Array) -> None:
    """Give each register of `out` the element of `x` (by row-major number) that `elements` names.

    Every thread holds what it needs (`check_layouts`): where the registers correspond one to one,
    the result is another name for them.
    """
    assert out.layout is not None and x.layout is not None
    wanted = elements.reshape(-1)[out.layout.logical_indices()]
    table = x.layout.owner_table()[1][wanted]
    assert (np.take_along_axis(x.layout.logical_indices(), table, axis=1) == wanted).all()
    if (table != table[0]).any():
        raise TilusError(
            "which register holds an element would depend on the thread",
            found=f"operand {x.layout}; result {out.layout}",
            hint="annotate_layout one of them, or pass the data through shared memory",
        )
    same = table[0].tolist() == list(range(x.layout.local_size)) and out.bits == x.bits
    if same and e.alias(out, x):
        return
    unit = _moved_unit(out, x, table[0])
    e.declare(out, zero=unit is None)
    if unit is None:
        with e.unrolled(out.layout.local_size) as i:
            e.set(out, i, e.get(x, e.mapped(table[0], i)))
        return
    kind, each = f"uint{unit}_t", max(1, unit // out.dtype.nbits)
    left, right = (f"reinterpret_cast<{kind}*>({e.tile(tile)})" for tile in (out, x))
    with e.unrolled(out.layout.local_size // each) as i:
        e(f"{left}[{i}] = {right}[{e.mapped(table[0][::each] // each, i)}];")


def _moved_unit(out: RegisterTensor, x: RegisterTensor, table: Array) -> int | None:
    """The bits that move at a time: whole words where neighbours stay together; else None."""
    nbits = out.dtype.nbits
    unplaced = out.bits is None and x.bits is None
    if not unplaced or out.dtype.kind == "bool" or (nbits < 32 and 32 % nbits):
        return None
    each = 32 // nbits if nbits < 32 and 32 % nbits == 0 else 1
    if len(table) % each == 0:
        rows = table.reshape(-1, each)
        if (rows == rows[:, :1] + np.arange(each)).all() and (rows[:, 0] % each == 0).all():
            return max(32, nbits)
    return nbits if nbits in (8, 16) else None


# ---- dimensions ---------------------------------------------------------------------------------


def dims_of(dims: Any, rank: int, what: str, *, distinct: bool = True) -> tuple[int, ...]:
    """Dimensions given as an int or a list, negative ones from the end; all must exist."""
    numbers = int_tuple(dims, f"{what}: dim", minimum=-rank)
    result = tuple(d + rank if d < 0 else d for d in numbers)
    if any(d >= rank for d in result) or (distinct and len(set(result)) != len(result)):
        raise TilusError(
            f"{what}: dim must name different dimensions",
            found=f"{describe(dims)}",
            expected=f"of {-rank}..{rank - 1}, none twice" if rank else "none: the rank is 0",
        )
    return result


def exchanged(dim0: Any, dim1: Any, rank: int, what: str) -> tuple[int, ...]:
    """The permutation that exchanges two dimensions."""
    if rank < 2:
        raise TilusError(f"{what}: two dimensions are needed", found=f"rank {rank}")
    a, b = dims_of((dim0, dim1), rank, what, distinct=False)
    dims = list(range(rank))
    dims[a], dims[b] = dims[b], dims[a]
    return tuple(dims)


def inverse_permutation(dims: tuple[int, ...]) -> tuple[int, ...]:
    """`inverse[dims[k]] == k`."""
    return tuple(dims.index(d) for d in range(len(dims)))
