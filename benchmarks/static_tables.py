"""The counts of benchmarks/static.py as tables: all of them for a terminal, the more important ones
beside the peers' for the README.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.provenance import commit_text
from benchmarks.readme import Section
from benchmarks.static_counts import A_CLOCK
from benchmarks.static_kernels import (
    ACTIVATIONS,
    TOKENS,
    TRITON_TOKENS,
    TRITON_WEIGHTS,
    Case,
    triton_tokens,
)

COMPILE_TIMES = Path(__file__).parent / "results" / "compile_time.json"
CASE_KEYS = ("weight", "activation", "arch", "m")
Rows = dict[Case, dict[str, Any]]

# Issue slots per weight and lane at M = 8 / 16 / 64, float16, groups of 128; x2: every weight is
# dequantised twice.
PEERS = ("Humming 0.1.19", "Marlin", "GemLite 0.6", "Tilus 0.2")
PEER_TABLE = """\
u1 | 2.75 / 2.89 / 2.71 | - | 6.19 / 6.81 / 6.94 | 6.17 / 6.17 / 8.95
u2 | 2.69 / 2.84 / 2.65 | - | 6.75 / 7.38 / 7.00 | 5.77 / 5.77 / 8.52
u3 | 3.37 / 3.52 / 3.23 | - | - | 6.33 / 6.33 / 8.62
u4 | 2.67 / 2.85 / 2.59 | 2.51 / 2.62 / 3.78 | 6.75 / 7.69 / 7.31 | 3.31 / 3.31 / 4.15 x2
u5 | 3.90 / 4.07 / 3.73 | - | - | 7.05 / 7.05 / 9.22
u6 | 3.22 / 3.46 / 3.03 | - | - | 8.52 / 8.52 / 10.72
u7 | 4.31 / 4.48 / 4.17 | - | - | 8.05 / 8.05 / 10.09
u8 | 2.72 / 2.85 / 2.46 | 2.43 / 2.52 / 3.63 | 6.69 / 7.31 / 5.72 | 2.90 / 2.90 / 3.39 x2
e5m2 | 2.69 / 2.86 / 2.46 | - | - | 5.17 / 5.17 / 7.42
e4m3 | 3.73 / 3.86 / 3.46 | 3.18 / 3.30 / 4.38 | 5.31 / 5.25 / 3.66 | 4.14 / 4.14 / 4.63 x2
e2m1 | 3.66 / 3.86 / 3.59 | 3.77 (g16) | - | 6.93 / 6.93 / 9.91
e3m2 | 4.2 / 4.4 / 4.0 | - | - | 10.05 / 10.05 / 12.20
e2m3 | 4.2 / 4.4 / 4.0 | - | - | 10.05 / 10.05 / 12.20
"""
PEER_SLOTS = {
    weight: tuple(cells) for weight, *cells in (row.split(" | ") for row in PEER_TABLE.splitlines())
}


# ---- every row -----------------------------------------------------------------------------------

HEADINGS = (
    "weight", "x", "arch", "M", "issue", "ALU", "unpacked", "regs", "spills", "blocks/SM",
    "warps/SM",
    "KB in flight", "us: issue", "ALU", "mma", "H100 memory", "bound", "H200 memory", "bound",
)  # fmt: skip


def full_table(rows: Sequence[dict[str, Any]]) -> str:
    """Every row; one without a kernel says so."""
    cells = [full_cells(row) for row in rows]
    missing = sorted({row["missing"] for row in rows if "missing" in row})
    table = tabulate(cells, HEADINGS, disable_numparse=True, stralign="right")
    return "\n".join([table, *(f"missing: {reason}" for reason in missing)])


def full_cells(row: dict[str, Any]) -> list[str]:
    name = [row["weight"], row["activation"], row["arch"], str(row["m"])]
    if "missing" in row:
        return [*name, "missing"]
    slots = [f"{row['per_weight'][pipe]:.2f}" for pipe in ("issue", "alu")]
    kept = ("unpacked", "registers", "spill_bytes", "blocks_per_sm", "warps_per_sm")
    held = [*(str(row[key]) for key in kept), f"{row['bytes_in_flight'] / 1024:g}"]
    if "bounds_us" not in row:
        return [*name, *slots, *held]
    first, second = row["bounds_us"].values()
    times = [*(first[key] for key in (*A_CLOCK, "memory", "bound")), second["memory"]]
    return [*name, *slots, *held, *(f"{us:.1f}" for us in (*times, second["bound"]))]


# ---- for the README ------------------------------------------------------------------------------

SECTION = Section(
    "static",
    """\
