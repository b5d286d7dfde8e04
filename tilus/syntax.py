"""Python text to its syntax tree, for kernels, annotations and layouts.

CPython before 3.11.8 and 3.12.2 counts the depth of the trees it makes in one number for all
threads: where two parse at once, one may get `SystemError: AST constructor recursion depth
mismatch` (https://github.com/python/cpython/issues/106905). So threads take turns here.
"""

from __future__ import annotations

import ast
import threading
from typing import Literal, overload

_turn = threading.RLock()  # the garbage collector may run a finaliser that parses as well


@overload
def parse(text: str, mode: Literal["exec"] = "exec") -> ast.Module: ...
@overload
def parse(text: str, mode: Literal["eval"]) -> ast.Expression: ...
def parse(text: str, mode: Literal["exec", "eval"] = "exec") -> ast.Module | ast.Expression:
    """The tree of statements (`exec`) or of one expression (`eval`), from any thread.

    Raises: what `ast.parse` raises: SyntaxError, and of odd text ValueError, RecursionError or
        MemoryError.

    >>> ast.dump(parse("m + 1", "eval").body.op)
    'Add()'
    """
    with _turn:
        if mode == "eval":
            return ast.parse(text, mode="eval")
        return ast.parse(text)
