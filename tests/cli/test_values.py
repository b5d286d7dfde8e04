"""Values and files of the command line: what a text stands for, what a file keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tilus
from tilus.cli.files import load_array, save_array
from tilus.cli.values import parse_constant, parse_value
from tilus.errors import TilusError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16", 16),
        ("-3", -3),
        ("1e-3", 1e-3),
        ("true", True),
        ("False", False),
        ("None", None),
        ("relu", "relu"),
        ("int4b", "int4b"),
    ],
)
def test_scalars(text, expected):
    value = parse_value(text)
    assert expected == value and type(expected) is type(value)


@pytest.mark.parametrize(
    ("text", "dtype", "shape", "values"),
    [
        ("float16[2, 2]", tilus.float16, (2, 2), [[0, 0], [0, 0]]),
        ("ones:u4[3]", tilus.uint4b, (3,), [1, 1, 1]),
        ("arange:int3b[6]", tilus.int3b, (6,), [0, 1, 2, 3, -4, -3]),
        ("arange:f4e2m1[8]", tilus.float4_e2m1, (8,), [0, 1, 2, 3, 4, 4, 6, 6]),
        ("ones:float32[]", tilus.float32, (), 1),
        ("zeros:int8[0]", tilus.int8, (0,), []),
        ("codebook1[-1.0,0.5][2]", tilus.codebook(1, [-1.0, 0.5]), (2,), None),
    ],
)
def test_tensors(text, dtype, shape, values):
    if values is None:
        text, values = f"arange:{text}", [0.5, 0.5]  # 0 and 1 are nearest to code 1
    tensor = parse_value(text)
    assert (dtype, shape) == (tensor.dtype, tensor.shape)
    assert values == tensor.to(tilus.float32).torch().tolist()


def test_random_tensors_have_their_distributions():
    torch.manual_seed(0)
    uniform = parse_value("rand:float32[1000]").torch()
    normal = parse_value("randn:bfloat16[1000]").torch()
    assert 0 <= uniform.min() and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.05
    assert abs(normal.float().mean()) < 0.1 and abs(normal.float().std() - 1) < 0.1


def test_random_integers_take_every_value():
    torch.manual_seed(0)
    counts = parse_value("randint:int3b[8000]").to(tilus.int32).torch().add(4).bincount()
    assert 8 == len(counts) and counts.min() > 900
    assert {0, 1} == set(parse_value("randint:u1[100]").to(tilus.int32).torch().tolist())


def test_constants_know_data_types():
    assert tilus.int4b is parse_constant("int4b")
    assert "relu" == parse_constant("relu") and 4 == parse_constant("4")


def test_a_tensor_beyond_memory_is_an_error():
    with pytest.raises(TilusError, match="the tensor cannot be made"):
        parse_value("randn:float32[999999999999,999999999]")


@pytest.mark.parametrize("name", ["int4b", "float6_e3m2", "bfloat16", "float8_e4m3", "boolean"])
def test_arrays_of_every_kind_of_dtype_survive_a_file(tmp_path, name):
    tensor = parse_value(f"arange:{name}[2, 3]")
    save_array(tmp_path / "a.npy", tensor)
    again = load_array(tmp_path / "a.npy", name)
    assert tensor.shape == again.shape
    assert np.array_equal(tensor.numpy_carrier(), again.numpy_carrier())


def test_a_file_of_objects_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(TilusError, match=r"cannot be read as a \.npy file"):
        load_array(path)


def test_big_endian_arrays_are_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([1.5, -2.0], ">f4"))
    assert [1.5, -2.0] == load_array(tmp_path / "a.npy").torch().tolist()
