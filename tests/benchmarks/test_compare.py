"""The comparison of results: counts, timings with their spread, and files that do not compare."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import compare, static
from tilus.errors import TilusError

COUNTS = {
    "n": 8192,
    "k": 8192,
    "group_size": 128,
    "rows": [
        {
            "weight": weight,
            "activation": "float16",
            "arch": "sm_90a",
            "m": m,
            "unpacked": 1,
            "spill_bytes": 0,
            "bytes_in_flight": 49152,
            "per_weight": {"issue": 1.0, "alu": 0.6},
            "bounds_us": {"H100": {"bound": 11.6}, "H200": {"bound": 8.3}},
        }
        for weight in ("u4", "e4m3")
        for m in (1, 16)
    ],
    "traffic": [
        {
            "weight": "u4",
            "activation": "float16",
            "arch": "sm_90a",
            "m": 8,
            "copies": {"sector_bytes_used": 1.0},
            "loads": {"sector_bytes_used": 1.0},
            "bank_conflicts": {"async copy": 0, "shared load": 0, "shared store": 0},
        }
    ],
}

H100, H200 = (f"bound on {name}, us" for name in ("H100", "H200"))


def timing(median=20.0, spread=0.2, **changes):
    row = {"kernel": "lean", "dtype": "u4", "m": 1, "n": 8192, "k": 8192, "device": "NVIDIA H200"}
    times = {"median_us": median, "q1_us": median - spread, "q3_us": median + spread}
    return {**row, **times, **changes}


TIMINGS = [timing(), timing(m=16, median=21.0), timing(kernel="other", median=30.0)]


@pytest.fixture
def files(tmp_path):
    """Writes OLD and NEW."""

    def write(old, new):
        paths = tmp_path / "old.json", tmp_path / "new.json"
        for path, content in zip(paths, (old, new), strict=True):
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return [str(path) for path in paths]

    return write


def changed(log, place, value, row=0, table="rows"):
    """A copy of `log` with another value at a path of a row; None takes the value away."""
    log = copy.deepcopy(log)
    at = (log[table] if isinstance(log, dict) else log)[row]
    for key in place[:-1]:
        at = at[key]
    if value is None:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return log


def told(capsys, arguments):
    """The exit status, and the rows of the tables of what got worse and what got better."""
    status = compare.main(arguments)
    tables, now = {"worse": [], "better": []}, None
    for line in capsys.readouterr().out.splitlines():
        head = line.split("  ")[0].strip()
        now = head if head in tables else now
        if now and line.strip() and head != now and not line.startswith("-"):
            tables[now].append([cell.strip() for cell in line.split("  ") if cell.strip()])
    return status, tables["worse"], tables["better"]


# ---- changes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "value", "worse", "cells"),
    [
        (("per_weight", "issue"), 1.2, True, ["issue slots a weight", "1", "1.2", "+20.0%"]),
        (("per_weight", "issue"), 0.8, False, ["issue slots a weight", "1", "0.8", "-20.0%"]),
        (("per_weight", "alu"), 0.9, True, ["ALU slots a weight", "0.6", "0.9", "+50.0%"]),
        (("unpacked",), 2, True, ["times unpacked", "1", "2", "+100.0%"]),
        (("spill_bytes",), 4, True, ["bytes spilled", "0", "4"]),
        (("bytes_in_flight",), 24576, True, ["bytes in flight", "49152", "24576", "-50.0%"]),
        (("bytes_in_flight",), 98304, False, ["bytes in flight", "49152", "98304", "+100.0%"]),
        (("bounds_us", "H100", "bound"), 5.8, False, [H100, "11.6", "5.8", "-50.0%"]),
        (("bounds_us", "H200", "bound"), 16.6, True, [H200, "8.3", "16.6", "+100.0%"]),
        (("per_weight",), None, True, ["issue slots a weight", "1", "gone"]),
    ],
)  # fmt: skip
def test_counts(files, capsys, place, value, worse, cells):
    arguments = files(COUNTS, changed(COUNTS, place, value))
    status, *tables = told(capsys, arguments)
    found = [["u4, float16, sm_90a, m = 1", *cells]]
    assert (int(worse), [found, []] if worse else [[], found]) == (status, tables)


@pytest.mark.parametrize(
    ("place", "value"),
    [(("copies", "sector_bytes_used"), 0.5), (("bank_conflicts", "shared load"), 3)],
)
def test_traffic(files, capsys, place, value):
    status, worse, better = told(
        capsys, files(COUNTS, changed(COUNTS, place, value, table="traffic"))
    )
    assert (1, 1, 0) == (status, len(worse), len(better))


@pytest.mark.parametrize("factor", [1.0, 1.009, 0.991])
def test_noise_is_no_change(files, capsys, factor):
    new = changed(COUNTS, ("per_weight", "issue"), factor)
    assert (0, [], []) == told(capsys, files(COUNTS, new))


@pytest.mark.parametrize(
    ("median", "spread", "expected"),
    [
        (20.3, 0.2, 0),  # 20.1 .. 20.5 meets 19.8 .. 20.2
        (20.5, 0.2, 1),
        (25.0, 10.0, 0),  # as noisy as that it says nothing
        (20.15, 0.01, 0),
        (19.5, 0.2, -1),
        (10.0, 0.1, -1),
    ],
)
def test_timings_change_where_quartiles_do_not_overlap(files, capsys, median, spread, expected):
    new = [timing(median, spread), *TIMINGS[1:]]
    status, worse, better = told(capsys, files(TIMINGS, new))
    assert int(expected > 0) == status
    assert (int(expected > 0), int(expected < 0)) == (len(worse), len(better))
    for row in (*worse, *better):
        assert ["lean, u4, m = 1, n = 8192, k = 8192, NVIDIA H200", "median, us"] == row[:2]


def test_tiny_changes_of_steady_timings_are_noise(files, capsys):
    old, new = ([timing(median, 0.0)] for median in (20.0, 20.1))
    assert (0, [], []) == told(capsys, files(old, new))


def test_timings_without_quartiles(files, capsys):
    old, new = (
        [{k: v for k, v in timing(median).items() if k[0] != "q"}] for median in (20.0, 20.5)
    )
    assert 1 == told(capsys, files(old, new))[0]
    assert 0 == told(capsys, files(new, old))[0]


def test_worst_first(files, capsys):
    new = [timing(21.0), timing(m=16, median=42.0), timing(kernel="other", median=15.0)]
    status, worse, better = told(capsys, files({"rows": TIMINGS}, {"rows": new}))
    assert (1, ["+100.0%", "+5.0%"], ["-50.0%"]) == (
        status, [row[-1] for row in worse], [row[-1] for row in better]
    )  # fmt: skip


def test_rows_of_one_file_are_listed_only(files, capsys):
    arguments = files(TIMINGS[:2], TIMINGS[1:])
    assert 0 == compare.main(arguments)
    text = capsys.readouterr().out
    assert "1 rows compared; figures worse: 0, better: 0" in text
    assert f"only in {arguments[0]}: lean, u4, m = 1, n = 8192" in text
    assert f"only in {arguments[1]}: other, u4, m = 1, n = 8192" in text


def test_further_keys_tell_rows_apart(files, capsys):
    """Of two groups' rows only one changed."""
    old = [timing(group_size=size) for size in (32, 128)]
    new = [timing(group_size=32), timing(40.0, group_size=128)]
    status, worse, _ = told(capsys, files(old, new))
    assert (1, ["lean, u4, m = 1, n = 8192, k = 8192, NVIDIA H200, group_size = 128"]) == (
        status, [row[0] for row in worse]
    )  # fmt: skip


