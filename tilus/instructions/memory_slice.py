"""Parts of shared and global tensors under indices of their own.

    row = g[i, :]                     # a global tensor of rank 1 at the address of row i
    stage = s[k % 3, :, 0:32]         # a shared tensor in the same storage

No data moves: the result is the same memory. An integer index drops its dimension, a slice keeps
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilus.dtypes import int64
from tilus.instructions.arguments import check_offsets, expect, shape_tuple
from tilus.instructions.indexing import check_inside, check_part, parse_index, part_lengths
from tilus.ir.expr import Expr, apply, as_expr, as_int, cast
from tilus.ir.instruction import Facts, Instruction, Known, Proposal, Strength
from tilus.ir.layout import global_strides, shared_row_major
from tilus.ir.tensor import GlobalTensor, SharedTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine


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
        check_part(self, self.out, self.src, self.offsets, self.dims)

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
        check_inside(self, starts, extents, part_lengths(self.out.shape, self.dims, len(starts)))
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
        check_part(self, self.out, self.src, self.offsets, self.dims)

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
        check_inside(self, starts, list(ref.shape), lengths)
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
