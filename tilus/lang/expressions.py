"""Expressions of a kernel: one method per AST node, giving a host value, a scalar or a tensor."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tilus.dtypes import boolean
from tilus.errors import TilusError
from tilus.ir.expr import Const, Expr, apply, as_expr, cast
from tilus.ir.instruction import TENSOR_METHODS, build_from_call
from tilus.ir.stmt import Declare, Do
from tilus.ir.tensor import RegisterTensor
from tilus.lang import values
from tilus.lang.calls import Calls
from tilus.lang.context import (
    TENSORS,
    call_host,
    host_items,
    is_kernel_value,
    unpack,
    unsupported,
    values_text,
)
from tilus.lang.scope import Scope, unknown_name


class Expressions(Calls):
    """Evaluates expressions; instructions among them are emitted."""

    def _condition(self, node: ast.expr) -> Expr | bool:
        """The truth of an expression: a Python bool where it is known now."""
        value = self.expr(node)
        if isinstance(value, TENSORS):
            raise TilusError(
                "a tile has no single truth value",
                found=str(value),
                hint="reduce it first: self.any(x).item() or self.all(x).item()",
            )
        if isinstance(value, Const):
            return bool(value.value)
        if isinstance(value, Expr):
            return cast(value, boolean) if value.dtype == boolean else apply("ne", value, 0)
        return bool(value)

    # ---- expressions ----

    def expr(self, node: ast.expr) -> Any:
        handler = getattr(self, f"expr_{type(node).__name__}", None)
        try:
            if handler is None:
                raise unsupported(node)
            return handler(node)
        except TilusError as error:  # as `locate`, with a place that is made where it is needed
            if error.location is None:
                error.location = self.frame.source.location(node)
            raise

    def expr_Constant(self, node: ast.Constant) -> Any:
        return node.value

    def expr_Name(self, node: ast.Name) -> Any:
        owner = self.scope.find(node.id)
        if owner is not None:
            return owner.names[node.id]
        if node.id == "self":
            return self.script
        namespace = self.frame.source.namespace
        if node.id in namespace and self.scope.ended_at(node.id) is None:
            return namespace[node.id]
        raise unknown_name(self.scope, node.id, list(namespace))

    def expr_Tuple(self, node: ast.Tuple) -> Any:
        return tuple(self._elements(node.elts))

    def expr_List(self, node: ast.List) -> Any:
        return self._elements(node.elts)

    def expr_Set(self, node: ast.Set) -> Any:
        return set(self._elements(node.elts))

    def _elements(self, nodes: list[ast.expr]) -> list[Any]:
        result: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                result.extend(self.expr(node.value))
            else:
                result.append(self.expr(node))
        return result

    def expr_Dict(self, node: ast.Dict) -> Any:
        result: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                result.update(self.expr(value))
            else:
                result[self.expr(key)] = self.expr(value)
        return result

    def expr_JoinedStr(self, node: ast.JoinedStr) -> Any:
        return "".join(str(self.expr(part)) for part in node.values)

    def expr_FormattedValue(self, node: ast.FormattedValue) -> Any:
        value = self.expr(node.value)
        if isinstance(value, Expr) and not isinstance(value, Const):
            raise TilusError(
                "the value is known only when the kernel runs", hint='use self.printf("%d", value)'
            )
        spec = "" if node.format_spec is None else self.expr(node.format_spec)
        text = {ord("r"): repr, ord("s"): str, ord("a"): ascii}.get(node.conversion, lambda v: v)(
            value
        )
        return format(text, spec)

    def expr_BinOp(self, node: ast.BinOp) -> Any:
        left, right = self.expr(node.left), self.expr(node.right)
        if isinstance(node.op, ast.MatMult):
            raise TilusError("tiles are multiplied by self.dot", hint="self.dot(a, b)")
        if isinstance(node.op, ast.Pow):
            return self._power(left, right)
        name, host = values.BINARY[type(node.op).__name__]
        return self.operator(name, host, left, right)

    def _power(self, left: Any, right: Any) -> Any:
        if not is_kernel_value(left) and not is_kernel_value(right):
            return left**right
        if right == 2 and is_kernel_value(left):
            return self.operator("square", lambda x: x, left)
        raise TilusError(
            "kernel values have no power operator",
            expected="x ** 2",
            hint="self.exp2(y * self.log2(x))",
        )

    def operator(self, name: str, host: Callable[..., Any], *args: Any) -> Any:
        """An operator of the table; host values alone are left to Python."""
        if not any(is_kernel_value(a) for a in args):
            return call_host(host, args, {})
        return self.emit_result(values.apply_operator(name, *args))

    def expr_UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.expr(node.operand)
        if isinstance(node.op, ast.UAdd):
            return value
        name, host = values.UNARY[type(node.op).__name__]
        if name == "not" and isinstance(value, TENSORS):
            raise TilusError("a tile has no single truth value", hint="use ~x on a boolean tile")
        return self.operator(name, host, value)

    def expr_BoolOp(self, node: ast.BoolOp) -> Any:
        is_and = isinstance(node.op, ast.And)
        result: Any = is_and
        for part in node.values:
            value = self._unconditional(part) if isinstance(result, Expr) else self.expr(part)
            if isinstance(value, TENSORS):
                raise TilusError(
                    "a tile has no single truth value", hint="combine boolean tiles with & and |"
                )
            if not isinstance(result, Expr):
                if bool(result) is not is_and:
                    return result  # host values decide early, as in Python
                result = value
            else:
                result = apply("and" if is_and else "or", result, as_expr(value))
        return result

    def expr_Compare(self, node: ast.Compare) -> Any:
        operands = [self.expr(n) for n in (node.left, *node.comparators)]
        parts = [
            self._compare(op, a, b)
            for op, a, b in zip(node.ops, operands, operands[1:], strict=False)
        ]
        result = parts[0]
        for part in parts[1:]:
            if isinstance(result, RegisterTensor) or isinstance(part, RegisterTensor):
                result = self.operator("bitand", lambda a, b: a & b, result, part)
            elif isinstance(result, Expr) or isinstance(part, Expr):
                result = apply("and", result, part)
            else:
                result = result and part
        return result

    def _compare(self, op: ast.cmpop, a: Any, b: Any) -> Any:
        if isinstance(op, (ast.Is, ast.IsNot)):
            if (is_kernel_value(a) and is_kernel_value(b)) or _is_literal(a, b):
                raise TilusError("kernel values have no identity", hint="compare them with ==")
            return (a is b) == isinstance(op, ast.Is)
        if isinstance(op, (ast.In, ast.NotIn)):
            return call_host(_host_contains, (a, b), {}) == isinstance(op, ast.In)
        name, host = values.COMPARE[type(op).__name__]
        return self.operator(name, host, a, b)

    def expr_IfExp(self, node: ast.IfExp) -> Any:
        condition = self._condition(node.test)
        if isinstance(condition, bool):
            return self.expr(node.body if condition else node.orelse)
        choices = self._unconditional(node.body), self._unconditional(node.orelse)
        return self.operator("where", lambda *a: a, condition, *choices)

    def _unconditional(self, node: ast.expr) -> Any:
        """An operand that Python would evaluate only sometimes: it must not do anything."""
        start = len(self.body)
        value = self.expr(node)
        for stmt in self.body[start:]:
            pure = isinstance(stmt, Declare) or (
                isinstance(stmt, Do) and stmt.instruction.effects.removable
            )
            if not pure:
                raise TilusError(
                    "an operand that is evaluated on a condition does more than compute a value",
                    found=ast.unparse(node),
                    hint="use an if statement",
                )
        return value

    def expr_Lambda(self, node: ast.Lambda) -> Any:
        names = [a.arg for a in node.args.args]
        frame, scope = self.frame, self.scope

        def function(*args: Any) -> Any:
            if len(args) != len(names):
                raise TilusError(
                    "the function takes another number of indices",
                    found=f"lambda {', '.join(names)}",
                    expected=f"{len(args)} arguments",
                )
            self.frames.append(replace(frame, scope=scope))  # its names are those around it
            try:
                return self._with_names(
                    dict(zip(names, args, strict=True)), lambda: self.expr(node.body)
                )
            finally:
                self.frames.pop()

        return function

    def _with_names(self, names: Mapping[str, Any], action: Callable[[], Any]) -> Any:
        outer = self.scope
        self.frame.scope = Scope(outer, "lambda")
        self.scope.names.update(names)
        try:
            return action()
        finally:
            self.frame.scope = outer

    def expr_ListComp(self, node: ast.ListComp) -> Any:
        return list(self._comprehension(node.generators, lambda: self.expr(node.elt)))

    def expr_SetComp(self, node: ast.SetComp) -> Any:
        return set(self._comprehension(node.generators, lambda: self.expr(node.elt)))

    def expr_GeneratorExp(self, node: ast.GeneratorExp) -> Any:
        return list(self._comprehension(node.generators, lambda: self.expr(node.elt)))

    def expr_DictComp(self, node: ast.DictComp) -> Any:
        return dict(
            self._comprehension(
                node.generators, lambda: (self.expr(node.key), self.expr(node.value))
            )
        )

    def _comprehension(
        self, generators: list[ast.comprehension], element: Callable[[], Any]
    ) -> list[Any]:
        if not generators:
            return [element()]
        first, rest = generators[0], generators[1:]
        iterable = self.expr(first.iter)
        if isinstance(iterable, values.LoopRange):
            raise TilusError(
                "a comprehension runs over host values",
                found=values_text(iterable),
                hint="use range(n) with a compile-time n",
            )
        result: list[Any] = []
        for item in host_items(iterable):
            result += self._with_names(
                {name.id: part for name, part in unpack(first.target, item)},
                lambda: (
                    self._comprehension(rest, element)
                    if all(map(self._condition, first.ifs))
                    else []
                ),
            )
        return result

    def expr_Attribute(self, node: ast.Attribute) -> Any:
        return self.attribute(self.expr(node.value), node.attr)

    def expr_Subscript(self, node: ast.Subscript) -> Any:
        container, index = self.expr(node.value), self.expr(node.slice)
        if isinstance(container, TENSORS):
            cls = TENSOR_METHODS[type(container), "__getitem__"]
            return self.emit_instruction(build_from_call(cls, (container, index), {}))
        if isinstance(index, Expr) and not isinstance(index, Const):
            raise TilusError(
                "a host value is indexed by a value known only when the kernel runs",
                found=values_text(container),
                hint="loop over the list itself, or keep the data in a tensor",
            )
        if isinstance(index, Const):
            index = index.value
        return call_host(operator.getitem, (container, index), {})

    def expr_Slice(self, node: ast.Slice) -> Any:
        return slice(
            *(None if n is None else self.expr(n) for n in (node.lower, node.upper, node.step))
        )

    # ---- calls ----

    def arguments(self, node: ast.Call) -> tuple[list[Any], dict[str, Any]]:
        args = self._elements(node.args)
        kwargs: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                kwargs.update(self.expr(keyword.value))
            else:
                kwargs[keyword.arg] = self.expr(keyword.value)
        return args, kwargs

    def expr_Call(self, node: ast.Call) -> Any:
        function = self.expr(node.func)
        args, kwargs = self.arguments(node)
        outer, self.location = self.location, self.frame.source.location(node)
        try:
            return self.call(function, args, kwargs)
        finally:
            self.location = outer


def _is_literal(a: Any, b: Any) -> bool:
    """True for `n is 3`: a kernel value and a number, which are never the same object."""
    return (is_kernel_value(a) or is_kernel_value(b)) and (
        isinstance(a, (bool, int, float)) or isinstance(b, (bool, int, float))
    )


def _host_contains(item: Any, container: Any) -> bool:
    if is_kernel_value(item) or is_kernel_value(container):
        raise TilusError(
            "in looks into host values, at compile time",
            found=f"{values_text(item)} in {values_text(container)}",
            hint="compare one by one: x == 1 or x == 2",
        )
    return item in container
