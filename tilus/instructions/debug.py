"""Printing from kernels.

    self.print_tensor("acc:", acc)
    self.printf("k = %d, scale = %f\\n", k, scale)

Each block prints once, in the order of the blocks for each instruction.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilus.codegen.collective import first_of, replicas
from tilus.codegen.pieces import turns
from tilus.dtypes import Array, DataType, float32, int32
from tilus.errors import TilusError
from tilus.instructions.arguments import describe, expect
from tilus.instructions.cast import convert_registers, is_storage
from tilus.instructions.elementwise import default_layout, layout_of
from tilus.instructions.shared_memory import LoadShared
from tilus.interp.shared import Access
from tilus.ir.expr import BLOCK_IDX, GRID_DIM, Expr, as_expr
from tilus.ir.instruction import Effects, Instruction, Known, Proposal, Strength
from tilus.ir.tensor import RegisterTensor, SharedTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine


@dataclass(frozen=True, eq=False)
class PrintTensor(Instruction, name="print_tensor", effects=Effects.OUTSIDE | Effects.READ_SHARED):
    msg: str
    tile: RegisterTensor | SharedTensor

    @classmethod
    def build(cls, msg: Any, t: Any) -> PrintTensor:
        """Print `msg` and the values of a register or shared tile, and which block it is.

        Example: `self.print_tensor("acc:", acc)`.
        """
        return cls(msg, t)

    def verify(self) -> None:
        self.require(
            isinstance(self.msg, str),
            "msg must be a text",
            found=describe(self.msg),
            hint="print_tensor(msg, tile)",
        )
        self.require(
            isinstance(self.tile, (RegisterTensor, SharedTensor)),
            "only register and shared tiles can be printed",
            found=describe(self.tile),
            hint="load it first with self.load_global(...); print scalars with self.printf(...)",
        )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        if isinstance(self.tile, RegisterTensor) and known.register(self.tile) is None:
            yield Proposal(self.tile, default_layout(known.num_threads, self.tile), Strength.MAY)

    def run(self, machine: Machine) -> None:
        values = self.tile.dtype.decode(self._values(machine))
        for block, label in enumerate(_block_labels(machine)):
            text = np.array2string(values[block], threshold=sys.maxsize, max_line_width=120)
            sys.stdout.write(f"{label}{self.msg} {self.tile}\n{text}\n")

    def _values(self, machine: Machine) -> Array:
        if isinstance(self.tile, RegisterTensor):
            return machine[self.tile]
        access = Access(None, machine.shared_ref(self.tile).offsets())
        return machine.read_shared(self.tile, access).reshape(machine.count, *self.tile.shape)

    def emit(self, e: Emitter) -> None:
        """A line for each element, from the first thread that holds it, in no order."""
        with e.block(""):
            tile = self._readable(e)
            first = first_of(e, replicas(layout_of(tile)))
            with e.block(f"if ({first})" if first else ""):
                for i, turn in turns(e, layout_of(tile).local_size):
                    index = [e.index(j) for j in layout_of(tile).indices(e.thread, turn)]
                    values = ", ".join((*BLOCK, *index, _shown(e, tile, i)))
                    e(f"printf({self._format(tile)}, {values});")

    def _readable(self, e: Emitter) -> RegisterTensor:
        """The tile in registers, of a dtype that C has."""
        tile = self.tile
        if isinstance(tile, SharedTensor):
            shared, tile = tile, RegisterTensor(tile.dtype, tile.shape, name="loaded")
            tile.layout = default_layout(e.num_threads, tile)
            LoadShared(tile, shared).emit(e)
        if not is_storage(tile.dtype):
            return tile
        wide = RegisterTensor(
            int32 if tile.dtype.is_integer() else float32, tile.shape, tile.layout, name="wide"
        )
        convert_registers(e, wide, tile)
        return wide

    def _format(self, tile: RegisterTensor) -> str:
        """The format of an element's line: `[block 0, 0, 0] acc:[1, 2] = 0.5`."""
        index = ", ".join(["%d"] * len(tile.shape))
        msg = self.msg.replace("%", "%%")
        conversion = _CONVERSION_OF.get((tile.dtype.kind, tile.dtype.nbits), "%d")
        return c_string(f"[block %d, %d, %d] {msg}[{index}] = {conversion}\n")


# How an element of a kind and width is printed; narrower integers are promoted to int.
_CONVERSION_OF = {
    ("uint", 32): "%u",
    ("int", 64): "%lld",
    ("uint", 64): "%llu",
    ("pointer", 64): "%llu",
    **{("float", nbits): "%g" for nbits in (16, 32, 64)},
}
BLOCK = ("blockIdx.x", "blockIdx.y", "blockIdx.z")


