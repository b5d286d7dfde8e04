"""Mistakes with shapes, offsets and slices, and what users are told."""

# ruff: noqa: F841
# The kernels are wrong on purpose; Python never runs them.

from __future__ import annotations

import pytest

from tests.lang.mistakes import Mistake, Mistakes
from tilus import float16, float32, int32

MISTAKES = Mistakes()


@MISTAKES.add(
    "add: the shapes do not broadcast",
    hint="use unsqueeze, squeeze, transpose or repeat to line the",
)
def broadcast(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape=[32], init=0)
    b = self.register_tensor(dtype=float32, shape=[64], init=0)
    c = a + b  # <- here


@MISTAKES.add("load_global: one offset for each dimension of the tensor is needed", expected="2")
def offsets_count(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[32, 32])
    a = self.load_global(g, offsets=[0], shape=[32, 32])  # <- here


@MISTAKES.add(
    "load_global: dims must name a different dimension of the tensor for each",
    expected="2 of 0..1, none twice",
)
def dims_twice(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[32, 32])
    a = self.load_global(g, offsets=[0, 0], shape=[32, 32], dims=[1, 1])  # <- here


@MISTAKES.add("load_global: the tile has more dimensions than the tensor", expected="rank <= 1")
def tile_rank(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[32])
    a = self.load_global(g, offsets=[0], shape=[32, 32])  # <- here


@MISTAKES.add("shape must be at least 1", expected=">= 1")
def negative_extent(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape=[-32], init=0)  # <- here


@MISTAKES.add("shape must be at least 1", expected=">= 1")
def zero_extent(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape=[0], init=0)  # <- here


@MISTAKES.add(
    "shape must be known at compile time",
    hint="make it a Python int parameter, or set it in __init__",
)
def runtime_shape(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape=[n], init=0)  # <- here


@MISTAKES.add(
    "shape must be known at compile time",
    hint="make it a Python int parameter, or set it in __init__",
)
def float_shape(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape=[32 / 2], init=0)  # <- here


@MISTAKES.add("shape must be a list", expected="a list such as [16, 32]")
def string_shape(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape="32", init=0)  # <- here


@MISTAKES.add(
    "shared_tensor: shape must be known at compile time",
    hint="make it a Python int parameter, or set it in __init__",
)
def runtime_shared_shape(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.shared_tensor(dtype=float32, shape=[n])  # <- here


@MISTAKES.add("load_global: offsets must be integers", expected="integers")
def float_offset(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[32])
    a = self.load_global(g, offsets=[0.5], shape=[32])  # <- here


@MISTAKES.add("a scalar is needed here", expected="a Python number or a scalar of the kernel")
def tile_offset(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[32])
    x = self.register_tensor(dtype=int32, shape=[32], init=0)
    a = self.load_global(g, offsets=[x], shape=[32])  # <- here


@MISTAKES.add(
    "load_global: src must be a global tensor",
    hint="make a view of the pointer first: self.global_view(ptr,",
)
def load_without_view(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.load_global(p, offsets=[0], shape=[32])  # <- here


@MISTAKES.add("load_global: shape is missing", hint="pass shape=[...], or out= an existing tile")
def load_without_shape(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[32])
    a = self.load_global(g, offsets=[0])  # <- here


@MISTAKES.add(
    "load_shared: src must be a shared tensor", hint="allocate it with self.shared_tensor(...)"
)
def load_shared_of_global(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[32])
    a = self.load_shared(g)  # <- here


@MISTAKES.add("global_view: one stride for each extent is needed", expected="2")
def view_strides(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[32, 2], strides=[1])  # <- here


@MISTAKES.add(
    "global_view: ptr must be a pointer", expected="a parameter annotated ~dtype or void_p"
)
def view_of_int(self, p: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float32, shape=[32, 2])  # <- here


@MISTAKES.add(
    "g reaches outside the memory of p",
    hint="the shape given to global_view is larger than the tensor passed",
)
def view_too_large(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[4096])
    a = self.load_global(g, offsets=[0], shape=[4096])  # <- here
    self.print_tensor("a", a)


@MISTAKES.add("reshape: the number of elements changes", expected="32 elements")
def reshape_size(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape=[32], init=0)
    b = self.reshape(a, [16])  # <- here


@MISTAKES.add(
    "squeeze: the dimension has more than one element",
    hint="use sum, max, ... to reduce a dimension",
)
def squeeze_wide(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape=[32, 2], init=0)
    b = self.squeeze(a, 1)  # <- here


@MISTAKES.add("transpose: two dimensions are needed", found="rank 1")
def transpose_rank(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape=[32], init=0)
    b = self.transpose(a)  # <- here


@MISTAKES.add(
    "a slice has no step", hint="give the tensor strides: global_view(ptr, dtype=..., shape=...,"
)
def slice_step(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[32])
    h = g[::2]  # <- here


@MISTAKES.add("more indices than dimensions", expected="at most 1")
def slice_too_many(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[32])
    h = g[0, 0]  # <- here


@MISTAKES.add("shared_slice: the index is out of bounds", expected="within 0..1")
def slice_oob_shared(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.shared_tensor(dtype=float16, shape=[2, 32])
    h = g[2]  # <- here


@MISTAKES.add(
    "shared_slice: the index is out of bounds",
    hint="guard it with an if statement, or use load_global(offsets=),",
)
def slice_oob_shared_runtime(self, n: int32):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.shared_tensor(dtype=float16, shape=[2, 32])
    a = self.register_tensor(dtype=float16, shape=[32], init=0)
    self.store_shared(g[n], a)  # <- here


@MISTAKES.add("an index is an integer, a scalar or a slice", found="int32[32] in dimension 0")
def slice_by_tile(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[32])
    a = self.register_tensor(dtype=int32, shape=[32], init=0)
    h = g[a]  # <- here


@MISTAKES.add("assign: the new value of a has another type", hint="use another name")
def assign_of_another_shape(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape=[32], init=0)
    b = self.register_tensor(dtype=float32, shape=[64], init=0)
    self.assign(a, b)  # <- here


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.kernel.__name__)
def test_the_message_says_where_what_and_what_to_do(mistake: Mistake):
    mistake.check()
