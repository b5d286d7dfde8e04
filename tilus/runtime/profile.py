"""What a launch costs, line by line of the user's Python, counted by the emulator.

    counters = profile_program(program, values)
    print(profile_table(counters))
    Path("profile.html").write_text(profile_html(counters))

Counts are exact and the same on every machine; they say nothing of time. Instructions are those of
PTX, once for each warp that executes them; ptx/counters.py defines the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from tabulate import tabulate

from tilus.errors import Location
from tilus.ir.program import Program
from tilus.ptx.counters import Counters, Line
from tilus.runtime.emulate import emulate
from tilus.target import Target

HEADINGS = (
    "instructions", "%", "most of them", "mma", "global requests", "sectors/request",
    "sector bytes used", "shared requests", "wavefronts/request", "bank conflicts",
)  # fmt: skip
CLASSES_SHOWN = 2
AROUND = 3  # lines of source before and after what was executed


def profile_program(
    program: Program, values: Sequence[Any], target: Target | None = None
) -> Counters:
    """Run `program` (as the passes left it) on the emulator and count; tensors are on the CPU."""
    counters = Counters()
    emulate(program, values, target, counters)
    return counters


def profile_table(counters: Counters, items: int | None = None) -> str:
    """A row for each line of Python, and the sums; `items`: how many weights, say, to divide by."""
    total = counters.total()
    rows = [(_place(line.location), *_cells(line, total)) for line in counters.lines()]
    table = tabulate(rows, ("line", *HEADINGS), disable_numparse=True, colalign=_alignment())
    return "\n".join([table, "", *_sums(counters, items)])


def _sums(counters: Counters, items: int | None) -> list[str]:
    memory, shared = counters.global_memory, counters.shared
    sums = [
        f"{counters.total()} warp instructions, {counters.total('mma')} mma, "
        f"{counters.total('barrier')} barriers",
        f"global memory: {memory.requests} requests, {memory.units} sectors "
        f"({memory.used:.1%} of their bytes used), {memory.bytes} bytes",
        f"shared memory: {shared.requests} requests, {shared.units} wavefronts, "
        f"{shared.conflicts} bank conflicts",
    ]
    if items:
        sums.append(f"{counters.per_item(items):.3f} issue slots of a lane for each of {items}")
    return sums


def _alignment() -> tuple[str, ...]:
    return ("left", "right", "right", "left", *["right"] * (len(HEADINGS) - 3))


def _place(location: Location | None) -> str:
    return f"{Path(location.file).name}:{location.line}" if location else "(no line)"


def _cells(line: Line, total: int) -> tuple[str, ...]:
    most = sorted(line.issued.items(), key=lambda item: (-item[1], item[0]))[:CLASSES_SHOWN]
    memory, shared = line.global_memory, line.shared
    return (
        str(line.instructions),
        f"{100 * line.instructions / max(total, 1):.1f}",
        ", ".join(f"{name} {count}" for name, count in most),
        str(line.issued.get("mma", "")),
        *((str(memory.requests), f"{memory.per_request:.1f}", f"{memory.used:.0%}")
          if memory.requests else ("", "", "")),
        *((str(shared.requests), f"{shared.per_request:.1f}", str(shared.conflicts))
          if shared.requests else ("", "", "")),
    )  # fmt: skip


# ---- the annotated source ------------------------------------------------------------------------

STYLE = """
body { font-family: sans-serif; margin: 2em; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 1px 8px; text-align: right; white-space: nowrap; }
th { position: sticky; top: 0; background: #eee; }
td.code { font-family: monospace; white-space: pre; text-align: left; }
td.classes { text-align: left; color: #555; }
td.conflict { color: #b00; font-weight: bold; }
"""


def profile_html(counters: Counters, items: int | None = None) -> str:
    """A page with the source of every file that was executed, each line beside what it costs."""
    lines = [line for line in counters.lines() if line.location is not None]
    total = counters.total()
    parts = [
        _file_html(file, list(group), total)
        for file, group in groupby(lines, lambda line: line.location.file if line.location else "")
    ]
    sums = "<br>".join(escape(text) for text in _sums(counters, items))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Profile</title>'
        f"<style>{STYLE}</style></head><body><p>{sums}</p>{''.join(parts)}</body></html>\n"
    )


def _file_html(file: str, lines: list[Line], total: int) -> str:
    costs = {line.location.line: line for line in lines if line.location is not None}
    first, last = max(1, min(costs) - AROUND), max(costs) + AROUND
    headings = "".join(f"<th>{escape(name)}</th>" for name in ("line", "source", *HEADINGS))
    rows = [
        _row_html(number, text, costs.get(number), total)
        for number in range(first, last + 1)
        if (text := Location(file, number).source_line()) or number in costs
    ]
    return f"<h2>{escape(file)}</h2><table><tr>{headings}</tr>{''.join(rows)}</table>"


def _row_html(number: int, text: str, line: Line | None, total: int) -> str:
    code = f'<td>{number}</td><td class="code">{escape(text)}</td>'
    if line is None:
        return f"<tr>{code}<td></td></tr>"
    cells = list(_cells(line, total))
    share = line.instructions / max(total, 1)
    marks = ["", "", ' class="classes"', *[""] * (len(cells) - 3)]
    if line.shared.conflicts:
        marks[-1] = ' class="conflict"'
    body = "".join(f"<td{m}>{escape(c)}</td>" for m, c in zip(marks, cells, strict=True))
    return f'<tr style="background: rgba(255, 140, 0, {share:.3f})">{code}{body}</tr>'
