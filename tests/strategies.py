"""Random programs: the generator behind every test that compares two ways of running one.

    case = random_program(seed)                 # or `@given(programs())`
    outputs = case.run(case.program)            # bytes of each output tensor

A program loads tiles, computes on them (elementwise with promotion and broadcasting, casts, views,
reductions, shapes, dot, shared memory, asynchronous copies, loops that carry tiles, branches on the
block) and stores some. A step that the compiler refuses, as layouts may not meet, is taken back, so
every case compiles. Tiles of int32 and float32 are followed by torch tensors (`expected`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

import tilus.instructions  # noqa: F401 (fills the registry)
from tilus import dtypes
from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.interp.machine import launch
from tilus.interp.memory import Memory
from tilus.ir.expr import BLOCK_IDX, Expr, Var, apply, as_expr
from tilus.ir.instruction import REGISTRY, build_from_call
from tilus.ir.layout import auto_local_spatial, local
from tilus.ir.program import Param, Program
from tilus.ir.stmt import Do, For, If, Stmt
from tilus.ir.tensor import RegisterTensor, SharedTensor
from tilus.passes import compile_program

BLOCKS = 3
WARPS = 2
THREADS = 32 * WARPS
SHAPES = ((16, 16), (8, 32), (32, 16))
ARITHMETIC = (
    dtypes.int32, dtypes.float32, dtypes.float16, dtypes.bfloat16, dtypes.int8, dtypes.uint8,
    dtypes.int64,
)  # fmt: skip
STORAGE = (
    *ARITHMETIC, dtypes.uint4b, dtypes.int3b, dtypes.uint5b, dtypes.int6b, dtypes.uint1b,
    dtypes.float6_e3m2, dtypes.float4_e2m1, dtypes.float8_e4m3, dtypes.float8_e5m2,
)  # fmt: skip
BINARY = ("add", "sub", "mul", "min", "max")
TORCH = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "min": torch.minimum,
    "max": torch.maximum, "neg": torch.neg, "abs": torch.abs, "square": torch.square,
}  # fmt: skip
Output = tuple[Var, DataType, tuple[int, ...]]  # parameter, dtype, [blocks, *shape]
FOLLOWED = {dtypes.int32: torch.int32, dtypes.float32: torch.float32}


@dataclass(eq=False)
class RandomProgram:
    """A program that compiles, its inputs, and what is known of its outputs.

    Attributes:
        program: as built, before any pass.
        inputs: (parameter, bytes) of each input tensor.
        outputs: (parameter, dtype, shape) of each output tensor.
        expected: per output the values [blocks, *shape] by torch, or None.
    """

    program: Program
    inputs: list[tuple[Var, np.ndarray]]
    outputs: list[Output]
    expected: list[torch.Tensor | None]

    def run(self, compiled: Program) -> list[np.ndarray]:
        """The output tensors' bytes after running `compiled` in the interpreter."""
        memory, args = Memory(), {}
        buffers = [data.copy() for _, data in self.inputs]
        sizes = [dtypes.storage_nbytes(d, int(np.prod(s))) for _, d, s in self.outputs]
        buffers += [np.zeros(size, np.uint8) for size in sizes]
        for param, data in zip(compiled.params, buffers, strict=True):
            address = (len(args) + 1) << 24
            memory.map(param.var.name, address, data)
            args[param.var] = address
        launch(compiled, args, memory)
        return buffers[len(self.inputs) :]


def random_program(seed: int) -> RandomProgram:
    """The program of this seed, the same on every machine."""
    return _Builder(random.Random(seed)).build()


def programs() -> st.SearchStrategy[RandomProgram]:
    """Random programs that Hypothesis can shrink."""
    return st.randoms(use_true_random=False).map(lambda rng: _Builder(rng).build())


@dataclass(eq=False)
class _Input:
    tensor: Any
    dtype: DataType
    values: np.ndarray  # carrier


