"""The planner of unpacking: `plan_unpack(dtype, target)` finds a placement and a short program.

A word is cut into lanes (halves for float16, bytes for int8). All lanes do the same, so a word is a
ring of slots: slot s stands for bit s of every lane, and rotating the word turns the ring. One
lop3 that masks a *field*, the slots of one element a lane, out of a *view* (a word, or its
rotation) and adds the exponent makes an output; so the cost is the number of outputs and of
views beside the words. Each word is tiled with as many fields as fit, seen from the fewest
rotations; the slots left over are *gathered*: selects collect them from the views of several words
into a field of a register of its own. A shortest-path search over (words placed, slots that the
field being gathered lacks) finds the cheapest gathering, and smaller bases break ties.

The surprise: a gathered field may lie anywhere, since one rotation brings it within reach.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from tilus.dtypes import DataType, bfloat16, codebook, int8
from tilus.errors import TilusError
from tilus.ir.layout.bit_machine import (
    WORD_NBITS,
    Constant,
    Operand,
    Position,
    UnpackPlan,
    Writer,
    code_values,
    lanes_of,
)

MASK_AND_FLIP = 0x6A  # (a & b) ^ c
MOST_FREEDOM = 2
Cost = tuple[int, float]  # auxiliary instructions, sum of the bases

# NormalFloat of 4 bits: quantiles of the normal distribution with an exact zero, scaled to [-1, 1]
# (Dettmers et al., "QLoRA", arXiv 2305.14314, Appendix E "NormalFloat 4-bit data type").
NF4 = codebook(
    4,
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
)  # fmt: skip


@dataclass(frozen=True)
class Field:
    """Where one lop3 can pick up an element of a lane of `lane` slots.

    Bit k may lie at slot `slots[k] + p` for each p in 0..reach; at p the lanes are to be xor-ed
    with `magic[p]`, and then exceed the value by `base[p]`.
    """

    lane: int
    slots: tuple[int, ...]
    magic: tuple[int, ...]
    base: tuple[float, ...]

    @property
    def reach(self) -> int:
        return len(self.magic) - 1

    def mask(self, start: int) -> int:
        return sum(1 << (slot + start) % self.lane for slot in self.slots)

    def best(self, positions: Sequence[int]) -> int:
        return min(positions, key=lambda p: (abs(self.base[p]), p))


@dataclass(frozen=True)
class Tiling:
    """The fields of one word, as (rotation, position in that view), and the slots left over."""

    rotations: tuple[int, ...]
    fields: tuple[tuple[int, int], ...]
    left: int
    cost: Cost


@dataclass(frozen=True)
class Take:
    """Slots `mask`, in a view rotated by `rotation`, go to the gathered field, which they may
    begin (`start` is its place then)."""

    rotation: int
    mask: int
    start: int | None


Filling = tuple[Cost, Tiling, tuple[Take, ...]]


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
        return _plan_codebook(dtype, target)
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
    if dtype.kind == "codebook" and not np.isfinite(code_values(dtype, target)).all():
        raise TilusError(f"a value of {dtype} overflows {target}", hint="scale the codebook down")


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


def _integer_field(dtype: DataType, target: DataType) -> Field:
    """In the mantissa, at p: with the exponent of 2^(mantissa bits - p) it is that much larger."""
    mantissa = target.mantissa_nbits
    places = range(mantissa - dtype.nbits + 1)
    magic = tuple((target.bias + mantissa - p) << mantissa for p in places)
    base = tuple(float((1 << (mantissa - p)) + _offset(dtype)) for p in places)
    return Field(16, tuple(range(dtype.nbits)), magic, base)


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


def _scale(dtype: DataType, target: DataType, field: Field) -> float:
    if dtype.is_float():
        return 2.0 ** (dtype.bias - target.bias)
    return float(1 << field.slots[0]) if target == int8 else 1.0


# ---- tiling one word -------------------------------------------------------------------------


@cache
def _tilings(field: Field) -> tuple[Tiling, ...]:
    """Words with the most fields, seen from the fewest rotations; one for each way to be left."""
    best: dict[tuple[tuple[int, ...], int], Tiling] = {}
    for starts in _most_disjoint(field):
        for rotations in _fewest_views(field, starts):
            tiling = _tiling(field, starts, rotations)
            key = (rotations, tiling.left)
            if key not in best or tiling.cost < best[key].cost:
                best[key] = tiling
    fewest = min(tiling.cost[0] for tiling in best.values())
    ordered = sorted(best.values(), key=lambda one: (one.cost, one.rotations, one.left))
    return tuple(one for one in ordered if one.cost[0] == fewest)


def _most_disjoint(field: Field) -> list[tuple[int, ...]]:
    for count in range(field.lane // len(field.slots), 0, -1):
        if found := list(_disjoint(field, count, 0, 0)):
            return found
    raise AssertionError("one field fits every lane")


def _disjoint(field: Field, count: int, first: int, used: int) -> Iterator[tuple[int, ...]]:
    if count == 0:
        yield ()
        return
    if field.lane - used.bit_count() < count * len(field.slots):
        return
    for start in range(first, field.lane - count + 1):
        mask = field.mask(start)
        if not mask & used:
            for rest in _disjoint(field, count - 1, start + 1, used | mask):
                yield (start, *rest)


def _fewest_views(field: Field, starts: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All smallest sets of rotations, 0 among them, that bring every start within reach."""
    hidden = [start for start in starts if start > field.reach]
    for count in range(len(hidden) + 1):
        if found := sorted(set(_covers(field, hidden, count))):
            return [(0, *rotations) for rotations in found]
    raise AssertionError("a rotation for each start covers them all")


