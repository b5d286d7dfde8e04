"""Elementwise work on register tiles: making them, copying them, and every row of the operator
table.

    x = self.register_tensor(dtype=float32, shape=[16, 32], init=lambda i, j: i * 32 + j)
    y = x * 2 + 1                     # NumPy broadcasting; the scalar takes the tile's dtype
    z = self.exp(y)

One class, `Elementwise`, serves all operators: what they compute and how they print is in
`ir/operators.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilus import dtypes
from tilus.codegen.emitter import array_size, is_packed
from tilus.codegen.scalar import atom
from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.instructions.arguments import expect, shape_tuple
from tilus.instructions.placement import vectorized_layout
from tilus.interp.machine import spread
from tilus.interp.registers import pack_bits
from tilus.ir.expr import Const, Expr, Var, as_expr, cast
from tilus.ir.instruction import Instruction, Known, Proposal, Strength
from tilus.ir.layout import RegisterLayout, holds_operands, operand_locals
from tilus.ir.operators import OPERATORS, Operator, compute, operand_dtypes
from tilus.ir.tensor import RegisterTensor
from tilus.ir.terms import substitute

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine

Operand = RegisterTensor | Expr


@dataclass(frozen=True, eq=False)
class MakeRegisterTensor(Instruction, name="register_tensor"):
    out: RegisterTensor
    axes: tuple[Var, ...] = ()
    init: Expr | None = None

    @classmethod
    def build(cls, *, dtype: Any, shape: Any, init: Any = None) -> MakeRegisterTensor:
        """A register tile; `init` is a scalar, or a function of the index such as `lambda i, j: i +
        j`.

        Without `init` the tile must be written before it is read.
        """
        out = RegisterTensor(expect(dtype, DataType, "register_tensor: dtype"), shape_tuple(shape))
        if init is None:
            return cls(out)
        if not callable(init):
            return cls(out, (), _converted(init, out.dtype))
        axes = tuple(Var(dtypes.int32, f"i{k}") for k in range(len(out.shape)))
        return cls(out, axes, _converted(init(*axes), out.dtype))

    def layouts(self, known: Known) -> Iterator[Proposal]:
        if known.register(self.out) is None:
            yield Proposal(self.out, default_layout(known.num_threads, self.out), Strength.MAY)

    def run(self, machine: Machine) -> None:
        if self.init is None:
            machine.undefine(self.out)
            return
        machine[self.out] = machine.over_axes(self.init, self.axes, self.out.shape)

    def emit(self, e: Emitter) -> None:
        if self.init is None:
            e.declare(self.out)
        elif isinstance(self.init, Const):
            fill(e, self.out, self.init)
        else:
            self._emit_by_index(e, self.init)

    def _emit_by_index(self, e: Emitter, init: Expr) -> None:
        """The value as a function of the index, which is one of thread and register."""
        layout = layout_of(self.out)
        e.declare(self.out, zero=is_packed(self.out.dtype))
        with e.unrolled(layout.local_size) as i:
            turn = e.loop_variable(i, layout.local_size)
            index = layout.indices(e.thread, turn)
            value = substitute(
                init, {a: as_expr(j) for a, j in zip(self.axes, index, strict=False)}
            )
            e.set(self.out, i, e.index(value))


def _converted(init: Any, dtype: DataType) -> Expr:
    """`init` as an expression of `dtype`; a number that the dtype cannot hold is an error, not a
    wrap.
    """
    if isinstance(init, (bool, int, float)) and not dtype.is_pointer():
        return as_expr(init, dtype) if isinstance(init, int) else cast(as_expr(float(init)), dtype)
    return cast(init, dtype)


def default_layout(num_threads: int, tile: RegisterTensor) -> RegisterLayout:
    """Where nothing else decides: rows over threads, 128-bit runs in each."""
    return vectorized_layout(
        num_threads, tile.shape, tile.dtype, tile.shape[-1] if tile.shape else 1
    )


@dataclass(frozen=True, eq=False)
class AssignTile(Instruction, name="assign"):
    out: RegisterTensor
    src: RegisterTensor

    @classmethod
    def build(cls, dst: Any, src: Any) -> AssignTile:
        """Copy `src` into the register tile `dst`: same dtype, same shape."""
        return cls(
            expect(dst, RegisterTensor, "assign: dst"), expect(src, RegisterTensor, "assign: src")
        )

    def verify(self) -> None:
        self.require(
            (self.out.dtype, self.out.shape) == (self.src.dtype, self.src.shape),
            f"the new value of {self.out.name or 'the tile'} has another type",
            found=str(self.src),
            expected=str(self.out),
            hint=f"cast it: .to({self.out.dtype})"
            if self.out.shape == self.src.shape
            else "use another name",
        )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        yield from same_layout(known, self.out, self.src)

    def check_layouts(self) -> None:
        check_operands(self, self.out, (self.src,))

    def run(self, machine: Machine) -> None:
        machine[self.out] = machine[self.src]

    def emit(self, e: Emitter) -> None:
        out, src = e.declare(self.out), e.tile(self.src)
        if self.out.layout == self.src.layout and self.out.bits == self.src.bits:
            with e.unrolled(array_size(self.out)) as i:
                e(f"{out}[{i}] = {src}[{i}];")
            return
        with e.unrolled(layout_of(self.out).local_size) as i:
            e.set(self.out, i, e.get(self.src, local_index(e, self.out, self.src, i)))


@dataclass(frozen=True, eq=False)
class Elementwise(Instruction, name="elementwise"):
    """Row `op` of the operator table on tiles and scalars, broadcast as NumPy does."""

    out: RegisterTensor
    op: str
    args: tuple[Operand, ...]

    @classmethod
    def build(cls, op: str, *args: Any, out: Any = None) -> Elementwise:
        """Apply operator `op`; `out` reuses a tile of the result's shape and dtype."""
        row = OPERATORS[op]
        operands = _operands(row, args)
        shape = broadcast_shapes(
            row.name, [a.shape for a in operands if isinstance(a, RegisterTensor)]
        )
        dtype = row.result(tuple(a.dtype for a in operands))
        if out is None:
            return cls(RegisterTensor(dtype, shape), op, operands)
        return cls(expect(out, RegisterTensor, f"{op}: out"), op, operands)

    def verify(self) -> None:
        row = OPERATORS[self.op]
        shape = broadcast_shapes(
            row.name, [a.shape for a in self.args if isinstance(a, RegisterTensor)]
        )
        dtype = row.result(tuple(a.dtype for a in self.args))
        self.require(
            (self.out.dtype, self.out.shape) == (dtype, shape),
            f"{self.op} gives another type than its result has",
            found=str(self.out),
            expected=str(RegisterTensor(dtype, shape)),
        )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        tiles = [a for a in self.args if isinstance(a, RegisterTensor)]
        yield from broadcast_layouts(known, self.out, tiles)

    def check_layouts(self) -> None:
        check_operands(self, self.out, tuple(a for a in self.args if isinstance(a, RegisterTensor)))

    def run(self, machine: Machine) -> None:
        row, rank = OPERATORS[self.op], len(self.out.shape)
        values = [_value(machine, a, rank) for a in self.args]
        machine[self.out] = compute(row, values, [a.dtype for a in self.args], self.out.dtype)

    def emit(self, e: Emitter) -> None:
        e.declare(self.out)
        helper = PACKED_PAIRS.get((self.op, self.out.dtype.name))
        if helper is not None and all(_pairs_up(self.out, a) for a in self.args):
            self._emit_pairs(e, helper)
            return
        row = OPERATORS[self.op]
        types = operand_dtypes(row, tuple(a.dtype for a in self.args), self.out.dtype)
        with e.unrolled(layout_of(self.out).local_size) as i:
            values = [
                atom(e.scalar.converted(_register_value(e, self.out, a, i), a.dtype, t))
                for a, t in zip(self.args, types, strict=True)
            ]
            e.set(self.out, i, e.scalar.operation(self.op, values, types[-1], self.out.dtype))

    def _emit_pairs(self, e: Emitter, helper: str) -> None:
        """Two half-precision elements an instruction."""
        out = e.tile(self.out)
        pairs = [_Pairs(e, self.out, a) for a in self.args]
        with e.unrolled(array_size(self.out)) as i:
            operands = [pair.word(i) for pair in pairs]
            e(f"{out}[{i}] = {e.use(helper)}({', '.join(operands)});")


