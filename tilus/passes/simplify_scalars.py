"""Scalar simplification: every expression of the program, with what value analysis knows.

for k in range(0, 64, 32):               for k in range(0, 64, 32):
    if k < n * 0 + 64:            ->         if True:
        x = load(..., [k * 2 // 2])              x = load(..., [k])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tilus.ir.expr import Expr
from tilus.ir.instruction import field_names, rebuild
from tilus.ir.program import Program
from tilus.ir.simplify import Simplifier
from tilus.ir.stmt import Assume, Do, Stmt
from tilus.ir.visit import rewrite
from tilus.passes.analyze import Analysis


@dataclass(frozen=True)
class SimplifyScalars:
    """Rewrites the scalars that statements and instructions evaluate; tensors stay as they are."""

    name: str = "simplify"

    def __call__(self, program: Program) -> Program:
        simplify = Simplifier(Analysis(program).range)

        def shorter(leaf: Any) -> Any:
            return simplify(leaf) if isinstance(leaf, Expr) else leaf

        return rewrite(program, lambda stmt: _simplified(stmt, shorter))


def _simplified(stmt: Stmt, shorter: Callable[[Any], Any]) -> Stmt:
    if isinstance(stmt, Assume):
        return stmt  # the facts come from here: used on itself they would erase the check
    if isinstance(stmt, Do):
        instruction = stmt.instruction
        bound: set[Any] = {*instruction.bound_variables(), *instruction.writes()}
        new = rebuild(instruction, lambda leaf: leaf if leaf in bound else shorter(leaf))
        return stmt if new is instruction else replace(stmt, instruction=new)
    changed: dict[str, Any] = {}
    for name in field_names(type(stmt)):
        old = getattr(stmt, name)
        if isinstance(old, Expr) and name != "var":
            new_value = shorter(old)
            if new_value is not old:
                changed[name] = new_value
    return replace(stmt, **changed) if changed else stmt
