"""Register tiles under another shape: the same registers, other indices.

    y = x.reshape([8, 4]).transpose()         # nothing moves between threads

Every instruction here maps the layout of its operand to that of its result, and back; layout
inference follows them in both directions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tilus.dtypes import Array
from tilus.errors import TilusError
from tilus.instructions.arguments import expect, shape_tuple
from tilus.instructions.dimensions import dims_of, exchanged, inverse_permutation
from tilus.instructions.register_moves import move_registers
from tilus.ir.instruction import Instruction, Known, Proposal, Strength
from tilus.ir.layout import RegisterLayout, holds_operands
from tilus.ir.tensor import RegisterTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine


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
