"""Parts of tiles and tensors under indices of their own, and single elements as scalars.

    row = g[i, :]                     # a global tensor of rank 1 at the address of row i
    stage = s[k % 3, :, 0:32]         # a shared tensor in the same storage
    half = x[:, 0:32]                 # a register tile: of each thread some of its registers
    value = x.item()                  # the one element of a register tile, as a scalar
    pointer = g[i, j].item_ptr()      # the address of one element

No data moves: the result is the same memory, or the same registers. An integer index drops its
dimension, a slice keeps it. The surprise: where a register tile can be cut depends on its layout,
since a part that some threads hold nothing of has no layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tilus.codegen.scalar import scalar_type
from tilus.dtypes import int64
from tilus.errors import TilusError
from tilus.instructions.arguments import check_offsets, describe, expect, shape_tuple
from tilus.instructions.shape import dims_of, exchanged, inverse_permutation, move_registers
from tilus.ir.expr import Apply, Const, Expr, Var, apply, as_expr, as_int, cast
from tilus.ir.instruction import Facts, Instruction, Known, Proposal, Strength
from tilus.ir.layout import (
    LayoutError,
    RegisterLayout,
    global_strides,
    holds_operands,
    local,
    register_layout,
    replicated,
    shared_row_major,
)
from tilus.ir.layout.modes import group_modes
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor, Tensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine

Array = np.ndarray[Any, Any]


# ---- slices -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SharedSlice(Instruction, name="shared_slice", methods=((SharedTensor, "__getitem__"),)):
    """Element J of `out` is src[o] with o = offsets, o[dims[k]] += J[k]."""

    out: SharedTensor
    src: SharedTensor
    offsets: tuple[Expr, ...]
    dims: tuple[int, ...]

    @classmethod
    def build(cls, src: Any, index: Any) -> SharedSlice:
        """`src[index]`: a part of a shared tensor, in the same storage.

        An integer or scalar index drops its dimension; `:` and `start:stop` keep it, and stop -
        start must be a compile-time constant. Missing indices mean `:`. Constant indices may count
        from the end.

        Raises `TilusError` where the part sticks out, at run time for run-time indices.

        Example: `stage = tiles[k % 2, :, 0:32]` of shape [2, 64, 64] has shape [64, 32].
        """
        tensor = expect(src, SharedTensor, "shared_slice: src")
        part = parse_index(index, tuple(as_expr(e) for e in tensor.shape))
        shape = shape_tuple(part.extents, "shared_slice: the length of a slice")
        return cls(SharedTensor(tensor.dtype, shape), tensor, part.offsets, part.dims)

    def verify(self) -> None:
        check_offsets(self.offsets, len(self.src.shape), self.name)
        _check_part(self, self.out, self.src, self.offsets, self.dims)

    def layouts(self, known: Known) -> Iterator[Proposal]:
        source, target = known.shared(self.src), known.shared(self.out)
        starts = [s if (s := as_int(o)) is not None else o for o in self.offsets]
        if source is not None and target is None:
            _, layout = source.slice(starts, self.out.shape, self.dims)
            yield Proposal(self.out, layout, Strength.MUST)
        if source is None and (self._cuts_rows() or target is not None):
            # Only whole rows survive the panels of the swizzled default; a known part tells of its
            # parent.
            plain = shared_row_major(*self.src.shape)
            _, layout = plain.slice(starts, self.out.shape, self.dims)
            if target in (None, layout):
                yield Proposal(self.src, plain, Strength.MUST)

    def _cuts_rows(self) -> bool:
        last = len(self.src.shape) - 1
        if last not in self.dims or self.src.shape[last] * self.src.dtype.nbits <= _PANEL_BITS:
            return False
        extent = self.out.shape[self.dims.index(last)]
        return 1 < extent < self.src.shape[last]

    def check_layouts(self) -> None:
        assert self.src.layout is not None
        starts = [s if (s := as_int(o)) is not None else o for o in self.offsets]
        _, layout = self.src.layout.slice(starts, self.out.shape, self.dims)
        self.require(
            layout == self.out.layout,
            "the layout of the part is not that of the whole",
            found=str(self.out.layout),
            expected=str(layout),
            hint="annotate the layout of the whole shared tensor instead",
        )

    def run(self, machine: Machine) -> None:
        assert self.src.layout is not None
        starts = [machine.scalar(o).astype(np.int64) for o in self.offsets]
        extents = [np.asarray(e) for e in self.src.shape]
        _check_inside(self, starts, extents, part_lengths(self.out.shape, self.dims, len(starts)))
        base = machine.shared_ref(self.src).base + np.asarray(self.src.layout.linear(starts))
        machine.bind_shared(self.out, self.src, base)

    def emit(self, e: Emitter) -> None:
        assert self.src.layout is not None
        start = as_expr(self.src.layout.linear(self.offsets))
        e.share(self.out, self.src, apply("add", e.shared_base(self.src), start))


_PANEL_BITS = 1024  # shared_row_major_swizzle cuts rows into panels of 128 bytes


@dataclass(frozen=True, eq=False)
class GlobalSlice(Instruction, name="global_slice", methods=((GlobalTensor, "__getitem__"),)):
    """Element J of `out` is src[o] with o = offsets, o[dims[k]] += J[k]."""

    out: GlobalTensor
    src: GlobalTensor
    offsets: tuple[Expr, ...]
    dims: tuple[int, ...]

    @classmethod
    def build(cls, src: Any, index: Any) -> GlobalSlice:
        """`src[index]`: a part of a global tensor, in the same memory.

        An integer or scalar index drops its dimension; `:` and `start:stop` keep it. Missing
        indices mean `:`. Constant indices may count from the end.

        Raises `TilusError` when run, where the part sticks out of the tensor or a part of a
        sub-byte tensor does not start at a whole byte.

        Example: `row = g[i, :]` of shape [m, k] has shape [k].
        """
        tensor = expect(src, GlobalTensor, "global_slice: src")
        part = parse_index(index, tensor.shape)
        strides = [tensor.layout.strides[d] for d in part.dims]
        out = GlobalTensor(tensor.dtype, part.extents, layout=global_strides(part.extents, strides))
        return cls(out, tensor, part.offsets, part.dims)

    def verify(self) -> None:
        check_offsets(self.offsets, len(self.src.shape), self.name)
        _check_part(self, self.out, self.src, self.offsets, self.dims)

    def address_alignment(self, facts: Facts) -> int:
        steps = zip(self.offsets, self.src.layout.strides, strict=True)
        elements = (facts.divisibility(offset * stride) for offset, stride in steps)
        bits = math.gcd(facts.alignment(self.src), *elements) * self.src.dtype.nbits
        return max(1, bits // 8)

    def run(self, machine: Machine) -> None:
        ref = machine.global_ref(self.src)
        starts = [machine.scalar(o).astype(np.int64) for o in self.offsets]
        shape = [machine.scalar(extent).astype(np.int64) for extent in self.out.shape]
        lengths = part_lengths(shape, self.dims, len(starts))
        _check_inside(self, starts, list(ref.shape), lengths)
        bits = sum(
            (start * stride for start, stride in zip(starts, ref.strides, strict=True)),
            np.zeros((), np.int64),
        ) * np.int64(self.src.dtype.nbits)
        self.require(
            not (bits % 8).any(),
            "the part does not start at a whole byte",
            found=f"bit {int(np.max(bits % 8))} of a byte, elements of {self.src.dtype.nbits} bits",
            hint="use load_global and store_global with offsets=, which address single elements",
        )
        machine.bind_global(self.out, ref.address + bits // 8)

    def emit(self, e: Emitter) -> None:
        start: Expr = as_expr(0)
        for offset, stride in zip(self.offsets, self.src.layout.strides, strict=True):
            step = apply("mul", cast(offset, int64), cast(as_expr(stride), int64))
            start = apply("add", start, step)
        nbytes = apply("floordiv", apply("mul", start, self.src.dtype.nbits), 8)
        e(f"uint8_t* const {e.name(self.out)} = {e.name(self.src)} + {e.index(nbytes)};")


@dataclass(frozen=True)
class Part:
    """What an index selects: where it begins in every dimension, and the dimensions it keeps."""

    offsets: tuple[Expr, ...]
    dims: tuple[int, ...]
    extents: tuple[Expr, ...]  # of the kept dimensions


_STRIDES = "give the tensor strides: global_view(ptr, dtype=..., shape=..., strides=...)"


def parse_index(index: Any, shape: Sequence[Expr], *, step_hint: str = _STRIDES) -> Part:
    """`index` is one item or a tuple of them: int, scalar or slice."""
    items = index if isinstance(index, tuple) else (index,)
    if len(items) > len(shape):
        raise TilusError(
            "more indices than dimensions",
            found=f"{len(items)} indices for shape [{', '.join(str(e) for e in shape)}]",
            expected=f"at most {len(shape)}",
        )
    items += (slice(None),) * (len(shape) - len(items))
    offsets: list[Expr] = []
    dims: list[int] = []
    extents: list[Expr] = []
    for dim, (item, extent) in enumerate(zip(items, shape, strict=True)):
        if isinstance(item, slice):
            start, length = _range_of(item, extent, dim, step_hint)
            dims.append(dim)
            extents.append(length)
        else:
            start = _bound(item, extent, dim)
        offsets.append(start)
    return Part(tuple(offsets), tuple(dims), tuple(extents))


def _range_of(item: slice, extent: Expr, dim: int, step_hint: str) -> tuple[Expr, Expr]:
    """(start, length) of a slice."""
    if item.step is not None and as_int(item.step) != 1:
        raise TilusError(
            "a slice has no step",
            found=f"step {item.step} in dimension {dim}",
            expected="start:stop",
            hint=step_hint,
        )
    start = as_expr(0) if item.start is None else _bound(item.start, extent, dim)
    stop = extent if item.stop is None else _bound(item.stop, extent, dim)
    length = difference(stop, start)
    known = as_int(length)
    if known is not None and known < 1:
        raise TilusError(
            "a slice is empty",
            found=f"{start}:{stop} in dimension {dim}",
            expected="start before stop",
        )
    return start, length


def _bound(value: Any, extent: Expr, dim: int) -> Expr:
    """An index as an expression; a constant that is negative counts from the end."""
    if isinstance(value, bool) or not isinstance(value, (int, Expr)):
        raise TilusError(
            "an index is an integer, a scalar or a slice",
            found=f"{describe(value)} in dimension {dim}",
        )
    expr = as_expr(value)
    if not expr.dtype.is_integer():
        raise TilusError("an index is an integer", found=f"{expr.dtype} {expr} in dimension {dim}")
    number = as_int(expr)
    return apply("add", extent, expr) if number is not None and number < 0 else expr


def difference(stop: Expr, start: Expr) -> Expr:
    """`stop - start`, constant where the variable parts are equal: `(i + 16) - i` is 16."""
    terms, constant = _affine(stop)
    minus, subtracted = _affine(start)
    for term, factor in minus.items():
        terms[term] = terms.get(term, 0) - factor
    if any(terms.values()):
        return apply("sub", stop, start)
    return as_expr(constant - subtracted)


def _affine(expr: Expr) -> tuple[dict[Expr, int], int]:
    """`expr` as sum of factor * term + constant."""
    if isinstance(expr, Const):
        return {}, int(expr.value)
    if isinstance(expr, Apply) and expr.op in ("add", "sub"):
        terms, constant = _affine(expr.args[0])
        more, number = _affine(expr.args[1])
        sign = 1 if expr.op == "add" else -1
        for term, factor in more.items():
            terms[term] = terms.get(term, 0) + sign * factor
        return terms, constant + sign * number
    if isinstance(expr, Apply) and expr.op == "mul":
        scale = as_int(expr.args[1])
        if scale is not None:
            terms, constant = _affine(expr.args[0])
            return {term: scale * factor for term, factor in terms.items()}, scale * constant
    return {expr: 1}, 0


def _check_part(
    instruction: Instruction,
    out: Tensor,
    src: Tensor,
    starts: Sequence[Expr | int],
    dims: tuple[int, ...],
) -> None:
    rank = len(src.shape)
    instruction.require(
        len(dims) == len(out.shape) and len(set(dims)) == len(dims) and set(dims) <= {*range(rank)},
        "dims must name a different dimension of the tensor for each dimension of the part",
        found=f"dims={list(dims)} for rank {len(out.shape)} of rank {rank}",
    )
    instruction.require(
        out.dtype == src.dtype,
        "the dtypes of the part and of the tensor differ",
        found=f"{out.dtype} of {src.dtype}",
    )
    lengths = part_lengths(out.shape, dims, rank)
    for dim, (offset, extent) in enumerate(zip(starts, src.shape, strict=True)):
        start, length, limit = as_int(offset), as_int(lengths[dim]), as_int(extent)
        if start is not None and limit is not None and length is not None:
            instruction.require(
                start >= 0 and start + length <= limit,
                "the index is out of bounds",
                found=f"{_positions(start, length)} in dimension {dim}",
                expected=f"within 0..{limit - 1}",
            )


def part_lengths(shape: Sequence[Any], dims: Sequence[int], rank: int) -> list[Any]:
    """How many elements of each dimension a part of `shape` covers; 1 where an index is given."""
    lengths: list[Any] = [1] * rank
    for dim, extent in zip(dims, shape, strict=True):
        lengths[dim] = extent
    return lengths


def _check_inside(
    instruction: Instruction,
    starts: Sequence[Array],
    extents: Sequence[Array],
    lengths: Sequence[Any],
) -> None:
    """Raise where a part that begins at a run-time index sticks out in some block."""
    for dim, (start, extent, length) in enumerate(zip(starts, extents, lengths, strict=True)):
        outside = (start < 0) | (start + length > extent)
        if np.any(outside):
            first, limit, count = (
                np.broadcast_to(a, outside.shape)[outside].reshape(-1)[0]
                for a in (start, extent, np.asarray(length))
            )
            instruction.require(
                False,
                "the index is out of bounds",
                found=f"{_positions(int(first), int(count))} in dimension {dim}",
                expected=f"within 0..{int(limit) - 1}",
                hint="guard it with an if statement, or use load_global(offsets=), which reads 0",
            )


def _positions(start: int, length: int) -> str:
    return f"index {start}" if length == 1 else f"indices {start}..{start + length - 1}"


# ---- parts of register tiles --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RegisterSlice(Instruction, name="register_slice", methods=((RegisterTensor, "__getitem__"),)):
    """Element J of `out` is x[o] with o = starts, o[dims[k]] += J[k]; `dims` ascend."""

    out: RegisterTensor
    x: RegisterTensor
    starts: tuple[int, ...]
    dims: tuple[int, ...]

    @classmethod
    def build(cls, x: Any, index: Any) -> RegisterSlice:
        """`x[index]`: a part of a register tile, each thread keeping the registers that it holds.

        Indices are known at compile time and may count from the end. An integer drops its
        dimension; `:` and `start:stop` keep it; missing indices mean `:`.

        Raises `TilusError` for an index known only at run time and, in layout inference, where a
        dimension is cut between threads: only its leading local modes can be cut.

        Example: `w[:, 32:64]` of shape [16, 64] has shape [16, 32].
        """
        tile = expect(x, RegisterTensor, "register_slice: x")
        hint = "split the dimension first: x.reshape([..., extent // step, step]), then index it"
        part = parse_index(index, tuple(as_expr(e) for e in tile.shape), step_hint=hint)
        starts = tuple(_known_start(offset, dim) for dim, offset in enumerate(part.offsets))
        shape = shape_tuple(part.extents, "register_slice: the length of a slice")
        return cls(RegisterTensor(tile.dtype, shape), tile, starts, part.dims)

    def verify(self) -> None:
        self.require(
            len(self.starts) == len(self.x.shape),
            "one start for each dimension of the operand is needed",
            found=f"{len(self.starts)} starts for {self.x}",
            expected=f"{len(self.x.shape)}",
        )
        _check_part(self, self.out, self.x, self.starts, self.dims)
        self.require(
            list(self.dims) == sorted(self.dims),
            "the dimensions change their order",
            found=f"dims={list(self.dims)}",
            hint="transpose the part",
        )

    @property
    def _lengths(self) -> list[int]:
        return part_lengths(self.out.shape, self.dims, len(self.starts))

    def layouts(self, known: Known) -> Iterator[Proposal]:
        source, target = known.register(self.x), known.register(self.out)
        if source is not None and target is None:
            yield Proposal(self.out, self._cut(source), Strength.MUST)
        if target is not None and source is None:
            whole = self._whole(target)
            if whole is not None:
                yield Proposal(self.x, whole, Strength.MUST)

    def _cut(self, layout: RegisterLayout) -> RegisterLayout:
        return cut_layout(layout, self.starts, self._lengths, self.dims)

    def _whole(self, part: RegisterLayout) -> RegisterLayout | None:
        """The layout of an operand that is a row of such parts; None where parts do not line up."""
        cuts = list(zip(self.starts, self._lengths, self.x.shape, strict=True))
        if any(start % length or extent % length for start, length, extent in cuts):
            return None
        dropped = [dim for dim in range(len(self.starts)) if dim not in self.dims]
        return local(*(extent // length for _, length, extent in cuts)) * part.unsqueeze(dropped)

    def check_layouts(self) -> None:
        assert self.x.layout is not None and self.out.layout is not None
        have = self._cut(self.x.layout)
        self.require(
            holds_operands(self.out.layout, have),
            "threads do not hold the elements of the part",
            found=f"part of the operand {have}; result {self.out.layout}",
            hint="annotate_layout one of them, or pass the data through shared memory",
        )

    def compute(self, values: Array) -> Array:
        """(blocks, *x.shape) -> (blocks, *out.shape)."""
        cuts = zip(self.starts, self._lengths, strict=True)
        part = values[(slice(None), *(slice(start, start + length) for start, length in cuts))]
        return part.reshape(len(values), *self.out.shape)

    def run(self, machine: Machine) -> None:
        machine[self.out] = self.compute(machine[self.x])

    def emit(self, e: Emitter) -> None:
        elements = np.arange(self.x.size).reshape(1, *self.x.shape)
        move_registers(e, self.out, self.x, self.compute(elements)[0])


def _known_start(offset: Expr, dim: int) -> int:
    start = as_int(offset)
    if start is None:
        raise TilusError(
            "register_slice: an index must be known at compile time",
            found=f"{offset} in dimension {dim}",
            expected="Python integers: registers have no addresses",
            hint="loop over a host list, for i in [0, 1]: ..., or store the tile to shared memory "
            "and load the part",
        )
    return start


def cut_layout(
    layout: RegisterLayout, starts: Sequence[int], lengths: Sequence[int], dims: Sequence[int]
) -> RegisterLayout:
    """The layout of a part whose elements stay where they are; `dims` are those it keeps.

    In local(4, 1).spatial(8, 4), rows 8..23 are local(2, 1).spatial(8, 4): values 1 and 2 of the
    first mode of the rows, and all of the others.

    Raises:
        LayoutError: a cut goes through a mode that is spatial, or through several local ones.
    """
    whole = layout.canonical()
    groups = group_modes(whole.shape, whole.mode_shape)
    sizes: list[int] = []
    for dim, modes in enumerate(groups):
        sizes += _cut_modes(whole, dim, modes, starts[dim], lengths[dim])
    kept = [mode for mode, size in enumerate(sizes) if size > 1]
    return register_layout(
        [lengths[dim] for dim in dims],
        [sizes[mode] for mode in kept],
        [mode if mode < 0 else kept.index(mode) for mode in whole.spatial_modes],
        [kept.index(mode) for mode in whole.local_modes if mode in kept],
    )


def _cut_modes(
    layout: RegisterLayout, dim: int, modes: Sequence[int], start: int, length: int
) -> Iterator[int]:
    """How many values of each mode of `dim` lie in the range: one, one, ..., some, all, all."""
    first, count, below = start, length, layout.shape[dim]  # the range within the modes to come
    for mode in modes:
        below //= layout.mode_shape[mode]
        within = first % below
        if within + count <= below:
            size, first = 1, within
        elif within == 0 and count % below == 0:
            size, first, count = count // below, 0, below
        else:
            raise _cannot_cut(layout, dim, modes, start, length)
        if size < layout.mode_shape[mode] and mode in layout.spatial_modes:
            raise _cannot_cut(layout, dim, modes, start, length)
        yield size


def _cannot_cut(
    layout: RegisterLayout, dim: int, modes: Sequence[int], start: int, length: int
) -> LayoutError:
    extent = layout.shape[dim]
    spatial = [number for number, mode in enumerate(modes) if mode in layout.spatial_modes]
    leading = modes[: spatial[0]] if spatial else modes
    sizes = [layout.mode_shape[mode] for mode in leading]
    unit = extent // math.prod(sizes)
    between_threads = bool(start % unit or length % unit)
    factors = " x ".join(str(size) for size in sizes)
    if not sizes:
        expected = f"all of 0..{extent - 1}: nothing that leads dimension {dim} is local"
    elif between_threads:
        expected = f"starts and lengths in multiples of {unit}: local is the leading {factors}"
    else:
        expected = f"a range within one of the local {factors}, of steps of {unit}"
    where = "between threads" if between_threads else "across registers that do not follow on"
    return LayoutError(
        f"register_slice: dimension {dim} is cut {where}",
        found=f"{_positions(start, length)} of {extent} in {layout}",
        expected=expected,
        hint=f"annotate_layout the tile so that dimension {dim} begins with a local factor, such "
        "as local(...) * layout of the part, or store it to shared memory and load the part",
    )


# ---- the whole of a shared tensor under another shape -------------------------------------------


P = TypeVar("P", bound="_Permuted")


@dataclass(frozen=True, eq=False)
class _Permuted(Instruction):
    """Dimension k of `out` is dimension `dims[k]` of `src`."""

    out: SharedTensor
    src: SharedTensor
    dims: tuple[int, ...]

    @classmethod
    def _of(cls: type[P], tensor: SharedTensor, dims: tuple[int, ...]) -> P:
        return cls(SharedTensor(tensor.dtype, tuple(tensor.shape[d] for d in dims)), tensor, dims)

    def verify(self) -> None:
        self.require(
            sorted(self.dims) == list(range(len(self.src.shape))),
            "dims must name every dimension once",
            found=f"dims={list(self.dims)} for {self.src}",
        )
        expected = SharedTensor(self.src.dtype, tuple(self.src.shape[d] for d in self.dims))
        _check_same_storage(self, self.out, expected)

    def layouts(self, known: Known) -> Iterator[Proposal]:
        source, target = known.shared(self.src), known.shared(self.out)
        if source is not None and target is None:
            yield Proposal(self.out, source.permute(self.dims), Strength.MUST)
        if target is not None and source is None:
            yield Proposal(self.src, target.permute(inverse_permutation(self.dims)), Strength.MUST)

    def check_layouts(self) -> None:
        assert self.src.layout is not None
        _check_same_layout(self, self.out, self.src.layout.permute(self.dims))

    def run(self, machine: Machine) -> None:
        machine.bind_shared(self.out, self.src, machine.shared_ref(self.src).base)

    def emit(self, e: Emitter) -> None:
        e.share(self.out, self.src, e.shared_base(self.src))


class PermuteShared(_Permuted, name="permute_shared", methods=((SharedTensor, "permute"),)):
    @classmethod
    def build(cls, src: Any, dims: Any) -> PermuteShared:
        """The same storage, dimensions reordered: k of the result is `dims[k]` of `src`.

        Example: `s.permute([1, 0])` of shape [16, 8] has shape [8, 16].
        """
        tensor = expect(src, SharedTensor, "permute_shared: src")
        return cls._of(tensor, dims_of(dims, len(tensor.shape), "permute_shared"))


class TransposeShared(_Permuted, name="transpose_shared", methods=((SharedTensor, "transpose"),)):
    @classmethod
    def build(cls, src: Any, dim0: Any = -2, dim1: Any = -1) -> TransposeShared:
        """The same storage with two dimensions exchanged, by default the last two.

        Example: `s.transpose()` of shape [16, 8] has shape [8, 16].
        """
        tensor = expect(src, SharedTensor, "transpose_shared: src")
        return cls._of(tensor, exchanged(dim0, dim1, len(tensor.shape), cls.name))


@dataclass(frozen=True, eq=False)
class ReshapeShared(Instruction, name="reshape_shared", methods=((SharedTensor, "reshape"),)):
    out: SharedTensor
    src: SharedTensor

    @classmethod
    def build(cls, src: Any, shape: Any) -> ReshapeShared:
        """The same storage, its elements in row-major order under `shape`, of the same size.

        Raises `LayoutError` in layout inference where the layout of `src` is cut by the new
        extents.

        Example: `self.reshape_shared(s, [4, 16])` of shape [64].
        """
        tensor = expect(src, SharedTensor, "reshape_shared: src")
        extents = shape_tuple(shape, "reshape_shared: shape")
        return cls(SharedTensor(tensor.dtype, extents), tensor)

    def verify(self) -> None:
        size, wanted = (int(np.prod(t.shape)) for t in (self.out, self.src))
        self.require(
            size == wanted,
            "the number of elements changes",
            found=f"{self.src} ({wanted} elements) to shape {list(self.out.shape)} ({size})",
            expected=f"{wanted} elements",
        )
        _check_same_storage(self, self.out, SharedTensor(self.src.dtype, self.out.shape))

    def layouts(self, known: Known) -> Iterator[Proposal]:
        source, target = known.shared(self.src), known.shared(self.out)
        if source is not None and target is None:
            yield Proposal(self.out, source.reshape(self.out.shape), Strength.MUST)
        if target is not None and source is None:
            yield Proposal(self.src, target.reshape(self.src.shape), Strength.MUST)

    def check_layouts(self) -> None:
        assert self.src.layout is not None
        _check_same_layout(self, self.out, self.src.layout.reshape(self.out.shape))

    def run(self, machine: Machine) -> None:
        machine.bind_shared(self.out, self.src, machine.shared_ref(self.src).base)

    def emit(self, e: Emitter) -> None:
        e.share(self.out, self.src, e.shared_base(self.src))


def _check_same_storage(
    instruction: Instruction, out: SharedTensor, expected: SharedTensor
) -> None:
    instruction.require(
        (out.dtype, out.shape) == (expected.dtype, expected.shape),
        "the result is of another type",
        found=str(out),
        expected=str(expected),
    )


def _check_same_layout(instruction: Instruction, out: SharedTensor, expected: Any) -> None:
    instruction.require(
        out.layout == expected,
        "the layout of the result is not that of the storage",
        found=str(out.layout),
        expected=str(expected),
        hint="annotate only one of the two",
    )


# ---- single elements ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Item(Instruction, name="item", methods=((RegisterTensor, "item"),)):
    out: Var
    x: RegisterTensor

    @classmethod
    def build(cls, x: Any) -> Item:
        """The element of a register tile of size 1 as a scalar, known to the whole block.

        Example: `total = self.sum(x).item()`.
        """
        tile = expect(x, RegisterTensor, "item: x", hint="load it first: self.load_global(...)")
        return cls(Var(tile.dtype, "item"), tile)

    def verify(self) -> None:
        self.require(
            self.x.size == 1,
            "only a tile of one element is a scalar",
            found=str(self.x),
            expected="a tile of size 1",
            hint="reduce it first, for example with self.sum(x)",
        )
        self.require(
            self.out.dtype == self.x.dtype,
            "the dtype changes",
            found=f"{self.x.dtype} to {self.out.dtype}",
        )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        if known.register(self.x) is None:
            everywhere = replicated(*self.x.shape, num_workers=known.num_threads)
            yield Proposal(self.x, everywhere, Strength.SHOULD)

    def run(self, machine: Machine) -> None:
        machine.set_scalar(self.out, machine[self.x].reshape(-1))

    def emit(self, e: Emitter) -> None:
        layout = self.x.layout
        assert layout is not None
        self.require(
            layout.replication == layout.num_threads,
            "some threads do not hold the element",
            found=str(layout),
            expected="a layout replicated over the whole block",
            hint="load the element with load_global, or reduce to it",
        )
        e(f"{scalar_type(self.out.dtype)} {e.name(self.out)} = {e.get(self.x, '0')};")


@dataclass(frozen=True, eq=False)
class ItemPtr(Instruction, name="item_ptr", methods=((GlobalTensor, "item_ptr"),)):
    out: Var
    x: GlobalTensor

    @classmethod
    def build(cls, x: Any) -> ItemPtr:
        """The address of a global tensor of one element, as a pointer to its dtype.

        Example: `self.lock_semaphore(semaphores[i, j].item_ptr(), 1)`.
        """
        tensor = expect(x, GlobalTensor, "item_ptr: x")
        return cls(Var(~tensor.dtype, "pointer"), tensor)

    def verify(self) -> None:
        self.require(
            all(as_int(extent) == 1 for extent in self.x.shape),
            "only a tensor of one element has an item",
            found=str(self.x),
            expected="extents of 1",
            hint="index it first: g[i, j].item_ptr()",
        )
        self.require(
            self.out.dtype == ~self.x.dtype,
            "the pointer is of another type",
            found=str(self.out.dtype),
            expected=str(~self.x.dtype),
        )

    def run(self, machine: Machine) -> None:
        machine.set_scalar(self.out, machine.global_ref(self.x).address)

    def emit(self, e: Emitter) -> None:
        e(f"uint8_t* {e.name(self.out)} = {e.name(self.x)};")
