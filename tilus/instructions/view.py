"""Register tiles under another type: the bits that each thread holds, as other elements.

    w = packed.view(layout=la, dtype=int4b)   # nothing moves between threads

Layout inference goes both ways: an operand without a layout is asked to hold, in order, what the
result takes from each thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilus.codegen.emitter import array_size, element_bytes
from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.instructions.arguments import expect
from tilus.interp.registers import check_view, reinterpret
from tilus.ir.instruction import Instruction, Known, Proposal, Strength
from tilus.ir.layout import BitLayout, LayoutError, RegisterLayout, local, register_layout, reshape
from tilus.ir.tensor import RegisterTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine


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
