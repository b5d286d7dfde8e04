"""Three plots of a run, as SVG: speed-up over cuBLAS, bandwidth by width, roofline.

    write_plots(log, folder)               # ["speedup.svg", "bandwidth.svg", "roofline.svg"]

The same log gives the same bytes: no date is written, and names of parts do not depend on chance.
Each line has its name as the `id` of its group.

The surprise: a plot without data is not written. Devices that are not in the device table have no
rates, so no plot that needs them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.expect import bits_of
from benchmarks.measure import BASELINE, OURS
from benchmarks.record import Log, Row, refuse_fixture
from benchmarks.report import FIXTURE, geometric_mean, ours
from benchmarks.shapes import STEP
from tilus.errors import TilusError

STYLE = {"svg.hashsalt": "tilus", "svg.fonttype": "none", "font.size": 9.0}
SIZE = (6.4, 4.0)  # inches
TERA = 1e12
Points = list[tuple[float, float]]
Lines = dict[str, Points]


def write_plots(log: Log, folder: Path, *, allow_fixture: bool = False) -> list[str]:
    """The names of the files written. Raises: TilusError for a fixture, unless it is allowed, or
    where matplotlib is missing.
    """
    refuse_fixture(log, "a log", allow_fixture=allow_fixture)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, (lines_of, axes_of) in PLOTS.items():
        lines = lines_of(log)
        if lines:
            save(folder / name, log, lines, axes_of)
            found.append(name)
    return found


def save(path: Path, log: Log, lines: Lines, axes_of: Callable[..., None]) -> None:
    matplotlib, figure_class = _matplotlib()
    with matplotlib.rc_context(STYLE):
        figure = figure_class(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        for name, points in lines.items():
            place = list(zip(*sorted(points), strict=True))
            style = "o" if name.startswith("points ") else "-" if name == ROOF else "o-"
            (line,) = axes.plot(*place, style, label=name.removeprefix("points "), markersize=4)
            line.set_gid(f"line {name}")
        axes_of(axes)
        title = f"{axes.get_title()}, {log['device']}"
        axes.set_title(f"{FIXTURE}\n{title}" if log.get("fixture") else title)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small", ncols=2)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _matplotlib() -> tuple[Any, Any]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TilusError(
            "plots need matplotlib",
            found=str(error),
            hint='pip install "tilus-vm[bench]"; the JSON has all figures without it',
        ) from None
    return matplotlib, Figure


# ---- speed-up over cuBLAS ------------------------------------------------------------------------


def speedups(log: Log) -> Lines:
    """By type of weights: (tokens, geometric mean over layers of cuBLAS's time over ours)."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in singles(ours(log)):
        if row["baseline_us"] is not None:
            found[row["dtype"], row["m"]].append(row["baseline_us"] / row["median_us"])
    return grouped({key: geometric_mean(ratios) for key, ratios in found.items()})


def speedup_axes(axes: Any) -> None:
    axes.set_title("Speed-up over cuBLAS in float16")
    axes.set_xlabel("tokens")
    axes.set_ylabel("times faster")
    axes.set_xscale("log", base=2)
    axes.axhline(1.0, color="black", linewidth=0.8)


# ---- bandwidth at one token ----------------------------------------------------------------------


def bandwidths(log: Log) -> Lines:
    """By kernel: (bits of a weight, bytes a second over those of the data sheet) at M = 1."""
    if log["rates"] is None:
        return {}
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in singles(log["rows"]):
        if row["m"] == 1:
            share = row["bytes"] / (row["median_us"] * 1e-6) / log["rates"]["peak_bytes"]
            found[row["kernel"], bits_of(row["dtype"])].append(share)
    return grouped({key: geometric_mean(shares) for key, shares in found.items()})


def bandwidth_axes(axes: Any) -> None:
    axes.set_title("Bandwidth at one token")
    axes.set_xlabel("bits of a weight")
    axes.set_ylabel("of the data sheet's")
    axes.set_ylim(0, 1)


# ---- roofline ------------------------------------------------------------------------------------

ROOF = "roof"


def roofline(log: Log) -> Lines:
    """(operations a byte, TFLOP/s) of ours by type of weights, of cuBLAS, and of the floor."""
    if log["rates"] is None:
        return {}
    lines: Lines = defaultdict(list)
    for row in singles(log["rows"]):
        if row["kernel"] in (OURS, BASELINE):
            name = row["dtype"] if row["kernel"] == OURS else BASELINE
            speed = row["flops"] / (row["median_us"] * 1e-6) / TERA
            lines[f"points {name}"].append((row["flops"] / row["bytes"], speed))
    if not lines:
        return {}
    return {ROOF: roof(log["rates"], [x for points in lines.values() for x, _ in points]), **lines}


def roof(rates: dict[str, float], intensities: Sequence[float]) -> Points:
    """From the least to the most intensity: a slope, its end, and a level."""
    ridge = rates["flops"] / rates["bytes"]
    places = {min(*intensities, ridge), ridge, max(*intensities, ridge)}
    return [(x, min(x * rates["bytes"], rates["flops"]) / TERA) for x in sorted(places)]


def roofline_axes(axes: Any) -> None:
    axes.set_title("Roofline")
    axes.set_xlabel("operations a byte")
    axes.set_ylabel("TFLOP/s")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")


# ---- together ------------------------------------------------------------------------------------


def singles(rows: Sequence[Row]) -> list[Row]:
    """Single layers."""
    return [row for row in rows if row["layer"] != STEP]


def grouped(values: dict[tuple[str, int], float]) -> Lines:
    """
    >>> grouped({("u4", 1): 3.0, ("u4", 2): 4.0})
    {'u4': [(1, 3.0), (2, 4.0)]}
    """
    lines: Lines = {}
    for (name, x), y in values.items():
        assert math.isfinite(y)
        lines.setdefault(name, []).append((x, y))
    return lines


PLOTS: dict[str, tuple[Callable[[Log], Lines], Callable[..., None]]] = {
    "speedup.svg": (speedups, speedup_axes),
    "bandwidth.svg": (bandwidths, bandwidth_axes),
    "roofline.svg": (roofline, roofline_axes),
}
