"""Errors that tell the user where, what, what was expected and what to do.

Everything a user can do wrong ends in a `TilusError`; `assert` is kept for bugs of our own. The
place is added once, at the boundary that knows it (`with locate(location): ...`), so the code that
finds a mistake need not carry places around:

    kernel.py:12:13: error: operands of dot do not match
       12 |         c = self.dot(a, b)
          |             ^^^^^^^^^^^^^^
      found:    a is float16[16, 32], b is float16[16, 8]
      expected: the last extent of a equals the first of b
      hint:     transpose b, or load it with dims swapped

This module is the only place that renders an error.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Location:
    """A span of a file: 1-based `line`, 0-based `column`, `end_column` exclusive (as `ast`)."""

    file: str
    line: int
    column: int = 0
    end_column: int | None = None
    text: str | None = None  # the source line, where the file may not be on disk (text programs)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column + 1}"

    def source_line(self) -> str:
        return (
            self.text if self.text is not None else linecache.getline(self.file, self.line)
        ).rstrip()


class TilusError(Exception):
    """A mistake in the user's program or call.

    `message` is one sentence. `found`, `expected` and `hint` are optional single lines; `related`
    names further places (the other side of a conflict) with a note each.
    """

    def __init__(
        self,
        message: str,
        *,
        found: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
        location: Location | None = None,
        related: tuple[tuple[Location, str], ...] = (),
    ):
        super().__init__(message)
        self.message = message
        self.found = found
        self.expected = expected
        self.hint = hint
        self.location = location
        self.related = tuple(related)

    def __str__(self) -> str:
        return "\n".join(_render(self))


class locate:
    """`with locate(place):` gives any `TilusError` raised inside this place, unless it has a more
    precise one already.
    """

    __slots__ = ("location",)

    def __init__(self, location: Location | None):
        self.location = location

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TilusError) and error.location is None:
            error.location = self.location


def _render(error: TilusError) -> Iterator[str]:
    place = f"{error.location}: " if error.location else ""
    yield f"{place}error: {error.message}"
    if error.location:
        yield from _snippet(error.location)
    for label, text in (("found", error.found), ("expected", error.expected), ("hint", error.hint)):
        if text is not None:
            yield f"  {label + ':':<9} {text}"
    for location, note in error.related:
        yield f"{location}: note: {note}"
        yield from _snippet(location)


def _snippet(location: Location) -> Iterator[str]:
    source = location.source_line()
    if not source:
        return
    end = location.end_column if location.end_column is not None else location.column + 1
    width = max(1, min(end, len(source)) - location.column)
    yield f"{location.line:>5} | {source}"
    yield f"      | {' ' * location.column}{'^' * width}"
