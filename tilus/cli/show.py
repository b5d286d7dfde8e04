"""`tilus show`: a program as written and after each pass of the compiler."""

from __future__ import annotations

import argparse
import difflib
from typing import Any

from tilus.cli.arguments import add_kernel_arguments, source_program
from tilus.passes import trace


def add_show(commands: Any) -> None:
    """Declare `tilus show` and its arguments."""
    parser = commands.add_parser(
        "show",
        help="print a kernel before and after each pass",
        description="Print the program as written and after each pass of the compiler.",
    )
    add_kernel_arguments(parser)
    parser.add_argument(
        "--diff", action="store_true", help="what each pass changed, as a unified diff"
    )
    parser.set_defaults(command=show_kernel)


def show_kernel(arguments: argparse.Namespace) -> int:
    """`tilus show`: the program as written, then after each pass or what each pass changed."""
    previous = None
    for name, program in trace(source_program(arguments)):
        text = str(program)
        if previous is None:
            print(f"# {name}\n{text}")
        elif text == previous:
            print(f"# {name}: no change\n")
        elif arguments.diff:
            print(f"# {name}\n{_diff(previous, text)}")
        else:
            print(f"# {name}\n{text}")
        previous = text
    return 0


def _diff(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), "before", "after")
    return "".join(lines)
