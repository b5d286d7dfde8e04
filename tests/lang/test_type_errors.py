"""Mistakes with the dtypes of tiles and tensors, and what users are told."""

# ruff: noqa: F841
# The kernels are wrong on purpose; Python never runs them.

from __future__ import annotations

import pytest

from tests.lang.mistakes import Mistake, Mistakes
from tilus import float8_e4m3, float16, float32, int8, int32, uint4b

MISTAKES = Mistakes()


@MISTAKES.add("dot: the shapes do not multiply", hint="transpose or reshape an operand")
def dot_shapes(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float16, shape=[16, 16], init=0.0)
    b = self.register_tensor(dtype=float16, shape=[8, 16], init=0.0)
    c = self.dot(a, b)  # <- here


@MISTAKES.add("dot: the shapes do not multiply", hint="transpose or reshape an operand")
def dot_rank(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float16, shape=[16], init=0.0)
    c = self.dot(a, a)  # <- here


@MISTAKES.add(
    "dot: a must be a register tensor", hint="load it into registers first: self.load_shared(...)"
)
def dot_shared(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.shared_tensor(dtype=float16, shape=[16, 16])
    c = self.dot(a, a)  # <- here


@MISTAKES.add("dot: uint4b is a storage format", hint="cast the operand first: x.to(tilus.float16)")
def dot_subbyte(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=uint4b, shape=[16, 16], init=0)
    c = self.dot(a, a)  # <- here


@MISTAKES.add("dot: the accumulator does not fit the operands", hint="acc_dtype=float32")
def dot_acc(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float16, shape=[16, 16], init=0.0)
    c = self.dot(a, a, acc_dtype=int32)  # <- here


@MISTAKES.add(
    "dot: c is of another type", hint="c and out have the accumulator's dtype: acc_dtype=..."
)
def dot_acc_shape(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float16, shape=[16, 16], init=0.0)
    acc = self.register_tensor(dtype=float32, shape=[16, 8], init=0.0)
    c = self.dot(a, a, acc)  # <- here


@MISTAKES.add(
    "no arithmetic is defined on uint4b", hint="cast it first, for example x.to(tilus.float16)"
)
def subbyte_arith(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=uint4b, shape=[32], init=0)
    c = a + a  # <- here


@MISTAKES.add(
    "no arithmetic is defined on float8_e4m3", hint="cast it first, for example x.to(tilus.float16)"
)
def f8_arith(self):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float8_e4m3, shape=[32], init=0)
    c = a + 1  # <- here


