"""How the weights of the lean kernels lie in memory: blobs of 64 rows by a chunk of k.

    blobs = BlobFormat(uint4b, float16, n=4096, k=4096, group=128)
    packed = pack_blobs(codes, scales, None, blobs)        # [n tiles, chunks, bytes] uint8

A blob is what a warp multiplies at a time: codes as the words of an unpack plan, in the order in
which the threads load vectors of 16 bytes, then the scales (and zero points) of its groups. So a
blob is copied as it is, and every shared load is as wide as can be. Shapes that are no multiple of
a blob are padded with scales of 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from tilus.dtypes import DataType, float32
from tilus.errors import TilusError
from tilus.ir.layout import MmaDotConfig, UnpackPlan, find_atomic_mma, mma_dot_config, plan_unpack
from tilus.utils import cdiv

LANES = 32
VECTOR = 16  # bytes of the widest access
TOKENS = 8  # columns of a tensor core's B operand
ROW_TILES = 4  # of 16 rows, that a warp multiplies with one fragment of x
WIDEST_CHUNK = 128
PART = 64  # of k, unpacked at a time: four steps of the tensor core
TINY_SCALE = 2.0**-40  # of unpacked weights, below which activations take a part of the factor
WIDEST_SCALE = 2.0**60
WIDEST_SPAN = 32  # of k, in which the order is the kernel's own
TILES_AT_ONCE = 1 << 22  # codes that packing takes at a time


@dataclass(frozen=True)
class Piece:
    """A stretch of k within one group and one part: what is multiplied between two scales."""

    part: int
    start: int  # within the part
    size: int
    group: int
    ends: bool  # whether the group's accumulator is scaled after it


@dataclass(frozen=True)
class BlobFormat:
    """Blobs of [n, k] weights.

    Attributes:
        dtype: of the codes: unsigned integers, floats or codebooks of 1 to 8 bits.
        activation: float16 or bfloat16.
        group: elements of k that share a scale, a multiple of 16.
        scale_dtype: float16, bfloat16 or float32, of scales and zero points.
        has_zeros: a zero point for every group.
    """

    dtype: DataType
    activation: DataType
    n: int
    k: int
    group: int
    scale_dtype: DataType
    has_zeros: bool = False

    def __post_init__(self) -> None:
        if (self.group % 16 and self.group < self.k) or not self._fits(PART):
            raise TilusError(
                "the group size does not fit the tensor core",
                found=f"group_size = {self.group}",
                expected="16, 32, a multiple of 64, or one group per row (-1)",
            )
        if self.dtype.kind == "int":
            raise TilusError(
                "signed codes are stored offset-binary, as unsigned ones", found=str(self.dtype)
            )

    @property
    def plan(self) -> UnpackPlan:
        return plan_unpack(self.dtype, self.activation)

    @property
    def x_factor(self) -> float:
        """A power of two for the activations: floats unpacked to bfloat16 come out so small that
        their products would vanish in float32.
        """
        scale = self.plan.scale
        return min(1.0 / scale, WIDEST_SCALE) if scale < TINY_SCALE else 1.0

    @property
    def block_n(self) -> int:
        return 16 * ROW_TILES

    @property
    def n_tiles(self) -> int:
        return cdiv(self.n, self.block_n)

    def _fits(self, chunk: int) -> bool:
        """Whether a group is a part of a chunk, or a multiple of it."""
        return self.group >= self.k or chunk % self.group == 0 or self.group % chunk == 0

    @property
    def chunk(self) -> int:
        """Of k in a blob."""
        whole = self.k % WIDEST_CHUNK == 0 and self._fits(WIDEST_CHUNK)
        return WIDEST_CHUNK if whole else PART

    @property
    def padded_k(self) -> int:
        return cdiv(self.k, self.chunk) * self.chunk

    @property
    def chunks(self) -> int:
        return self.padded_k // self.chunk

    @property
    def group_in_chunk(self) -> int:
        """Of k: the part of a group that lies in a chunk."""
        return self.chunk if self.group >= self.k else min(self.group, self.chunk)

    @property
    def span(self) -> int:
        """Of k: what the kernel orders as it likes."""
        return min(WIDEST_SPAN, self.group_in_chunk)

    @property
    def groups(self) -> int:
        """Scales of a row in a blob."""
        return self.chunk // self.group_in_chunk

    @property
    def part_bytes(self) -> int:
        return self.block_n * PART * self.dtype.nbits // 8

    @property
    def weight_bytes(self) -> int:
        return self.part_bytes * (self.chunk // PART)

    @property
    def group_bytes(self) -> int:
        """Of the scales of a group, and of its zero points."""
        return self.block_n * self.scale_dtype.nbits // 8

    @property
    def blob_bytes(self) -> int:
        return self.weight_bytes + self.groups * self.group_bytes * (1 + self.has_zeros)

    def config(self, k: int) -> MmaDotConfig:
        """The tiling of a warp, for `k` of k."""
        atom = find_atomic_mma(self.activation, self.activation, float32)
        return mma_dot_config(atom, (1, 1), (ROW_TILES, 1, k // 16))

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        size = min(self.group_in_chunk, PART)
        found: list[Piece] = []
        for k in range(0, self.chunk, size):
            ends = (k + size) % self.group_in_chunk == 0
            found.append(Piece(k // PART, k % PART, size, k // self.group_in_chunk, ends))
        return tuple(found)


# ---- packing -----------------------------------------------------------------------------------


def pack_blobs(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, blobs: BlobFormat
) -> torch.Tensor:
    """Blobs [n tiles, chunks, bytes] uint8 of a quantised matrix, on its device.

    Args:
        codes: [n, k] uint8 bit patterns.
        scales: [groups, n] of `blobs.scale_dtype`; zeros likewise, if `blobs.has_zeros`.
    """
    weights = _pack_codes(codes, blobs)
    parts = [weights, _pack_numbers(scales, blobs)]
    if blobs.has_zeros:
        assert zeros is not None
        parts.append(_pack_numbers(zeros, blobs))
    return torch.cat(parts, -1).contiguous()


def unpack_blobs(packed: torch.Tensor, blobs: BlobFormat) -> torch.Tensor:
    """The codes [n, k] uint8 that `pack_blobs` stored: its inverse."""
    words = packed[..., : blobs.weight_bytes].cpu().numpy()
    vectors = words.reshape(blobs.n_tiles, blobs.chunks, blobs.chunk // PART, -1, LANES, VECTOR)
    lanes = np.ascontiguousarray(np.swapaxes(vectors, 3, 4)).reshape(*vectors.shape[:3], LANES, -1)
    plan = blobs.plan
    fragments = plan.unpack_codes(lanes.view(np.uint32).reshape(*lanes.shape[:-1], -1, plan.words))
    tiles = np.zeros((*lanes.shape[:3], blobs.block_n * PART), np.uint8)
    tiles[..., _fragment_order(blobs).numpy()] = fragments.reshape(*lanes.shape[:4], -1)
    shape = (*lanes.shape[:3], blobs.block_n, PART)
    ordered = np.zeros(shape, np.uint8)
    ordered[..., _k_order(blobs).numpy()] = tiles.reshape(shape)
    matrix = np.moveaxis(ordered, 3, 1).reshape(-1, blobs.padded_k)
    return torch.from_numpy(np.ascontiguousarray(matrix[: blobs.n, : blobs.k]))


def _pack_codes(codes: torch.Tensor, blobs: BlobFormat) -> torch.Tensor:
    padded = torch.zeros(
        blobs.n_tiles * blobs.block_n, blobs.padded_k, dtype=torch.uint8, device=codes.device
    )
    padded[: blobs.n, : blobs.k] = codes
    rows = padded.reshape(blobs.n_tiles, -1)
    step = max(1, TILES_AT_ONCE // rows.shape[1])
    return torch.cat([_pack_tiles(part, blobs) for part in rows.split(step)])


def _pack_tiles(rows: torch.Tensor, blobs: BlobFormat) -> torch.Tensor:
    """[tiles, block_n * padded_k] codes to [tiles, chunks, weight_bytes]."""
    tiles = rows.reshape(len(rows), blobs.block_n, -1, PART)[..., _k_order(blobs).to(rows.device)]
    tiles = tiles.transpose(1, 2).flatten(2)  # (tiles, parts, block_n * PART)
    plan = blobs.plan
    fragments = tiles[..., _fragment_order(blobs).to(rows.device)]  # (tiles, parts, lanes, local)
    words = _words(fragments.reshape(*fragments.shape[:3], -1, plan.elements), plan)
    lanes = words.flatten(3).view(torch.uint8)
    vectors = lanes.reshape(*lanes.shape[:3], -1, VECTOR).transpose(2, 3)
    return vectors.reshape(len(rows), blobs.chunks, blobs.weight_bytes)


def _words(codes: torch.Tensor, plan: UnpackPlan) -> torch.Tensor:
    """(..., elements) codes to (..., words) int32, bit by bit as the plan places them."""
    words = torch.zeros(*codes.shape[:-1], plan.words, dtype=torch.int64, device=codes.device)
    for element, places in enumerate(plan.placement):
        code = codes[..., element].long()
        for bit, (word, position) in enumerate(places):
            words[..., word] |= (code >> bit & 1) << position
    return (words - (words >> 31 << 32)).to(torch.int32)


def _fragment_order(blobs: BlobFormat) -> torch.Tensor:
    """(lanes, local): which element of a [block_n, PART] tile each lane holds where."""
    return torch.from_numpy(np.array(blobs.config(PART).la.logical_indices()))


def _k_order(blobs: BlobFormat) -> torch.Tensor:
    """(PART,): the k, within a part, that the tensor core takes as its k-th.

    Lane m of a group of four holds k = 2 m + h + 8 r of each 16; in memory its share of a span lies
    in a row.
    """
    k = np.arange(PART)
    span, step, register, lane, half = (
        k // blobs.span,
        k % blobs.span // 16,
        k % 16 // 8,
        k % 8 // 2,
        k % 2,
    )
    return torch.from_numpy(
        span * blobs.span + lane * (blobs.span // 4) + step * 4 + register * 2 + half
    )


def _pack_numbers(numbers: torch.Tensor, blobs: BlobFormat) -> torch.Tensor:
    """[groups, n] scales to bytes [n tiles, chunks, groups of a chunk * group_bytes].

    Lane 4 g .. 4 g + 3 find those of rows g and g + 8 of every 16 in a row.
    """
    padded = torch.zeros(
        cdiv(blobs.padded_k, blobs.group) if blobs.group < blobs.k else 1,
        blobs.n_tiles * blobs.block_n,
        dtype=numbers.dtype,
        device=numbers.device,
    )
    padded[: len(numbers), : blobs.n] = numbers
    first = torch.arange(0, blobs.padded_k, blobs.group_in_chunk, device=numbers.device)
    rows = padded[(first // blobs.group).clamp(max=len(padded) - 1)]
    tiles = rows.reshape(blobs.chunks, blobs.groups, blobs.n_tiles, ROW_TILES, 2, 8)
    ordered = tiles.permute(2, 0, 1, 5, 3, 4).contiguous()
    return ordered.view(torch.uint8).reshape(blobs.n_tiles, blobs.chunks, -1)
