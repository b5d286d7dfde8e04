"""Where the fields of a word lie, so that few instructions bring all of them within reach.

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
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

MOST_FREEDOM = 2
Cost = tuple[int, float]  # auxiliary instructions, sum of the bases


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


def fill(field: Field) -> tuple[Filling, ...]:
    """The cheapest filling of the least freedom that has one; more of it is seldom shorter."""
    size = len(field.slots)
    left = _tilings(field)[0].left.bit_count()
    words = size // math.gcd(size, left) if left else 1
    for freedom in range(MOST_FREEDOM + 1):
        if filled := _search(field, words, freedom):
            return filled
    raise AssertionError("every slot can come alone, through a view of its own")


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
