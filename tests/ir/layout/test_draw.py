"""Drawings: exact text, and SVG that is well-formed and says the same."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tilus.ir.layout import (
    LayoutError,
    Swizzle,
    contents_table,
    draw_svg,
    local,
    reduce,
    shared_row_major,
    spatial,
    visualize_layout,
)

SVG = "{http://www.w3.org/2000/svg}"


def test_owner_grid():
    expected = "0: 0 | 1: 0 | 2: 0\n3: 0 | 4: 0 | 5: 0\n0: 1 | 1: 1 | 2: 1\n3: 1 | 4: 1 | 5: 1"
    assert expected == visualize_layout(local(2, 1).spatial(2, 3))


def test_replicated_elements_list_all_threads():
    assert "0,2: 0 | 1,3: 0" == visualize_layout(reduce(spatial(2, 2), 0))


def test_ranks():
    assert "0: 0" == visualize_layout(spatial())
    expected = "[0, :, :]\n0: 0 | 0: 1\n\n[1, :, :]\n1: 0 | 1: 1"
    assert expected == visualize_layout(spatial(2, 1, 1).local(1, 1, 2))


def test_contents():
    expected = "thread | i = 0 | i = 1\n     0 |     0 |     2\n     1 |     1 |     3"
    assert expected == contents_table(local(2).spatial(2))
    assert "     0 |    ()" == contents_table(spatial()).splitlines()[1]


def test_shared_grid():
    layout = shared_row_major(2, 2).with_swizzle(Swizzle(0, 1, 1))
    assert "0 | 1\n3 | 2" == visualize_layout(layout)


@pytest.mark.parametrize(
    ("layout", "view", "expected"),
    [
        (spatial(2, 2), "owner", ["0: 0", "1: 0", "2: 0", "3: 0"]),
        (spatial(2, 1).local(1, 2), "contents", ["(0, 0)", "(0, 1)", "(1, 0)", "(1, 1)"]),
        (shared_row_major(2, 2), "owner", ["0", "1", "2", "3"]),
    ],
)
def test_svg_has_a_coloured_cell_for_each_entry(layout, view, expected):
    root = ElementTree.fromstring(draw_svg(layout, view))
    background, *cells = root.findall(f"{SVG}rect")
    labels = [text.text for text in root.findall(f"{SVG}text")]
    assert len(expected) == len(cells)
    assert str(layout) == labels[0]
    assert all(labels.count(text) >= 1 for text in expected)
    assert float(background.get("width")) >= max(
        float(cell.get("x")) + float(cell.get("width")) for cell in cells
    )


def cell_colors(text):
    return [cell.get("fill") for cell in ElementTree.fromstring(text).findall(f"{SVG}rect")[1:]]


def test_colour_is_the_thread():
    colors = cell_colors(draw_svg(local(2).spatial(2)))
    assert colors[0] == colors[2] != colors[1] == colors[3]


def test_colour_of_shared_memory_is_the_bank():
    colors = cell_colors(draw_svg(shared_row_major(2, 32), element_nbits=32))
    assert colors[:32] == colors[32:]
    assert 32 == len(set(colors))
    assert 16 == len(set(cell_colors(draw_svg(shared_row_major(1, 32), element_nbits=16))))


def test_unknown_views_are_refused():
    for layout, view in ((spatial(2), "front"), (shared_row_major(2), "contents")):
        with pytest.raises(LayoutError, match="no such view"):
            draw_svg(layout, view)