@dataclass(eq=False)
class _Builder:
    rng: random.Random
    body: list[Stmt] = field(default_factory=list)
    params: list[Var] = field(default_factory=list)
    inputs: list[_Input] = field(default_factory=list)
    data: list[tuple[Var, np.ndarray]] = field(default_factory=list)
    tiles: list[RegisterTensor] = field(default_factory=list)
    shadow: dict[RegisterTensor, torch.Tensor | None] = field(default_factory=dict)

    # ---- the program ----

    def build(self) -> RandomProgram:
        for _ in range(2):
            self.add_input(self.rng.choice(STORAGE))
        self.add_input(self.rng.choice((dtypes.int32, dtypes.float32)))
        self.load()
        steps: list[Callable[[], None]] = [
            self.load, self.cast, self.binary, self.binary, self.unary, self.reduce, self.shape,
            self.view, self.shared, self.copy, self.dot, self.loop, self.branch,
        ]  # fmt: skip
        for _ in range(self.rng.randint(2, 9)):
            self.attempt(self.rng.choice(steps))
        stored: list[tuple[Output, torch.Tensor | None]] = []
        # A store may want a layout that does not meet what comes before; a first load always can.
        for tile in dict.fromkeys([self.tiles[-1], self.rng.choice(self.tiles), self.tiles[0]]):
            if len(stored) < 2 and (output := self.attempt(lambda tile=tile: self.store(tile))):
                stored.append((output, self.shadow.get(tile)))
        outputs, expected = [o for o, _ in stored], [e for _, e in stored]
        return RandomProgram(self.program(), self.data, outputs, expected)

    def program(self) -> Program:
        params = tuple(Param(var, 16) for var in self.params)
        blocks = (as_expr(BLOCKS), as_expr(1), as_expr(1))
        return Program("random", params, blocks, WARPS, tuple(self.body))

    def attempt(self, step: Callable[[], Any]) -> Any:
        """Take a step, and take it back where the compiler refuses the result."""
        body, tiles, shadow = list(self.body), list(self.tiles), dict(self.shadow)
        params = list(self.params)
        try:
            result = step()
            compile_program(self.program())
        except TilusError:
            self.body, self.tiles, self.shadow, self.params = body, tiles, shadow, params
            return None
        return result

    def emit(self, name: str, *args: Any, **kwargs: Any) -> Any:
        instruction = build_from_call(REGISTRY[name], args, kwargs)
        instruction.verify()
        self.body.append(Do(instruction))
        return instruction.result

    def keep(self, tile: RegisterTensor, follow: torch.Tensor | None = None) -> RegisterTensor:
        self.tiles.append(tile)
        self.shadow[tile] = follow if tile.dtype in FOLLOWED else None
        return tile

    # ---- memory ----

    def add_input(self, dtype: DataType) -> None:
        shape = self.rng.choice(SHAPES)
        numbers = np.random.default_rng(self.rng.getrandbits(32))
        values = dtype.encode(numbers.integers(-8, 8, shape).astype(np.float64))
        pointer = Var(~dtype, f"in{len(self.params)}_ptr")
        self.params.append(pointer)
        packed = dtypes.pack(dtype.to_bits(values).reshape(-1), dtype.nbits)
        self.data.append((pointer, np.array(packed)))
        view = self.emit("global_view", pointer, dtype=dtype, shape=list(shape))
        self.inputs.append(_Input(view, dtype, values))

    def offsets(self) -> list[Expr]:
        step = self.rng.choice((0, 4, 8))
        row = apply("mul", BLOCK_IDX[0], step) if step else as_expr(self.rng.randint(-5, 5))
        return [row, as_expr(self.rng.choice((0, 0, 0, 3, -2, 40)))]

    def load(self) -> None:
        source, shape, offsets = self.rng.choice(self.inputs), self.any_shape(), self.offsets()
        tile = self.emit("load_global", source.tensor, offsets=offsets, shape=list(shape))
        self.keep(tile, _part(source, offsets, shape))

    def any_shape(self) -> tuple[int, int]:
        return self.rng.choice(SHAPES)

    def store(self, tile: RegisterTensor) -> Output:
        if tile.dtype.kind == "bool":
            tile = self.emit("cast", tile, dtypes.int32)
        shape = (BLOCKS, *tile.shape)
        pointer = Var(~tile.dtype, f"out{len(self.params)}_ptr")
        self.params.append(pointer)
        view = self.emit("global_view", pointer, dtype=tile.dtype, shape=list(shape))
        offsets = [BLOCK_IDX[0], *[0] * len(tile.shape)]
        self.emit("store_global", view, tile, offsets=offsets)
        return pointer, tile.dtype, shape

    def shared(self) -> None:
        tile = self.any_tile()
        tensor: SharedTensor = self.emit("shared_tensor", dtype=tile.dtype, shape=list(tile.shape))
        self.emit("store_shared", tensor, tile)
        self.emit("sync")
        self.keep(self.emit("load_shared", tensor), self.shadow[tile])
        if self.rng.random() < 0.5:
            self.emit("sync")
            self.emit("free_shared", tensor)

    def copy(self) -> None:
        source, shape, offsets = self.rng.choice(self.inputs), self.any_shape(), self.offsets()
        tensor = self.emit("shared_tensor", dtype=source.dtype, shape=list(shape))
        self.emit("copy_async", source.tensor, tensor, offsets)
        self.emit("copy_async_commit_group")
        self.emit("copy_async_wait_group", 0)
        self.emit("sync")
        self.keep(self.emit("load_shared", tensor), _part(source, offsets, shape))

    # ---- computing ----

    def any_tile(self) -> RegisterTensor:
        return self.rng.choice(self.tiles)

    def arithmetic_tile(self) -> RegisterTensor:
        tile = self.any_tile()
        if tile.dtype in ARITHMETIC or tile.dtype.kind == "bool":
            return tile
        return self.keep(self.emit("cast", tile, dtypes.float32))

    def cast(self) -> None:
        tile, dtype = self.any_tile(), self.rng.choice(STORAGE)
        if tile.dtype.kind == "bool":
            dtype = dtypes.int32
        follow = self.shadow.get(tile)
        exact = follow is not None and (tile.dtype, dtype) == (dtypes.int32, dtypes.float32)
        self.keep(self.emit("cast", tile, dtype), follow.float() if exact else None)

    def binary(self) -> None:
        left = self.arithmetic_tile()
        others = [t for t in self.tiles if _broadcasts(left, t)]
        others = [t for t in others if t.dtype in ARITHMETIC or t.dtype.kind == "bool"]
        op = self.rng.choice((*BINARY, "lt", "eq"))
        if self.rng.random() < 0.3 or not others:
            number = self.rng.randint(1, 3)
            follow = _apply(op, self.shadow[left], number)
            self.keep(self.emit("elementwise", op, left, number), follow)
            return
        right = self.rng.choice(others)
        same = left.dtype == right.dtype
        follow = _apply(op, self.shadow[left], self.shadow[right]) if same else None
        self.keep(self.emit("elementwise", op, left, right), follow)

    def unary(self) -> None:
        tile, op = self.arithmetic_tile(), self.rng.choice(("neg", "abs", "square"))
        follow = self.shadow[tile]
        self.keep(self.emit("elementwise", op, tile), None if follow is None else TORCH[op](follow))

    def reduce(self) -> None:
        tile, op = self.arithmetic_tile(), self.rng.choice(("sum", "max", "min", "any"))
        dim = self.rng.randrange(len(tile.shape)) if tile.shape else None
        result = self.emit(op, tile, dim=dim, keepdim=True)
        follow = self.shadow[tile]
        if follow is None or dim is None or op == "any":
            self.keep(result)
            return
        reducer = {"sum": torch.sum, "max": torch.amax, "min": torch.amin}[op]
        self.keep(result, reducer(follow, dim=dim + 1, keepdim=True).to(follow.dtype))

    def shape(self) -> None:
        tile = self.any_tile()
        follow = self.shadow[tile]
        if self.rng.random() < 0.5 and len(tile.shape) == 2:
            turned = None if follow is None else follow.transpose(1, 2)
            self.keep(self.emit("transpose", tile), turned)
            return
        flat = None if follow is None else follow.reshape(BLOCKS, -1)
        self.keep(self.emit("flatten", tile), flat)

    def view(self) -> None:
        """Load a tile with a layout of our choice and read its bits as another type."""
        source = self.rng.choice(self.inputs)
        target = self.rng.choice([d for d in STORAGE if d.nbits <= 32])
        have, want = source.dtype.nbits, target.nbits
        run = _common_run(have, want)
        rows = self.rng.choice((4, 8))
        tile = self.emit(
            "load_global", source.tensor, offsets=self.offsets(), shape=[rows, 8 * run]
        )
        outer = auto_local_spatial(THREADS, (rows, 8))
        self.emit("annotate_layout", tile, outer * local(1, run))
        layout = outer * local(1, run * have // want)
        self.keep(self.emit("view", tile, dtype=target, layout=layout))

    def dot(self) -> None:
        a = self.emit("cast", self.square_tile(), dtypes.float16)
        b = self.emit("cast", self.square_tile(), dtypes.float16)
        self.keep(self.emit("dot", a, b))

    def square_tile(self) -> RegisterTensor:
        source = self.rng.choice(self.inputs)
        return self.emit("load_global", source.tensor, offsets=self.offsets(), shape=[16, 16])

    # ---- control flow ----

    def loop(self) -> None:
        """A tile carried through a loop: acc = acc op load(k)."""
        source = self.rng.choice([i for i in self.inputs if i.dtype in FOLLOWED])
        shape, op, stop = self.any_shape(), self.rng.choice(BINARY), self.rng.randint(0, 3)
        acc = self.emit("register_tensor", dtype=source.dtype, shape=list(shape), init=1)
        k = Var(dtypes.int32, "k")
        outer, self.body = self.body, []
        offsets = [apply("mul", k, 4), apply("sub", BLOCK_IDX[0], k)]
        part = self.emit("load_global", source.tensor, offsets=offsets, shape=list(shape))
        self.emit("assign", acc, self.emit("elementwise", op, acc, part))
        inner, self.body = self.body, outer
        zero, end, one = as_expr(0), as_expr(stop), as_expr(1)
        self.body.append(For(k, zero, end, one, tuple(inner)))
        follow = torch.ones((BLOCKS, *shape), dtype=FOLLOWED[source.dtype])
        for step in range(stop):
            follow = TORCH[op](follow, _part(source, offsets, shape, {k: step}))
        self.keep(acc, follow)

    def branch(self) -> None:
        """acc = tile + 1 in some blocks, tile * 2 in the others."""
        tile = self.arithmetic_tile()
        if tile.dtype.kind == "bool":
            return
        acc = self.emit("register_tensor", dtype=tile.dtype, shape=list(tile.shape))
        bodies: list[tuple[Stmt, ...]] = []
        for op, number in (("add", 1), ("mul", 2)):
            outer, self.body = self.body, []
            self.emit("assign", acc, self.emit("elementwise", op, tile, number))
            bodies.append(tuple(self.body))
            self.body = outer
        first = self.rng.randint(0, BLOCKS)
        self.body.append(If(apply("lt", BLOCK_IDX[0], first), *bodies))
        follow = self.shadow[tile]
        if follow is not None:
            block = torch.arange(BLOCKS).reshape(-1, *[1] * len(tile.shape))
            follow = torch.where(block < first, follow + 1, follow * 2)
        self.keep(acc, follow)


# ---- what torch says ----------------------------------------------------------------------------


def _apply(op: str, left: torch.Tensor | None, right: Any) -> torch.Tensor | None:
    if left is None or right is None or op not in TORCH:
        return None
    other = torch.as_tensor(right, dtype=left.dtype)
    if other.ndim > left.ndim:
        left = left.reshape(BLOCKS, *[1] * (other.ndim - left.ndim), *left.shape[1:])
    if 1 < other.ndim < left.ndim:
        other = other.reshape(BLOCKS, *[1] * (left.ndim - other.ndim), *other.shape[1:])
    return TORCH[op](left, other)


def _part(
    source: _Input, offsets: list[Expr], shape: tuple[int, ...], loop: dict[Var, int] | None = None
) -> torch.Tensor | None:
    """What a load reads in every block: 0 outside of the source."""
    if source.dtype not in FOLLOWED:
        return None
    whole = torch.from_numpy(source.values)
    parts = []
    for block in range(BLOCKS):
        row, column = (_value(o, block, loop or {}) for o in offsets)
        part = torch.zeros(shape, dtype=whole.dtype)
        for i in range(shape[0]):
            for j in range(shape[1]):
                r, c = row + i, column + j
                if 0 <= r < whole.shape[0] and 0 <= c < whole.shape[1]:
                    part[i, j] = whole[r, c]
        parts.append(part)
    return torch.stack(parts)


def _value(expr: Expr, block: int, loop: dict[Var, int]) -> int:
    from tilus.ir.expr import evaluate

    env = {BLOCK_IDX[0]: np.asarray(block, np.int32)}
    env |= {var: np.asarray(value, np.int32) for var, value in loop.items()}
    return int(evaluate(expr, env))


def _broadcasts(a: RegisterTensor, b: RegisterTensor) -> bool:
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return False
    return True


def _common_run(have: int, want: int) -> int:
    """The fewest elements of `have` bits that are whole bytes and whole elements of `want` bits."""
    return int(np.lcm.reduce([have, want, 8])) // have
