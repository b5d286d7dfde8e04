"""The source of a kernel method: its AST, and where its nodes stand in the user's file."""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tilus.errors import Location, TilusError
from tilus.syntax import parse


@dataclass(frozen=True)
class Source:
    """A function's AST with what is needed to place its nodes in the user's file and resolve its
    free names.
    """

    node: ast.FunctionDef
    file: str
    first_line: int
    indent: int
    namespace: Mapping[str, Any]

    def location(self, node: ast.AST) -> Location:
        line = getattr(node, "lineno", 1)
        one_line = getattr(node, "end_lineno", line) == line
        end = getattr(node, "end_col_offset", None) if one_line else None
        return Location(
            self.file,
            line + self.first_line - 1,
            getattr(node, "col_offset", 0) + self.indent,
            None if end is None else end + self.indent,
        )


def read_source(function: Callable[..., Any]) -> Source:
    """Parse `function`; raises `TilusError` where Python has no source for it."""
    node, file, first_line, indent = _parse(function)
    closure = inspect.getclosurevars(function).nonlocals if function.__code__.co_freevars else {}
    namespace = ChainMap(dict(closure), function.__globals__, builtins.__dict__)
    return Source(node, file, first_line, indent, namespace)


@lru_cache(maxsize=256)
def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The parameters of `function`, whose calls an unrolled kernel has many of."""
    return inspect.signature(function)


@lru_cache(maxsize=256)
def _parse(function: Callable[..., Any]) -> tuple[ast.FunctionDef, str, int, int]:
    try:
        lines, first_line = inspect.getsourcelines(function)
    except OSError:
        raise TilusError(
            f"the source of {function.__qualname__} cannot be read",
            hint="define the Script in a file: kernels are compiled from their source text",
        ) from None
    text = textwrap.dedent("".join(lines))
    indent = len(lines[0]) - len(lines[0].lstrip())
    try:
        node = parse(text).body[0]
    except SyntaxError:  # a lambda in the middle of a longer expression
        node = None
    if not isinstance(node, ast.FunctionDef):
        raise TilusError(
            f"{function.__qualname__} cannot be compiled",
            found=lines[0].strip(),
            expected="a function defined with def",
        )
    return node, inspect.getsourcefile(function) or "<unknown>", first_line, indent


@lru_cache(1024)  # a method is inlined many times
def assigned_names(node: ast.AST) -> frozenset[str]:
    """Names that the statements under `node` assign to."""
    return frozenset(
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    )
