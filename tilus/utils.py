"""Small helpers for host code: tile counts, least common multiples, timing.

`cdiv` also takes the language's scalar expressions, `self.attrs.blocks = cdiv(m, 16)`, so it is
written with operators only.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch

from tilus.errors import TilusError
from tilus.tensor import dtype_from_torch, dtype_to_torch

__all__ = [
    "benchmark_func",
    "cdiv",
    "dtype_from_torch",
    "dtype_to_torch",
    "gcd",
    "is_power_of_two",
    "lcm",
    "prod",
]


@overload
def cdiv(a: int, b: int) -> int: ...
@overload
def cdiv(a: Any, b: Any) -> Any: ...
def cdiv(a: Any, b: Any) -> Any:
    """`a / b` rounded up, for integers or scalar expressions with `b` > 0.

    Raises: TilusError if `b` is an integer below 1.

    >>> cdiv(17, 16)
    2
    """
    if isinstance(b, int) and b < 1:
        raise TilusError("cdiv needs a positive divisor", found=f"cdiv({a}, {b})")
    return (a + (b - 1)) // b


def gcd(*numbers: int) -> int:
    """The greatest common divisor; 0 of nothing.

    >>> gcd(12, 18)
    6
    """
    return math.gcd(*numbers)


def lcm(*numbers: int) -> int:
    """The least common multiple; 1 of nothing.

    >>> lcm(4, 6)
    12
    """
    return math.lcm(*numbers)


def prod(numbers: Iterable[int]) -> int:
    """The product; 1 of nothing.

    >>> prod((2, 3, 4))
    24
    """
    return math.prod(numbers)


def is_power_of_two(n: int) -> bool:
    """Whether `n` is 1, 2, 4, 8, ...

    >>> is_power_of_two(64), is_power_of_two(0)
    (True, False)
    """
    return n > 0 and n & (n - 1) == 0


def benchmark_func(fn: Callable[[], object], warmup: int = 1, repeat: int = 5) -> float:
    """The median time of `fn()` in milliseconds, over `repeat` runs after `warmup` untimed ones.

    Where there is a CUDA device it is waited for before and after every run, so launches are timed
    to their end.

    Raises: TilusError for a negative `warmup` or a `repeat` below 1.

    >>> benchmark_func(lambda: sum(range(100))) < 1000
    True
    """
    if warmup < 0 or repeat < 1:
        raise TilusError(
            "benchmark_func needs at least one timed run",
            found=f"warmup={warmup}, repeat={repeat}",
            expected="warmup >= 0 and repeat >= 1",
        )
    for _ in range(warmup):
        fn()
    return statistics.median(_milliseconds(fn) for _ in range(repeat))


def _milliseconds(fn: Callable[[], object]) -> float:
    _wait_for_device()
    start = time.perf_counter_ns()
    fn()
    _wait_for_device()
    return (time.perf_counter_ns() - start) / 1e6


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
