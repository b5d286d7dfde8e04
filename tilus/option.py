"""The public face of the settings: `option.engine("interpreter")`, `option.context(debug=1)`.

Each function sets one setting for the process, or, inside a `context` that names it, until that
context ends; a bad value is a `TilusError`. What the settings mean is said once, in `tilus.config`.
"""

from __future__ import annotations

from pathlib import Path

from tilus.config import context, get_option, set_option

__all__ = [
    "bench_repeat",
    "bench_warmup",
    "cache_dir",
    "context",
    "debug",
    "engine",
    "get_option",
    "parallel_workers",
    "tune",
]


def cache_dir(path: str | Path) -> None:
    """Keep compiled kernels and tuning results in the directory `path`, made when first needed."""
    set_option("cache_dir", path)


def engine(name: str) -> None:
    """Run kernels on "auto" (where the tensors live), "interpreter", "emulator" or "cuda"."""
    set_option("engine", name)


def parallel_workers(n: int) -> None:
    """Compile tuning candidates by `n` >= 1 threads at the same time."""
    set_option("parallel_workers", n)


def bench_warmup(n: int) -> None:
    """Run each tuning candidate `n` >= 0 times before it is timed."""
    set_option("bench_warmup", n)


def bench_repeat(n: int) -> None:
    """Time `n` >= 1 runs of each tuning candidate and take their median."""
    set_option("bench_repeat", n)


def tune(mode: str) -> None:
    """Try the points of autotuned kernels at their first call on a GPU ("auto"), or never ("off").

    With "off" a stored result is still used; without one it is the first point.
    """
    set_option("tune", mode)


class debug:  # in lower case, as users read it: tilus.option.debug.dump_ir(True)
    """Settings for looking into the compiler."""

    @staticmethod
    def dump_ir(enable: bool = True) -> None:
        """Write the IR after every pass, into the `dump` directory or else below `cache_dir`."""
        set_option("debug.dump_ir", enable)
