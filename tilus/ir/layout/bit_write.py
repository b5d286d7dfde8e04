"""Writing the program of a filling: where bits lie, and the steps that bring them to outputs.

    outputs = write(Outputs(field, words), filled)      # filled = bit_tiling.fill(field)
    outputs.found                                       # (register, base, places of its elements)

Each whole field is masked out of its view, `(view & mask) ^ magic`; each gathered one is first
selected into a register of its own.

The surprise: a float whose largest exponent is finite, of as many bits as float16's, takes four
steps more a field, which rebuild the exponent that would mean inf or nan.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilus.ir.layout.bit_machine import WORD_NBITS, Constant, Position, Writer
from tilus.ir.layout.bit_tiling import Field, Filling, Take

MASK_AND_FLIP = 0x6A  # (a & b) ^ c
Found = tuple[int, float, list[tuple[Position, ...]]]  # register, base, places of its elements


class Outputs:
    """Extracts fields into outputs; collects where the bits of their elements lie."""

    def __init__(self, field: Field, words: int):
        self.field = field
        self.writer = Writer(words)
        self.found: list[Found] = []

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


class FiniteOutputs(Outputs):
    """Outputs of a float with float16's five exponent bits, all of whose patterns are numbers.

    Where the two topmost exponent bits are set, the second is cleared, which makes a number 2^-8
    of what it was, and the others are multiplied by 2^-8 instead. So no exponent is all ones, none
    becomes 0 that was not, and every number comes out multiplied by `FINITE_SCALE`, exactly.
    """

    def extract(self, view: int, position: int) -> None:
        """both = the two topmost exponent bits, and-ed, at the second;
        output = ((view & mask) ^ both) * (both ? 1 : 2^-8)
        """
        step = self.writer.step
        mask = Constant(self.spread(self.field.mask(position)))
        second = Constant(self.spread(0x2000))
        below = self.writer.rotate(view, WORD_NBITS - 1)  # the topmost at the place of the second
        both = step("lop3", view, below, second, detail=0x80)  # a & b & c
        number = step("lop3", view, mask, both, detail=MASK_AND_FLIP)
        # 0x1c00 is 2^-8, and with the bit of `both` 1
        factor = step(
            "lop3", both, Constant(self.spread(0x1C00)), Constant(0), detail=0x3C
        )  # a ^ b
        negative_zero = Constant(self.spread(0x8000))  # the addend that keeps -0
        self._found(step("hfma2", number, factor, negative_zero), view, position)


FINITE_SCALE = 2.0**-8


def write(outputs: Outputs, filled: tuple[Filling, ...]) -> Outputs:
    """Extract all fields of a filling, the gathered ones last; returns `outputs`."""
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


def arranged(found: list[Found]) -> list[Found]:
    """Outputs j, j + 4, .. with equal bases, if the bases allow it."""
    ordered = sorted(found, key=lambda one: one[1])
    quarter = len(found) // 4
    if len(found) % 4 or any(
        len({one[1] for one in ordered[k * quarter : (k + 1) * quarter]}) > 1 for k in range(4)
    ):
        return found
    return [ordered[k * quarter + tile] for tile in range(quarter) for k in range(4)]
