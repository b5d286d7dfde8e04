"""The CUDA of what each thread does alone with its registers: reindexing, repetition, parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilus.dtypes import Array
from tilus.errors import TilusError
from tilus.ir.tensor import RegisterTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter


def move_registers(e: Emitter, out: RegisterTensor, x: RegisterTensor, elements: Array) -> None:
    """Give each register of `out` the element of `x` (by row-major number) that `elements` names.

    Every thread holds what it needs (`check_layouts`): where the registers correspond one to one,
    the result is another name for them.
    """
    assert out.layout is not None and x.layout is not None
    wanted = elements.reshape(-1)[out.layout.logical_indices()]
    table = x.layout.owner_table()[1][wanted]
    assert (np.take_along_axis(x.layout.logical_indices(), table, axis=1) == wanted).all()
    if (table != table[0]).any():
        raise TilusError(
            "which register holds an element would depend on the thread",
            found=f"operand {x.layout}; result {out.layout}",
            hint="annotate_layout one of them, or pass the data through shared memory",
        )
    same = table[0].tolist() == list(range(x.layout.local_size)) and out.bits == x.bits
    if same and e.alias(out, x):
        return
    unit = _moved_unit(out, x, table[0])
    e.declare(out, zero=unit is None)
    if unit is None:
        with e.unrolled(out.layout.local_size) as i:
            e.set(out, i, e.get(x, e.mapped(table[0], i)))
        return
    kind, each = f"uint{unit}_t", max(1, unit // out.dtype.nbits)
    left, right = (f"reinterpret_cast<{kind}*>({e.tile(tile)})" for tile in (out, x))
    with e.unrolled(out.layout.local_size // each) as i:
        e(f"{left}[{i}] = {right}[{e.mapped(table[0][::each] // each, i)}];")


def _moved_unit(out: RegisterTensor, x: RegisterTensor, table: Array) -> int | None:
    """The bits that move at a time: whole words where neighbours stay together; else None."""
    nbits = out.dtype.nbits
    unplaced = out.bits is None and x.bits is None
    if not unplaced or out.dtype.kind == "bool" or (nbits < 32 and 32 % nbits):
        return None
    each = 32 // nbits if nbits < 32 and 32 % nbits == 0 else 1
    if len(table) % each == 0:
        rows = table.reshape(-1, each)
        if (rows == rows[:, :1] + np.arange(each)).all() and (rows[:, 0] % each == 0).all():
            return max(32, nbits)
    return nbits if nbits in (8, 16) else None
