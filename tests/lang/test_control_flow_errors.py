"""Mistakes with loops, branches and foreign statements, and what users are told."""

# ruff: noqa: B007, C416, F401, F841, SIM105
# The kernels are wrong on purpose; Python never runs them.

from __future__ import annotations

import pytest

from tests.lang.mistakes import Mistake, Mistakes
from tilus import float32, int32

MISTAKES = Mistakes()


@MISTAKES.add(
    "a tile has no single truth value",
    hint="reduce it first: self.any(x).item() or self.all(x).item()",
)
def if_on_tile(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[64], init=0.0)
    if x > 0:  # <- here
        self.sync()


@MISTAKES.add("a tile has no single truth value", hint="combine boolean tiles with & and |")
def and_on_tile(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[64], init=0.0)
    y = x > 0 and x < 1  # <- here


@MISTAKES.add("a tile has no single truth value", hint="use ~x on a boolean tile")
def not_on_tile(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[64], init=0.0)
    y = not x  # <- here


@MISTAKES.add("a kernel returns nothing", hint="store results with self.store_global(...)")
def return_value(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    return n  # <- here


@MISTAKES.add(
    "a while loop of a kernel has no else", hint="use a variable and an if after the loop"
)
def while_else(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    while n > 3:  # <- here
        pass
    else:
        pass


@MISTAKES.add("a for loop of a kernel has no else", hint="use a variable and an if after the loop")
def for_else(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i in range(3):  # <- here
        pass
    else:
        pass


@MISTAKES.add("a comprehension runs over host values", hint="use range(n) with a compile-time n")
def comprehension_over_run_time_range(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    xs = [i for i in range(n)]  # <- here


@MISTAKES.add("a comprehension runs over host values", hint="use range(n) with a compile-time n")
def comprehension_over_self_range(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    xs = [i for i in self.range(4)]  # <- here


@MISTAKES.add(
    "the value of 0 < n is known only when the kernel runs",
    hint="use it in an if statement of the kernel, or make it a Python",
)
def comprehension_with_run_time_condition(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    xs = [i for i in range(4) if i < n]  # <- here


@MISTAKES.add("the step of a range is 0", hint="the loop would never end")
def range_with_step_0(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i in range(0, n, 0):  # <- here
        pass


@MISTAKES.add("the bounds of a range are integers", found="float32 n")
def range_float(self, n: float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i in range(n):  # <- here
        pass


@MISTAKES.add("the step of a range is 0", hint="the loop would never end")
def range_runtime_step(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = 0
    for i in range(0, n, n - 17):  # <- here
        self.printf("a")


@MISTAKES.add(
    "range: got an unexpected keyword argument 'unrol'", expected="range(*bounds, unroll=None)"
)
def self_range_keyword(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i in self.range(n, unrol=2):  # <- here
        pass


@MISTAKES.add(
    "range: got an unexpected keyword argument 'unrol'", expected="range(*bounds, unroll=None)"
)
def range_keyword(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i in range(n, unrol=2):  # <- here
        pass


@MISTAKES.add("unroll is not understood", expected='None, "all" or a positive count')
def range_unroll(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i in self.range(n, unroll=-1):  # <- here
        pass


@MISTAKES.add("range takes 1 to 3 bounds", expected="range(start, stop, step)")
def range_nothing(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i in range():  # <- here
        pass


@MISTAKES.add("range takes 1 to 3 bounds", expected="range(start, stop, step)")
def range_four(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i in self.range(1, 2, 3, 4):  # <- here
        pass


@MISTAKES.add("this cannot be iterated over", hint="loop over self.range(n) and index")
def loop_over_int(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i in 4:  # <- here
        pass


@MISTAKES.add("this cannot be iterated over", hint="loop over self.range(n) and index")
def loop_over_scalar(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i in n:  # <- here
        pass


@MISTAKES.add("a run-time loop has one loop variable", expected="a name")
def for_tuple_target(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i, j in range(n):  # <- here
        pass


@MISTAKES.add("cannot unpack this into the names on the left", expected="2 values")
def for_host_tuple_target(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i, j in [(1, 2, 3)]:  # <- here
        pass


@MISTAKES.add("cannot unpack this into the names on the left", expected="2 values")
def comprehension_unpacks_numbers(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    xs = [i for i, j in [1, 2]]  # <- here


@MISTAKES.add(
    "break leaves a compile-time loop from inside a run-time branch",
    hint="use self.range(...) for the loop, or a condition known at",
)
def break_host_loop_from_runtime(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i in [1, 2]:
        if n > 3:
            break  # <- here


@MISTAKES.add(
    "Python's try is not part of the language of kernels", hint="kernels have no exceptions"
)
def try_statement(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    try:  # <- here
        pass
    except ValueError:
        pass


@MISTAKES.add(
    "Python's import is not part of the language of kernels", hint="import at the top of the file"
)
def import_statement(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    import math  # <- here


@MISTAKES.add(
    "Python's def is not part of the language of kernels",
    hint="define a method of the class and call it: it is inlined",
)
def nested_function(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1

    def f(x):  # <- here
        return x


@MISTAKES.add(
    "Python's raise is not part of the language of kernels",
    hint="use self.static_assert(condition, message)",
)
def raise_statement(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    raise ValueError  # <- here


@MISTAKES.add(
    "Python's yield is not part of the language of kernels", hint="kernels return nothing"
)
def yield_expression(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    yield 1  # <- here


@MISTAKES.add(
    "Python's class is not part of the language of kernels",
    hint="define classes outside the kernel",
)
def nested_class(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1

    class State:  # <- here
        pass


@MISTAKES.add(
    "Python's global is not part of the language of kernels", hint="set attributes in __init__"
)
def global_statement(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    global xyz  # <- here


@MISTAKES.add(
    "Python's := is not part of the language of kernels", hint="assign on a line of its own"
)
def walrus_expression(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = (z := 3) + n  # <- here


@MISTAKES.add("Python's match is not part of the language of kernels", hint="use if and elif")
def match_statement(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    match n:  # <- here
        case 1:
            pass


@MISTAKES.add(
    "static_assert needs a condition known at compile time",
    hint="use self.assume(...) for conditions on run-time scalars",
)
def assert_runtime(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    assert n > 3, "n"  # <- here


@MISTAKES.add(
    "static_assert needs a condition known at compile time",
    hint="use self.assume(...) for conditions on run-time scalars",
)
def static_assert_runtime(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    self.static_assert(n > 3, "n")  # <- here


@MISTAKES.add(
    "an assumption does not hold", hint="correct the assume, or the arguments of the launch"
)
def assume_false(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    self.assume(n == 4)  # <- here


@MISTAKES.add("an assumption is about scalars", hint="reduce the tile first: self.all(x).item()")
def assume_tile(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[64], init=0.0)
    self.assume(x > 0)  # <- here


@MISTAKES.add("assume: missing a required argument: 'condition'", expected="assume(condition)")
def assume_args(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    self.assume()  # <- here


@MISTAKES.add("a scalar is needed here", expected="a Python number or a scalar of the kernel")
def conditional_of_text(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = 1 if n > 3 else "a"  # <- here


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.kernel.__name__)
def test_the_message_says_where_what_and_what_to_do(mistake: Mistake):
    mistake.check()
