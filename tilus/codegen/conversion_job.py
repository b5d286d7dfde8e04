"""A conversion being built: its types and layouts, and constants in lanes of the destination.

    work = Work(job, builder, sources)
    word = work.scaled(work.gatherer.gather(pattern), 2.0**8)

Recipes (`widen.py`, `narrow.py`) take a `Work` and yield the values of the destination words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from tilus.codegen.gather import Gatherer
from tilus.codegen.words import Builder
from tilus.dtypes import DataType, bfloat16, float16, float32
from tilus.ir.layout.bits import BitLayout

WORD = 32
Place = tuple[int, int]  # an element, and the destination bit where its first bit goes


@dataclass(frozen=True)
class Job:
    """A conversion to be built: the types, and where the bits lie."""

    src: DataType
    dst: DataType
    bits: BitLayout
    to_bits: BitLayout

    @property
    def count(self) -> int:
        """Elements of a thread."""
        return self.bits.count


class Work:
    """A job being built: the builder, and the gatherer of the source words."""

    def __init__(self, job: Job, builder: Builder, sources: Sequence[int]):
        self.job = job
        self.builder = builder
        self.gatherer = Gatherer(builder, sources)

    @cached_property
    def positions(self) -> list[list[int]]:
        """The source position of bit b of element k at [k][b]."""
        return self.job.bits.positions().tolist()

    def groups(self) -> Iterator[list[int]]:
        """The elements of each destination word, where words hold whole elements."""
        size = WORD // self.job.dst.nbits
        return groups_of(self.job.count, size)

    def const(self, word: int) -> int:
        """A constant word."""
        return self.builder.const(word)

    def splat(self, lane: int) -> int:
        """A constant word of equal lanes of the destination's width."""
        return self.const(splat(lane, self.job.dst.nbits))

    def number(self, value: float) -> int:
        """A constant word of lanes that hold a number of the destination type."""
        return self.splat(bits_of(self.job.dst, value))

    def scaled(self, word: int, factor: float) -> int:
        """Every lane times a power of two; the sign of zero is kept."""
        if factor == 1:
            return word
        constant = self.number(factor)
        if self.job.dst == bfloat16:  # bfloat16 has no other arithmetic before sm_90
            return self.builder.emit("fma_bf16x2", word, constant, self.number(-0.0))
        return self.builder.emit(
            "mul_f16x2" if self.job.dst == float16 else "mul_f32", word, constant
        )

    def lowered(self, word: int, bases: list[float]) -> int:
        """Every lane minus its base, exactly."""
        dst, emit = self.job.dst, self.builder.emit
        if dst == float16:
            return emit("sub_f16x2", word, self.const(lanes(dst, bases)))
        negated = self.const(lanes(dst, [-base for base in bases]))
        if dst == float32:
            return emit("add_f32", word, negated)
        return emit("fma_bf16x2", word, self.number(1.0), negated)


def groups_of(count: int, size: int) -> Iterator[list[int]]:
    """The numbers 0..count-1, `size` at a time."""
    for first in range(0, count, size):
        yield list(range(first, min(first + size, count)))


def bits_of(dtype: DataType, value: float) -> int:
    """The bit pattern of a number."""
    return int(dtype.to_bits(dtype.encode([value]))[0])


def lanes(dtype: DataType, values: list[float]) -> int:
    """The word of these numbers, the first in the low lane; the last one fills the rest."""
    full = values + values[-1:] * (WORD // dtype.nbits - len(values))
    return sum(bits_of(dtype, value) << (i * dtype.nbits) for i, value in enumerate(full))


def splat(lane: int, nbits: int) -> int:
    """The word whose lanes of `nbits` bits are all `lane`."""
    return sum(lane << shift for shift in range(0, WORD, nbits))


def unused(elements: list[int], nbits: int) -> int:
    """Mask of the lanes of a word that hold no element."""
    return sum(((1 << nbits) - 1) << s for s in range(len(elements) * nbits, WORD, nbits))


def want(
    work: Work, places: list[Place], start: int = 0, stop: int | None = None
) -> dict[int, int]:
    """Source bit by destination bit, for the bits start..stop of elements put at their places."""
    return {
        at + i: source for k, at in places for i, source in enumerate(work.positions[k][start:stop])
    }


def top_bits(places: list[Place], nbits: int) -> int:
    """Mask of the last bit of each field."""
    return sum(1 << (at + nbits - 1) for _, at in places)
