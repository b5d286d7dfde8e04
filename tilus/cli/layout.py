"""`tilus layout` draws a layout; `tilus bits` shows how weights are packed and unpacked."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tilus.cli.files import write_text
from tilus.dtypes import dtype_from_name
from tilus.ir.layout import (
    LayoutError,
    RegisterLayout,
    SharedLayout,
    contents_table,
    draw_svg,
    parse_layout,
    visualize_layout,
)
from tilus.ir.layout.bit_search import NF4, plan_unpack


def add_layout(commands: Any) -> None:
    """Declare `tilus layout` and its arguments."""
    parser = commands.add_parser(
        "layout",
        help="draw a layout",
        description="Draw a register or shared layout given in the layout algebra.",
    )
    parser.add_argument("text", metavar="LAYOUT", help='as in "local(2,1).spatial(8,4).local(1,2)"')
    parser.add_argument(
        "--view",
        choices=("owner", "contents"),
        default="owner",
        help="owner: the tile, `thread: register` of each element (shared: its offset); "
        "contents: the element in each register of each thread",
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write an image instead of text")
    parser.set_defaults(command=draw_layout)


def draw_layout(arguments: argparse.Namespace) -> int:
    """`tilus layout`: the drawing as text, or as SVG in a file."""
    layout = parse_layout(arguments.text)
    if not isinstance(layout, (RegisterLayout, SharedLayout)):
        raise LayoutError(
            "only register and shared layouts have drawings",
            found=str(layout),
            expected="as in local(2, 1).spatial(8, 4) or shared_row_major(8, 8)",
        )
    if arguments.svg:
        write_text(arguments.svg, draw_svg(layout, arguments.view))
        print(f"{layout}: written to {arguments.svg}")
        return 0
    drawing = _drawing(layout, arguments.view)
    print(_heading(layout))
    print(drawing)
    return 0


def _heading(layout: RegisterLayout | SharedLayout) -> str:
    if isinstance(layout, RegisterLayout):
        holders = f"{layout.num_threads} threads, {layout.local_size} each"
        return f"{layout}: {list(layout.shape)}, {holders}"
    return f"{layout}: {list(layout.shape)}"


def _drawing(layout: RegisterLayout | SharedLayout, view: str) -> str:
    if view == "owner":
        return visualize_layout(layout)
    if isinstance(layout, RegisterLayout):
        return contents_table(layout)
    raise LayoutError(
        "a shared layout has no threads to show the contents of",
        found=str(layout),
        hint="leave --view contents out",
    )


def add_bits(commands: Any) -> None:
    """Declare `tilus bits` and its arguments."""
    parser = commands.add_parser(
        "bits",
        help="show how weights are packed and unpacked",
        description="Print the placement of packed weights in 32-bit words, and the program that "
        "unpacks them, which is proven on every bit pattern first.",
    )
    parser.add_argument("dtype", metavar="DTYPE", help="as in int6b or float4_e2m1, or nf4")
    parser.add_argument("target", metavar="TARGET", help="float16, bfloat16 or int8")
    parser.set_defaults(command=show_bits)


def show_bits(arguments: argparse.Namespace) -> int:
    """`tilus bits`: the plan as text, after its proof."""
    dtype = NF4 if arguments.dtype == "nf4" else dtype_from_name(arguments.dtype)
    plan = plan_unpack(dtype, dtype_from_name(arguments.target))
    plan.prove()
    print(plan)
    return 0