@MISTAKES.add(
    "store_global: the dtypes of the tile and of the tensor differ",
    hint="cast the tile: .to(float16)",
)
def store_dtype(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    g = self.global_view(p, dtype=float16, shape=[32])
    a = self.register_tensor(dtype=float32, shape=[32], init=0)
    self.store_global(g, a, offsets=[0])  # <- here


@MISTAKES.add(
    "store_shared: the dtypes of the tile and of the tensor differ",
    hint="cast the tile: .to(float16)",
)
def store_shared_dtype(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.shared_tensor(dtype=float16, shape=[32])
    a = self.register_tensor(dtype=float32, shape=[32], init=0)
    self.store_shared(s, a)  # <- here


@MISTAKES.add(
    "store_shared: the shapes of the tile and of the tensor differ",
    hint="take a part of the tensor: s[i, :, 0:32], or store with offsets=",
)
def store_shared_shape(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.shared_tensor(dtype=float16, shape=[32])
    a = self.register_tensor(dtype=float16, shape=[64], init=0)
    self.store_shared(s, a)  # <- here


@MISTAKES.add(
    "store_shared: the tile reaches outside the shared tensor",
    hint="shared memory has no bounds to skip at: choose offsets inside",
)
def store_shared_offset_oob(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.shared_tensor(dtype=float16, shape=[64])
    a = self.register_tensor(dtype=float16, shape=[32], init=0)
    self.store_shared(s, a, offsets=[40])  # <- here


@MISTAKES.add(
    "load_shared: the shapes of the tile and of the tensor differ",
    hint="take a part of the tensor: s[i, :, 0:32], or store with offsets=",
)
def load_shared_out(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.shared_tensor(dtype=float16, shape=[64])
    a = self.register_tensor(dtype=float16, shape=[32], init=0)
    self.load_shared(s, out=a)  # <- here


@MISTAKES.add("sum: dim must name different dimensions", expected="of -2..1, none twice")
def reduce_dim(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float16, shape=[32, 4], init=0)
    b = self.sum(a, dim=2)  # <- here


@MISTAKES.add(
    "sum: the sum of booleans would be a boolean",
    hint="count them with self.sum(x.to(tilus.int32))",
)
def sum_bool(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float16, shape=[32, 4], init=0)
    b = self.sum(a > 0, dim=0)  # <- here


@MISTAKES.add(
    "no arithmetic is defined on uint4b", hint="cast it first, for example x.to(tilus.float16)"
)
def sum_of_subbyte(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=uint4b, shape=[32, 4], init=0)
    b = self.sum(a, dim=0)  # <- here


@MISTAKES.add("sum: the result is of another type", expected="float16[4]")
def reduce_out(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float16, shape=[32, 4], init=0)
    o = self.register_tensor(dtype=float16, shape=[32], init=0)
    self.sum(a, dim=0, out=o)  # <- here


@MISTAKES.add(
    "constant out of range of uint4b",
    hint="use a wider type, or cast a value at run time, which saturates",
)
def init_out_of_range(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=uint4b, shape=[32, 4], init=16)  # <- here


@MISTAKES.add(
    "constant out of range of int8",
    hint="use a wider type, or cast a value at run time, which saturates",
)
def scalar_operand_out_of_range(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=int8, shape=[32, 4], init=0)
    b = a + 200  # <- here


@MISTAKES.add("the function takes another number of indices", expected="2 arguments")
def init_lambda_arity(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=uint4b, shape=[32, 4], init=lambda i: i)  # <- here


@MISTAKES.add("a scalar is needed here", expected="a Python number or a scalar of the kernel")
def init_lambda_tile(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[32, 4], init=0)
    a = self.register_tensor(dtype=float32, shape=[32, 4], init=lambda i, j: x)  # <- here


@MISTAKES.add("a scalar is needed here", expected="a Python number or a scalar of the kernel")
def init_tile(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    x = self.register_tensor(dtype=float32, shape=[32, 4], init=0)
    a = self.register_tensor(dtype=float32, shape=[32, 4], init=x)  # <- here


@MISTAKES.add("a scalar is needed here", expected="a Python number or a scalar of the kernel")
def init_string(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape=[32, 4], init="zeros")  # <- here


@MISTAKES.add("register_tensor: dtype must be a data type", expected="a data type")
def bad_dtype_arg(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype="float32", shape=[32, 4], init=0)  # <- here


@MISTAKES.add(
    "argument: 'dtype'",  # Python 3.12 adds that it is a keyword-only one
    expected="register_tensor(*, dtype, shape, init=None)",
)
def missing_dtype_arg(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(shape=[32, 4], init=0)  # <- here


@MISTAKES.add(
    "register_tensor: too many positional arguments",
    expected="register_tensor(*, dtype, shape, init=None)",
)
def positional_only(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(float16, [32, 4])  # <- here


@MISTAKES.add(
    "register_tensor: got an unexpected keyword argument 'fill'",
    expected="register_tensor(*, dtype, shape, init=None)",
)
def unknown_kwarg(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float16, shape=[32, 4], fill=0)  # <- here


@MISTAKES.add("exp takes 1 operands", expected="1")
def exp_arity(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape=[32, 4], init=0)
    b = self.exp(a, a)  # <- here


@MISTAKES.add("exp takes 1 operands", expected="1")
def exp_of_nothing(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    b = self.exp()  # <- here


@MISTAKES.add("a scalar is needed here", expected="a Python number or a scalar of the kernel")
def exp_of_string(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    b = self.exp("a")  # <- here


@MISTAKES.add(
    "exp works on register tiles",
    hint="load it first: self.load_shared(...) or self.load_global(...)",
)
def exp_of_shared(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    s = self.shared_tensor(dtype=float16, shape=[64])
    b = self.exp(s)  # <- here


@MISTAKES.add(
    "item: only a tile of one element is a scalar",
    hint="reduce it first, for example with self.sum(x)",
)
def item_many(self, p: ~float16):
    self.attrs.blocks, self.attrs.warps = 1, 1
    a = self.register_tensor(dtype=float32, shape=[32, 4], init=0)
    b = a.item()  # <- here


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.kernel.__name__)
def test_the_message_says_where_what_and_what_to_do(mistake: Mistake):
    mistake.check()
