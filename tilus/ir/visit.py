"""Walking and rewriting programs, for every pass.

A rewrite is a function from a statement to what replaces it: the statement itself, another,
several, or nothing. Bodies are rewritten first (bottom up), and unchanged parts stay the same
objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from tilus.ir.expr import Expr, Var
from tilus.ir.instruction import Instruction, field_names, leaves, rebuild
from tilus.ir.program import Program
from tilus.ir.stmt import Body, Do, Stmt
from tilus.ir.terms import substitute

S = TypeVar("S", bound=Stmt)


def walk(body: Body) -> Iterator[Stmt]:
    """Every statement in program order, outer before inner."""
    for stmt in body:
        yield stmt
        for inner in bodies(stmt):
            yield from walk(inner)


def bodies(stmt: Stmt) -> Iterator[Body]:
    """The nested bodies of a statement."""
    for name in _body_fields(type(stmt)):
        yield getattr(stmt, name)


@cache
def _body_fields(cls: type[Stmt]) -> tuple[str, ...]:
    """The names of a statement's fields that hold nested bodies."""
    return tuple(name for name in field_names(cls) if name in BODY_FIELDS)


BODY_FIELDS = ("body", "then", "otherwise")


def instructions(program: Program) -> Iterator[Instruction]:
    """Every instruction of the program in order."""
    for stmt in walk(program.body):
        if isinstance(stmt, Do):
            yield stmt.instruction


def expressions(stmt: Stmt) -> Iterator[Expr]:
    """The scalar expressions a statement (not its nested bodies) evaluates."""
    if isinstance(stmt, Do):
        yield from (x for x in stmt.instruction.operands() if isinstance(x, Expr))
        return
    for name in field_names(type(stmt)):
        if name not in BODY_FIELDS:
            yield from (x for x in leaves(getattr(stmt, name)) if isinstance(x, Expr))


Rewrite = Callable[[Stmt], Stmt | Body | None]


def rewrite_body(body: Body, fn: Rewrite) -> Body:
    result: list[Stmt] = []
    for stmt in body:
        new = fn(rewrite_nested(stmt, fn))
        if isinstance(new, tuple):
            result.extend(new)
        elif new is not None:
            result.append(new)
    unchanged = len(result) == len(body) and all(a is b for a, b in zip(result, body, strict=True))
    return body if unchanged else tuple(result)


def rewrite_nested(stmt: S, fn: Rewrite) -> S:
    """`stmt` with `fn` applied to the statements of its bodies."""
    changed: dict[str, Any] = {}
    for name in _body_fields(type(stmt)):
        value = getattr(stmt, name)
        new = rewrite_body(value, fn)
        if new is not value:
            changed[name] = new
    return replace(stmt, **changed) if changed else stmt


def rewrite(program: Program, fn: Rewrite) -> Program:
    body = rewrite_body(program.body, fn)
    return program if body is program.body else replace(program, body=body)


def map_operands(stmt: S, fn: Callable[[Any], Any]) -> S:
    """`stmt` with `fn` applied to every tensor and expression outside its nested bodies."""
    changed: dict[str, Any] = {}
    for name in field_names(type(stmt)):
        old = getattr(stmt, name)
        if isinstance(old, Instruction):
            new: Any = rebuild(old, fn)
        elif isinstance(old, Expr):
            new = fn(old)
        else:
            continue
        if new is not old:
            changed[name] = new
    return replace(stmt, **changed) if changed else stmt


def substitute_vars(body: Body, mapping: Mapping[Var, Expr]) -> Body:
    """Replace scalar variables by expressions in a whole body."""

    def leaf(value: Any) -> Any:
        return substitute(value, mapping) if isinstance(value, Expr) else value

    return rewrite_body(body, lambda stmt: map_operands(stmt, leaf))
