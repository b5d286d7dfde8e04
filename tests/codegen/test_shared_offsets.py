"""Addresses in swizzled shared memory: right wherever a part begins, and cheap."""

# pyright: reportInvalidTypeForm=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false
from __future__ import annotations

import re

import pytest
import torch

import tilus
from tilus.codegen.kernel import generate
from tilus.codegen.shared_access import SharedOffset
from tilus.dtypes import float16, int32
from tilus.ir.layout import Swizzle, register_layout, shared_row_major
from tilus.lang.script import Script
from tilus.target import nvgpu_sm90a

STAGES, ROWS, COLUMNS = 3, 32, 128
PIECE = 32  # of a row, that is loaded at a time


class Parts(Script):
    """y = x, through shared memory, read in parts of 8 rows by 32 columns."""

    def __init__(self, swizzle: Swizzle):
        super().__init__()
        self.layout = shared_row_major(STAGES, ROWS, COLUMNS).with_swizzle(swizzle)
        self.starts = [(r, c) for c in range(0, COLUMNS, PIECE) for r in range(0, ROWS, 8)]
        self.tile = register_layout([8, PIECE], [8, 4, 8], [0, 1], [2])

    def __call__(self, x_ptr: ~float16, y_ptr: ~float16, slot: int32):
        self.attrs.blocks = 1
        self.attrs.warps = 1
        g_x = self.global_view(x_ptr, dtype=float16, shape=[STAGES, ROWS, COLUMNS])
        g_y = self.global_view(y_ptr, dtype=float16, shape=[STAGES, ROWS, COLUMNS])
        s = self.shared_tensor(dtype=float16, shape=[STAGES, ROWS, COLUMNS])
        self.annotate_layout(s, self.layout)
        self.copy_async(g_x, s, offsets=[0, 0, 0])
        self.copy_async_wait_all()
        self.sync()
        for turn in self.range(STAGES):
            stage = (slot + turn) % STAGES
            mine = s[stage]
            for row, column in self.starts:
                part = self.load_shared(mine[row : row + 8, column : column + PIECE])
                self.annotate_layout(part, self.tile)
                self.store_global(g_y, part, offsets=[stage, row, column], dims=[1, 2])


SWIZZLES = [
    *(Swizzle(5, 1, 2), Swizzle(4, 2, 3), Swizzle(3, 3, 4), Swizzle(3, 3, 3), Swizzle(3, 2, 6)),
    *(Swizzle(6, 1, 1), Swizzle(3, 1, 9)),
]


@pytest.mark.parametrize("swizzle", SWIZZLES, ids=str)
@pytest.mark.parametrize("engine", ["interpreter", "emulator"])
def test_every_part_is_found(engine: str, swizzle: Swizzle):
    x = torch.randn(STAGES, ROWS, COLUMNS, generator=torch.manual_seed(0)).half()
    y = torch.full_like(x, float("nan"))
    with tilus.option.context(engine=engine):
        Parts(swizzle)(x, y, 1)
    assert torch.equal(x, y)


def test_what_a_swizzle_does_not_touch_is_added_to_it():
    """Of 16 parts, every second one in a row differs in the bit that the swizzle exchanges."""
    x = torch.zeros(STAGES, ROWS, COLUMNS).half()
    program = Parts(Swizzle(5, 1, 2)).program(x, x, 0)
    text = generate(program, nvgpu_sm90a)[0].text
    loads = re.findall(r"load_shared_16\(.*(swizzle<5, 1, 2>\(.*\)) \+ mine_base", text)
    assert 16 == len(loads) and 2 == len(set(loads))


@pytest.mark.parametrize(
    ("offset", "text"),
    [
        (SharedOffset("tid * 8", 0), "(tid * 8) * 2"),
        (SharedOffset("tid + at", 16), "(tid + at) * 2 + 32"),
        (SharedOffset("0", 4), "8"),
        (SharedOffset("0", 0), "0"),
    ],
)
def test_the_constant_comes_last(offset: SharedOffset, text: str):
    assert offset.scaled(2) == text
