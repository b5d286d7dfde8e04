"""Mistakes with names and their binding, and what users are told."""

# ruff: noqa: B007, C416, F821, F841, F842, SIM113
# The kernels are wrong on purpose; Python never runs them.

from __future__ import annotations

import math

import pytest

from tests.lang.mistakes import Mistake, Mistakes
from tilus import float16, float32, int32

MISTAKES = Mistakes()


@MISTAKES.add("the name totl is not defined", hint="did you mean total?")
def undefined_name(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    total = 1
    x = totl + 1  # <- here


@MISTAKES.add(
    "self has no instruction or attribute global_veiw",
    hint="did you mean self.global_view or self.global_slice or",
)
def misspelt_instruction(self, p: ~float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_veiw(p, dtype=float32, shape=[16])  # <- here


@MISTAKES.add(
    "x has no value here: it was first bound inside a loop and ends with it",
    hint="bind x before the loop",
)
def tile_bound_in_loop(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i in range(n):
        x = self.register_tensor(dtype=float32, shape=[32], init=0.0)
    y = x + 1  # <- here


@MISTAKES.add(
    "k has no value here: it was first bound inside a branch and ends with it",
    hint="bind k before the branch",
)
def scalar_bound_in_branch(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    if n > 3:
        k = n + 1
    m = k  # <- here


@MISTAKES.add(
    "i has no value here: it was first bound inside a loop and ends with it",
    hint="bind i before the loop",
)
def loop_variable_after(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i in range(n):
        pass
    m = i  # <- here


@MISTAKES.add("the name j is not defined", hint="bind it before this line")
def comprehension_variable_after(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    xs = [j for j in range(3)]
    m = j  # <- here


@MISTAKES.add(
    "a register tile has no attribute sizes",
    expected="dtype, shape, all, any, cumprod, cumsum, flatten, item, max,",
)
def unknown_tile_attr(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[32], init=0.0)
    y = x.sizes  # <- here


@MISTAKES.add("a scalar has no attribute bit_length", expected="to, dtype")
def unknown_scalar_attr(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = n.bit_length()  # <- here


@MISTAKES.add("module math has no attribute expo", hint="did you mean exp?")
def unknown_module_attr(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    y = math.expo(n)  # <- here


@MISTAKES.add(
    "self has no instruction or attribute atomic.global_ad",
    hint="did you mean self.atomic.global_add or self.atomic.global_max",
)
def unknown_atomic(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    self.atomic.global_ad(n)  # <- here


@MISTAKES.add("an annotation needs a name and a value", expected="name: dtype = value")
def annotated_only_name(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x: int32  # <- here


@MISTAKES.add(
    "total is a compile-time constant, and this line runs inside a loop of the",
    hint="declare it before: total: tilus.int32 = ...",
)
def host_constant_changed_in_loop(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    total = 0
    for i in range(n):
        total = total + i  # <- here


@MISTAKES.add(
    "total is a compile-time constant, and this line runs inside a loop of the",
    hint="declare it before: total: tilus.int32 = ...",
)
def host_constant_incremented_in_loop(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    total = 0
    for i in range(n):
        total += 1  # <- here


@MISTAKES.add(
    "total is a compile-time constant, and this line runs inside a branch of",
    hint="declare it before: total: tilus.int32 = ...",
)
def host_constant_in_if(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    total = 0
    if n > 3:
        total = 1  # <- here


@MISTAKES.add(
    "i is a compile-time constant, and this line runs inside a loop of the",
    hint="declare it before: i: tilus.int32 = ...",
)
def host_constant_in_while(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    i = 0
    while i < n:
        i += 1  # <- here


@MISTAKES.add("s is bound to a tensor in memory already", hint="give the new one another name")
def rebind_shared(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.shared_tensor(dtype=float16, shape=[32])
    s = self.shared_tensor(dtype=float16, shape=[64])  # <- here


@MISTAKES.add("g is bound to a tensor in memory already", hint="give the new one another name")
def rebind_global(self, p: ~float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float32, shape=[32])
    g = self.global_view(p, dtype=float32, shape=[64])  # <- here


@MISTAKES.add("assign: the new value of x has another type", hint="cast it: .to(float32)")
def tile_other_dtype(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[32], init=0.0)
    x = x.to(float16)  # <- here


@MISTAKES.add("assign: the new value of x has another type", hint="use another name")
def tile_other_shape(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[32], init=0.0)
    x = self.register_tensor(dtype=float32, shape=[64], init=0.0)  # <- here


@MISTAKES.add("x is a scalar variable", expected="a int32 scalar")
def scalar_to_tile(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.blockIdx.x
    x = self.register_tensor(dtype=float32, shape=[64], init=0.0)  # <- here


@MISTAKES.add("x is bound to a register tile", hint="use another name")
def tile_to_scalar(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[64], init=0.0)
    x = 0.0  # <- here


@MISTAKES.add(
    "x is a compile-time constant, and this line runs inside a loop of the",
    hint="make the tile before: x = self.register_tensor(...)",
)
def host_to_tile_in_loop(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = None
    for i in range(n):
        x = self.register_tensor(dtype=float32, shape=[64], init=0.0)  # <- here


@MISTAKES.add("the loop variable i cannot be assigned", hint="use a while loop, or another name")
def loop_variable_assigned(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    for i in range(n):
        i = i + 1  # <- here


@MISTAKES.add(
    "self.blockIdx.x cannot be assigned in a kernel", hint="set attributes of self in __init__"
)
def blockidx_assigned(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    self.blockIdx.x = 3  # <- here


@MISTAKES.add("x is bound already", hint="annotate the first binding only")
def annotation_twice(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x: int32 = 0
    x: int32 = 1  # <- here


@MISTAKES.add("x is annotated as a scalar", expected="float32")
def annotation_on_tile(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x: float32 = self.register_tensor(dtype=float32, shape=[64], init=0.0)  # <- here


@MISTAKES.add("cannot unpack this into the names on the left", expected="2 values")
def unpack_wrong(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a, b = 1, 2, 3  # <- here


@MISTAKES.add(
    "Python's * in front of a name is not part of the language of kernels",
    hint="give every value a name, or index the list",
)
def unpack_starred(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a, *b = 1, 2, 3  # <- here


@MISTAKES.add("self.foo cannot be assigned in a kernel", hint="set attributes of self in __init__")
def set_attr(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    self.foo = 3  # <- here


@MISTAKES.add(
    "this element cannot be assigned", expected="an element of a host list that is a register tile"
)
def set_element_of_tile(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[64], init=0.0)
    x[0] = 1.0  # <- here


@MISTAKES.add(
    "register_slice: dimension 0 is cut between threads",
    found="index 0 of 64",
    hint="or store it to shared memory and load the part",
)
def read_element_of_tile(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[64], init=0.0)
    y = x[0]  # <- here
    self.print_tensor("y", y)


@MISTAKES.add(
    "register_slice: an index must be known at compile time",
    found="n in dimension 0",
    hint="loop over a host list",
)
def read_part_of_tile_at_run_time(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[4, 32], init=0.0)
    y = x[n]  # <- here


@MISTAKES.add("a slice has no step", hint="x.reshape([..., extent // step, step])")
def read_every_other_row(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[4, 32], init=0.0)
    y = x[::2]  # <- here


@MISTAKES.add(
    "a global tensor is stored to, not assigned", hint="use self.store_global(g, x, offsets=[...])"
)
def set_global_element(self, p: ~float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float32, shape=[32])
    g[0] = 1.0  # <- here


@MISTAKES.add("a shared tensor is stored to, not assigned", hint="use self.store_shared(s, x)")
def set_shared_element(self, p: ~float32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.shared_tensor(dtype=float16, shape=[32])
    s[0] = 1.0  # <- here


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.kernel.__name__)
def test_the_message_says_where_what_and_what_to_do(mistake: Mistake):
    mistake.check()
