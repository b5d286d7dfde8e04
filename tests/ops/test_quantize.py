"""`ops.quantize`: every type, against what rounding to the nearest value allows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tilus
from tilus import TilusError
from tilus.dtypes import LOW_PRECISION, DataType
from tilus.ops import NF4, QuantizedTensor, quantize

IDS = [d.name for d in LOW_PRECISION]


def weights(n: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * 0.05


def all_codes(dtype: DataType) -> np.ndarray:
    return dtype.from_bits(np.arange(2**dtype.nbits, dtype=np.uint8))


def nearest_error(w: torch.Tensor, q: QuantizedTensor) -> np.ndarray:
    """|w - the nearest representable weight|, given the scales and zero points, in float64."""
    values = np.unique(q.dtype.decode(all_codes(q.dtype)))
    values = values[np.isfinite(values)].astype(np.float64)
    scales = q.scales.double().repeat_interleave(q.group_size, 0).T.numpy()
    zeros = q.zero
    if q.zeros is not None:
        zeros = q.zeros.double().repeat_interleave(q.group_size, 0).T.numpy()[..., None]
    grid = (values - zeros) * scales[..., None]
    return np.abs(grid - w.double().numpy()[..., None]).min(-1)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=IDS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_weight_goes_to_the_nearest_value(dtype: DataType, symmetric: bool):
    w = weights(8, 64)
    q = quantize(w, dtype, group_size=32, symmetric=symmetric)
    error = (q.dequantize(torch.float64) - w.double()).abs().numpy()
    np.testing.assert_allclose(error, nearest_error(w, q), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=IDS)
def test_the_extreme_of_a_group_is_kept(dtype: DataType):
    """The scale is made from the largest weight, so that one is off by the scale's rounding."""
    w = weights(4, 32)
    q = quantize(w, dtype, group_size=32)
    back = q.dequantize(torch.float64)
    at = w.abs().argmax(1, keepdim=True)
    torch.testing.assert_close(back.gather(1, at), w.double().gather(1, at), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=IDS)
def test_searching_is_never_worse_than_rounding(dtype: DataType):
    w = weights(4, 64)
    plain = quantize(w, dtype, 32, method="rtn").dequantize(torch.float64)
    searched = quantize(w, dtype, 32, method="mse").dequantize(torch.float64)
    groups = (w.double() - plain).reshape(4, 2, 32).square().sum(-1)
    assert bool(((w.double() - searched).reshape(4, 2, 32).square().sum(-1) <= groups).all())


def test_searching_helps_three_bits():
    w = weights(16, 128)
    plain = quantize(w, tilus.int3b, 64, method="rtn").dequantize()
    searched = quantize(w, tilus.int3b, 64, method="mse").dequantize()
    assert (searched - w).norm() < 0.98 * (plain - w).norm()


# The code of the value that a group's extreme is scaled to, and what is subtracted from values.
EXTREMES = {
    tilus.int4b: (0b1000, 0),
    tilus.int8: (0x80, 0),
    tilus.uint3b: (0, 4),
    tilus.float6_e3m2: (0b011111, 0),
}


@given(st.integers(0, 2**32 - 1), st.sampled_from(list(EXTREMES)))
def test_representable_weights_are_kept_exactly(seed: int, dtype: DataType):
    extreme, middle = EXTREMES[dtype]
    codes = np.random.default_rng(seed).choice(all_codes(dtype), (2, 16))
    codes[:, 0] = all_codes(dtype)[extreme]
    w = torch.from_numpy((dtype.decode(codes).astype(np.float64) - middle) * 0.25)
    assert torch.equal(quantize(w, dtype, -1).dequantize(torch.float64), w)


def test_a_group_of_zeros_stays_zero():
    w = torch.zeros(2, 32)
    for dtype in LOW_PRECISION:
        q = quantize(w, dtype, 16)
        assert torch.equal(q.dequantize(), w), dtype


