"""The error of the lean kernels on the weights of a real model, against that of plain float32.

    python benchmarks/accuracy.py --dtypes u4,e3m2 --random

For every type, number of tokens and group size, and the seven matrices of block 0 of SmolLM2-135M:
the root mean square of the difference from float64, divided by that of the exactly dequantised
weight multiplied in float32 and rounded to the output type. The kernels run on the interpreter; the
largest ratio of each type and number of tokens is printed. A full run takes about ten minutes of
one core and writes benchmarks/results/accuracy.json.

A kernel for few tokens multiplies 8, 16 or 32 columns; 64 tokens take the kernel for many. One
token is the first of eight through the same kernel: 192 to 1536 numbers of a matrix, among which
single weights stand out.
"""

import argparse
import json
import platform
import sys
import time
from itertools import product
from pathlib import Path

import torch
from provenance import processor
from rich.progress import track
from tabulate import tabulate

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import tilus  # noqa: E402
from tilus.demo import parse_types  # noqa: E402
from tilus.demo_weights import find_weights, gguf_model, matrices, random_model  # noqa: E402
from tilus.dtypes import LOW_PRECISION  # noqa: E402
from tilus.ops import NF4, matmul, quantize  # noqa: E402

# Group sizes by number of tokens. They divide 576, the k of most of the matrices; more tokens take
# the interpreter longer, so that theirs are fewer.
GROUPS = {1: (32, 64, -1), 8: (32, 64, -1), 32: (-1,), 64: (64, -1)}
ACTIVATIONS = (torch.float16, torch.bfloat16)
LIMIT = 1.2


def error(y, exact):
    return float((y.double() - exact).square().mean().sqrt())


def ratio(matrix, dtype, group, m, activations):
    """The kernel's error over that of plain float32, on one matrix."""
    weight = quantize(matrix.weight, dtype, group, symmetric=not dtype.is_integer())
    x = matrix.activations[:m].to(activations)
    exact = x.double() @ weight.dequantize(torch.float64).T
    plain = (x.float() @ weight.dequantize(torch.float32).T).to(activations)
    with tilus.option.context(engine="interpreter"):
        y = matmul(x, weight)
    return error(y, exact) / error(plain, exact)


def measure(model, dtypes):
    found = list(matrices(model, max(GROUPS), 1))
    rows = []
    for dtype in track(dtypes, "types"):
        for activations, m in product(ACTIVATIONS, GROUPS):
            ratios = [
                ratio(matrix, dtype, group, m, activations)
                for matrix, group in product(found, GROUPS[m])
            ]
            rows.append(
                {
                    "dtype": "nf4" if dtype == NF4 else dtype.short_name,
                    "activations": str(activations).removeprefix("torch."),
                    "tokens": m,
                    "cases": len(ratios),
                    "largest": max(ratios),
                    "mean": sum(ratios) / len(ratios),
                }
            )
    return rows


def table(rows):
    """The largest ratios: a line for a type and its activations, a column for tokens."""
    lines = {}
    for row in rows:
        lines.setdefault((row["dtype"], row["activations"]), []).append(row["largest"])
    headers = ["type", "activations", *(f"m = {m}" for m in GROUPS)]
    return tabulate([[*key, *line] for key, line in lines.items()], headers, floatfmt=".3f")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dtypes", type=parse_types, help="only these types, as in u4,e3m2")
    parser.add_argument("--random", action="store_true", help="random weights; no download")
    arguments = parser.parse_args()
    model = random_model() if arguments.random else gguf_model(find_weights())
    rows = measure(model, arguments.dtypes or [*LOW_PRECISION, NF4])
    print(table(rows))
    above = [
        f"{row['dtype']} {row['activations']} m = {row['tokens']}"
        for row in rows
        if row["largest"] > LIMIT
    ]
    print(f"{len(rows) - len(above)} of {len(rows)} at most {LIMIT}; above: {above or 'none'}")
    if arguments.dtypes is None and not arguments.random:
        log = {
            "command": "python benchmarks/accuracy.py",
            "machine": f"{processor()}, Python {platform.python_version()}",
            "model": model.name,
            "seconds": round(time.process_time()),
            "groups": GROUPS,
            "rows": rows,
        }
        (HERE / "results" / "accuracy.json").write_text(json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    main()
