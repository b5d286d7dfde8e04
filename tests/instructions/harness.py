"""Runs a few instructions through the real machine and hands back what they computed.

    def body(k):
        x = k.tile(np.arange(32), float32)          # a register tile with these values
        return k("sum", x, dim=0)                   # any instruction by its name

    total = run_body(body)                          # the values of the returned tiles

The interpreter runs the program with layouts from the plainest algorithm there is, so the families
are tested without the passes. Then the compiler takes the same program through all its passes, and
what it generates must leave the same in memory: on the PTX emulator, and on a GPU where there is
one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
import torch

import tilus.instructions  # noqa: F401  # pyright: ignore[reportUnusedImport] (the registry)
from tests.engines import check_engine, emulator
from tests.kernels import Launch
from tilus import dtypes
from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.interp.machine import launch
from tilus.interp.memory import Memory
from tilus.ir.expr import BLOCK_IDX, Expr, Var, as_expr, evaluate
from tilus.ir.instruction import (
    REGISTRY,
    TENSOR_METHODS,
    Known,
    Strength,
    build_from_call,
)
from tilus.ir.program import Param, Program
from tilus.ir.stmt import Do, For, If, Stmt
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor
from tilus.ir.visit import instructions, map_operands, rewrite
from tilus.passes import compile_program
from tilus.runtime.launch import run_program
from tilus.tensor import Tensor, view_torch

Array = np.ndarray[Any, Any]


class Kernel:
    """A program under construction; calling it appends an instruction and gives its result."""

    def __init__(self, warps: int, blocks: int):
        self.warps, self.blocks = warps, blocks
        self.memory = Memory()
        self.args: dict[Var, int] = {}
        self.body: list[Stmt] = []
        self.printed = self.printed_by_code = ""  # by the interpreter, by the emulator
        self._buffers: dict[GlobalTensor, Array] = {}

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._append(REGISTRY[name], args, kwargs)

    def method(self, tensor: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        """What `tensor.name(...)` means in a kernel."""
        return self._append(TENSOR_METHODS[type(tensor), name], (tensor, *args), kwargs)

    def index(self, tensor: Any, *index: Any) -> Any:
        """What `tensor[index]` means in a kernel."""
        return self.method(tensor, "__getitem__", index)

    def _append(self, cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        instruction = build_from_call(cls, args, kwargs)
        instruction.verify()
        self.body.append(Do(instruction))
        return instruction.result

    def array(self, values: Any, dtype: DataType) -> GlobalTensor:
        """A global tensor that holds `values`."""
        carrier = dtype.encode(np.asarray(values))
        packed = dtypes.pack(dtype.to_bits(carrier).reshape(-1), dtype.nbits)
        return self._map(packed.copy(), dtype, carrier.shape)

    def _map(self, data: Array, dtype: DataType, shape: tuple[int, ...]) -> GlobalTensor:
        address = (len(self.args) + 1) << 24
        name = f"buffer{len(self.args)}"
        pointer = Var(~dtype, name)
        self.args[pointer] = address
        self.memory.map(name, address, data)
        view = self("global_view", pointer, dtype=dtype, shape=list(shape))
        view.name = name
        self._buffers[view] = data
        return view

    def read(self, tensor: GlobalTensor) -> Array:
        """The values of a global tensor after the run."""
        shape = extents(tensor)
        codes = dtypes.unpack(self._buffers[tensor], tensor.dtype.nbits, int(np.prod(shape)))
        return tensor.dtype.decode(tensor.dtype.from_bits(codes)).reshape(shape)

    def tile(self, values: Any, dtype: DataType) -> RegisterTensor:
        """A register tile that holds `values`."""
        source = self.array(values, dtype)
        zeros = [0] * len(source.shape)
        return self("load_global", source, offsets=zeros, shape=extents(source))

    def shared(self, values: Any, dtype: DataType) -> SharedTensor:
        """A shared tensor that holds `values`, seen by every thread."""
        tile = self.tile(values, dtype)
        tensor = self("shared_tensor", dtype=dtype, shape=list(tile.shape))
        tensor.name = "s"
        self("store_shared", tensor, tile)
        self("sync")
        return tensor

    def output(self, tile: RegisterTensor) -> GlobalTensor:
        """A global tensor [blocks, *shape], into which each block stores its tile."""
        shape = (self.blocks, *tile.shape)
        size = dtypes.storage_nbytes(tile.dtype, int(np.prod(shape)))
        result = self._map(np.zeros(size, np.uint8), tile.dtype, shape)
        offsets = [BLOCK_IDX[0], *[0] * len(tile.shape)]
        self("store_global", result, tile, offsets=offsets)
        return result

    @contextmanager
    def when(self, condition: Expr):
        """The instructions inside are run by the blocks where `condition` holds."""
        outer, self.body = self.body, []
        yield
        inner, self.body = tuple(self.body), outer
        self.body.append(If(condition, inner))

    @contextmanager
    def loop(self, count: int):
        """The instructions inside are run for k = 0 .. count - 1; gives the variable k."""
        outer, self.body = self.body, []
        k = Var(dtypes.int32, "k")
        yield k
        inner, self.body = tuple(self.body), outer
        self.body.append(For(k, as_expr(0), as_expr(count), as_expr(1), inner))

    def run(self) -> None:
        grid = (as_expr(self.blocks), as_expr(1), as_expr(1))
        params = tuple(Param(v) for v in self.args)
        program = Program("test", params, grid, self.warps, tuple(self.body))
        source, before = detached(program), self.values()
        settle_layouts(program)
        with redirect_stdout(StringIO()) as printed:
            launch(program, self.args, self.memory)
        self.printed = printed.getvalue()
        try:
            self.printed_by_code = check_generated(source, before, self.values())
        except TilusError as error:
            raise AssertionError(f"only the interpreter runs this: {error}") from error

    def values(self) -> list[Tensor]:
        """What is in memory now: a copy of the tensor behind each parameter."""
        return [
            view_torch(
                torch.from_numpy(data.copy()),
                dtype=tensor.dtype,
                shape=extents(tensor),
            )
            for tensor, data in self._buffers.items()
        ]


def extents(tensor: GlobalTensor) -> list[int]:
    """The shape of a tensor of the harness, which is constant."""
    return [int(evaluate(extent, {})) for extent in tensor.shape]


def detached(program: Program) -> Program:
    """The program with tiles of its own, which have the layouts that its tiles have now."""
    copies: dict[Any, Any] = {}

    def own(leaf: Any) -> Any:
        is_tile = isinstance(leaf, (RegisterTensor, SharedTensor))
        return copies.setdefault(leaf, replace(leaf)) if is_tile else leaf

    return rewrite(program, lambda stmt: map_operands(stmt, own))


def check_generated(source: Program, before: list[Tensor], after: list[Tensor]) -> str:
    """The generated code leaves in memory what the interpreter left; returns what it prints.

    A refusal of the compiler or of the emulator is a failure.
    """
    recorded = Launch(compile_program(source), list(before), list(after))
    with redirect_stdout(StringIO()) as printed:
        check_engine(recorded, emulator())
    if torch.cuda.is_available():
        check_engine(recorded, run_program, "cuda")
    return printed.getvalue()


def settle_layouts(program: Program) -> Known:
    """Give every tile of `program` a layout in place: strongest proposal first, then again."""
    steps = list(instructions(program))
    known = Known(program.num_threads)

    def proposals(strength: Strength):
        for step in steps:
            for proposal in step.layouts(known):
                tile = proposal.tile
                if proposal.strength == strength and known.layouts.get(tile, tile.layout) is None:
                    yield proposal

    while True:
        candidates = (next(proposals(strength), None) for strength in Strength)
        chosen = next((c for c in candidates if c is not None), None)
        if chosen is None:
            break
        known.layouts[chosen.tile] = chosen.layout
    settled: dict[Any, Any] = known.layouts
    for tile, layout in settled.items():
        tile.layout = layout
    for step in steps:
        step.check_layouts()
    return known


def run_body(body: Callable[[Kernel], Any], *, warps: int = 1, blocks: int = 1) -> Any:
    """The values of the tiles `body` returns, with an axis of blocks where there are several."""
    return run_kernel(body, warps, blocks)[1]


def printed_by(body: Callable[[Kernel], Any], *, warps: int = 1, blocks: int = 1) -> list[str]:
    """What the interpreter prints, and what the generated code does."""
    kernel, _ = run_kernel(body, warps, blocks)
    return [kernel.printed, kernel.printed_by_code]


def run_kernel(body: Callable[[Kernel], Any], warps: int, blocks: int) -> tuple[Kernel, Any]:
    """A kernel after its run, and the values of the tiles that `body` returned."""
    kernel = Kernel(warps, blocks)
    returned = body(kernel)
    tiles = returned if isinstance(returned, tuple) else (returned,)
    outputs = [
        kernel.output(t) if isinstance(t, RegisterTensor) else t for t in tiles if t is not None
    ]
    kernel.run()
    values = [kernel.read(o) for o in outputs]
    for position, tile in enumerate(t for t in tiles if t is not None):
        if isinstance(tile, RegisterTensor) and blocks == 1:
            values[position] = values[position][0]
    if isinstance(returned, tuple):
        return kernel, tuple(values)
    return kernel, values[0] if values else None


def failure(body: Callable[[Kernel], Any], **options: int) -> str:
    """The message of the `TilusError` that `body` raises when built or run."""
    with pytest.raises(TilusError) as caught:
        run_body(body, **options)
    return str(caught.value)