def _covers(field: Field, hidden: list[int], count: int) -> Iterator[tuple[int, ...]]:
    if not hidden:
        yield ()
    elif count:
        for position in range(field.reach + 1):
            turn = (position - hidden[0]) % field.lane
            rest = [start for start in hidden if (start + turn) % field.lane > field.reach]
            for others in _covers(field, rest, count - 1):
                yield tuple(sorted((turn, *others)))


def _tiling(field: Field, starts: tuple[int, ...], rotations: tuple[int, ...]) -> Tiling:
    seen: list[tuple[int, int]] = []
    used = 0
    for start in starts:
        places = {(start + turn) % field.lane: turn for turn in reversed(rotations)}
        position = field.best([place for place in places if place <= field.reach])
        seen.append((places[position], position))
        used |= field.mask(start)
    left = ((1 << field.lane) - 1) & ~used
    bases = sum(abs(field.base[position]) for _, position in seen)
    return Tiling(rotations, tuple(seen), left, (len(rotations) - 1, bases))


# ---- gathering what is left ------------------------------------------------------------------


def _turned(mask: int, amount: int, lane: int) -> int:
    amount %= lane
    return (mask << amount | mask >> (lane - amount)) & ((1 << lane) - 1)


@cache
def _search(field: Field, words: int, freedom: int) -> tuple[Filling, ...] | None:
    """The cheapest filling of `words` words, by Dijkstra's algorithm; None where there is none."""
    queue: list[tuple[Cost, int, int, int]] = [((0, 0.0), 0, 0, 0)]
    reached: list[tuple[Filling, ...]] = [()]
    done: set[tuple[int, int]] = set()
    while queue:
        cost, word, lacking, index = heapq.heappop(queue)
        if (word, lacking) in done:
            continue
        done.add((word, lacking))
        if word == words:
            if lacking == 0:
                return reached[index]
            continue
        for then, filling in _fillings(field, lacking, freedom):
            if (word + 1, then) not in done:
                total = (cost[0] + filling[0][0], cost[1] + filling[0][1])
                reached.append((*reached[index], filling))
                heapq.heappush(queue, (total, word + 1, then, len(reached) - 1))
    return None