# Operators that do two half-precision elements at once (PTX ISA, "Half Precision Floating Point
# Instructions"); the rest go through float, element by element.
PACKED_PAIRS = {
    (op, dtype): f"{op}_{kind}x2"
    for op in ("add", "sub", "mul", "min", "max", "neg", "abs")
    for dtype, kind in (("float16", "f16"), ("bfloat16", "bf16"))
}


def _pairs_up(out: RegisterTensor, operand: Operand) -> bool:
    """Whether the operand is of the result's type, with its elements two a word."""
    if isinstance(operand, Expr):
        return operand.dtype == out.dtype
    even = layout_of(out).local_size % 2 == 0
    return even and operand.dtype == out.dtype and operand.bits is None and out.bits is None


class _Pairs:
    """The two halves of an operand that meet word `i` of a result, as one word.

    They are a word of the operand, or put together from one or two of its words by PRMT: where the
    operand is broadcast, both halves are often the same element.
    """

    def __init__(self, e: Emitter, out: RegisterTensor, operand: Operand):
        self.e = e
        if isinstance(operand, Expr):
            self.constant: str | None = e.temporary("pair")
            pair = e.use("pair_f16" if out.dtype.name == "float16" else "pair_bf16")
            e(f"const uint32_t {self.constant} = {pair}({e.scalar(operand)});")
            return
        self.constant = None
        self.name = e.tile(operand)
        low, high = local_table(out, operand).reshape(-1, 2).T
        self.low, self.high = low // 2, high // 2
        # PRMT selectors: bytes 0..3 are of the first word, 4..7 of the second.
        first, second = 2 * (low % 2), 4 + 2 * (high % 2)
        self.selectors = first | (first + 1) << 4 | second << 8 | (second + 1) << 12
        self.whole = bool(((low % 2 == 0) & (high == low + 1)).all())

    def word(self, i: str) -> str:
        if self.constant is not None:
            return self.constant
        low = f"{self.name}[{self.e.mapped(self.low, i)}]"
        if self.whole:
            return low
        high = f"{self.name}[{self.e.mapped(self.high, i)}]"
        return f"{self.e.use('prmt')}({low}, {high}, {self.e.mapped(self.selectors, i, 'halves')})"


