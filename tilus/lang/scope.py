"""Names inside a kernel: what each is bound to, and where it ends.

A *run-time* scope is the body of a loop or branch of the kernel: names first bound there end with
it, because on the other paths they would have no value. Compile-time control flow opens no scope.
"""

from __future__ import annotations

import difflib
from typing import Any

from tilus.errors import Location, TilusError


class Scope:
    """The names of one body; `parent` is the enclosing one."""

    def __init__(self, parent: Scope | None, kind: str):
        self.parent = parent
        self.kind = kind  # "kernel", "method", "loop", "branch", ...: for messages
        self.names: dict[str, Any] = {}
        self.ended: dict[str, tuple[str, Location | None]] = {}
        self.places: dict[str, Location | None] = {}

    def find(self, name: str) -> Scope | None:
        """The innermost scope that binds `name`, up to the enclosing method."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope
            scope = scope.parent
        return None

    def bind(self, name: str, value: Any, location: Location | None) -> None:
        self.names[name] = value
        self.places[name] = location
        self.ended.pop(name, None)

    def close(self) -> None:
        """Remember in the parent which names ended here, so that a later use can say so."""
        if self.parent is not None:
            for name in self.names:
                self.parent.ended[name] = (self.kind, self.places[name])
            for name, end in self.ended.items():
                self.parent.ended.setdefault(name, end)

    def ended_at(self, name: str) -> tuple[str, Location | None] | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.ended:
                return scope.ended[name]
            scope = scope.parent
        return None

    def all_names(self) -> list[str]:
        scope: Scope | None = self
        found: list[str] = []
        while scope is not None:
            found += scope.names
            scope = scope.parent
        return found


def unknown_name(scope: Scope, name: str, others: list[str]) -> TilusError:
    """The error for a name that is not bound here, saying why if it was bound in a body that has
    ended.
    """
    ended = scope.ended_at(name)
    if ended is not None:
        kind, place = ended
        return TilusError(
            f"{name} has no value here: it was first bound inside a {kind} and ends with it",
            expected="a name bound on every path to this line",
            hint=f"bind {name} before the {kind}",
            related=() if place is None else ((place, "bound here"),),
        )
    close = difflib.get_close_matches(name, scope.all_names() + others, n=1)
    return TilusError(
        f"the name {name} is not defined",
        hint=f"did you mean {close[0]}?" if close else "bind it before this line",
    )
