"""Programs in text for the tests of passes, and what is asked of the results."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

import tilus.instructions  # noqa: F401 (fills the registry)
from tilus.errors import Location, TilusError
from tilus.ir.instruction import Instruction
from tilus.ir.parser import parse_program
from tilus.ir.program import Program
from tilus.ir.tensor import SharedTensor
from tilus.ir.verify import verify


@dataclass(frozen=True, eq=False)
class Free(Instruction, name="passes.free"):
    """Ends the life of a shared tensor and does nothing else."""

    frees_operand: ClassVar[bool] = True
    src: SharedTensor

    def run(self, machine: Any) -> None:
        machine.free_shared(self.src)


HEADER = "kernel k(n: int32 % 16, c: bool, p: ~float32 % 16) blocks=[n] warps=4:\n"


def program(body: str, header: str = HEADER) -> Program:
    """The program whose body is these lines; verified."""
    lines = textwrap.dedent(body).strip("\n")
    result = parse_program(header + textwrap.indent(lines, "    ") + "\n", "k.tir")
    verify(result)
    return result


def body_of(result: Program) -> str:
    """The printed body, as `program` takes it."""
    return textwrap.dedent(str(result).split("\n", 1)[1]).strip("\n")


def failure(step: Callable[[Program], Program], body: str) -> TilusError:
    """The error of `step` on this body."""
    source = program(body)
    with pytest.raises(TilusError) as caught:
        step(source)
    return caught.value


def line_of(location: Location | None) -> int:
    """The line of the body, from 1."""
    assert location is not None
    return location.line - 1
