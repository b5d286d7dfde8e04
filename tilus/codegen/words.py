"""Straight-line programs on 32-bit words: the notation that conversions are written in.

    t2 = prmt(x0, 0x64646464, 0x4140)      # two bytes of x0 under the exponent of 1024
    t3 = sub_f16x2(t2, 0x64006400)         # two float16: the numbers those bytes stand for

A `Sequence` prints as CUDA, counts its instructions, and runs in NumPy bit for bit, so that the
tests prove a sequence over every bit pattern before any GPU sees it. What an operation is called,
spelled and computes stands in one row of `OPS`.

The surprise: every value is a uint32, floats too; the operation says how its bits are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Evaluator = Callable[..., Any]
ALL_BITS = 0xFFFFFFFF
CONST = "const"


@dataclass(frozen=True)
class Op:
    """One operation on words.

    Args:
        name: as `Step.op` names it.
        cuda: a C expression of its arguments `{0}`, `{1}`, ...
        evaluate: the same in NumPy, on uint32 arrays of one shape.
        alu: instructions on the integer pipe of an SM (LOP3, SHF, PRMT, IADD3, ISETP, SEL).
        fma: instructions on the floating-point pipe (HFMA2, HADD2, FADD, FMUL).
        other: instructions on slower pipes (conversions between float and integer).
        helper: the function of `prelude.HELPERS` that `cuda` calls, if any.
    """

    name: str
    cuda: str
    evaluate: Evaluator
    alu: int = 0
    fma: int = 0
    other: int = 0
    helper: str | None = None

    @property
    def cost(self) -> int:
        """Instructions altogether."""
        return self.alu + self.fma + self.other


# ---- what the operations compute ----


def _prmt(a: Words, b: Words, selector: Words) -> Words:
    """PTX ISA, "prmt", default mode: nibble i of the selector names byte i of the result."""
    pool = np.stack([a, b], axis=-1).astype("<u4", copy=False)
    octets = np.ascontiguousarray(pool).view(np.uint8)
    nibbles = (selector[..., None] >> np.arange(0, 16, 4, dtype=np.uint32)) & np.uint32(0xF)
    chosen = np.take_along_axis(octets, (nibbles & np.uint32(7)).astype(np.int64), axis=-1)
    sign = np.where(chosen >> 7, np.uint8(0xFF), np.uint8(0))
    result = np.where(nibbles & np.uint32(8), sign, chosen)
    return np.ascontiguousarray(result).view("<u4")[..., 0].astype(np.uint32, copy=False)


def _funnel(low: Words, high: Words, amount: Words) -> Words:
    wide = (high.astype(np.uint64) << np.uint64(32)) | low
    return (wide >> (amount & np.uint32(31)).astype(np.uint64)).astype(np.uint32)


def _halves(words: Words, dtype: Any) -> NDArray[Any]:
    """uint32 (...) -> its two 16-bit floats (..., 2)."""
    return np.ascontiguousarray(words)[..., None].view(dtype)


def _join(halves: NDArray[Any]) -> Words:
    return np.ascontiguousarray(halves).view(np.uint32)[..., 0]


def _single(words: Words) -> NDArray[np.float32]:
    return np.ascontiguousarray(words).view(np.float32)


def _bits(single: NDArray[Any]) -> Words:
    return np.ascontiguousarray(single.astype(np.float32, copy=False)).view(np.uint32)


def _signed(words: Words) -> NDArray[np.int32]:
    return np.ascontiguousarray(words).view(np.int32)


def _f16x2(operation: Callable[..., Any]) -> Evaluator:
    """NumPy computes a float16 operation in float32, whose second rounding changes nothing."""
    return lambda *args: _join(operation(*(_halves(a, np.float16) for a in args)))


def _f32(operation: Callable[..., Any]) -> Evaluator:
    return lambda *args: _bits(operation(*(_single(a) for a in args)))


def round_to_bfloat16(doubles: NDArray[np.float64]) -> NDArray[Any]:
    """float64 -> bfloat16 in one rounding to nearest even.

    float32 lies between, so it is rounded to odd: its last bit then remembers what was cut off
    (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
    """
    single = doubles.astype(np.float32)
    bits = single.view(np.uint32)
    inexact = (single != doubles) & ~np.isnan(doubles)
    toward_zero = bits - (np.abs(single) > np.abs(doubles)).astype(np.uint32)
    odd = np.where(inexact, toward_zero | np.uint32(1), bits)
    return odd.view(np.float32).astype(ml_dtypes.bfloat16)


def _fma_bf16x2(a: Words, b: Words, c: Words) -> Words:
    x, y, z = (_halves(v, ml_dtypes.bfloat16).astype(np.float64) for v in (a, b, c))
    return _join(round_to_bfloat16(x * y + z))


def _to_bfloat16(single: NDArray[np.float32]) -> NDArray[Any]:
    return single.astype(ml_dtypes.bfloat16)


def _to_float16(single: NDArray[np.float32]) -> NDArray[Any]:
    return single.astype(np.float16)


def _paired(rounded: Callable[[NDArray[np.float32]], NDArray[Any]]) -> Evaluator:
    return lambda low, high: _join(
        np.stack([rounded(_single(low)), rounded(_single(high))], axis=-1)
    )


def _truncate(words: Words) -> Words:
    """PTX ISA, "cvt.rzi.s32.f32": toward zero, clamped to the range, nan becomes 0."""
    wide = np.nan_to_num(
        _single(words).astype(np.float64), nan=0.0, posinf=2.0**32, neginf=-(2.0**32)
    )
    return np.clip(np.trunc(wide), -(2**31), 2**31 - 1).astype(np.int64).astype(np.uint32)


def _table(*rows: Op) -> dict[str, Op]:
    return {row.name: row for row in rows}


OPS: dict[str, Op] = _table(
    # Integer pipe. `and_or` and `and_xor` are one LOP3, whatever the compiler would make of C.
    Op("and", "{0} & {1}", np.bitwise_and, alu=1),
    Op("or", "{0} | {1}", np.bitwise_or, alu=1),
    Op("xor", "{0} ^ {1}", np.bitwise_xor, alu=1),
    Op("and_or", "and_or({0}, {1}, {2})", lambda a, b, c: a & b | c, alu=1, helper="and_or"),
    Op("and_xor", "and_xor({0}, {1}, {2})", lambda a, b, c: a & b ^ c, alu=1, helper="and_xor"),
    Op("shl", "{0} << {1}", np.left_shift, alu=1),
    Op("shr", "{0} >> {1}", np.right_shift, alu=1),
    Op("funnel", "funnel({0}, {1}, {2})", _funnel, alu=1, helper="funnel"),
    Op("prmt", "prmt({0}, {1}, {2})", _prmt, alu=1, helper="prmt"),
    Op("add", "{0} + {1}", np.add, alu=1),
    Op("sub", "{0} - {1}", np.subtract, alu=1),
    Op("min_u32", "min_u32({0}, {1})", np.minimum, alu=1, helper="min_u32"),
    Op("max_u32", "max_u32({0}, {1})", np.maximum, alu=1, helper="max_u32"),
    Op(
        "min_s32", "min_s32({0}, {1})",
        lambda a, b: np.minimum(_signed(a), _signed(b)).view(np.uint32),
        alu=1, helper="min_s32",
    ),
    Op(
        "max_s32", "max_s32({0}, {1})",
        lambda a, b: np.maximum(_signed(a), _signed(b)).view(np.uint32),
        alu=1, helper="max_s32",
    ),
    Op("select_less", "{0} < {1} ? {2} : {3}", lambda a, b, x, y: np.where(a < b, x, y), alu=2),
    # nan counts as above every bound
    Op(
        "add_reached", "add_reached({0}, {1}, {2}, {3})",
        lambda sum_, x, bound, step: np.where(_single(x) < _single(bound), sum_, sum_ + step),
        alu=2, helper="add_reached",
    ),
    # Floating-point pipe.
    Op("sub_f16x2", "sub_f16x2({0}, {1})", _f16x2(np.subtract), fma=1, helper="sub_f16x2"),
    Op("mul_f16x2", "mul_f16x2({0}, {1})", _f16x2(np.multiply), fma=1, helper="mul_f16x2"),
    Op("fma_bf16x2", "fma_bf16x2({0}, {1}, {2})", _fma_bf16x2, fma=1, helper="fma_bf16x2"),
    Op("add_f32", "add_f32({0}, {1})", _f32(np.add), fma=1, helper="add_f32"),
    Op("mul_f32", "mul_f32({0}, {1})", _f32(np.multiply), fma=1, helper="mul_f32"),
    Op(
        "f32_of_low_f16", "f32_of_low_f16({0})",
        lambda a: _bits(_halves(a, np.float16)[..., 0]),
        fma=1, helper="f32_of_low_f16",
    ),
    Op(
        "f32_of_high_f16", "f32_of_high_f16({0})",
        lambda a: _bits(_halves(a, np.float16)[..., 1]),
        fma=1, helper="f32_of_high_f16",
    ),
    # Conversions.
    Op(
        "f16x2_of_f32", "f16x2_of_f32({0}, {1})", _paired(_to_float16),
        other=1, helper="f16x2_of_f32",
    ),
    Op(
        "bf16x2_of_f32", "bf16x2_of_f32({0}, {1})", _paired(_to_bfloat16),
        other=1, helper="bf16x2_of_f32",
    ),
    Op("s32_of_f32", "s32_of_f32({0})", _truncate, other=1, helper="s32_of_f32"),
)  # fmt: skip


# ---- sequences ----


@dataclass(frozen=True)
class Step:
    """The application of an operation: `args` number the inputs, then the steps before this one.

    A step of the operation "const" has no arguments and costs nothing: `value` is its word.
    """

    op: str
    args: tuple[int, ...] = ()
    value: int = 0


@dataclass(frozen=True)
class Sequence:
    """A straight-line program: every value is assigned once, before it is used.

    Args:
        inputs: number of source words; they are values 0..inputs-1.
        steps: value `inputs + i` is made by step i.
        outputs: the value of each destination word.
        elements: how many elements it converts, for `counts`.

    >>> b = Builder(1)
    >>> b.finish([b.emit("and", 0, b.const(0xFF))], elements=1).cuda(["x[0]"], ["y[0]"])
    ['y[0] = x[0] & 0xffu;']
    """

    inputs: int
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    elements: int

    def evaluate(self, words: Words) -> Words:
        """Run it: uint32 (..., inputs) -> uint32 (..., outputs), each row on its own.

        >>> b = Builder(1)
        >>> b.finish([b.emit("shr", 0, b.const(4))], 1).evaluate(np.array([[0x50]], np.uint32))
        array([[5]], dtype=uint32)
        """
        rows = np.ascontiguousarray(words, np.uint32)
        assert np.shape(words)[-1:] == (self.inputs,), "one column a source word"
        columns = rows.reshape(-1, self.inputs).T
        values: list[Words] = [np.ascontiguousarray(column) for column in columns]
        with np.errstate(all="ignore"):  # overflow, wrap-around and nan are part of the meaning
            for step in self.steps:
                if step.op == CONST:
                    values.append(np.full(columns.shape[1], step.value, np.uint32))
                else:
                    result = OPS[step.op].evaluate(*(values[a] for a in step.args))
                    values.append(np.asarray(result, np.uint32))
        results = np.stack([values[v] for v in self.outputs], axis=-1)
        return results.reshape(*np.shape(words)[:-1], len(self.outputs))

    def cuda(
        self, inputs: list[str], outputs: list[str], indent: int = 0, prefix: str = "t"
    ) -> list[str]:
        """C++ statements, a line each.

        Args:
            inputs: an expression of type uint32_t for each source word; evaluated as often as used.
            outputs: an assignable expression for each destination word; none may change an input.
            indent: spaces before every line.
            prefix: temporaries are named `prefix` and a number; put the lines into a block of their
                own where such names are in use.
        """
        assert len(inputs) == self.inputs and len(outputs) == len(self.outputs)
        names, lines = list(inputs), list[str]()
        results = dict(zip(self.outputs, outputs, strict=True)) if self._outputs_differ else {}
        for value, step in enumerate(self.steps, self.inputs):
            if step.op == CONST:
                names.append(f"{step.value:#x}u")
                continue
            text = OPS[step.op].cuda.format(*(names[a] for a in step.args))
            if value in results and value not in self._used:
                names.append(results[value])
                lines.append(f"{results[value]} = {text};")
            else:
                names.append(f"{prefix}{len(lines)}")
                lines.append(f"const uint32_t {names[-1]} = {text};")
        for value, output in zip(self.outputs, outputs, strict=True):
            if names[value] != output:
                lines.append(f"{output} = {names[value]};")
        return [" " * indent + line for line in lines]

    @cached_property
    def _used(self) -> frozenset[int]:
        return frozenset(a for step in self.steps for a in step.args)

    @property
    def _outputs_differ(self) -> bool:
        return len(set(self.outputs)) == len(self.outputs)

    @property
    def helpers(self) -> set[str]:
        """The functions of `prelude.HELPERS` that `cuda` calls."""
        rows = (OPS[step.op] for step in self.steps if step.op != CONST)
        return {row.helper for row in rows if row.helper is not None}

    @property
    def cost(self) -> int:
        """Instructions altogether."""
        return sum(OPS[step.op].cost for step in self.steps if step.op != CONST)

    def counts(self) -> dict[str, float]:
        """Instructions per element: on the integer pipe, floating-point pipe, others, and all."""
        rows = [OPS[step.op] for step in self.steps if step.op != CONST]
        totals = {
            "alu": sum(row.alu for row in rows),
            "fma": sum(row.fma for row in rows),
            "other": sum(row.other for row in rows),
            "total": sum(row.cost for row in rows),
        }
        return {name: total / self.elements for name, total in totals.items()}

    def repeat(self, times: int) -> Sequence:
        """The same program on `times` consecutive groups of source words.

        >>> b = Builder(1)
        >>> b.finish([b.emit("shr", 0, b.const(4))], elements=2).repeat(3).elements
        6
        """
        builder = Builder(self.inputs * times)
        outputs = list[int]()
        for turn in range(times):
            first = turn * self.inputs
            outputs += builder.inline(self, range(first, first + self.inputs))
        return builder.finish(outputs, self.elements * times)


@dataclass
class Builder:
    """Makes a `Sequence`, never the same value twice; constants are computed on the spot.

    >>> b = Builder(1)
    >>> b.emit("and", 0, b.const(1)) == b.emit("and", 0, b.const(1)), b.emit("shr", 0, b.const(0))
    (True, 0)
    """

    inputs: int
    steps: list[Step] = field(default_factory=list[Step])
    known: dict[Step, int] = field(default_factory=dict[Step, int])

    def const(self, value: int) -> int:
        """The value that is this word."""
        return self._add(Step(CONST, (), value & ALL_BITS))

    def constant(self, value: int) -> int | None:
        """The word a value is known to be, or None."""
        if value < self.inputs:
            return None
        step = self.steps[value - self.inputs]
        return step.value if step.op == CONST else None

    def emit(self, op: str, *args: int) -> int:
        """The value of an operation; an old one where it changes nothing or was computed before."""
        words = [self.constant(a) for a in args]
        if all(word is not None for word in words):
            row = np.array([words], np.uint32)
            return self.const(int(OPS[op].evaluate(*(row[:, i] for i in range(len(args))))[0]))
        unchanged = words[-1] == {"and": ALL_BITS}.get(op, 0)
        if op in ("and", "or", "xor", "shl", "shr", "add", "sub") and unchanged:
            return args[0]
        if op in ("and_or", "and_xor"):
            return self._masked(op, args, words)
        return self._add(Step(op, args))

    def _masked(self, op: str, args: tuple[int, ...], words: list[int | None]) -> int:
        """(a & mask) | c with the parts that do nothing left out."""
        if words[2] == 0:
            return self.emit("and", args[0], args[1])
        if words[1] == ALL_BITS:
            return self.emit(op.removeprefix("and_"), args[0], args[2])
        return self._add(Step(op, args))

    def find(self, op: str, *args: int) -> int | None:
        """The value, if it was computed before."""
        return self.known.get(Step(op, args))

    def inline(self, sequence: Sequence, inputs: Iterable[int]) -> list[int]:
        """The outputs of another sequence applied to values of this one."""
        values = list(inputs)
        for step in sequence.steps:
            args = (values[a] for a in step.args)
            values.append(self.const(step.value) if step.op == CONST else self.emit(step.op, *args))
        return [values[v] for v in sequence.outputs]

    def finish(self, outputs: Iterable[int], elements: int) -> Sequence:
        """The sequence that computes `outputs`, without the steps they do not need."""
        results = tuple(outputs)
        needed = set(results)
        for value in reversed(range(self.inputs, self.inputs + len(self.steps))):
            if value in needed:
                needed.update(self.steps[value - self.inputs].args)
        names = {value: value for value in range(self.inputs)}
        steps = list[Step]()
        for value, step in enumerate(self.steps, self.inputs):
            if value in needed:
                names[value] = self.inputs + len(steps)
                steps.append(replace(step, args=tuple(names[a] for a in step.args)))
        return Sequence(self.inputs, tuple(steps), tuple(names[v] for v in results), elements)

    def _add(self, step: Step) -> int:
        if step not in self.known:
            self.known[step] = self.inputs + len(self.steps)
            self.steps.append(step)
        return self.known[step]