def _register_value(e: Emitter, out: RegisterTensor, operand: Operand, i: str) -> str:
    """The operand of register `i` of `out`, as a C scalar."""
    if isinstance(operand, Expr):
        return e.scalar(operand)
    return e.get(operand, local_index(e, out, operand, i))


def layout_of(tile: RegisterTensor) -> RegisterLayout:
    assert tile.layout is not None, "layout inference has run"
    return tile.layout


def local_index(e: Emitter, out: RegisterTensor, operand: RegisterTensor, i: str) -> str:
    """The register of `operand` that holds the partner of register `i` of `out`."""
    return e.mapped(local_table(out, operand), i)


def local_table(out: RegisterTensor, operand: RegisterTensor) -> np.ndarray[Any, Any]:
    """Per register of `out`, the register of `operand` with its partner, the same in all threads.

    Raises `TilusError` where it differs between threads: registers cannot be indexed at run time.
    """
    table = operand_locals(layout_of(out), layout_of(operand))
    if (table != table[0]).any():
        raise TilusError(
            "which register holds an operand would depend on the thread",
            found=f"{operand.name or 'operand'}: {operand.layout}; result: {out.layout}",
            expected="an operand whose registers correspond in every thread",
            hint="annotate_layout one of them, or pass the data through shared memory",
        )
    return table[0]


