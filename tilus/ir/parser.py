"""Text to program: the syntax, and its errors; `elaborate.py` finds what the names mean.

    program = parse_program(path.read_text(), str(path))

`format_program(parse_program(text)) == text` for every printed text; comments, blank lines, line
breaks inside brackets and trailing commas are allowed besides. An instruction is known once its
module is imported, so callers import `tilus.instructions` first.
"""

from __future__ import annotations

import difflib
import json
import threading
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedToken
from lark.indenter import DedentError, Indenter
from lark.lexer import PatternStr

from tilus.errors import Location, TilusError
from tilus.ir.elaborate import elaborate
from tilus.ir.program import Program

GRAMMAR = Path(__file__).with_name("grammar.lark")


def parse_program(text: str, filename: str = "<text>") -> Program:
    """The program that `text` describes, every statement with its place in it.

    The program is typed, not verified. Raises `TilusError`, with the place, for text that is
    malformed, names something unknown, or gives an instruction a field of the wrong kind.

    >>> text = "kernel empty(n: i32) blocks=[n // 2,] warps=1:  # launch\\n  pass"
    >>> print(parse_program(text), end="")
    kernel empty(n: int32) blocks=[n // 2] warps=1:
        pass
    """
    try:
        return elaborate(_parse_tree(text, filename), text, filename)
    except RecursionError:
        raise TilusError(
            "this program is nested too deeply",
            hint="give parts of the largest expression names: var part: int32 = ...",
            location=Location(filename, 1, text=text.partition("\n")[0]),
        ) from None


def _parse_tree(text: str, filename: str) -> Tree[Token]:
    lark, lock = _grammar()
    try:
        with lock:  # the indenter keeps its state in itself
            return lark.parse(text + "\n")
    except UnexpectedToken as error:
        raise _unexpected_token(error, text, filename) from None
    except UnexpectedCharacters as error:
        raise _unexpected_character(error, text, filename) from None


class _Blocks(Indenter):
    """Turns changes of indentation into _INDENT and _DEDENT tokens, outside brackets."""

    @property
    def NL_type(self) -> str:
        return "_NL"

    @property
    def OPEN_PAREN_types(self) -> list[str]:
        return ["LPAR", "LSQB"]

    @property
    def CLOSE_PAREN_types(self) -> list[str]:
        return ["RPAR", "RSQB"]

    @property
    def INDENT_type(self) -> str:
        return "_INDENT"

    @property
    def DEDENT_type(self) -> str:
        return "_DEDENT"

    @property
    def tab_len(self) -> int:
        return 8

    def handle_NL(self, token: Token) -> Iterator[Token]:
        levels = list(self.indent_level)
        try:
            yield from super().handle_NL(token)
        except DedentError:
            raise UnexpectedToken(
                Token.new_borrow_pos("_MISALIGNED", "", token), {f"column {n + 1}" for n in levels}
            ) from None


@cache
def _grammar() -> tuple[Lark, threading.Lock]:
    lark = Lark(
        GRAMMAR.read_text(encoding="utf-8"),
        parser="lalr",
        postlex=_Blocks(),
        propagate_positions=True,
    )
    return lark, threading.Lock()


# ---- errors -------------------------------------------------------------------------------------

_KINDS = {
    "NAME": "a name",
    "INT": "a whole number",
    "FLOAT": "a number",
    "STRING": "a string",
    "_NL": "the end of the line",
    "_INDENT": "an indented block",
    "_DEDENT": "the end of the block",
    "$END": "the end of the text",
}
_COMPARISONS = frozenset(("EQ", "NE", "LT", "LE", "GT", "GE"))
_OPERATORS = _COMPARISONS | frozenset((
    "OR", "AND", "BITOR", "BITXOR", "BITAND", "SHL", "SHR", "PLUS", "MINUS", "TIMES", "DIVIDE",
    "FLOORDIVIDE", "PERCENT",
))  # fmt: skip
_EXPRESSION = frozenset((
    "NAME", "INT", "FLOAT", "STRING", "CODEBOOK", "LPAR", "LSQB", "MINUS", "TILDE", "NOT", "TRUE",
    "FALSE", "NONE",
))  # fmt: skip
_OPERAND = _EXPRESSION - {"NOT"}  # inside an expression
_STATEMENT = _EXPRESSION | frozenset((
    "FOR", "WHILE", "IF", "THREADS", "VAR", "ASSUME", "BREAK", "CONTINUE", "RETURN", "PASS",
))  # fmt: skip
_DTYPE = frozenset(("NAME", "CODEBOOK", "TILDE"))
# What is expected, from the most to the least: where all members of a group are, its name says so.
_GROUPS = (
    (_STATEMENT, "a statement"),
    (_EXPRESSION, "an expression"),
    (_OPERAND, "an expression"),
    (_OPERATORS, "an operator"),
    (_DTYPE, "a data type"),
)


