"""Every example runs and agrees with torch; its programs read back from their text."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels import EXAMPLES, load_example
from tilus.ir.parser import parse_program
from tilus.ir.printer import format_program
from tilus.ir.program import Program
from tilus.passes import PIPELINE, trace


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """The source programs of all kernels compiled while a test runs."""
    programs: list[Program] = []

    def record(program: Program) -> Program:
        programs.append(program)
        return list(trace(program))[-1][1]

    monkeypatch.setattr("tilus.lang.script.compile_program", record)
    return programs


def test_the_examples_are_numbered_without_gaps():
    assert [f"{i:02}" for i in range(1, len(EXAMPLES) + 1)] == [p.name[:2] for p in EXAMPLES]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example_agrees_with_torch(path: Path, capsys: pytest.CaptureFixture[str]):
    load_example(path).main()  # raises where a result differs
    assert "equal to torch" in capsys.readouterr().out


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_programs_of_example_read_back(path: Path, compiled: list[Program]):
    load_example(path).main()
    assert compiled
    for source in compiled:
        stages = list(trace(source))
        assert ["source", *(step.name for step in PIPELINE)] == [name for name, _ in stages]
        for name, program in stages:
            text = format_program(program)
            assert text == format_program(parse_program(text)), name
