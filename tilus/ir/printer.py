"""Programs as text, which `tilus.ir.parser` reads back.

    kernel double(n: int32 % 16, x_ptr: ~float32 % 16) blocks=[(n + 255) // 256] warps=4:
        gx: global float32[n] = global_view(x_ptr)
        x: float32[256] = load_global(gx, offsets=[blockIdx.x * 256], dims=[0])
        y: float32[256] = elementwise("add", [x, x])
        store_global(gx, y, offsets=[blockIdx.x * 256], dims=[0])

Instructions print from their typed fields alone: `out` on the left, with its type where it is first
written; operands, strings and data types by position; the other fields, and fields that differ from
their default, by keyword.

The surprise: names are unique in a whole program, one for each tile and variable, and not scoped by
block. So equal text means an equal program, and that is what equality of programs is.
"""

from __future__ import annotations

import json
import keyword
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any

from tilus import dtypes
from tilus.dtypes import DataType
from tilus.ir.expr import BUILTIN_VARS, Expr, Var, format_expr, format_number
from tilus.ir.instruction import Instruction
from tilus.ir.layout import GlobalLayout, global_row_major
from tilus.ir.operators import OPERATORS
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
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor, Tensor

Named = Tensor | Var  # what has a name in the text
TENSORS = (RegisterTensor, SharedTensor, GlobalTensor)
INDENT = "    "


def format_program(program: Program) -> str:
    """The canonical text of `program`: equal for two programs exactly where they are equal.

    >>> from tilus.ir.stmt import Assume
    >>> n = Var(dtypes.int32, "n")
    >>> one = dtypes.int32(1)
    >>> print(format_program(Program("empty", (Param(n, 16),), (n, one, one), 4, ())), end="")
    kernel empty(n: int32 % 16) blocks=[n] warps=4:
        pass
    """
    return "\n".join(_Printer().program(program)) + "\n"


def format_stmt(stmt: Stmt, names: Names | None = None) -> str:
    """One statement, nested bodies included, as a program prints it.

    `names` keeps names across several calls.
    """
    return "\n".join(_Printer(names).stmt(stmt))


def format_instruction(instruction: Instruction, names: Names | None = None) -> str:
    """One instruction as a program prints it where its result is new."""
    return _Printer(names).instruction(instruction)


# ---- names --------------------------------------------------------------------------------------

_WORDS = frozenset(("var", "assume", "threads", "inf", "nan", "cast"))
_ROOTS = frozenset(name.partition(".")[0] for name in BUILTIN_VARS)
_DTYPES = frozenset(dtype.name for dtype in dtypes.ALL_DTYPES)
_DTYPE_FAMILY = re.compile(r"(float\d+_e\d+m|codebook)\d+")


def is_reserved(name: str) -> bool:
    """Whether `name` means something else in the text, so that no tile or variable is called so.

    >>> is_reserved("max"), is_reserved("float16"), is_reserved("accumulator")
    (True, True, False)
    """
    known = name in _WORDS or name in _ROOTS or name in _DTYPES or name in OPERATORS
    return known or keyword.iskeyword(name) or _DTYPE_FAMILY.fullmatch(name) is not None


class Names:
    """A unique name for each tile and variable, by identity, made from its own when first asked.

    >>> names = Names()
    >>> a, b = Var(dtypes.int32, "x"), Var(dtypes.int32, "x")
    >>> names(a), names(b), names(a), names(Var(dtypes.int32))
    ('x', 'x_1', 'x', 't')
    """

    def __init__(self) -> None:
        self._names: dict[Named, str] = {var: name for name, var in BUILTIN_VARS.items()}
        self._taken: set[str] = set()

    def __call__(self, item: Named) -> str:
        name = self._names.get(item)
        if name is None:
            name = self._names[item] = self._free(_identifier(item.name))
            self._taken.add(name)
        return name

    def _free(self, base: str) -> str:
        name, number = base, 0
        while name in self._taken or is_reserved(name):
            number += 1
            name = f"{base}_{number}"
        return name


