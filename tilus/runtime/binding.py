"""The arguments of a launch: from the caller's values to the bytes that the driver copies.

A launch may cost a few microseconds, so what depends on the program alone is done once: its grid
and workspace expressions become the text of a Python function, made for this program, that checks
and converts one launch's values. For a vector addition it is

    def bind(values):
        a0, a1, a2, = values
        if a0 % 16: raise TypeError
        device = None
        ...                                             # addresses and the device of a1 and a2
        x, y, z = ((a0 + 255 ...) // 256), 1, 1
        if not (0 < x <= 2147483647 and 0 < y <= 65535 and 0 < z <= 65535): return outside(values)
        return device, x, y, z, (a0, a1, a2,), ()

The surprise: that function says of a bad value only that it is bad. `explain` then looks at the
values again, slowly, and finds the words.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from tilus import dtypes
from tilus.dtypes import DataType
from tilus.errors import TilusError, locate
from tilus.interp.machine import grid_size
from tilus.ir.expr import Apply, Const, Expr, Var, evaluate
from tilus.ir.operators import CAST, OPERATORS, operand_dtypes
from tilus.ir.program import Param, Program
from tilus.tensor import Tensor

MAX_GRID = (2**31 - 1, 65535, 65535)  # CUDA C++ Programming Guide, "Technical Specifications"


# One launch, checked: the device of the tensors (None where there are none), the grid in x, y and
# z, the arguments as numbers and addresses, the sizes of the workspaces in bytes.
Bound = tuple[int | None, int, int, int, tuple[Any, ...], tuple[int, ...]]
Bind = Callable[[Sequence[Any]], Bound | None]


# ---- scalar expressions as Python ---------------------------------------------------------------

_INTEGERS = frozenset(
    (
        dtypes.int8, dtypes.int16, dtypes.int32, dtypes.int64,
        dtypes.uint8, dtypes.uint16, dtypes.uint32, dtypes.uint64,
    )
)  # fmt: skip
_PLAIN = _INTEGERS | {dtypes.boolean}
# The operators that mean the same on Python's integers, once the result is brought into range.
_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%",
    "bitand": "&", "bitor": "|", "bitxor": "^",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip
_STAYS_IN_RANGE = frozenset(("mod", "bitand", "bitor", "bitxor", "min", "max", "where"))


class _NotPlain(Exception):
    """The expression has no short Python spelling with the same meaning."""


def python_text(expr: Expr, names: Mapping[Var, str]) -> str | None:
    """Python that computes an integer or boolean expression exactly, wrapping around included.

    None for expressions with floats, pointers or rarer operators.

    >>> n = Var(dtypes.uint32, "n")
    >>> python_text(n // 4, {n: "a0"}), python_text(n + 1, {n: "a0"})
    ('(a0 // 4)', '((a0 + 1) & 4294967295)')
    """
    try:
        return _text(expr, names)
    except _NotPlain:
        return None


def _text(expr: Expr, names: Mapping[Var, str]) -> str:
    if expr.dtype not in _PLAIN:
        raise _NotPlain
    if isinstance(expr, Const):
        return f"({expr.value})" if expr.value < 0 else str(expr.value)
    if isinstance(expr, Var):
        if expr not in names:
            raise _NotPlain
        return names[expr]
    assert isinstance(expr, Apply)
    if expr.op == CAST:
        return _converted(expr.args[0], expr.dtype, names)
    return _operation(expr, names)


def _operation(expr: Apply, names: Mapping[Var, str]) -> str:
    if any(arg.dtype not in _PLAIN for arg in expr.args):
        raise _NotPlain
    row = OPERATORS[expr.op]
    wanted = operand_dtypes(row, tuple(a.dtype for a in expr.args), expr.dtype)
    args = [_converted(a, dtype, names) for a, dtype in zip(expr.args, wanted, strict=True)]
    if expr.op in ("and", "or"):
        return f"({args[0]} {expr.op} {args[1]})"
    if expr.op == "not":
        return f"(not {args[0]})"
    compares = expr.dtype == dtypes.boolean and wanted[0] in _INTEGERS
    if not compares and expr.dtype not in _INTEGERS:
        raise _NotPlain  # the arithmetic of booleans is NumPy's
    text = _spelled(expr.op, args)
    if compares or expr.op in _STAYS_IN_RANGE or _is_division_by_positive(expr):
        return text
    return _wrapped(text, expr.dtype)


def _spelled(op: str, args: list[str]) -> str:
    if op in _INFIX:
        return f"({args[0]} {_INFIX[op]} {args[1]})"
    if op in ("min", "max"):
        return f"{op}({args[0]}, {args[1]})"
    if op == "where":
        return f"({args[1]} if {args[0]} else {args[2]})"
    if op == "neg":
        return f"(-{args[0]})"
    raise _NotPlain


def _is_division_by_positive(expr: Apply) -> bool:
    divisor = expr.args[-1]
    return expr.op == "floordiv" and isinstance(divisor, Const) and divisor.value > 0


def _converted(expr: Expr, dtype: DataType, names: Mapping[Var, str]) -> str:
    """`expr` as `dtype` holds it: an operand's promotion, or a cast."""
    text = _text(expr, names)
    if dtype not in _PLAIN:
        raise _NotPlain
    if dtype == expr.dtype:
        return text
    if dtype == dtypes.boolean:
        return f"({text} != 0)"
    if dtype.min_value <= expr.dtype.min_value and expr.dtype.max_value <= dtype.max_value:
        return text
    return _wrapped(text, dtype)


def _wrapped(text: str, dtype: DataType) -> str:
    mask, half = (1 << dtype.nbits) - 1, 1 << (dtype.nbits - 1)
    if dtype.kind == "uint":
        return f"({text} & {mask})"
    return f"(({text} + {half} & {mask}) - {half})"


def _evaluator(expr: Expr, params: Sequence[Var]) -> Callable[..., int]:
    """`expr` as a function of the parameters' values, by the definition of what it means."""

    def value(*values: Any) -> int:
        return int(evaluate(expr, carriers(params, values)))

    return value


def carriers(params: Sequence[Var], values: Sequence[Any]) -> dict[Var, Any]:
    """Numbers and addresses as `evaluate` takes them."""
    return {
        var: np.asarray(value, var.dtype.carrier) for var, value in zip(params, values, strict=True)
    }


# ---- one program's function ---------------------------------------------------------------------


def make_bind(program: Program, workspaces: Sequence[Expr]) -> Bind:
    """The function from a launch's values to what it needs; None stands for an empty grid.

    A value is a Python number, for a pointer a torch tensor, a `tilus.Tensor` or an address.
    """
    writer = _BindWriter(program, workspaces)
    namespace = writer.namespace
    exec("\n".join(writer.lines()), namespace)
    return namespace["bind"]


class _BindWriter:
    def __init__(self, program: Program, workspaces: Sequence[Expr]):
        self.program = program
        self.workspaces = workspaces
        self.params = [param.var for param in program.params]
        self.names = {var: f"a{index}" for index, var in enumerate(self.params)}
        self.namespace: dict[str, Any] = {
            "Tensor": Tensor,
            "outside": partial(_outside_the_grid, program),
        }

    def lines(self) -> Iterator[str]:
        names = "".join(f"{name}, " for name in self.names.values())
        yield "def bind(values):"
        yield f"    {names or '()'} = values"
        yield "    device = None"
        for param in self.program.params:
            yield from self.argument(param)
        grid = [self.expression(extent) for extent in self.program.blocks]
        yield f"    x, y, z = {', '.join(grid)}"
        inside = [f"0 < {axis} <= {n}" for axis, n in zip("xyz", MAX_GRID, strict=True)]
        yield f"    if not ({' and '.join(inside)}): return outside(({names}))"
        sizes = "".join(f"{self.expression(nbytes)}, " for nbytes in self.workspaces)
        yield f"    return device, x, y, z, ({names}), ({sizes})"

    def argument(self, param: Param) -> Iterator[str]:
        name = self.names[param.var]
        if param.var.dtype.is_pointer():
            yield f"    if type({name}) is not int:"
            yield f"        if type({name}) is Tensor: {name} = {name}.storage"
            yield f"        home = {name}.get_device()"
            yield "        if home != device:"
            yield "            if device is not None: raise TypeError"
            yield "            device = home"
            yield f"        {name} = {name}.data_ptr()"
        if param.divisible_by > 1:
            yield f"    if {name} % {param.divisible_by}: raise TypeError"

    def expression(self, expr: Expr) -> str:
        text = python_text(expr, self.names)
        if text is not None:
            return text
        name = f"e{len(self.namespace)}"
        self.namespace[name] = _evaluator(expr, self.params)
        return f"{name}({', '.join(self.names.values())})"


def _outside_the_grid(program: Program, numbers: Sequence[Any]) -> None:
    """None for an empty grid. Raises: TilusError for one that no device can run."""
    grid_size(program, carriers([param.var for param in program.params], numbers))


# ---- the words for a bad value ------------------------------------------------------------------


def explain(program: Program, workspaces: Sequence[Expr], values: Sequence[Any]) -> list[Any]:
    """`values` as the program's types hold them, where a launch with them was refused.

    Raises: TilusError for the first thing that is wrong with them.
    """
    if len(values) != len(program.params):
        raise TilusError(
            f"{program.name} takes {len(program.params)} arguments",
            found=str(len(values)),
            expected=", ".join(param.var.name for param in program.params) or "none",
        )
    plain = [_explained(param, value) for param, value in zip(program.params, values, strict=True)]
    _explain_devices(program, plain)
    numbers = [_number(value) for value in plain]
    _outside_the_grid(program, numbers)
    with locate(program.location):
        for nbytes in workspaces:
            evaluate(nbytes, carriers([param.var for param in program.params], numbers))
    return plain


def _explained(param: Param, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    _explain_kind(param, value)
    _explain_promise(param, value)
    return value if param.var.dtype.is_pointer() else param.var.dtype.constant(value)


def _explain_kind(param: Param, value: Any) -> None:
    dtype = param.var.dtype
    if dtype.is_pointer():
        fits, expected = isinstance(value, (int, torch.Tensor, Tensor)), "a tensor or an address"
    else:
        fits, expected = _fits(dtype, value), f"a number that {dtype} can hold"
    if not fits or (isinstance(value, bool) and dtype.kind != "bool"):
        raise TilusError(
            f"the argument {param.var.name} is of the wrong kind",
            found=f"{type(value).__name__} {value!r:.60}",
            expected=expected,
        )


def _fits(dtype: DataType, value: Any) -> bool:
    try:
        dtype.constant(value)
    except (TilusError, TypeError, ValueError):
        return False
    return True


def _explain_promise(param: Param, value: Any) -> None:
    number = _number(value)
    if param.divisible_by > 1 and number % param.divisible_by:
        raise TilusError(
            f"the argument {param.var.name} breaks what the program was compiled for",
            found=str(number),
            expected=f"a multiple of {param.divisible_by}",
            hint="compile the program for this argument",
        )


def _explain_devices(program: Program, values: Sequence[Any]) -> None:
    devices: dict[Any, str] = {}
    for param, value in zip(program.params, values, strict=True):
        if param.var.dtype.is_pointer() and not isinstance(value, int):
            devices.setdefault(value.device, param.var.name)
    if len(devices) > 1:
        raise TilusError(
            "the tensors of a launch are on different devices",
            found=", ".join(f"{name} on {device}" for device, name in devices.items()),
            expected="one device",
            hint="move them with .to(device)",
        )


def _number(value: Any) -> Any:
    return value.data_ptr() if isinstance(value, (torch.Tensor, Tensor)) else value


# ---- bytes --------------------------------------------------------------------------------------

_FORMATS = {
    dtypes.int8: "b", dtypes.int16: "h", dtypes.int32: "i", dtypes.int64: "q",
    dtypes.uint8: "B", dtypes.uint16: "H", dtypes.uint32: "I", dtypes.uint64: "Q",
    dtypes.float16: "e", dtypes.float32: "f", dtypes.float64: "d", dtypes.boolean: "?",
}  # fmt: skip
_UNSIGNED = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Packing:
    """How the arguments of one program lie in memory: each at a multiple of its size.

    Types that Python cannot pack are passed as their bit patterns, in the unsigned integer of their
    carrier's size; `workspaces` pointers follow the parameters.

    >>> Packing([dtypes.int8, ~dtypes.float16, dtypes.bfloat16], workspaces=1).offsets
    [0, 8, 16, 24]
    """

    def __init__(self, params: Sequence[DataType], workspaces: int):
        codes = [_format(dtype) for dtype in params] + ["Q"] * workspaces
        text, self.offsets, end = "<", [], 0
        for code in codes:
            size = struct.calcsize(code)
            padding = -end % size
            self.offsets.append(end + padding)
            text += f"{padding}x{code}"
            end += padding + size
        self.struct = struct.Struct(text)
        self.encoders = [
            (index, partial(_bits, dtype)) for index, dtype in enumerate(params) if _coded(dtype)
        ]

    def encoded(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments with bit patterns in the place of numbers that Python cannot pack."""
        values = list(arguments)
        for index, encode in self.encoders:
            values[index] = encode(values[index])
        return tuple(values)


class ArgumentBuffer:
    """Memory for one launch's arguments, and the array of pointers to them that the driver reads.

    `address` is that of the array; `pack(*arguments)` fills the memory.
    """

    __slots__ = ("_memory", "_pointers", "address", "pack")

    def __init__(self, packing: Packing):
        self._memory = (ctypes.c_char * max(1, packing.struct.size))()
        base = ctypes.addressof(self._memory)
        count = max(1, len(packing.offsets))
        self._pointers = (ctypes.c_void_p * count)(*[base + offset for offset in packing.offsets])
        self.address = ctypes.addressof(self._pointers)
        self.pack = partial(packing.struct.pack_into, self._memory, 0)

    def bytes(self) -> bytes:
        """The packed arguments."""
        return bytes(self._memory)


def _coded(dtype: DataType) -> bool:
    return not dtype.is_pointer() and dtype not in _FORMATS


def _format(dtype: DataType) -> str:
    if dtype.is_pointer():
        return "Q"
    return _FORMATS.get(dtype) or _UNSIGNED[dtype.carrier.itemsize]


def _bits(dtype: DataType, value: Any) -> int:
    return int(dtype.to_bits(dtype.encode(np.asarray(value))))
