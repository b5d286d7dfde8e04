"""Widening, whole words at a time: two halves or four bytes go together, and every step is exact.

* Integers: a field of n bits at mantissa bit p under the exponent of 2^(m - p) is 2^(m - p) + v.
* Floats: sign, exponent and mantissa move to the wider fields; one exact multiplication by a power
  of two puts the exponent bias right, subnormals included.
* Codebooks, and floats of few bits: PRMT looks up four elements at once.

The surprise: where in the mantissa a field lies is free, so that most fields need no shift.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from tilus.codegen.conversion_job import (
    WORD,
    Work,
    bits_of,
    groups_of,
    splat,
    top_bits,
    unused,
    want,
)
from tilus.codegen.gather import Pattern, Plan
from tilus.dtypes import bfloat16, convert, float16

# ---- integers ----


def move_bits(work: Work) -> Iterator[int]:
    """Integers to integers, and any type to itself: bits move, sign bits are repeated."""
    job = work.job
    sources: dict[int, int] = {}  # source by destination position
    missing = max(0, job.dst.nbits - job.src.nbits) if job.src.kind == "int" else 0
    for source, target in zip(work.positions, job.to_bits.positions().tolist(), strict=True):
        sources.update(zip(target, source + source[-1:] * missing, strict=False))
    for first in range(0, job.to_bits.words * WORD, WORD):
        word = {p - first: s for p, s in sources.items() if first <= p < first + WORD}
        yield work.gatherer.gather(Pattern(word))


def extend_sign(work: Work) -> Iterator[int]:
    """Signed integers to lanes of 8, 16 or 32 bits: offset binary minus the offset.

    A guard bit on top of each lane keeps the subtraction from borrowing from the next.
    """
    nbits, lane, emit = work.job.src.nbits, work.job.dst.nbits, work.builder.emit
    guards = splat(1 << (lane - 1), lane) if lane < WORD else 0
    for group in work.groups():
        fields = [(k, i * lane) for i, k in enumerate(group)]
        pattern = Pattern(want(work, fields), guards, top_bits(fields, nbits), unused(group, lane))
        lifted = work.gatherer.gather(pattern)
        lowered = emit("sub", lifted, work.splat(1 << (nbits - 1)))
        yield emit("xor", lowered, work.const(guards))


def magic(work: Work) -> Iterator[int]:
    """Integers under the exponent of a power of two whose ulp they count, minus that power."""
    job = work.job
    signed = job.src.kind == "int"
    yield from _magic(work, signed, 1 << (job.src.nbits - 1) if signed else 0)


def magic_flipped(work: Work) -> Iterator[int]:
    """As `magic`, of signed integers that become offset binary a whole word at a time."""
    job, builder = work.job, work.builder
    signs = [0] * job.bits.words
    for positions in work.positions:
        signs[positions[-1] // WORD] |= 1 << positions[-1] % WORD
    sources = [
        builder.emit("xor", source, work.const(sign))
        for source, sign in zip(work.gatherer.sources, signs, strict=True)
    ]
    yield from _magic(Work(job, builder, sources), False, 1 << (job.src.nbits - 1))


def _magic(work: Work, flipping: bool, offset: int) -> Iterator[int]:
    """From fields that hold number + offset, once their top bits are inverted if `flipping`."""
    for group in work.groups():
        plan, places = _best_places(work, group, flipping)
        bases = [float(2 ** (work.job.dst.mantissa_nbits - p) + offset) for p in places]
        yield work.lowered(work.gatherer.emit(plan), bases)


def _best_places(work: Work, group: list[int], flipping: bool) -> tuple[Plan, tuple[int, ...]]:
    """The mantissa bits at which the fields of one word are gathered with fewest instructions."""
    job = work.job
    lane, nbits, mantissa = job.dst.nbits, job.src.nbits, job.dst.mantissa_nbits
    best: tuple[Plan, tuple[int, ...]] | None = None
    for places in _candidates(work, group):
        fields = [(k, i * lane + p) for i, (k, p) in enumerate(zip(group, places, strict=True))]
        powers = (mantissa - p + job.dst.bias << mantissa for p in places)
        ones = sum(power << (i * lane) for i, power in enumerate(powers))
        flip = top_bits(fields, nbits) if flipping else 0
        pattern = Pattern(want(work, fields), ones, flip, unused(group, lane))
        plan = work.gatherer.plan(pattern)
        if best is None or plan.cost < best[0].cost:
            best = (plan, places)
        if best[0].cost <= 1:
            break
    assert best is not None
    return best


def _candidates(work: Work, group: list[int]) -> list[tuple[int, ...]]:
    """Places worth trying: for no shift, for one already made, and for a permutation of bytes."""
    job = work.job
    lane, last = job.dst.nbits, job.dst.mantissa_nbits - job.src.nbits
    starts = [work.positions[k][0] - i * lane for i, k in enumerate(group)]

    def useful(start: int) -> list[int]:
        aligned = [p for p in range(last + 1) if (start - p) % 8 == 0]
        turned = [p for p in range(last + 1) if (start - p) % WORD in work.gatherer.turns]
        return list(dict.fromkeys([*turned, *aligned, 0]))

    together = [
        tuple((start - turn) % WORD for start in starts) for turn in range(WORD) if len(starts) > 1
    ]
    fitting = [places for places in together if max(places) <= last]
    return list(dict.fromkeys([*product(*(useful(start) for start in starts)), *fitting]))


def top_bit_apart(work: Work) -> Iterator[int]:
    """8-bit integers to bfloat16, which has room for 7: l + 128 h, both made by magic numbers.

    (128 + l) + -(128 + 128 h) is l - 128 h, the signed number: the top bit h of a field over the
    mantissa is the last bit of the exponent, which doubles. Unsigned: with h inverted, plus 128.
    """
    signed, builder = work.job.src.kind == "int", work.builder
    for group in work.groups():
        free = unused(group, 16)
        fields = [(k, 16 * i) for i, k in enumerate(group)]
        tops = {at + 7: work.positions[k][7] for k, at in fields}
        low = work.gatherer.gather(
            Pattern(want(work, fields, stop=7), splat(bits_of(bfloat16, 128.0), 16), free=free)
        )
        ones, flip = splat(bits_of(bfloat16, -128.0), 16), sum(1 << at for at in tops)
        top = work.gatherer.gather(Pattern(tops, ones, 0 if signed else flip, free))
        number = builder.emit("fma_bf16x2", low, work.number(1.0), top)
        yield number if signed else work.lowered(number, [-128.0] * len(group))


# ---- floats ----


def move_fields(work: Work) -> Iterator[int]:
    """Small floats: their fields in the places of a wider float, times a power of two."""
    src, dst = work.job.src, work.job.dst
    factor = 2.0 ** (dst.bias - src.bias)
    for group in work.groups():
        fields, signs = _float_fields(work, group)
        pattern = Pattern(fields | signs, free=unused(group, dst.nbits))
        yield work.scaled(work.gatherer.gather(pattern), factor)


def move_fields_of_e4m3(work: Work) -> Iterator[int]:
    """float8_e4m3, whose one magnitude of all ones is nan.

    Adding 1 to that magnitude, and to no other, carries into the bit above: in float16 the one
    exponent bit left, which makes it a nan; elsewhere the lane's top bit, which PRMT spreads.
    """
    src, dst, emit = work.job.src, work.job.dst, work.builder.emit
    unit = 1 << (dst.mantissa_nbits - src.mantissa_nbits)
    carry = unit << (src.nbits - 1)
    factor = 2.0 ** (dst.bias - src.bias)
    for group in work.groups():
        fields, signs = _float_fields(work, group)
        free = unused(group, dst.nbits)
        magnitude = work.gatherer.gather(Pattern(fields, free=free))
        number = work.gatherer.gather(Pattern(signs, free=free), onto=magnitude)
        if dst == float16:
            carried = emit("add", magnitude, work.splat(unit))
            yield work.scaled(emit("and_or", carried, work.splat(carry), number), factor)
        else:
            top = 1 << (dst.nbits - 1)
            carried = emit("add", magnitude, work.splat(top - carry + unit))
            spread = work.const(0xBB99 if dst.nbits == 16 else 0xBBBB)
            nans = emit("prmt", carried, work.const(0), spread)
            yield emit("or", work.scaled(number, factor), nans)


def _float_fields(work: Work, group: list[int]) -> tuple[dict[int, int], dict[int, int]]:
    """Destination and source of the exponent and mantissa bits, and of the sign bits."""
    src, dst = work.job.src, work.job.dst
    shift = dst.mantissa_nbits - src.mantissa_nbits
    starts = [(k, i * dst.nbits) for i, k in enumerate(group)]
    fields = want(work, [(k, at + shift) for k, at in starts], stop=src.nbits - 1)
    return fields, {at + dst.nbits - 1: work.positions[k][-1] for k, at in starts}


def scale_to_float32(work: Work) -> Iterator[int]:
    """ufloat8_e8m0: the exponent of a float32; its first code is subnormal there, its last nan."""
    emit = work.builder.emit
    half_ulp, ulp = 1 << 22, 1 << 23
    for k in range(work.job.count):
        power = work.gatherer.gather(Pattern(want(work, [(k, 23)])))
        number = emit("max_u32", power, work.const(half_ulp))
        carried = emit("add", power, work.const(ulp))  # into the sign, where all bits are ones
        nan = emit("shr", emit("and", carried, work.const(1 << 31)), work.const(9))
        yield emit("or", number, nan)


def halves_to_float32(work: Work) -> Iterator[int]:
    """float16 by conversion instructions; bfloat16 is the upper half of a float32."""
    for k in range(work.job.count):
        if work.job.src == bfloat16:
            yield work.gatherer.gather(
                Pattern(dict(zip(range(16, 32), work.positions[k], strict=True)))
            )
        else:
            op = "f32_of_high_f16" if k % 2 else "f32_of_low_f16"
            yield work.builder.emit(op, work.gatherer.sources[k // 2])


def float32_to_halves(work: Work) -> Iterator[int]:
    """Two float32 rounded into the halves of a word."""
    op = "f16x2_of_f32" if work.job.dst == float16 else "bf16x2_of_f32"
    for group in work.groups():
        low, high = work.gatherer.sources[group[0]], work.gatherer.sources[group[-1]]
        yield work.builder.emit(op, low, high)


# ---- lookup ----


def look_up(work: Work) -> Iterator[int]:
    """Any conversion of few bits: PRMT reads a table of 8 bytes for four elements at once.

    A byte of the results is looked up by the low three bits; each further bit chooses between two
    results by one more PRMT, whose selector is the identity with that bit over it.
    """
    src, dst = work.job.src, work.job.dst
    codes = src.from_bits(np.arange(1 << src.nbits))
    results = dst.to_bits(convert(codes, src, dst))
    table = np.resize(results, max(8, results.size)).astype(f"<u{dst.nbits // 8}")
    octets = np.ascontiguousarray(table).view(np.uint8).reshape(table.size, -1)
    for quad in groups_of(work.job.count, 4):
        selectors = [_selector(work, quad, bit) for bit in range(2, max(3, src.nbits))]
        planes = [_plane(work, plane, selectors) for plane in octets.T.tolist()]
        yield from _interleave(work, planes)[: -(-len(quad) * dst.nbits // WORD)]


def _selector(work: Work, quad: list[int], bit: int) -> int:
    """A PRMT selector of the low three bits of four elements, or of one further bit."""
    places = [(k, 4 * i) for i, k in enumerate(quad)]
    free = unused(quad, 4)
    if bit == 2:
        return work.gatherer.gather(Pattern(want(work, places, stop=3), free=free))
    further = {at + 2: work.positions[k][bit] for k, at in places}
    return work.gatherer.gather(Pattern(further, 0x3210 & ~free, free=free))


def _plane(work: Work, plane: list[int], selectors: list[int]) -> int:
    """One byte of the results of four elements, from the 8, 16, .. bytes it can be."""
    if len(set(plane)) == 1:
        return work.const(splat(plane[0], 8))
    words = [
        work.const(int.from_bytes(bytes(plane[i : i + 4]), "little"))
        for i in range(0, len(plane), 4)
    ]
    for selector in selectors:
        pairs = zip(words[::2], words[1::2], strict=True)
        words = [work.builder.emit("prmt", low, high, selector) for low, high in pairs]
    return words[0]


def _interleave(work: Work, planes: list[int]) -> list[int]:
    """Byte planes of four elements to the words of the elements."""

    def permute(low: int, high: int, *selectors: int) -> list[int]:
        return [work.builder.emit("prmt", low, high, work.const(s)) for s in selectors]

    if len(planes) == 1:
        return planes
    halves = [permute(*planes[i : i + 2], 0x5140, 0x7362) for i in range(0, len(planes), 2)]
    if len(planes) == 2:
        return halves[0]
    return [
        w for low, high in zip(*halves, strict=True) for w in permute(low, high, 0x5410, 0x7632)
    ]
