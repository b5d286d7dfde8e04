"""Reading machine code: disassembly, control flow, and what the hottest loop spends.

    listing = parse(disassemble(binary.cubin))[0]
    loop = hottest_loop(listing)             # the way through it with the most matrix instructions
    loop.issue, loop.alu, loop.matrix        # all, on the integer pipe, of the tensor core

The disassembler is nvdisasm, from the wheel `nvidia-cuda-nvdisasm` (extra `inspect`) or on the
PATH. The surprise: the loop's cost is that of one way through its blocks, not of all of them, since
branches around a boundary case or the epilogue of a persistent kernel seldom run.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tilus.errors import TilusError


def _opcodes(names: str) -> frozenset[str]:
    return frozenset(names.split())


# The pipe an instruction is issued to, where it is one that fills up. Warp instructions a clock and
# multiprocessor on sm_80 to sm_90: all together 4, ALU 2, FMA 4, XU 0.5. Source: CUDA C++
# Programming Guide, "Throughput of Native Arithmetic Instructions" (results a clock, over 32).
ALU = _opcodes(
    "LOP3 LOP PLOP3 SHF PRMT IADD IADD3 VIADD VIADDMNMX LEA ISETP SEL IMNMX VIMNMX VIMNMX3 FMNMX "
    "FMNMX3 FSETP FSEL BMSK SGXT IABS F2FP HSETP2 HMNMX2 R2P P2R VABSDIFF"
)
FMA = _opcodes("HFMA2 HADD2 HMUL2 FFMA FADD FMUL IMAD FFMA2 FADD2 FMUL2")
XU = _opcodes("I2F F2I MUFU F2F I2I POPC FLO BREV")
MATRIX = _opcodes("HMMA HGMMA IMMA IGMMA QMMA QGMMA OMMA UTCHMMA UTCIMMA UTCQMMA UTCOMMA")
LOCAL_MEMORY = frozenset({"LDL", "STL"})

_ENDS = frozenset({"EXIT", "RET", "KILL"})
_JUMPS = frozenset({"BRA", "JMP", "BRX", "JMX", "BRXU", "JMXU"})
# A block with one of these and no matrix instruction stores results or waits for other blocks.
_COLD = _opcodes("STG RED REDG ATOM ATOMG ERRBAR CCTL MEMBAR NANOSLEEP UTMASTG UTMAREDG UBLKRED")
_EPILOGUE = 100  # instructions after the last matrix instruction that are more than bookkeeping


@dataclass(frozen=True)
class SassInstruction:
    """One machine instruction, as in `@!P0 HMMA.16816.F32 R4, R8, R12, R4`."""

    address: int
    predicate: str  # "@!P0", or ""
    opcode: str  # with its modifiers
    operands: str

    @property
    def name(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def modifiers(self) -> list[str]:
        return self.opcode.split(".")[1:]

    @property
    def may_be_skipped(self) -> bool:
        """Whether a predicate decides if it runs; a branch may hold one among its operands."""
        if self.predicate not in ("", "@PT", "@UPT"):
            return True
        return self.name in _JUMPS and re.match(r"!?U?P\d", self.operands) is not None

    @property
    def jumps(self) -> bool:
        """Whether it may go elsewhere and not come back. A call of a label nearby is a long jump.

        `BRA.DIV` sends the threads of a warp around that do not run together: it is not expected.
        """
        if self.name == "CALL":
            return ".L" in self.operands
        return self.name in _JUMPS and "DIV" not in self.modifiers


@dataclass(frozen=True)
class Listing:
    """A kernel's instructions in order, and where its labels point (indices of instructions)."""

    name: str
    instructions: tuple[SassInstruction, ...]
    labels: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class LoopCost:
    """What a warp issues in one turn of a loop."""

    instructions: tuple[SassInstruction, ...]

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each opcode occurs, modifiers aside."""
        return Counter(i.name for i in self.instructions)

    def _of(self, names: frozenset[str]) -> int:
        return sum(count for name, count in self.counts.items() if name in names)

    @property
    def issue(self) -> int:
        """Issue slots: every instruction takes one."""
        return len(self.instructions)

    @property
    def alu(self) -> int:
        return self._of(ALU)

    @property
    def fma(self) -> int:
        return self._of(FMA)

    @property
    def xu(self) -> int:
        return self._of(XU)

    @property
    def matrix(self) -> int:
        return self._of(MATRIX)

    @property
    def local_memory(self) -> int:
        """Accesses to local memory: spills and arrays that are indexed at run time."""
        return self._of(LOCAL_MEMORY)

    @property
    def calls(self) -> int:
        """Calls of subroutines, whose instructions are not counted."""
        return sum(i.name == "CALL" and not i.jumps for i in self.instructions)

    def weights(self, operand: str) -> int | None:
        """Elements of the operand "A" or "B" that a lane holds for the matrix instructions.

        None where there is none, or one holds its operands elsewhere than in registers.
        """
        held = [weights_of(i, operand) for i in self.instructions if i.name in MATRIX]
        known = [count for count in held if count is not None]
        return sum(known) if held and len(known) == len(held) else None


_TILE = re.compile(r"16(?P<n>8)(?P<k>\d+)")  # HMMA.16816: 16 x 8 x 16 of a warp
_GROUP_TILE = re.compile(r"64x(?P<n>\d+)x(?P<k>\d+)")  # HGMMA.64x128x16: of four warps


def weights_of(instruction: SassInstruction, operand: str) -> int | None:
    """Elements of operand "A" (rows x k) or "B" (k x columns) in a lane, for one instruction.

    Source: PTX ISA, "Matrix Fragments for mma.m16n8k16" and its like, "Register Fragments for
    wgmma.mma_async.m64k16".

    >>> hmma = SassInstruction(0, "", "HMMA.16816.F32", "R4, R8, R12, R4")
    >>> weights_of(hmma, "A"), weights_of(hmma, "B")
    (8, 4)
    """
    for pattern, rows, lanes in ((_TILE, 16, 32), (_GROUP_TILE, 64, 128)):
        for match in filter(None, map(pattern.fullmatch, instruction.modifiers)):
            extent = rows if operand == "A" else int(match["n"])
            return extent * int(match["k"]) // lanes
    return None


# ---- disassembly ---------------------------------------------------------------------------------


def find_disassembler() -> str:
    """The path of nvdisasm. Raises `TilusError` with what to install where there is none."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in ("nvdisasm", "nvdisasm.exe"):
            return str(file.locate())
    found = shutil.which("nvdisasm")
    if found is None:
        raise TilusError(
            "reading machine code needs nvdisasm",
            expected="the package nvidia-cuda-nvdisasm, or nvdisasm on the PATH",
            hint='pip install "tilus-vm[inspect]"',
        )
    return found


