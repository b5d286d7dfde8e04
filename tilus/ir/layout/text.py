"""The text form of layouts: `parse_layout(str(layout)) == layout`, and the algebra reads too.

    local(2, 1).spatial(8, 4).local(1, 2)
    reduce(spatial(3, 4), [0]) * local(2)
    register_layout([16, 8], [2, 8, 4, 2], [1, 2], [0, 3])
    shared_layout([8, 64], [8, 64], [64, 1], Swizzle(3, 3, 3))

The text is Python syntax, but nothing is evaluated by Python: the syntax tree is walked, and only
the names in the tables below mean anything.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias, cast

from tilus.errors import Location, TilusError, locate
from tilus.ir.layout import bits, global_, register, shared, shared_constructors
from tilus.ir.layout.modes import LayoutError
from tilus.ir.layout.swizzle import Swizzle
from tilus.syntax import parse

Layout: TypeAlias = (
    register.RegisterLayout | shared.SharedLayout | global_.GlobalLayout | bits.BitLayout
)

_MODULE_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    register.register_layout, register.spatial, register.local, register.column_spatial,
    register.column_local, register.replicated, register.auto_local_spatial, register.compose,
    register.divide, register.left_divide, register.concat, register.reduce, register.reduce_to,
    register.permute, register.reshape, register.flatten, register.squeeze, register.unsqueeze,
    shared_constructors.shared_layout, shared_constructors.shared_row_major,
    shared_constructors.shared_column_major, shared_constructors.shared_row_major_swizzle,
    shared_constructors.shared_compose, shared.shared_permute, shared.shared_reshape, Swizzle,
    global_.global_layout, global_.global_row_major,
    global_.global_column_major, global_.global_strides, global_.global_compose, bits.bit_layout,
)  # fmt: skip

FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {function.__name__: function for function in _MODULE_FUNCTIONS}
)

METHODS: Mapping[type, tuple[str, ...]] = MappingProxyType(
    {
        register.RegisterLayout: (
            "local", "spatial", "column_local", "column_spatial", "replicated", "reduce",
            "reduce_to", "permute", "reshape", "flatten", "squeeze", "unsqueeze", "canonical",
        ),
        shared.SharedLayout: ("permute", "transpose", "reshape", "prepend", "with_swizzle"),
        global_.GlobalLayout: ("permute",),
        bits.BitLayout: ("permute_elements", "repeat"),
    }
)  # fmt: skip

_OPERATORS: Mapping[type[ast.operator], Callable[..., Any]] = MappingProxyType(
    {ast.Mult: register.compose, ast.Div: register.divide}
)


def parse_layout(text: str) -> Layout:
    """Read a layout from its text: the algebra or the fields.

    Raises:
        LayoutError: the text is malformed or the layout does not exist; the error points into the
            text.

    >>> str(parse_layout("local(2, 1).spatial(8, 4).local(1, 2)"))
    'register_layout([16, 8], [2, 8, 4, 2], [1, 2], [0, 3])'
    """
    try:
        tree = parse(text.strip(), "eval")
        value: Any = _Reader(text.strip()).read(tree.body)
    except SyntaxError as error:
        place = Location(
            "<layout>", error.lineno or 1, max((error.offset or 1) - 1, 0), text=text.strip()
        )
        raise LayoutError(f"this is not a layout: {error.msg}", location=place) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise LayoutError(f"this is not a layout: {error or 'nested too deeply'}") from None
    if type(value) not in METHODS:
        raise LayoutError("this is not a layout", found=repr(text), expected=_examples())
    return cast(Layout, value)


class _Reader:
    """Walks the syntax tree of one text."""

    def __init__(self, text: str):
        self._lines = text.splitlines()

    def read(self, node: ast.AST) -> Any:
        method = self._NODES.get(type(node))
        if method is None:
            raise self._error(node, "this has no meaning in a layout")
        return method(self, node)

    def _constant(self, node: ast.Constant) -> Any:
        if node.value is None or type(node.value) in (int, bool):
            return node.value
        raise self._error(node, "only integers, True, False and None are constants of a layout")

    def _sequence(self, node: ast.List | ast.Tuple) -> list[Any]:
        return [self.read(element) for element in node.elts]

    def _negative(self, node: ast.UnaryOp) -> int:
        value = self.read(node.operand)
        if not isinstance(node.op, ast.USub) or type(value) is not int:
            raise self._error(node, "only an integer can be negated")
        return -value

    def _binary(self, node: ast.BinOp) -> Any:
        left, right = self.read(node.left), self.read(node.right)
        function = _OPERATORS.get(type(node.op))
        if function is None:
            raise self._error(node, "layouts combine with * and / only")
        return self._call_function(node, function, [left, right], {})

    def _call(self, node: ast.Call) -> Any:
        function = self._function(node.func)
        arguments = [self.read(argument) for argument in node.args]
        keywords = {str(keyword.arg): self.read(keyword.value) for keyword in node.keywords}
        return self._call_function(node, function, arguments, keywords)

    def _function(self, node: ast.expr) -> Callable[..., Any]:
        if isinstance(node, ast.Name) and node.id in FUNCTIONS:
            return FUNCTIONS[node.id]
        if isinstance(node, ast.Attribute):
            owner = self.read(node.value)
            if node.attr in METHODS.get(type(owner), ()):
                method: Callable[..., Any] = getattr(owner, node.attr)
                return method
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "this")
        raise self._error(node, f"{name} is not an operation on layouts")

    def _call_function(
        self,
        node: ast.expr,
        function: Callable[..., Any],
        arguments: list[Any],
        keywords: dict[str, Any],
    ) -> Any:
        with locate(self._location(node)):
            try:
                return function(*arguments, **keywords)
            except TilusError:
                raise
            except (TypeError, AttributeError) as error:
                raise LayoutError(
                    f"{function.__name__} does not take these arguments: {error}"
                ) from None

    def _location(self, node: ast.AST) -> Location:
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        text = self._lines[line - 1]
        end = (
            getattr(node, "end_col_offset", None)
            if getattr(node, "end_lineno", line) == line
            else len(text)
        )
        return Location("<layout>", line, column, end, text)

    def _error(self, node: ast.AST, message: str) -> LayoutError:
        return LayoutError(message, expected=_examples(), location=self._location(node))

    _NODES: Mapping[type[ast.AST], Callable[[_Reader, Any], Any]] = MappingProxyType(
        {
            ast.Constant: _constant,
            ast.List: _sequence,
            ast.Tuple: _sequence,
            ast.UnaryOp: _negative,
            ast.BinOp: _binary,
            ast.Call: _call,
        }
    )


def _examples() -> str:
    return "such as local(2, 1).spatial(8, 4) or register_layout([4], [4], [0], [])"
