"""What a weight costs in the small-M kernel's machine code, against the bounds it is built for.

Counted by benchmarks/static.py for 8192 x 8192 weights in groups of 128, on sm_90a; and its memory
traffic on the emulator. Signed ints run the kernels of the unsigned ones.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks import static, static_counts
from benchmarks.static_kernels import (
    ACTIVATIONS,
    ARCHS,
    TOKENS,
    WEIGHTS,
    Case,
    blobs_of,
    subject_of,
)
from benchmarks.static_tables import SECTION
from tilus.errors import TilusError

# Issue slots per weight and lane, float16, at most 8 tokens.
BOUNDS = {
    **dict.fromkeys(("u1", "u2", "u8", "e5m2"), 1.05),
    "u4": 1.1,
    "u3": 1.2,
    "u5": 1.35,
    "u6": 1.5,
    "u7": 1.65,
    "e4m3": 1.75,
    **dict.fromkeys(("e2m1", "e3m2", "e2m3", "e3m1", "e2m2"), 1.9),
    "nf4": 3.0,
}
ABOVE_WITH_16_TOKENS = 0.25
ABOVE_WITH_BFLOAT16 = 0.4
# Eight bits do not fit the mantissa of bfloat16: prmt, lop3 and hfma2 for two u8, and five shifts
# and lop3 for four e5m2, are above that bound by themselves.
WITH_BFLOAT16 = {"u8": 2.0, "e5m2": 1.8}
LEAST_IN_FLIGHT = 48 * 1024


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path))


def check(case, most):
    """Everything that is missed at once, so that a failure tells all."""
    counts = static_counts.count_kernel(case)
    assert {
        "slots": most,
        "spilled": (0, 0),
        "in flight": LEAST_IN_FLIGHT,
        "on an SM": 1,
    } == {
        "slots": max(most, counts["per_weight"]["issue"]),
        "spilled": (counts["spill_bytes"], counts["per_turn"]["local_memory"]),
        "in flight": min(LEAST_IN_FLIGHT, counts["bytes_in_flight"]),
        "on an SM": min(1, counts["blocks_per_sm"]),
    }


@pytest.mark.parametrize("weight", BOUNDS)
def test_with_8_tokens(weight):
    check(Case(weight, "float16", "sm_90a", 8), BOUNDS[weight])


@pytest.mark.parametrize("weight", BOUNDS)
def test_with_16_tokens(weight):
    check(Case(weight, "float16", "sm_90a", 16), BOUNDS[weight] + ABOVE_WITH_16_TOKENS)


@pytest.mark.parametrize("weight", BOUNDS)
def test_with_bfloat16(weight):
    bound = WITH_BFLOAT16.get(weight, BOUNDS[weight] + ABOVE_WITH_BFLOAT16)
    check(Case(weight, "bfloat16", "sm_90a", 8), bound)


@pytest.mark.parametrize("weight", BOUNDS)
def test_memory_traffic(weight):
    """Every byte of every sector is asked for, and no access to shared memory waits for another."""
    found = static_counts.measure_traffic(Case(weight, "float16", "sm_90a", 8))
    for kind in ("copies", "loads"):
        assert found[kind]["requests"] > 0
        assert 1.0 == found[kind]["sector_bytes_used"], kind
    assert found["shared_requests"] > 0
    assert {"async copy": 0, "shared load": 0, "shared store": 0} == found["bank_conflicts"]


# ---- that the counting is right ------------------------------------------------------------------


def test_signed_weights_run_the_kernel_of_unsigned_ones():
    signed, unsigned = (
        blobs_of(Case(weight, "float16", "sm_90a", 8), 1024, 1024) for weight in ("i5", "u5")
    )
    assert signed == unsigned


def test_a_step_that_multiplies_too_little_is_noticed():
    """The number of weights is checked against the tensor-core instructions."""
    subject = subject_of(Case("u2", "float16", "sm_90a", 8), static_counts.LONG_K)
    binary = static_counts.compiled(subject, "sm_90a")
    found = static_counts.turn_of(binary, subject)
    assert found is not None and found.weights is not None
    assert 0 == found.weights % (128 * 64 / 32)  # a chunk of 128 by 64 rows, over 32 lanes
    with pytest.raises(TilusError, match="does not multiply the weights that it should"):
        static_counts.turn_of(binary, replace(subject, matrix=subject.matrix + 1))


def test_bounds_grow_with_the_blocks_of_tokens():
    case = Case("u4", "float16", "sm_90a", 8)
    per_weight = {"issue": 1.24 * 4, "alu": 0.1, "matrix": 0.1}
    one, two = (static_counts.bounds(case, per_weight, blocks)["H100"] for blocks in (1, 2))
    # At 1.24 issue slots per bit an H100's memory and its issue slots take as long.
    assert abs(one["issue"] / (8192 * 8192 * 4 / 8 / 3.0e6) - 1) < 0.01
    assert two["issue"] == 2 * one["issue"] == two["bound"] > one["bound"] == one["memory"]


def test_the_table_replaces_the_old_one():
    readme = "# Title\n\n## Reading on\nmore\n"
    first = SECTION.filled(readme, "| old |")
    second = SECTION.filled(first, "| new |")
    assert first.replace("old", "new") == second
    assert second.startswith("# Title\n\n## What a weight costs\n")
    assert second.endswith("\n\n## Reading on\nmore\n")


def test_the_command(capsys, monkeypatch, tmp_path):
    """A part of the table is printed, and not kept as the whole."""
    monkeypatch.setattr(static, "RESULTS", tmp_path / "static.json")
    monkeypatch.setattr(static, "README", tmp_path / "README.md")
    monkeypatch.setattr(static, "PROFILED_M", (8,))
    static.README.write_text("# Title\n")
    arguments = ["--dtypes", "i8", "--activations", "float16", "--arch", "sm_90a", "--m", "1,7"]
    assert 0 == static.main([*arguments, "--jobs", "1", "--readme"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [["1"], ["7"]] == [line[3:4] for line in lines if line[:3] == ["i8", *arguments[3:6:2]]]
    assert not static.RESULTS.exists()
    assert SECTION.begin in static.README.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtypes", "u9"], "unknown data type 'u9'"),
        (["--arch", "sm_1"], "sm_1"),
        (["--activations", "float32"], "activations of this dtype are not multiplied"),
    ],
)
def test_mistakes(capsys, arguments, message):
    assert 2 == static.main(arguments)
    assert message in capsys.readouterr().err


def test_the_committed_table_is_whole():
    """Every kernel of every type, and what was counted is what this benchmark counts."""
    log = json.loads(static.RESULTS.read_text())
    rows = {(row["weight"], row["activation"], row["arch"], row["m"]) for row in log["rows"]}
    assert rows == {
        (weight, activation, arch, m)
        for weight in WEIGHTS
        for activation in ACTIVATIONS
        for arch in ARCHS
        for m in TOKENS
    }
    assert SECTION.begin in static.README.read_text()
