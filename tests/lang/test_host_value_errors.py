"""Mistakes with Python values and functions among kernel values, and what users are told."""

# ruff: noqa: E731, F841, RUF005
# The kernels are wrong on purpose; Python never runs them.

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.lang.mistakes import Mistake, Mistakes
from tilus import float16, float32, int8, int32

MISTAKES = Mistakes()


@MISTAKES.add(
    "a host value is indexed by a value known only when the kernel runs",
    hint="loop over the list itself, or keep the data in a tensor",
)
def index_list_with_runtime(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    xs = [1, 2, 3]
    y = xs[self.blockIdx.x]  # <- here


@MISTAKES.add("getitem failed at compile time: list index out of range", found="IndexError")
def list_index_out_of_range(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    xs = [1, 2, 3]
    y = xs[5]  # <- here


@MISTAKES.add(
    "floordiv failed at compile time: integer division or modulo by zero", found="ZeroDivisionError"
)
def host_division_by_zero(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = 1 // 0  # <- here


@MISTAKES.add(
    "constant out of range of int8",
    hint="use a wider type, or cast a value at run time, which saturates",
)
def const_out_of_range(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y: int8 = 300  # <- here


@MISTAKES.add(
    "0.5 is no value of int32", hint="round it yourself: a constant is never truncated silently"
)
def float_to_int_var(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y: int32 = 0.5  # <- here


@MISTAKES.add("a scalar is needed here", expected="a Python number or a scalar of the kernel")
def string_variable(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y: int32 = "a"  # <- here


@MISTAKES.add("a scalar is needed here", expected="a Python number or a scalar of the kernel")
def scalar_set_to_string(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = n + 1
    y = "abc"  # <- here


@MISTAKES.add(
    "n is a compile-time constant, and this line runs inside a loop of the",
    hint="declare it before: n: tilus.int32 = ...",
)
def constant_parameter_changed_in_loop(self, n: int):
    self.attrs.blocks, self.attrs.warps = 1, 1
    while self.blockIdx.x < n:
        n = n - 1  # <- here


@MISTAKES.add(
    "Python's del is not part of the language of kernels",
    hint="names end with the loop or branch that binds them",
)
def del_name(self, n: int):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = 3
    del x  # <- here


@MISTAKES.add("i is used where it is not defined", hint="define it on every path before this line")
def append_to_list_in_loop(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    xs = []
    for i in range(n):
        xs.append(i)
    y = xs[0] + 1  # <- here


@MISTAKES.add(
    "this element cannot be assigned", expected="an element of a host list that is a register tile"
)
def list_set_element(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    xs = [1, 2]
    xs[0] = 5  # <- here


@MISTAKES.add(
    "add works on register tiles",
    hint="load it first: self.load_shared(...) or self.load_global(...)",
)
def arithmetic_on_global(self, n: int32, p: ~float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float32, shape=[32])
    y = g + 1  # <- here


@MISTAKES.add(
    "pointers do not support neg", expected="pointer + integer, pointer - integer, == or !="
)
def negated_pointer(self, n: int32, p: ~float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = -p  # <- here


@MISTAKES.add(
    "pointers do not support mul", expected="pointer + integer, pointer - integer, == or !="
)
def pointer_times(self, n: int32, p: ~float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = p * 2  # <- here


@MISTAKES.add("bit operations need integers, not float32", expected="integer or bool")
def float_index_shift(self, n: int32, p: ~float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = n << 1.5  # <- here


@MISTAKES.add("bit operations need integers, not float32", expected="integer or bool")
def float_bitand(self, n: float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = n & 1  # <- here


@MISTAKES.add("a scalar is needed here", expected="a Python number or a scalar of the kernel")
def str_plus_scalar(self, n: float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = n + "a"  # <- here


@MISTAKES.add("a scalar is needed here", expected="a Python number or a scalar of the kernel")
def none_plus_scalar(self, n: float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = n + None  # <- here


@MISTAKES.add("add: operand must be a register tensor", expected="a register tensor")
def list_plus_tile(self, n: float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[64], init=0.0)
    y = x + [1]  # <- here


@MISTAKES.add("add: operand must be a register tensor", expected="a register tensor")
def torch_plus_tile(self, n: float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[64], init=0.0)
    y = x + torch.zeros(64)  # <- here


@MISTAKES.add("kernel values have no power operator", hint="self.exp2(y * self.log2(x))")
def power(self, n: float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = n**3  # <- here


@MISTAKES.add("tiles are multiplied by self.dot", hint="self.dot(a, b)")
def matmult(self, n: float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[16, 16], init=0.0)
    y = x @ x  # <- here


@MISTAKES.add(
    "in looks into host values, at compile time", hint="compare one by one: x == 1 or x == 2"
)
def in_of_run_time_value(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = n in [1, 2]  # <- here


@MISTAKES.add("kernel values have no identity", hint="compare them with ==")
def is_of_run_time_value(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    three = 3
    y = n is three  # <- here


@MISTAKES.add("the value is known only when the kernel runs", hint='use self.printf("%d", value)')
def fstring_runtime(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = f"{n}"  # <- here


@MISTAKES.add("print runs on the host", hint="use self.printf(...) or self.print_tensor(...)")
def print_runtime(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    print(n)  # <- here


@MISTAKES.add(
    "this cannot be called", expected="an instruction, a method of the class or a Python function"
)
def call_non_callable(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = 3
    y = x(2)  # <- here


@MISTAKES.add(
    "this cannot be called", expected="an instruction, a method of the class or a Python function"
)
def call_scalar(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = n(2)  # <- here


@MISTAKES.add(
    "this cannot be called", expected="an instruction, a method of the class or a Python function"
)
def call_tile(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[16, 16], init=0.0)
    y = x(2)  # <- here


@MISTAKES.add(
    "gcd failed at compile time: 'Var' object cannot be interpreted as an",
    hint="Python functions run at compile time, on host values; self has",
)
def host_function_with_runtime(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = math.gcd(n, 4)  # <- here


@MISTAKES.add("a scalar is needed here", expected="a Python number or a scalar of the kernel")
def int_of_tile(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[16, 16], init=0.0)
    y = int(x)  # <- here


@MISTAKES.add("float16(...) makes scalars", hint="cast a tile with x.to(float16)")
def dtype_called_on_tile(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[16, 16], init=0.0)
    y = float16(x)  # <- here


@MISTAKES.add("math.exp works on scalars, not on tiles", hint="use self.exp(x)")
def math_of_tile(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[16, 16], init=0.0)
    y = math.exp(x)  # <- here


@MISTAKES.add(
    "exp failed at compile time: loop of ufunc does not support argument 0 of",
    hint="Python functions run at compile time, on host values; self has",
)
def numpy_of_tile(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[16, 16], init=0.0)
    y = np.exp(x)  # <- here


@MISTAKES.add(
    "exp failed at compile time: loop of ufunc does not support argument 0 of",
    hint="Python functions run at compile time, on host values; self has",
)
def numpy_of_scalar(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = np.exp(n)  # <- here


@MISTAKES.add(
    "len failed at compile time: object of type 'RegisterTensor' has no len()",
    hint="Python functions run at compile time, on host values; self has",
)
def len_of_tile(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[16, 16], init=0.0)
    y = len(x)  # <- here


@MISTAKES.add(
    "sum failed at compile time: unsupported operand type(s) for +: 'int' and", found="TypeError"
)
def sum_builtin_of_tiles(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[16, 16], init=0.0)
    y = sum([x, x])  # <- here


@MISTAKES.add("cast: dtype must be a data type", expected="a data type")
def to_of_nondtype(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[16, 16], init=0.0)
    y = x.to("float16")  # <- here


@MISTAKES.add("cast: dtype must be a data type", expected="a data type")
def to_torch_dtype(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[16, 16], init=0.0)
    y = x.to(torch.float16)  # <- here


@MISTAKES.add("to: dtype must be a data type", expected="a data type")
def scalar_to_nondtype(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = n.to("float16")  # <- here


@MISTAKES.add("integer division by zero", hint="guard the division with an if statement")
def scalar_divide_by_zero(self, n: int32, p: ~int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=int32, shape=[1])
    y = n // (n - n)  # <- here
    self.store_global(g, self.register_tensor(dtype=int32, shape=[1], init=y), offsets=[0])


@MISTAKES.add("the function takes another number of indices", expected="2 arguments")
def lambda_of_another_arity(self, n: int32, p: ~int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    f = lambda x: x + 1
    y = f(n, 2)  # <- here


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.kernel.__name__)
def test_the_message_says_where_what_and_what_to_do(mistake: Mistake):
    mistake.check()
