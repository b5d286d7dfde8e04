"""Python text is parsed in one place, where threads take turns."""

from __future__ import annotations

import ast
import gc
import inspect
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tilus
from tilus.ir.layout.text import parse_layout
from tilus.ops import large_m
from tilus.syntax import parse

KERNEL = inspect.getsource(large_m)


class _Cycle:
    """Garbage whose collection runs Python code, in which another thread may take over."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        sum(range(50))


@pytest.fixture
def restless():
    """Threads change, and garbage is collected, as often as they can."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(1)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)


def _kernels() -> None:
    for _ in range(10):
        _Cycle()
        parse(KERNEL)


def _layouts() -> None:
    for _ in range(100):
        _Cycle()
        parse_layout("local(2, 1).spatial(8, 4).local(1, 2)")


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("work", [_kernels, _layouts])
def test_threads_parse_together(work: Callable[[], None]):
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(8)]:
            done.result()


def test_nothing_else_parses():
    package = Path(tilus.__path__[0])
    found = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "ast.parse"
    }
    assert {"syntax.py"} == found
