"""Casting register tiles from any dtype to any other.

    y = x.to(float16)                 # the same as self.cast(x, float16)

Every pair of dtypes is defined, the narrow integers, floats and codebooks included; the rules are
those of `DataType.encode`. The surprise: storage formats of less than 8 bits support nothing *but*
views and casts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilus.codegen.convert import CHUNK, conversion, supports
from tilus.codegen.emitter import is_packed
from tilus.codegen.scalar import C_TYPES
from tilus.dtypes import DataType, convert, float32, int8
from tilus.instructions.arguments import expect
from tilus.instructions.elementwise import (
    check_operands,
    layout_of,
    local_index,
    same_layout,
)
from tilus.ir.expr import Expr
from tilus.ir.instruction import Instruction, Known, Proposal
from tilus.ir.tensor import RegisterTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine


@dataclass(frozen=True, eq=False)
class Cast(Instruction, name="cast", methods=((RegisterTensor, "to"),)):
    out: RegisterTensor
    x: RegisterTensor

    @classmethod
    def build(cls, x: Any, dtype: Any) -> Cast:
        """The tile `x`, of any shape and dtype, converted to `dtype`.

        To a float: rounded once to nearest even, subnormals included; floats of at most 8 bits
        saturate at their largest number. Float to integer truncates toward zero and saturates, nan
        becomes 0. Integer to integer keeps the low bits. To boolean: whether it differs from 0. A
        float cannot become a pointer or the reverse.

        Example: `y = x.to(tilus.float16)`, with `x` an int4b tile, is exact.
        """
        hint = "convert a scalar with dtype(x), such as int32(x)" if isinstance(x, Expr) else None
        tile = expect(x, RegisterTensor, "cast: x", hint=hint)
        return cls(RegisterTensor(expect(dtype, DataType, "cast: dtype"), tile.shape), tile)

    def verify(self) -> None:
        self.require(
            self.out.shape == self.x.shape,
            "the shape of the result differs",
            found=f"{self.x} to {self.out}",
            expected=f"shape {list(self.x.shape)}",
        )
        self.require(
            not _float_and_pointer(self.x.dtype, self.out.dtype),
            "floats and addresses do not convert to each other",
            found=f"{self.x.dtype} to {self.out.dtype}",
            hint="cast through int64",
        )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        yield from same_layout(known, self.out, self.x)

    def check_layouts(self) -> None:
        check_operands(self, self.out, (self.x,))

    def run(self, machine: Machine) -> None:
        machine[self.out] = convert(machine[self.x], self.x.dtype, self.out.dtype)

    def emit(self, e: Emitter) -> None:
        source = self.x
        if self.out.layout != self.x.layout:
            source = RegisterTensor(self.x.dtype, self.x.shape, self.out.layout, name="moved")
            e.declare(source, zero=True)
            with e.unrolled(layout_of(source).local_size) as i:
                e.set(source, i, e.get(self.x, local_index(e, source, self.x, i)))
        convert_registers(e, self.out, source)


def _float_and_pointer(a: DataType, b: DataType) -> bool:
    def numeric(dtype: DataType) -> bool:
        return dtype.is_float() or dtype.kind == "codebook"

    return (a.is_pointer() and numeric(b)) or (b.is_pointer() and numeric(a))


# ---- CUDA ---------------------------------------------------------------------------------------


def convert_registers(e: Emitter, out: RegisterTensor, x: RegisterTensor) -> None:
    """Convert tiles of one layout: by words where a sequence is known, else element by element."""
    if supports(x.dtype, out.dtype):
        _convert_words(e, out, x)
        return
    middle = _middle(x.dtype, out.dtype)
    if middle is None:
        _convert_elements(e, out, x)
        return
    step = RegisterTensor(
        middle, out.shape, out.layout, name=f"{out.name or 't'}_{middle.short_name}"
    )
    convert_registers(e, step, x)
    convert_registers(e, out, step)


def _middle(source: DataType, target: DataType) -> DataType | None:
    """A type on the way, where one side is a storage format; nothing is lost on it."""
    if is_storage(source):
        return int8 if source.is_integer() and target.is_integer() else float32
    if is_storage(target):
        return int8 if source.is_integer() and target.is_integer() else float32
    return None


def is_storage(dtype: DataType) -> bool:
    """Whether C has no type that computes with it."""
    return dtype.name not in C_TYPES and not dtype.is_any_float16() and not dtype.is_pointer()


def _convert_words(e: Emitter, out: RegisterTensor, x: RegisterTensor) -> None:
    count = layout_of(out).local_size
    placed = x.bits is not None or out.bits is not None
    chunk = count if placed else _period(x.dtype, out.dtype, count)
    sequence = conversion(x.dtype, out.dtype, chunk, x.bits, out.bits)
    target, source = e.declare(out), e.tile(x)
    for helper in sorted(sequence.helpers):
        e.use(helper)
    with e.unrolled(count // chunk) as i:
        inputs = _word_names(source, x.dtype, sequence.inputs, i)
        outputs = _word_names(target, out.dtype, len(sequence.outputs), i)
        for line in sequence.cuda(inputs, outputs):
            e(line)


def _period(source: DataType, target: DataType, count: int) -> int:
    """The fewest elements whose sequence, repeated, is as short as that of all `count`."""
    whole = 32 // math.gcd(32, source.nbits, target.nbits)  # elements that fill words on both sides
    if count % whole:
        return count
    steps = [n for n in range(whole, min(count, CHUNK) + 1, whole) if count % n == 0]
    costs = {n: conversion(source, target, n).cost / n for n in steps}
    return min(steps, key=lambda n: (costs[n], n))


def _word_names(name: str, dtype: DataType, count: int, turn: str) -> list[str]:
    """The uint32 words of a tile's array, `count` of them in each turn of a loop."""
    words = name if is_packed(dtype) else f"reinterpret_cast<uint32_t*>({name})"
    first = "" if turn == "0" else f"{turn} * {count} + "
    return [f"{words}[{first}{k}]" for k in range(count)]


def _convert_elements(e: Emitter, out: RegisterTensor, x: RegisterTensor) -> None:
    e.declare(out)
    with e.unrolled(layout_of(out).local_size) as i:
        value = e.get(x, i)
        if x.dtype.nbits == 64 and x.dtype.is_float() and out.dtype.is_any_float16():
            value = f"{e.use('f64_to_f32_odd')}({value})"  # so that it is rounded once
        e.set(out, i, e.scalar.converted(value, x.dtype, out.dtype))
