"""The figures of a run as tables: ours beside each peer and the floor, geometric means, README.

    print(tables(read(path)))

A ratio is a peer's time over ours, both of one item: above 1, ours is faster. The ratio to cuBLAS,
which multiplies float16 weights, is to its time beside that very row.

The surprise: a mean over what the budget left out would be a mean over something else for each
peer, so means name how many rows they are of, and a peer is compared only where both were timed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.measure import BASELINE, OURS
from benchmarks.provenance import commit_text
from benchmarks.readme import Section
from benchmarks.record import NAME, RESULTS, Log, Row, read, refuse_fixture
from benchmarks.shapes import FIRST_TYPE, STEP

FIXTURE = "FIXTURE: made-up figures for tests, no measurements"
RANGES: tuple[tuple[str, Callable[[int], bool]], ...] = (
    ("M <= 16", lambda m: m <= 16),
    ("16 < M <= 256", lambda m: 16 < m <= 256),
    ("M > 256", lambda m: m > 256),
)
SHOWN_TOKENS = (1, 16, 64, 256)  # of the README
Shape = tuple[Any, ...]


def shape_of(row: Row) -> Shape:
    return row["dtype"], row["m"], row["n"], row["k"]


def ours(log: Log) -> list[Row]:
    return [row for row in log["rows"] if row["kernel"] == OURS]


def peers_of(log: Log) -> list[str]:
    """Those that were timed, in the order of the rows; cuBLAS first."""
    names = dict.fromkeys(row["kernel"] for row in log["rows"])
    rest = [name for name in names if name not in (OURS, BASELINE)]
    return [BASELINE, *rest] if BASELINE in names else rest


def ratios_of(log: Log) -> dict[Shape, dict[str, float]]:
    """By shape of our rows, each peer's time over ours."""
    mine = {shape_of(row): row for row in ours(log)}
    found: dict[Shape, dict[str, float]] = {shape: {} for shape in mine}
    for shape, row in mine.items():
        if row["baseline_us"] is not None:
            found[shape][BASELINE] = row["baseline_us"] / row["median_us"]
    for row in log["rows"]:
        shape = shape_of(row)
        if row["kernel"] not in (OURS, BASELINE) and shape in mine:
            found[shape][row["kernel"]] = row["median_us"] / mine[shape]["median_us"]
    return found


def geometric_mean(values: Sequence[float]) -> float:
    """
    >>> geometric_mean([2.0, 8.0])
    4.0
    """
    return math.exp(statistics.fmean(map(math.log, values)))


def model_error(log: Log) -> dict[str, Any]:
    """How far the cost model is off: the median of |predicted / measured - 1|, and of how many."""
    errors = [
        abs(row["predicted_us"] / row["median_us"] - 1)
        for row in ours(log)
        if row["predicted_us"] is not None
    ]
    return {
        "median_absolute_error": statistics.median(errors) if errors else None,
        "rows": len(errors),
    }


# ---- tables --------------------------------------------------------------------------------------


def fraction(row: Row) -> str:
    """Of the floor that a time is: 100% cannot be beaten."""
    return "-" if row["floor_us"] is None else f"{row['floor_us'] / row['median_us']:.0%}"


def times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def name_of(row: Row) -> str:
    shape = "" if row["layer"] == STEP else f" {row['n']}x{row['k']}"
    return f"{row['model']} {row['layer']}{shape}"


def row_table(log: Log, rows: Sequence[Row], style: str = "simple") -> str:
    """A line for each of our rows."""
    peers, ratios = peers_of(log), ratios_of(log)
    cells = [
        (
            name_of(row), row["dtype"], str(row["m"]), f"{row['median_us']:.1f}",
            f"{row['q1_us']:.1f}..{row['q3_us']:.1f}", fraction(row),
            "-" if row["predicted_us"] is None else f"{row['predicted_us']:.1f}",
            *(times(ratios[shape_of(row)].get(peer)) for peer in peers),
        )
        for row in rows
    ]  # fmt: skip
    headings = ("layer", "weight", "M", "ours, us", "quartiles", "of floor", "model, us", *peers)
    return tabulate(cells, headings, tablefmt=style, disable_numparse=True, stralign="right")


def mean_cells(log: Log, rows: Sequence[Row]) -> list[str]:
    """The fraction of the floor and the ratio to each peer, as geometric means of so many rows."""
    ratios = ratios_of(log)
    floors = [row["floor_us"] / row["median_us"] for row in rows if row["floor_us"] is not None]
    cells = [f"{geometric_mean(floors):.0%} ({len(floors)})" if floors else "-"]
    for peer in peers_of(log):
        found = [r[peer] for row in rows if peer in (r := ratios[shape_of(row)])]
        cells.append(f"{times(geometric_mean(found))} ({len(found)})" if found else "-")
    return cells


