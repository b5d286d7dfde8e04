"""Parts of register tiles under indices of their own.

    half = x[:, 0:32]                 # of each thread some of its registers

No data moves: the result is the same registers. An integer index drops its dimension, a slice keeps
it. The surprise: where a register tile can be cut depends on its layout, since a part that some
threads hold nothing of has no layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilus.dtypes import Array
from tilus.errors import TilusError
from tilus.instructions.arguments import expect, shape_tuple
from tilus.instructions.indexing import check_part, parse_index, part_lengths, positions
from tilus.instructions.register_moves import move_registers
from tilus.ir.expr import Expr, as_expr, as_int
from tilus.ir.instruction import Instruction, Known, Proposal, Strength
from tilus.ir.layout import LayoutError, RegisterLayout, holds_operands, local, register_layout
from tilus.ir.layout.modes import group_modes
from tilus.ir.tensor import RegisterTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine


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
        check_part(self, self.out, self.x, self.starts, self.dims)
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
        found=f"{positions(start, length)} of {extent} in {layout}",
        expected=expected,
        hint=f"annotate_layout the tile so that dimension {dim} begins with a local factor, such "
        "as local(...) * layout of the part, or store it to shared memory and load the part",
    )