# ---- what does not compare -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (COUNTS, TIMINGS, "of different kinds"),
        (TIMINGS, [timing(device="NVIDIA H100 80GB HBM3")], "of different devices"),
        (COUNTS, {**COUNTS, "n": 4096}, "of different problems"),
        (TIMINGS[:1], TIMINGS[1:2], "have no row in common"),
        (TIMINGS, {"a": 1}, "no results that can be compared"),
        (TIMINGS, [], "no results that can be compared"),
        (TIMINGS, "[{", "no JSON"),
        (TIMINGS, "3", "int in place of an object or a list"),
        (TIMINGS, {"rows": 3}, "`rows` is no list of objects"),
        (TIMINGS, [*TIMINGS, 3], "`rows` is no list of objects"),
        (TIMINGS, [*TIMINGS, timing()], "two rows for lean, u4, m = 1"),
        (TIMINGS, [timing(), {"kernel": "x"}], "rows[1] does not say dtype, m, n, k, device"),
        (TIMINGS, [timing(device=None), timing(m=2)], "rows[0] does not say device"),
        (TIMINGS, [timing(median_us="20")], "median_us = '20' of lean"),
        (TIMINGS, [timing(median_us=float("nan"))], "median_us = nan"),
        (TIMINGS, [timing(q1_us=-1.0)], "q1_us = -1.0"),
        (TIMINGS, [timing(q1_us=21.0)], "quartiles (21.0, 20.2) around 20.0"),
        (COUNTS, changed(COUNTS, ("per_weight", "issue"), "many"), "per_weight.issue = 'many'"),
    ],
)
def test_files_that_do_not_compare(files, capsys, old, new, message):
    assert 2 == compare.main(files(old, new))
    shown = capsys.readouterr()
    assert message in shown.err and "" == shown.out
    assert "hint:" in shown.err


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(TilusError, match="cannot be read") as caught:
        compare.read(tmp_path / "nothing.json")
    assert "No such file" in caught.value.found


# ---- the real thing ------------------------------------------------------------------------------


def test_the_committed_counts(files, capsys):
    """They equal themselves; twice the slots of one kernel are noticed among all rows."""
    log = json.loads(static.RESULTS.read_text())
    rows = len(log["rows"]) + len(log["traffic"])
    assert 0 == compare.main(files(log, log))
    assert f"{rows} rows compared; figures worse: 0, better: 0" in capsys.readouterr().out
    row = next(i for i, r in enumerate(log["rows"]) if "per_weight" in r)
    slots = log["rows"][row]["per_weight"]["issue"]
    new = changed(log, ("per_weight", "issue"), 2 * slots, row)
    status, worse, better = told(capsys, files(log, new))
    assert (1, ["+100.0%"], []) == (status, [cells[-1] for cells in worse], better)


def test_the_command(files):
    arguments = files(TIMINGS, [timing(40.0), *TIMINGS[1:]])
    command = [sys.executable, "-m", "benchmarks.compare", *arguments]
    found = subprocess.run(
        command, cwd=Path(static.__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert (1, "") == (found.returncode, found.stderr)
    assert "3 rows compared; figures worse: 1, better: 0" in found.stdout
