"""The command line.

    tilus demo                                      quantised matmuls of a real model
    tilus run add.py --set n=4 --set x_ptr=ones:float32[4] --set y_ptr=float32[4]
    tilus show add.tir --set n=4 --diff             the program after each pass
    tilus layout "local(2,1).spatial(8,4).local(1,2)"
    tilus bits int6b float16                        where packed weights lie, and their unpacking
    tilus inspect add.tir --target sm_90a           registers, occupancy, what the hot loop spends
    tilus compile add.tir --target sm_90a -o DIR    files to launch without the program
    tilus tune --shapes llama-70b --dtypes u4,i6    the fastest schedules of the matmul
    tilus cache list                                the compiled kernels that are kept on disk

It exits with 0, with 1 for an error, and with 2 for arguments that are none. `TILUS_DEBUG=1` shows
where an error comes from.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from tilus import __version__, demo
from tilus.cli_inputs import (
    SOURCES,
    Kernel,
    Value,
    load_kernel,
    numbers_of,
    parse_assignments,
    parse_constant,
    save_array,
    write_text,
)
from tilus.cli_tune import dry_run, tune_all, tuning_request
from tilus.config import ENGINES, context, get_option, settings_table
from tilus.demo_weights import find_weights, gguf_model, matrices, random_model
from tilus.dtypes import LOW_PRECISION, dtype_from_name
from tilus.errors import TilusError
from tilus.ir.layout import (
    LayoutError,
    RegisterLayout,
    SharedLayout,
    contents_table,
    draw_svg,
    parse_layout,
    visualize_layout,
)
from tilus.ir.layout.bit_search import NF4, plan_unpack
from tilus.ir.program import Program
from tilus.ops.shapes import MODELS
from tilus.ops.tune import GROUP_SIZE
from tilus.passes import compile_program, trace
from tilus.runtime import artifact
from tilus.runtime.build import Binary
from tilus.runtime.cache import KernelCache, kernel_cache
from tilus.runtime.compile import compile_program_for
from tilus.runtime.devices import DEVICES
from tilus.runtime.inspect import Inspection, as_json, summary
from tilus.runtime.launch import run_program
from tilus.runtime.profile import Counters, profile_html, profile_program, profile_table
from tilus.runtime.tune import KEEP
from tilus.target import Target, get_current_target, scope, target_from_name
from tilus.tensor import Tensor

FILE_HELP = "FILE.tir (a text program), FILE.py or FILE.py:Class (a Script)"
SET_HELP = (
    "an argument of the kernel: a number, true, false, text, or for a tensor [SOURCE:]DTYPE[SHAPE] "
    f"or FILE.npy[:DTYPE]; SOURCE is one of {', '.join(SOURCES)}"
)

TARGET_HELP = "an architecture, as in sm_90a"
ARTIFACT_SUFFIXES = (".cu", ".ptx", ".cubin", ".json")
PARTS = {"cuda": "the generated text", "ptx": "its PTX", "sass": "the machine code, disassembled"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line on `argv` (default: the process's own); returns the exit code.

    >>> main(["layout", "spatial(1, 2)"])
    register_layout([1, 2], [2], [0], []): [1, 2], 2 threads, 1 each
    0: 0 | 1: 0
    0
    """
    arguments = build_parser().parse_args(argv)
    engine: str | None = getattr(arguments, "engine", None)
    try:
        with context(engine=engine) if engine else nullcontext():
            code: int = arguments.command(arguments)
            sys.stdout.flush()  # so that a closed pipe is noticed here
            return code
    except TilusError as error:
        if _wants_traceback():
            traceback.print_exc()
        else:
            print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130  # as shells report it


def _wants_traceback() -> bool:
    try:
        return bool(get_option("debug") >= 1)
    except TilusError:  # the error to report may be that TILUS_DEBUG has a bad value
        return False


