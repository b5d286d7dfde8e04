"""mbarrier objects: barriers of shared memory that count arrivals and bytes, phase by phase.

The 64 bits of an object, whose layout the manual leaves open, are here
    bits 0..19   arrivals that the current phase still waits for
    bits 20..39  arrivals of every phase
    bits 40..60  bytes that the phase still waits for, plus 2^20
    bit 61       the parity of the current phase
    bit 63       set from init to inval
A state, what an arrival gives, is the word as it was before. Source: PTX ISA, "mbarrier".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import numpy as np

from tilus.errors import TilusError
from tilus.ptx.machine import WARP, Machine, opcode
from tilus.ptx.memory import Array, SharedMemory
from tilus.ptx.syntax import Instruction
from tilus.ptx.transfer import places, space_of

SIZE = 8
COUNT = (1 << 20) - 1  # the greatest number of arrivals, and of bytes
FIRST_MEETING = 1 << 16  # mbarriers follow the 16 barriers of a block among the meetings


@dataclass(frozen=True)
class Word:
    """What the 64 bits of an object mean."""

    pending: int
    expected: int
    bytes: int = 0
    parity: int = 0

    @staticmethod
    def decode(bits: int) -> Word:
        if not bits >> 63:
            raise TilusError(
                "this is no mbarrier object",
                found=f"{bits:#x}",
                hint="let one thread execute mbarrier.init, then a barrier",
            )
        transferred = (bits >> 40 & (1 << 21) - 1) - (1 << 20)
        return Word(bits & COUNT, bits >> 20 & COUNT, transferred, bits >> 61 & 1)

    def encode(self) -> int:
        low = self.pending | self.expected << 20
        return low | self.bytes + (1 << 20) << 40 | self.parity << 61 | 1 << 63


@dataclass(eq=False)
class _Parties:
    """Who arrived in the current phase, and who in the one before; with those who saw its end."""

    now: set[int] = field(default_factory=set[int])
    before: set[int] = field(default_factory=set[int])


_parties: WeakKeyDictionary[SharedMemory, dict[int, _Parties]] = WeakKeyDictionary()


def _locate(m: Machine, op: Instruction, place: int) -> Array:
    """The offsets of the objects in shared memory, checked; every use of one is atomic."""
    address = np.zeros(m.lanes.shape, np.int64)
    for space, mask, found in places(m, op.operands[place], space_of(op)):
        if space != "shared":
            raise op.refusal(f"an object in {space} memory")
        address[mask] = found
    start = m.shared.locate(m.lanes, address, SIZE)
    initial = op.has("init") or op.has("inval")
    m.shared.mark_written(start[:, None] + np.arange(SIZE), atomic=not initial)
    return start


def _number(m: Machine, op: Instruction, place: int, default: int) -> Array:
    if len(op.operands) <= place:
        return np.full(m.lanes.shape, default)
    return np.broadcast_to(m.read(op.operands[place], "u32"), m.lanes.shape).astype(np.int64)


@opcode("mbarrier")
def _mbarrier(m: Machine, op: Instruction) -> None:
    action = ACTIONS.get(op.modifiers[0])
    if action is None:
        raise op.refusal()
    action(m, op)


def _init(m: Machine, op: Instruction) -> None:
    start, counts = _locate(m, op, 0), _number(m, op, 1, 1)
    if ((counts < 1) | (counts > COUNT)).any():
        raise TilusError(
            "this number of arrivals is not possible",
            found=str(int(counts.min() if counts.min() < 1 else counts.max())),
            expected=f"1 to {COUNT}",
        )
    words = [Word(n, n).encode() for n in counts.tolist()]
    m.shared.data.view(np.uint64)[start // SIZE] = np.array(words, np.uint64)
    for offset in start.tolist():
        _parties.setdefault(m.shared, {})[offset] = _Parties()
    m.stored()


def _inval(m: Machine, op: Instruction) -> None:
    m.shared.data.view(np.uint64)[_locate(m, op, 0) // SIZE] = 0


# ---- arrivals -----------------------------------------------------------------------------------


def _arrive(m: Machine, op: Instruction) -> None:
    """Each lane arrives, `count` times; with .expect_tx once, and the phase waits for bytes."""
    start, number = _locate(m, op, 1), _number(m, op, 2, 1)
    expects = op.has("expect_tx")

    def update(word: Word, lane: int) -> Word:
        count = 1 if expects else int(number[lane])
        if op.modifiers[0] == "arrive_drop":
            word = replace(word, expected=word.expected - count)
        if expects:
            word = replace(word, bytes=word.bytes + int(number[lane]))
        return _arrived(op, word, count)

    states = _each(m, start, update, arrives=True)
    m.write(op.operands[0], states)


def _arrived(op: Instruction, word: Word, count: int) -> Word:
    if count > word.pending or word.expected < 0:
        raise TilusError(
            "more threads arrive at an mbarrier than it expects",
            found=f"{count} arrivals",
            expected=f"at most {word.pending}, of {word.expected}",
        )
    word = replace(word, pending=word.pending - count)
    if op.has("noComplete") and word.pending == 0:
        raise TilusError("an arrival with .noComplete completes its phase")
    return word


def _expect_tx(m: Machine, op: Instruction) -> None:
    start, number = _locate(m, op, 0), _number(m, op, 1, 0)
    _each(m, start, lambda word, lane: replace(word, bytes=word.bytes + int(number[lane])))


def _complete_tx(m: Machine, op: Instruction) -> None:
    start, number = _locate(m, op, 0), _number(m, op, 1, 0)
    _each(m, start, lambda word, lane: replace(word, bytes=word.bytes - int(number[lane])))


def _each(
    m: Machine, start: Array, update: Callable[[Word, int], Word], *, arrives: bool = False
) -> Array:
    """Update the objects lane after lane, and end phases; returns the words before."""
    cells = m.shared.data.view(np.uint64)
    before = np.zeros(m.lanes.shape, np.uint64)
    for lane, offset in enumerate(start.tolist()):
        before[lane] = cells[offset // SIZE]
        word = update(Word.decode(int(before[lane])), lane)
        if abs(word.bytes) > COUNT:
            raise TilusError("an mbarrier counts too many bytes", found=str(word.bytes))
        parties = _parties[m.shared][offset]
        if arrives:
            parties.now.add(int(m.lanes[lane]))
        if word.pending == 0 and word.bytes == 0:
            word = Word(word.expected, word.expected, 0, word.parity ^ 1)
            parties.before, parties.now = parties.now, set()
        cells[offset // SIZE] = word.encode()
    m.stored()
    return before


# ---- waiting ------------------------------------------------------------------------------------


def _test_wait(m: Machine, op: Instruction) -> None:
    """Whether the phase of a state, or the one of this parity, is complete."""
    start = _locate(m, op, 1)
    if op.has("parity"):
        parity = np.broadcast_to(m.read(op.operands[2], "u32"), m.lanes.shape) & np.uint32(1)
    else:
        parity = np.broadcast_to(m.read(op.operands[2], "u64"), m.lanes.shape) >> np.uint64(61)
        parity = parity & np.uint64(1)
    words = m.shared.data.view(np.uint64)[start // SIZE]
    current = np.array([Word.decode(bits).parity for bits in words.tolist()])
    done = current != parity
    _order(m, start, done)
    m.poll()
    m.write(op.operands[0], done)


def _order(m: Machine, start: Array, done: Array) -> None:
    """What those did who arrived is visible to those who saw the end of the phase.

    A lane stands for its warp, as one lane often arrives or waits for all, beside a bar.warp.sync.
    """
    for offset in np.unique(start[done]).tolist():
        parties = _parties[m.shared][offset]
        parties.before.update(m.lanes[done & (start == offset)].tolist())
        lanes = np.array(sorted(parties.before))
        block = int(lanes[0]) // m.threads * m.threads
        warps = np.unique((lanes - block) // WARP)
        thread = (warps[:, None] * WARP + np.arange(WARP)).reshape(-1)
        m.shared.meet(FIRST_MEETING + offset % m.shared.size, block + thread[thread < m.threads])


def _pending_count(m: Machine, op: Instruction) -> None:
    state = np.broadcast_to(m.read(op.operands[1], "u64"), m.lanes.shape)
    m.write(op.operands[0], (state & np.uint64(COUNT)).astype(np.uint32))


ACTIONS: dict[str, Callable[[Machine, Instruction], None]] = {
    "init": _init,
    "inval": _inval,
    "arrive": _arrive,
    "arrive_drop": _arrive,
    "expect_tx": _expect_tx,
    "complete_tx": _complete_tx,
    "test_wait": _test_wait,
    "try_wait": _test_wait,
    "pending_count": _pending_count,
}
