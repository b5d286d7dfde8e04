"""A compiled program to one self-contained CUDA text.

    extern "C" __global__ void __launch_bounds__(128, 1) vector_add(int n, uint8_t* x_ptr, ...) {
        const int tid = threadIdx.x;
        // x: float32[256] = load_global(g_x, offsets=[start], dims=[0])
        ...
    }

The text is the same to the byte for the same program and target. Names are the user's, every
instruction is preceded by its text form, and `#line` points to the line of Python it came from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from tilus.codegen.emitter import Emitter
from tilus.codegen.names import CudaNames
from tilus.codegen.prelude import prelude
from tilus.codegen.scalar import scalar_type
from tilus.codegen.source import CudaSource
from tilus.dtypes import void_p
from tilus.errors import TilusError, locate
from tilus.ir.expr import Expr, Var, as_int
from tilus.ir.printer import format_instruction
from tilus.ir.program import Param, Program
from tilus.ir.stmt import (
    Assign,
    Assume,
    Body,
    Break,
    Continue,
    Declare,
    Do,
    For,
    If,
    Return,
    Stmt,
    ThreadGroup,
    While,
)
from tilus.ir.tensor import RegisterTensor
from tilus.ir.visit import instructions, walk
from tilus.passes.analyze import Analysis
from tilus.passes.plan_shared import shared_bytes
from tilus.target import Target


def generate(program: Program, target: Target) -> tuple[CudaSource, tuple[str, ...]]:
    """The CUDA of `program` (as the passes left it) for `target`, and why slower forms were chosen.

    Raises `TilusError` at the instruction that has no form on this target.
    """
    return _Generator(program, target).run()


class _Generator:
    def __init__(self, program: Program, target: Target):
        self.program = program
        self.names = CudaNames()
        self.entry = self.names(Var(void_p, program.name))
        for param in program.params:
            with locate(program.location):
                _check_parameter(param)
            self.names(param.var)
        self.emitter = Emitter(target, Analysis(program), self.names, program.num_threads)
        self.emitter.written_often = _written_often(program)
        self.emitter.arena_bytes = shared_bytes(program)
        self.emitter.definitions = _definitions(program)
        self.rules: dict[type[Stmt], Callable[[Any], None]] = {
            Do: self.do,
            Declare: self.declare,
            Assign: self.assign,
            For: self.for_,
            While: self.while_,
            If: self.if_,
            Break: lambda stmt: self.emitter("break;"),
            Continue: lambda stmt: self.emitter("continue;"),
            Return: lambda stmt: self.emitter("return;"),
            Assume: self.assume,
            ThreadGroup: self.thread_group,
        }

    def run(self) -> tuple[CudaSource, tuple[str, ...]]:
        self.body(self.program.body)
        e = self.emitter
        shared = e.shared_bytes
        lines = [prelude(e.helpers).rstrip(), "", *e.functions.values(), self._head()]
        if shared:
            lines.append("    extern __shared__ __align__(1024) uint8_t arena[];")
        tid = f"__builtin_assume(tid >= 0 && tid < {self.program.num_threads});"
        for name, place in e.scratch_places():
            lines.append(f"    uint8_t* const {name} = arena + {place};")
        for priority, name in e.policies.items():
            lines.append(f"    const uint64_t {name} = policy_{priority}();")
        lines += ["    const int tid = (int)threadIdx.x;", f"    {tid}", *e.text(), "}", ""]
        source = CudaSource(
            name=self.entry,
            text="\n".join(lines),
            threads=self.program.num_threads,
            shared_bytes=shared,
            workspaces=tuple(e.workspaces),
        )
        return source, tuple(e.notes)

    def _head(self) -> str:
        params = [f"{scalar_type(p.var.dtype)} {self.names(p.var)}" for p in self.program.params]
        params += [f"uint8_t* workspace{i}" for i in range(len(self.emitter.workspaces))]
        bounds = f"__launch_bounds__({self.program.num_threads}, 1)"
        return f'extern "C" __global__ void {bounds} {self.entry}({", ".join(params)}) {{'

    def body(self, body: Body) -> None:
        for stmt in body:
            self.emitter.location = stmt.location
            with locate(stmt.location):
                self.rules[type(stmt)](stmt)

    # ---- statements ----

    def do(self, stmt: Do) -> None:
        text = format_instruction(stmt.instruction, self.names)
        self.emitter(f"// {text}".replace("\\", "/"))
        stmt.instruction.emit(self.emitter)

    def declare(self, stmt: Declare) -> None:
        e = self.emitter
        kind = scalar_type(stmt.var.dtype)
        e(f"{kind} {e.name(stmt.var)} = {e.scalar(stmt.value)};")

    def assign(self, stmt: Assign) -> None:
        e = self.emitter
        e(f"{e.name(stmt.var)} = {e.scalar(stmt.value)};")

    def for_(self, stmt: For) -> None:
        e = self.emitter
        var, kind = e.name(stmt.var), scalar_type(stmt.var.dtype)
        stop, step = e.scalar(stmt.stop), as_int(stmt.step)
        if stmt.unroll is not None:
            e("#pragma unroll" + (f" {stmt.unroll}" if stmt.unroll else ""))
        if step is None:
            by = e.scalar(stmt.step)
            condition = f"{by} > 0 ? {var} < {stop} : {var} > {stop}"
        else:
            by, condition = str(step), f"{var} {'<' if step > 0 else '>'} {stop}"
        head = f"for ({kind} {var} = {e.scalar(stmt.start)}; {condition}; {var} += {by})"
        with e.block(head):
            self.body(stmt.body)

    def while_(self, stmt: While) -> None:
        with self.emitter.block(f"while ({self.emitter.scalar(stmt.condition)})"):
            self.body(stmt.body)

    def if_(self, stmt: If) -> None:
        e = self.emitter
        with e.block(f"if ({e.scalar(stmt.condition)})"):
            self.body(stmt.then)
        if stmt.otherwise:
            with e.block("else"):
                self.body(stmt.otherwise)

    def assume(self, stmt: Assume) -> None:
        self.emitter(f"__builtin_assume({self.emitter.scalar(stmt.condition)});")

    def thread_group(self, stmt: ThreadGroup) -> None:
        """Some threads run the body, numbered from 0 again."""
        e = self.emitter
        if e.group is not None:
            raise TilusError(
                "a thread group inside a thread group has no CUDA form",
                hint="select the inner threads directly",
            )
        begin, end = stmt.begin, stmt.begin + stmt.count
        outer, e.group, e.num_threads = e.num_threads, (begin, stmt.count), stmt.count
        whole, e.thread = e.thread, e.loop_variable("tid", stmt.count)
        with e.block(f"if (tid >= {begin} && tid < {end})"):
            e(f"const int thread = tid - {begin};")
            with e.block(""):
                e("const int tid = thread;")
                self.body(stmt.body)
        e.thread, e.group, e.num_threads = whole, None, outer


def _check_parameter(param: Param) -> None:
    if param.var.dtype.is_any_float16():
        raise TilusError(
            f"the parameter {param.var.name} cannot be passed to a CUDA kernel",
            found=f"a {param.var.dtype} scalar",
            expected="float32 or float64",
            hint="annotate it as float32: it is converted where it meets a tile",
        )


def _definitions(program: Program) -> dict[Var, Expr]:
    """The values of variables that are declared once and never assigned."""
    declared = [s for s in walk(program.body) if isinstance(s, Declare)]
    assigned = {s.var for s in walk(program.body) if isinstance(s, Assign)}
    counts = Counter(s.var for s in declared)
    return {s.var: s.value for s in declared if counts[s.var] == 1 and s.var not in assigned}


def _written_often(program: Program) -> frozenset[RegisterTensor]:
    """Tiles that more than one instruction writes: their registers cannot be shared by a view."""
    writes = Counter(
        tile
        for instruction in instructions(program)
        for tile in instruction.writes()
        if isinstance(tile, RegisterTensor)
    )
    return frozenset(tile for tile, count in writes.items() if count > 1)
