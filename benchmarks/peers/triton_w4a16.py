"""A Triton matmul of 16-bit activations with weights of 1, 2, 4 or 8 bits, as a good Triton user
would write it.

    multiply(POINTS[16][0], x, packed, scales, bits=4, group_size=128)    # [m, k] -> [m, n] float16

Weights lie as int32 words [k / (32 / bits), n] of codes along k, with scales [k / group, n] of
float16 and the zero point 2^(bits - 1). Each word is loaded once and spread over its codes by a
broadcast shift and a reshape; codes become numbers without a conversion, by the exponent of 1024
over their bits. For few tokens, blocks share k: each writes its part in float32 and a second kernel
adds them in a fixed order.

What is tuned is a `Point`: tiles, warps, stages, and whether scales are applied to the weights or,
as K steps never cross a group, to the product of the step.

The surprise: `points_for` chooses the split from the number of multiprocessors, and twice it,
rather than leave it to the tuner: with it the tuner would run for seconds for each shape.

Run here by Triton's interpreter on the CPU, and compiled for sm_80 and sm_90 without running.
"""

# Parameters of kernels are Triton's language, as are constants in their bodies.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
# pyright: reportOperatorIssue=false, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl

from tilus.utils import cdiv

BITS = (1, 2, 4, 8)
WORD = 32
REDUCED = 1024  # results that a block adds up
MOST_SPLIT = 16


@triton.jit
def matmul_kernel(
    x,
    packed,
    scales,
    out,
    m,
    n,
    k,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SCALE_LAST: tl.constexpr,
):
    """A block of a result, or of part `program_id(2)` of it: out[parts, m, n]."""
    PER_WORD: tl.constexpr = 32 // BITS
    WORDS: tl.constexpr = BLOCK_K // PER_WORD
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_rows, in_columns = rows < m, columns < n
    part = tl.program_id(2)
    share = tl.cdiv(tl.cdiv(k, BLOCK_K), tl.num_programs(2)) * BLOCK_K
    first = part * share
    depth = tl.arange(0, BLOCK_K)
    words_of = tl.arange(0, WORDS)
    shifts = tl.arange(0, PER_WORD) * BITS
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(first, tl.minimum(first + share, k), BLOCK_K):
        tokens = tl.load(
            x + rows[:, None] * k + (start + depth)[None, :], mask=in_rows[:, None], other=0.0
        )
        words = tl.load(
            packed + (start // PER_WORD + words_of)[:, None] * n + columns[None, :],
            mask=in_columns[None, :],
            other=0,
        )
        codes = (words[:, None, :] >> shifts[None, :, None]) & ((1 << BITS) - 1)
        codes = codes.reshape(BLOCK_K, BLOCK_N)
        halves = (codes | 0x6400).to(tl.uint16).to(tl.float16, bitcast=True)  # 1024 + code
        weights = halves - (1024 + (1 << (BITS - 1)))
        scale = tl.load(scales + (start // GROUP) * n + columns, mask=in_columns, other=0.0)
        if SCALE_LAST:
            acc += tl.dot(tokens, weights.to(tl.float16)) * scale[None, :].to(tl.float32)
        else:
            acc = tl.dot(tokens, weights.to(tl.float16) * scale[None, :], acc)
    place = out + (part * m + rows[:, None]) * n + columns[None, :]
    tl.store(place, acc.to(out.dtype.element_ty), mask=in_rows[:, None] & in_columns[None, :])


@triton.jit
def add_kernel(parts, out, count, split, BLOCK: tl.constexpr):
    """out[count] = the sum of parts[split, count]."""
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    total = tl.zeros((BLOCK,), tl.float32)
    for part in range(split):
        total += tl.load(parts + part * count + places, mask=inside, other=0.0)
    tl.store(out + places, total.to(out.dtype.element_ty), mask=inside)


# ---- what is tuned -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """How the work is cut; `split` blocks share the k of a tile."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    scale_last: bool = False
    split: int = 1

    def blocks(self, m: int, n: int) -> int:
        """Of the grid, but for the split."""
        return cdiv(m, self.block_m) * cdiv(n, self.block_n)

    def split_for(self, m: int, n: int, k: int, multiprocessors: int) -> int:
        """The least power of two that gives every multiprocessor a block, if k has the steps."""
        split, steps = 1, k // self.block_k
        while split < MOST_SPLIT and 2 * split <= steps:
            if self.blocks(m, n) * split >= multiprocessors:
                break
            split *= 2
        return split


# By tokens: the block along m is theirs, or 128.
_FEW = ((32, 128, 4, 4), (64, 128, 4, 4), (128, 128, 4, 4), (256, 128, 8, 3))
_SOME = ((64, 128, 4, 4), (128, 64, 4, 4), (128, 128, 4, 3), (256, 64, 8, 3))
_MANY = ((128, 64, 4, 3), (128, 64, 8, 4), (256, 64, 8, 3), (128, 128, 8, 3))
POINTS: dict[int, tuple[Point, ...]] = {
    **{
        block: tuple(Point(block, *tile, last) for tile in _FEW for last in (True, False))
        for block in (16, 32)
    },
    64: tuple(Point(64, *tile) for tile in _SOME),
    128: tuple(Point(128, *tile) for tile in _MANY),
}


def bucket_of(m: int) -> int:
    """The key of POINTS for so many tokens.

    >>> bucket_of(1), bucket_of(17), bucket_of(4096)
    (16, 32, 128)
    """
    return next((block for block in POINTS if m <= block), max(POINTS))


def points_for(m: int, n: int, k: int, group_size: int, multiprocessors: int) -> list[Point]:
    """What is tried for a problem: all tiles that divide a group, with one and two blocks a
    multiprocessor.
    """
    return list(_points(m, n, k, group_size, multiprocessors))


def _points(m: int, n: int, k: int, group_size: int, multiprocessors: int) -> Iterable[Point]:
    for point in POINTS[bucket_of(m)]:
        if group_size % point.block_k == 0:
            splits = {point.split_for(m, n, k, count * multiprocessors) for count in (1, 2)}
            yield from (replace(point, split=split) for split in sorted(splits))


# ---- launching -----------------------------------------------------------------------------------


def multiply(
    point: Point,
    x: torch.Tensor,
    packed: torch.Tensor,
    scales: torch.Tensor,
    bits: int,
    group_size: int,
) -> torch.Tensor:
    """x [m, k] float16 times the weights of k rows and n columns, [m, n] float16."""
    (m, k), n = x.shape, packed.shape[1]
    out = torch.empty(m, n, dtype=x.dtype, device=x.device)
    parts = out
    if point.split > 1:
        parts = torch.empty(point.split, m, n, dtype=torch.float32, device=x.device)
    grid = (cdiv(n, point.block_n), cdiv(m, point.block_m), point.split)
    matmul_kernel[grid](
        x, packed, scales, parts, m, n, k, bits, group_size,
        point.block_m, point.block_n, point.block_k, point.scale_last,
        num_warps=point.warps, num_stages=point.stages,
    )  # fmt: skip
    if point.split > 1:
        count = m * n
        add_kernel[(cdiv(count, REDUCED),)](parts, out, count, point.split, REDUCED)
    return out
