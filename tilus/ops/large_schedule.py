"""How a launch of the kernel for many tokens is cut: all cuts that fit a device.

    min(schedules(blobs, m=256), key=...)

What a cut costs is estimated in `demand.py`, and which one is taken is said in `choose.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from tilus.errors import TilusError
from tilus.ops.blobs import ROW_TILES, TOKENS, BlobFormat
from tilus.utils import cdiv

WARPS = 8
STAGES = 5  # at most
SHARED_BYTES = 163 * 1024  # of a block (CUDA guide, "Compute Capabilities": 8.0)
REGISTERS = 160  # of a thread, for sums and the unpacked weights of a part
DEPTH_REGISTERS = 16  # of them, that warps which share k need for other things
MOST_TOKENS = 256  # of a warp
LEAST_STEPS = 4  # of a block that shares a tile with others


@dataclass(frozen=True)
class Schedule:
    """How a launch is cut.

    Attributes:
        rows: warps along n.
        depth: warps along k, which share the chunks of a step and add up in the end.
        columns: warps along the tokens.
        tokens: of a warp, a multiple of 8.
        stages: of the ring in shared memory, at least 2.
        tiles: of 16 of n, that a warp multiplies: 4 (a blob), 2 or 1. The fewer, the more tokens
            fit in its registers, so that each weight is unpacked less often; but the more often
            each token is read from shared memory.
        split: blocks at most that share the k of a tile in the last wave, where there are fewer
            tiles than multiprocessors.
        multiprocessors: blocks of a wave.
        scale_weights: scales multiply weights, rounded to the activations' type, in place of sums.
            That is cheaper for small groups, but less accurate.
    """

    rows: int
    depth: int
    columns: int
    tokens: int
    stages: int
    tiles: int = 2
    split: int = 1
    multiprocessors: int = 132
    scale_weights: bool = False

    def __post_init__(self) -> None:
        for name in ("rows", "depth", "columns"):
            count = getattr(self, name)
            if count < 1 or count & (count - 1):
                raise TilusError(
                    "the warps of a block are shared out by powers of two",
                    found=f"{name} = {count}",
                )
        if self.tiles not in (1, 2, ROW_TILES) or self.rows * self.tiles < ROW_TILES:
            raise TilusError(
                "a block multiplies whole blobs",
                found=f"{self.rows} warps of {self.tiles} x 16 rows",
                expected=f"tiles = 1, 2 or 4, and rows * tiles of at least {ROW_TILES}",
            )
        most = _most_tokens(self.tiles)
        if self.tokens % TOKENS or not TOKENS <= self.tokens <= most or self.stages < 2:
            raise TilusError(
                "the schedule does not fit registers and ring",
                found=f"{self.tokens} tokens a warp, {self.stages} stages",
                expected=f"8, 16, .. {most} tokens, and at least 2 stages",
            )
        if not 1 <= self.split <= self.multiprocessors:
            raise TilusError(
                "a tile is shared by one block or more, at most one a multiprocessor",
                found=f"split = {self.split}, {self.multiprocessors} multiprocessors",
            )

    @property
    def warps(self) -> int:
        return self.rows * self.depth * self.columns

    @property
    def blobs(self) -> int:
        """Of a block, along n."""
        return self.rows * self.tiles // ROW_TILES

    @property
    def sharers(self) -> int:
        """Warps that share a blob."""
        return ROW_TILES // self.tiles

    @property
    def block_m(self) -> int:
        """Tokens of a block."""
        return self.columns * self.tokens

    def stage_bytes(self, blobs: BlobFormat) -> int:
        """Of the weights and the tokens of a step."""
        x_bytes = self.block_m * self.depth * blobs.chunk * blobs.activation.nbits // 8
        return self.blobs * self.depth * blobs.blob_bytes + x_bytes

    @property
    def exchange_bytes(self) -> int:
        """Through which warps that share k add up 8 tokens at a time, beside the ring."""
        return self.warps * 16 * self.tiles * TOKENS * 4 if self.depth > 1 else 0

    def steps(self, blobs: BlobFormat) -> int:
        """Turns that a block takes over all of k."""
        return cdiv(blobs.chunks, self.depth)

    def tiles_n(self, blobs: BlobFormat) -> int:
        """Blocks along n."""
        return cdiv(blobs.n_tiles, self.blobs)


def schedules(
    blobs: BlobFormat,
    m: int,
    multiprocessors: int = 132,
    shared_bytes: int = SHARED_BYTES,
    scale_weights: bool = False,
) -> Iterator[Schedule]:
    """Those of 8 warps that fit in shared memory and registers, for `m` tokens."""
    powers = [1 << bit for bit in range(WARPS.bit_length())]
    for rows, depth, tiles in product(powers, powers, (1, 2, 4)):
        columns = WARPS // rows // depth
        if columns == 0 or rows * tiles < ROW_TILES:
            continue
        spared = DEPTH_REGISTERS if depth > 1 else 0
        for tokens in _tokens(m, columns, _most_tokens(tiles, REGISTERS - spared)):
            ring = Schedule(rows, depth, columns, tokens, 2, tiles, 1, multiprocessors)
            room = shared_bytes - ring.exchange_bytes
            stages = min(STAGES, room // ring.stage_bytes(blobs), ring.steps(blobs) + 1)
            if stages >= 2:
                ring = replace(ring, stages=stages, scale_weights=scale_weights)
                yield from _splits(ring, blobs, m)


def _most_tokens(tiles: int, registers: int = REGISTERS) -> int:
    """Of a warp: each takes half a register of a thread for each 16 rows, 16 of which take 16 for
    their weights.
    """
    return min(MOST_TOKENS, 2 * (registers // tiles - 16))


def _tokens(m: int, columns: int, most: int) -> list[int]:
    """Tokens of a warp, so that blocks share `m` evenly."""
    found = set[int]()
    while most >= 2 * TOKENS:
        blocks = cdiv(m, columns * most)
        found.add(cdiv(cdiv(m, blocks * columns), 2 * TOKENS) * 2 * TOKENS)
        most //= 2
    return sorted(found)


def _splits(ring: Schedule, blobs: BlobFormat, m: int) -> Iterator[Schedule]:
    """A block for each tile of the last wave, or as many as there are multiprocessors for."""
    yield ring
    rest = cdiv(m, ring.block_m) * ring.tiles_n(blobs) % ring.multiprocessors
    most = min(ring.multiprocessors // max(rest, 1), ring.steps(blobs) // LEAST_STEPS)
    if rest and most > 1:
        yield replace(ring, split=most)
