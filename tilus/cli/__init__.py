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
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext

from tilus import __version__
from tilus.cli.cache import add_cache
from tilus.cli.compile import add_compile, add_inspect
from tilus.cli.demo import add_demo
from tilus.cli.layout import add_bits, add_layout
from tilus.cli.run import add_run
from tilus.cli.show import add_show
from tilus.cli.tune import add_tune
from tilus.config import context, get_option, settings_table
from tilus.errors import TilusError


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
    add_demo(commands)
    add_run(commands)
    add_show(commands)
    add_layout(commands)
    add_bits(commands)
    add_inspect(commands)
    add_compile(commands)
    add_tune(commands)
    add_cache(commands)
    return parser