@cache
def _fillings(field: Field, lacking: int, freedom: int) -> tuple[tuple[int, Filling], ...]:
    """(slots lacking after it, how) for the next word: the cheapest way to each."""
    best: dict[int, Filling] = {}
    for tiling in _tilings(field):
        ways = _ways(field, tiling.left, lacking, tiling.rotations, freedom)
        for then, cost, takes in ways:
            total = (tiling.cost[0] + cost[0], tiling.cost[1] + cost[1])
            if then not in best or total < best[then][0]:
                best[then] = (total, tiling, takes)
    return tuple(sorted(best.items()))


@cache
def _ways(
    field: Field, left: int, lacking: int, rotations: tuple[int, ...], freedom: int
) -> tuple[tuple[int, Cost, tuple[Take, ...]], ...]:
    """How the slots `left` of a word go into fields, each take as large as can be.

    Entries are (slots lacking then, cost, takes): the cheapest way to each.
    """
    if left == 0:
        return ((lacking, (0, 0.0), ()),)
    best: dict[int, tuple[Cost, tuple[Take, ...]]] = {}
    for start, target in _targets(field, lacking, freedom):
        opening, base = _opening(field, start)
        for turn, mask in _takes(field, left, target, rotations, freedom):
            if (start or 0) > field.reach and turn not in rotations:
                continue  # a view made for this take can as well bring it within reach
            aux = opening + (turn not in rotations)
            views = tuple(sorted({*rotations, turn}))
            rest = left & ~_turned(mask, -turn, field.lane)
            for then, cost, takes in _ways(field, rest, target & ~mask, views, freedom):
                total = (cost[0] + aux, cost[1] + base)
                if then not in best or total < best[then][0]:
                    best[then] = (total, (Take(turn, mask, start), *takes))
    return tuple((then, cost, takes) for then, (cost, takes) in best.items())


def _takes(
    field: Field, left: int, target: int, rotations: tuple[int, ...], freedom: int
) -> list[tuple[int, int]]:
    """(rotation, the slots of `target` that it brings) of the takes worth trying."""
    turns = range(field.lane) if freedom else rotations
    takes = [(turn, _turned(left, turn, field.lane) & target) for turn in turns]
    if freedom < MOST_FREEDOM:  # a take ends the word or the field
        count = left.bit_count()
        return [(t, m) for t, m in takes if m and (m == target or m.bit_count() == count)]
    most = max(mask.bit_count() for _, mask in takes)
    return [(t, m) for t, m in takes if m and (t in rotations or m.bit_count() == most)]


def _targets(field: Field, lacking: int, freedom: int) -> list[tuple[int | None, int]]:
    if lacking:
        return [(None, lacking)]
    starts = range(field.reach + 1 if freedom == MOST_FREEDOM else field.lane)
    return [(start, field.mask(start)) for start in starts]


def _opening(field: Field, start: int | None) -> Cost:
    """A select for a further take; for the first, a rotation if the field is out of reach."""
    if start is None:
        return 1, 0.0
    if start <= field.reach:
        return 0, abs(field.base[start])
    return 1, min(map(abs, field.base))


# ---- writing the plan ------------------------------------------------------------------------


def _fill(field: Field) -> tuple[Filling, ...]:
    """The cheapest filling of the least freedom that has one; more of it is seldom shorter."""
    size = len(field.slots)
    left = _tilings(field)[0].left.bit_count()
    words = size // math.gcd(size, left) if left else 1
    for freedom in range(MOST_FREEDOM + 1):
        if filled := _search(field, words, freedom):
            return filled
    raise AssertionError("every slot can come alone, through a view of its own")