def test_unsigned_integers_have_their_middle_as_common_zero_point():
    for dtype, middle in ((tilus.uint1b, 1), (tilus.uint4b, 8), (tilus.uint8, 128)):
        q = quantize(weights(4, 64), dtype, 32)
        assert (None, middle) == (q.zeros, q.zero)


@given(st.lists(st.floats(-8, 8, width=32), min_size=16, max_size=16), st.integers(0, 99))
def test_codebooks_go_to_the_nearest_value(values: list[float], seed: int):
    dtype = tilus.codebook(4, [*values[:15], 1.0])
    w = weights(4, 32, seed)
    q = quantize(w, dtype, 16)
    error = (q.dequantize(torch.float64) - w.double()).abs().numpy()
    np.testing.assert_allclose(error, nearest_error(w, q), rtol=0, atol=1e-12)


def test_nf4_keeps_zeros_and_extremes():
    w = weights(4, 64)
    w[:, ::5] = 0
    back = quantize(w, NF4, 64, scale_dtype=torch.float32).dequantize()
    assert not back[:, ::5].any()
    at = w.abs().argmax(1, keepdim=True)
    torch.testing.assert_close(back.gather(1, at).abs(), w.gather(1, at).abs())


def test_one_group_per_row():
    q = quantize(weights(3, 50), tilus.uint4b, group_size=-1, symmetric=False)
    assert (q.group_size, tuple(q.scales.shape)) == (50, (1, 3))


def test_bits_per_weight_counts_codes_scales_and_zeros():
    assert quantize(weights(4, 128), tilus.int3b, 128).bits_per_weight == 3 + 16 / 128
    with_zeros = quantize(weights(4, 128), tilus.uint3b, 64, symmetric=False)
    assert with_zeros.bits_per_weight == 3 + 32 / 64


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: quantize(weights(2, 100), tilus.int4b, 64), ["K = 100", "divides K"]),
        (lambda: quantize(weights(2, 96), tilus.int4b, 64), ["divisible by 32, 16"]),
        (lambda: quantize(weights(2, 96), tilus.int4b, 0), ["group_size = 0"]),
        (lambda: quantize(torch.zeros(8), tilus.int4b, 8), ["needs a matrix", "[8]"]),
        (lambda: quantize(torch.zeros(0, 8), tilus.int4b, 8), ["needs a matrix", "not empty"]),
        (lambda: quantize(torch.ones(2, 8).int(), tilus.int4b, 8), ["floating-point", "int32"]),
        (lambda: quantize("w", tilus.int4b, 8), ["floating-point", "str"]),  # type: ignore[arg-type]
        (lambda: quantize(torch.full((2, 8), float("nan")), tilus.int4b, 8), ["NaN"]),
        (lambda: quantize(torch.ones(2, 8).to("meta"), tilus.int4b, 8), ["load the checkpoint"]),
        (lambda: quantize(torch.ones(2, 8) * 1e9, tilus.int4b, 8), ["too large", "float32"]),
        (
            lambda: quantize(torch.ones(2, 8), tilus.int4b, 8, scale_dtype=torch.float64),
            ["scales are not kept", "float64"],
        ),
        (
            lambda: quantize(torch.ones(2, 8), tilus.codebook(1, [0.0, 0.0]), 8),
            ["all values of the codebook are 0"],
        ),
        (lambda: quantize(torch.ones(2, 8), tilus.float16, 8), ["1 to 8 bits", "float16"]),
        (lambda: quantize(torch.ones(2, 8), tilus.ufloat8_e8m0, 8), ["no sign"]),
        (lambda: quantize(torch.ones(2, 8), tilus.int4b, 8, method="best"), ['"rtn" or "mse"']),
    ],
)
def test_bad_input_is_named(call, words: list[str]):
    with pytest.raises(TilusError) as info:
        call()
    for word in words:
        assert word in str(info.value)
