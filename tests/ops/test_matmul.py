"""`ops.matmul`: the low-precision programs against a float64 matmul with the same weights, and
torch in their place on the CPU.
"""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch

import tilus
from tilus import TilusError
from tilus.dtypes import LOW_PRECISION, DataType
from tilus.ops import NF4, QuantizedTensor, matmul, quantize
from tilus.ops.products import pack_weight, tile_format, unpack_weight

IDS = [d.name for d in LOW_PRECISION]


@pytest.fixture
def kernel():
    """The programs themselves, where torch would multiply."""
    with tilus.option.context(engine="interpreter"):
        yield


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


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("activations", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=IDS)
def test_every_type(dtype: DataType, activations: torch.dtype):
    q = quantize(random(72, 128) * 0.05, dtype, group_size=64)
    x = random(5, 128, seed=1, dtype=activations)
    check(x, q, matmul(x, q))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("dtype", [d for d in LOW_PRECISION if d.is_integer()], ids=str)
def test_zero_points(dtype: DataType):
    q = quantize(random(64, 64) * 0.05 + 0.02, dtype, group_size=32, symmetric=False)
    x = random(3, 64, seed=1, dtype=torch.float16)
    assert q.zeros is not None
    check(x, q, matmul(x, q))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("m", [1, 5, 16, 17, 32, 40, 65])
def test_any_number_of_rows(m: int):
    q = quantize(random(64, 96) * 0.05, tilus.int4b, group_size=32)
    x = random(m, 96, seed=m, dtype=torch.float16)
    check(x, q, matmul(x, q))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 64), (33, 7), (65, 100), (200, 129)])
@pytest.mark.parametrize("dtype", [tilus.uint3b, tilus.float5_e2m2, tilus.int8], ids=str)
def test_odd_shapes_with_one_group_per_row(n: int, k: int, dtype: DataType):
    q = quantize(random(n, k) * 0.05, dtype, group_size=-1)
    x = random(4, k, seed=1, dtype=torch.float16)
    check(x, q, matmul(x, q))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("group_size", [16, 32, 48, 64, 128, 256])
def test_group_sizes(group_size: int):
    q = quantize(random(40, 768) * 0.05, tilus.uint5b, group_size, symmetric=False)
    x = random(2, 768, seed=1, dtype=torch.float16)
    check(x, q, matmul(x, q))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_scales_of_any_float_type(scale_dtype: torch.dtype):
    q = quantize(random(64, 64) * 0.05, tilus.int6b, 32, scale_dtype=scale_dtype)
    x = random(3, 64, seed=1, dtype=torch.float16)
    assert q.scales.dtype == scale_dtype
    check(x, q, matmul(x, q))


@pytest.mark.usefixtures("kernel")
def test_codes_beyond_float16():
    """float7_e5m1 reaches 98304, float16 only 65504: such codes are scaled in float32."""
    dtype = tilus.float7_e5m1
    largest = tilus.tensor.from_carrier(dtype.encode(torch.full((8, 16), 98304.0).numpy()), dtype)
    scales = torch.full((1, 8), 2.0**-10, dtype=torch.float16)
    q = tilus.ops.QuantizedTensor(dtype, (8, 16), 16, largest, scales)
    x = torch.ones(1, 16, dtype=torch.float16)
    assert torch.equal(matmul(x, q), torch.full((1, 8), 16 * 96.0, dtype=torch.float16))


@pytest.mark.usefixtures("kernel")
def test_leading_dimensions_and_out():
    q = quantize(random(64, 32) * 0.05, tilus.int4b, 32)
    x = random(2, 3, 32, seed=1, dtype=torch.float16)
    out = torch.empty(2, 3, 64, dtype=torch.float16)
    assert matmul(x, q, out=out) is out
    assert torch.equal(out.reshape(6, 64), matmul(x.reshape(6, 32), q))


@pytest.mark.usefixtures("kernel")
def test_non_contiguous_activations():
    q = quantize(random(64, 32) * 0.05, tilus.int4b, 32)
    x = random(32, 4, seed=1, dtype=torch.float16).T
    assert torch.equal(matmul(x, q), matmul(x.contiguous(), q))


@pytest.mark.usefixtures("kernel")
def test_no_rows():
    q = quantize(random(64, 32), tilus.int4b, 32)
    assert matmul(torch.empty(0, 32, dtype=torch.float16), q).shape == (0, 64)


