"""What instructions write their CUDA through.

    def emit(self, e):
        y, x = e.declare(self.out), e.tile(self.x)
        with e.unrolled(self.out.layout.local_size) as i:
            e(f"{y}[{i}] = -{x}[{i}];")

A register tile is a local array per thread. Types of 32 and 64 bits and bool are arrays of
elements; narrower ones are arrays of 32-bit words holding the elements' bits, by default as a
little-endian stream (`words`). Every loop over registers is unrolled, so that no array is ever
indexed at run time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from tilus.codegen.scalar import C_TYPES, ScalarWriter
from tilus.codegen.source import Workspace
from tilus.dtypes import DataType, int32, uint64
from tilus.errors import Location, TilusError
from tilus.ir.expr import Const, Expr, Var, apply, as_expr
from tilus.ir.instruction import Facts
from tilus.ir.printer import Names
from tilus.ir.simplify import Simplifier
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor
from tilus.ir.terms import split_constant, substitute
from tilus.target import Target

INDENT = "    "


class ScalarFacts(Facts, Protocol):
    """Value analysis (passes/analyze.py) as the emitter asks it."""

    def range(self, expr: Expr) -> tuple[int | None, int | None]: ...

    def learn(self, var: Var, low: int, high: int) -> None:
        """Record that `var` is in low..high; it is new, in no expression asked about before."""
        ...

    def define(self, var: Var, value: Expr) -> None:
        """Record that `var` has this value; it is new, in no expression asked about before."""


class Emitter:
    """The text of one kernel under construction."""

    def __init__(self, target: Target, facts: ScalarFacts, names: Names, num_threads: int):
        self.target = target
        self.facts = facts
        self.names = names
        self.num_threads = num_threads
        self.short = Simplifier(facts.range)  # an expression of the same value, shortened
        self.counters: set[Var] = set()  # variables of the generated text, not of the program
        self.thread = self.loop_variable("tid", num_threads)
        self.lines: list[tuple[Location | None, str]] = []
        self.depth = 1
        self.helpers: list[str] = []
        self.functions: dict[str, str] = {}
        self.policies: dict[str, str] = {}  # names of the kernel's cache policies, by priority
        self.notes: list[str] = []
        self.location: Location | None = None
        self.scratches: dict[tuple[int, int] | None, tuple[str, int]] = {}  # name and size by group
        self.group: tuple[int, int] | None = None  # threads [begin, begin + count) run this code
        self.barriers: dict[tuple[int, int], int] = {}
        self.written_often: frozenset[RegisterTensor] = frozenset()
        self.workspaces: list[Workspace] = []
        self.shared_bases: dict[SharedTensor, Expr] = {}  # of slices, in elements
        self.definitions: dict[Var, Expr] = {}  # of variables that never change
        self.arena_bytes = 0
        self.declared: set[RegisterTensor] = set()
        self._temporaries = 0
        self.scalar = ScalarWriter(self._variable, self.use, self._non_negative)

    # ---- text ----

    def text(self) -> list[str]:
        """The lines with `#line` wherever the numbering of the user's file would be lost."""
        result: list[str] = []
        file, expected = "", -1
        for place, line in self.lines:
            code = line.strip()
            if place is not None and code != "}" and not code.startswith("//"):
                # Nothing may stand between a pragma and its loop, so it takes the line before.
                number = place.line - code.startswith("#pragma")
                if place.file != file:
                    escaped = place.file.replace("\\", "\\\\").replace('"', '\\"')
                    result.append(f'#line {number} "{escaped}"')
                elif number != expected:
                    result.append(f"#line {number}")
                file, expected = place.file, number
            result.append(line)
            expected += 1
        return result

    def __call__(self, line: str) -> None:
        self.lines.append((self.location, INDENT * self.depth + line))

    @contextmanager
    def block(self, head: str, tail: str = "}") -> Iterator[None]:
        """`head {` ... `}`."""
        self(f"{head} {{" if head else "{")
        self.depth += 1
        yield
        self.depth -= 1
        self(tail)

    @contextmanager
    def unrolled(self, count: int, name: str = "i") -> Iterator[str]:
        """A loop over registers, unrolled by the compiler; yields the index. One turn: no loop."""
        if count == 1:
            with self.block(""):
                yield "0"
            return
        self("#pragma unroll")
        with self.block(f"for (int {name} = 0; {name} < {count}; {name}++)"):
            yield name

    def use(self, helper: str) -> str:
        """Make the prelude hold `helper`; returns its name."""
        if helper not in self.helpers:
            self.helpers.append(helper)
        return helper

    def define(self, name: str, text: str) -> str:
        """Put a function of this kernel's own before it; returns its name."""
        self.functions[name] = text
        return name

    def policy(self, priority: str) -> str:
        """The name of the kernel's cache policy of this priority in L2, made once at its start."""
        if priority not in self.policies:
            self.use(f"policy_{priority}")
            self.policies[priority] = self.names(Var(uint64, priority))
        return self.policies[priority]

    def sync(self) -> None:
        """A barrier of the threads that run this code."""
        if self.group is None:
            self("__syncthreads();")
        elif self.group[1] == 32:
            self("__syncwarp();")
        elif self.group[1] > 1:
            self(f'asm volatile("bar.sync {self._barrier()}, {self.group[1]};" ::: "memory");')

    def _barrier(self) -> int:
        """The group's own barrier; 0 is the block's, and a block has 16 (PTX ISA, "bar")."""
        assert self.group is not None
        number = self.barriers.setdefault(self.group, len(self.barriers) + 1)
        if number > 15:
            raise TilusError(
                "too many different thread groups synchronise",
                found=f"{number} groups of several warps",
                expected="at most 15, the barriers of a block beside its own",
            )
        return number

    def scratch(self, nbytes: int) -> str:
        """The name of `nbytes` bytes of shared memory through which threads pass values.

        All uses share them, so `sync` before writing and before reading. Thread groups run side by
        side: each has bytes of its own.
        """
        first = f"scratch_{self.group[0]}_{self.group[1]}" if self.group else "scratch"
        name, size = self.scratches.get(self.group) or (self.names(Var(int32, first)), 0)
        self.scratches[self.group] = (name, max(size, -(-nbytes // 16) * 16))
        limit = self.target.properties.shared_memory_per_block
        if self.shared_bytes > limit:
            raise TilusError(
                "passing values between threads needs more shared memory than is left",
                found=f"{nbytes} bytes beside the program's {self.arena_bytes}",
                expected=f"at most {limit} bytes on {self.target}",
                hint="use smaller tiles, or layouts that need no exchange between warps",
            )
        return name

    def scratch_places(self) -> Iterator[tuple[str, int]]:
        """(name, offset in shared memory) of each group's scratch bytes, behind the arena."""
        place = self._arena_end
        for name, size in self.scratches.values():
            yield name, place
            place += size

    @property
    def shared_bytes(self) -> int:
        """The shared memory of a block: the program's own and the scratch bytes."""
        return self._arena_end + sum(size for _, size in self.scratches.values())

    @property
    def _arena_end(self) -> int:
        """In whole vectors: NVRTC reads 12 bytes at the start of 16 as all 16."""
        return -(-self.arena_bytes // 16) * 16

    def share(self, part: SharedTensor, whole: SharedTensor, base: Expr) -> None:
        """Make `part` a view of the storage of `whole`, `base` elements into it."""
        self(f"uint8_t* const {self.name(part)} = {self.name(whole)};")
        variable, constant = split_constant(self.short(base))
        if not isinstance(variable, Const | Var):
            var = Var(base.dtype, f"{part.name or 'part'}_base")
            self.facts.define(var, variable)
            self(f"const int {self.name(var)} = {self.scalar(variable)};")
            variable = var
        self.shared_bases[part] = apply("add", variable, constant) if constant else variable

    def note(self, reason: str) -> None:
        """Say why a slower form was chosen; shown at TILUS_DEBUG=3."""
        place = f"{self.location}: " if self.location else ""
        self.notes.append(f"{place}{reason}")

    def workspace(self, nbytes: Expr, clean: bool) -> str:
        """A further pointer parameter of the kernel: memory that the launcher provides."""
        self.workspaces.append(Workspace(substitute_all(nbytes, self.definitions), clean))
        return f"workspace{len(self.workspaces) - 1}"

    def shared_base(self, tensor: SharedTensor) -> Expr:
        """Where `tensor` begins in the storage it is part of, in elements."""
        return self.shared_bases.get(tensor, as_expr(0))

    def temporary(self, base: str) -> str:
        """A C name nobody else has."""
        self._temporaries += 1
        return self.names(Var(int32, f"{base}_{self._temporaries}"))

    # ---- names and scalars ----

    def name(self, item: RegisterTensor | SharedTensor | GlobalTensor | Var) -> str:
        return self.names(item)

    def _variable(self, var: Var) -> str:
        return var.name if var in self.counters else self.names(var)

    def range_of(self, expr: Expr) -> tuple[int | None, int | None]:
        return self.facts.range(expr)

    def _non_negative(self, expr: Expr) -> bool:
        low, _ = self.range_of(expr)
        return low is not None and low >= 0

    def loop_variable(self, name: str, count: int) -> Var:
        """A variable for an unrolled loop of `count` turns, known to value analysis."""
        var = Var(int32, name)
        self.counters.add(var)
        self.facts.learn(var, 0, count - 1)
        return var

    def index(self, expr: Expr | int) -> str:
        """An index expression, shortened."""
        return self.scalar(self.short(as_expr(expr)))

    # ---- register tiles ----

    def tile(self, tile: RegisterTensor) -> str:
        return self.names(tile)

    def declare(self, tile: RegisterTensor, *, zero: bool = False) -> str:
        """Declare the array of `tile` unless it is there already (`out=`); returns its name."""
        name = self.names(tile)
        if tile not in self.declared:
            self.declared.add(tile)
            # Bits that no element fills are set as well: an array of which some bytes are never
            # written and all are copied would not become registers.
            zero = zero or leaves_gaps(tile)
            self(
                f"alignas(16) {element_type(tile.dtype)} {name}[{array_size(tile)}]"
                f"{' = {}' if zero else ''};"
            )
        elif zero:
            with self.unrolled(array_size(tile)) as i:
                self(f"{name}[{i}] = 0;")
        return name

    def alias(self, tile: RegisterTensor, source: RegisterTensor) -> bool:
        """Make `tile` another name for the registers of `source`, where neither changes later."""
        if {tile, source} & self.written_often or tile in self.declared:
            return False
        self.declared.add(tile)
        have, want = element_type(source.dtype), element_type(tile.dtype)
        name, other = self.names(tile), self.names(source)
        if have == want:
            self(f"auto& {name} = {other};")
        else:
            self(f"auto& {name} = reinterpret_cast<{want}(&)[{array_size(tile)}]>({other});")
        return True

    def get(self, tile: RegisterTensor, index: str) -> str:
        """Element `index` of this thread as a C scalar (float for half precision)."""
        name, dtype = self.names(tile), tile.dtype
        if not is_packed(dtype):
            return f"{name}[{index}]"
        if tile.bits is not None:
            return self._placed(tile, index)
        if dtype.nbits == 16 and dtype.is_float():
            convert = "f16_to_f32" if dtype.name == "float16" else "bf16_to_f32"
            return f"{self.use(convert)}(reinterpret_cast<uint16_t*>({name})[{index}])"
        if dtype.name in C_TYPES:
            return f"reinterpret_cast<{C_TYPES[dtype.name]}*>({name})[{index}]"
        return f"{self.use('take')}<{dtype.nbits}>({name}, {index})"

    def _placed(self, tile: RegisterTensor, index: str) -> str:
        assert tile.bits is not None
        table = self.constant_table(tile.bits.positions().reshape(-1), "bits")
        helper, nbits = self.use("take_placed"), tile.dtype.nbits
        return f"{helper}<{nbits}>({self.names(tile)}, &{table}[{index} * {nbits}])"

    def set(self, tile: RegisterTensor, index: str, value: str) -> None:
        """Store a C scalar (of the type `get` gives; the bit pattern for storage formats)."""
        name, dtype = self.names(tile), tile.dtype
        if not is_packed(dtype):
            self(f"{name}[{index}] = {value};")
        elif dtype.nbits == 16 and dtype.is_float():
            convert = "f32_to_f16" if dtype.name == "float16" else "f32_to_bf16"
            self(f"reinterpret_cast<uint16_t*>({name})[{index}] = {self.use(convert)}({value});")
        elif dtype.name in C_TYPES:
            self(f"reinterpret_cast<{C_TYPES[dtype.name]}*>({name})[{index}] = {value};")
        else:
            self(f"{self.use('put')}<{dtype.nbits}>({name}, {index}, {value});")

    def constant_table(self, values: Sequence[int] | np.ndarray[Any, Any], base: str) -> str:
        """A compile-time table; indexed by an unrolled loop it vanishes."""
        name = self.temporary(base)
        numbers = ", ".join(str(int(v)) for v in values)
        self(f"constexpr int {name}[] = {{{numbers}}};")
        return name

    def mapped(self, table: np.ndarray[Any, Any], index: str, base: str = "at") -> str:
        """`table[index]` as C: the index itself, a quotient, a remainder, or a constant table."""
        values = [int(v) for v in table]
        if not index.isidentifier():
            return str(values[int(index)])
        count = len(values)
        if values == list(range(count)):
            return index
        if len(set(values)) == 1:
            return str(values[0])
        if values == list(range(values[0], values[0] + count)):
            return f"({index} + {values[0]})"
        for step in range(2, count + 1):
            if values == [i // step for i in range(count)]:
                return f"{index} / {step}"
            if values == [i % step for i in range(count)]:
                return f"{index} % {step}"
        return f"{self.constant_table(values, base)}[{index}]"


def substitute_all(expr: Expr, definitions: Mapping[Var, Expr]) -> Expr:
    """`expr` in terms of parameters: variables replaced by what defines them, and those in turn."""
    for _ in definitions:
        expr = substitute(expr, definitions)
    return expr


def is_packed(dtype: DataType) -> bool:
    """True where a thread keeps elements of `dtype` as bits in 32-bit words."""
    return dtype.nbits < 32 and dtype.kind != "bool"


def element_bytes(dtype: DataType) -> int:
    """The size of an entry of a tile's array."""
    return 4 if is_packed(dtype) else dtype.nbits // 8


def element_type(dtype: DataType) -> str:
    """The C type of a tile's array."""
    if is_packed(dtype):
        return "uint32_t"
    return "uint64_t" if dtype.is_pointer() else C_TYPES[dtype.name]


def leaves_gaps(tile: RegisterTensor) -> bool:
    """Whether the elements of a thread do not fill the words of their array."""
    assert tile.layout is not None
    held = tile.layout.local_size * tile.dtype.nbits
    return is_packed(tile.dtype) and held != 32 * array_size(tile)


def array_size(tile: RegisterTensor) -> int:
    assert tile.layout is not None
    if is_packed(tile.dtype):
        if tile.bits is not None:
            return tile.bits.words
        return (tile.layout.local_size * tile.dtype.nbits + 31) // 32
    return tile.layout.local_size
