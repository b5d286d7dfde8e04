"""`ops.matmul`: the low-precision programs against a float64 matmul with the same weights."""

from __future__ import annotations

import pytest
import torch

import tilus
from tilus import TilusError
from tilus.dtypes import LOW_PRECISION, DataType
from tilus.ops import matmul, quantize

IDS = [d.name for d in LOW_PRECISION]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check(x: torch.Tensor, q: tilus.ops.QuantizedTensor, y: torch.Tensor) -> None:
    """Weights and the result are each rounded once to x's dtype; sums are float32."""
    expected = x.double() @ q.dequantize(torch.float64).T
    unit = torch.finfo(x.dtype).eps / 2
    # |x| |w|^T is the sum of the products' sizes; their weights carry up to 2 units of rounding.
    size = x.double().abs() @ q.dequantize(torch.float64).abs().T
    bound = unit * (2.5 * size + 1.01 * expected.abs()) + 1e-6
    assert bool(((y.double() - expected).abs() <= bound).all())


@pytest.mark.parametrize("activations", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=IDS)
def test_every_type(dtype: DataType, activations: torch.dtype):
    q = quantize(random(72, 128) * 0.05, dtype, group_size=64)
    x = random(5, 128, seed=1, dtype=activations)
    check(x, q, matmul(x, q))


@pytest.mark.parametrize("dtype", [d for d in LOW_PRECISION if d.is_integer()], ids=str)
def test_zero_points(dtype: DataType):
    q = quantize(random(64, 64) * 0.05 + 0.02, dtype, group_size=32, symmetric=False)
    x = random(3, 64, seed=1, dtype=torch.float16)
    assert q.zeros is not None
    check(x, q, matmul(x, q))


@pytest.mark.parametrize("m", [1, 5, 16, 17, 32, 40, 65])
def test_any_number_of_rows(m: int):
    q = quantize(random(64, 96) * 0.05, tilus.int4b, group_size=32)
    x = random(m, 96, seed=m, dtype=torch.float16)
    check(x, q, matmul(x, q))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 64), (33, 7), (65, 100), (200, 129)])
@pytest.mark.parametrize("dtype", [tilus.uint3b, tilus.float5_e2m2, tilus.int8], ids=str)
def test_odd_shapes_with_one_group_per_row(n: int, k: int, dtype: DataType):
    q = quantize(random(n, k) * 0.05, dtype, group_size=-1)
    x = random(4, k, seed=1, dtype=torch.float16)
    check(x, q, matmul(x, q))


@pytest.mark.parametrize("group_size", [16, 32, 48, 64, 128, 256])
def test_group_sizes(group_size: int):
    q = quantize(random(40, 768) * 0.05, tilus.uint5b, group_size, symmetric=False)
    x = random(2, 768, seed=1, dtype=torch.float16)
    check(x, q, matmul(x, q))


@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_scales_of_any_float_type(scale_dtype: torch.dtype):
    q = quantize(random(64, 64) * 0.05, tilus.int6b, 32, scale_dtype=scale_dtype)
    x = random(3, 64, seed=1, dtype=torch.float16)
    assert q.scales.dtype == scale_dtype
    check(x, q, matmul(x, q))


def test_codes_beyond_float16():
    """float7_e5m1 reaches 98304, float16 only 65504: such codes are scaled in float32."""
    dtype = tilus.float7_e5m1
    largest = tilus.tensor.from_carrier(dtype.encode(torch.full((8, 16), 98304.0).numpy()), dtype)
    scales = torch.full((1, 8), 2.0**-10, dtype=torch.float16)
    q = tilus.ops.QuantizedTensor(dtype, (8, 16), 16, largest, scales)
    x = torch.ones(1, 16, dtype=torch.float16)
    assert torch.equal(matmul(x, q), torch.full((1, 8), 16 * 96.0, dtype=torch.float16))


def test_leading_dimensions_and_out():
    q = quantize(random(64, 32) * 0.05, tilus.int4b, 32)
    x = random(2, 3, 32, seed=1, dtype=torch.float16)
    out = torch.empty(2, 3, 64, dtype=torch.float16)
    assert matmul(x, q, out=out) is out
    assert torch.equal(out.reshape(6, 64), matmul(x.reshape(6, 32), q))


def test_non_contiguous_activations():
    q = quantize(random(64, 32) * 0.05, tilus.int4b, 32)
    x = random(32, 4, seed=1, dtype=torch.float16).T
    assert torch.equal(matmul(x, q), matmul(x.contiguous(), q))


def test_no_rows():
    q = quantize(random(64, 32), tilus.int4b, 32)
    assert matmul(torch.empty(0, 32, dtype=torch.float16), q).shape == (0, 64)


def test_the_weight_is_packed_once():
    q = quantize(random(64, 32), tilus.int4b, 32)
    x = random(2, 32, dtype=torch.float16)
    matmul(x, q)
    (first,) = q.prepared.values()
    matmul(x, q)
    assert [first.data_ptr()] == [t.data_ptr() for t in q.prepared.values()]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda q: matmul(torch.ones(2, 32), q), ["float32", "x.half()"]),
        (lambda q: matmul([1.0], q), ["list", "torch.float16"]),
        (lambda q: matmul(torch.ones(2, 31).half(), q), ["[2, 31]", "[..., 32]"]),
        (lambda q: matmul(torch.ones(2, 32, device="meta").half(), q), ["meta and cpu"]),
        (
            lambda q: matmul(torch.ones(2, 32).half(), q, out=torch.empty(2, 64)),
            ["out does not fit", "torch.float16 [2, 64]"],
        ),
        (
            lambda q: matmul(torch.ones(2, 32).half(), q, out=torch.empty(64, 2).half().T),
            ["contiguous"],
        ),
    ],
)
def test_bad_input_is_named(call, words: list[str]):
    q = quantize(random(64, 32), tilus.int4b, 32)
    with pytest.raises(TilusError) as info:
        call(q)
    for word in words:
        assert word in str(info.value)


def test_groups_the_tensor_core_cannot_take():
    q = quantize(random(64, 40), tilus.int4b, 8)
    with pytest.raises(TilusError, match="multiple of 16"):
        matmul(torch.ones(1, 40).half(), q)
