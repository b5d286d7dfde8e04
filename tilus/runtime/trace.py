"""Where an engine goes wrong: the first line of Python whose tile differs from the interpreter's.

    found = first_difference(program, values)       # on CPU tensors, which stay as they are
    print(found)                                    # file:line: w float16[64, 64]: 3 elements ...

The program runs on both engines with a probe behind every instruction that makes a tile: a store to
memory of its own. In a loop the last turn is what is compared. The surprise: a probe keeps a tile
alive that the program has done with, so the code differs from what runs otherwise; its meaning does
not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tilus import dtypes
from tilus.codegen.kernel import generate
from tilus.dtypes import Array, storage_nbytes, unpack
from tilus.errors import Location
from tilus.instructions.global_memory import GlobalView, StoreGlobal
from tilus.interp.machine import grid_size
from tilus.ir.expr import BLOCK_IDX, Expr, Var, apply, as_expr
from tilus.ir.instruction import Instruction
from tilus.ir.program import Param, Program
from tilus.ir.stmt import Body, Do, Stmt
from tilus.ir.tensor import RegisterTensor
from tilus.ir.visit import rewrite
from tilus.runtime.emulate import run_source
from tilus.runtime.launch import interpret
from tilus.target import Target, get_current_target
from tilus.tensor import Tensor, storage_of

CLOSE = 2e-2  # of the largest element of a tile: the orders of additions differ by less


@dataclass(frozen=True)
class Difference:
    """A tile that two engines do not agree on."""

    location: Location | None
    tile: RegisterTensor
    wrong: int

    def __str__(self) -> str:
        place = f"{self.location}: " if self.location else ""
        return (
            f"{place}{self.tile.name or 'a tile'} {self.tile}: {self.wrong} elements differ in "
            "the blocks of the grid"
        )


@dataclass(frozen=True)
class Probe:
    """Memory [blocks, *shape] for the elements of a tile."""

    pointer: Var
    tile: RegisterTensor
    location: Location | None

    def store(self, grid: tuple[Expr, Expr, Expr]) -> Body:
        """The statements that copy the tile of this block there."""
        shape = [_product(grid), *self.tile.shape]
        view = GlobalView.build(self.pointer, dtype=self.tile.dtype, shape=shape)
        view.out.name = f"at_{self.pointer.name}"
        x, y, z = BLOCK_IDX
        block = apply("add", x, apply("mul", grid[0], apply("add", y, apply("mul", grid[1], z))))
        offsets = [block, *[as_expr(0)] * len(self.tile.shape)]
        store = StoreGlobal.build(view.out, self.tile, offsets=offsets)
        return Do(view), Do(store)


def first_difference(
    program: Program,
    values: Sequence[Any],
    target: Target | None = None,
    change: Callable[[str], str] = lambda text: text,
) -> Difference | None:
    """The first tile, in program order, in which emulator and interpreter disagree.

    Args:
        program: as the passes left it.
        values: one for each parameter; tensors are on the CPU and are not changed.
        target: whose generated code is emulated.
        change: edits the generated CUDA before it is compiled, as a test of it does.

    Raises `TilusError` where either engine stops.
    """
    probed, probes = _with_probes(program)
    source, _ = generate(probed, target or get_current_target())
    source = replace(source, text=change(source.text))
    grid = grid_size(program, _numbers(program, values))
    results: list[list[torch.Tensor]] = []
    for emulated in (False, True):
        memory = [_memory(probe, grid) for probe in probes]
        arguments = [*map(_copied, values), *memory]
        if emulated:
            run_source(source, probed, arguments, target or get_current_target())
        else:
            interpret(probed, arguments)
        results.append(memory)
    for probe, want, have in zip(probes, *results, strict=True):
        wrong = _disagreements(probe.tile, want.numpy(), have.numpy())
        if wrong:
            return Difference(probe.location, probe.tile, wrong)
    return None


def _with_probes(program: Program) -> tuple[Program, list[Probe]]:
    probes: list[Probe] = []

    def fn(stmt: Stmt) -> Stmt | Body:
        made = list(_tiles(stmt.instruction)) if isinstance(stmt, Do) else []
        stores: list[Stmt] = []
        for tile in made:
            pointer = Var(~tile.dtype, f"probe{len(probes)}")
            probes.append(Probe(pointer, tile, stmt.location))
            stores += probes[-1].store(program.blocks)
        return (stmt, *stores) if made else stmt

    probed = rewrite(program, fn)
    params = tuple(Param(probe.pointer, 16) for probe in probes)
    return replace(probed, params=(*program.params, *params)), probes


def _tiles(instruction: Instruction) -> Iterator[RegisterTensor]:
    """The register tiles that an instruction writes."""
    out = instruction.result
    if isinstance(out, RegisterTensor) and 0 not in out.shape and not out.dtype.is_pointer():
        yield out


def _numbers(program: Program, values: Sequence[Any]) -> dict[Var, Any]:
    return {
        param.var: np.asarray(0 if storage_of(v) is not None else v, param.var.dtype.carrier)
        for param, v in zip(program.params, values, strict=True)
    }


def _memory(probe: Probe, grid: tuple[int, int, int]) -> torch.Tensor:
    elements = int(np.prod(grid)) * probe.tile.size
    return torch.zeros(storage_nbytes(probe.tile.dtype, elements), dtype=torch.uint8)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return value.clone() if isinstance(value, torch.Tensor) else value


def _product(extents: Sequence[Expr]) -> Expr:
    total: Expr = as_expr(1)
    for extent in extents:
        total = apply("mul", total, extent)
    return total


def _disagreements(tile: RegisterTensor, want: Array, have: Array) -> int:
    if np.array_equal(want, have):
        return 0
    count = want.size * 8 // tile.dtype.nbits
    codes = [unpack(data, tile.dtype.nbits, count) for data in (want, have)]
    if tile.dtype == dtypes.boolean or not tile.dtype.is_float():
        return int((codes[0] != codes[1]).sum())
    x, y = (np.asarray(tile.dtype.decode(tile.dtype.from_bits(c)), np.float64) for c in codes)
    finite = np.isfinite(x)
    limit = CLOSE * np.abs(x[finite]).max(initial=0)
    with np.errstate(invalid="ignore"):
        wrong = np.where(finite, ~(np.abs(x - y) <= limit), codes[0] != codes[1])
    return int((wrong & ~(np.isnan(x) & np.isnan(y))).sum())