## What a weight costs

Between memory and the tensor core a weight costs instructions, and there are few to spare: at the
speed of an H100's memory a weight of b bits may take 1.24 b issue slots of a lane, half of them on
the integer pipe. The kernels' machine code says what they take. `make bench` counts the more
important rows again, without a GPU and within five minutes.""",
)


def slots_cell(rows: Rows, case: Case) -> str:
    row = rows.get(case, {})
    if "per_weight" not in row:
        return "-"
    spilled = " (spills)" if row["spill_bytes"] else ""
    times = f" x{row['unpacked']}" if row["unpacked"] > 1 else ""
    return f"{row['per_weight']['issue']:.2f} / {row['per_weight']['alu']:.2f}{times}{spilled}"


def slots_table(rows: Rows, weights: Sequence[str], arch: str) -> str:
    """Issue and ALU slots beside the peers' issue slots."""
    tokens = TOKENS[1:]
    bf16 = "bf16, M = 8"
    headings = ("weight", *(f"M = {m}" for m in tokens), bf16, "sm_80, M = 8", *PEERS)
    cells = [
        (
            weight,
            *(slots_cell(rows, Case(weight, "float16", arch, m)) for m in tokens),
            slots_cell(rows, Case(weight, "bfloat16", arch, 8)),
            slots_cell(rows, Case(weight, "float16", "sm_80", 8)),
            *PEER_SLOTS.get(weight, ("-",) * len(PEERS)),
        )
        for weight in weights
    ]
    return tabulate(cells, headings, tablefmt="github", disable_numparse=True)


def bounds_table(
    rows: Rows, traffic: Sequence[dict[str, Any]], weights: Sequence[str], arch: str
) -> str:
    """Resources, bounds and traffic at 8 tokens."""
    headings = (
        "weight", "registers", "warps / SM", "KB in flight", "issue, us", "ALU, us", "mma, us",
        "memory, us: H100 / H200", "bound, us: H100 / H200", "sectors used", "bank conflicts",
    )  # fmt: skip
    of = {t["weight"]: t for t in traffic if (t["activation"], t["m"]) == ("float16", 8)}
    cells = [
        bounds_cells(rows[case], of[weight])
        for weight in weights
        if "per_weight" in rows.get(case := Case(weight, "float16", arch, 8), {})
    ]
    return tabulate(cells, headings, tablefmt="github", disable_numparse=True)


def bounds_cells(row: dict[str, Any], traffic: dict[str, Any]) -> list[str]:
    one, other = row["bounds_us"].values()
    used = min(traffic[kind]["sector_bytes_used"] for kind in ("copies", "loads"))
    return [
        row["weight"],
        f"{row['registers']}" + (" (spills)" if row["spill_bytes"] else ""),
        str(row["resident_warps"]),
        f"{row['bytes_in_flight'] / 1024:g}",
        *(f"{one[pipe]:.1f}" for pipe in A_CLOCK),
        *(f"{one[key]:.1f} / {other[key]:.1f}" for key in ("memory", "bound")),
        f"{used:.0%}",
        str(sum(traffic["bank_conflicts"].values())),
    ]


