"""What got worse and what got better between two files of results; no GPU is needed.

    python -m benchmarks.compare OLD NEW       # exit status 1: something got worse, 2: a mistake

Two kinds of files are understood: those of benchmarks/static.py, and timings of a GPU. The latter
are a list of rows, or an object with such a list as `rows`:

    {"kernel": "tilus", "dtype": "u4", "m": 1, "n": 8192, "k": 8192, "device": "NVIDIA H200",
     "median_us": 14.2, "q1_us": 14.1, "q3_us": 14.4}

A change counts where it is larger than the noise of what is measured (`Measure.noise`), and where
there are quartiles only if those of OLD and NEW do not overlap. Rows in one file alone are
listed, and are no change; a row that has lost what was measured in it is worse.

The surprise: files of different devices or problems are not compared at all, as a difference
between them says nothing of the kernels.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from tilus.errors import TilusError

Row = Mapping[str, Any]
Identity = tuple[Any, ...]


# ---- what is compared ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """A number in a row.

    Attributes:
        name: of the column.
        path: of its place: a key of the row, a key of what is there, and so on.
        higher_is_better: otherwise lower is.
        noise: the relative change that says nothing.
        quartiles: the keys of the first and the third quartile in the row, if there are any.
        decides: whether a row without it has nothing that was measured.
    """

    name: str
    path: tuple[str, ...]
    higher_is_better: bool = False
    noise: float = 0.0
    quartiles: tuple[str, str] | None = None
    decides: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of one kind.

    Attributes:
        keys: that say together which row is which, `also` those that may be left out.
        place: the key of the list of rows in the file.
    """

    kind: str
    place: str
    keys: tuple[str, ...]
    measures: tuple[Measure, ...]
    also: tuple[str, ...] = ()

    def identity(self, row: Row) -> Identity:
        return tuple(row.get(key) for key in (*self.keys, *self.also))

    def label(self, identity: Identity) -> str:
        names = (*self.keys, *self.also)
        return ", ".join(
            f"{name} = {value}" if isinstance(value, int) else str(value)
            for name, value in zip(names, identity, strict=True)
            if value is not None
        )


# NVRTC and the generator are deterministic; 1% is what another release of NVRTC may choose.
COUNTED = 0.01
TIMED = 0.01
STATIC = Table(
    "static counts",
    "rows",
    ("weight", "activation", "arch", "m"),
    (
        Measure("issue slots a weight", ("per_weight", "issue"), noise=COUNTED, decides=True),
        Measure("ALU slots a weight", ("per_weight", "alu"), noise=COUNTED),
        Measure("times unpacked", ("unpacked",)),
        Measure("bytes spilled", ("spill_bytes",)),
        Measure("bytes in flight", ("bytes_in_flight",), higher_is_better=True),
        Measure("bound on H100, us", ("bounds_us", "H100", "bound"), noise=COUNTED),
        Measure("bound on H200, us", ("bounds_us", "H200", "bound"), noise=COUNTED),
    ),
)
TRAFFIC = Table(
    "static traffic",
    "traffic",
    ("weight", "activation", "arch", "m"),
    (
        *(
            Measure(
                f"sectors used by {kind}", (kind, "sector_bytes_used"), higher_is_better=True
            )
            for kind in ("copies", "loads")
        ),
        *(
            Measure(f"bank conflicts, {kind}", ("bank_conflicts", kind))
            for kind in ("async copy", "shared load", "shared store")
        ),
    ),
)  # fmt: skip
TIMINGS = Table(
    "timings",
    "rows",
    ("kernel", "dtype", "m", "n", "k", "device"),
    (
        Measure(
            "median, us", ("median_us",), noise=TIMED, quartiles=("q1_us", "q3_us"), decides=True
        ),
    ),
    also=("activation", "group_size"),
)
TABLES = (STATIC, TRAFFIC, TIMINGS)
PROBLEM = ("n", "k", "group_size", "traffic_problem")  # of a whole file


# ---- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """A file: its tables by their kind, with rows by identity, and the problem of all of them."""

    path: Path
    tables: dict[str, dict[Identity, Row]]
    problem: dict[str, Any]

    @property
    def devices(self) -> set[str]:
        return {row["device"] for row in self.tables.get(TIMINGS.kind, {}).values()}


