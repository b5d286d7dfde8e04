"""What kernels print."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import failure, printed_by
from tilus.dtypes import boolean, float16, float32, int4b, int32, int64
from tilus.instructions.debug import Printf, PrintTensor
from tilus.ir.expr import BLOCK_IDX
from tilus.ir.tensor import RegisterTensor

B = BLOCK_IDX[0]


def test_a_tile_prints_its_values():
    whole, elements = printed_by(
        lambda k: k("print_tensor", "x:", k.tile([[1, -2], [3, 4]], int4b))
    )
    assert "x: int4b[2, 2]\n[[ 1 -2]\n [ 3  4]]\n" == whole
    # Generated code prints an element a line, in no order.
    expected = [((0, 0), 1), ((0, 1), -2), ((1, 0), 3), ((1, 1), 4)]
    lines = [f"[block 0, 0, 0] x:[{i}, {j}] = {value}" for (i, j), value in expected]
    assert lines == sorted(elements.splitlines())


def test_a_shared_tile_prints_what_is_visible():
    printed = printed_by(lambda k: k("print_tensor", "s:", k.shared([1.5], float16)))
    assert ["s: shared float16[1]\n[1.5]\n", "[block 0, 0, 0] s:[0] = 1.5\n"] == printed
    hidden = failure(lambda k: k("print_tensor", "", k("shared_tensor", dtype=float16, shape=[1])))
    assert "is read before it was written" in hidden


def test_blocks_print_in_order_and_say_which_they_are():
    printed, elements = printed_by(
        lambda k: k("print_tensor", "x:", k("register_tensor", dtype=int32, shape=[1], init=B)),
        blocks=2,
    )
    assert "[block 0, 0, 0] x: int32[1]\n[0]\n[block 1, 0, 0] x: int32[1]\n[1]\n" == printed
    assert "[block 0, 0, 0] x:[0] = 0\n[block 1, 0, 0] x:[0] = 1\n" == elements


@pytest.mark.parametrize(
    ("fmt", "args", "expected"),
    [
        ("plain\n", (), "plain\n"),
        ("%d%%", (5,), "5%"),
        ("%5.2f|%-4d|%e", (1.5, 3, 0.5), " 1.50|3   |5.000000e-01"),
        ("%x %u %X", (int32(-1), int32(-1), int64(255)), "ffffffff 4294967295 FF"),
        ("%ld %llu %hhd", (int64(2**40), int64(1), 7), "1099511627776 1 7"),
        ("%d", (boolean(True),), "1"),
        ("%c%i", (65, 2), "A2"),
        ("%g", (float32(0.25),), "0.25"),
    ],
)
def test_printf_writes_as_c_does(fmt, args, expected):
    assert [expected, expected] == printed_by(lambda k: k("printf", fmt, *args))


def test_printf_prints_once_in_each_block():
    expected = "b0 of 3\nb1 of 3\nb2 of 3\n"
    assert [expected, expected] == printed_by(
        lambda k: k("printf", "b%d of 3\n", B), warps=4, blocks=3
    )


@pytest.mark.parametrize(
    ("fmt", "args", "expected"),
    [
        ("%d", (), "1 conversions, 0 arguments"),
        ("%d", (1, 2), "1 conversions, 2 arguments"),
        ("%d", (1.5,), "%d does not print a float32"),
        ("%f", (1,), "%f does not print a int32"),
        ("%s", (1,), "put text into the format with an f-string"),
        ("50% ", (), "the format has a conversion that is not known"),
        (1, (), "printf: fmt must be str"),
        ("%d", ("text",), "a scalar is needed here"),
        ("%d", (RegisterTensor(int32, (1,)),), "use self.print_tensor(msg, tile)"),
    ],
)
def test_formats_that_do_not_fit(fmt, args, expected):
    assert expected in failure(lambda k: k("printf", fmt, *args))


def test_print_tensor_checks_its_arguments():
    tile = RegisterTensor(int32, (1,))
    assert "msg must be a text" in failure(lambda k: k("print_tensor", tile, tile))
    message = failure(lambda k: k("print_tensor", "g", k.array(np.zeros(3), int32)))
    assert "only register and shared tiles can be printed" in message


def test_printing_is_never_removed():
    assert not PrintTensor.effects.removable and not Printf.effects.removable
