"""Launch arguments: grid expressions as Python, and the bytes a kernel reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.fakes import DeviceTensor
from tilus import dtypes
from tilus.errors import TilusError
from tilus.ir.expr import BLOCK_IDX, Apply, Const, Var, apply, cast, evaluate, mul
from tilus.ir.operators import CAST, OPERATORS
from tilus.ir.parser import parse_program
from tilus.runtime.binding import (
    ArgumentBuffer,
    Packing,
    carriers,
    explain,
    make_bind,
    python_text,
)
from tilus.tensor import from_torch

INTEGERS = [
    dtypes.dtype_from_name(f"{kind}{nbits}") for kind in ("int", "uint") for nbits in (8, 16, 32)
] + [dtypes.int64, dtypes.uint64]
PLAIN_OPERATORS = (
    "add", "sub", "mul", "floordiv", "mod", "bitand", "bitor", "bitxor", "neg", "min", "max",
    "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "where",
)  # fmt: skip


def program(head, body="pass"):
    return parse_program(f"kernel f{head} warps=4:\n    {body}")


# ---- expressions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(n + 255) // 256", "(((a0 + 255 + 2147483648 & 4294967295) - 2147483648) // 256)"),
        ("n // 4", "(a0 // 4)"),
        ("n % 4", "(a0 % 4)"),
        ("min(n, 7)", "min(a0, 7)"),
        ("where(n == 0, 1, n)", "(1 if (a0 == 0) else a0)"),
        ("cast(n, int64)", "a0"),
        ("cast(n, uint8)", "(a0 & 255)"),
        ("-3", "(-3)"),
    ],
)
def test_the_python_of_an_expression(text, expected):
    kernel = program(f"(n: int32) blocks=[{text}]")
    (n,) = (param.var for param in kernel.params)
    got = python_text(kernel.blocks[0], {n: "a0"})
    assert expected.replace(" ", "").replace("(a0+255+", "((a0+255)+") == got.replace(" ", "")


@pytest.mark.parametrize("text", ["n << 1", "abs(n)", "cast(cast(n, float32) / 2.0, int32)"])
def test_rarer_operators_are_left_to_the_definition(text):
    kernel = program(f"(n: int32) blocks=[{text}]")
    assert python_text(kernel.blocks[0], {kernel.params[0].var: "a0"}) is None


def test_pointers_and_unknown_variables_are_left_to_the_definition():
    pointer = Var(~dtypes.float32, "p")
    assert python_text(Apply(dtypes.boolean, "eq", (pointer, pointer)), {pointer: "a0"}) is None
    assert python_text(BLOCK_IDX[0], {}) is None


@st.composite
def expressions(draw, variables, depth=3):
    if depth == 0 or draw(st.booleans()):
        if draw(st.booleans()):
            return draw(st.sampled_from(variables))
        dtype = draw(st.sampled_from(INTEGERS))
        edge = st.sampled_from([0, 1, dtype.min_value, dtype.max_value])
        inside = st.integers(dtype.min_value, dtype.max_value)
        return Const(dtype, draw(edge | inside))
    if draw(st.integers(0, 5)) == 0:
        dtype = draw(st.sampled_from([*INTEGERS, dtypes.boolean]))
        return Apply(dtype, CAST, (draw(expressions(variables, depth - 1)),))
    op = draw(st.sampled_from(PLAIN_OPERATORS))
    args = tuple(draw(expressions(variables, depth - 1)) for _ in range(OPERATORS[op].arity))
    return Apply(OPERATORS[op].result(tuple(a.dtype for a in args)), op, args)


@given(st.data())
def test_the_python_means_what_the_expression_means(data):
    variables = [Var(dtype, f"v{i}") for i, dtype in enumerate(INTEGERS)]
    expr = data.draw(expressions(variables))
    values = [data.draw(st.integers(v.dtype.min_value, v.dtype.max_value)) for v in variables]
    text = python_text(expr, {v: f"a{i}" for i, v in enumerate(variables)})
    if text is None:  # the arithmetic of booleans
        return
    try:
        expected = int(evaluate(expr, carriers(variables, values)))
    except TilusError:  # division by zero; Python need not get there, where `and` decides earlier
        return
    assert expected == int(eval(text, {f"a{i}": value for i, value in enumerate(values)}))


# ---- binding ------------------------------------------------------------------------------------


def test_a_launch_of_a_vector_addition():
    kernel = program("(n: int32, x: ~float32, y: ~float32) blocks=[(n + 255) // 256]")
    bind = make_bind(kernel, [])
    expected = (1, 4, 1, 1, (1000, 4096, 8192), ())
    assert expected == bind([1000, DeviceTensor(4096, 1), DeviceTensor(8192, 1)])


def test_addresses_name_no_device():
    bind = make_bind(program("(p: void_p) blocks=[2, 3, 4]"), [])
    assert (None, 2, 3, 4, (4096,), ()) == bind([4096])


def test_a_kernel_without_parameters():
    assert (None, 1, 1, 1, (), ()) == make_bind(program("() blocks=[1]"), [])([])


def test_tensors_of_tilus_and_torch():
    tensor = torch.arange(4, dtype=torch.float32)
    bind = make_bind(program("(x: ~float32, y: ~float32) blocks=[1]"), [])
    address = tensor.data_ptr()
    assert (-1, 1, 1, 1, (address, address), ()) == bind([tensor, from_torch(tensor)])


def test_workspaces_are_measured():
    kernel = program("(n: int32) blocks=[n]")
    n = kernel.params[0].var
    bind = make_bind(kernel, [mul(n, 4), cast(apply("truediv", n, 2), dtypes.int64)])
    assert (28, 3) == bind([7])[-1]


@pytest.mark.parametrize("blocks", ["n", "1, n", "1, 1, n"])
def test_an_empty_grid_is_none(blocks):
    assert make_bind(program(f"(n: int32) blocks=[{blocks}]"), [])([0]) is None


@pytest.mark.parametrize(
    ("blocks", "n", "message"),
    [
        ("n", -1, "the grid does not fit in x"),
        ("1, n", 65536, "the grid does not fit in y"),
        ("1, 1, n", 65536, "the grid does not fit in z"),
    ],
)
def test_a_grid_that_no_device_can_run(blocks, n, message):
    bind = make_bind(program(f"(n: int32) blocks=[{blocks}]"), [])
    with pytest.raises(TilusError) as caught:
        bind([n])
    assert message == caught.value.message


def test_the_largest_grids_are_fine():
    bind = make_bind(program("(n: int32, m: int32) blocks=[n, m, m]"), [])
    assert (2**31 - 1, 65535, 65535) == bind([2**31 - 1, 65535])[1:4]


# ---- what is said of bad values -----------------------------------------------------------------

HEAD = "(n: int32 % 16, s: float32, x: ~float32 % 16, y: ~float16) blocks=[n // 4]"
X = torch.zeros(64)
GOOD = [16, 1.5, X, 4096]


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, 17, "the argument n breaks what the program was compiled for"),
        (0, 16.5, "the argument n is of the wrong kind"),
        (0, True, "the argument n is of the wrong kind"),
        (0, 2**31, "the argument n is of the wrong kind"),
        (0, None, "the argument n is of the wrong kind"),
        (1, "1", "the argument s is of the wrong kind"),
        (2, X[1:], "the argument x breaks what the program was compiled for"),
        (2, 1.0, "the argument x is of the wrong kind"),
        (2, None, "the argument x is of the wrong kind"),
        (3, DeviceTensor(0, 1), "the tensors of a launch are on different devices"),
        (0, -16, "the grid does not fit in x"),
    ],
)
def test_bad_values_are_explained(index, value, message):
    values = [*GOOD[:index], value, *GOOD[index + 1 :]]
    with pytest.raises(TilusError) as caught:
        explain(program(HEAD), [], values)
    assert message == caught.value.message


@pytest.mark.parametrize("values", [GOOD[:-1], [*GOOD, 1], []])
def test_a_wrong_number_of_values(values):
    with pytest.raises(TilusError) as caught:
        explain(program(HEAD), [], values)
    assert (str(len(values)), "n, s, x, y") == (caught.value.found, caught.value.expected)


@pytest.mark.parametrize("in_grid", [True, False])
def test_a_division_by_zero_is_explained(in_grid):
    kernel = program(f"(n: int32) blocks=[{'8 // n' if in_grid else '1'}]")
    workspaces = [] if in_grid else [8 // kernel.params[0].var]
    with pytest.raises(ZeroDivisionError):
        make_bind(kernel, workspaces)([0])
    with pytest.raises(TilusError) as caught:
        explain(kernel, workspaces, [0])
    assert "integer division by zero" == caught.value.message


def test_numbers_of_numpy_become_pythons():
    plain = explain(
        program("(n: int32, s: float16) blocks=[1]"), [], [np.int64(5), np.float32(0.1)]
    )
    assert [5, float(np.float16(0.1))] == plain
    assert [int, float] == [type(value) for value in plain]


# ---- bytes --------------------------------------------------------------------------------------


def packed(params, values, workspaces=0):
    packing = Packing(params, workspaces)
    buffer = ArgumentBuffer(packing)
    buffer.pack(*packing.encoded(tuple(values)))
    return packing.offsets, buffer.bytes()


def test_each_argument_is_at_a_multiple_of_its_size():
    params = [dtypes.int8, dtypes.int16, dtypes.int8, dtypes.int32, dtypes.int8, ~dtypes.int4b]
    offsets, data = packed(params, [1, 2, 3, 4, 5, 6])
    assert [0, 2, 4, 8, 12, 16] == offsets
    assert bytes.fromhex("0100 0200 03000000 04000000 05000000 0600000000000000") == data


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (dtypes.int8, -1, "ff"),
        (dtypes.uint16, 65535, "ffff"),
        (dtypes.int32, -2, "feffffff"),
        (dtypes.uint64, 2**64 - 1, "ffffffffffffffff"),
        (dtypes.float16, 1.0, "003c"),
        (dtypes.bfloat16, 1.0, "803f"),
        (dtypes.float32, 1.0, "0000803f"),
        (dtypes.tfloat32, 1.0, "0000803f"),
        (dtypes.float64, 1.0, "000000000000f03f"),
        (dtypes.boolean, True, "01"),
        (dtypes.int4b, -1, "0f"),
        (dtypes.float8_e4m3, 1.0, "38"),
        (dtypes.void_p, 2**63, "0000000000000080"),
    ],
)
def test_the_bytes_of_each_type(dtype, value, expected):
    assert bytes.fromhex(expected) == packed([dtype], [value])[1]


def test_workspaces_follow_the_arguments():
    offsets, data = packed([dtypes.int32], [7, 256, 512], workspaces=2)
    assert [0, 8, 16] == offsets
    assert (256, 512) == tuple(np.frombuffer(data[8:], np.uint64))


def test_no_arguments_at_all():
    assert ([], b"\0") == packed([], [])