def fill(e: Emitter, tile: RegisterTensor, value: Const) -> None:
    """Set every register of `tile` to a constant."""
    name = e.declare(tile)
    if not is_packed(tile.dtype):
        with e.unrolled(array_size(tile)) as i:
            e(f"{name}[{i}] = {e.scalar(value)};")
        return
    code = tile.dtype.to_bits(tile.dtype.encode(np.asarray(value.value)))
    codes = np.broadcast_to(code, layout_of(tile).local_size)
    packed = pack_bits(codes, tile.dtype.nbits, tile.bits)
    words = np.pad(packed, (0, -packed.size % 4)).view(np.uint32)
    if (words == words[0]).all():
        with e.unrolled(array_size(tile)) as i:
            e(f"{name}[{i}] = {int(words[0]):#x}u;")
        return
    for i, word in enumerate(words):
        e(f"{name}[{i}] = {int(word):#x}u;")


def _operands(row: Operator, args: tuple[Any, ...]) -> tuple[Operand, ...]:
    if len(args) != row.arity:
        raise TilusError(
            f"{row.name} takes {row.arity} operands", found=f"{len(args)}", expected=f"{row.arity}"
        )
    tiles = [a for a in args if isinstance(a, RegisterTensor)]
    like = next(
        (a.dtype for a in tiles if a.dtype.kind != "bool"), tiles[0].dtype if tiles else None
    )
    return tuple(_operand(row, a, like) for a in args)


def _operand(row: Operator, value: Any, like: DataType | None) -> Operand:
    """A tile, or a scalar which takes the tile's dtype."""
    if isinstance(value, RegisterTensor):
        return value
    if not isinstance(value, (bool, int, float, Expr)):
        return expect(value, RegisterTensor, f"{row.name}: operand")
    scalar = as_expr(value, like)
    if like is None or scalar.dtype.kind == "bool" or scalar.dtype == like:
        return scalar
    if like.is_float() or scalar.dtype.is_integer():
        return cast(scalar, like)
    return scalar


def _value(machine: Machine, operand: Operand, rank: int) -> Any:
    """The operand's array, (blocks, extents...) with leading ones up to `rank` extents."""
    if isinstance(operand, Expr):
        return spread(machine.scalar(operand), rank)
    values = machine[operand]
    missing = rank - len(operand.shape)
    return values.reshape(values.shape[0], *(1,) * missing, *operand.shape) if missing else values


def broadcast_shapes(what: str, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """NumPy's broadcast of the shapes, or an error that shows them."""
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError:
        raise TilusError(
            f"{what}: the shapes do not broadcast",
            found=" and ".join(str(list(s)) for s in shapes),
            expected="extents that are equal, or 1, counted from the last dimension",
            hint="use unsqueeze, squeeze, transpose or repeat to line the dimensions up",
        ) from None


def same_layout(known: Known, a: RegisterTensor, b: RegisterTensor) -> Iterator[Proposal]:
    """Tiles of one shape that meet in an elementwise copy have one layout."""
    la, lb = known.register(a), known.register(b)
    if la is not None and lb is None:
        yield Proposal(b, la, Strength.MUST)
    if lb is not None and la is None:
        yield Proposal(a, lb, Strength.MUST)


def broadcast_layouts(
    known: Known, out: RegisterTensor, args: list[RegisterTensor]
) -> Iterator[Proposal]:
    """The result takes the layout of an operand of its shape; operands take the result's, reduced
    to their shape.
    """
    layout = known.register(out)
    if layout is None:
        candidates = (known.register(a) for a in args if a.shape == out.shape)
        layout = next((c for c in candidates if c is not None), None)
        if layout is not None:
            yield Proposal(out, layout, Strength.MUST)
        else:
            yield Proposal(out, default_layout(known.num_threads, out), Strength.MAY)
            return
    for arg in args:
        if known.register(arg) is None:
            yield Proposal(arg, layout.reduce_to(arg.shape), Strength.MUST)


def check_operands(
    instruction: Instruction, out: RegisterTensor, args: tuple[RegisterTensor, ...]
) -> None:
    """Every thread that computes an element must hold the operands' elements."""
    for arg in args:
        assert out.layout is not None and arg.layout is not None
        if not holds_operands(out.layout, arg.layout):
            raise TilusError(
                f"{instruction.name}: threads do not hold the elements they combine",
                found=f"{arg.name or 'operand'}: {arg.layout}; result: {out.layout}",
                expected="operands with the result's layout, or replicated where they broadcast",
                hint="annotate_layout one of them, or pass the data through shared memory to "
                "change its layout",
            )
