"""The profile of a launch: counts by line of Python, as a table and as annotated source."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from tests.kernels import EXAMPLES, example_launches
from tilus import TilusError
from tilus.cli import main
from tilus.runtime.emulate import emulate
from tilus.runtime.profile import Counters, profile_html, profile_program, profile_table
from tilus.runtime.trace import first_difference

VECTOR_ADD = str(EXAMPLES[0])
VECTORS = ["n=4096", "x_ptr=arange:float32[4096]", "y_ptr=ones:float32[4096]"]
RUN = ["run", VECTOR_ADD, "--engine", "emulator"]
for assignment in (*VECTORS, "out_ptr=float32[4096]"):
    RUN += ["--set", assignment]


@pytest.fixture(scope="module")
def counters() -> Counters:
    launch = example_launches()["05_shared_memory/0"]
    return profile_program(launch.program, launch.before)


def line_of(text: str) -> int:
    lines = Path(EXAMPLES[4]).read_text().split("\n")
    return 1 + next(n for n, line in enumerate(lines) if line.strip().startswith(text))


def test_lines_have_what_they_execute(counters: Counters):
    lines = {line.location.line: line for line in counters.lines() if line.location}
    # 2 x 3 blocks of 4 warps take 4 steps along k: 2 x 2 x 2 products of fragments in each warp.
    dot = lines[line_of("acc = self.dot(")]
    assert dot.issued["mma"] == 2 * 3 * 4 * 4 * 8 == counters.total("mma")
    assert dot.issued["shared load"] == 2 * 3 * 4 * 4 * (4 + 2)
    assert lines[line_of("self.sync()")].issued["barrier"] == 2 * 3 * 4 * 4
    assert lines[line_of("a = self.load_global")].global_memory.requests > 0
    assert sum(line.instructions for line in counters.lines()) == counters.total()


def test_swizzled_tiles_have_no_bank_conflicts(counters: Counters):
    assert counters.shared.requests > 0 and counters.shared.conflicts == 0


def test_every_byte_of_a_sector_is_used_where_vectors_are_aligned():
    launch = example_launches()["01_vector_add/0"]
    assert profile_program(launch.program, launch.before).global_memory.used == 1.0


def test_the_table_lists_lines_and_sums(counters: Counters):
    table = profile_table(counters, 100)
    assert re.search(rf"05_shared_memory.py:{line_of('acc = self.dot(')} +\d+ ", table)
    assert f"{counters.total()} warp instructions, 768 mma, " in table
    assert f"{counters.total() * 32 / 100:.3f} issue slots of a lane for each of 100" in table


class Cells(HTMLParser):
    """The texts of table cells."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def test_the_page_shows_the_source(counters: Counters):
    page = Cells()
    page.feed(profile_html(counters))
    assert page.open == []
    assert any("acc = self.dot(self.load_shared(s_a)" in cell for cell in page.cells)
    assert "768" in page.cells


def test_the_command_prints_and_writes(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    page = tmp_path / "profile.html"
    assert main([*RUN, "--profile", "--per", "4096", "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert "01_vector_add.py:" in out and "for each of 4096" in out and "100.0% of their" in out
    assert "self.store_global(" in page.read_text()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*RUN[:2], *RUN[4:], "--profile"], "only the emulator profiles"),
        ([*RUN, "--html", "x.html"], "--html belongs to a profile"),
        ([*RUN, "--per", "7"], "--per belongs to a profile"),
        ([*RUN, "--profile", "--per", "0"], "--per counts items"),
    ],
)
def test_mistakes_are_told(capsys: pytest.CaptureFixture[str], argv: list[str], message: str):
    assert main(argv) == 1
    assert message in capsys.readouterr().err


def test_counters_belong_to_one_kernel(counters: Counters):
    launch = example_launches()["01_vector_add/0"]
    with pytest.raises(TilusError, match="counters belong to one kernel"):
        emulate(launch.program, list(launch.before), None, counters)


def test_a_trace_leaves_its_arguments_as_they_are():
    launch = example_launches()["01_vector_add/0"]
    out = launch.before[-1].clone()
    assert first_difference(launch.program, launch.before) is None
    assert torch.equal(out, launch.before[-1])
