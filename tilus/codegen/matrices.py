"""ldmatrix and stmatrix: 8 x 8 matrices of 16-bit elements between shared memory and registers.

Lane l gives the address of a row (8 adjacent elements, 16 bytes) and holds elements 2 (l % 4) and
2 (l % 4) + 1 of row l / 4; transposed, of column l / 4. One register word of a tile is one such
matrix, where its elements lie like this in shared memory: that is looked up, element by element, in
the two layouts. Source: PTX ISA, "Warp-level matrix load instruction: ldmatrix" and "Warp-level
matrix store instruction: stmatrix".
"""

from __future__ import annotations

import numpy as np

from tilus.codegen.shared_access import SharedAccess
from tilus.dtypes import Array, int32
from tilus.ir.expr import Expr, Var, apply, as_expr

LANES = np.arange(32)
STMATRIX_CAPABILITY = (9, 0)


def load_matrices(access: SharedAccess) -> str | None:
    """Load the tile by ldmatrix; or do nothing and say why that is not possible."""
    transposed = _form(access)
    if isinstance(transposed, str):
        return transposed
    access.emitter.declare(access.tile)
    _emit(access, "ldmatrix", transposed)
    return None


def store_matrices(access: SharedAccess) -> str | None:
    """Store the tile by stmatrix; or do nothing and say why that is not possible."""
    if access.emitter.target.properties.compute_capability < STMATRIX_CAPABILITY:
        return "sm_90 is needed"
    transposed = _form(access)
    if isinstance(transposed, str):
        return transposed
    _emit(access, "stmatrix", transposed)
    return None


def _form(access: SharedAccess) -> bool | str:
    """Whether the tile's words are transposed matrices; or why they are no matrices."""
    e, tile = access.emitter, access.tile
    if tile.dtype.nbits != 16:
        return f"elements have {tile.dtype.nbits} bits, 16 needed"
    if access.starts:
        return "the tile is a part of the tensor"
    if e.num_threads % 32 or access.layout.local_size % 2:
        return "whole warps with an even number of elements a thread are needed"
    if e.facts.divisibility(e.shared_base(access.tensor)) % 8:
        return "the tile may begin between two rows of 16 bytes"
    swizzle = access.storage.swizzle
    if swizzle is not None and swizzle.base < 3:
        return "the swizzle parts the 16 bytes of a row"
    # (warp, lane, word, half): where each element is stored
    return _matching_form(access.table().reshape(-1, 32, access.layout.local_size // 2, 2))


def _matching_form(table: Array) -> bool | str:
    """Whether the words are transposed matrices; or why they are no matrices."""
    rows = table[:, ::4, :, 0]  # (warp, row, word): where a row begins
    plain = rows[:, LANES // 4] + (2 * (LANES % 4))[:, None]
    if _same(table, np.stack([plain, plain + 1], -1)) and not (rows % 8).any():
        return False
    rows = np.stack([table[:, row // 2, :, row % 2] for row in range(8)], axis=1)
    low = rows[:, 2 * (LANES % 4)] + (LANES // 4)[:, None]
    high = rows[:, 2 * (LANES % 4) + 1] + (LANES // 4)[:, None]
    if _same(table, np.stack([low, high], -1)) and not (rows % 8).any():
        return True
    return "the registers of a warp are not rows or columns of 8 x 8 matrices with 16-byte rows"


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool((a == b).all())


def _emit(access: SharedAccess, instruction: str, transposed: bool) -> None:
    """Matrices four, two or one at a time; lane 8 q + r gives row r of the q-th."""
    e = access.emitter
    words = access.layout.local_size // 2
    count = next(c for c in (4, 2, 1) if words % c == 0)
    name = e.tile(access.tile)
    function = e.use(f"{instruction}_x{count}{'_trans' if transposed else ''}")
    with e.unrolled(words // count) as i:
        turn = e.loop_variable(i, words // count) if words > count else as_expr(0)
        lane, first = apply("mod", e.thread, 32), _floor(e.thread, 32)
        row, matrix = apply("mod", lane, 8), apply("floordiv", lane, 8)
        word = apply("add", apply("mul", turn, count), apply("mod", matrix, count))
        if transposed:
            thread, half = apply("add", first, apply("floordiv", row, 2)), apply("mod", row, 2)
        else:
            thread, half = apply("add", first, apply("mul", row, 4)), as_expr(0)
        register = apply("add", apply("mul", word, 2), half)
        address = access.byte_address(thread, register)
        e(f"{function}(&{name}[{i} * {count}], {e.name(access.tensor)} + {address});")


def _floor(thread: Var, step: int) -> Expr:
    return apply("mul", apply("floordiv", thread, step), as_expr(step, int32))
