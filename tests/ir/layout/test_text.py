"""The text form: what it reads, and that everything printed reads back."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.layout_strategies import bit_layouts, register_layouts, shared_layouts
from tilus.errors import TilusError
from tilus.ir.layout import (
    BitLayout,
    LayoutError,
    auto_local_spatial,
    bit_layout,
    column_local,
    global_compose,
    global_row_major,
    local,
    parse_layout,
    reduce,
    shared_column_major,
    shared_row_major_swizzle,
    spatial,
)


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (local(2, 1).spatial(8, 4).local(1, 2), "local(2,1).spatial(8,4).local(1,2)"),
        (local(2, 1) * spatial(8, 4), " local(2, 1) * spatial(8, 4)\n"),
        (local(2), "(local(2) * spatial(4)) / spatial(4)"),
        (reduce(spatial(3, 4), [0]), "reduce(spatial(3,4),[0])"),
        (reduce(spatial(3, 4), [0], keepdims=True), "spatial(3,4).reduce(0, keepdims=True)"),
        (spatial(3, 4, ranks=[1, 0]), "spatial(3, 4, ranks=[1, 0])"),
        (column_local(2, 2).spatial(8, 4), "column_local(2, 2).spatial(8, 4)"),
        (spatial(4, 3), "spatial(3, 4, ranks=(1, 0)).permute([-1, -2])"),
        (auto_local_spatial(32, [4, 64]), "auto_local_spatial(32, [4, 64])"),
        (local(2).replicated(1, num_workers=4), "local(2).replicated(1, num_workers=4)"),
        (spatial(2, 3).reshape([6]), "concat(spatial(2), spatial(3)).flatten()"),
        (spatial(1, 3), "unsqueeze(squeeze(spatial(1, 3), None), 0)"),
        (
            local(2, 1).spatial(8, 4).local(1, 2),
            "register_layout([16, 8], [2, 8, 4, 2], [1, 2], [0, 3])",
        ),
        (shared_row_major_swizzle([8, 64], 16), "shared_row_major_swizzle([8, 64], nbits=16)"),
        (
            shared_row_major_swizzle([8, 64], 16),
            "shared_layout([8, 64], [8, 64], [64, 1], Swizzle(3, 3, 3))",
        ),
        (shared_column_major(4, 8), "shared_row_major(8, 4).transpose()"),
        (global_row_major([4, 8]), "global_layout([4, 8], [8, 1])"),
        (BitLayout.stream(8, 4), "bit_layout(8, 4)"),
        (bit_layout(8, 4, [2, 4, 4], [4, 8, 1]), "bit_layout(8, 4, [2, 4, 4], [4, 8, 1])"),
        (BitLayout.stream(4, 4).repeat(2), "bit_layout(4, 4).repeat(2)"),
    ],
)
def test_reads(expected, text):
    assert expected == parse_layout(text)


@given(register_layouts())
def test_register_layouts_round_trip(layout):
    again = parse_layout(str(layout))
    assert layout == again
    assert str(layout) == str(again)


@given(shared_layouts())
def test_shared_layouts_round_trip(layout):
    assert layout == parse_layout(str(layout))


@given(bit_layouts())
def test_bit_layouts_round_trip(layout):
    assert layout == parse_layout(str(layout))


def test_global_layouts_round_trip():
    tiled = global_compose(global_row_major([2, 2]), global_row_major([4, 8]))
    assert tiled == parse_layout(str(tiled))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a layout"),
        ("spatial(8", "not a layout"),
        ("spatial(8) spatial(4)", "not a layout"),
        ("3", "not a layout"),
        ("[1, 2]", "not a layout"),
        ("Swizzle(3, 3, 3)", "not a layout"),
        ("a\0b", "not a layout"),
        ("spatial", "no meaning"),
        ("spatial(x)", "no meaning"),
        ("lambda: 0", "no meaning"),
        ("spatial(*[2, 3])", "no meaning"),
        ("[spatial(2) for _ in [1]]", "no meaning"),
        ("spatial(8)[0]", "no meaning"),
        ("circular(8)", "circular is not an operation"),
        ("__import__('os')", "__import__ is not an operation"),
        ("spatial(2).__class__(2)", "__class__ is not an operation"),
        ("spatial(2).num_threads(2)", "num_threads is not an operation"),
        ("shared_row_major(2).spatial(2)", "spatial is not an operation"),
        ("spatial(2)(2)", "this is not an operation"),
        ("spatial('2')", "only integers"),
        ("spatial(2.0)", "only integers"),
        ("spatial(~2)", "only an integer can be negated"),
        ("-spatial(2)", "only an integer can be negated"),
        ("spatial(2) + spatial(2)", "* and / only"),
        ("spatial(2) // spatial(2)", "* and / only"),
        ("spatial(2) * 2", "combines with another"),
        ("spatial(2) * shared_row_major(2)", "combines with another"),
        ("spatial(2, rank=[0])", "does not take these arguments"),
        ("spatial(2, **[0])", "does not take these arguments"),
        ("replicated(4)", "does not take these arguments"),
        ("reduce(3, [0])", "does not take these arguments"),
        ("shared_layout([4], [4], [1], 3)", "must be a Swizzle"),
        ("spatial(0)", "at least 1"),
        ("spatial(2, 3).permute(0)", "every dimension once"),
        ("spatial(2).unsqueeze(None)", "must be an integer"),
        ("shared_layout(4, [4], [1])", "sequence of integers"),
        ("global_layout(4, [1])", "must be sequences"),
        ("bit_layout(2, 2, table=[[0, 1], [2]])", "must be integers"),
        ("spatial(-2)", "at least 1"),
        ("spatial(4) / spatial(3)", "do not divide"),
        ("register_layout([4], [2, 2], [0], [])", "exactly one of"),
        ("register_layout(4, [4], [0], [])", "sequence of integers"),
        ("bit_layout(2, 2, table=[0, 0, 1, 2])", "share a position"),
        ("(" * 500 + ")" * 500, "not a layout"),
        ("-" * 5000 + "1", "not a layout"),
        ("spatial(" + "9" * 5000 + ")", "not a layout"),
    ],
)
def test_mistakes_are_explained(text, message):
    with pytest.raises(LayoutError) as caught:
        parse_layout(text)
    assert message in caught.value.message


def test_mistakes_have_a_place():
    with pytest.raises(TilusError) as caught:
        parse_layout("local(2).spatial(8, 4.5)")
    assert [
        "<layout>:1:21: error: only integers, True, False and None are constants of a layout",
        "    1 | local(2).spatial(8, 4.5)",
        "      |                     ^^^",
    ] == str(caught.value).splitlines()[:3]
