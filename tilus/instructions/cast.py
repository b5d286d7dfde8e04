"""Casting register tiles from any dtype to any other.

    y = x.to(float16)                 # the same as self.cast(x, float16)

Every pair of dtypes is defined, the narrow integers, floats and codebooks included; the rules are
those of `DataType.encode`. The surprise: storage formats of less than 8 bits support nothing *but*
views and casts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilus.dtypes import DataType, convert
from tilus.instructions.arguments import expect
from tilus.instructions.elementwise import check_operands, same_layout
from tilus.ir.expr import Expr
from tilus.ir.instruction import Instruction, Known, Proposal
from tilus.ir.tensor import RegisterTensor

if TYPE_CHECKING:
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


def _float_and_pointer(a: DataType, b: DataType) -> bool:
    def numeric(dtype: DataType) -> bool:
        return dtype.is_float() or dtype.kind == "codebook"

    return (a.is_pointer() and numeric(b)) or (b.is_pointer() and numeric(a))
