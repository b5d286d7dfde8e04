"""Reading the scalars of a text: its names, literals, data types and expressions.

The tree is that of `grammar.lark`. An expression is rebuilt exactly as written: typed by the table
of operators, but neither folded nor promoted, so that `-(5)` stays the negation of 5.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable
from typing import Any

from lark import Token, Tree

from tilus import dtypes
from tilus.dtypes import DataType, dtype_from_name
from tilus.errors import Location, TilusError, locate
from tilus.ir.expr import BUILTIN_VARS, Apply, Expr, Var, const
from tilus.ir.instruction import REGISTRY
from tilus.ir.operators import CAST, OPERATORS
from tilus.ir.printer import Named, is_reserved

Node = Tree[Token]
MAX_DIGITS = 40  # an integer of 64 bits has 20
ABSENT = object()  # what a reader returns for a node of another kind

_BINARY = {row.symbol: row.name for row in OPERATORS.values() if row.symbol and row.arity == 2}
_PREFIX = {"negative": "neg", "invert": "invert", "not": "not"}


def trees(node: Node, data: str | None = None) -> list[Node]:
    """The children that are nodes, of kind `data` if given."""
    return [c for c in node.children if isinstance(c, Tree) and (data is None or c.data == data)]


def tokens(node: Node, kind: str | None = None) -> list[Token]:
    """The children that are words or signs, of terminal `kind` if given."""
    return [c for c in node.children if isinstance(c, Token) and (kind is None or c.type == kind)]


def close(name: str, known: Iterable[str]) -> str | None:
    """A hint with the names most like `name`."""
    nearest = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {' or '.join(nearest)}?" if nearest else None


class ScalarReader:
    """Reads the scalars of one text, and knows what its names stand for so far (`env`)."""

    def __init__(self, text: str, filename: str):
        self.text = text + "\n"
        self.lines = text.split("\n")
        self.filename = filename
        self.env: dict[str, Named] = {}

    # ---- places and errors

    def place(self, node: Node | Token) -> Location:
        at = node if isinstance(node, Token) else node.meta
        line, column, end = at.line or 1, (at.column or 1) - 1, at.end_column
        text = self.lines[line - 1].rstrip()
        return Location(
            self.filename,
            line,
            column,
            len(text) if at.end_line != line or end is None else end - 1,
            text,
        )

    def source(self, node: Node) -> str:
        return self.text[node.meta.start_pos : node.meta.end_pos]

    def error(
        self,
        node: Node | Token,
        message: str,
        *,
        found: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> TilusError:
        """An error at the place of `node`."""
        return TilusError(
            message, found=found, expected=expected, hint=hint, location=self.place(node)
        )

    # ---- names

    def bind(self, name: Token, dtype: DataType) -> Var:
        """The variable called `name`: a new one, or that of an earlier binding of the same type."""
        known = self.env.get(name)
        if known is None:
            self.check_free(name)
            var = self.env[str(name)] = Var(dtype, str(name))
            return var
        if not isinstance(known, Var) or known.dtype != dtype:
            found = f"scalar {known.dtype}" if isinstance(known, Var) else str(known)
            raise self.error(
                name,
                f"{name} is defined already, with another type",
                found=found,
                hint="use another name",
            )
        return known

    def check_free(self, name: Token) -> None:
        if is_reserved(name):
            raise self.error(name, f"{name} is a word of the language", hint="use another name")

    def lookup(self, name: Token, hint: str | None = None) -> Named:
        found = self.env.get(name)
        if found is None:
            nearest = close(name, (*self.env, *BUILTIN_VARS))
            raise self.error(name, f"{name} is not defined", hint=nearest or hint)
        return found

    # ---- literals and data types

    def literal(self, node: Node) -> Any:
        """The Python number, string, bool or None that `node` spells, or `ABSENT`."""
        if node.data == "negative" and trees(node)[0].data in ("integer", "floating", "name"):
            value = self.literal(trees(node)[0])
            return ABSENT if value is ABSENT else -value
        match str(node.data):
            case "integer":
                return self.integer(tokens(node)[0])
            case "floating":
                return self.floating(tokens(node)[0])
            case "string":
                return self.string(tokens(node)[0])
            case "name" if tokens(node)[0] in ("inf", "nan"):
                return float(tokens(node)[0])
            case other:
                return {"true": True, "false": False, "none": None}.get(other, ABSENT)

    def integer(self, token: Token) -> int:
        if len(token) > MAX_DIGITS:
            raise self.error(token, "this number is too large", found=f"{len(token)} digits")
        return int(token)

    def floating(self, token: Token) -> float:
        value = float(token)
        if math.isinf(value):
            raise self.error(
                token, "this number is too large", found=str(token), hint="infinity is written inf"
            )
        return value

    def string(self, token: Token) -> str:
        try:
            return json.loads(token)
        except ValueError as error:
            raise self.error(
                token,
                "this string is malformed",
                found=str(error),
                hint="strings are written as in JSON",
            ) from None

    def is_dtype(self, node: Node) -> bool:
        try:
            self.dtype(node)
        except TilusError:
            return False
        return True

    def dtype(self, node: Node) -> DataType:
        with locate(self.place(node)):
            match str(node.data):
                case "name" | "codebook":
                    return dtype_from_name(str(tokens(node)[0]))
                case "invert":
                    return ~self.dtype(trees(node)[0])
                case "paren":
                    return self.dtype(trees(node)[0])
                case _:
                    raise self.error(
                        node,
                        "a data type is needed here",
                        found=self.source(node),
                        hint="such as float16",
                    )

    # ---- scalar expressions

    def exprs(self, node: Node) -> tuple[Expr, ...]:
        return tuple(self.expr(child) for child in trees(node))

    def expr(self, node: Node) -> Expr:
        number = self.literal(node)
        if isinstance(number, (bool, int, float)):
            with locate(self.place(node)):
                return const(number)
        match str(node.data):
            case "name":
                return self.scalar(node)
            case "paren":
                return self.expr(trees(node)[0])
            case "binary":
                symbol = tokens(node)[0]
                return self.apply(node, _BINARY[str(symbol)], self.exprs(node))
            case "negative" | "invert" | "not":
                return self.apply(node, _PREFIX[str(node.data)], self.exprs(node))
            case "call":
                return self.call(node)
            case "attribute":
                return self.builtin(node)
            case _:
                raise self.error(
                    node,
                    "a scalar is needed here",
                    found=self.source(node),
                    expected="a scalar expression",
                )

    def scalar(self, node: Node) -> Expr:
        item = self.lookup(tokens(node)[0])
        if not isinstance(item, Var):
            raise self.error(
                node,
                f"{tokens(node)[0]} is no scalar",
                found=describe_named(item),
                expected="a scalar expression",
                hint="tiles are operands of instructions",
            )
        return item

    def builtin(self, node: Node) -> Expr:
        text = self.source(node)
        if text not in BUILTIN_VARS:
            raise self.error(node, f"{text} is not defined", hint=close(text, BUILTIN_VARS))
        return BUILTIN_VARS[text]

    def call(self, node: Node) -> Expr:
        function, *arguments = trees(node)
        for argument in arguments:
            if argument.data == "keyword":
                raise self.error(
                    argument,
                    "scalar functions take no arguments by name",
                    found=self.source(argument),
                )
        name = self.callee(node)
        if name == CAST:
            return self.cast(node, arguments)
        if name in OPERATORS:
            return self.apply(node, name, tuple(self.expr(a) for a in arguments))
        if not self.is_dtype(function):
            hint = f"{name} is an instruction, not a scalar function" if name in REGISTRY else None
            hint = hint or close(
                name or "", (CAST, *OPERATORS, *(d.name for d in dtypes.ALL_DTYPES))
            )
            raise self.error(
                function, f"there is no scalar function {self.source(function)}", hint=hint
            )
        return self.typed_literal(node, self.dtype(function), arguments)

    def callee(self, node: Node) -> str | None:
        """The dotted name that a call calls."""
        if node.data != "call":
            return None
        text = self.source(trees(node)[0])
        return text if all(part.isidentifier() for part in text.split(".")) else None

    def cast(self, node: Node, arguments: list[Node]) -> Expr:
        if len(arguments) != 2:
            raise self.error(
                node, "cast takes a scalar and a data type", found=f"{len(arguments)} arguments"
            )
        return Apply(self.dtype(arguments[1]), CAST, (self.expr(arguments[0]),))

    def typed_literal(self, node: Node, dtype: DataType, arguments: list[Node]) -> Expr:
        value = self.literal(arguments[0]) if len(arguments) == 1 else ABSENT
        if not isinstance(value, (bool, int, float)):
            raise self.error(
                node,
                f"a constant of {dtype} is written with one number",
                found=self.source(node),
                hint=f"convert a scalar with cast(x, {dtype})",
            )
        with locate(self.place(node)):
            return const(value, dtype)

    def apply(self, node: Node, op: str, args: tuple[Expr, ...]) -> Expr:
        """The operator on operands as they are: neither folded nor converted."""
        row = OPERATORS[op]
        if len(args) != row.arity:
            raise self.error(
                node,
                f"{op} takes {row.arity} operands",
                found=f"{len(args)}",
                expected=f"{row.arity}",
            )
        with locate(self.place(node)):
            return Apply(_result_dtype(op, tuple(a.dtype for a in args)), op, args)


def _result_dtype(op: str, args: tuple[DataType, ...]) -> DataType:
    """The table's rule, and that of pointers: they step by bytes, and compare with pointers."""
    if args[0].is_pointer():
        if op in ("add", "sub") and args[1].is_integer():
            return args[0]
        if op in ("eq", "ne") and args[1].is_pointer():
            return dtypes.boolean
    return OPERATORS[op].result(args)


def describe_named(item: Named) -> str:
    """What a name stands for, in a few words."""
    return f"scalar {item.dtype}" if isinstance(item, Var) else str(item)
