"""The pipeline as a whole: order, verification between passes, dumps, times, and results."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.passes.programs import HEADER, program
from tilus.config import context
from tilus.errors import TilusError
from tilus.interp.machine import launch
from tilus.interp.memory import Memory
from tilus.ir.parser import parse_program
from tilus.ir.program import Program
from tilus.ir.stmt import Break
from tilus.passes import PIPELINE, compile_program, trace
from tilus.passes.manager import Pass, run_passes

BODY = """\
g: global float32[n] = global_view(p)
unread: float32[128] = register_tensor(init=1.0)
x: float32[128] = load_global(g, offsets=[blockIdx.x * 128 + 0], dims=[0])
s: shared float32[128] = shared_tensor()
store_shared(s, x)
sync()
y: float32[128] = load_shared(s)
for i in range(0, 4):
    if i < 4:
        y = elementwise("add", [y, x])
store_global(g, y, offsets=[blockIdx.x * 128], dims=[0])
"""
NAMES = ["source", "simplify", "dead_code", "infer_layout", "check_hazards", "plan_shared"]
LAUNCH = HEADER.replace("blocks=[n]", "blocks=[n // 128]")


def test_every_step_is_named_once():
    assert NAMES == ["source", *(step.name for step in PIPELINE)]


def test_trace_gives_the_program_after_each_step():
    stages = list(trace(program(BODY)))
    assert NAMES == [name for name, _ in stages]
    texts = [str(result) for _, result in stages]
    assert "unread" in texts[1]
    assert "unread" not in texts[2]
    assert "if True" in texts[1]
    assert "if" not in texts[2]
    assert "register_layout" in texts[3]
    assert "shared_tensor(offset=0)" in texts[5]


def test_every_stage_reads_back():
    for _, stage in trace(program(BODY)):
        assert str(stage) == str(parse_program(str(stage)))


def test_compiling_twice_changes_nothing():
    once = compile_program(program(BODY))
    assert str(once) == str(compile_program(once))


def test_the_compiled_program_computes_what_the_source_says():
    compiled = compile_program(program(BODY, LAUNCH))
    data = np.arange(256, dtype=np.float32)
    memory = Memory()
    memory.map("p", 1 << 20, data.view(np.uint8))
    n, c, p = (param.var for param in compiled.params)
    launch(compiled, {n: 256, c: True, p: 1 << 20}, memory)
    assert (np.arange(256) * 5 == data).all()


@dataclass(frozen=True)
class Spoil:
    """A pass that makes an invalid program."""

    name: str = "spoil"

    def __call__(self, source: Program) -> Program:
        return replace(source, body=(*source.body, Break()))


def test_each_pass_is_verified():
    steps: list[Pass] = [Spoil()]
    with pytest.raises(TilusError, match="break outside a loop"):
        run_passes(program("sync()"), steps)


def test_the_source_is_verified():
    source = parse_program(HEADER + "    break\n")
    with pytest.raises(TilusError, match="break outside a loop"):
        compile_program(source)


def test_dumps_are_numbered_and_read_back(tmp_path: Path):
    with context(dump=tmp_path):
        compiled = compile_program(program(BODY))
    files = sorted(file.name for file in (tmp_path / "k").iterdir())
    assert [f"{number:02}_{name}.tir" for number, name in enumerate(NAMES)] == files
    last = (tmp_path / "k" / "05_plan_shared.tir").read_text()
    assert str(compiled) == str(parse_program(last))


def test_a_dump_stays_in_its_directory(tmp_path: Path):
    source = replace(program("sync()"), name="../up/and away")
    with context(dump=tmp_path / "ir"):
        compile_program(source)
    assert [tmp_path / "ir"] == list(tmp_path.iterdir())
    assert 1 == len(list((tmp_path / "ir").iterdir()))


def test_without_settings_nothing_is_written(capsys: pytest.CaptureFixture[str]):
    compile_program(program(BODY))
    assert ("", "") == tuple(capsys.readouterr())


def test_times_are_printed_at_debug_1(capsys: pytest.CaptureFixture[str]):
    with context(debug=1):
        compile_program(program(BODY))
    lines = capsys.readouterr().err.splitlines()
    for name, line in itertools.zip_longest(NAMES[1:], lines):
        assert line.startswith(f"tilus: k: {name}: ")
        assert line.endswith(" ms")


def test_changed_programs_are_printed_at_debug_2(capsys: pytest.CaptureFixture[str]):
    with context(debug=2):
        compile_program(program(BODY))
    printed = capsys.readouterr().err
    assert 4 == printed.count("kernel k(")  # all but check_hazards, which changes nothing