def triton_table(rows: Rows, triton: Rows, arch: str) -> str:
    """Ours and Triton's side by side, with the registers of each."""
    tokens = [m for m in TOKENS[1:] if m in TRITON_TOKENS or m < TRITON_TOKENS[0]]
    headings = ("weight", *(f"M = {m}: {who}" for m in tokens for who in ("tilus", "Triton")))
    cells = []
    for weight in TRITON_WEIGHTS:
        row = [weight]
        for m in tokens:
            case = Case(weight, ACTIVATIONS[0], arch, m)
            row += [with_registers(rows, case),
                    with_registers(triton, replace(case, m=triton_tokens(m)))]  # fmt: skip
        if set(row[2::2]) != {"-"}:
            cells.append(row)
    return tabulate(cells, headings, tablefmt="github", disable_numparse=True)


def with_registers(rows: Rows, case: Case) -> str:
    cell = slots_cell(rows, case)
    return cell if cell == "-" else f"{cell}, {rows[case]['registers']}"


def triton_section(rows: Rows, log: dict[str, Any], arch: str) -> list[str]:
    """Lines; none where nothing of Triton was counted."""
    triton = by_case([row for row in log.get("triton", ()) if "missing" not in row])
    if not triton:
        return []
    releases = ", ".join(sorted({row["triton"] for row in triton.values()}))
    return [
        "Beside a W4A16 kernel in Triton with the same scales "
        "([its text](benchmarks/peers/triton_w4a16.py)), compiled in the same run by Triton "
        f"{releases}: issue / ALU slots, and registers. Of its tuning points, the one with the "
        "fewest issue slots.",
        "",
        triton_table(rows, triton, arch),
        "",
    ]


def by_case(rows: Sequence[dict[str, Any]]) -> Rows:
    return {Case(*(row[key] for key in CASE_KEYS)): row for row in rows}


def compile_lines() -> list[str]:
    """What benchmarks/compile_time.py measured; none where it did not."""
    if not COMPILE_TIMES.is_file():
        return []
    log = json.loads(COMPILE_TIMES.read_text())
    found = log["medians"]
    return [
        f"From a program to machine code, medians over {len(log['types'])} types: "
        f"{1e3 * found['uncached']:.0f} ms, {1e3 * found['first']:.0f} ms in a new process, "
        f"{1e3 * found['on_disk']:.1f} ms from disk. Matmuls that are unrolled for Hopper: "
        f"{1e3 * found['lean_8']:.0f} ms for up to 8 tokens, {1e3 * found['lean_64']:.0f} ms for "
        "64. "
        f"(`{log['command']}`, {log['machine']}; "
        "[all figures](benchmarks/results/compile_time.json).)",
        "",
    ]


def markdown(log: dict[str, Any], weights: Sequence[str], arch: str) -> str:
    """The tables for the README, and where they come from."""
    rows = by_case(log["rows"])
    version = log["versions"]
    updates = map(command_of, log.get("updates", ()))
    return "\n".join(
        [
            f"Issue / ALU slots per weight and lane in the hottest loop, for {arch}, float16 "
            "activations and groups of 128 unless the column says otherwise; peers: issue slots at "
            "M = 8 / 16 / 64, float16, measured by others, static. x2: every weight is "
            "dequantised twice. `i1` .. `i8` run the kernels of `u1` .. `u8`.",
            "",
            slots_table(rows, weights, arch),
            "",
            "At M = 8, 8192 x 8192: what each resource of 132 SMs at 1.755 GHz takes at the least; "
            "memory at 3.0 (H100) and 4.2 TB/s (H200). Lower bounds from counts, no timings.",
            "",
            bounds_table(rows, log["traffic"], weights, arch),
            "",
            *triton_section(rows, log, arch),
            *compile_lines(),
            f"{', renewed by '.join([command_of(log), *updates])}; "
            f"NVRTC {', '.join(version['nvrtc'])}, nvdisasm {version['nvdisasm']}, "
            f"commit {commit_text(log['commit'])}; "
            "[all figures](benchmarks/results/static.json).",
        ]
    )


def command_of(log: dict[str, Any]) -> str:
    return f"`{log['command']}`"