class _Outputs:
    """Extracts fields into outputs; collects where the bits of their elements lie."""

    def __init__(self, field: Field, words: int):
        self.field = field
        self.writer = Writer(words)
        self.found: list[tuple[int, float, list[tuple[Position, ...]]]] = []

    def extract(self, view: int, position: int) -> None:
        """Mask the field at `position` out of `view`, and flip its constant bits."""
        field = self.field
        mask = Constant(self.spread(field.mask(position)))
        magic = Constant(self.spread(field.magic[position]))
        number = self.writer.step("lop3", view, mask, magic, detail=MASK_AND_FLIP)
        self._found(number, view, position)

    def spread(self, lane_bits: int) -> int:
        """The same bits in every lane of a word."""
        return sum(lane_bits << lane for lane in range(0, WORD_NBITS, self.field.lane))

    def _found(self, number: int, view: int, position: int) -> None:
        places = self.writer.places[view]
        lanes = range(0, WORD_NBITS, self.field.lane)
        elements = [tuple(places[n + s + position] for s in self.field.slots) for n in lanes]
        self.found.append((number, self.field.base[position], elements))

    def gather(self, taken: Sequence[tuple[int, Take]]) -> None:
        """Select the takes, from (word, take), into one register, and extract from it."""
        word, first = taken[0]
        assert first.start is not None
        register = self.writer.rotate(word, first.rotation)
        for word, take in taken[1:]:
            view = self.writer.rotate(word, take.rotation)
            register = self.writer.select(register, view, self.spread(take.mask))
        field, position = self.field, first.start
        if position > field.reach:
            position = field.best(range(field.reach + 1))
            register = self.writer.rotate(register, (position - first.start) % field.lane)
        self.extract(register, position)

    def take_byte(self, word: int, byte: int) -> None:
        """One prmt moves byte `byte` of each half to where the field is, beside the constant."""
        field = self.field
        at = field.slots[0]
        selector = (
            0x4040 + (byte + 2 << 8) + byte if at == 0 else 0x0404 + (byte + 2 << 12) + (byte << 4)
        )
        magic = Constant(self.spread(field.magic[0]) >> 8 & 0xFF) if at == 0 else Constant(0)
        number = self.writer.step("prmt", word, magic, Constant(selector))
        places = self.writer.places[word]
        elements = [
            tuple(places[half + 8 * byte + slot - at] for slot in field.slots) for half in (0, 16)
        ]
        self.found.append((number, field.base[0], elements))


def _plan(dtype: DataType, target: DataType, field: Field) -> UnpackPlan:
    if field.lane == 16 and len(field.slots) == 8 and field.slots[0] in (0, 8):
        outputs = _Outputs(field, 1)
        outputs.take_byte(0, 0)
        outputs.take_byte(0, 1)
    else:
        outputs = _write(field, _fill(field))
    found = _arranged(outputs.found)
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


def _write(field: Field, filled: tuple[Filling, ...]) -> _Outputs:
    outputs = _Outputs(field, len(filled))
    gathered: list[list[tuple[int, Take]]] = []
    for word, (_, tiling, takes) in enumerate(filled):
        for rotation, position in tiling.fields:
            outputs.extract(outputs.writer.rotate(word, rotation), position)
        for take in takes:
            if take.start is not None:
                gathered.append([])
            gathered[-1].append((word, take))
    for taken in gathered:
        outputs.gather(taken)
    return outputs


def _arranged(
    found: list[tuple[int, float, list[tuple[Position, ...]]]],
) -> list[tuple[int, float, list[tuple[Position, ...]]]]:
    """Outputs j, j + 4, .. with equal bases, if the bases allow it."""
    ordered = sorted(found, key=lambda one: one[1])
    quarter = len(found) // 4
    if len(found) % 4 or any(
        len({one[1] for one in ordered[k * quarter : (k + 1) * quarter]}) > 1 for k in range(4)
    ):
        return found
    return [ordered[k * quarter + tile] for tile in range(quarter) for k in range(4)]


