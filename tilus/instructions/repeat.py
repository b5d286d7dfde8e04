"""Copies of register tiles side by side, or of their elements in place.

    z = scale.repeat_interleave([16, 1])      # each thread already holds what it copies

The surprise: a known operand only proposes the layout of the result, as copies may lie in any
thread that holds what it copies; a known result decides that of the operand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tilus.errors import TilusError
from tilus.instructions.arguments import expect, shape_tuple
from tilus.instructions.dimensions import dims_of
from tilus.instructions.elementwise import default_layout
from tilus.instructions.register_moves import move_registers
from tilus.ir.instruction import Instruction, Known, Proposal, Strength
from tilus.ir.layout import RegisterLayout, holds_operands, local
from tilus.ir.tensor import RegisterTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine

P = TypeVar("P", bound="Repeat")


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
