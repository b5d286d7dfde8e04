"""Running sums, products and extremes of register tiles along a dimension.

    s = self.cumsum(x, dim=1)          # s[i, j] = x[i, 0] + ... + x[i, j]

The result has the shape, dtype and layout of the operand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from tilus.codegen.collective import Fold, accumulation_dtype, set_value, value_as
from tilus.codegen.prefixes import Prefixes
from tilus.dtypes import convert, float32
from tilus.instructions.arguments import expect
from tilus.instructions.dimensions import dims_of
from tilus.instructions.elementwise import check_operands, layout_of, local_index, same_layout
from tilus.ir.instruction import Instruction, Known, Proposal
from tilus.ir.operators import require_arithmetic
from tilus.ir.tensor import RegisterTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine

S = TypeVar("S", bound="Scan")
SCANNED: dict[str, np.ufunc] = {
    "add": np.add,
    "mul": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
}


@dataclass(frozen=True, eq=False)
class Scan(Instruction):
    """Base of the family; a subclass says how values combine."""

    out: RegisterTensor
    x: RegisterTensor
    dim: int

    operator: ClassVar[str] = ""  # how values combine: a row of the operator table

    @classmethod
    def build(cls: type[S], x: Any, *, dim: int, out: Any = None) -> S:
        """Combine each element of `x` with all before it along `dim`.

        float16 and bfloat16 accumulate in float32 and are rounded at the end; integers wrap around
        in their own dtype. `out` reuses a tile of the shape and dtype of `x`. Raises `TilusError`
        for dtypes without arithmetic; cast narrow ones first.
        """
        tile = expect(x, RegisterTensor, f"{cls.name}: x")
        (axis,) = dims_of(dim, len(tile.shape), cls.name)
        result = RegisterTensor(tile.dtype, tile.shape) if out is None else out
        return cls(expect(result, RegisterTensor, f"{cls.name}: out"), tile, axis)

    def verify(self) -> None:
        require_arithmetic(self.x.dtype)
        self.require(
            0 <= self.dim < len(self.x.shape),
            "dim is not a dimension of the tile",
            found=f"dim={self.dim} of {self.x}",
        )
        self.require(
            (self.out.dtype, self.out.shape) == (self.x.dtype, self.x.shape),
            "the result is of another type",
            found=str(self.out),
            expected=str(self.x),
        )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        yield from same_layout(known, self.out, self.x)

    def check_layouts(self) -> None:
        check_operands(self, self.out, (self.x,))

    def combination(self) -> str:
        """The row of the operator table by which values combine."""
        return self.operator

    def run(self, machine: Machine) -> None:
        dtype = self.x.dtype
        wide = float32 if dtype.is_any_float16() else dtype
        with np.errstate(all="ignore"):
            values = convert(machine[self.x], dtype, wide)
            combine = SCANNED[self.combination()]
            total = combine.accumulate(values, axis=self.dim + 1, dtype=wide.carrier)
        machine[self.out] = convert(total, wide, dtype)

    def emit(self, e: Emitter) -> None:
        layout = layout_of(self.x)
        fold = Fold(self.combination(), accumulation_dtype(self.x.dtype))
        e.declare(self.out)
        with e.block(""):
            values = e.temporary("prefix")
            e(f"{fold.c_type} {values}[{layout.local_size}];")
            with e.unrolled(layout.local_size) as i:
                e(f"{values}[{i}] = {value_as(e, self.x, i, fold.dtype)};")
            Prefixes(e, layout, self.dim, fold, values).emit()
            with e.unrolled(layout_of(self.out).local_size) as i:
                value = f"{values}[{local_index(e, self.out, self.x, i)}]"
                set_value(e, self.out, i, value, fold.dtype)


class CumulativeSum(Scan, name="cumsum", methods=((RegisterTensor, "cumsum"),)):
    operator = "add"


class CumulativeProduct(Scan, name="cumprod", methods=((RegisterTensor, "cumprod"),)):
    operator = "mul"


@dataclass(frozen=True, eq=False)
class GeneralScan(Scan, name="scan", methods=((RegisterTensor, "scan"),)):
    """The scan whose operation is an argument."""

    op: str = "add"

    @classmethod
    def build(cls, x: Any, *, dim: int, op: str = "add", out: Any = None) -> GeneralScan:
        """Combine each element of `x` with all before it along `dim` by `op`.

        `op` is "add", "mul", "min" or "max" (nan wins). Otherwise like cumsum.

        Example: `highest = self.scan(x, dim=0, op="max")`.
        """
        plain = super().build(x, dim=dim, out=out)
        return cls(plain.out, plain.x, plain.dim, op)

    def verify(self) -> None:
        self.require(
            self.op in SCANNED,
            "op is not understood",
            found=repr(self.op),
            expected=", ".join(SCANNED),
        )
        super().verify()

    def combination(self) -> str:
        return self.op
