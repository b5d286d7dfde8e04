"""Host helpers: integer arithmetic against its definitions, and timing."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilus.errors import TilusError
from tilus.utils import benchmark_func, cdiv, gcd, is_power_of_two, lcm, prod


@given(st.integers(-(10**20), 10**20), st.integers(1, 10**10))
def test_cdiv_rounds_up(a, b):
    assert math.ceil(Fraction(a, b)) == cdiv(a, b)


@pytest.mark.parametrize("b", [0, -4])
def test_cdiv_refuses_a_divisor_below_one(b):
    with pytest.raises(TilusError) as caught:
        cdiv(10, b)
    assert f"cdiv(10, {b})" == caught.value.found


def test_cdiv_takes_symbolic_operands():
    class Text:
        def __init__(self, text):
            self.text = text

        def __add__(self, other):
            return Text(f"({self.text} + {other})")

        def __floordiv__(self, other):
            return Text(f"{self.text} // {other}")

    assert "(m + 15) // 16" == cdiv(Text("m"), 16).text


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_gcd_times_lcm_is_the_product(a, b):
    assert prod((a, b)) == gcd(a, b) * lcm(a, b)


def test_of_several_and_of_nothing():
    assert (4, 48, 24) == (gcd(12, 8, 20), lcm(4, 6, 16), prod([2, 3, 4]))
    assert (0, 1, 1) == (gcd(), lcm(), prod([]))


def test_is_power_of_two():
    expected = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert expected == [n for n in range(-300, 300) if is_power_of_two(n)]


def test_benchmark_func_runs_and_takes_the_median():
    pauses = iter([0.2, 0.001, 0.2, 0.001])  # the first is warm-up, the median of the rest is short
    assert benchmark_func(lambda: time.sleep(next(pauses)), warmup=1, repeat=3) < 150
    assert next(pauses, "used up") == "used up"


def test_benchmark_func_is_in_milliseconds():
    assert 20 <= benchmark_func(lambda: time.sleep(0.02), warmup=0, repeat=1) < 2000


@pytest.mark.parametrize(("warmup", "repeat"), [(-1, 5), (0, 0)])
def test_benchmark_func_needs_a_timed_run(warmup, repeat):
    with pytest.raises(TilusError, match="at least one timed run"):
        benchmark_func(lambda: None, warmup, repeat)
