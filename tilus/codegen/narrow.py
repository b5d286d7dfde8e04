"""Narrowing, element by element: one code a word, then packed where the bits belong.

The surprise: every rounding is a float32 one. A subnormal number is rounded by the addition of a
float32 whose ulp is the least of them, a normal one by an integer addition below the bits it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise

import numpy as np

from tilus.codegen.conversion_job import WORD, Job, Work, bits_of
from tilus.codegen.widen import move_bits
from tilus.dtypes import DataType, float32
from tilus.ir.layout.bits import BitLayout


def narrow(work: Work) -> Iterator[int]:
    """float32 to types of at most 8 bits: one code a word, then packed."""
    job = work.job
    encode = next(encode for applies, encode in ENCODERS if applies(job.dst))
    codes = [encode(work, word) for word in work.gatherer.sources]
    packed = Work(
        Job(job.dst, job.dst, _in_words(job.count, job.dst.nbits), job.to_bits), work.builder, codes
    )
    yield from move_bits(packed)


def _in_words(count: int, nbits: int) -> BitLayout:
    """Each element at the bottom of a word of its own."""
    return BitLayout.table(count, nbits, np.arange(count)[:, None] * WORD + np.arange(nbits))


def _encode_integer(work: Work, single: int) -> int:
    """Toward zero, within the range of the type; nan becomes 0."""
    emit, dst = work.builder.emit, work.job.dst
    whole = emit("s32_of_f32", single)
    least = emit("max_s32", whole, work.const(int(dst.min_value)))
    return emit("min_s32", least, work.const(int(dst.max_value)))


def _encode_minifloat(work: Work, single: int) -> int:
    """Rounded to nearest even, saturating.

    Normal numbers drop mantissa bits with the carry going into the exponent. Subnormal ones are
    rounded by the addition of a float32 whose ulp is the least of them.
    """
    emit, const, dst = work.builder.emit, work.const, work.job.dst
    drop, top = 23 - dst.mantissa_nbits, dst.nbits - 1
    given = emit("and", single, const(0x7FFFFFFF))
    size = emit("min_u32", given, const(bits_of(float32, float(dst.max_value))))
    odd = emit("and", emit("shr", size, const(drop)), const(1))
    rounded = emit("add", emit("add", size, const((1 << (drop - 1)) - 1)), odd)
    bias = (127 - dst.bias) << dst.mantissa_nbits
    normal = emit("sub", emit("shr", rounded, const(drop)), const(bias))
    magic = const(bits_of(float32, 2.0 ** (24 - dst.bias - dst.mantissa_nbits)))
    subnormal = emit("sub", emit("add_f32", size, magic), magic)
    least = const(bits_of(float32, 2.0 ** (1 - dst.bias)))
    code = emit("select_less", size, least, subnormal, normal)
    sign = emit("shr", single, const(31 - top))
    number = emit("and_or", sign, const(1 << top), code)
    return emit("select_less", const(0x7F800000), given, const((1 << top) - 1), number)


def _encode_scale(work: Work, single: int) -> int:
    """The nearest power of two, the greater of two; 0 is the least, negative numbers are nan."""
    emit, const = work.builder.emit, work.const
    positive = emit("add_f32", single, const(0))  # -0 becomes 0
    nearest = emit("shr", emit("add", positive, const(1 << 22)), const(23))
    # below 2^-126 numbers are subnormal, so the rule of halves begins at 1.5 * 2^-127
    code = emit("select_less", positive, const(0x00600000), const(0), nearest)
    finite = emit("min_u32", code, const(0xFE))
    return emit("select_less", const(0x7F800000), positive, const(0xFF), finite)


def _encode_codebook(work: Work, single: int) -> int:
    """The nearest value, the lower code of two; nan becomes the greatest."""
    values = work.job.dst.values
    first = {value: code for code, value in reversed(list(enumerate(values)))}
    ordered = [(Fraction(value), first[value]) for value in sorted(first)]
    code = work.const(ordered[0][1])
    for (low, low_code), (high, high_code) in pairwise(ordered):
        bound = _least_single((low + high) / 2, high_code < low_code)
        step = work.const(high_code - low_code)
        code = work.builder.emit("add_reached", code, single, work.const(bound), step)
    return code


def _least_single(bound: Fraction, included: bool) -> int:
    """The bits of the least float32 above `bound`, or equal to it where that is included."""
    single = np.float32(float(bound))
    if Fraction(float(single)) > bound:
        single = np.nextafter(single, np.float32(-np.inf))
    while Fraction(float(single)) < bound or (Fraction(float(single)) == bound and not included):
        single = np.nextafter(single, np.float32(np.inf))
    return int(single.view(np.uint32))


Encoder = Callable[[Work, int], int]
ENCODERS: tuple[tuple[Callable[[DataType], bool], Encoder], ...] = (
    (lambda dst: dst.is_integer(), _encode_integer),
    (lambda dst: dst.kind == "codebook", _encode_codebook),
    (lambda dst: dst.specials == "scale", _encode_scale),
    (lambda dst: dst.is_float(), _encode_minifloat),
)
