"""The parameters of a kernel: which are compile-time constants, which run-time, and what a call
passes for them.

int float bool str      compile-time constant: a new value compiles anew
int32, int64, ...       run-time integer; specialised on divisibility by 16
float32, ...            run-time scalar
~dtype                  a tensor of exactly that dtype
void_p                  a tensor of any dtype, or an address
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tilus import dtypes
from tilus.dtypes import DataType
from tilus.errors import Location, TilusError, locate
from tilus.ir.expr import Var
from tilus.lang.source import Source
from tilus.tensor import Tensor, dtype_from_torch

CONSTANT_TYPES: tuple[type, ...] = (int, float, bool, str)
_ANNOTATIONS = (
    "a dtype (int32), a pointer (~float16, void_p) or int, float, bool, str for constants"
)
ALIGNMENT = 16  # what integers and addresses are specialised on


@dataclass(frozen=True)
class Parameter:
    """A kernel parameter: its annotation is a Python type (constant) or a DataType (run-time)."""

    name: str
    annotation: type | DataType
    default: Any
    location: Location

    @property
    def is_constant(self) -> bool:
        return not isinstance(self.annotation, DataType)


@dataclass(frozen=True)
class Argument:
    """What one call passes for a parameter, checked."""

    name: str
    annotation: type | DataType
    value: Any

    @property
    def is_constant(self) -> bool:
        return not isinstance(self.annotation, DataType)

    @property
    def divisible_by(self) -> int:
        """16 where the integer or the address is a multiple of 16, else 1."""
        assert isinstance(self.annotation, DataType)
        if self.annotation.is_pointer():
            return ALIGNMENT if address(self.value) % ALIGNMENT == 0 else 1
        if self.annotation.is_integer():
            return ALIGNMENT if self.value % ALIGNMENT == 0 else 1
        return 1

    @property
    def key(self) -> Any:
        """What the compiled program depends on."""
        return (type(self.value), self.value) if self.is_constant else self.divisible_by

    def variable(self) -> Var:
        assert isinstance(self.annotation, DataType)
        return Var(self.annotation, self.name)


@dataclass(frozen=True)
class Signature:
    function: Callable[..., Any]
    parameters: tuple[Parameter, ...]

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Argument]:
        """The arguments of a call in order; errors name the argument, what was passed and what is
        needed.
        """
        python = inspect.signature(self.function)
        try:
            bound = python.bind(None, *args, **kwargs)
        except TypeError as error:
            described = ", ".join(f"{p.name}: {_name(p.annotation)}" for p in self.parameters)
            raise TilusError(
                f"the kernel's arguments do not fit: {error}", expected=f"({described})"
            ) from None
        bound.apply_defaults()
        return [
            Argument(p.name, p.annotation, _checked(p, bound.arguments[p.name]))
            for p in self.parameters
        ]


def _signature(function: Callable[..., Any], source: Source) -> Signature:
    arguments = source.node.args
    if arguments.vararg or arguments.kwarg:
        raise TilusError(
            "a kernel takes no *args or **kwargs",
            hint="name every parameter and annotate it",
            location=source.location(source.node),
        )
    python = inspect.signature(function)
    nodes = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs][1:]
    return Signature(
        function, tuple(_parameter(n, python.parameters[n.arg], source) for n in nodes)
    )


_signatures: dict[Callable[..., Any], Signature] = {}


def read_signature(function: Callable[..., Any], source: Source) -> Signature:
    """The parameters of a kernel function from its annotations."""
    if function not in _signatures:
        _signatures[function] = _signature(function, source)
    return _signatures[function]


def _parameter(node: ast.arg, parameter: inspect.Parameter, source: Source) -> Parameter:
    place = source.location(node)
    with locate(place):
        if node.annotation is None:
            raise TilusError(
                f"the parameter {node.arg} has no annotation",
                expected=_ANNOTATIONS,
            )
        annotation = _evaluate(parameter.annotation, source)
        if not isinstance(annotation, DataType) and annotation not in CONSTANT_TYPES:
            raise TilusError(
                f"the annotation of {node.arg} is not understood",
                found=ast.unparse(node.annotation),
                expected=_ANNOTATIONS,
            )
    return Parameter(node.arg, annotation, parameter.default, place)


def _evaluate(annotation: Any, source: Source) -> Any:
    """Annotations are text where the user's file postpones their evaluation."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(source.namespace))
    except Exception as error:
        raise TilusError(
            f"the annotation {annotation} cannot be evaluated: {error}", expected=_ANNOTATIONS
        ) from error


def _checked(parameter: Parameter, value: Any) -> Any:
    with locate(parameter.location):
        annotation = parameter.annotation
        if not isinstance(annotation, DataType):
            return _constant(parameter.name, annotation, value)
        if annotation.is_pointer():
            return _pointer(parameter.name, annotation, value)
        return _scalar(parameter.name, annotation, value)


def _constant(name: str, kind: type, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise _mismatch(name, value, f"a Python {kind.__name__} (a compile-time constant)")
    return kind(value)


def _scalar(name: str, dtype: DataType, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    kinds: tuple[type, ...] = (
        (bool,) if dtype.kind == "bool" else (int,) if dtype.is_integer() else (int, float)
    )
    if not isinstance(value, kinds) or (isinstance(value, bool) and dtype.kind != "bool"):
        raise _mismatch(name, value, f"a number for {dtype}")
    return dtype.constant(value)


def _pointer(name: str, dtype: DataType, value: Any) -> Any:
    if dtype == dtypes.void_p and isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, (torch.Tensor, Tensor)):
        raise _mismatch(
            name,
            value,
            f"a tensor of {dtype.pointee}" if dtype.pointee else "a tensor or an address",
        )
    _check_memory(name, value)
    pointee = dtype.pointee
    found = value.dtype if isinstance(value, Tensor) else dtype_from_torch(value.dtype)
    if pointee is not None and found != pointee:
        raise TilusError(
            f"the argument {name} has another dtype",
            found=f"a tensor of {found}",
            expected=f"a tensor of {pointee}",
            hint=f"convert it, or annotate the parameter as ~{found}",
        )
    return value


def _check_memory(name: str, value: Any) -> None:
    storage = value.storage if isinstance(value, Tensor) else value
    if storage.layout != torch.strided or not storage.is_contiguous():
        raise TilusError(
            f"the argument {name} is not contiguous",
            found=f"shape {list(storage.shape)}, strides "
            f"{list(storage.stride()) if storage.layout == torch.strided else storage.layout}",
            expected="a contiguous tensor",
            hint=f"pass {name}.contiguous()",
        )


def address(value: Any) -> int:
    """The address a pointer argument stands for."""
    if isinstance(value, int):
        return value
    return int(value.data_ptr())


def _mismatch(name: str, value: Any, expected: str) -> TilusError:
    return TilusError(
        f"the argument {name} is of the wrong kind",
        found=f"{type(value).__name__} {value!r:.60}",
        expected=expected,
        hint=f"pass torch.from_numpy({name})" if isinstance(value, np.ndarray) else None,
    )


def _name(annotation: type | DataType) -> str:
    return str(annotation) if isinstance(annotation, DataType) else annotation.__name__
