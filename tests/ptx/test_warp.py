"""What the threads of a warp exchange: shuffles, votes, matches and reductions."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.ptx.kernels import apply
from tilus.errors import TilusError

Array = np.ndarray[Any, Any]
LANES = range(32)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# ---- shuffles and votes -------------------------------------------------------------------------


def shuffled(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The manual's pseudocode of shfl.sync: the source lane and the predicate."""
    bval, cval, segmask = b & 31, c & 31, c >> 8 & 31
    max_lane = (lane & segmask) | (cval & ~segmask & 31)
    min_lane = lane & segmask
    if mode == "up":
        j = lane - bval
        inside = j >= max_lane
    elif mode == "down":
        j = lane + bval
        inside = j <= max_lane
    elif mode == "bfly":
        j = lane ^ bval
        inside = j <= max_lane
    else:
        j = min_lane | (bval & ~segmask & 31)
        inside = j <= max_lane
    return (j, True) if inside else (lane, False)


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffles(mode: str):
    value = rng().integers(0, 2**32, 64, np.uint32)
    for width in (4, 8, 16, 32):
        c = (32 - width) << 8 | (0 if mode == "up" else 31)
        for b in (0, 1, 3, 16, 31, 33):
            body = f"""shfl.sync.{mode}.b32 %r1|%q1, {{0}}, {b}, {c}, -1;
                selp.u32 %r2, 1, 0, %q1; xor.b32 {{out}}, %r1, %r2;"""
            got = apply(body, [value], np.uint32)
            for thread in range(64):
                source, inside = shuffled(mode, thread % 32, b, c)
                wanted = int(value[thread - thread % 32 + source]) ^ inside
                assert got[thread] == wanted, (mode, width, b, thread)


def test_shuffle_with_a_source_of_each_lane():
    value = rng().integers(0, 2**32, 32, np.uint32)
    source = rng().permutation(32).astype(np.uint32)
    got = apply("shfl.sync.idx.b32 {out}, {0}, {1}, 31, -1;", [value, source], np.uint32)
    np.testing.assert_array_equal(got, value[source])


@pytest.mark.parametrize("held", ["none", "all", "some"])
def test_votes(held: str):
    flags = {"none": np.zeros(32), "all": np.ones(32), "some": rng().integers(0, 2, 32)}[held]
    value = np.concatenate([flags, np.ones(32)]).astype(np.uint32)
    ballot = [sum(int(v) << n for n, v in enumerate(value[w : w + 32])) for w in (0, 32)]
    body = "setp.ne.u32 %q0, {0}, 0;\n"
    got = apply(body + "vote.sync.ballot.b32 {out}, %q0, -1;", [value], np.uint32)
    np.testing.assert_array_equal(got, np.repeat(np.array(ballot, np.uint32), 32))
    functions: dict[str, Callable[[Array], bool]] = {
        "all": lambda v: bool(v.all()),
        "any": lambda v: bool(v.any()),
        "uni": lambda v: bool(v.all() or not v.any()),
    }
    for name, function in functions.items():
        for sign in ("", "!"):
            text = f"{body}vote.sync.{name}.pred %q1, {sign}%q0, -1; selp.u32 {{out}}, 1, 0, %q1;"
            wanted = [function(v == (sign == "")) for v in value.reshape(2, 32)]
            np.testing.assert_array_equal(apply(text, [value], np.uint32), np.repeat(wanted, 32))


def test_a_mask_names_the_lanes_that_take_part():
    value = rng().integers(0, 2**32, 32, np.uint32)
    body = """mov.u32 {out}, 7; setp.lt.u32 %q0, %i, 16;
        @%q0 shfl.sync.bfly.b32 {out}, {0}, 1, 31, MASK;"""
    got = apply(body.replace("MASK", "0xFFFF"), [value], np.uint32)
    np.testing.assert_array_equal(got[:16], value[np.arange(16) ^ 1])
    assert (got[16:] == 7).all()
    for mask in ("-1", "0x00FF"):  # lanes that are elsewhere; lanes that are not named
        with pytest.raises(TilusError, match="illegal mask"):
            apply(body.replace("MASK", mask), [value], np.uint32)


def test_a_shuffle_reads_only_lanes_that_take_part():
    body = """mov.u32 {out}, 7; setp.lt.u32 %q0, %i, 16;
        @%q0 shfl.sync.idx.b32 {out}, {0}, 20, 31, 0xFFFF;"""
    with pytest.raises(TilusError, match="does not take part") as info:
        apply(body, [np.zeros(32, np.uint32)], np.uint32)
    assert info.value.found == "lane 0 reads lane 20"


