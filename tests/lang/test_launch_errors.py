"""Mistakes with grids, parameters, arguments and Script classes, and what users are told."""

# ruff: noqa: F821
# The kernels are wrong on purpose; Python never runs them.

from __future__ import annotations

import pytest

from tests.lang.mistakes import Mistake, Mistakes
from tilus import float16, float32, int32, uint4b, void_p

MISTAKES = Mistakes()


@MISTAKES.add("the kernel does not say how many blocks it has", hint="set self.attrs.blocks = ...")
def no_blocks(self, n: int32):  # <- here
    self.attrs.warps = 1


@MISTAKES.add(
    "the kernel does not say how many warps a block has", hint="set self.attrs.warps = ..."
)
def no_warps(self, n: int32):  # <- here
    self.attrs.blocks = 1


@MISTAKES.add("self.attrs.warps must be a compile-time integer in 1..32", expected="1..32")
def no_warp(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 0  # <- here


@MISTAKES.add("self.attrs.warps must be a compile-time integer in 1..32", expected="1..32")
def too_many_warps(self, n: int32):
    self.attrs.blocks = 1
    self.attrs.warps = 33  # <- here


@MISTAKES.add("self.attrs.warps must be a compile-time integer in 1..32", expected="1..32")
def warps_runtime(self, n: int32):
    self.attrs.blocks = 1
    self.attrs.warps = n  # <- here


@MISTAKES.add(
    "the grid must be an integer expression of the kernel's parameters",
    expected="for example self.attrs.blocks = [tilus.utils.cdiv(m, 16), 4]",
)
def blocks_blockidx(self, n: int32):
    self.attrs.blocks = self.blockIdx.x  # <- here
    self.attrs.warps = 1


@MISTAKES.add("a grid has one to three dimensions", expected="[x, y, z]")
def four_grid_dimensions(self, n: int32):
    self.attrs.blocks = [1, 2, 3, 4]  # <- here
    self.attrs.warps = 1


@MISTAKES.add(
    "the grid must be an integer expression of the kernel's parameters",
    expected="for example self.attrs.blocks = [tilus.utils.cdiv(m, 16), 4]",
)
def blocks_float(self, n: int32):
    self.attrs.blocks = n / 4  # <- here
    self.attrs.warps = 1


@MISTAKES.add("the grid has a negative extent", expected="0 or more blocks")
def negative_grid(self, n: int32):
    self.attrs.blocks = -1  # <- here
    self.attrs.warps = 1


@MISTAKES.add("the grid does not fit in y", expected="0..65535 blocks in y")
def huge_grid(self, n: int32):  # <- here
    self.attrs.blocks = [1, 70000]
    self.attrs.warps = 1


@MISTAKES.add("the grid does not fit in x", expected="0..2147483647 blocks in x")
def blocks_neg_runtime(self, n: int32):  # <- here
    self.attrs.blocks = n - 100
    self.attrs.warps = 1


@MISTAKES.add("a scalar is needed here", expected="a Python number or a scalar of the kernel")
def blocks_string(self, n: int32):
    self.attrs.blocks = "4"  # <- here
    self.attrs.warps = 1


@MISTAKES.add("a scalar is needed here", expected="a Python number or a scalar of the kernel")
def blocks_none(self, n: int32):
    self.attrs.blocks = None  # <- here
    self.attrs.warps = 1


@MISTAKES.add(
    "self.attrs.blocks is set inside a loop of the kernel",
    hint="set it at the beginning of the kernel",
)
def blocks_in_loop(self, n: int32):
    for i in range(n):
        self.attrs.blocks = i  # <- here
    self.attrs.warps = 1


@MISTAKES.add(
    "self.attrs.block cannot be assigned in a kernel", hint="set attributes of self in __init__"
)
def attrs_misspelt(self, n: int32):
    self.attrs.block = 1  # <- here
    self.attrs.warps = 1


@MISTAKES.add(
    "the grid must be an integer expression of the kernel's parameters",
    expected="for example self.attrs.blocks = [tilus.utils.cdiv(m, 16), 4]",
)
def blocks_changed_var(self, n: int32):
    m = n + 1
    if n > 3:
        m = n + 2
    self.attrs.blocks = m  # <- here
    self.attrs.warps = 1


@MISTAKES.add(
    "the parameter n has no annotation",
    expected="a dtype (int32), a pointer (~float16, void_p) or int, float,",
)
def missing_annotation(self, n):  # <- here
    self.attrs.blocks, self.attrs.warps = 1, 1


@MISTAKES.add(
    "the annotation of n is not understood",
    expected="a dtype (int32), a pointer (~float16, void_p) or int, float,",
)
def bad_annotation(self, n: list):  # <- here
    self.attrs.blocks, self.attrs.warps = 1, 1


@MISTAKES.add(
    "the annotation flaot16 cannot be evaluated: name 'flaot16' is not defined",
    expected="a dtype (int32), a pointer",
)
def misspelt_annotation(self, n: flaot16):  # <- here
    self.attrs.blocks, self.attrs.warps = 1, 1


@MISTAKES.add("a kernel takes no *args or **kwargs", hint="name every parameter and annotate it")
def star_args(self, *args: int32):  # <- here
    self.attrs.blocks, self.attrs.warps = 1, 1


@MISTAKES.add(
    "constant out of range of uint4b",
    hint="use a wider type, or cast a value at run time, which saturates",
)
def subbyte_param(self, n: uint4b):  # <- here
    self.attrs.blocks, self.attrs.warps = 1, 1


@MISTAKES.add("g is not aligned to its elements", expected="a multiple of 2 (float16)")
def misaligned_view(self, p: void_p):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p + 1, dtype=float16, shape=[32])
    a = self.load_global(g, offsets=[0], shape=[32])  # <- here
    self.print_tensor("a", a)


