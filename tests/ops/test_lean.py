"""The lean matmul kernels: exact up to the order of additions, on two engines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tilus
from tilus import TilusError
from tilus.dtypes import (
    LOW_PRECISION,
    DataType,
    codebook,
    dtype_from_name,
    float16,
    float_,
    uint4b,
    uint8,
)
from tilus.ops import NF4, QuantizedTensor, matmul, quantize
from tilus.ops.blobs import BlobFormat, pack_blobs, unpack_blobs
from tilus.ops.codes import unpack_bits
from tilus.ops.lean import lean_form, packed_blobs, split_of
from tilus.ops.small_m import Schedule
from tilus.tensor import dtype_from_torch

LEAN = [d for d in LOW_PRECISION if lean_form(quantize(torch.ones(1, 64), d, 64), float16)]


def weight_of(
    dtype: DataType, n: int, k: int, group: int = 64, *, symmetric: bool = True, seed: int = 0
) -> QuantizedTensor:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, k, generator=generator) * 0.05
    return quantize(w, dtype, group, symmetric=symmetric)


def tokens(m: int, k: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(1)).to(dtype)


def on(engine: str, x: torch.Tensor, weight: QuantizedTensor, **options: Any) -> torch.Tensor:
    with tilus.option.context(engine=engine):
        return matmul(x, weight, **options)


def error(y: torch.Tensor, x: torch.Tensor, weight: QuantizedTensor) -> float:
    """Root mean square of the difference from float64."""
    exact = x.double() @ weight.dequantize(torch.float64).T
    return float((y.double() - exact).square().mean().sqrt())


def plain_error(x: torch.Tensor, weight: QuantizedTensor, out: torch.dtype) -> float:
    """That of the exactly dequantised weight multiplied in float32, rounded to `out`."""
    return error((x.float() @ weight.dequantize(torch.float32).T).to(out), x, weight)


# ---- packing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("activations", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [*LEAN, NF4], ids=str)
def test_packed_codes_are_found_again(dtype: DataType, activations: torch.dtype):
    weight = weight_of(dtype, 70, 192)
    form = lean_form(weight, dtype_from_torch(activations))
    assert form is not None
    codes = unpack_bits(weight.data, dtype.nbits, 70 * 192).reshape(70, 192)
    if dtype.kind == "int":
        codes = codes ^ (1 << (dtype.nbits - 1))
    assert torch.equal(codes, unpack_blobs(packed_blobs(weight, form), form.blobs))


def test_a_blob_is_as_large_as_its_codes_and_scales():
    blobs = BlobFormat(uint4b, float16, 8192, 8192, 128, float16)
    assert (blobs.n_tiles, blobs.chunks, blobs.blob_bytes) == (128, 64, 64 * 128 // 2 + 2 * 64)
    packed = pack_blobs(
        torch.zeros(64, 256, dtype=torch.uint8),
        torch.ones(2, 64).half(),
        None,
        BlobFormat(uint4b, float16, 64, 256, 128, float16),
    )
    assert packed.shape == (1, 2, blobs.blob_bytes)


@pytest.mark.parametrize(
    ("group", "k", "pieces"),
    [(128, 512, [64, 64]), (64, 512, [64, 64]), (32, 512, [32] * 4), (16, 64, [16] * 4),
     (256, 512, [64, 64]), (320, 320, [64]), (7, 7, [64])],
)  # fmt: skip
def test_a_chunk_falls_into_groups(group: int, k: int, pieces: list[int]):
    blobs = BlobFormat(uint4b, float16, 64, k, group, float16)
    assert pieces == [piece.size for piece in blobs.pieces]
    assert blobs.groups == sum(piece.ends for piece in blobs.pieces)


def test_groups_that_do_not_fit():
    with pytest.raises(TilusError, match="does not fit the tensor core"):
        BlobFormat(uint4b, float16, 64, 480, 48, float16)
    with pytest.raises(TilusError, match="offset-binary"):
        BlobFormat(dtype_from_name("int4b"), float16, 64, 64, 64, float16)


def test_larger_groups_repeat_their_scales():
    """96 is no group of the kernel: three of 32 have the same scale."""
    weight = weight_of(uint4b, 64, 192, 96, symmetric=False)
    form = lean_form(weight, float16)
    assert form is not None and (form.blobs.group, form.repeats) == (32, 3)
    x = tokens(4, 192)
    y = on("interpreter", x, weight)
    assert error(y, x, weight) <= 1.2 * plain_error(x, weight, torch.float16)


# ---- schedules -----------------------------------------------------------------------------------


def test_a_block_has_enough_on_its_way():
    for dtype in LEAN:
        blobs = BlobFormat(
            dtype if dtype.kind != "int" else uint8, float16, 8192, 8192, 128, float16
        )
        schedule = Schedule.of(blobs)
        on_the_way = (schedule.stages - 1) * schedule.warps * blobs.weight_bytes
        used = schedule.stages * schedule.warps * blobs.blob_bytes
        assert on_the_way >= 48 * 1024 and used + schedule.warps * 2048 <= 227 * 1024


def test_small_blocks_fit_small_targets():
    for dtype in LEAN:
        if dtype.kind != "int":
            blobs = BlobFormat(dtype, float16, 8192, 8192, 128, float16)
            schedule = Schedule.of(blobs, 1, 99 * 1024)
            used = schedule.stages * schedule.warps * blobs.blob_bytes + schedule.warps * 2048
            assert schedule.stages >= 2 and used <= 99 * 1024


@pytest.mark.parametrize(
    ("n", "k", "split"), [(8192, 8192, 1), (64, 8192, 4), (4096, 4096, 2), (64, 64, 1)]
)
def test_blocks_share_k_where_n_is_small(n: int, k: int, split: int):
    assert split == split_of(BlobFormat(uint4b, float16, n, k, 64, float16), 1, 132)


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activations", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [*LOW_PRECISION, NF4], ids=str)
def test_the_error_is_that_of_rounding(dtype: DataType, activations: torch.dtype):
    weight = weight_of(dtype, 72, 256, symmetric=dtype.kind != "uint")
    x = tokens(5, 256, activations)
    y = on("interpreter", x, weight)
    assert error(y, x, weight) <= 1.2 * plain_error(x, weight, activations)


TABLE = codebook(8, [abs(k / 128) ** 1.7 * (1 if k > 0 else -1) for k in range(-128, 128)])
NOT_LEAN = [TABLE, codebook(1, [-1.0, 0.3]), float_(6, 1), float_(7, 0)]


@pytest.mark.parametrize("activations", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", NOT_LEAN, ids=lambda dtype: dtype.short_name)
def test_the_error_without_a_lean_kernel(dtype: DataType, activations: torch.dtype):
    """The other kernel multiplies halves of 8 bits, of weights in float32."""
    weight = weight_of(dtype, 72, 256)
    x = tokens(5, 256, activations)
    if dtype.kind == "codebook" or activations == torch.float16:
        assert lean_form(weight, dtype_from_torch(activations)) is None
    for engine in ("interpreter", "emulator"):
        y = on(engine, x, weight)
        assert error(y, x, weight) <= 1.01 * plain_error(x, weight, activations)


@pytest.mark.parametrize("scale", [1e-5, 1e-3, 1e3], ids=str)
def test_small_and_large_weights_without_a_lean_kernel(scale: float):
    """Scaled weights beside the range of float16 are as exact as others."""
    weight = weight_of(TABLE, 72, 256)
    scaled = QuantizedTensor(TABLE, (72, 256), 64, weight.codes, weight.scales.float() * scale)
    x = tokens(5, 256) / max(1, scale)
    y = on("interpreter", x, scaled, out_dtype=torch.float16)
    assert error(y, x, scaled) <= 1.01 * plain_error(x, scaled, torch.float16)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("activations", [torch.float16, torch.bfloat16], ids=str)
def test_the_error_of_a_codebook(bits: int, activations: torch.dtype):
    """Quantiles of a logistic distribution: no number of them is a half."""
    steps = (torch.arange(1 << bits) + 0.5) / (1 << bits)
    dtype = codebook(bits, (steps.logit() / steps.max().logit()).tolist())
    weight = weight_of(dtype, 72, 512)
    x = tokens(8, 512, activations)
    y = on("interpreter", x, weight)
    assert error(y, x, weight) <= 1.2 * plain_error(x, weight, activations)


@pytest.mark.parametrize("dtype", [dtype_from_name(f"uint{b}b") for b in range(1, 8)], ids=str)
def test_the_error_where_bases_add_up(dtype: DataType):
    """Activations of one sign, and an outlier in each row beside which the weights are small: what
    bases add is no more than the rounding of the result, as `plan_unpack` promises.
    """
    w = torch.randn(72, 512, generator=torch.Generator().manual_seed(0)) * 0.05
    w[:, 7] = 0.3
    weight = quantize(w, dtype, -1)
    x = tokens(8, 512).abs()
    x[:, 7] = 0
    y = on("interpreter", x, weight)
    assert error(y, x, weight) <= 2**0.5 * plain_error(x, weight, torch.float16)


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(1, 70),
    n=st.integers(1, 150),
    groups=st.integers(1, 5),
    group=st.sampled_from([16, 32, 64, 128, 256, -1]),
    dtype=st.sampled_from([*LEAN, NF4]),
    symmetric=st.booleans(),
    activations=st.sampled_from([torch.float16, torch.bfloat16]),
    out=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    has_bias=st.booleans(),
)
def test_shapes_groups_and_types(
    m: int,
    n: int,
    groups: int,
    group: int,
    dtype: DataType,
    symmetric: bool,
    activations: torch.dtype,
    out: torch.dtype,
    has_bias: bool,
):
    """Interpreter and emulator agree, and with torch, on shapes that are no multiples."""
    k = 53 * groups if group == -1 else group * groups
    symmetric = symmetric or not dtype.is_integer()
    weight = weight_of(dtype, n, k, group, symmetric=symmetric, seed=n)
    x, bias = tokens(m, k, activations), tokens(1, n)[0] if has_bias else None
    results = [
        on(engine, x, weight, bias=bias, out_dtype=out)
        for engine in ("auto", "interpreter", "emulator")
    ]
    scale = results[0].float().abs().max().item() + 1e-6
    rounding = {torch.float16: 2**-10, torch.bfloat16: 2**-7, torch.float32: 2**-11}[out]
    if dtype.kind == "codebook":
        rounding = max(rounding, 2.0**-10 if activations == torch.float16 else 2.0**-7)
    for result in results[1:]:
        torch.testing.assert_close(
            result.float(), results[0].float(), rtol=rounding, atol=rounding * scale
        )


def test_a_common_zero_point_between_the_numbers():
    """7.3 is not exact beside a base of 256 or 1024: it becomes a zero point of every group."""
    weight = weight_of(uint4b, 64, 128, 64)
    shifted = QuantizedTensor(uint4b, (64, 128), 64, weight.codes, weight.scales.float(), None, 7.3)
    form = lean_form(shifted, float16)
    assert form is not None and form.blobs.has_zeros and form.zero == 0
    x = tokens(3, 128)
    for engine in ("interpreter", "emulator"):
        y = on(engine, x, shifted)
        assert error(y, x, shifted) <= 1.2 * plain_error(x, shifted, torch.float16)


@pytest.mark.parametrize("m", [5, 40])
@pytest.mark.parametrize("activations", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [tilus.float6_e3m2, tilus.float8_e4m3, NF4], ids=str)
def test_zero_points_of_floats(dtype: DataType, activations: torch.dtype, m: int):
    """They are in units of the weights, which plans scale."""
    plain = weight_of(dtype, 72, 256, 64)
    zeros = torch.randn(plain.scales.shape, generator=torch.manual_seed(5)).to(plain.scales.dtype)
    weight = QuantizedTensor(dtype, (72, 256), 64, plain.codes, plain.scales, zeros)
    x = tokens(m, 256, activations)
    for engine in ("interpreter", "emulator"):
        found = error(on(engine, x, weight, out_dtype=torch.float32), x, weight)
        assert found < 2e-3 * (x.double() @ weight.dequantize(torch.float64).T).abs().max()


def test_two_runs_are_the_same_to_the_bit():
    """Blocks that share k add up in one order, whoever comes last."""
    weight = weight_of(uint4b, 64, 2048, 128)
    assert split_of(lean_form(weight, float16).blobs, 1, 132) > 1  # type: ignore[union-attr]
    x = tokens(3, 2048)
    first, second = (on("emulator", x, weight, out_dtype=torch.float32) for _ in range(2))
    assert torch.equal(first, second)


def test_infinities_of_one_token_stay_there():
    weight = weight_of(uint4b, 64, 576, 64)
    x = tokens(3, 576)
    x[1, 5] = float("inf")
    y = on("interpreter", x, weight)
    assert torch.isfinite(y[[0, 2]]).all() and not torch.isfinite(y[1]).all()


@pytest.mark.parametrize("dtype", [uint4b, dtype_from_name("float6_e3m2")], ids=str)
@pytest.mark.parametrize(("n", "k"), [(576, 576), (192, 576), (1536, 576), (576, 1536)])
def test_the_layers_of_a_small_llama(dtype: DataType, n: int, k: int):
    """The shapes of SmolLM2-135M, of which 576 and 192 are no multiples of 128."""
    weight = weight_of(dtype, n, k, 64, symmetric=not dtype.is_integer())
    x = tokens(7, k)
    results = [on(engine, x, weight) for engine in ("interpreter", "emulator")]
    assert all(error(y, x, weight) <= 1.2 * plain_error(x, weight, torch.float16) for y in results)
    torch.testing.assert_close(results[0], results[1], rtol=2**-9, atol=1e-3)
