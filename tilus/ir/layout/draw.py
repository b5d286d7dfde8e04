"""Drawings of layouts, as text and as SVG.

    visualize_layout(local(2).spatial(2))      contents_table(local(2).spatial(2))

    0: 0 | 1: 0 | 0: 1 | 1: 1                  thread | i = 0 | i = 1
                                                    0 |     0 |     2
                                                    1 |     1 |     3

The *owner* view is the tile: each cell says `thread: local`, with all threads where an element is
replicated. The *contents* view is the machine: each cell says which element a register of a thread
holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tilus.ir.layout.banks import BANK_NBITS, NUM_BANKS
from tilus.ir.layout.modes import LayoutError
from tilus.ir.layout.register import RegisterLayout
from tilus.ir.layout.shared import SharedLayout

CELL_HEIGHT = 22
CHARACTER_WIDTH = 7
GOLDEN_ANGLE = 137.508  # neighbouring threads get hues far apart


class _Cell(NamedTuple):
    text: str
    color: int  # the thread, or the bank


class _Grid(NamedTuple):
    """A two-dimensional table with a title; tiles of rank above two make several."""

    title: str
    column_names: list[str]
    row_names: list[str]
    rows: list[list[_Cell]]


def visualize_layout(layout: RegisterLayout | SharedLayout) -> str:
    """The tile as text: `thread: local` of each element, or its offset in shared memory.

    Replicated elements list all their threads; dimensions before the last two print one grid after
    the other.

    >>> from tilus.ir.layout.register import local, spatial
    >>> print(visualize_layout(spatial(2, 2).local(1, 2)))
    0: 0 | 0: 1 | 1: 0 | 1: 1
    2: 0 | 2: 1 | 3: 0 | 3: 1
    """
    grids = (
        _owner_grids(layout)
        if isinstance(layout, RegisterLayout)
        else _offset_grids(layout, BANK_NBITS)
    )
    return "\n\n".join(_text(grid, names=False) for grid in grids)


def contents_table(layout: RegisterLayout) -> str:
    """The machine as text: a row a thread, a column a register, each cell the element held.

    >>> from tilus.ir.layout.register import local, spatial
    >>> print(contents_table(spatial(2, 1).local(1, 2)))
    thread |  i = 0 |  i = 1
         0 | (0, 0) | (0, 1)
         1 | (1, 0) | (1, 1)
    """
    return _text(_contents_grid(layout), names=True)


def draw_svg(
    layout: RegisterLayout | SharedLayout, view: str = "owner", element_nbits: int = BANK_NBITS
) -> str:
    """An SVG image of a layout.

    Args:
        layout: a register layout is coloured by thread, a shared layout by bank.
        view: "owner" (the tile) or "contents" (the registers of each thread), which shared layouts
            do not have.
        element_nbits: width of an element of a shared layout, which decides its bank.

    Raises:
        LayoutError: there is no such view of this layout.
    """
    if isinstance(layout, RegisterLayout) and view == "owner":
        grids = list(_owner_grids(layout))
    elif isinstance(layout, RegisterLayout) and view == "contents":
        grids = [_contents_grid(layout)]
    elif isinstance(layout, SharedLayout) and view == "owner":
        grids = list(_offset_grids(layout, element_nbits))
    else:
        raise LayoutError(
            "there is no such view of this layout",
            found=f"view {view!r} of {layout}",
            expected="'owner', or 'contents' of a register layout",
        )
    return _svg(str(layout), grids)


# ---- grids


def _owner_grids(layout: RegisterLayout) -> Iterator[_Grid]:
    threads, locals_ = layout.owner_table()
    cells = [
        _Cell(f"{','.join(map(str, holders))}: {place}", holders[0])
        for holders, place in zip(threads.tolist(), locals_.tolist(), strict=True)
    ]
    return _cut(cells, layout.shape)


def _offset_grids(layout: SharedLayout, element_nbits: int) -> Iterator[_Grid]:
    offsets: list[int] = layout.offsets().ravel().tolist()
    cells = [_Cell(str(o), o * element_nbits // BANK_NBITS % NUM_BANKS) for o in offsets]
    return _cut(cells, layout.shape)


def _cut(cells: list[_Cell], shape: tuple[int, ...]) -> Iterator[_Grid]:
    """Cut row-major cells into one grid for each index of the dimensions before the last two."""
    rows, columns = (1, 1, *shape)[-2:]
    for number, outer in enumerate(np.ndindex(*shape[:-2])):
        first = number * rows * columns
        body = [cells[first + row * columns : first + (row + 1) * columns] for row in range(rows)]
        title = f"[{', '.join(map(str, outer))}, :, :]" if outer else ""
        yield _Grid(title, [str(c) for c in range(columns)], [str(r) for r in range(rows)], body)


def _contents_grid(layout: RegisterLayout) -> _Grid:
    def name(flat: int) -> str:
        index = (
            [int(entry) for entry in np.unravel_index(flat, layout.shape)] if layout.shape else []
        )
        return str(index[0]) if len(index) == 1 else f"({', '.join(map(str, index))})"

    rows = [
        [_Cell(name(flat), thread) for flat in elements]
        for thread, elements in enumerate(layout.logical_indices().tolist())
    ]
    columns = [f"i = {i}" for i in range(layout.local_size)]
    return _Grid("", columns, [str(thread) for thread in range(layout.num_threads)], rows)


# ---- text


def _text(grid: _Grid, names: bool) -> str:
    rows = [[cell.text for cell in row] for row in grid.rows]
    if names:
        rows = [[name, *row] for name, row in zip(grid.row_names, rows, strict=True)]
        rows.insert(0, ["thread", *grid.column_names])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    return "\n".join([grid.title, *lines] if grid.title else lines)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))


# ---- SVG


def _svg(title: str, grids: list[_Grid]) -> str:
    width = (
        CHARACTER_WIDTH * max((len(text) for grid in grids for text in _all_texts(grid)), default=1)
        + 2 * CHARACTER_WIDTH
    )
    body: list[str] = []
    y = 2 * CELL_HEIGHT
    for grid in grids:
        if grid.title:
            body.append(_label(CHARACTER_WIDTH, y, grid.title, "start"))
            y += CELL_HEIGHT
        body += _svg_grid(grid, width, y)
        y += (len(grid.rows) + 2) * CELL_HEIGHT
    columns = max((len(grid.column_names) for grid in grids), default=0)
    full_width = max((columns + 1) * width, CHARACTER_WIDTH * (len(title) + 2)) + CHARACTER_WIDTH
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{full_width}" height="{y}" '
        f'viewBox="0 0 {full_width} {y}" font-family="monospace" font-size="12">'
    )
    background = f'<rect width="{full_width}" height="{y}" fill="white"/>'
    heading = _label(CHARACTER_WIDTH, CELL_HEIGHT // 2, title, "start")
    return "\n".join([head, background, heading, *body, "</svg>", ""])


def _svg_grid(grid: _Grid, width: int, top: int) -> Iterator[str]:
    for column, name in enumerate(grid.column_names):
        yield _label((column + 1.5) * width, top + CELL_HEIGHT / 2, name, "middle")
    for number, (name, row) in enumerate(zip(grid.row_names, grid.rows, strict=True)):
        y = top + (number + 1) * CELL_HEIGHT
        yield _label(width / 2, y + CELL_HEIGHT / 2, name, "middle")
        for column, cell in enumerate(row):
            x = (column + 1) * width
            yield (
                f'<rect x="{x}" y="{y}" width="{width}" height="{CELL_HEIGHT}" '
                f'fill="{_color(cell.color)}" stroke="#555"/>'
            )
            yield _label(x + width / 2, y + CELL_HEIGHT / 2, cell.text, "middle")


def _all_texts(grid: _Grid) -> Iterator[str]:
    yield from grid.column_names
    yield from grid.row_names
    yield from (cell.text for row in grid.rows for cell in row)


def _label(x: float, y: float, text: str, anchor: str) -> str:
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}" dominant-baseline="central"'
    return f"<text {place}>{text}</text>"


def _color(number: int) -> str:
    return f"hsl({number * GOLDEN_ANGLE % 360:.0f}, 65%, 80%)"