@MISTAKES.add(
    "the pointer does not point into any tensor of this launch",
    hint="pass the tensor itself as an argument of the kernel",
)
def pointer_into_nowhere(self, p: void_p):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p + 100000000, dtype=float16, shape=[32])
    a = self.load_global(g, offsets=[0], shape=[32])  # <- here
    self.print_tensor("a", a)


@MISTAKES.add(
    "printf: scalars are printed, not tiles",
    hint="use self.print_tensor(msg, tile), or tile.item() of a tile of",
)
def printf_tile(self, p: void_p):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[64], init=0.0)
    self.printf("%d", x)  # <- here


@MISTAKES.add(
    "printf: the format and the arguments differ in number", found="2 conversions, 1 arguments"
)
def printf_count(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    self.printf("%d %d", n)  # <- here


@MISTAKES.add("printf: %f does not print a int32", expected="%d")
def printf_conv(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    self.printf("%f", n)  # <- here


@MISTAKES.add("print_tensor: msg must be a text", hint="print_tensor(msg, tile)")
def print_tensor_swapped(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[64], init=0.0)
    self.print_tensor(x, "x")  # <- here


@MISTAKES.add("atomic.global_add: the tile is of another type", hint="cast the tile: .to(float16)")
def atomic_dtype(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[64], init=0.0)
    g = self.global_view(p, dtype=float16, shape=[64])
    self.atomic.global_add(g, x, offsets=[0])  # <- here


@MISTAKES.add(
    "lock_semaphore: ptr must point to an int32",
    hint="semaphores live in a global_tensor of int32:",
)
def semaphore_ptr(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    self.lock_semaphore(p, 0)  # <- here


@MISTAKES.add(
    "deadlock: every block that has not finished waits for a semaphore",
    expected="another block that releases the semaphore with the awaited value",
)
def semaphore_deadlock(self, p: ~int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    self.lock_semaphore(p, 1)  # <- here


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.kernel.__name__)
def test_the_message_says_where_what_and_what_to_do(mistake: Mistake):
    mistake.check()