@pytest.mark.usefixtures("kernel")
def test_the_weight_is_packed_once():
    q = quantize(random(64, 32), tilus.int4b, 32)
    x = random(2, 32, dtype=torch.float16)
    matmul(x, q)
    (first,) = q.prepared.values()
    matmul(x, q)
    assert [first.data_ptr()] == [t.data_ptr() for t in q.prepared.values()]


@pytest.mark.usefixtures("kernel")
def test_a_common_zero_point():
    q = quantize(random(64, 96) * 0.05, tilus.uint4b, 32)
    assert (None, 8.0) == (q.zeros, q.zero)
    x = random(3, 96, seed=1, dtype=torch.float16)
    check(x, q, matmul(x, q))


@pytest.mark.usefixtures("kernel")
def test_zero_points_that_are_no_integers():
    q = quantize(random(64, 96) * 0.05, tilus.uint4b, 32, symmetric=False)
    assert q.zeros is not None
    q = QuantizedTensor(q.dtype, q.shape, 32, q.codes, q.scales, q.zeros + 0.25)
    x = random(3, 96, seed=1, dtype=torch.float16)
    check(x, q, matmul(x, q))


@pytest.mark.parametrize("engine", ["auto", "interpreter"])
def test_bias_and_output_type(engine: str):
    q = quantize(random(64, 96) * 0.05, tilus.int4b, 32)
    x, bias = random(3, 96, seed=1, dtype=torch.float16), random(64, seed=2)
    exact = x.double() @ q.dequantize(torch.float64).T + bias.double()
    with tilus.option.context(engine=engine):
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            y = matmul(x, q, bias=bias, out_dtype=dtype)
            assert y.dtype == dtype
            torch.testing.assert_close(
                y.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=2e-3
            )
            out = torch.empty(3, 64, dtype=dtype)
            assert matmul(x, q, bias=bias, out=out) is out
            assert torch.equal(out, y)


@pytest.mark.parametrize("activations", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", [*LOW_PRECISION, NF4], ids=[*IDS, "nf4"])
def test_torch_multiplies_on_the_cpu(dtype: DataType, activations: torch.dtype):
    """The exact product of exactly dequantised weights, rounded to the output type once."""
    q = quantize(random(40, 96) * 0.05, dtype, group_size=32)
    x = random(5, 96, seed=1, dtype=activations)
    weight = q.dequantize(torch.float64)
    bound = 96 * 2.0**-24 * (x.double().abs() @ weight.abs().T)  # of adding 96 float32 products
    y = matmul(x, q, out_dtype=torch.float32)
    assert bool(((y.double() - x.double() @ weight.T).abs() <= bound).all())
    assert torch.equal(matmul(x, q), y.to(activations))


def test_autocast_does_not_touch_the_sums():
    q = quantize(random(40, 96) * 0.05, tilus.int4b, 32)
    x = random(5, 96, seed=1, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = matmul(x, q, out_dtype=torch.float32)
    assert torch.equal(matmul(x, q, out_dtype=torch.float32), y)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=IDS)
def test_on_a_gpu(dtype: DataType):
    q = quantize(random(72, 128) * 0.05, dtype, group_size=64)
    x = random(5, 128, seed=1, dtype=torch.float16)
    check(x, q, matmul(x.cuda(), q.cuda()).cpu())


# ---- packed forms --------------------------------------------------------------------------------


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("n", "k", "group"), [(64, 64, 64), (192, 576, 64), (33, 50, -1)])
@pytest.mark.parametrize("dtype", [*LOW_PRECISION, NF4], ids=[*IDS, "nf4"])
def test_unpacking_gives_back_the_codes(dtype: DataType, n: int, k: int, group: int):
    q = quantize(random(n, k), dtype, group)
    tiles = tile_format(q, tilus.float16)
    codes = unpack_weight(pack_weight(q, tiles), tiles)
    assert torch.equal(q.data, codes.storage.reshape(-1).view(torch.uint8))