def read(path: Path, *, allow_fixture: bool = False) -> Results:
    """Raises: TilusError for a file that is not there, damaged, of no known kind, or with made-up
    figures, unless they are allowed, as in tests.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise TilusError(
            "the results cannot be read",
            found=f"{path}: {error.strerror or error}",
            hint="name two files that a benchmark wrote",
        ) from None
    except ValueError as error:
        raise damaged(path, f"no JSON: {error}") from None
    log = {"rows": content} if isinstance(content, list) else content
    if not isinstance(log, dict):
        raise damaged(path, f"{type(content).__name__} in place of an object or a list")
    if log.get("fixture") and not allow_fixture:
        raise fixture_refused(path, "compared")
    tables = {table.kind: found for table in TABLES if (found := rows_of(path, log, table))}
    if not tables:
        raise TilusError(
            "these are no results that can be compared",
            found=str(path),
            expected="rows with " + ", or with ".join(", ".join(t.keys) for t in TABLES[1:]),
            hint="benchmarks/static.py writes such a file",
        )
    return Results(path, tables, {key: log[key] for key in PROBLEM if key in log})


def rows_of(path: Path, log: Mapping[str, Any], table: Table) -> dict[Identity, Row]:
    """The rows of a table by identity; none where the file has rows of another kind."""
    rows = log.get(table.place, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise damaged(path, f"`{table.place}` is no list of objects")
    if not any(set(table.keys) <= set(row) for row in rows):
        return {}
    found: dict[Identity, Row] = {}
    for number, row in enumerate(rows):
        lacking = [key for key in table.keys if not isinstance(row.get(key), str | int)]
        if lacking:
            raise damaged(path, f"{table.place}[{number}] does not say {', '.join(lacking)}")
        identity = table.identity(row)
        if identity in found:
            raise damaged(path, f"two rows for {table.label(identity)}")
        found[identity] = checked(path, row, table)
    return found


def checked(path: Path, row: Row, table: Table) -> Row:
    """`row`, whose measures are numbers."""
    name = table.label(table.identity(row))
    for measure in table.measures:
        for key in (measure.path, *((quartile,) for quartile in measure.quartiles or ())):
            value = at(row, key)
            if value is not None and not is_amount(value):
                raise damaged(path, f"{'.'.join(key)} = {value!r} of {name}")
        spread = quartiles_of(row, measure)
        if spread is not None and not spread[0] <= at(row, measure.path) <= spread[1]:
            raise damaged(path, f"quartiles {spread} around {at(row, measure.path)} of {name}")
    return row


def damaged(path: Path, found: str) -> TilusError:
    return TilusError(
        "the file of results is damaged",
        found=f"{path}: {found}",
        hint="run the benchmark that wrote it again",
    )


def fixture_refused(found: object, what: str) -> TilusError:
    return TilusError(
        f"a fixture is no result and is not {what}",
        found=f"{found}, which says that it is a fixture",
        expected="what a benchmark wrote where it ran",
    )


def at(row: Row, path: Sequence[str]) -> Any:
    """What is at a place of a row; None where there is no such place."""
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def is_amount(value: Any) -> bool:
    """Whether it is a finite number, and not negative.

    >>> is_amount(0), is_amount(True), is_amount(float("nan"))
    (True, False, False)
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < math.inf


def shown(value: float) -> str:
    """With four digits, or all of a whole number.

    >>> shown(49152), shown(1.23456)
    ('49152', '1.235')
    """
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def quartiles_of(row: Row, measure: Measure) -> tuple[float, float] | None:
    """None where the row has not both, or no median."""
    if measure.quartiles is None or at(row, measure.path) is None:
        return None
    first, third = (row.get(key) for key in measure.quartiles)
    return None if first is None or third is None else (first, third)