def _unexpected_token(error: UnexpectedToken, text: str, filename: str) -> TilusError:
    token = error.token
    if token.type == "_MISALIGNED":
        return TilusError(
            "this line is not aligned with any block",
            found=f"column {(token.end_column or 1)}",
            expected=" or ".join(sorted(error.expected, key=lambda column: int(column.split()[1]))),
            location=_after(token, text, filename),
        )
    accepted = set(error.accepts or error.expected)
    return TilusError(
        "this is not the text of a program",
        found=_found(token),
        expected=_expected(accepted),
        hint=_hint(error, accepted),
        location=_after(token, text, filename)
        if _is_layout(token)
        else _place(token, text, filename),
    )


def _unexpected_character(error: UnexpectedCharacters, text: str, filename: str) -> TilusError:
    character = error.char
    return TilusError(
        "this is not the text of a program",
        found=f"the character {json.dumps(character, ensure_ascii=False)}",
        expected=_expected(set(error.allowed or ())),
        hint="a string starts and ends on one line" if character == '"' else None,
        location=_line(filename, text, error.line, error.column - 1, error.column),
    )


def _is_layout(token: Token) -> bool:
    """Whether the token stands for no text of its own: line ends, indentation, the end."""
    return token.type.startswith("_") or token.type == "$END"


def _found(token: Token) -> str:
    if token.type == "_NL":
        return _KINDS["_NL"]
    return {
        "_INDENT": "a deeper indentation",
        "_DEDENT": _KINDS["_DEDENT"],
        "$END": _KINDS["$END"],
    }.get(token.type, f"'{token}'")


def _expected(terminals: Collection[str]) -> str | None:
    """Readable names of terminals, groups of them first."""
    rest, names = set(terminals), list[str]()
    for group, name in _GROUPS:
        if group <= rest:
            names.append(name)
            rest -= group
    if "an expression" in names or "a statement" in names:
        rest -= _STATEMENT
    names += sorted(_describe(terminal) for terminal in rest)
    return " or ".join(names) or None


def _describe(terminal: str) -> str:
    return _KINDS.get(terminal) or f"'{_literals().get(terminal, terminal)}'"


@cache
def _literals() -> dict[str, str]:
    """The terminals that are fixed words or signs."""
    terminals = _grammar()[0].terminals
    return {t.name: t.pattern.value for t in terminals if isinstance(t.pattern, PatternStr)}


def _hint(error: UnexpectedToken, accepted: set[str]) -> str | None:
    token: Token = error.token
    if _is_layout(token) and accepted & {"RPAR", "RSQB"}:
        return "a bracket before this place is not closed"
    if token.type == "_INDENT":
        return "blocks follow a line that ends with ':'"
    if token.type in _COMPARISONS and accepted & _OPERATORS:
        return "comparisons do not chain: write a < b and b < c"
    if "_INDENT" in accepted:
        return "an empty block is written as pass"
    if "NAME" in accepted and str(token).isidentifier():
        return f"{token} is a word of the language: choose another name"
    words = [_literals()[t] for t in accepted if t in _literals()]
    nearest = difflib.get_close_matches(str(token), words, n=1)
    return f"did you mean {nearest[0]}?" if nearest else None


def _place(token: Token, text: str, filename: str) -> Location:
    column = (token.column or 1) - 1
    return _line(filename, text, token.line or 1, column, column + len(token.partition("\n")[0]))


def _after(token: Token, text: str, filename: str) -> Location:
    """Where a token of layout leads to: its own place says where the line before ended."""
    if token.type == "_NL":
        return _place(token, text, filename)
    if token.type in ("_INDENT", "_MISALIGNED"):
        column = (token.end_column or 1) - 1
        return _line(filename, text, token.end_line or 1, column, column + 1)
    last = text.rstrip().count("\n") + 1
    end = len(text.rstrip().rpartition("\n")[2])
    return _line(filename, text, last, end, end + 1)


def _line(filename: str, text: str, line: int, column: int, end: int) -> Location:
    lines = text.split("\n")
    return Location(filename, line, column, end, lines[line - 1] if line <= len(lines) else "")
