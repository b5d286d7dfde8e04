"""Running passes, and showing what each did.

`TILUS_DUMP=dir` writes the program after every pass (`01_infer_layout.tir`, readable by `tilus
run`), `TILUS_DEBUG=1` prints the time of each pass, `TILUS_DEBUG=2` also the program after it where
it changed.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from tilus.config import settings
from tilus.ir.program import Program
from tilus.ir.verify import verify


class Pass(Protocol):
    """A frozen dataclass whose fields are its options; takes a valid program, gives a valid one."""

    @property
    def name(self) -> str: ...

    def __call__(self, program: Program) -> Program: ...


def run_passes(program: Program, passes: Sequence[Pass]) -> Program:
    """`program` after all `passes`, verified before the first and after each that changed it."""
    for number, (name, result) in enumerate(trace(program, passes)):
        _dump(number, name, result)
        program = result
    return program


def trace(program: Program, passes: Sequence[Pass]) -> Iterator[tuple[str, Program]]:
    """(name, program) for the source program and after each pass."""
    verify(program)
    yield "source", program
    for step in passes:
        start = time.perf_counter()
        result = step(program)
        if result is not program:
            verify(result)
        _report(step.name, program, result, time.perf_counter() - start)
        program = result
        yield step.name, program


def _report(name: str, before: Program, after: Program, seconds: float) -> None:
    level = settings().debug
    if level >= 1:
        sys.stderr.write(f"tilus: {after.name}: {name}: {1e3 * seconds:.2f} ms\n")
    if level >= 2 and (text := str(after)) != str(before):
        sys.stderr.write(text + "\n")


def _dump(number: int, name: str, program: Program) -> None:
    directory = settings().dump_directory
    if directory is not None:
        folder = Path(directory) / re.sub(r"[^\w.-]", "_", program.name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02}_{name}.tir").write_text(str(program))
