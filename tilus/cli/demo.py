"""`tilus demo`: quantised matmuls of a real model, each beside float64."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tilus import __version__, demo
from tilus.cli.arguments import group_size, positive
from tilus.cli.files import write_text
from tilus.demo_weights import find_weights, gguf_model, matrices, random_model
from tilus.dtypes import LOW_PRECISION


def add_demo(commands: Any) -> None:
    """Declare `tilus demo` and its arguments."""
    parser = commands.add_parser(
        "demo",
        help="quantised matmuls of a real model in every 1..8-bit type",
        description="Multiply by matrices of SmolLM2-135M in every 1..8-bit type and compare with "
        "float64. Exits with 1 if an error is larger than rounding explains.",
    )
    parser.add_argument("--types", metavar="T,...", help="types, as in u4,i6,e3m2 (default: all)")
    parser.add_argument(
        "--layers", type=positive, default=1, metavar="N", help="transformer blocks (default: 1)"
    )
    parser.add_argument(
        "--m", type=positive, default=16, help="rows of the activations (default: 16)"
    )
    parser.add_argument(
        "--group-size",
        type=group_size,
        default=64,
        metavar="G",
        help="weights that share a scale; -1: a whole row (default: 64)",
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--random", action="store_true", help="random weights; needs no download")
    weights.add_argument("--gguf", type=Path, metavar="FILE", help="another llama model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement")
    parser.set_defaults(command=run_demo)


def run_demo(arguments: argparse.Namespace) -> int:
    """`tilus demo`: 0 if every error is what rounding explains, else 1."""
    types = demo.parse_types(arguments.types) if arguments.types else LOW_PRECISION
    if arguments.random:
        model = random_model()
    else:
        model = gguf_model(arguments.gguf or find_weights())
    print(
        f"{model.name}: {arguments.layers} of {model.blocks} blocks, M = {arguments.m}, "
        f"group size {arguments.group_size}",
        flush=True,
    )
    results = demo.measure_all(
        matrices(model, arguments.m, arguments.layers),
        types,
        arguments.group_size,
        arguments.layers,
    )
    print(demo.format_report(results))
    if arguments.json:
        write_text(arguments.json, _demo_json(model.name, arguments, demo.as_json(results)))
    return 0 if all(one.passed for one in results) else 1


def _demo_json(model: str, arguments: argparse.Namespace, measurements: list[Any]) -> str:
    return json.dumps(
        {
            "model": model,
            "m": arguments.m,
            "group_size": arguments.group_size,
            "layers": arguments.layers,
            "versions": {
                "tilus": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "measurements": measurements,
        },
        indent=1,
    )
