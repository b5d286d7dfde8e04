"""Arguments of more than one command: their types, and those that name a kernel and its values.

    --set x=ones:float32[4]    assignment
    --m 16                     positive; positives for 1,16,256
    --group-size -1            group_size

What is none of them is argparse's to refuse.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from tilus.cli.kernels import Kernel, load_kernel
from tilus.cli.values import SOURCES, parse_assignments, parse_constant
from tilus.ir.program import Program

FILE_HELP = "FILE.tir (a text program), FILE.py or FILE.py:Class (a Script)"
SET_HELP = (
    "an argument of the kernel: a number, true, false, text, or for a tensor [SOURCE:]DTYPE[SHAPE] "
    f"or FILE.npy[:DTYPE]; SOURCE is one of {', '.join(SOURCES)}"
)
TARGET_HELP = "an architecture, as in sm_90a"


def assignment(text: str) -> tuple[str, str]:
    """The name and the text of `NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def positive(text: str) -> int:
    """A positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def positives(text: str) -> tuple[int, ...]:
    """Positive integers between commas."""
    return tuple(positive(word.strip()) for word in text.split(","))


def positive_number(text: str) -> float:
    """A positive finite number."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


def group_size(text: str) -> int:
    """A positive integer; or -1, for a whole row."""
    return -1 if text == "-1" else positive(text)


def add_kernel_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the file of a kernel, and what its constructor and its call are given."""
    parser.add_argument("file", metavar="FILE", help=FILE_HELP)
    parser.add_argument(
        "--init", type=assignment, action="append", default=[], metavar="NAME=VALUE",
        help="an argument of the Script's constructor; data types by name",
    )  # fmt: skip
    parser.add_argument(
        "--set", type=assignment, action="append", default=[], metavar="NAME=VALUE",
        dest="values", help=SET_HELP,
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the random sources (default: 0)")


def kernel_and_values(arguments: argparse.Namespace) -> tuple[Kernel, dict[str, Any]]:
    """The kernel of the file and its arguments, random ones from the seed."""
    torch.manual_seed(arguments.seed)
    kernel = _kernel(arguments)
    return kernel, kernel.arguments(parse_assignments(arguments.values))


def _kernel(arguments: argparse.Namespace) -> Kernel:
    return load_kernel(arguments.file, parse_assignments(arguments.init, parse_constant))


def source_program(arguments: argparse.Namespace) -> Program:
    """The program before any pass; that of a text file needs no arguments."""
    if not arguments.values and (program := _kernel(arguments).text) is not None:
        return program
    kernel, values = kernel_and_values(arguments)
    return kernel.build(**values)