# ---- arguments -----------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; each sets `command`, a function of the parsed arguments."""
    parser = argparse.ArgumentParser(
        prog="tilus",
        description="A virtual machine and compiler for GPU kernels on data of 1 to 8 bits.",
        epilog=f"settings:\n\n{settings_table()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tilus {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_run(commands)
    _add_show(commands)
    _add_layout(commands)
    _add_bits(commands)
    _add_inspect(commands)
    _add_compile(commands)
    _add_tune(commands)
    _add_cache(commands)
    return parser


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="quantised matmuls of a real model in every 1..8-bit type",
        description="Multiply by matrices of SmolLM2-135M in every 1..8-bit type and compare with "
        "float64. Exits with 1 if an error is larger than rounding explains.",
    )
    parser.add_argument("--types", metavar="T,...", help="types, as in u4,i6,e3m2 (default: all)")
    parser.add_argument(
        "--layers", type=_positive, default=1, metavar="N", help="transformer blocks (default: 1)"
    )
    parser.add_argument(
        "--m", type=_positive, default=16, help="rows of the activations (default: 16)"
    )
    parser.add_argument(
        "--group-size",
        type=_group_size,
        default=64,
        metavar="G",
        help="weights that share a scale; -1: a whole row (default: 64)",
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--random", action="store_true", help="random weights; needs no download")
    weights.add_argument("--gguf", type=Path, metavar="FILE", help="another llama model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement")
    parser.set_defaults(command=run_demo)


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run", help="run a kernel", description="Run a kernel and summarise what it changed."
    )
    _add_kernel_arguments(parser)
    parser.add_argument(
        "--save", type=_assignment, action="append", default=[], metavar="NAME=FILE.npy",
        help="write a tensor argument after the run",
    )  # fmt: skip
    parser.add_argument(
        "--print", action="append", default=[], metavar="NAME", dest="printed",
        help="print a tensor argument after the run",
    )  # fmt: skip
    parser.add_argument("--engine", choices=ENGINES, help="what runs the kernel")
    parser.add_argument(
        "--profile", action="store_true",
        help="with the emulator: what each line of Python costs in instructions and memory traffic",
    )  # fmt: skip
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write the profile as annotated source"
    )
    parser.add_argument(
        "--per", type=int, metavar="N",
        help="with --profile: also the issue slots for each of N items, such as the weights",
    )  # fmt: skip
    parser.set_defaults(command=run_kernel)


def _add_show(commands: Any) -> None:
    parser = commands.add_parser(
        "show",
        help="print a kernel before and after each pass",
        description="Print the program as written and after each pass of the compiler.",
    )
    _add_kernel_arguments(parser)
    parser.add_argument(
        "--diff", action="store_true", help="what each pass changed, as a unified diff"
    )
    parser.set_defaults(command=show_kernel)


