"""Mistakes with layouts and shared memory, and what users are told."""

# ruff: noqa: B007, F841
# The kernels are wrong on purpose; Python never runs them.

from __future__ import annotations

import pytest
import torch

from tests.lang.mistakes import Mistake, Mistakes
from tilus import float16, float32, int32, uint4b, uint8
from tilus.ir.layout import local, replicated, spatial

MISTAKES = Mistakes()


@MISTAKES.add(
    "two layouts are needed for a (float32[32, 2])",
    hint="load or compute the tile twice, or change its layout by a store",
)
def annotate_conflict(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape=[32, 2], init=0)
    self.annotate_layout(a, spatial(32, 1).local(1, 2))  # <- there
    self.annotate_layout(a, spatial(16, 2).local(2, 1))  # <- here
    self.print_tensor("a", a)


@MISTAKES.add(
    "annotate_layout: the layout is over another number of threads",
    hint="self.attrs.warps sets the number of warps, of 32 threads each",
)
def annotate_threads(self):
    self.attrs.blocks, self.attrs.warps = 1, 2
    a = self.register_tensor(dtype=float32, shape=[32, 2], init=0)
    self.annotate_layout(a, spatial(32, 1).local(1, 2))  # <- here


@MISTAKES.add(
    "annotate_layout: the shape of the layout is not that of the tile", expected="[32, 2]"
)
def annotate_shape(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape=[32, 2], init=0)
    self.annotate_layout(a, spatial(32, 1).local(1, 4))  # <- here


@MISTAKES.add("annotate_layout: the layout is of the wrong kind", expected="RegisterLayout")
def annotate_kind(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape=[32, 2], init=0)
    self.annotate_layout(a, "row")  # <- here


@MISTAKES.add("annotate_layout: the layout is of the wrong kind", expected="SharedLayout")
def annotate_shared_with_register(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.shared_tensor(dtype=float32, shape=[32, 2])
    self.annotate_layout(a, spatial(32, 1).local(1, 2))  # <- here


@MISTAKES.add(
    "view: the width of an element changes from 8 to 4 bits",
    hint="say how the new elements lie in the threads: layout=...",
)
def view_width(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=uint8, shape=[32, 2], init=0)
    b = self.view(a, dtype=uint4b)  # <- here


@MISTAKES.add(
    "view: the operand and the result differ in size",
    hint="local size times the width of the dtype is what each thread",
)
def view_bits(self, p: ~uint8):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=uint8, shape=[64])
    a = self.load_global(g, offsets=[0], shape=[64])
    self.annotate_layout(a, spatial(32).local(2))
    b = self.view(a, dtype=uint4b, layout=spatial(32).local(2))  # <- here
    self.print_tensor("b", b)


@MISTAKES.add(
    "view: threads that hold one element of the result hold different data",
    hint="use a layout without replication over those threads",
)
def view_replicated(self, p: ~uint8):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=uint8, shape=[64])
    a = self.load_global(g, offsets=[0], shape=[64])
    self.annotate_layout(a, spatial(32).local(2))
    b = self.view(a, dtype=uint4b, layout=replicated(4, num_workers=32))  # <- here
    self.print_tensor("b", b)


