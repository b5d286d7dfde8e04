"""Casts of tiles: the values are those of dtypes.convert, which has its own exhaustive test."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import failure, run_body
from tilus import dtypes
from tilus.dtypes import float16, float32, int4b, int8, int32


def test_a_float_truncates_and_saturates():
    expected = [1, -1, 127, -128, 0]
    result = run_body(lambda k: k("cast", k.tile([1.9, -1.9, 300, -1e9, np.nan], float32), int8))
    assert expected == result.tolist()


def test_the_method_of_a_tile_is_the_same():
    values = np.arange(-8, 8)
    result = run_body(lambda k: k.method(k.tile(values, int4b), "to", float16))
    assert values.tolist() == result.tolist()


@pytest.mark.parametrize("nbits", range(1, 9))
def test_every_code_of_every_narrow_integer(nbits):
    dtype = dtypes.dtype_from_name(f"uint{nbits}b" if nbits < 8 else "uint8")
    codes = np.arange(2**nbits)
    result = run_body(lambda k: k("cast", k.tile(codes, dtype), float32))
    assert codes.tolist() == result.tolist()


def test_the_same_dtype_is_a_copy():
    assert [1.5, 2.5] == run_body(
        lambda k: k("cast", k.tile([1.5, 2.5], float16), float16)
    ).tolist()


def test_a_tile_of_rank_zero():
    assert 3 == run_body(lambda k: k("cast", k.tile(3.7, float32), int32))


def test_a_scalar_is_refused_with_the_way_out():
    message = failure(lambda k: k("cast", int32(1), int8))
    assert "cast: x must be a register tensor" in message
    assert "convert a scalar with dtype(x), such as int32(x)" in message


def test_a_tile_in_shared_memory_is_loaded_first():
    message = failure(lambda k: k("cast", k.shared([1.0], float32), int8))
    assert "load it into registers first: self.load_shared(...)" in message


def test_a_dtype_is_needed():
    message = failure(lambda k: k("cast", k.tile([1.0], float32), "int8"))
    assert "cast: dtype must be a data type" in message and "'int8'" in message


def test_floats_do_not_become_addresses():
    message = failure(lambda k: k("cast", k.tile([1.0], float32), ~float32))
    assert "floats and addresses do not convert to each other" in message
    assert "cast through int64" in message
