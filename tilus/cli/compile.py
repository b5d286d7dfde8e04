"""`tilus inspect` and `tilus compile`: a kernel as machine code for a target, without a GPU."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tilus.cli.arguments import TARGET_HELP, add_kernel_arguments, positive_number, source_program
from tilus.cli.files import write_text
from tilus.ir.program import Program
from tilus.passes import compile_program
from tilus.runtime import artifact
from tilus.runtime.build import Binary
from tilus.runtime.compile import compile_program_for
from tilus.runtime.inspect import Inspection, as_json, summary
from tilus.target import Target, get_current_target, scope, target_from_name

ARTIFACT_SUFFIXES = (".cu", ".ptx", ".cubin", ".json")
PARTS = {"cuda": "the generated text", "ptx": "its PTX", "sass": "the machine code, disassembled"}


def add_inspect(commands: Any) -> None:
    """Declare `tilus inspect` and its arguments."""
    parser = commands.add_parser(
        "inspect",
        help="show what a kernel is compiled to, and what it takes",
        description="Compile a kernel for a target, without a GPU, and print registers, spills, "
        "shared memory, occupancy and what the hottest loop issues; or the texts asked for.",
    )
    add_kernel_arguments(parser)
    parser.add_argument("--target", metavar="ARCH", help=f"{TARGET_HELP} (default: the current)")
    for name, contents in PARTS.items():
        parser.add_argument(
            f"--{name}", dest="parts", action="append_const", const=name, help=contents
        )
    parser.add_argument(
        "--all", dest="parts", action="store_const", const=[*PARTS, "summary"],
        help="all of them, and the summary",
    )  # fmt: skip
    parser.add_argument("--raw", action="store_true", help="leave #line lines in the CUDA text")
    parser.add_argument(
        "--weight-operand", choices=("A", "B"), default="B",
        help="what the weights are to the matrix instructions (default: B)",
    )  # fmt: skip
    parser.add_argument(
        "--reuse", type=positive_number, default=1.0, metavar="R",
        help="matrix instructions that use a weight once it is in a register (default: 1)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the summary as JSON")
    parser.set_defaults(command=inspect_kernel)


def inspect_kernel(arguments: argparse.Namespace) -> int:
    """`tilus inspect`: the texts that were asked for, or the summary."""
    target = target_from_name(arguments.target) if arguments.target else get_current_target()
    _, binary = _compiled_for(arguments, target)
    inspection = Inspection(binary, arguments.weight_operand, arguments.reuse)
    parts: list[str] = arguments.parts or ["summary"]
    for part in dict.fromkeys(parts):
        heading = f"// ---- {part} ----\n" if len(parts) > 1 else ""
        print(f"{heading}{_part(inspection, part, arguments.raw).rstrip()}")
    if arguments.json:
        write_text(arguments.json, json.dumps(as_json(inspection), indent=1) + "\n")
    return 0


def _part(inspection: Inspection, part: str, raw: bool) -> str:
    if part == "cuda":
        return inspection.binary.source.text if raw else inspection.cuda
    if part == "ptx":
        return inspection.binary.ptx
    return inspection.sass if part == "sass" else summary(inspection)


def add_compile(commands: Any) -> None:
    """Declare `tilus compile` and its arguments."""
    parser = commands.add_parser(
        "compile",
        help="write the files of a kernel, to launch it without its program",
        description="Compile a kernel ahead of time, without a GPU: NAME.cu, .ptx, .cubin and "
        ".json, which tilus.runtime.artifact.load reads; in a directory ARCH of their own if "
        "there are several targets.",
    )
    add_kernel_arguments(parser)
    parser.add_argument(
        "--target", action="append", required=True, metavar="ARCH", dest="targets",
        help=f"{TARGET_HELP}; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="made where there is none"
    )
    parser.set_defaults(command=compile_kernel)


def compile_kernel(arguments: argparse.Namespace) -> int:
    """`tilus compile`: the files of the kernel for each target, each named as it is written."""
    targets = list(dict.fromkeys(map(target_from_name, arguments.targets)))
    for target in targets:
        program, binary = _compiled_for(arguments, target)
        directory = arguments.output / target.arch if len(targets) > 1 else arguments.output
        description = artifact.save(binary, program, directory)
        for suffix in ARTIFACT_SUFFIXES:
            path = description.with_suffix(suffix)
            print(f"{path}: {path.stat().st_size} bytes")
    return 0


def _compiled_for(arguments: argparse.Namespace, target: Target) -> tuple[Program, Binary]:
    """The program after every pass, and its machine code; nothing runs."""
    with scope(target):  # passes ask for the target's shared memory
        program = compile_program(source_program(arguments))
        return program, compile_program_for(program, target)