@MISTAKES.add(
    "s is read without a sync after it was written", hint="call self.sync() before this line"
)
def read_without_sync(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.shared_tensor(dtype=float16, shape=[64])
    a = self.register_tensor(dtype=float16, shape=[64], init=0)
    self.annotate_layout(a, spatial(32).local(2))
    self.store_shared(s, a)
    b = self.load_shared(s)  # <- here
    self.annotate_layout(b, local(2).spatial(32))
    self.print_tensor("b", b)


@MISTAKES.add(
    "s is overwritten without a sync after it was read in the iteration before",
    hint="call self.sync() before this line",
)
def overwritten_without_sync(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.shared_tensor(dtype=float16, shape=[64])
    a = self.register_tensor(dtype=float16, shape=[64], init=0)
    self.annotate_layout(a, spatial(32).local(2))
    for i in range(n):
        self.store_shared(s, a)  # <- here
        self.sync()
        b = self.load_shared(s)
        self.annotate_layout(b, local(2).spatial(32))
        self.print_tensor("b", b)


@MISTAKES.add(
    "s is read before it was written",
    hint="store to the shared tensor, or copy into it, before reading",
)
def uninitialised_shared(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.shared_tensor(dtype=float16, shape=[64])
    b = self.load_shared(s)  # <- here
    self.print_tensor("b", b)


@MISTAKES.add(
    "s is used before it has a value",
    hint="give register_tensor an init=, or assign the tile before this",
)
def uninitialised_register(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.register_tensor(dtype=float16, shape=[64])
    b = s + 1  # <- here
    self.print_tensor("b", b)


@MISTAKES.add(
    "the shared tensor s is used after it was freed",
    hint="move free_shared behind the last use, on every path",
)
def use_after_free(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.shared_tensor(dtype=float16, shape=[64])
    self.store_shared(s, self.register_tensor(dtype=float16, shape=[64], init=0))
    self.free_shared(s)
    b = self.load_shared(s)  # <- here


@MISTAKES.add(
    "the shared tensor s is freed twice", hint="move free_shared behind the last use, on every path"
)
def free_twice(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.shared_tensor(dtype=float16, shape=[64])
    self.free_shared(s)
    self.free_shared(s)  # <- here


@MISTAKES.add(
    "free_shared: only a whole shared tensor can be freed",
    hint="free the tensor that shared_tensor made",
)
def free_part(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.shared_tensor(dtype=float16, shape=[2, 64])
    self.free_shared(s[0])  # <- here


@MISTAKES.add(
    "the shared tensor s is freed twice", hint="move free_shared behind the last use, on every path"
)
def free_in_loop(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.shared_tensor(dtype=float16, shape=[2, 64])
    for i in range(n):
        self.free_shared(s)  # <- here


@MISTAKES.add(
    "s is read without a sync after it was copied to",
    hint="call self.copy_async_wait_all(), then self.sync() before this",
)
def asynchronous_read_before_wait(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[64])
    s = self.shared_tensor(dtype=float16, shape=[64])
    self.copy_async(g, s, offsets=[0])
    self.sync()
    b = self.load_shared(s)  # <- here
    self.print_tensor("b", b)


@MISTAKES.add(
    "s is read without a sync after it was copied to", hint="call self.sync() before this line"
)
def asynchronous_read_without_sync(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 4
    g = self.global_view(p, dtype=float16, shape=[64])
    s = self.shared_tensor(dtype=float16, shape=[64])
    self.copy_async(g, s, offsets=[0])
    self.copy_async_wait_all()
    b = self.load_shared(s)  # <- here
    self.print_tensor("b", b)


@MISTAKES.add("copy_async_wait_group: n must be known at compile time", expected="a Python integer")
def async_wait_group_runtime(self, p: ~float16, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    self.copy_async_wait_group(n)  # <- here


@MISTAKES.add("copy_async_wait_group: n must be at least 0", found="-1")
def async_wait_negative(self, p: ~float16, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    self.copy_async_wait_group(-1)  # <- here


@MISTAKES.add(
    "copy_async: the dtypes of the two tensors differ",
    hint="copies do not convert: cast in registers",
)
def async_dtypes(self, p: ~float16, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[64])
    s = self.shared_tensor(dtype=float32, shape=[64])
    self.copy_async(g, s, offsets=[0])  # <- here


@MISTAKES.add("copy_async: src must be a global tensor", expected="a global tensor")
def async_swapped(self, p: ~float16, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[64])
    s = self.shared_tensor(dtype=float16, shape=[64])
    self.copy_async(s, g, offsets=[0])  # <- here


@MISTAKES.add(
    "shared_too_large needs more shared memory than a block has",
    hint="use smaller tiles or fewer stages, or free_shared tensors that",
)
def shared_too_large(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.shared_tensor(dtype=float32, shape=[1024, 1024])  # <- here
    a = self.register_tensor(dtype=float32, shape=[1024, 1024], init=0)
    self.store_shared(s, a)
    self.print_tensor("b", a)


@MISTAKES.add(
    "the thread group does not fit",
    expected="one thread, or whole warps of 32, of the 32 threads here",
)
def thread_group_too_big(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    with self.thread_group(0, 64):  # <- here
        self.printf("a")


@MISTAKES.add(
    "thread_group: threads must be known at compile time",
    hint="make it a Python int parameter, or set it in __init__",
)
def thread_group_runtime(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    with self.thread_group(0, n):  # <- here
        self.printf("a")


@MISTAKES.add(
    "single_warp: threads must be known at compile time",
    hint="make it a Python int parameter, or set it in __init__",
)
def thread_group_float(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    with self.single_warp(1.5):  # <- here
        self.printf("a")


@MISTAKES.add("single_thread: threads must be at least 0", expected=">= 0")
def single_thread_neg(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    with self.single_thread(-1):  # <- here
        self.printf("a")


@MISTAKES.add(
    "a with statement of a kernel selects threads",
    expected="self.single_thread(), self.single_warp() or",
)
def with_other(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    with torch.no_grad():  # <- here
        self.printf("a")


@MISTAKES.add(
    "a with statement of a kernel has one item and no name", expected="with self.single_warp():"
)
def with_as(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    with self.single_warp() as warp:  # <- here
        self.printf("%d", warp)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.kernel.__name__)
def test_the_message_says_where_what_and_what_to_do(mistake: Mistake):
    mistake.check()