# ---- comparing -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A measure of a row that is not what it was; `new` is None where it is gone."""

    label: str
    measure: Measure
    old: float
    new: float | None

    @property
    def relative(self) -> float:
        """Of the old value; infinite from 0, or where the measure is gone."""
        if self.new is None:
            return math.inf
        return (self.new - self.old) / self.old if self.old else math.inf

    @property
    def is_worse(self) -> bool:
        return self.new is None or (self.new < self.old) == self.measure.higher_is_better

    @property
    def cells(self) -> tuple[str, ...]:
        new = "gone" if self.new is None else shown(self.new)
        percent = f"{self.relative:+.1%}" if math.isfinite(self.relative) else ""
        return self.label, self.measure.name, shown(self.old), new, percent


def compare(old: Results, new: Results) -> list[Change]:
    """What changed beyond the noise, the largest changes first.

    Raises: TilusError where the files are of different kinds, devices or problems, or have no row
        in common.
    """
    check_comparable(old, new)
    changes = [change for table in TABLES for change in changes_of(table, old, new)]
    return sorted(changes, key=lambda change: -abs(change.relative))


def check_comparable(old: Results, new: Results) -> None:
    for what, one, other in (
        ("kinds", sorted(old.tables), sorted(new.tables)),
        ("devices", sorted(old.devices), sorted(new.devices)),
        ("problems", old.problem, new.problem),
    ):
        if one != other:
            raise TilusError(
                f"the results are of different {what}",
                found=f"{old.path}: {one}; {new.path}: {other}",
                hint="compare two runs of one benchmark on one device",
            )
    if not any(set(old.tables[kind]) & set(new.tables[kind]) for kind in old.tables):
        raise TilusError(
            "the results have no row in common",
            found=f"{old.path} and {new.path}",
            hint="run the benchmark with the same arguments",
        )


def changes_of(table: Table, old: Results, new: Results) -> Iterable[Change]:
    before, after = old.tables.get(table.kind, {}), new.tables.get(table.kind, {})
    for identity in before.keys() & after.keys():
        label = table.label(identity)
        for measure in table.measures:
            change = change_of(label, measure, before[identity], after[identity])
            if change is not None:
                yield change


def change_of(label: str, measure: Measure, old: Row, new: Row) -> Change | None:
    """None where nothing changed beyond the noise, or there is nothing to compare with."""
    was, now = at(old, measure.path), at(new, measure.path)
    if was is None or (now is None and not measure.decides):
        return None
    if now is None:
        return Change(label, measure, was, None)
    spreads = quartiles_of(old, measure), quartiles_of(new, measure)
    if spreads[0] is not None and spreads[1] is not None and overlap(spreads[0], spreads[1]):
        return None
    if abs(now - was) <= measure.noise * was:
        return None
    return Change(label, measure, was, now)


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two closed intervals meet.

    >>> overlap((1, 2), (2, 3)), overlap((1, 2), (2.1, 3))
    (True, False)
    """
    return max(one[0], other[0]) <= min(one[1], other[1])


# ---- the command ---------------------------------------------------------------------------------


def report(old: Results, new: Results, changes: Sequence[Change]) -> str:
    worse = [change for change in changes if change.is_worse]
    better = [change for change in changes if not change.is_worse]
    rows = sum(len(set(old.tables[kind]) & set(new.tables[kind])) for kind in old.tables)
    lines = [f"{rows} rows compared; figures worse: {len(worse)}, better: {len(better)}"]
    for results, other in ((old, new), (new, old)):
        alone = [
            table.label(identity)
            for table in TABLES
            for identity in results.tables.get(table.kind, {})
            if identity not in other.tables.get(table.kind, {})
        ]
        lines += [f"only in {results.path}: {label}" for label in alone]
    for heading, found in (("worse", worse), ("better", better)):
        if found:
            headings = (heading, "figure", "old", "new", "change")
            cells = [change.cells for change in found]
            lines += ["", tabulate(cells, headings, disable_numparse=True)]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("old", type=Path, metavar="OLD", help="a JSON of results")
    parser.add_argument("new", type=Path, metavar="NEW", help="one of the same benchmark")
    arguments = parser.parse_args(argv)
    try:
        old, new = read(arguments.old), read(arguments.new)
        changes = compare(old, new)
    except TilusError as error:
        print(error, file=sys.stderr)
        return 2
    print(report(old, new, changes))
    return int(any(change.is_worse for change in changes))


if __name__ == "__main__":
    sys.exit(main())