def test_votes_of_a_part_of_a_warp():
    value = np.arange(32, dtype=np.uint32) % 3
    body = """mov.u32 {out}, 0; setp.ge.u32 %q0, %i, 8; setp.eq.u32 %q1, {0}, 1;
        @%q0 vote.sync.ballot.b32 {out}, %q1, 0xFFFFFF00;"""
    got = apply(body, [value], np.uint32)
    ballot = sum(1 << n for n in range(8, 32) if n % 3 == 1)
    assert got.tolist() == [0] * 8 + [ballot] * 24
    body = """setp.ge.u32 %q0, %i, 8; setp.ge.u32 %q1, {0}, 0; setp.lt.u32 %q2, %i, 9;
        @!%q0 vote.sync.all.pred %q3, %q1, 0xFF; @%q0 vote.sync.uni.pred %q3, %q2, 0xFFFFFF00;
        selp.u32 {out}, 1, 0, %q3;"""
    assert apply(body, [value], np.uint32).tolist() == [1] * 8 + [0] * 24


def test_who_is_here():
    body = """mov.u32 {out}, 0; setp.ge.u32 %q0, %i, 20; @%q0 bra $skip;
        activemask.b32 {out}; $skip:"""
    got = apply(body, [np.zeros(40, np.uint32)], np.uint32)
    assert got.tolist() == [(1 << 20) - 1] * 20 + [0] * 20
    body = """setp.lt.u32 %q0, %i, 4; mov.u32 {out}, 99; @%q0 bra $skip;
        elect.sync %r1|%q1, 0xFFFFFFF0; selp.u32 %r2, 64, 0, %q1; or.b32 {out}, %r1, %r2; $skip:"""
    got = apply(body, [np.zeros(32, np.uint32)], np.uint32)
    assert got.tolist() == [99] * 4 + [4 | 64] + [4] * 27


@pytest.mark.parametrize("bits", [32, 64])
def test_matches(bits: int):
    value = np.array([n % 5 << (bits - 3) for n in LANES], f"u{bits // 8}")
    got = apply(f"match.any.sync.b{bits} {{out}}, {{0}}, -1;", [value], np.uint32)
    assert got.tolist() == [sum(1 << j for j in LANES if j % 5 == n % 5) for n in LANES]
    body = f"""match.all.sync.b{bits} %r1|%q1, {{0}}, -1; selp.u32 %r2, 1, 0, %q1;
        xor.b32 {{out}}, %r1, %r2;"""
    assert apply(body, [value], np.uint32).tolist() == [0] * 32
    assert apply(body, [value * 0], np.uint32).tolist() == [2**32 - 2] * 32


REDUCTIONS: dict[str, Callable[[list[int]], int]] = {
    "add": sum,
    "min": min,
    "max": max,
    "and": lambda v: functools.reduce(operator.and_, v),
    "or": lambda v: functools.reduce(operator.or_, v),
    "xor": lambda v: functools.reduce(operator.xor, v),
}


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("kind", ["u32", "s32"])
def test_reductions(name: str, kind: str):
    value = rng().integers(0, 2**32, 32, np.uint32)
    typed = value.view(np.int32) if kind == "s32" else value
    suffix = kind if name in ("add", "min", "max") else "b32"
    first, rest = REDUCTIONS[name](typed[:5].tolist()), REDUCTIONS[name](typed[5:].tolist())
    body = f"""setp.lt.u32 %q0, %i, 5;
        @%q0 redux.sync.{name}.{suffix} {{out}}, {{0}}, 0x1F;
        @!%q0 redux.sync.{name}.{suffix} {{out}}, {{0}}, 0xFFFFFFE0;"""
    mask = 2**32 - 1
    assert apply(body, [value], np.uint32).tolist() == [first & mask] * 5 + [rest & mask] * 27


def test_reductions_of_floats():
    value = rng().normal(size=32).astype(np.float32)
    value[7] = np.nan
    got = apply("redux.sync.max.abs.f32 {out}, {0}, -1;", [value], np.float32)
    assert (got == np.nanmax(np.abs(value))).all()
    assert np.isnan(apply("redux.sync.min.NaN.f32 {out}, {0}, -1;", [value], np.float32)).all()
