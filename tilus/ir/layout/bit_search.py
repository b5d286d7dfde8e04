"""The planner of unpacking: `plan_unpack(dtype, target)` finds a placement and a short program.

    _fields         how an element must lie to be picked up by one lop3    (this file)
    bit_tiling      where the fields of a word lie: the search
    bit_write       the steps that bring them to outputs
    bit_codebook    elements that select numbers of a table

The surprise: the fewest instructions are not always best. An integer comes out above a base, which
the kernel for few tokens takes away only from sums of float32, so that a large base rounds away
what is small beside it. `_most_base` says how large is too large.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from tilus.dtypes import DataType, bfloat16, codebook, int8
from tilus.errors import TilusError
from tilus.ir.layout.bit_codebook import NF4, plan_codebook
from tilus.ir.layout.bit_machine import (
    Constant,
    Position,
    UnpackPlan,
    Writer,
    code_values,
    lanes_of,
)
from tilus.ir.layout.bit_tiling import Field, fill
from tilus.ir.layout.bit_write import FINITE_SCALE, FiniteOutputs, Outputs, arranged, write

__all__ = ["NF4", "plan_unpack"]

ACCUMULATOR_PRECISION = 24  # bits of a float32's significand
SUM_GROWTH = 6  # bits, see `_most_base`


@cache
def plan_unpack(dtype: DataType | tuple[float, ...], target: DataType) -> UnpackPlan:
    """The shortest program found that unpacks `dtype` to `target`, and its placement.

    Args:
        dtype: an integer of 1..8 bits, a float of 3..8 bits, or a codebook of 2..4 bits, given as
            a dtype or as the tuple of its values.
        target: float16, bfloat16 or int8 (of integers only).

    Raises:
        TilusError: there is no such plan; the message says why.

    >>> from tilus.dtypes import float16
    >>> plan = plan_unpack(NF4, float16)
    >>> plan.elements, plan.issue_per_pair
    (8, 5.25)
    """
    if isinstance(dtype, tuple):
        dtype = codebook(max(1, len(dtype).bit_length() - 1), dtype)
    lanes_of(target)
    _check(dtype, target)
    if dtype.kind == "codebook":
        return plan_codebook(dtype, target)
    if dtype.nbits == 8 and dtype.is_integer() and target == bfloat16:
        return _plan_byte_to_bfloat16(dtype)
    return min((_plan(dtype, target, field) for field in _fields(dtype, target)), key=_quality)


def _check(dtype: DataType, target: DataType) -> None:
    expected = "integers of 1..8 bits, floats of 3..8 bits and codebooks of 2..4 bits"
    width = {"float": range(3, 9), "codebook": range(2, 5)}.get(dtype.kind, range(1, 9))
    if dtype.kind in ("bool", "pointer") or dtype.nbits not in width:
        raise TilusError(f"{dtype} cannot be unpacked", found=str(dtype), expected=expected)
    if target == int8 and not dtype.is_integer():
        raise TilusError(
            f"{dtype} cannot be unpacked to int8", expected="an integer type, or a float target"
        )
    if dtype.is_float() and dtype.exponent_nbits > target.exponent_nbits:
        raise TilusError(
            f"the exponent of {dtype} does not fit {target}",
            found=f"{dtype.exponent_nbits} exponent bits",
            expected=f"at most {target.exponent_nbits}",
            hint="unpack to bfloat16",
        )


def _quality(plan: UnpackPlan) -> tuple[float, float, bool]:
    bases = sum(map(abs, plan.base)) / len(plan.base)
    return plan.issue_per_pair, bases, plan.base_by_register is None


# ---- what a field looks like -----------------------------------------------------------------


def _fields(dtype: DataType, target: DataType) -> list[Field]:
    if target == int8:
        return [_byte_field(dtype, place) for place in range(9 - dtype.nbits)]
    return [_float_field(dtype, target) if dtype.is_float() else _integer_field(dtype, target)]


def _offset(dtype: DataType) -> int:
    """What a stored code exceeds its value by."""
    return 1 << (dtype.nbits - 1) if dtype.kind == "int" else 0


def _most_base(dtype: DataType, target: DataType) -> float:
    """The base above which sums of weights with bases may be rounded more than the result is.

    The kernel for few tokens sums up to 128 of k in float32, 16 at a time, before it multiplies by
    the scale. Weights are of either sign and spread over about a quarter of their range, so that
    their sum is about sqrt(128) / 4 of the range, times the activations. The bases add up to 128
    of them where activations are all of one sign: relative to the weights, 2^5.5 base / range. The
    eight roundings of sums half as large on average make it 2^6. That times 2^-24, rounding in
    float32, is below the result's own 2^-precision while base / range <= 2^(24 - 6 - precision):
    128 for float16 and 1024 for bfloat16.
    """
    precision = target.mantissa_nbits + 1
    return ((1 << dtype.nbits) - 1) * 2.0 ** (ACCUMULATOR_PRECISION - SUM_GROWTH - precision)


def _integer_field(dtype: DataType, target: DataType) -> Field:
    """In the mantissa, at p: with the exponent of 2^(mantissa bits - p) it is that much larger.

    Places where it is larger than `_most_base` are left out, whatever more instructions that takes:
    it costs one view more for one bit to float16, and nothing elsewhere.
    """
    mantissa, most = target.mantissa_nbits, _most_base(dtype, target)
    places = [p for p in range(mantissa - dtype.nbits + 1) if 1 << (mantissa - p) <= most]
    magic = tuple((target.bias + mantissa - p) << mantissa for p in places)
    base = tuple(float((1 << (mantissa - p)) + _offset(dtype)) for p in places)
    return Field(16, tuple(range(places[0], places[0] + dtype.nbits)), magic, base)


def _float_field(dtype: DataType, target: DataType) -> Field:
    """Exponent and mantissa meet where those of the target do; the sign is the topmost bit."""
    low = target.mantissa_nbits - dtype.mantissa_nbits
    magnitude = dtype.exponent_nbits + dtype.mantissa_nbits
    sign = (15,) if dtype.nbits > magnitude else ()
    return Field(16, (*range(low, low + magnitude), *sign), (0,), (0.0,))


def _byte_field(dtype: DataType, place: int) -> Field:
    """At bits `place`.. of a byte; flipping the top bit makes offset-binary two's complement."""
    slots = tuple(range(place, place + dtype.nbits))
    half = 1 << (dtype.nbits - 1)
    fills_byte = place + dtype.nbits == 8
    magic = 0x80 if fills_byte else 0
    base = float((_offset(dtype) - (half if fills_byte else 0)) << place)
    return Field(8, slots, (magic,), (base,))