def _shown(e: Emitter, tile: RegisterTensor, register: str) -> str:
    """A register's value as printf takes it: floats widen to double."""
    value = e.get(tile, register)
    return f"(double){value}" if tile.dtype.is_float() else value


def _block_labels(machine: Machine) -> list[str]:
    """What each active block writes in front of its line: nothing where there is only one."""
    if all(int(machine.scalar(extent)) == 1 for extent in GRID_DIM):
        return [""] * machine.count
    axes = [np.broadcast_to(machine.scalar(axis), (machine.count,)) for axis in BLOCK_IDX]
    return [f"[block {x}, {y}, {z}] " for x, y, z in zip(*axes, strict=True)]


# A conversion of C's printf: flags, width, precision, length, then what it converts.
_CONVERSION = re.compile(r"%(?:%|([-+ #0]*\d*(?:\.\d+)?)(?:hh|h|ll|l)?([diuxXocfFeEgG]))")
_UNSIGNED = "uxXo"
_INTEGERS = "di" + _UNSIGNED + "c"


@dataclass(frozen=True, eq=False)
class Printf(Instruction, name="printf", effects=Effects.OUTSIDE):
    fmt: str
    args: tuple[Expr, ...]

    @classmethod
    def build(cls, fmt: Any, *args: Any) -> Printf:
        """Print scalars as C's printf does, once in each block; end the line with `\\n`.

        Conversions: %d %i %u %x %X %o %c for integers and booleans, %f %e %g for floats, with
        flags, width and precision; %% is a percent sign. Host text goes into the format itself,
        with an f-string. Raises `TilusError` where conversions and arguments do not match.

        Example: `self.printf("block %d: %.3f\\n", self.blockIdx.x, total.item())`.
        """
        return cls(expect(fmt, str, "printf: fmt"), tuple(_argument(a) for a in args))

    def verify(self) -> None:
        rest = _CONVERSION.sub("", self.fmt)
        if "%" in rest:
            shown = rest[rest.index("%") :][:8]
            self.require(
                False,
                "the format has a conversion that is not known",
                found=repr(shown),
                expected="%d %i %u %x %X %o %c %f %e %g or %%",
                hint="put text into the format with an f-string" if "s" in shown else None,
            )
        letters = [letter for _, letter in _CONVERSION.findall(self.fmt) if letter]
        self.require(
            len(letters) == len(self.args),
            "the format and the arguments differ in number",
            found=f"{len(letters)} conversions, {len(self.args)} arguments",
        )
        for letter, arg in zip(letters, self.args, strict=True):
            fits = _is_integer(arg.dtype) if letter in _INTEGERS else arg.dtype.is_float()
            self.require(
                fits,
                f"%{letter} does not print a {arg.dtype}",
                found=describe(arg),
                expected="%d" if _is_integer(arg.dtype) else "%f",
            )

    def run(self, machine: Machine) -> None:
        columns = [
            np.broadcast_to(a.dtype.decode(machine.scalar(a)), (machine.count,)) for a in self.args
        ]
        for row in range(machine.count):
            values = iter([column[row].item() for column in columns])
            dtypes_ = iter([a.dtype for a in self.args])

            def convert(match: re.Match[str], values: Any = values, types: Any = dtypes_) -> str:
                return _converted(match, values, types)

            sys.stdout.write(_CONVERSION.sub(convert, self.fmt))

    def emit(self, e: Emitter) -> None:
        values = "".join(f", {_vararg(e, a)}" for a in self.args)
        e(f"if (tid == 0) printf({c_string(self.fmt)}{values});")


def _converted(match: re.Match[str], values: Iterator[Any], types: Iterator[DataType]) -> str:
    flags, letter = match.groups()
    if letter is None:
        return "%"
    value, dtype = next(values), next(types)
    if letter in _UNSIGNED and value < 0:
        value += 1 << dtype.nbits  # C reads the same bits without their sign
    return f"%{flags}{letter}" % value


def _is_integer(dtype: DataType) -> bool:
    return dtype.is_integer() or dtype.kind == "bool" or dtype.is_pointer()


def _argument(value: Any) -> Expr:
    if isinstance(value, (RegisterTensor, SharedTensor)):
        raise TilusError(
            "printf: scalars are printed, not tiles",
            found=describe(value),
            hint="use self.print_tensor(msg, tile), or tile.item() of a tile of size 1",
        )
    return as_expr(value)


def c_string(text: str) -> str:
    """`text` as a C string literal."""
    return json.dumps(text, ensure_ascii=True).replace("\\u", "\\\\u")


def _vararg(e: Emitter, value: Expr) -> str:
    """A scalar as printf takes it: floats widen to double."""
    text = e.scalar(value)
    return f"(double)({text})" if value.dtype.is_float() else text
