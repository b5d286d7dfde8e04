"""Syntax tree to program: the kernel line and the statements; instructions and scalars lie below.

The surprise: a name means one tile or variable in the whole program, so a loop that uses the
variable of an earlier loop again shares it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from lark import Token

from tilus import dtypes
from tilus.errors import locate
from tilus.ir.elaborate_instructions import InstructionReader
from tilus.ir.elaborate_scalars import Node, tokens, trees
from tilus.ir.expr import Expr, Var, const
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


def elaborate(tree: Node, text: str, filename: str) -> Program:
    """The program of a syntax tree; `text` is its source.

    Raises `TilusError` with the place in `text` for what the grammar lets pass.
    """
    return _ProgramReader(text, filename).program(trees(tree)[0])


class _ProgramReader(InstructionReader):
    def __init__(self, text: str, filename: str):
        super().__init__(text, filename)
        self.statements: Mapping[str, Callable[[Node], Stmt]] = {
            "do": self.do,
            "assign": self.assign,
            "declare": self.declare,
            "assume": self.assume,
            "for": self.loop,
            "while": self.while_,
            "if": self.if_,
            "threads": self.threads,
            "break": lambda node: Break(),
            "continue": lambda node: Continue(),
            "return": lambda node: Return(),
        }

    def program(self, node: Node) -> Program:
        name, warps = node.children[0], tokens(node, "INT")[0]
        assert isinstance(name, Token)
        params = tuple(self.param(p) for p in trees(node, "param"))
        blocks = self.blocks(trees(node, "list")[0])
        return Program(
            self.string(name) if name.type == "STRING" else str(name),
            params,
            blocks,
            self.integer(warps),
            self.body(trees(node, "suite")[0]),
            location=self.place(node),
        )

    def param(self, node: Node) -> Param:
        name, divisor = tokens(node, "NAME")[0], tokens(node, "INT")
        if name in self.env:
            raise self.error(name, f"two parameters are called {name}")
        var = self.bind(name, self.dtype(trees(node)[0]))
        number = self.integer(divisor[0]) if divisor else 1
        if number < 1:
            raise self.error(
                divisor[0], "a parameter is a multiple of 1 or more", found=str(number)
            )
        return Param(var, number)

    def blocks(self, node: Node) -> tuple[Expr, Expr, Expr]:
        counts = self.exprs(node)
        if not 1 <= len(counts) <= 3:
            raise self.error(
                node,
                "a grid has 1 to 3 dimensions",
                found=f"{len(counts)}",
                expected="blocks=[x, y, z]",
            )
        x, y, z = (*counts, *(const(1),) * (3 - len(counts)))
        return x, y, z

    # ---- statements

    def body(self, node: Node) -> Body:
        return tuple(self.stmt(child) for child in trees(node) if child.data != "pass")

    def stmt(self, node: Node) -> Stmt:
        place = self.place(node)
        with locate(place):
            return replace(self.statements[node.data](node), location=place)

    def do(self, node: Node) -> Stmt:
        return Do(self.instruction(trees(node)[0], []))

    def assign(self, node: Node) -> Stmt:
        *targets, value = trees(node)
        name = tokens(targets[0])[0]
        if len(targets) == 1 and not trees(targets[0]):
            hint = f"define it first, {name}: TYPE = ..., or declare it: var {name}: int32 = ..."
            target = self.lookup(name, hint)
            if isinstance(target, Var):
                return Assign(target, self.expr(value))
        return Do(self.instruction(value, targets))

    def declare(self, node: Node) -> Stmt:
        dtype, value = trees(node)
        expr = self.expr(value)
        return Declare(self.bind(tokens(node)[0], self.dtype(dtype)), expr)

    def assume(self, node: Node) -> Stmt:
        return Assume(self.expr(trees(node)[0]))

    def loop(self, node: Node) -> Stmt:
        name, (*types, bounds, suite) = tokens(node, "NAME")[0], trees(node)
        start, stop, step = self.bounds(bounds)
        unroll = self.unroll([t for t in tokens(node) if t.type != "NAME"])
        var = self.bind(name, self.dtype(types[0]) if types else dtypes.int32)
        return For(var, start, stop, step, self.body(suite), unroll)

    def bounds(self, node: Node) -> tuple[Expr, Expr, Expr]:
        match self.exprs(node):
            case [stop]:
                return const(0), stop, const(1)
            case [start, stop]:
                return start, stop, const(1)
            case [start, stop, step]:
                return start, stop, step
            case values:
                raise self.error(
                    node,
                    "range takes 1 to 3 numbers",
                    found=f"{len(values)}",
                    expected="(start, stop, step)",
                )

    def unroll(self, tokens: list[Token]) -> int | None:
        if not tokens:
            return None
        if tokens[0].type == "ALL":
            return 0
        count = self.integer(tokens[0])
        if count < 1:
            raise self.error(
                tokens[0],
                "a loop is unrolled 1 or more times",
                found=f"{count}",
                hint="or wholly: unroll=all",
            )
        return count

    def while_(self, node: Node) -> Stmt:
        condition, suite = trees(node)
        return While(self.expr(condition), self.body(suite))

    def if_(self, node: Node) -> Stmt:
        condition, suite, *rest = trees(node)
        return If(self.expr(condition), self.body(suite), self.otherwise(rest[0]) if rest else ())

    def otherwise(self, node: Node) -> Body:
        return (self.stmt(node),) if node.data == "if" else self.body(trees(node)[0])

    def threads(self, node: Node) -> Stmt:
        begin, end = (self.integer(token) for token in tokens(node))
        if begin >= end:
            raise self.error(
                tokens(node)[1], "a thread group has a thread or more", found=f"{begin}..{end}"
            )
        return ThreadGroup(begin, end - begin, self.body(trees(node)[0]))