def disassemble(cubin: bytes) -> str:
    """The SASS of a cubin as text, with labels. Raises `TilusError` where nvdisasm refuses it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [find_disassembler(), "-c", str(path)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise TilusError("nvdisasm could not be started", found=str(error)) from None
    if result.returncode:
        raise TilusError("nvdisasm could not read the cubin", found=result.stderr.strip()[:400])
    return result.stdout


_FUNCTION = re.compile(r"^\.text\.(\S+):")
_LABEL = re.compile(r"^(\.L\w+):")
_LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")


def parse(listing: str) -> list[Listing]:
    """The kernels of a listing of nvdisasm, without those that have no instruction.

    >>> [kernel] = parse('''.text.f:
    ... .L_x_0:
    ...         /*0000*/               @!P0 BRA `(.L_x_0) ;
    ...         /*0010*/                   EXIT ;''')
    >>> kernel.name, len(kernel.instructions), kernel.labels
    ('f', 2, {'.L_x_0': 0})
    """
    found: list[Listing] = []
    name, instructions, labels = "", list[SassInstruction](), dict[str, int]()

    def finish() -> None:
        if instructions:
            found.append(Listing(name, tuple(instructions), labels))

    for line in listing.splitlines():
        if match := _FUNCTION.match(line.strip()):
            finish()
            name, instructions, labels = match[1], [], {}
        elif match := _LABEL.match(line.strip()):
            labels[match[1]] = len(instructions)
        elif match := _LINE.match(line):
            address, predicate, opcode, operands = match.groups()
            instructions.append(
                SassInstruction(int(address, 16), predicate or "", opcode, operands)
            )
    finish()
    return found


# ---- control flow --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """Instructions [start, end) that run one after the other, and the blocks that may follow."""

    start: int
    end: int
    successors: tuple[int, ...]


def basic_blocks(listing: Listing) -> tuple[Block, ...]:
    """The control-flow graph; the entry is block 0."""
    count = len(listing.instructions)
    following = _following(listing)
    jumps = {i: nexts for i, nexts in enumerate(following) if nexts != [i + 1]}
    starts = {0, *(i + 1 for i in jumps), *(target for nexts in jumps.values() for target in nexts)}
    edges = sorted(starts - {count})
    number = {start: block for block, start in enumerate(edges)}
    return tuple(
        Block(start, end, tuple(sorted({number[i] for i in following[end - 1] if i < count})))
        for start, end in zip(edges, [*edges[1:], count], strict=True)
    )


def _following(listing: Listing) -> list[list[int]]:
    """The instructions that may run after each; one after the last one is the end."""
    meeting: dict[str, list[int]] = {}  # where the barrier of a region lets threads meet again
    result: list[list[int]] = []
    for index, instruction in enumerate(listing.instructions):
        barrier = re.match(r"B\d+", instruction.operands)
        if instruction.name == "BSSY" and barrier:
            meeting[barrier[0]] = _labels(listing, instruction)
        targets = _targets(listing, instruction)
        if instruction.name == "BSYNC" and barrier:
            targets = meeting.get(barrier[0]) or None
        ends = targets is not None and not instruction.may_be_skipped
        result.append([*(targets or []), *([] if ends else [index + 1])])
    return result


def _targets(listing: Listing, instruction: SassInstruction) -> list[int] | None:
    """Where an instruction may jump to; None where it goes on to the next."""
    if instruction.name in _ENDS:
        return []
    return _labels(listing, instruction) if instruction.jumps else None


def _labels(listing: Listing, instruction: SassInstruction) -> list[int]:
    """The places of the labels among the operands; an indirect branch lists all it may take."""
    names = re.findall(r"\.L\w+", instruction.operands)
    return [listing.labels[name] for name in names if name in listing.labels]


@dataclass(frozen=True)
class _Loop:
    """A natural loop: `latches` are the blocks that jump back to the header."""

    header: int
    body: frozenset[int]
    latches: tuple[int, ...]


class _Flow:
    """Loops of a control-flow graph, and ways through them."""

    def __init__(self, listing: Listing):
        self.listing = listing
        self.blocks = basic_blocks(listing)
        self.order = {block: place for place, block in enumerate(_reverse_postorder(self.blocks))}
        self.costs = [LoopCost(listing.instructions[b.start : b.end]) for b in self.blocks]
        self.matrices = [cost.matrix for cost in self.costs]

    def loops(self) -> list[_Loop]:
        """One loop a header, the blocks of all its back edges together."""
        predecessors: dict[int, list[int]] = {}
        latches: dict[int, list[int]] = {}
        for source in self.order:
            for target in self.blocks[source].successors:
                predecessors.setdefault(target, []).append(source)
                backwards = self.order[target] <= self.order[source]
                if backwards and self._dominates(target, source):
                    latches.setdefault(target, []).append(source)
        return [
            _Loop(header, _body(header, sources, predecessors), tuple(sources))
            for header, sources in latches.items()
        ]

    def _dominates(self, head: int, block: int) -> bool:
        """Whether every way from the entry to `block` passes `head`."""
        return block not in _reachable(self.blocks, without=head)

    def matrix(self, blocks: Iterable[int]) -> int:
        return sum(self.matrices[block] for block in blocks)

    def size(self, blocks: Iterable[int]) -> int:
        return sum(self.costs[block].issue for block in blocks)

    def hot_path(self, loop: _Loop) -> list[int]:
        """The blocks of one turn: those with the most matrix instructions, then with the most."""
        warm = set(loop.body)
        if self.matrix(warm):
            warm -= {block for block in warm if self._is_cold(block)} - {loop.header}
        ways = self._ways(loop.header, warm, self._heavier)
        ends = [block for block in loop.latches if block in ways]
        # Where every way back stores results, storing is what the loop does.
        if not ends:
            ways = self._ways(loop.header, loop.body, self._heavier)
            ends = [block for block in loop.latches if block in ways]
        path = max((ways[end] for end in ends), key=self._heavier)
        return self._without_epilogue(path, loop)

    def _heavier(self, path: list[int]) -> tuple[int, int]:
        return self.matrix(path), self.size(path)

    def _shorter(self, path: list[int]) -> tuple[int, int]:
        return -self.size(path), 0

    def _is_cold(self, block: int) -> bool:
        return not self.matrices[block] and not _COLD.isdisjoint(self.costs[block].counts)

    def _ways(
        self, start: int, allowed: Iterable[int], value: Callable[[list[int]], tuple[int, int]]
    ) -> dict[int, list[int]]:
        """To each block the best path from `start` that goes forward through `allowed` blocks."""
        ways = {start: [start]}
        for block in sorted(allowed, key=self.order.__getitem__):
            for after in self.blocks[block].successors if block in ways else ():
                if after not in allowed or self.order[after] <= self.order[block]:
                    continue
                path = [*ways[block], after]
                if after not in ways or value(path) > value(ways[after]):
                    ways[after] = path
        return ways

    def _without_epilogue(self, path: list[int], loop: _Loop) -> list[int]:
        """A long way back after the last matrix block is left out if there is a short one.

        A persistent kernel finishes a tile there, once in many turns.
        """
        heavy = [place for place, block in enumerate(path) if self.matrices[block]]
        if not heavy:
            return path
        last = heavy[-1]
        ways = self._ways(path[last], loop.body, self._shorter)
        tail = min((ways[end] for end in loop.latches if end in ways), key=self.size)
        saved = self.size(path[last:]) - self.size(tail)
        return path[:last] + tail if saved > _EPILOGUE else path


def _reverse_postorder(blocks: tuple[Block, ...]) -> list[int]:
    """The blocks that can be reached, each before those after it, back edges aside."""
    order: list[int] = []
    seen = {0}
    work: list[tuple[int, Iterator[int]]] = [(0, iter(blocks[0].successors))]
    while work:
        block, successors = work[-1]
        fresh = next((s for s in successors if s not in seen), None)
        if fresh is None:
            order.append(block)
            work.pop()
        else:
            seen.add(fresh)
            work.append((fresh, iter(blocks[fresh].successors)))
    return order[::-1]


def _reachable(blocks: tuple[Block, ...], without: int) -> set[int]:
    """The blocks that can be reached from the entry when `without` cannot be passed."""
    work = [0] if without else []
    seen = set(work)
    while work:
        fresh = set(blocks[work.pop()].successors) - seen - {without}
        seen |= fresh
        work += fresh
    return seen


def _body(header: int, latches: list[int], predecessors: dict[int, list[int]]) -> frozenset[int]:
    body, work = {header}, list(latches)
    while work:
        block = work.pop()
        if block not in body:
            body.add(block)
            work += predecessors.get(block, [])
    return frozenset(body)


def hottest_loop(listing: Listing) -> LoopCost | None:
    """One turn of the innermost loop with the most matrix instructions; None without any loop.

    Among loops without matrix instructions it is the innermost one with the most instructions.
    Loops without any inside a loop that has some, as those that wait for a barrier, count once.
    """
    flow = _Flow(listing)
    loops = flow.loops()
    heavy = [loop for loop in loops if flow.matrix(loop.body)]
    outer = heavy or loops
    innermost = [a for a in outer if not any(b.body < a.body for b in outer)]
    paths = [flow.hot_path(loop) for loop in innermost]
    if not paths:
        return None
    best = max(paths, key=lambda path: (flow.matrix(path), flow.size(path)))
    return LoopCost(tuple(i for block in best for i in flow.costs[block].instructions))