def _add_kernel_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help=FILE_HELP)
    parser.add_argument(
        "--init", type=_assignment, action="append", default=[], metavar="NAME=VALUE",
        help="an argument of the Script's constructor; data types by name",
    )  # fmt: skip
    parser.add_argument(
        "--set", type=_assignment, action="append", default=[], metavar="NAME=VALUE",
        dest="values", help=SET_HELP,
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the random sources (default: 0)")


def _add_layout(commands: Any) -> None:
    parser = commands.add_parser(
        "layout",
        help="draw a layout",
        description="Draw a register or shared layout given in the layout algebra.",
    )
    parser.add_argument("text", metavar="LAYOUT", help='as in "local(2,1).spatial(8,4).local(1,2)"')
    parser.add_argument(
        "--view",
        choices=("owner", "contents"),
        default="owner",
        help="owner: the tile, `thread: register` of each element (shared: its offset); "
        "contents: the element in each register of each thread",
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write an image instead of text")
    parser.set_defaults(command=draw_layout)


def _add_bits(commands: Any) -> None:
    parser = commands.add_parser(
        "bits",
        help="show how weights are packed and unpacked",
        description="Print the placement of packed weights in 32-bit words, and the program that "
        "unpacks them, which is proven on every bit pattern first.",
    )
    parser.add_argument("dtype", metavar="DTYPE", help="as in int6b or float4_e2m1, or nf4")
    parser.add_argument("target", metavar="TARGET", help="float16, bfloat16 or int8")
    parser.set_defaults(command=show_bits)


def _add_inspect(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect",
        help="show what a kernel is compiled to, and what it takes",
        description="Compile a kernel for a target, without a GPU, and print registers, spills, "
        "shared memory, occupancy and what the hottest loop issues; or the texts asked for.",
    )
    _add_kernel_arguments(parser)
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
        "--reuse", type=_positive_number, default=1.0, metavar="R",
        help="matrix instructions that use a weight once it is in a register (default: 1)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the summary as JSON")
    parser.set_defaults(command=inspect_kernel)


def _add_compile(commands: Any) -> None:
    parser = commands.add_parser(
        "compile",
        help="write the files of a kernel, to launch it without its program",
        description="Compile a kernel ahead of time, without a GPU: NAME.cu, .ptx, .cubin and "
        ".json, which tilus.runtime.artifact.load reads; in a directory ARCH of their own if "
        "there are several targets.",
    )
    _add_kernel_arguments(parser)
    parser.add_argument(
        "--target", action="append", required=True, metavar="ARCH", dest="targets",
        help=f"{TARGET_HELP}; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="made where there is none"
    )
    parser.set_defaults(command=compile_kernel)


def _add_tune(commands: Any) -> None:
    parser = commands.add_parser(
        "tune",
        help="find the fastest schedules of the matmul for the layers of a model",
        description="Time schedules of the quantised matmul on the GPU at hand, and keep the "
        "fastest of each shape in TILUS_CACHE_DIR, where calls find it. What an earlier run has "
        "measured is not measured again.",
    )
    parser.add_argument(
        "--shapes", required=True, metavar="MODEL,...",
        help=f"models whose linear layers are tuned: {', '.join(MODELS)}",
    )  # fmt: skip
    parser.add_argument(
        "--dtypes", default="u4", metavar="T,...", help="of weights, as in u4,i6,e3m2 (default: u4)"
    )
    parser.add_argument(
        "--m", type=_positives, default=(1, 16, 256), metavar="M,...",
        help="numbers of tokens (default: 1,16,256)",
    )  # fmt: skip
    parser.add_argument(
        "--group-size", type=_group_size, default=GROUP_SIZE, metavar="G",
        help=f"weights that share a scale; -1: a whole row (default: {GROUP_SIZE})",
    )  # fmt: skip
    parser.add_argument(
        "--asymmetric", action="store_true", help="a zero point in every group (integers)"
    )
    parser.add_argument(
        "--activations", choices=("float16", "bfloat16"), default="float16",
        help="dtype of the activations (default: float16)",
    )  # fmt: skip
    parser.add_argument(
        "--keep", type=_positive, default=KEEP, metavar="N",
        help=f"points of each shape to try, the best ones of the cost model (default: {KEEP})",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=_positive_number, metavar="S", help="begin nothing after so long"
    )
    parser.add_argument(
        "--table", type=Path, metavar="FILE",
        help="write the results there too, in the form of the tables in the package",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true",
        help="without a GPU: rank by the cost model, compile the best points and show them",
    )  # fmt: skip
    parser.add_argument(
        "--device", metavar="NAME",
        help=f"of a dry run: {', '.join(DEVICES)} (default: one like the target)",
    )  # fmt: skip
    parser.add_argument("--target", metavar="ARCH", help=f"of a dry run: {TARGET_HELP}")
    parser.set_defaults(command=tune_matmul)


def _add_cache(commands: Any) -> None:
    parser = commands.add_parser(
        "cache",
        help="list or clear the compiled kernels on disk",
        description="The compiled kernels in TILUS_CACHE_DIR, which any kernel may be compiled "
        "into anew at any time.",
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    actions.add_parser("list", help="the kernels, the most recently used first").set_defaults(
        command=list_cache
    )
    actions.add_parser("clear", help="remove them all").set_defaults(command=clear_cache)


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def _positives(text: str) -> tuple[int, ...]:
    return tuple(_positive(word.strip()) for word in text.split(","))


def _positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


def _group_size(text: str) -> int:
    return -1 if text == "-1" else _positive(text)


# ---- commands ------------------------------------------------------------------------------------


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


def run_kernel(arguments: argparse.Namespace) -> int:
    """`tilus run`: compile, run, print what was asked for and a summary of what changed."""
    _check_profile(arguments)
    kernel, values = _kernel_and_values(arguments)
    saved = [(name, Path(file)) for name, file in arguments.save]
    for name in [*arguments.printed, *(name for name, _ in saved)]:
        _check_is_tensor(kernel, values, name)
    start = time.perf_counter()
    program = compile_program(kernel.build(**values))
    compiled = time.perf_counter()
    before = {n: v.clone() for n, v in values.items() if isinstance(v, Tensor)}
    begin = time.perf_counter()
    run = profile_program if arguments.profile else run_program
    counters = run(program, [values[param.var.name] for param in program.params])
    end = time.perf_counter()
    for name in arguments.printed:
        print(f"{name}: {_type_of(values[name])}")
        print(numbers_of(values[name]))
    for name, file in saved:
        save_array(file, values[name])
    print(
        f"{program.name}: compiled in {1e3 * (compiled - start):.1f} ms, "
        f"ran in {1e3 * (end - begin):.1f} ms"
    )
    print(_summary(before, values))
    if counters is not None:
        _show_profile(counters, arguments)
    return 0


def _check_profile(arguments: argparse.Namespace) -> None:
    asked = "--profile" if arguments.profile else "--html" if arguments.html else "--per"
    if not arguments.profile and (arguments.html or arguments.per is not None):
        raise TilusError(f"{asked} belongs to a profile", hint="add --profile")
    if arguments.profile and get_option("engine") != "emulator":
        raise TilusError(
            "only the emulator profiles",
            found=f"the engine {get_option('engine')}",
            hint="add --engine emulator",
        )
    if arguments.per is not None and arguments.per < 1:
        raise TilusError("--per counts items", found=str(arguments.per), expected="at least 1")


def _show_profile(counters: Counters, arguments: argparse.Namespace) -> None:
    print()
    print(profile_table(counters, arguments.per))
    if arguments.html:
        write_text(arguments.html, profile_html(counters, arguments.per))
        print(f"annotated source: {arguments.html}")


def _kernel_and_values(arguments: argparse.Namespace) -> tuple[Kernel, dict[str, Any]]:
    torch.manual_seed(arguments.seed)
    kernel = _kernel(arguments)
    return kernel, kernel.arguments(parse_assignments(arguments.values))


def _kernel(arguments: argparse.Namespace) -> Kernel:
    return load_kernel(arguments.file, parse_assignments(arguments.init, parse_constant))


def _check_is_tensor(kernel: Kernel, values: dict[str, Value], name: str) -> None:
    tensors = [known for known, value in values.items() if isinstance(value, Tensor)]
    if name not in tensors:
        raise TilusError(
            f"{kernel.name} has no tensor argument {name}", expected=", ".join(tensors) or None
        )


def _type_of(tensor: Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"


def _summary(before: dict[str, Tensor], after: dict[str, Any]) -> str:
    """A table of the tensor arguments that the kernel changed."""
    rows = [
        _statistics(name, after[name])
        for name, tensor in before.items()
        if not np.array_equal(_bytes(tensor), _bytes(after[name]))
    ]
    if not rows:
        return "no tensor argument changed"
    return tabulate(rows, ("changed", "type", "min", "max", "mean", "not finite"), floatfmt=".6g")


def _statistics(name: str, tensor: Tensor) -> tuple[Any, ...]:
    numbers = numbers_of(tensor).astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    values = (finite.min(), finite.max(), finite.mean()) if finite.size else ("", "", "")
    return (name, _type_of(tensor), *values, numbers.size - finite.size)


def _bytes(tensor: Tensor) -> Any:
    return tensor.dtype.to_bits(tensor.numpy_carrier())


def show_kernel(arguments: argparse.Namespace) -> int:
    """`tilus show`: the program as written, then after each pass or what each pass changed."""
    previous = None
    for name, program in trace(_source_program(arguments)):
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


def _source_program(arguments: argparse.Namespace) -> Program:
    """The program before any pass; that of a text file needs no arguments."""
    if not arguments.values and (program := _kernel(arguments).text) is not None:
        return program
    kernel, values = _kernel_and_values(arguments)
    return kernel.build(**values)


def _diff(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), "before", "after")
    return "".join(lines)


def draw_layout(arguments: argparse.Namespace) -> int:
    """`tilus layout`: the drawing as text, or as SVG in a file."""
    layout = parse_layout(arguments.text)
    if not isinstance(layout, (RegisterLayout, SharedLayout)):
        raise LayoutError(
            "only register and shared layouts have drawings",
            found=str(layout),
            expected="as in local(2, 1).spatial(8, 4) or shared_row_major(8, 8)",
        )
    if arguments.svg:
        write_text(arguments.svg, draw_svg(layout, arguments.view))
        print(f"{layout}: written to {arguments.svg}")
        return 0
    drawing = _drawing(layout, arguments.view)
    print(_heading(layout))
    print(drawing)
    return 0


def show_bits(arguments: argparse.Namespace) -> int:
    """`tilus bits`: the plan as text, after its proof."""
    dtype = NF4 if arguments.dtype == "nf4" else dtype_from_name(arguments.dtype)
    plan = plan_unpack(dtype, dtype_from_name(arguments.target))
    plan.prove()
    print(plan)
    return 0


def _heading(layout: RegisterLayout | SharedLayout) -> str:
    if isinstance(layout, RegisterLayout):
        holders = f"{layout.num_threads} threads, {layout.local_size} each"
        return f"{layout}: {list(layout.shape)}, {holders}"
    return f"{layout}: {list(layout.shape)}"


def _drawing(layout: RegisterLayout | SharedLayout, view: str) -> str:
    if view == "owner":
        return visualize_layout(layout)
    if isinstance(layout, RegisterLayout):
        return contents_table(layout)
    raise LayoutError(
        "a shared layout has no threads to show the contents of",
        found=str(layout),
        hint="leave --view contents out",
    )


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
        program = compile_program(_source_program(arguments))
        return program, compile_program_for(program, target)


def tune_matmul(arguments: argparse.Namespace) -> int:
    """`tilus tune`: a line for each shape as it is done; or the tables of a dry run."""
    request = tuning_request(arguments)
    for text in dry_run(request) if arguments.dry_run else tune_all(request):
        print(text, flush=True)
    return 0


def list_cache(arguments: argparse.Namespace) -> int:
    """`tilus cache list`: a table of the kernels that are kept."""
    cache = _usable_cache()
    listed = cache.entries()
    rows = [
        (
            one.header["name"],
            one.header["target"],
            f"{one.nbytes / 1024:.1f}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used)),
            one.header["nvrtc"],
            one.key[:12],
        )
        for one in listed
    ]
    if rows:
        headings = ("kernel", "target", "KiB", "last used", "NVRTC", "key")
        print(tabulate(rows, headings, disable_numparse=True))
    total = sum(one.nbytes for one in listed)
    print(f"{len(rows)} kernels, {total / 1024:.1f} KiB in {cache.directory}")
    return 0


def clear_cache(arguments: argparse.Namespace) -> int:
    """`tilus cache clear`: remove every kernel that is kept."""
    cache = _usable_cache()
    try:
        count = cache.clear()
    except OSError as error:
        raise TilusError("the cache cannot be cleared", found=str(error)) from None
    print(f"{count} kernels removed from {cache.directory}")
    return 0


def _usable_cache() -> KernelCache:
    cache = kernel_cache()
    refusal = cache.refusal()
    if refusal is not None:
        raise TilusError(
            "the kernel cache is not used",
            found=refusal,
            expected="a directory of your own that only you can write to",
            hint="set TILUS_CACHE_DIR, or change its owner and mode",
        )
    return cache
