"""`tilus run`: runs a kernel and says what it changed; profiles it, if asked to."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from tilus.cli.arguments import add_kernel_arguments, assignment, kernel_and_values
from tilus.cli.files import numbers_of, save_array, write_text
from tilus.cli.kernels import Kernel
from tilus.cli.values import Value
from tilus.config import ENGINES, get_option
from tilus.errors import TilusError
from tilus.passes import compile_program
from tilus.runtime.launch import run_program
from tilus.runtime.profile import Counters, profile_html, profile_program, profile_table
from tilus.tensor import Tensor


def add_run(commands: Any) -> None:
    """Declare `tilus run` and its arguments."""
    parser = commands.add_parser(
        "run", help="run a kernel", description="Run a kernel and summarise what it changed."
    )
    add_kernel_arguments(parser)
    parser.add_argument(
        "--save", type=assignment, action="append", default=[], metavar="NAME=FILE.npy",
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


def run_kernel(arguments: argparse.Namespace) -> int:
    """`tilus run`: compile, run, print what was asked for and a summary of what changed."""
    _check_profile(arguments)
    kernel, values = kernel_and_values(arguments)
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
