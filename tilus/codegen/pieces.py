"""What accesses of memory are cut into: pieces of a thread's registers.

A thread's registers are seen as bytes. Registers that hold consecutive elements along the last
dimension form a *run*; a run is cut into pieces of 16, 8, 4, 2 or 1 bytes, the largest that its
alignment allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tilus.codegen.emitter import Emitter
from tilus.ir.expr import Expr, as_expr, as_int

PIECES = {16: "uint4", 8: "uint2", 4: "uint32_t", 2: "uint16_t", 1: "uint8_t"}


@dataclass(frozen=True)
class Piece:
    """One access of a thread."""

    address: str  # C, in bytes from the tensor's first
    condition: str | None  # C; None: always inside
    base: str = ""  # C: what the addresses of a thread have in common
    offset: int | None = None  # bytes from there, where known


def number_or(value: Expr | int) -> Expr | int:
    """A constant as a Python number, with which layouts compute at once."""
    number = as_int(value)
    return value if number is None else number


def turns(e: Emitter, count: int) -> Iterator[tuple[str, Expr]]:
    """Open an unrolled loop; yields its index as text and as an expression, once."""
    with e.unrolled(count) as i:
        yield i, e.loop_variable(i, count) if count > 1 else as_expr(0)
