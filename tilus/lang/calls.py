"""What values offer a kernel: the attributes of self, tensors, scalars and host values; calls.

    self.attribute(tile, "to")        # a `TensorMethod`
    self.call(method, args, kwargs)   # the instruction is emitted, its result returned

How attributes and calls are written is the business of expressions.py.
"""

from __future__ import annotations

import builtins
import difflib
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tilus.dtypes import DataType, boolean
from tilus.errors import TilusError
from tilus.instructions.arguments import expect
from tilus.ir.expr import Const, Expr, as_int, cast
from tilus.ir.instruction import REGISTRY, TENSOR_METHODS, Instruction, build_from_call
from tilus.ir.stmt import Assume
from tilus.lang import values
from tilus.lang.context import (
    TENSORS,
    Context,
    InlineMethod,
    call_host,
    is_kernel_value,
    values_kind,
    values_text,
)

_MISSING: Any = object()


@dataclass(frozen=True)
class TensorMethod:
    """`tile.method`, waiting for its call."""

    tensor: Any
    cls: type[Instruction]


@dataclass(frozen=True)
class Namespace:
    """`self.atomic`: instructions whose names begin with a prefix."""

    prefix: str


class Calls(Context):
    """Looks attributes up and calls what they are; instructions are emitted."""

    # ---- what self offers besides instructions ----

    def assume(self, condition: Any) -> None:
        """Promise that a condition on scalars holds; the compiler relies on it, the interpreter
        checks it.
        """
        if isinstance(condition, Expr) and not isinstance(condition, Const):
            self.emit(Assume(cast(condition, boolean), location=self.location))
            return
        if isinstance(condition, TENSORS):
            raise TilusError(
                "an assumption is about scalars",
                found=str(condition),
                hint="reduce the tile first: self.all(x).item()",
            )
        self.static_assert(condition, "the assumption is False")

    def static_assert(self, condition: Any, msg: Any = None) -> None:
        """Stop compilation with `msg` unless a compile-time condition holds."""
        if isinstance(condition, Const):
            condition = condition.value
        if isinstance(condition, (Expr, *TENSORS)):
            raise TilusError(
                "static_assert needs a condition known at compile time",
                found=values_text(condition),
                hint="use self.assume(...) for conditions on run-time scalars",
            )
        if not condition:
            raise TilusError(
                f"static assertion failed: {msg}" if msg else "static assertion failed"
            )

    # ---- attributes ----

    def attribute(self, value: Any, name: str) -> Any:
        if value is self.script:
            return self._self_attribute(name)
        if isinstance(value, Namespace):
            return self._instruction(f"{value.prefix}.{name}")
        if isinstance(value, TENSORS):
            return self._tensor_attribute(value, name)
        if isinstance(value, Expr):
            return _scalar_attribute(value, name)
        try:
            return getattr(value, name)
        except AttributeError:
            raise _no_attribute(value, name) from None

    def _self_attribute(self, name: str) -> Any:
        special = self._specials().get(name, _MISSING)
        if special is not _MISSING:
            return special
        user = inspect.getattr_static(type(self.script), name, None)
        if inspect.isfunction(user) and not getattr(user, "tilus_language", False):
            return InlineMethod(user, True)
        if isinstance(user, staticmethod):
            return InlineMethod(user.__func__, False)
        if name in self.script.__dict__:
            return self.script.__dict__[name]
        if name in REGISTRY:
            return REGISTRY[name]
        if name in values.OPERATOR_METHODS:
            return values.operator_function(values.OPERATOR_METHODS[name])
        if any(key.startswith(f"{name}.") for key in REGISTRY):
            return Namespace(name)
        if hasattr(self.script, name):
            return getattr(self.script, name)
        raise self._unknown_attribute(name)

    def _specials(self) -> dict[str, Any]:
        return {
            **values.LANGUAGE,
            "attrs": self.attrs,
            "assume": self.assume,
            "static_assert": self.static_assert,
        }

    def _unknown_attribute(self, name: str) -> TilusError:
        names = [*self._specials(), *REGISTRY, *values.OPERATOR_METHODS, *self.script.__dict__]
        close = difflib.get_close_matches(name, names, n=3)
        return TilusError(
            f"self has no instruction or attribute {name}",
            hint=f"did you mean {' or '.join('self.' + c for c in close)}?"
            if close
            else "set it in __init__",
        )

    def _instruction(self, name: str) -> type[Instruction]:
        if name not in REGISTRY:
            raise self._unknown_attribute(name)
        return REGISTRY[name]

    def _tensor_attribute(self, tensor: Any, name: str) -> Any:
        cls = TENSOR_METHODS.get((type(tensor), name))
        if cls is not None:
            return TensorMethod(tensor, cls)
        if name == "shape":
            extents = (as_int(e) if as_int(e) is not None else e for e in tensor.shape)
            return tuple(extents)
        if name in ("dtype", "layout", "name"):
            return getattr(tensor, name)
        known = [m for kind, m in TENSOR_METHODS if kind is type(tensor) and not m.startswith("__")]
        raise TilusError(
            f"a {values_kind(tensor)} has no attribute {name}",
            expected=", ".join(["dtype", "shape", *sorted(known)]),
        )

    # ---- calls ----

    def call(self, function: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if isinstance(function, type) and issubclass(function, Instruction):
            return self.emit_instruction(build_from_call(function, tuple(args), kwargs))
        if isinstance(function, TensorMethod):
            return self.emit_instruction(
                build_from_call(function.cls, (function.tensor, *args), kwargs)
            )
        if isinstance(function, InlineMethod):
            return self.inline(function, args, kwargs)
        kernel_values = [a for a in (*args, *kwargs.values()) if is_kernel_value(a)]
        replacement = (
            _kernel_function(function) if kernel_values or _holds_kernel_values(args) else None
        )
        if replacement is not None:
            return self.emit_result(call_host(replacement, args, kwargs))
        if isinstance(function, DataType) and any(isinstance(a, TENSORS) for a in args):
            raise TilusError(
                f"{function}(...) makes scalars", hint=f"cast a tile with x.to({function})"
            )
        if function is builtins.print:
            raise TilusError(
                "print runs on the host", hint="use self.printf(...) or self.print_tensor(...)"
            )
        if not callable(function):
            raise TilusError(
                "this cannot be called",
                found=values_text(function),
                expected="an instruction, a method of the class or a Python function",
            )
        return self.emit_result(call_host(function, args, kwargs))

    def emit_result(self, value: Any) -> Any:
        return self.emit_instruction(value) if isinstance(value, Instruction) else value


def _kernel_function(function: Any) -> Callable[..., Any] | None:
    try:
        return values.KERNEL_FUNCTIONS.get(function)
    except TypeError:  # not hashable
        return None


def _holds_kernel_values(args: list[Any]) -> bool:
    return any(isinstance(a, (list, tuple)) and any(map(is_kernel_value, a)) for a in args)


def _scalar_attribute(value: Expr, name: str) -> Any:
    if name == "dtype":
        return value.dtype
    if name == "to":
        return functools.partial(_scalar_to, value)
    raise TilusError(
        f"a scalar has no attribute {name}", found=values_text(value), expected="to, dtype"
    )


def _scalar_to(value: Expr, dtype: Any) -> Expr:
    return cast(value, expect(dtype, DataType, "to: dtype"))


def _no_attribute(value: Any, name: str) -> TilusError:
    what = f"module {value.__name__}" if inspect.ismodule(value) else type(value).__name__
    close = difflib.get_close_matches(name, dir(value), n=1)
    return TilusError(
        f"{what} has no attribute {name}",
        found=None if inspect.ismodule(value) else values_text(value),
        hint=f"did you mean {close[0]}?" if close else None,
    )