def _identifier(name: str) -> str:
    word = re.sub(r"\W", "_", name) or "t"
    return f"_{word}" if word[0].isdecimal() else word


# ---- fields of instructions ---------------------------------------------------------------------


@cache
def field_hints(cls: type[Instruction]) -> dict[str, Any]:
    """The annotations of an instruction's fields, resolved."""
    return typing.get_type_hints(cls)


@cache
def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, nested ones included; a type that is no union is its own only member.

    >>> alternatives(int | None)
    (<class 'int'>, <class 'NoneType'>)
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(m for member in typing.get_args(hint) for m in alternatives(member))
    return (hint,)


def binds(hint: Any) -> bool:
    """Whether a field of this type declares variables of the instruction's own, as `axes` do."""
    return hint == tuple[Var, ...]


def is_operand(hint: Any) -> bool:
    """Whether a field of this type reads well without its name: tiles, scalars, text, dtypes."""
    return any(
        m in (*TENSORS, Expr, Var, str, DataType) or _holds_tiles(m) for m in alternatives(hint)
    )


def _holds_tiles(hint: Any) -> bool:
    if typing.get_origin(hint) is not tuple:
        return False
    return any(m in TENSORS for arg in typing.get_args(hint) for m in alternatives(arg))


def has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def default_of(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


# ---- printing -----------------------------------------------------------------------------------


class _Printer:
    def __init__(self, names: Names | None = None):
        self.names = Names() if names is None else names
        self.defined: set[Named] = set()

    def program(self, program: Program) -> Iterator[str]:
        params = ", ".join([self.param(p) for p in program.params])
        blocks = [self.value(e) for e in program.blocks]
        while len(blocks) > 1 and blocks[-1] == "1":
            blocks.pop()
        name = program.name if _is_plain(program.name) else json.dumps(program.name)
        yield f"kernel {name}({params}) blocks=[{', '.join(blocks)}] warps={program.warps}:"
        yield from self.body(program.body)

    def param(self, param: Param) -> str:
        divisor = "" if param.divisible_by == 1 else f" % {param.divisible_by}"
        return f"{self.define(param.var)}: {param.var.dtype}{divisor}"

    def define(self, item: Named) -> str:
        self.defined.add(item)
        return self.names(item)

    # ---- statements

    def body(self, body: Body) -> Iterator[str]:
        if not body:
            yield f"{INDENT}pass"
        for stmt in body:
            for line in self.stmt(stmt):
                yield INDENT + line

    def stmt(self, stmt: Stmt) -> Iterator[str]:
        return _STATEMENTS[type(stmt)](self, stmt)

    def do(self, stmt: Do) -> Iterator[str]:
        yield self.instruction(stmt.instruction)

    def declare(self, stmt: Declare) -> Iterator[str]:
        value = self.value(stmt.value)
        yield f"var {self.define(stmt.var)}: {stmt.var.dtype} = {value}"

    def assign(self, stmt: Assign) -> Iterator[str]:
        yield f"{self.names(stmt.var)} = {self.value(stmt.value)}"

    def loop(self, stmt: For) -> Iterator[str]:
        bounds = [self.value(e) for e in (stmt.start, stmt.stop, stmt.step)]
        span = ", ".join(bounds[:2] if bounds[2] == "1" else bounds)
        unroll = "" if stmt.unroll is None else f" unroll={stmt.unroll or 'all'}"
        yield f"for {self.bound(stmt.var)} in range({span}){unroll}:"
        yield from self.body(stmt.body)

    def bound(self, var: Var) -> str:
        """A variable where it is bound without a declaration: an int32 unless it says otherwise."""
        name = self.define(var)
        return name if var.dtype == dtypes.int32 else f"{name}: {var.dtype}"

    def while_(self, stmt: While) -> Iterator[str]:
        yield f"while {self.value(stmt.condition)}:"
        yield from self.body(stmt.body)

    def if_(self, stmt: If, word: str = "if") -> Iterator[str]:
        yield f"{word} {self.value(stmt.condition)}:"
        yield from self.body(stmt.then)
        match stmt.otherwise:
            case ():
                return
            case (If() as nested,):
                yield from self.if_(nested, "elif")
            case otherwise:
                yield "else:"
                yield from self.body(otherwise)

    def assume(self, stmt: Assume) -> Iterator[str]:
        yield f"assume {self.value(stmt.condition)}"

    def threads(self, stmt: ThreadGroup) -> Iterator[str]:
        yield f"threads {stmt.begin}..{stmt.begin + stmt.count}:"
        yield from self.body(stmt.body)

    # ---- instructions

    def instruction(self, instruction: Instruction) -> str:
        call = f"{instruction.name}({', '.join(self.arguments(instruction))})"
        out: Any = instruction.result
        results: tuple[Named, ...] = (
            out if isinstance(out, tuple) else () if out is None else (out,)
        )
        return f"{', '.join([self.target(r) for r in results])} = {call}" if results else call

    def arguments(self, instruction: Instruction) -> Iterator[str]:
        hints, positional = field_hints(type(instruction)), True
        for field in fields(instruction):
            if field.name == "out" or not field.init:
                continue
            hint, value = hints[field.name], getattr(instruction, field.name)
            text = self.axes(value) if binds(hint) else self.value(value)
            if has_default(field) and text == self.value(default_of(field)):
                continue
            positional = (
                positional and not field.kw_only and not has_default(field) and is_operand(hint)
            )
            yield text if positional else f"{field.name}={text}"

    def axes(self, variables: Sequence[Var]) -> str:
        return f"[{', '.join([self.bound(v) for v in variables])}]"

    def value(self, value: Any) -> str:
        if isinstance(value, Expr):
            return format_expr(value, 0, self.names)
        if isinstance(value, TENSORS):
            return self.names(value)
        if isinstance(value, tuple):
            return self.list(value)
        if isinstance(value, str):
            return json.dumps(value)
        return format_number(value) if isinstance(value, float) else str(value)

    def list(self, values: Sequence[Any]) -> str:
        return f"[{', '.join([self.value(v) for v in values])}]"

    def target(self, item: Named) -> str:
        """What an instruction writes: `x: float32[4]` the first time, then `x` (`x: scalar`)."""
        if item not in self.defined:
            return f"{self.define(item)}: {self.type_of(item)}"
        return f"{self.names(item)}: scalar" if isinstance(item, Var) else self.names(item)

    def type_of(self, item: Named) -> str:
        if isinstance(item, Var):
            return f"scalar {item.dtype}"
        text = f"{item.dtype}{self.list(item.shape)}"
        if isinstance(item, RegisterTensor):
            return text + "".join(f" @ {x}" for x in (item.layout, item.bits) if x is not None)
        if isinstance(item, SharedTensor):
            return f"shared {text}" + ("" if item.layout is None else f" @ {item.layout}")
        return f"global {text}{self.strides(item.layout)}"

    def strides(self, layout: GlobalLayout) -> str:
        text = self.list(layout.strides)
        if not layout.is_strided:
            return f" @ strides{text} @ modes{self.list(layout.mode_shape)}"
        return (
            "" if text == self.list(global_row_major(layout.shape).strides) else f" @ strides{text}"
        )


def _is_plain(name: str) -> bool:
    return re.fullmatch(r"[^\W\d]\w*", name) is not None and not keyword.iskeyword(name)


def _word(word: str) -> Callable[[_Printer, Any], Iterator[str]]:
    return lambda printer, stmt: iter((word,))


_STATEMENTS: dict[type[Stmt], Callable[[_Printer, Any], Iterator[str]]] = {
    Do: _Printer.do,
    Declare: _Printer.declare,
    Assign: _Printer.assign,
    For: _Printer.loop,
    While: _Printer.while_,
    If: _Printer.if_,
    Break: _word("break"),
    Continue: _word("continue"),
    Return: _word("return"),
    Assume: _Printer.assume,
    ThreadGroup: _Printer.threads,
}
