"""Programs to binaries: what is kept on disk, and when it is not used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import tilus
from tests.kernels import example_launches
from tilus.errors import Location
from tilus.ir.parser import parse_program
from tilus.ir.program import Program
from tilus.runtime import compile as compiling
from tilus.runtime.compile import compile_program_for, compile_source
from tilus.target import nvgpu_sm80, nvgpu_sm90a

TEXT = """
kernel twice(p: ~float32 % 16) blocks=[1] warps=1:
    g: global float32[32] = global_view(p)
    x: float32[32] = load_global(g, offsets=[0], dims=[0])
    y: float32[32] = elementwise("add", [x, x])
    store_global(g, y, offsets=[0], dims=[0])
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path):
    with tilus.option.context(cache_dir=tmp_path / "cache"):
        yield


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the programs whose text was generated."""
    names: list[str] = []
    generate = compiling.generate

    def record(program: Program, target: tilus.target.Target):
        names.append(f"{program.name} {target.arch}")
        return generate(program, target)

    monkeypatch.setattr(compiling, "generate", record)
    return names


def test_a_program_is_generated_once(generated: list[str]):
    first = compile_source(parse_program(TEXT), nvgpu_sm90a)
    second = compile_source(parse_program(TEXT), nvgpu_sm90a)
    assert ["twice sm_90a"] == generated
    assert first.source == second.source and first.cubin == second.cubin


@pytest.mark.parametrize("change", ["text", "target", "place", "generator"])
def test_whatever_the_text_follows_from_is_in_its_key(
    change: str, generated: list[str], monkeypatch: pytest.MonkeyPatch
):
    program, target = parse_program(TEXT), nvgpu_sm90a
    compile_source(program, target)
    if change == "text":
        program = parse_program(TEXT.replace('"add"', '"mul"'))
    elif change == "target":
        target = nvgpu_sm80
    elif change == "place":
        first = replace(program.body[0], location=Location("other.py", 7))
        program = replace(program, body=(first, *program.body[1:]))
    else:
        monkeypatch.setattr(compiling, "fingerprint", lambda: "another version of the package")
    compile_source(program, target)
    assert 2 == len(generated)


def test_kernels_with_workspaces_are_generated_each_time(generated: list[str]):
    """Their sizes are expressions of the program at hand."""
    source = parse_program("""
kernel k(n: int32) blocks=[1] warps=1:
    w: global int32[n] = global_tensor(requires_clean=True)
    x: int32[32] = load_global(w, offsets=[0], dims=[0])
    store_global(w, x, offsets=[0], dims=[0])
""")
    for _ in range(2):
        binary = compile_source(source, nvgpu_sm90a)
    assert 2 == len(generated)
    assert 1 == len(binary.source.workspaces)


def test_a_damaged_text_is_generated_again(generated: list[str], tmp_path: Path):
    compile_source(parse_program(TEXT), nvgpu_sm90a)
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
    compile_source(parse_program(TEXT), nvgpu_sm90a)
    assert 2 == len(generated)


def test_dumps_hold_every_stage(tmp_path: Path):
    with tilus.option.context(dump=tmp_path / "dump"):
        compile_source(parse_program(TEXT), nvgpu_sm90a)
    names = {path.name for path in (tmp_path / "dump").rglob("*.*")}
    assert {"00_source.tir", "twice.cu", "twice.ptx", "twice.cubin"} <= names


def test_slower_forms_are_told_at_debug_3(capsys: pytest.CaptureFixture[str]):
    program = example_launches()["01_vector_add/0"].program
    compile_program_for(program, nvgpu_sm90a)
    assert capsys.readouterr().err == ""
    with tilus.option.context(debug=3):
        compile_program_for(program, nvgpu_sm90a)
    assert "pieces of 4 bytes" in capsys.readouterr().err
