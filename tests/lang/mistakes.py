"""A kernel with one mistake in it, and the check of what its user is told.

    MISTAKES = Mistakes()

    @MISTAKES.add("the name totl is not defined", hint="did you mean total?")
    def undefined_name(self):
        self.attrs.blocks, self.attrs.warps = 1, 1
        total = 1
        x = totl + 1  # <- here

The error must stand at the line marked `# <- here`, and name the line marked `# <- there` (the
other side of a conflict) where there is one. A kernel without any mark is wrong as a whole: no
engine runs it, or its arguments do not fit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import tilus
from tilus.dtypes import DataType
from tilus.errors import Location, TilusError
from tilus.lang.signature import read_signature
from tilus.lang.source import read_source

Kernel = Callable[..., None]


@dataclass(frozen=True)
class Mistake:
    """A kernel, the words its error must have, and the arguments of the call (None: harmless)."""

    kernel: Kernel
    message: str
    notes: dict[str, str]  # words of the error's found, expected and hint
    arguments: tuple[Any, ...] | None

    def check(self) -> None:
        error = failure(self.kernel, self.arguments)
        assert self.message in error.message
        assert error.hint or error.found or error.expected
        for field, words in self.notes.items():
            assert words in (getattr(error, field) or ""), field
        self._check_place(error.location, "# <- here")
        if marked_line(self.kernel, "# <- there"):
            self._check_place(error.related[0][0], "# <- there")
        assert "^" in str(error), "the user sees the line with a caret"

    def _check_place(self, location: Location | None, mark: str) -> None:
        assert location is not None
        assert inspect.getsourcefile(self.kernel) == location.file
        assert marked_line(self.kernel, mark) == location.line


class Mistakes(list[Mistake]):
    """The mistakes of a test module, in the order of their definition."""

    def add(
        self, message: str, *, arguments: tuple[Any, ...] | None = None, **notes: str
    ) -> Callable[[Kernel], Kernel]:
        assert notes, "an error says what was found, what was expected or what to do"

        def decorate(kernel: Kernel) -> Kernel:
            self.append(Mistake(kernel, message, notes, arguments))
            return kernel

        return decorate


def script(kernel: Kernel) -> tilus.Script:
    """A Script with this function as its kernel."""
    return type(kernel.__name__, (tilus.Script,), {"__call__": kernel})()


def failure(kernel: Kernel, arguments: tuple[Any, ...] | None = None) -> TilusError:
    """The error of calling `kernel`; arguments that are not given are harmless ones."""
    try:
        script(kernel)(*(harmless(kernel) if arguments is None else arguments))
    except TilusError as error:
        return error
    raise AssertionError(f"{kernel.__name__} runs without an error")


def harmless(kernel: Kernel) -> list[Any]:
    """An argument for each parameter: 17, 1.5, or a zero tensor of 1024 elements."""
    try:
        parameters = read_signature(kernel, read_source(kernel)).parameters
    except TilusError:
        return []  # the mistake is in the signature: no call gets past it
    return [_argument(p.annotation) for p in parameters]


def _argument(annotation: type | DataType) -> Any:
    if not isinstance(annotation, DataType):
        return annotation(3)
    if annotation == tilus.void_p:
        return torch.zeros(2048, dtype=torch.uint8)
    if annotation.pointee is not None:
        return tilus.zeros(1024, dtype=annotation.pointee)
    return 17 if annotation.is_integer() else 1.5


def marked_line(kernel: Kernel, mark: str) -> int | None:
    """The number of the line of the kernel's file that ends in `mark`."""
    lines, first = inspect.getsourcelines(kernel)
    found = [first + i for i, line in enumerate(lines) if line.rstrip().endswith(mark)]
    assert len(found) <= 1
    return found[0] if found else None