def _outgrows(dtype: DataType, target: DataType) -> bool:
    """Whether its largest exponent, in as many bits, is that of inf and nan in the target."""
    wide = dtype.is_float() and dtype.exponent_nbits == target.exponent_nbits
    return wide and dtype.specials == "none"


def _scale(dtype: DataType, target: DataType, field: Field) -> float:
    if dtype.is_float():
        finite = FINITE_SCALE if _outgrows(dtype, target) else 1.0
        return finite * 2.0 ** (dtype.bias - target.bias)
    return float(1 << field.slots[0]) if target == int8 else 1.0


# ---- masking fields out of words -------------------------------------------------------------


def _plan(dtype: DataType, target: DataType, field: Field) -> UnpackPlan:
    if field.lane == 16 and len(field.slots) == 8 and field.slots[0] in (0, 8):
        outputs = Outputs(field, 1)
        outputs.take_byte(0, 0)
        outputs.take_byte(0, 1)
    else:
        filled = fill(field)
        kind = FiniteOutputs if _outgrows(dtype, target) else Outputs
        outputs = write(kind(field, len(filled)), filled)
    found = arranged(outputs.found)
    return UnpackPlan(
        dtype=dtype,
        target=target,
        elements=sum(len(elements) for _, _, elements in found),
        words=outputs.writer.words,
        placement=tuple(places for _, _, elements in found for places in elements),
        steps=tuple(outputs.writer.steps),
        outputs=tuple(number for number, _, _ in found),
        scale=_scale(dtype, target, field),
        base=tuple(base for _, base, _ in found),
        exact_codes=_exact_codes(dtype, target),
    )


def _exact_codes(dtype: DataType, target: DataType) -> tuple[int, ...]:
    """All but patterns that mean inf or nan on one side only, and the 2^-127 of ufloat8_e8m0."""
    codes = range(1 << dtype.nbits)
    if not dtype.is_float():
        return tuple(codes)
    if dtype.specials == "scale":
        return tuple(codes[1:-1])
    alike = dtype.specials == "ieee" and dtype.exponent_nbits == target.exponent_nbits
    finite = np.isfinite(code_values(dtype))
    return tuple(code for code in codes if alike or finite[code])


# ---- eight bits that do not fit ----------------------------------------------------------------


def _plan_byte_to_bfloat16(dtype: DataType) -> UnpackPlan:
    """Eight bits do not fit bfloat16's mantissa of 7; the eighth goes into the exponent's lowest.

    With v = 128 h + l, byte under 0xbf: x = -(1 + l / 128) / 2 if h = 0, else -(1 + l / 128). With
    z = -256 if h = 0, else -128, x * z + z = v - 128, exactly.
    """
    writer = Writer(1)
    outputs: list[int] = []
    placement: list[tuple[Position, ...]] = []
    for byte in (0, 1):
        selector = 0x4040 + (byte + 2 << 8) + byte
        number = writer.step("prmt", 0, Constant(0xBF), Constant(selector))
        exponent = writer.step(
            "lop3", number, Constant(0x00800080), Constant(0xC300C300), detail=0xAE
        )  # (~a & b) | c
        outputs.append(writer.step("hfma2", number, exponent, exponent))
        placement += [tuple((0, half + 8 * byte + bit) for bit in range(8)) for half in (0, 16)]
    base = float(_offset(dtype) - 128)
    return UnpackPlan(
        dtype, bfloat16, 4, 1, tuple(placement), tuple(writer.steps), tuple(outputs), 1.0,
        (base, base), tuple(range(256)),
    )  # fmt: skip
