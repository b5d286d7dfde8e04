"""`tilus cache list` and `tilus cache clear`: the compiled kernels on disk."""

from __future__ import annotations

import argparse
import time
from typing import Any

from tabulate import tabulate

from tilus.errors import TilusError
from tilus.runtime.cache import KernelCache, kernel_cache


def add_cache(commands: Any) -> None:
    """Declare `tilus cache` and its arguments."""
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
