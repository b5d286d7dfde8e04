"""Matrix multiplication of register tiles.

    acc = self.register_tensor(dtype=float32, shape=[64, 64], init=0.0)
    self.dot(a, b, acc, out=acc)      # acc += a @ b

Where dtypes, extents and warps fit a tensor-core instruction, the operands take the layouts of its
fragments; otherwise each thread computes its elements with ordinary arithmetic. `Dot.form` says
which, and why. The surprise: both forms mean the same, a product in float32 (integers: exact) that
is rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilus import dtypes
from tilus.codegen.collective import first_of, replicas, value_as
from tilus.codegen.emitter import array_size
from tilus.codegen.pieces import turns
from tilus.codegen.scalar import scalar_type
from tilus.dtypes import Array, DataType, convert
from tilus.errors import TilusError
from tilus.instructions.arguments import expect
from tilus.instructions.elementwise import default_layout, layout_of, local_index
from tilus.instructions.mma_tiling import Tiling, tilings_of
from tilus.ir.expr import Expr, apply, as_expr
from tilus.ir.instruction import Instruction, Known, Proposal, Strength
from tilus.ir.layout import (
    AtomicMma,
    LayoutError,
    RegisterLayout,
    find_atomic_mma,
    holds_operands,
    local,
)
from tilus.ir.operators import promote
from tilus.ir.tensor import RegisterTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine

_FLOAT8 = (dtypes.float8_e4m3, dtypes.float8_e5m2)


@dataclass(frozen=True, eq=False)
class Dot(Instruction, name="dot"):
    out: RegisterTensor
    a: RegisterTensor
    b: RegisterTensor
    c: RegisterTensor | None = None

    @classmethod
    def build(
        cls, a: Any, b: Any, c: Any = None, /, *, acc_dtype: Any = None, out: Any = None
    ) -> Dot:
        """`a @ b`, or `a @ b + c`: a of shape [m, k], b of [k, n], c and the result of [m, n].

        With a leading dimension, the same in all of them, it multiplies matrix by matrix: a of
        shape [batch, m, k], b of [batch, k, n], c and the result of [batch, m, n].

        `acc_dtype` is the dtype of c and the result: by default that of c or out, else float32 for
        floats of at most 32 bits and int32 for integers of at most 32 bits. `out=c` accumulates in
        place.

        Tensor cores multiply (f16, f32), (f16, f16), (bf16, f32), (int8, int32), and (f8, f32) from
        sm_89, in tiles whose extents are multiples of 16 x 8 x 16 (8-bit: 16 x 8 x 32). Anything
        else is computed without them. Raises `TilusError` for operands of less than 8 bits: cast
        them first.

        Example: `self.dot(a, b.to(tilus.float16), acc, out=acc)`.
        """
        left, right = expect(a, RegisterTensor, "dot: a"), expect(b, RegisterTensor, "dot: b")
        addend = None if c is None else expect(c, RegisterTensor, "dot: c")
        if acc_dtype is not None:
            acc_dtype = expect(acc_dtype, DataType, "dot: acc_dtype")
        if out is None:
            _check_shapes(left, right)
            like = acc_dtype or (addend.dtype if addend else None)
            dtype = like or _default_accumulator(_operand_dtype(left.dtype, right.dtype))
            out = RegisterTensor(dtype, (*left.shape[:-1], right.shape[-1]))
        result = expect(out, RegisterTensor, "dot: out")
        if acc_dtype is not None and result.dtype != acc_dtype:
            raise TilusError(
                "dot: out is of another dtype than acc_dtype",
                found=f"{result.dtype} and {acc_dtype}",
                expected="the same dtype",
            )
        return cls(result, left, right, addend)

    def verify(self) -> None:
        _check_shapes(self.a, self.b)
        operand = _operand_dtype(self.a.dtype, self.b.dtype)
        _check_accumulator(operand, self.out.dtype)
        expected = RegisterTensor(self.out.dtype, (*self.a.shape[:-1], self.b.shape[-1]))
        for what, tile in (("c", self.c), ("the result", self.out)):
            self.require(
                tile is None or (tile.dtype, tile.shape) == (expected.dtype, expected.shape),
                f"{what} is of another type",
                found=str(tile),
                expected=str(expected),
                hint="c and out have the accumulator's dtype: acc_dtype=...",
            )

    # ---- layouts ----

    @property
    def _accumulators(self) -> tuple[RegisterTensor, ...]:
        return (self.out,) if self.c is None or self.c is self.out else (self.out, self.c)

    def layouts(self, known: Known) -> Iterator[Proposal]:
        tiles = (self.a, self.b, *self._accumulators)
        have = {t: layout for t in tiles if (layout := known.register(t)) is not None}
        if len(have) == len(tiles):
            return
        config, _ = self._configuration(known.num_threads, have)
        if config is None:
            yield from self._simt_layouts(known)
            return
        for tile, layout in self._fragments(config):
            if tile not in have:
                yield Proposal(tile, layout, Strength.MUST)

    def _fragments(self, config: Tiling) -> Iterator[tuple[RegisterTensor, RegisterLayout]]:
        yield self.a, config.la
        yield self.b, config.lb
        for tile in self._accumulators:
            yield tile, config.lc

    def _configuration(
        self, num_threads: int, have: dict[RegisterTensor, RegisterLayout]
    ) -> tuple[Tiling | None, str]:
        """The best tensor-core tiling that agrees with the known layouts, or why there is none."""
        try:
            configs = self._tilings(num_threads)
        except LayoutError as error:
            return None, f"{error.message}" + (f": {error.found}" if error.found else "")
        for config in configs:
            if all(have.get(tile, layout) == layout for tile, layout in self._fragments(config)):
                return config, ""
        fixed = ", ".join(name for name, tile in self._named() if tile in have)
        return (
            None,
            f"no {configs[0].config.atom.name} tiling has the layouts that {fixed} have already",
        )

    def _named(self) -> Iterator[tuple[str, RegisterTensor]]:
        yield from (("a", self.a), ("b", self.b), ("the result", self.out))
        if self.c is not None and self.c is not self.out:
            yield "c", self.c

    def _tilings(self, num_threads: int) -> tuple[Tiling, ...]:
        atom = find_atomic_mma(self.a.dtype, self.b.dtype, self.out.dtype)
        *batch, m, k = self.a.shape
        return tilings_of(atom, tuple(batch), (m, self.b.shape[-1], k), num_threads)

    def _simt_layouts(self, known: Known) -> Iterator[Proposal]:
        layout = next((lo for t in self._accumulators if (lo := known.register(t))), None)
        if layout is None:
            default = default_layout(known.num_threads, self.out)
            yield Proposal(self.out, default, Strength.SHOULD)
            return
        for tile in self._accumulators:
            if known.register(tile) is None:
                yield Proposal(tile, layout, Strength.MUST)
        # A thread computes its elements alone when it holds their rows of a and columns of b.
        k, rank = self.a.shape[-1], len(self.a.shape)
        rows = layout.reduce(rank - 1, keepdims=True) * local(*(1,) * (rank - 1), k)
        columns = layout.reduce(rank - 2, keepdims=True) * local(*(1,) * (rank - 2), k, 1)
        for tile, operand in ((self.a, rows), (self.b, columns)):
            if known.register(tile) is None:
                yield Proposal(tile, operand, Strength.SHOULD)

    def form(self, num_threads: int) -> str:
        """How it is computed with these layouts: the tensor-core tiling, or why there is none."""
        have = {t: t.layout for _, t in self._named() if t.layout is not None}
        config, refusal = self._configuration(num_threads, have)
        if config is None:
            return f"dot without tensor cores: {refusal}"
        tiling = config.config
        warps, repeat = ("x".join(map(str, e)) for e in (tiling.warp_spatial, tiling.warp_repeat))
        return f"dot by {tiling.atom.opcode}: warps {warps}, each {repeat} times"

    def check_layouts(self) -> None:
        if self.c is not None:
            assert self.c.layout is not None and self.out.layout is not None
            self.require(
                holds_operands(self.out.layout, self.c.layout),
                "c and the result lie in different threads",
                found=f"c: {self.c.layout}; result: {self.out.layout}",
                expected="one layout",
                hint="annotate_layout only one of them",
            )

    # ---- meaning ----

    def run(self, machine: Machine) -> None:
        a, b = machine[self.a], machine[self.b]
        c = None if self.c is None else machine[self.c]
        product = _float_product if self.out.dtype.is_float() else _integer_product
        machine[self.out] = product(self, a, b, c)

    # ---- CUDA ----

    def emit(self, e: Emitter) -> None:
        have = {t: layout_of(t) for _, t in self._named()}
        config, refusal = self._configuration(e.num_threads, have)
        if config is None:
            e.note(f"{e.name(self.out)}: dot without tensor cores: {refusal}")
            self._emit_simt(e)
            return
        atom = config.config.atom
        if e.target.properties.compute_capability < atom.min_capability:
            raise TilusError(
                f"dot: {atom.name} does not exist on {e.target}",
                expected="compute capability {}.{}".format(*atom.min_capability),
                hint="cast the operands to float16 first",
            )
        self._emit_atoms(e, config)

    def _start(self, e: Emitter) -> None:
        """The accumulator before the first product: c, or 0."""
        out = e.declare(self.out, zero=self.c is None)
        if self.c is None or self.c is self.out:
            return
        if layout_of(self.c) == layout_of(self.out):
            with e.unrolled(array_size(self.out)) as i:
                e(f"{out}[{i}] = {e.tile(self.c)}[{i}];")
            return
        with e.unrolled(layout_of(self.out).local_size) as i:
            e.set(self.out, i, e.get(self.c, local_index(e, self.out, self.c, i)))

    def _emit_atoms(self, e: Emitter, tiling: Tiling) -> None:
        """One instruction for each (row, column, depth) of atoms; a warp's atoms lie row-major."""
        start = self.c
        if start is None or layout_of(start) != layout_of(self.out):
            self._start(e)
            start = self.out
        out, added = e.declare(self.out), e.tile(start)
        # The first product of each accumulator adds to c where it lies: nothing is copied.
        self._emit_steps(e, tiling, out, added, 0, 1)
        if tiling.config.warp_repeat[2] > 1:
            self._emit_steps(e, tiling, out, out, 1, tiling.config.warp_repeat[2])

    def _emit_steps(
        self, e: Emitter, tiling: Tiling, out: str, added: str, first: int, end: int
    ) -> None:
        rm, rn, rk = tiling.config.warp_repeat
        atom = tiling.config.atom
        words = [
            _words(layout, dtype)
            for layout, dtype in (
                (atom.lc, self.out.dtype),
                (atom.la, self.a.dtype),
                (atom.lb, self.b.dtype),
            )
        ]
        mma = e.define(atom.name, mma_function(atom, *words))
        a, b = e.tile(self.a), e.tile(self.b)
        with ExitStack() as loops:
            counts = (tiling.matrices, end - first, rm, rn)
            bi, ki, mi, ni = (
                loops.enter_context(e.unrolled(count, name)) if count > 1 else "0"
                for count, name in zip(counts, ("bi", "ki", "mi", "ni"), strict=True)
            )
            ki = ki if first == 0 else "1" if end == 2 else f"({ki} + 1)"
            batch = (bi, tiling.matrices)
            c = _place([batch, (mi, rm), (ni, rn)], words[0])
            left = _place([batch, (mi, rm), (ki, rk)], words[1])
            right = _place([batch, (ki, rk), (ni, rn)], words[2])
            e(f"{mma}(&{out}[{c}], &{a}[{left}], &{b}[{right}], &{added}[{c}]);")

    def _emit_simt(self, e: Emitter) -> None:
        """Each thread multiplies the rows and columns of its elements."""
        out, (height, depth), columns = layout_of(self.out), self.a.shape[-2:], self.b.shape[-1]
        row, column = np.divmod(out.logical_indices()[..., None], columns)  # of all the batch
        steps = np.arange(depth)
        left = _registers(layout_of(self.a), row * depth + steps)
        right = _registers(layout_of(self.b), (row // height * depth + steps) * columns + column)
        wide = self.out.dtype if self.out.dtype.nbits >= 32 else dtypes.float32
        elsewhere = [t for t, table in ((self.a, left), (self.b, right)) if table is None]
        boxes = _stage(e, list(dict.fromkeys(elsewhere)), wide)
        self._start(e)
        for i, turn in turns(e, out.local_size):
            total = e.temporary("total")
            e(f"{scalar_type(wide)} {total} = {e.get(self.out, i)};")
            rows_at, columns_at = (
                None if table is None else e.constant_table(table.reshape(-1), "at")
                for table in (left, right)
            )
            *batch, j, k = (e.index(index) for index in out.indices(e.thread, turn))
            above, before = (f"({b}) * {n} + " for b in batch or ["0"] for n in (height, depth))
            with _steps(e, depth, unrolled=len(elsewhere) < 2) as step:
                register = f"{i} * {depth} + {step}"
                x, y = (
                    f"{boxes[tile]}[{place}]"
                    if at is None
                    else value_as(e, tile, f"{at}[{register}]", wide)
                    for tile, at, place in (
                        (self.a, rows_at, f"({above}{j}) * {depth} + {step}"),
                        (self.b, columns_at, f"({before}{step}) * {columns} + {k}"),
                    )
                )
                e(f"{total} += {x} * {y};")
            e.set(self.out, i, e.scalar.converted(total, wide, self.out.dtype))


def _float_product(dot: Dot, a: Array, b: Array, c: Array | None) -> Array:
    wide = dtypes.float64 if dot.out.dtype == dtypes.float64 else dtypes.float32
    with np.errstate(all="ignore"):
        total = np.matmul(convert(a, dot.a.dtype, wide), convert(b, dot.b.dtype, wide))
        if c is not None:
            total = total + convert(c, dot.out.dtype, wide)
    return convert(total, wide, dot.out.dtype)


def _integer_product(dot: Dot, a: Array, b: Array, c: Array | None) -> Array:
    # Products of 8-bit integers are exact in float64, which has a fast matmul; others wrap around
    # in 64 bits.
    exact = np.float64 if max(dot.a.dtype.nbits, dot.b.dtype.nbits) == 8 else np.int64
    total = np.matmul(a.astype(exact), b.astype(exact)).astype(np.int64)
    if c is not None:
        total = total + c.astype(np.int64)
    return total.astype(dot.out.dtype.carrier)


def _check_shapes(a: RegisterTensor, b: RegisterTensor) -> None:
    ranks, batches = (len(a.shape), len(b.shape)), (a.shape[:-2], b.shape[:-2])
    if ranks not in ((2, 2), (3, 3)) or batches[0] != batches[1] or a.shape[-1] != b.shape[-2]:
        raise TilusError(
            "dot: the shapes do not multiply",
            found=f"{list(a.shape)} @ {list(b.shape)}",
            expected="[m, k] @ [k, n], or [batch, m, k] @ [batch, k, n]",
            hint="transpose or reshape an operand",
        )


def _operand_dtype(a: DataType, b: DataType) -> DataType:
    """The dtype both operands are multiplied in; any float8 stays, narrower formats are refused."""
    if a in _FLOAT8 and b in _FLOAT8:
        return a
    common = promote(a, b) if a != b else a
    if common.kind not in ("int", "uint", "float") or common.nbits < 8 or _odd_float8(common):
        raise TilusError(
            f"dot: {common} is a storage format",
            found=f"{a} @ {b}",
            expected="floats of 16 bits or more, float8_e4m3, float8_e5m2, 8-bit integers or more",
            hint="cast the operand first: x.to(tilus.float16)",
        )
    return common


def _odd_float8(dtype: DataType) -> bool:
    return dtype.is_float() and dtype.nbits == 8 and dtype not in _FLOAT8


def _default_accumulator(operand: DataType) -> DataType:
    if operand.is_float():
        return dtypes.float64 if operand == dtypes.float64 else dtypes.float32
    return dtypes.int64 if operand.nbits == 64 else dtypes.int32


def _check_accumulator(operand: DataType, acc: DataType) -> None:
    """The accumulator is of the operands' kind and no narrower than they are."""
    floats = operand.is_float() and acc.is_float() and acc.nbits >= max(16, operand.nbits)
    integers = operand.is_integer() and acc.is_integer() and acc.nbits >= max(32, operand.nbits)
    if not (floats or integers):
        raise TilusError(
            "dot: the accumulator does not fit the operands",
            found=f"{operand} accumulated in {acc}",
            expected="a float at least as wide, of 16 bits or more"
            if operand.is_float()
            else "an integer at least as wide, of 32 bits or more",
            hint=f"acc_dtype={_default_accumulator(operand)}",
        )


def _registers(layout: RegisterLayout, elements: Array) -> Array | None:
    """Per register of the result and step, the operand's register; None where it is elsewhere."""
    table = layout.owner_table()[1][elements]
    held = layout.logical_indices()[np.arange(len(elements))[:, None, None], table]
    return table[0] if (held == elements).all() and (table == table[0]).all() else None


def _stage(e: Emitter, tiles: list[RegisterTensor], dtype: DataType) -> dict[RegisterTensor, str]:
    """Put tiles row-major into scratch memory, where every thread reads them; the C arrays."""
    if not tiles:
        return {}
    kind, sizes = scalar_type(dtype), [tile.size for tile in tiles]
    scratch = e.scratch(sum(sizes) * dtype.nbits // 8)
    boxes = {tile: e.temporary("box") for tile in tiles}
    e.sync()
    for number, tile in enumerate(tiles):
        e.note(f"{e.name(tile)}: read from scratch memory, as threads multiply what others hold")
        box, start = boxes[tile], sum(sizes[:number])
        e(f"{kind}* const {box} = reinterpret_cast<{kind}*>({scratch}) + {start};")
        layout = layout_of(tile)
        first = first_of(e, replicas(layout))
        with e.block(f"if ({first})" if first else ""):
            for i, turn in turns(e, layout.local_size):
                place: Expr = as_expr(0)
                for index, extent in zip(layout.indices(e.thread, turn), tile.shape, strict=True):
                    place = apply("add", apply("mul", place, extent), index)
                e(f"{box}[{e.index(place)}] = {value_as(e, tile, i, dtype)};")
    e.sync()
    return boxes


@contextmanager
def _steps(e: Emitter, depth: int, *, unrolled: bool) -> Iterator[str]:
    """The loop over the products of an element; registers need it unrolled."""
    if unrolled:
        with e.unrolled(depth, "ki") as ki:
            yield ki
        return
    with e.block(f"for (int ki = 0; ki < {depth}; ki++)"):
        yield "ki"


def _place(digits: list[tuple[str, int]], unit: int) -> str:
    """C: the row-major index of `digits`, as (value, extent), in units of `unit`."""
    place = ""
    for value, extent in digits:
        if extent == 1:
            continue
        place = f"{place} * {extent}" if place else ""
        if value != "0":
            place = f"({place} + {value})" if place else value
    return f"{place} * {unit}" if place else "0"


def _words(fragment: RegisterLayout, dtype: DataType) -> int:
    """Array entries of one atom's fragment."""
    return fragment.local_size * min(dtype.nbits, 32) // 32


def mma_function(atom: AtomicMma, c: int, a: int, b: int) -> str:
    """A CUDA function that adds one product of fragments to an accumulator, by inline assembly.

    Source: PTX ISA, "Matrix multiply-accumulate operation using mma instruction".
    """
    kind = {"float32": "float", "int32": "int"}.get(atom.c_dtype, "uint32_t")
    letter = "f" if kind == "float" else "r"
    numbers = iter(range(2 * c + a + b))
    d, left, right, added = (
        "{" + ", ".join(f"%{next(numbers)}" for _ in range(count)) + "}" for count in (c, a, b, c)
    )
    outputs = ", ".join(f'"={letter}"(d[{i}])' for i in range(c))
    operands = (("r", "a", a), ("r", "b", b), (letter, "c", c))
    inputs = ", ".join(f'"{kind}"({name}[{i}])' for kind, name, n in operands for i in range(n))
    return f"""__device__ __forceinline__ void {atom.name}(
    {kind}* d, const uint32_t* a, const uint32_t* b, const {kind}* c) {{
    asm("{atom.opcode} {d}, {left}, {right}, {added};"
        : {outputs} : {inputs});
}}
"""
