"""Scalar expressions as CUDA: the operator table's spelling, C's types, Python's meaning.

`//` and `%` round towards minus infinity; where value analysis proves the operands non-negative
they are C's own operators, else helper functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.ir.expr import BUILTIN_VARS, Apply, Const, Expr, Var, format_number
from tilus.ir.operators import CAST, OPERATORS, operand_dtypes

C_TYPES = {
    "boolean": "bool", "int8": "int8_t", "int16": "int16_t", "int32": "int", "int64": "int64_t",
    "uint8": "uint8_t", "uint16": "uint16_t", "uint32": "uint32_t", "uint64": "uint64_t",
    "float32": "float", "tfloat32": "float", "float64": "double",
}  # fmt: skip
# A half-precision scalar is computed in float and rounded after each operation.
ROUNDED = {"float16": "round_f16", "bfloat16": "round_bf16", "tfloat32": "round_tf32"}
FLOAT_FUNCTIONS = {
    "exp": "expf", "exp2": "exp2f", "log": "logf", "log2": "log2f", "sqrt": "sqrtf",
    "rsqrt": "rsqrtf", "sin": "sinf", "cos": "cosf", "tanh": "tanhf", "erf": "erff",
    "round": "rintf", "floor": "floorf", "ceil": "ceilf", "abs": "fabsf",
}  # fmt: skip
# C++ operator precedence; higher binds tighter.
PRECEDENCE = {
    "*": 12, "/": 12, "%": 12, "+": 11, "-": 11, "<<": 10, ">>": 10, "<": 9, "<=": 9, ">": 9,
    ">=": 9, "==": 8, "!=": 8, "&": 7, "^": 6, "|": 5, "&&": 4, "||": 3,
}  # fmt: skip


def scalar_type(dtype: DataType) -> str:
    """The C type a value of `dtype` is computed in; `TilusError` for storage formats."""
    if dtype.is_pointer():
        return "uint8_t*"
    if dtype.is_any_float16():
        return "float"
    try:
        return C_TYPES[dtype.name]
    except KeyError:
        raise TilusError(
            f"{dtype} has no scalars in CUDA", hint="cast it: storage formats live in tiles only"
        ) from None


class ScalarWriter:
    """Writes expressions; `use` records the prelude helpers they call."""

    def __init__(
        self,
        name_of: Callable[[Var], str],
        use: Callable[[str], str],
        non_negative: Callable[[Expr], bool],
    ):
        self.name_of = name_of
        self.use = use
        self.non_negative = non_negative
        # By identity; the expression is kept, so that its id stays its own.
        self._texts: dict[tuple[int, int], tuple[Expr, str]] = {}

    def __call__(self, expr: Expr, outer: int = 0) -> str:
        """`expr` as a C expression of `scalar_type(expr.dtype)`.

        In parentheses where it binds less tightly than `outer` (a value of `PRECEDENCE`).
        """
        known = self._texts.get((id(expr), outer))
        if known is None:
            known = self._texts[id(expr), outer] = expr, self._text(expr, outer)
        return known[1]

    def _text(self, expr: Expr, outer: int) -> str:
        if isinstance(expr, Const):
            return self.constant(expr)
        if isinstance(expr, Var):
            # CUDA's indices are unsigned: as int they keep comparisons and divisions signed.
            return f"int({expr.name})" if expr.name in BUILTIN_VARS else self.name_of(expr)
        assert isinstance(expr, Apply)
        if expr.op == CAST:
            return self.converted(self(expr.args[0]), expr.args[0].dtype, expr.dtype)
        row = OPERATORS[expr.op]
        if any(a.dtype.is_pointer() for a in expr.args):
            types = tuple(a.dtype for a in expr.args)
        else:
            types = operand_dtypes(row, tuple(a.dtype for a in expr.args), expr.dtype)
        sign = self._plain_sign(expr, types)
        if sign is None:
            operands = [self._operand(a, t) for a, t in zip(expr.args, types, strict=True)]
            text = self.operation(expr.op, operands, types[-1], expr.dtype)
            return text if is_atom(text) or not outer else f"({text})"
        level = PRECEDENCE[sign]
        left, right = (
            self(a, level + (k == 1)) if a.dtype == t else self._operand(a, t)
            for k, (a, t) in enumerate(zip(expr.args, types, strict=True))
        )
        text = f"{left} {sign} {right}"
        return f"({text})" if level < outer else text

    def _operand(self, expr: Expr, dtype: DataType) -> str:
        text = self(expr)
        if expr.dtype != dtype:
            text = self.converted(text, expr.dtype, dtype)
        return atom(text)

    def _plain_sign(self, expr: Apply, types: tuple[DataType, ...]) -> str | None:
        """C's infix operator where it means the same, without wrapping or rounding after it."""
        dtype = expr.dtype
        if dtype.name in ROUNDED or (dtype.is_integer() and dtype.nbits < 32):
            return None
        if expr.op in ("floordiv", "mod"):
            if types[0].is_float() or not all(self.non_negative(a) for a in expr.args):
                return None
            return "/" if expr.op == "floordiv" else "%"
        sign = OPERATORS[expr.op].cuda.removeprefix("{} ").removesuffix(" {}")
        return sign if sign in PRECEDENCE else None

    def operation(self, op: str, operands: list[str], operand: DataType, result: DataType) -> str:
        """Row `op` applied to C operands of the (converted) type `operand`."""
        if op in FLOAT_FUNCTIONS and operand.is_float():
            name = FLOAT_FUNCTIONS[op]
            name = name.removesuffix("f") if operand.nbits == 64 else name
            text = f"{name}({', '.join(operands)})"
        elif op in ("min", "max") and operand.is_float():  # C's own forget a nan
            name = self.use(f"{op}_f{64 if operand.nbits == 64 else 32}")
            text = f"{name}({', '.join(operands)})"
        elif op == "clip":
            x, low, high = operands
            inner = self.operation("max", [x, low], operand, operand)
            text = self.operation("min", [inner, high], operand, operand)
        elif op in ("sigmoid", "reciprocal"):
            text = f"{self.use(op)}({operands[0]})"
        elif op == "abs" and operand.kind == "uint":  # C has it for signed numbers only
            text = operands[0]
        elif op == "invert" and operand.kind == "bool":  # C's turns it into an int, which is true
            text = f"!{operands[0]}"
        elif op in ("floordiv", "mod"):
            text = (
                f"{self.use(op)}({', '.join(operands)})"
                if not operand.is_float()
                else (f"{self.use(op + '_float')}({', '.join(operands)})")
            )
        else:
            text = OPERATORS[op].cuda.format(*operands)
        return self.wrapped(text, result)

    def wrapped(self, text: str, dtype: DataType) -> str:
        """A result brought back into `dtype`: C computes in int and float."""
        if dtype.name in ROUNDED:
            return f"{self.use(ROUNDED[dtype.name])}({text})"
        if dtype.is_integer() and dtype.nbits < 32:
            return f"({C_TYPES[dtype.name]})({text})"
        return text

    def converted(self, text: str, source: DataType, target: DataType) -> str:
        """A C value of type `source` as `target`, with the rules of cast."""
        if source == target:
            return text
        operand = atom(text)
        if target.kind == "bool":
            return f"{operand} != 0"
        if target.is_float():
            plain = (
                operand
                if source.is_float() and source.nbits <= 32 and target.nbits <= 32
                else (f"({scalar_type(target)}){operand}")
            )
            return self.wrapped(plain, target) if target.name in ROUNDED else plain
        if source.is_float():
            name = self.use(f"float_to_{'int' if target.kind == 'int' else 'uint'}{target.nbits}")
            return f"{name}({text})"
        return f"({scalar_type(target)}){operand}"

    def constant(self, expr: Const) -> str:
        value, dtype = expr.value, expr.dtype
        if dtype.kind == "bool":
            return "true" if value else "false"
        if dtype.is_pointer():
            return f"(uint8_t*){int(value)}ull"
        if dtype.is_float():
            return self.float_constant(float(value), dtype)
        suffix = {64: "ll" if dtype.kind == "int" else "ull"}.get(dtype.nbits, "")
        if dtype.kind == "uint" and dtype.nbits == 32:
            suffix = "u"
        text = f"{int(value)}{suffix}"
        if int(value) == -(2**31) or int(value) == -(2**63):  # no literal has this value in C
            text = f"{int(value) + 1}{suffix} - 1"
        return f"({text})" if text.startswith("-") else text

    def float_constant(self, value: float, dtype: DataType) -> str:
        suffix = "" if dtype.nbits == 64 else "f"
        if value != value:
            return f"{self.use('quiet_nan')}()"
        if value in (float("inf"), float("-inf")):
            return f"{'-' if value < 0 else ''}{self.use('infinity')}()"
        text = format_number(value)
        return f"({text}{suffix})" if text.startswith("-") else f"{text}{suffix}"


def atom(text: str) -> str:
    """`text` in parentheses unless it needs none."""
    return text if is_atom(text) else f"({text})"


def is_atom(text: str) -> bool:
    """True where C needs no parentheses around `text`: a name, a literal, a call, an element."""
    if re.fullmatch(r"[\w.]+", text):
        return True
    head = re.match(r"[\w:]*(<[\w\s:*&,]*>)?(?=[(\[])", text)
    if head is None:
        return False
    depth = 0
    for position, character in enumerate(text[head.end() :], head.end()):
        depth += (character in "([") - (character in ")]")
        if depth == 0 and text[position + 1 : position + 2] not in ("", "(", "["):
            return False
    return True
