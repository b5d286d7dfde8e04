"""Unpacking codes into halves and bytes: the affine half of a cast, on every bit pattern."""

from __future__ import annotations

import numpy as np
import pytest

from tests.instructions.harness import failure, run_body
from tilus.dtypes import (
    bfloat16,
    codebook,
    dtype_from_name,
    float4_e2m1,
    float6_e3m2,
    float8_e4m3,
    float8_e5m2,
    float16,
    float32,
    int4b,
    int8,
    uint1b,
    uint3b,
    uint4b,
    uint5b,
    uint6b,
    uint7b,
    uint8,
)
from tilus.ir.layout import BitLayout, local, spatial
from tilus.ir.layout.bit_search import NF4, plan_unpack

CASES = [
    (dtype, target)
    for target in (float16, bfloat16)
    for dtype in (uint1b, uint3b, uint4b, uint5b, uint6b, uint7b, uint8, float4_e2m1, float6_e3m2)
] + [
    (float8_e4m3, float16),
    (float8_e5m2, float16),
    (dtype_from_name("float7_e5m1"), float16),
    (NF4, float16),
    (NF4, bfloat16),
    (codebook(2, (-1.0, -0.25, 0.25, 1.0)), float16),
    (uint4b, int8),
    (uint3b, int8),
]


def unpacked(dtype, target, codes, per_thread):
    """Codes [32 * per_thread] as the words of the plan, read back and unpacked."""
    plan = plan_unpack(dtype, target)
    words = plan.pack(codes.reshape(-1, plan.elements))
    packed = np.ascontiguousarray(words).view(np.uint8).reshape(32, -1)

    def body(k):
        rows = k.tile(packed.reshape(-1), uint8)
        rows.layout = spatial(32).local(packed.shape[1])
        tile = k(
            "view",
            rows,
            dtype=dtype,
            layout=spatial(32).local(per_thread),
            bits=plan.layout.repeat(per_thread // plan.elements),
        )
        return k("unpack", tile, dtype=target)

    return plan, run_body(body)


@pytest.mark.parametrize(("dtype", "target"), CASES, ids=str)
def test_every_code_is_scaled_and_offset(dtype, target):
    plan = plan_unpack(dtype, target)
    per_thread = 2 * plan.elements
    codes = np.resize(np.asarray(plan.exact_codes, np.uint8), 32 * per_thread)
    np.random.default_rng(0).shuffle(codes)
    plan, have = unpacked(dtype, target, codes, per_thread)
    scaled = plan.scale * dtype.decode(dtype.from_bits(codes)).astype(np.float64)
    if dtype.kind == "codebook":
        scaled = target.encode(scaled).astype(np.float64)
    lanes = plan.elements // len(plan.outputs)
    base = np.resize(np.repeat(plan.base, lanes), len(codes))
    np.testing.assert_array_equal(scaled + base, have.astype(np.float64))


def view_and_unpack(dtype, target, bits=None, per_thread=8, **options):
    def body(k):
        rows = k.tile(np.zeros(32 * per_thread * dtype.nbits // 8), uint8)
        rows.layout = spatial(32).local(per_thread * dtype.nbits // 8)
        layout = spatial(32).local(per_thread)
        tile = k("view", rows, dtype=dtype, layout=layout, bits=bits)
        return k("unpack", tile, dtype=target, **options)

    return failure(body)


PLAN = plan_unpack(uint4b, float16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((uint4b, float16), "the bits of the operand do not lie as the plan has it"),
        (
            (uint4b, float16, BitLayout.stream(8, 4)),
            "the bits of the operand do not lie as the plan has it",
        ),
        ((uint3b, float16), "threads do not hold whole words of the plan"),
        ((int4b, float16), "signed codes are unpacked as unsigned ones"),
        ((uint4b, float32), "there is no unpacking to float32"),
        ((float6_e3m2, int8), "int8"),
    ],
)
def test_what_does_not_unpack(arguments, message):
    assert message in view_and_unpack(*arguments)


def test_the_plan_is_that_of_the_types():
    assert "the plan is of other types" in view_and_unpack(
        uint4b, float16, PLAN.layout, plan=plan_unpack(uint4b, bfloat16)
    )
    assert "expected: plan_unpack(uint4b, float16)" in view_and_unpack(
        uint4b, float16, PLAN.layout, plan=3
    )


def test_codes_and_results_lie_together():
    def body(k):
        rows = k.tile(np.zeros(256), uint8)
        rows.layout = spatial(32).local(8)
        tile = k(
            "view", rows, dtype=uint4b, layout=spatial(32).local(16), bits=PLAN.layout.repeat(2)
        )
        out = k("unpack", tile, dtype=float16)
        out.layout = local(16).spatial(32)
        return out

    assert "the result lies in another layout" in failure(body)
