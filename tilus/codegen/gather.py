"""Bringing bits to their places: the fewest shifts, byte permutations and masks for one word.

    want bits 0..3 from 8..11 and 20..23 from 12..15, ones 0x54006400
    ->  t0 = prmt(x[0], 0x0u, 0x2121u)
        t1 = and_or(t0, 0xf0000fu, 0x54006400u)

A word is the union of a few *moves*, each of which brings some bits from where they are to where
they are wanted: a rotation of one source word, a shift of two neighbouring words, or a permutation
of the bytes of one or two (shifted) words. One LOP3 masks a move and joins it to what is there, the
constant bits included.

The surprise: a move made for an earlier word is free, so what is cheapest depends on what was
gathered before. The search is greedy over the words, and exhaustive for up to two moves a word.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from tilus.codegen.words import ALL_BITS, Builder

# Scattered bits have many moves, and few of them bring much: then greed does as well as a search.
MOST_MOVES_TO_PAIR = 48
MOST_WORDS_TO_PAIR = 8
Atom = tuple[object, ...]  # names an instruction of a move; two moves can share it
ByteChoices = dict[tuple[int, int], list[tuple[int, int, int]]]


@dataclass(frozen=True)
class Pattern:
    """What one word shall hold.

    Args:
        want: source bit (32 * word + bit) by destination bit 0..31.
        ones: mask of the destination bits that are 1; none of them is wanted.
        flip: mask of wanted bits to be inverted.
        free: mask of the destination bits that may be anything; all others are 0.
    """

    want: Mapping[int, int]
    ones: int = 0
    flip: int = 0
    free: int = 0

    @property
    def covers(self) -> int:
        """Mask of the wanted bits."""
        return sum(1 << d for d in self.want)


@dataclass(frozen=True)
class Move(ABC):
    """The base of all moves.

    Args:
        covers: mask of the destination bits that are right after the move.
        spoils: mask of other bits that may be 1 although nobody wants them so.
        carries: mask of the pattern's ones that the move brings along.
    """

    covers: int
    spoils: int
    carries: int

    @abstractmethod
    def atoms(self, gatherer: Gatherer) -> Iterator[Atom]:
        """The instructions it needs."""

    @abstractmethod
    def emit(self, gatherer: Gatherer) -> int:
        """The value that holds the bits."""


@dataclass(frozen=True)
class Turn(Move):
    """A source word rotated right; by a shift, where no wanted bit comes round."""

    word: int
    amount: int
    kind: str  # "shr", "shl" or "funnel"

    @staticmethod
    def of(word: int, amount: int, covers: int) -> Turn:
        """The rotation by `amount`, or the shift that does as well for the bits `covers`."""
        staying = ALL_BITS >> amount
        if covers & ~staying == 0:
            return Turn(covers, staying & ~covers, 0, word, amount, "shr")
        if covers & staying == 0:
            return Turn(covers, ALL_BITS & ~staying & ~covers, 0, word, amount, "shl")
        return Turn(covers, ALL_BITS & ~covers, 0, word, amount, "funnel")

    def atoms(self, gatherer: Gatherer) -> Iterator[Atom]:
        if self.amount:
            yield ("turn", self.word, self.amount, self.kind)

    def emit(self, gatherer: Gatherer) -> int:
        b, source = gatherer.builder, gatherer.sources[self.word]
        gatherer.turns.add(self.amount)
        if self.kind == "funnel":
            return b.emit("funnel", source, source, b.const(self.amount))
        amount = self.amount if self.kind == "shr" else 32 - self.amount
        return b.emit(self.kind, source, b.const(amount))


@dataclass(frozen=True)
class Straddle(Move):
    """Bits `amount` .. `amount + 31` of the 64 that words `word` and `word + 1` make."""

    word: int
    amount: int

    def atoms(self, gatherer: Gatherer) -> Iterator[Atom]:
        yield ("straddle", self.word, self.amount)

    def emit(self, gatherer: Gatherer) -> int:
        b, sources = gatherer.builder, gatherer.sources
        return b.emit("funnel", sources[self.word], sources[self.word + 1], b.const(self.amount))


@dataclass(frozen=True)
class Permute(Move):
    """Bytes of one or two words, which may be turned first.

    `selectors` names a byte 0..7 for each destination byte, or is None where any will do; behind a
    single word, bytes 4..7 are those of `constant`.
    """

    turns: tuple[Turn, ...]
    selectors: tuple[int | None, ...]
    constant: int

    def atoms(self, gatherer: Gatherer) -> Iterator[Atom]:
        for turn in self.turns:
            yield from turn.atoms(gatherer)
        yield (*self._operands(), self._selector(gatherer))

    def emit(self, gatherer: Gatherer) -> int:
        b = gatherer.builder
        values = [turn.emit(gatherer) for turn in self.turns]
        second = values[1] if len(values) == 2 else b.const(self.constant)
        selector = self._selector(gatherer)
        gatherer.selectors[self._operands()].add(selector)
        return b.emit("prmt", values[0], second, b.const(selector))

    def _operands(self) -> Atom:
        return ("prmt", self.constant, *((t.word, t.amount, t.kind) for t in self.turns))

    def _selector(self, gatherer: Gatherer) -> int:
        """One in use that will do; else bytes of no need continue the run before them."""
        used = gatherer.selectors.get(self._operands(), set[int]())
        for selector in sorted(used):
            nibbles = [(selector >> (4 * i)) & 0xF for i in range(4)]
            if all(s in (None, n) for s, n in zip(self.selectors, nibbles, strict=True)):
                return selector
        selector, previous = 0, -1
        for i, choice in enumerate(self.selectors):
            previous = (previous + 1) % 4 if choice is None else choice
            selector |= previous << (4 * i)
        return selector


@dataclass(frozen=True)
class Shifted(Move):
    """A permutation of bytes, shifted right by `amount` (left where it is negative).

    Its permutation is often there already, for bits of the same bytes that need no shift.
    """

    permute: Permute
    amount: int

    def atoms(self, gatherer: Gatherer) -> Iterator[Atom]:
        *_, key = atoms = list(self.permute.atoms(gatherer))
        yield from atoms
        yield ("shifted", self.amount, key)

    def emit(self, gatherer: Gatherer) -> int:
        b, value = gatherer.builder, self.permute.emit(gatherer)
        return b.emit("shr" if self.amount > 0 else "shl", value, b.const(abs(self.amount)))


@dataclass(frozen=True)
class Plan:
    """The moves that gather a pattern, and how many new instructions that takes."""

    pattern: Pattern
    moves: tuple[Move, ...]
    cost: int


class Gatherer:
    """Gathers words from source words (values of a builder), remembering the moves made.

    >>> b = Builder(1)
    >>> word = Gatherer(b, [0]).gather(Pattern({0: 4, 1: 5, 16: 6}, ones=0x100))
    >>> b.finish([word], 1).cost
    4
    """

    def __init__(self, builder: Builder, sources: Sequence[int]):
        self.builder = builder
        self.sources = list(sources)
        self.made: set[Atom] = set()
        self.turns = {0}  # the rotations made of any source word
        self.selectors: defaultdict[Atom, set[int]] = defaultdict(set)

    def gather(self, pattern: Pattern, onto: int | None = None) -> int:
        """The value of a pattern, joined to the value `onto` if there is one."""
        return self.emit(self.plan(pattern), onto)

    def plan(self, pattern: Pattern) -> Plan:
        """The cheapest way found; pairs of moves are tried where no single move is cheap."""
        if not pattern.want:
            return Plan(pattern, (), 0)
        moves, covers = _moves(pattern), pattern.covers
        plans = [self._priced(pattern, (move,)) for move in moves if move.covers == covers]
        cheap = plans and min(plan.cost for plan in plans) <= 2
        if not cheap and len(moves) <= MOST_MOVES_TO_PAIR:
            plans += [
                self._priced(pattern, pair)
                for pair in combinations(moves, 2)
                if pair[0].covers | pair[1].covers == covers
            ]
        return min(plans, key=lambda plan: plan.cost) if plans else self._greedy(pattern, moves)

    def emit(self, plan: Plan, onto: int | None = None) -> int:
        """Make the moves of a plan and join them."""
        b, pattern = self.builder, plan.pattern
        selector = _byte_selector(pattern, plan.moves) if onto is None else None
        if selector is not None:
            self.made.update(atom for move in plan.moves for atom in move.atoms(self))
            return b.emit("prmt", *(move.emit(self) for move in plan.moves), b.const(selector))
        constant = pattern.ones ^ pattern.flip
        join = "xor" if pattern.flip else "or"
        result, left = onto, pattern.covers
        for move in plan.moves:
            self.made.update(move.atoms(self))
            value, mask = move.emit(self), move.covers & left
            third = b.const(constant & ~move.carries) if result is None else result
            if _dirt(pattern, move, left):
                result = b.emit(f"and_{join}", value, b.const(mask), third)
            else:
                result = b.emit(join, value, third)
            left &= ~mask
        return b.const(constant) if result is None else result

    def _priced(self, pattern: Pattern, moves: tuple[Move, ...]) -> Plan:
        atoms = {atom for move in moves for atom in move.atoms(self)} - self.made
        if _byte_selector(pattern, moves) is not None:
            return Plan(pattern, moves, len(atoms) + 1)
        constant = (pattern.ones ^ pattern.flip) & ~moves[0].carries
        first = constant != 0 or _dirt(pattern, moves[0], pattern.covers) != 0
        return Plan(pattern, moves, len(atoms) + first + len(moves) - 1)

    def _greedy(self, pattern: Pattern, moves: list[Move]) -> Plan:
        """Always the move that brings most new bits an instruction."""
        left, chosen = pattern.covers, list[Move]()
        while left:
            made = self.made.union(atom for move in chosen for atom in move.atoms(self))

            def gain(move: Move, left: int = left, made: set[Atom] = made) -> float:
                new = set(move.atoms(self)) - made
                return (move.covers & left).bit_count() / (1 + len(new))

            chosen.append(max(moves, key=gain))
            left &= ~chosen[-1].covers
        return self._priced(pattern, tuple(chosen))


def _byte_selector(pattern: Pattern, moves: tuple[Move, ...]) -> int | None:
    """The PRMT that joins two moves of whole bytes, of which nothing is to be masked."""
    if len(moves) != 2 or pattern.flip or pattern.covers | pattern.free != ALL_BITS:
        return None
    selector = 0
    for byte in range(4):
        bits = 0xFF << (8 * byte) & pattern.covers
        which = 0 if bits & ~moves[0].covers == 0 else 4
        if bits & ~moves[which // 4].covers:
            return None
        selector |= (which + byte) << (4 * byte)
    return selector


def _dirt(pattern: Pattern, move: Move, left: int) -> int:
    """Mask of the bits that must be cleared after a move that is to bring the bits `left`."""
    return (move.spoils | (move.covers & ~left)) & ~pattern.free & ~move.carries


def _moves(pattern: Pattern) -> list[Move]:
    """Every move that brings a wanted bit, the simplest first."""
    turns: defaultdict[tuple[int, int], int] = defaultdict(int)
    straddles: defaultdict[tuple[int, int], int] = defaultdict(int)
    words: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for d, source in pattern.want.items():
        turns[source // 32, (source - d) % 32] |= 1 << d
        distance = source - d
        straddles[divmod(distance, 32)] |= 1 << d
        words[divmod(distance, 32)].add(source // 32)
    moves: list[Move] = [Turn.of(word, by, covers) for (word, by), covers in turns.items()]
    moves += [
        Straddle(covers, ALL_BITS & ~covers, 0, *place)
        for place, covers in straddles.items()
        if len(words[place]) == 2
    ]
    return [*moves, *_shifted_permutes(pattern), *_permutes(pattern)]


def _shifted_permutes(pattern: Pattern) -> Iterator[Move]:
    """For the bits that no permutation brings as they are: one that a shift by 1..7 follows."""
    for turn in sorted({(source - d) % 8 for d, source in pattern.want.items()} - {0}):
        for amount in (turn, turn - 8):
            want = {
                d + amount: source
                for d, source in pattern.want.items()
                if (source - d) % 8 == turn and 0 <= d + amount < 32
            }
            before = _byte_choices(want)
            for keys in [*((key,) for key in before), *_pairs(before)]:
                permute = _permute(Pattern(want, free=ALL_BITS), before, keys)
                covers = permute.covers >> amount if amount > 0 else permute.covers << -amount
                room = ALL_BITS >> amount if amount > 0 else (ALL_BITS << -amount) & ALL_BITS
                yield Shifted(covers, room & ~covers, 0, permute, amount)


def _permutes(pattern: Pattern) -> Iterator[Move]:
    """Permutations of the bytes of one or two words, each turned by 0..7."""
    choices = _byte_choices(pattern.want)
    for key in choices:
        if len({byte for byte, _, _ in choices[key]}) > 1 or key[1] == 0:
            yield _permute(pattern, choices, (key,))
    for pair in _pairs(choices):
        yield _permute(pattern, choices, pair)


def _pairs(choices: ByteChoices) -> Iterator[tuple[tuple[int, int], ...]]:
    """Two turned words each, unless bits are so scattered that no pair can bring many of them."""
    return combinations(choices, 2) if len(choices) <= MOST_WORDS_TO_PAIR else iter(())


def _byte_choices(want: Mapping[int, int]) -> ByteChoices:
    """(word, turn 0..7) -> (destination byte, byte of the turned word, the bits it brings)."""
    found: defaultdict[tuple[int, int, int, int], int] = defaultdict(int)
    for d, source in want.items():
        turn = (source - d) % 8
        found[source // 32, turn, d // 8, (source % 32 - turn) % 32 // 8] |= 1 << d
    choices: ByteChoices = {}
    for (word, turn, byte, origin), covers in found.items():
        choices.setdefault((word, turn), []).append((byte, origin, covers))
    return choices


def _permute(pattern: Pattern, choices: ByteChoices, keys: tuple[tuple[int, int], ...]) -> Permute:
    """The permutation that brings most bits for each byte from the turned words `keys`."""
    best: dict[int, tuple[int, int, int]] = {}  # destination byte: covers, which word, origin
    for which, key in enumerate(keys):
        for byte, origin, covers in choices[key]:
            if byte not in best or covers.bit_count() > best[byte][0].bit_count():
                best[byte] = (covers, which, origin)
    covers = sum(c for c, _, _ in best.values())
    selectors: list[int | None] = [None] * 4
    turned = [0] * len(keys)  # the bits of each turned word that count
    for byte, (bits, which, origin) in best.items():
        selectors[byte] = 4 * which + origin
        turned[which] |= ((bits >> (8 * byte)) & 0xFF) << (8 * origin)
    turns = tuple(Turn.of(*key, bits) for key, bits in zip(keys, turned, strict=True))
    if len(keys) == 1 and covers == pattern.covers and _whole_bytes(pattern, covers):
        constant = _constant_bytes(pattern, selectors)
        return Permute(covers, 0, pattern.ones, turns, tuple(selectors), constant)
    return Permute(covers, ALL_BITS & ~covers, 0, turns, tuple(selectors), 0)


def _whole_bytes(pattern: Pattern, covers: int) -> bool:
    """Whether every byte with a wanted bit is wanted altogether."""
    wanted = (covers | pattern.free).to_bytes(4, "little")
    return all(w == 0xFF for w, c in zip(wanted, covers.to_bytes(4, "little"), strict=True) if c)


def _constant_bytes(pattern: Pattern, selectors: list[int | None]) -> int:
    """The word of the bytes nobody wants; fills in their selectors."""
    constants = list[int]()
    ones, free = pattern.ones.to_bytes(4, "little"), pattern.free.to_bytes(4, "little")
    for byte, choice in enumerate(selectors):
        if choice is None and free[byte] != 0xFF:
            if ones[byte] not in constants:
                constants.append(ones[byte])
            selectors[byte] = 4 + constants.index(ones[byte])
    # the same bytes again to the end, so that 0x64 makes the word 0x64646464
    return sum(constants[i % len(constants)] << (8 * i) for i in range(4)) if constants else 0