@pytest.mark.usefixtures("kernel")
def test_writing_to_a_weight_drops_what_was_packed_from_it():
    q, other = (quantize(random(64, 32, seed=seed), tilus.uint4b, 32) for seed in (0, 1))
    x = random(2, 32, dtype=torch.float16)
    before, expected = matmul(x, q), matmul(x, other)
    q.data.copy_(other.data)
    q.scales.copy_(other.scales)
    assert not torch.equal(before, expected)
    assert torch.equal(expected, matmul(x, q))


@pytest.mark.usefixtures("kernel")
def test_new_scales_over_old_codes_are_another_weight():
    q = quantize(random(64, 32), tilus.uint4b, 32, symmetric=False)
    x = random(2, 32, dtype=torch.float16)
    y = matmul(x, q)
    for _ in range(4):  # the memory of dropped tensors is given out again
        q = QuantizedTensor(q.dtype, q.shape, 32, q.codes, q.scales * 2, q.zeros)
        doubled = matmul(x, q)
        assert torch.equal(y * 2, doubled)
        y = doubled


@pytest.mark.usefixtures("kernel")
def test_packed_forms_are_shared_by_memory_and_go_with_it():
    q = quantize(random(64, 32), tilus.int4b, 32)
    matmul(random(2, 32, dtype=torch.float16), q)
    again = QuantizedTensor(q.dtype, q.shape, 32, q.codes, q.scales)
    assert 1 == len(q.prepared) and again.prepared is q.prepared
    assert {} == copy.deepcopy(q).prepared
    packed = weakref.ref(next(iter(q.prepared.values())))
    del q, again
    gc.collect()  # the interpreter's machine, which saw the memory, is a cycle
    assert packed() is None


# ---- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda q: matmul(torch.ones(2, 32).double(), q), ["float64", "x.half()", "auto"]),
        (lambda q: matmul([1.0], q), ["list", "torch.float16"]),
        (lambda q: matmul(torch.ones(2, 32).half(), torch.ones(2, 32)), ["not quantised"]),
        (lambda q: matmul(torch.ones(2, 31).half(), q), ["[2, 31]", "[..., 32]"]),
        (lambda q: matmul(torch.ones(2, 32, device="meta").half(), q), ["meta and cpu"]),
        (
            lambda q: matmul(torch.ones(2, 32).half(), q, out=torch.empty(2, 64).double()),
            ["result is of a dtype", "float64", "torch.bfloat16"],
        ),
        (
            lambda q: matmul(torch.ones(2, 32).half(), q, out_dtype=torch.int8),
            ["result is of a dtype", "int8"],
        ),
        (
            lambda q: matmul(torch.ones(2, 32).half(), q, out=torch.empty(2, 63)),
            ["out does not fit", "[2, 63]", "[2, 64]"],
        ),
        (
            lambda q: matmul(torch.ones(2, 32).half(), q, out=torch.empty(64, 2).half().T),
            ["contiguous"],
        ),
        (
            lambda q: matmul(
                torch.ones(2, 32).half(), q, out=torch.empty(2, 64), out_dtype=torch.float16
            ),
            ["another dtype than out_dtype", "float32 and torch.float16"],
        ),
        (
            lambda q: matmul(torch.ones(2, 32).requires_grad_(), q, out=torch.empty(2, 64)),
            ["no gradient", "no_grad()"],
        ),
        (
            lambda q: matmul(torch.ones(2, 32).half(), q, bias=torch.ones(63)),
            ["bias does not fit", "[63]", "[64]"],
        ),
        (
            lambda q: matmul(torch.ones(2, 32).half(), q, bias=torch.ones(64).double()),
            ["bias does not fit", "float64"],
        ),
    ],
)
def test_bad_input_is_named(call, words: list[str]):
    q = quantize(random(64, 32), tilus.int4b, 32)
    with pytest.raises(TilusError) as info:
        call(q)
    for word in words:
        assert word in str(info.value)


@pytest.mark.usefixtures("kernel")
def test_kernels_do_not_take_float32():
    q = quantize(random(64, 32), tilus.int4b, 32)
    with pytest.raises(TilusError, match="float32 only on the CPU") as info:
        matmul(torch.ones(1, 32), q)
    assert "out_dtype=torch.float32" in str(info.value)


@pytest.mark.usefixtures("kernel")
def test_groups_the_tensor_core_cannot_take():
    q = quantize(random(64, 40), tilus.int4b, 8)
    with pytest.raises(TilusError, match="multiple of 16"):
        matmul(torch.ones(1, 40).half(), q)
