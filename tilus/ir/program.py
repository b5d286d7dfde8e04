"""A program: one kernel, its parameters, its launch shape and its body.

kernel add(n: int32 % 16, x_ptr: ~float32 % 16, y_ptr: ~float32 % 16) blocks=[cdiv(n, 256)] warps=4:
    ...
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tilus.errors import Location, TilusError
from tilus.ir.expr import Expr, Var
from tilus.ir.stmt import Body

WARP_SIZE = 32


@dataclass(frozen=True, eq=False)
class Param:
    """A run-time parameter; `divisible_by` is what the program may rely on and the launcher checks.

    For a pointer it is the alignment in bytes.
    """

    var: Var
    divisible_by: int = 1


@dataclass(frozen=True, eq=False)
class Program:
    name: str
    params: tuple[Param, ...]
    blocks: tuple[Expr, Expr, Expr]
    warps: int
    body: Body
    location: Location | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not 1 <= self.warps <= 32:
            raise TilusError(
                "a block has 1 to 32 warps",
                found=f"warps = {self.warps}",
                expected="1..32",
                location=self.location,
            )

    @property
    def num_threads(self) -> int:
        return WARP_SIZE * self.warps

    def __str__(self) -> str:
        from tilus.ir.printer import (
            format_program,
        )  # the printer reads programs; here is only the shortcut

        return format_program(self)


def unique_name(base: str, taken: Iterable[str]) -> str:
    """`base`, or `base_1`, `base_2`, ... whichever is free."""
    used = set(taken)
    if base not in used:
        return base
    number = 1
    while f"{base}_{number}" in used:
        number += 1
    return f"{base}_{number}"
