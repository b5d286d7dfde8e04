"""Operands of elementwise instructions: does each thread hold what it computes with, and where."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tilus.ir.layout.modes import LayoutError, coalesce
from tilus.ir.layout.places import IntArray, frozen, ravel, unravel, unravel_shape
from tilus.ir.layout.register import RegisterLayout, check_broadcast


@lru_cache(maxsize=4096)
def holds_operands(out: RegisterLayout, operand: RegisterLayout) -> bool:
    """Whether every thread holding an element of `out` holds the (broadcast) one of `operand` too.

    Then an elementwise instruction needs no communication. Shapes broadcast as in NumPy.

    Raises:
        LayoutError: the shape of `operand` does not broadcast to that of `out`.

    >>> from tilus.ir.layout import column_spatial, reduce, replicated, spatial
    >>> out = spatial(8, 4)
    >>> holds_operands(out, reduce(out, [0])), holds_operands(out, replicated(4, num_workers=32))
    (True, True)
    >>> holds_operands(out, column_spatial(8, 4))
    False
    """
    check_broadcast(operand.shape, out.shape)
    if out.num_threads != operand.num_threads:
        return False
    index = _operand_index(out, operand)
    threads = np.arange(out.num_threads)[:, None]
    digits = coalesce(operand.spatial_digits)
    return all(
        digit.dim is None
        or bool(np.all(index[digit.dim] // digit.stride % digit.size == coordinate))
        for digit, coordinate in zip(digits, unravel(threads, digits), strict=True)
    )


@lru_cache(maxsize=512)
def operand_locals(out: RegisterLayout, operand: RegisterLayout) -> IntArray:
    """int64 (T, L): the register of `operand` that each register of `out` is computed from.

    Raises:
        LayoutError: `holds_operands(out, operand)` does not hold.
    """
    if not holds_operands(out, operand):
        raise LayoutError(
            "a thread holds an element of the result but not that of the operand",
            found=f"result {out}, operand {operand}",
            hint="convert the operand to a layout in which the same threads hold it",
        )
    shape = (out.num_threads, out.local_size)
    table = np.broadcast_to(ravel(operand.local_digits, _operand_index(out, operand)), shape)
    return frozen(np.ascontiguousarray(table))


def _operand_index(out: RegisterLayout, operand: RegisterLayout) -> tuple[IntArray, ...]:
    index = unravel_shape(out.logical_indices(), out.shape)[out.rank - operand.rank :]
    return tuple(
        np.zeros_like(entry) if extent == 1 else entry
        for entry, extent in zip(index, operand.shape, strict=True)
    )
