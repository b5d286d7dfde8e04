"""The whole of a shared tensor under another shape: the same storage, other indices.

    t = s.transpose()                 # dimensions exchanged
    u = s.reshape([4, 16])            # the elements in row-major order under other extents

Every instruction here maps the layout of its operand to that of its result, and back; layout
inference follows them in both directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tilus.instructions.arguments import expect, shape_tuple
from tilus.instructions.dimensions import dims_of, exchanged, inverse_permutation
from tilus.ir.instruction import Instruction, Known, Proposal, Strength
from tilus.ir.tensor import SharedTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine

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