def mean_table(log: Log, style: str = "simple") -> str:
    """A line for each type of weights and range of tokens; decoder steps apart."""
    rows = ours(log)
    singles = [row for row in rows if row["layer"] != STEP]
    steps = [row for row in rows if row["layer"] == STEP]
    lines: list[tuple[str, str, list[Row]]] = []
    for name, holds in RANGES:
        here = [row for row in singles if holds(row["m"])]
        for dtype in dict.fromkeys(row["dtype"] for row in here):
            lines.append((dtype, name, [row for row in here if row["dtype"] == dtype]))
        lines.append(("all", name, here))
    lines.append(("all", STEP + "s", steps))
    cells = [(dtype, name, *mean_cells(log, found)) for dtype, name, found in lines if found]
    headings = ("weight", "tokens", "of floor", *peers_of(log))
    return tabulate(cells, headings, tablefmt=style, disable_numparse=True, stralign="right")


def model_line(log: Log) -> str:
    found = model_error(log)
    if not found["rows"]:
        return "The cost model predicted nothing here."
    error = found["median_absolute_error"]
    return f"The cost model is off by {error:.0%} (median, absolute, of {found['rows']} rows)."


def absences(log: Log) -> list[str]:
    """Peers that are missing, and how much went wrong or was not reached."""
    lines = [
        f"{name} is missing: {peer['missing']}"
        for name, peer in log["peers"].items()
        if peer["missing"] is not None
    ]
    for what, found in (("failed", log["errors"]), ("not reached", log["not_reached"])):
        if found:
            lines.append(f"{what}: {len(found)}, listed in the JSON")
    return lines


def tables(log: Log, *, allow_fixture: bool = False) -> str:
    """All that was timed, as text. Raises: TilusError for a fixture, unless it is allowed."""
    refuse_fixture(log, "a log", allow_fixture=allow_fixture)
    head = [FIXTURE] if log.get("fixture") else []
    rows = ours(log)
    body = [row_table(log, rows), "", "Geometric means (of so many rows):", mean_table(log)]
    if not rows:
        body = ["Nothing of ours was timed."]
    what = "Columns of peers: their time over ours. Floor: bytes at the rate that kernels reach, or"
    legend = [what, "operations at the peak of the tensor cores, whichever takes longer."]
    return "\n".join([*head, log["device"], *body, *legend, model_line(log), *absences(log)])


# ---- the README ----------------------------------------------------------------------------------

SECTION = Section("gpu", "## On a GPU")
NOTHING = """\
Nothing has been measured on a GPU yet: what this page says of speed are counts and bounds.
`python -m benchmarks.gpu` measures, on any NVIDIA GPU, beside cuBLAS, Triton, Marlin, Humming,
GemLite and CUTLASS; [benchmarks/README.md](benchmarks/README.md) says how, and what it writes."""


def section(logs: Mapping[str, Log], *, allow_fixture: bool = False) -> str:
    """The README's text from logs by their folder's name.

    Raises: TilusError for a fixture, unless it is allowed.
    """
    for folder, log in logs.items():
        refuse_fixture(log, folder, allow_fixture=allow_fixture)
    parts = [device_section(folder, log) for folder, log in sorted(logs.items())]
    return "\n\n".join(parts) if parts else NOTHING


def device_section(folder: str, log: Log) -> str:
    place = f"benchmarks/results/{folder}"
    shown = [row for row in ours(log) if is_shown(row)]
    version = log["versions"]
    plots = " ".join(f"![{name}]({place}/{name})" for name in log["plots"])
    return "\n".join(
        [
            *([FIXTURE, ""] if log.get("fixture") else []),
            f"{log['device']}: {FIRST_TYPE} weights in groups of 128, float16 activations. Times "
            "of a launch in a CUDA graph over cold weights, median and quartiles; peers: their "
            "time over ours; cuBLAS has float16 weights.",
            "",
            row_table(log, shown, "github"),
            "",
            "Geometric means over all that was timed (in brackets, of how many rows):",
            "",
            mean_table(log, "github"),
            "",
            model_line(log) + (f" {plots}" if plots else ""),
            "",
            f"`{log['command']}`; driver {log['driver']}, CUDA {version['cuda']}, NVRTC "
            f"{version['nvrtc']}, torch {version['torch']}, commit {commit_text(log['commit'])}; "
            f"[all figures]({place}/{NAME}).",
        ]
    )


def is_shown(row: Row) -> bool:
    return row["dtype"] == FIRST_TYPE and row["m"] in SHOWN_TOKENS


def committed_logs(results: Path = RESULTS) -> dict[str, Log]:
    """Of all devices."""
    return {path.parent.name: read(path) for path in sorted(results.glob(f"*/{NAME}"))}
