"""Conversions of register tiles: every 1..8-bit type to float16, bfloat16, float32, int8, and back.

    conversion(uint8, float16, 4)
    ->  t0 = prmt(x[0], 0x64646464u, 0x4140u)      1024 + x, as the ulp of 1024 is 1
        y[0] = sub_f16x2(t0, 0x64006400u)

A tile is, per thread, a run of uint32 words; types narrower than 32 bits share them, as a bit
layout says. `RECIPES` is the table of ways to convert; each that applies is built, and the one with
the fewest instructions is the conversion. Widening never works element by element.

The surprise: destination bits past the last element are unspecified, and source bits that belong to
no element may be anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from tilus.codegen.conversion_job import Job, Work
from tilus.codegen.narrow import narrow
from tilus.codegen.widen import (
    extend_sign,
    float32_to_halves,
    halves_to_float32,
    look_up,
    magic,
    magic_flipped,
    move_bits,
    move_fields,
    move_fields_of_e4m3,
    scale_to_float32,
    top_bit_apart,
)
from tilus.codegen.words import Builder, Sequence
from tilus.dtypes import DataType, bfloat16, float16, float32
from tilus.errors import TilusError
from tilus.ir.layout.bits import BitLayout

CHUNK = 32  # elements; so many of any width fill whole words, so longer tiles repeat their sequence
FLOATS = (float16, bfloat16, float32)


def supports(src: DataType, dst: DataType) -> bool:
    """Whether there is a sequence that converts `src` to `dst`.

    >>> from tilus.dtypes import int64, uint3b
    >>> supports(uint3b, float16), supports(uint3b, int64)
    (True, False)
    """
    return src == dst or any(recipe.applies(src, dst) for recipe in RECIPES)


def conversion(
    src: DataType,
    dst: DataType,
    count: int,
    bits: BitLayout | None = None,
    to_bits: BitLayout | None = None,
) -> Sequence:
    """The shortest known program that converts `count` elements of a thread.

    Its results are those of `tilus.dtypes.convert`, bit for bit; only which nan is which may
    differ. The sequence reads the words of `bits` and writes those of `to_bits`.

    Args:
        src: an integer, float or codebook of 1..8 bits, or float16, bfloat16, float32.
        dst: likewise; integers of up to 32 bits convert to each other.
        count: elements a thread, at least 1.
        bits: where the bits of the source elements lie; the little-endian stream if None.
        to_bits: where those of the destination go; the stream if None.

    Raises: TilusError for other types, and for layouts of another count or width.

    >>> from tilus.dtypes import uint8, float16
    >>> for line in conversion(uint8, float16, 2).cuda(["x[0]"], ["y[0]"]):
    ...     print(line)
    const uint32_t t0 = prmt(x[0], 0x64646464u, 0x4140u);
    y[0] = sub_f16x2(t0, 0x64006400u);
    """
    if not supports(src, dst):
        raise TilusError(
            f"no sequence converts {src} to {dst}",
            expected="types of 1..8 bits, float16, bfloat16 or float32, or two integers of 32 bits",
        )
    source = _checked(bits, src, count)
    target = _checked(to_bits, dst, count)
    whole, rest = divmod(count, CHUNK)
    if whole > 1 and not rest:
        first = _first_chunk(source, whole), _first_chunk(target, whole)
        if first[0] is not None and first[1] is not None:
            return _shortest(Job(src, dst, first[0], first[1])).repeat(whole)
    return _shortest(Job(src, dst, source, target))


def _checked(bits: BitLayout | None, dtype: DataType, count: int) -> BitLayout:
    if bits is None:
        return BitLayout.stream(count, dtype.nbits)
    if (bits.count, bits.nbits) != (count, dtype.nbits):
        raise TilusError(
            f"the bit layout does not fit the {dtype} tile",
            found=f"{bits.count} elements of {bits.nbits} bits",
            expected=f"{count} elements of {dtype.nbits} bits",
        )
    return bits


def _first_chunk(bits: BitLayout, chunks: int) -> BitLayout | None:
    """The layout of the first chunk, if the others are like it, each in words of its own."""
    first = BitLayout.table(CHUNK, bits.nbits, bits.positions()[:CHUNK])
    return first if first.repeat(chunks) == bits else None


# ---- the table ----


@dataclass(frozen=True)
class Recipe:
    """A way to convert.

    Args:
        name: what it is called.
        applies: whether it can convert a source type to a destination type.
        build: the values of the destination words.
        places: whether it puts the result into any bit layout, not just the stream.
    """

    name: str
    applies: Callable[[DataType, DataType], bool]
    build: Callable[[Work], Iterator[int]]
    places: bool = False


def _is_small(dtype: DataType) -> bool:
    return dtype.nbits <= 8 and (dtype.is_integer() or dtype.is_float() or dtype.kind == "codebook")


def _small_integer(src: DataType) -> bool:
    return _is_small(src) and src.is_integer()


def _is_moved(src: DataType, dst: DataType) -> bool:
    """Whether moving and repeating bits is all there is to do."""
    if not (src.is_integer() and dst.is_integer() and max(src.nbits, dst.nbits) <= 32):
        return src == dst
    return dst.nbits <= max(src.nbits, 8) or src.kind == "uint"


def _extends_sign(src: DataType, dst: DataType) -> bool:
    return src.kind == "int" and dst.is_integer() and src.nbits < dst.nbits in (8, 16, 32)


def _fits_mantissa(src: DataType, dst: DataType) -> bool:
    return _small_integer(src) and dst in FLOATS and src.nbits <= dst.mantissa_nbits


def _fits_fields(src: DataType, dst: DataType) -> bool:
    """Whether all numbers and specials of a small float have the same fields in a wider one."""
    if not (_is_small(src) and src.is_float() and dst in FLOATS):
        return False
    if src.exponent_nbits < dst.exponent_nbits:
        return src.specials == "none"
    if src.exponent_nbits > dst.exponent_nbits or src.specials == "scale":
        return False
    # of equal exponents, all ones are inf and nan in the wider type
    return src.specials == "ieee" or src.mantissa_nbits == 0


def _is_table(src: DataType, dst: DataType) -> bool:
    looked_up = src.kind == "codebook" or (src.is_float() and src.nbits <= 4)
    return looked_up and (dst in FLOATS or (dst.is_integer() and dst.nbits == 8))


def _through(middle: DataType) -> Callable[[Work], Iterator[int]]:
    """Two conversions, one after the other; the first must be exact."""

    def build(work: Work) -> Iterator[int]:
        job = work.job
        between = BitLayout.stream(job.count, middle.nbits)
        steps = Job(job.src, middle, job.bits, between), Job(middle, job.dst, between, job.to_bits)
        return _one_by_one(work, steps)

    return build


def _one_by_one(work: Work, jobs: Iterable[Job]) -> Iterator[int]:
    words = work.gatherer.sources
    for job in jobs:
        words = work.builder.inline(_shortest(job), words)
    return iter(words)


def _goes_through_float16(src: DataType, dst: DataType) -> bool:
    if not _is_small(src) or dst not in (bfloat16, float32):
        return False
    # float6_e5m0 has fields that fit, and a number that does not
    exact = _fits_fields(src, float16) and src.max_value <= float16.max_value
    return exact or src.specials == "nan"


def _goes_through_float32(src: DataType, dst: DataType) -> bool:
    if src == dst or float32 in (src, dst) or (src.is_integer() and dst.is_integer()):
        return False
    if _goes_through_float16(src, float32) and dst == float16:
        return False  # there and back
    return (_is_small(src) or src in FLOATS) and (_is_small(dst) or dst in FLOATS)


RECIPES: tuple[Recipe, ...] = (
    Recipe("bits", _is_moved, move_bits, places=True),
    Recipe("sign extension", _extends_sign, extend_sign),
    Recipe("magic", _fits_mantissa, magic),
    Recipe("flipped magic", lambda s, d: s.kind == "int" and _fits_mantissa(s, d), magic_flipped),
    Recipe(
        "top bit apart",
        lambda s, d: _small_integer(s) and s.nbits == 8 and d == bfloat16,
        top_bit_apart,
    ),
    Recipe("fields", _fits_fields, move_fields),
    Recipe(
        "fields with nan",
        lambda s, d: s.nbits == 8 and s.specials == "nan" and d in FLOATS,
        move_fields_of_e4m3,
    ),
    Recipe("scale", lambda s, d: s.specials == "scale" and d == float32, scale_to_float32),
    Recipe("lookup", _is_table, look_up),
    Recipe("halves", lambda s, d: s.is_any_float16() and d == float32, halves_to_float32),
    Recipe("rounding", lambda s, d: s == float32 and d.is_any_float16(), float32_to_halves),
    Recipe("narrowing", lambda s, d: s == float32 and _is_small(d), narrow, places=True),
    Recipe("through float16", _goes_through_float16, _through(float16), places=True),
    Recipe("through float32", _goes_through_float32, _through(float32), places=True),
)


@lru_cache(maxsize=1024)
def _shortest(job: Job) -> Sequence:
    """Of all recipes that apply the result with the fewest instructions; the first of equals."""
    moved = _is_moved(job.src, job.dst)
    if job.src.nbits > 8 and not (job.bits.is_stream or moved):
        return _built(job, lambda work: _one_by_one(work, _streamed_first(job)))
    ways = [
        recipe.build
        for recipe in RECIPES
        if recipe.applies(job.src, job.dst) and (recipe.places or job.to_bits.is_stream)
    ]
    if not (job.to_bits.is_stream or moved):
        ways.append(lambda work: _one_by_one(work, _placed_last(job)))
    return min((_built(job, way) for way in ways), key=lambda sequence: sequence.cost)


def _built(job: Job, build: Callable[[Work], Iterator[int]]) -> Sequence:
    builder = Builder(job.bits.words)
    work = Work(job, builder, range(job.bits.words))
    return builder.finish(build(work), job.count)


def _streamed_first(job: Job) -> tuple[Job, Job]:
    """The source as a stream, then the conversion."""
    stream = BitLayout.stream(job.count, job.src.nbits)
    return Job(job.src, job.src, job.bits, stream), replace(job, bits=stream)


def _placed_last(job: Job) -> tuple[Job, Job]:
    """The conversion to a stream, then the result where it belongs."""
    stream = BitLayout.stream(job.count, job.dst.nbits)
    return replace(job, to_bits=stream), Job(job.dst, job.dst, stream, job.to_bits)