def _exact_codes(dtype: DataType, target: DataType) -> tuple[int, ...]:
    """All but patterns that mean inf or nan on one side only, and the 2^-127 of ufloat8_e8m0."""
    codes = range(1 << dtype.nbits)
    if not dtype.is_float():
        return tuple(codes)
    if dtype.specials == "scale":
        return tuple(codes[1:-1])
    values = code_values(dtype, target)
    alike = dtype.specials == "ieee" and dtype.exponent_nbits == target.exponent_nbits
    halves = dtype.exponent_nbits == target.exponent_nbits
    largest = float(target.max_value)
    return tuple(
        code
        for code in codes
        if alike or (np.isfinite(values[code]) and not (halves and abs(values[code]) > largest))
    )


# ---- what is no masking of fields ------------------------------------------------------------


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


def _plan_codebook(dtype: DataType, target: DataType) -> UnpackPlan:
    """Codes are nibbles of a prmt selector, which looks up the bytes of the values.

    The codes of 4 bits keep their top bit aside: two lookups, and a select by a mask of bytes.
    """
    width = min(dtype.nbits, 3)
    field = Field(4, tuple(range(width)), (0,), (0.0,))
    if dtype.nbits == 4:
        selectors = _Outputs(field, 1)
        selectors.extract(0, 0)
    else:
        selectors = _write(field, _fill(field))
    lookup = _Lookup(dtype, target, selectors.writer)
    placement: list[tuple[Position, ...]] = []
    for number, _, elements in selectors.found:
        for half in range(2):
            tops = lookup.look_up(number, half)
            for bits, top in itertools.zip_longest(elements[4 * half : 4 * half + 4], tops):
                placement.append((*bits, top) if top else bits)
    return UnpackPlan(
        dtype, target, len(placement), selectors.writer.words, tuple(placement),
        tuple(selectors.writer.steps), tuple(lookup.outputs), 1.0,
        (0.0,) * len(lookup.outputs), tuple(range(1 << dtype.nbits)),
    )  # fmt: skip


class _Lookup:
    """Looks up the values of four codes at a time, byte by byte."""

    def __init__(self, dtype: DataType, target: DataType, writer: Writer):
        halves = target.to_bits(target.encode(np.array(dtype.values)))
        self.tables = [bytes((halves >> shift & 0xFF).astype(np.uint8)) for shift in (0, 8)]
        self.wide = dtype.nbits == 4
        self.writer = writer
        self.outputs: list[int] = []

    def look_up(self, selector: int, half: int) -> list[Position]:
        """Append the two outputs of the codes in that half; returns where their top bits lie."""
        chosen: Operand = selector
        if half:  # prmt reads the lower half of its selector
            chosen = self.writer.step("shf", selector, Constant(0), detail=16)
        mask, tops = self._mask(half) if self.wide else (None, [])
        low, high = (self._bytes(table, chosen, mask) for table in self.tables)
        for pair in (0x5140, 0x7362):
            self.outputs.append(self.writer.step("prmt", low, high, Constant(pair)))
        return tops

    def _mask(self, half: int) -> tuple[int, list[Position]]:
        """0xff in the byte of each code whose top bit is set; and where these bits are."""
        source = self.writer.step("shf", Constant(0), 0, detail=4) if half else 0
        tops = [(0, 8 * byte + (3 if half else 7)) for byte in range(4)]
        return self.writer.step("prmt", source, Constant(0), Constant(0xBA98)), tops

    def _bytes(self, table: bytes, chosen: Operand, mask: int | None) -> Operand:
        """The bytes that the four codes stand for; a table of zeros needs no lookup."""
        if not any(table):
            return Constant(0)
        words = np.frombuffer(table.ljust(4, b"\0"), "<u4")
        constants = [Constant(int(word)) for word in words]
        lower = self.writer.step("prmt", constants[0], constants[len(constants) > 1], chosen)
        if mask is None:
            return lower
        upper = self.writer.step("prmt", constants[2], constants[3], chosen)
        return self.writer.step("lop3", lower, upper, mask, detail=0xD8)  # (a & ~c) | (b & c)
