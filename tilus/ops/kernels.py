"""The programs of the low-precision matmul, and the tile format they share.

Weights are stored so that each thread finds its part of a tile as consecutive bytes:

    offline   codes [N, K] --load a tile in the tensor core's layout--> view as bytes --> tiles
    kernel    tiles --wide loads--> view as b-bit codes (free) --> cast, scale --> dot

A tile is block_k x block_n codes; thread t's bytes are adjacent, so the kernel loads them in the
widest vectors whatever the width of a code.
"""
# A kernel's annotations are the language (`~uint8` is a pointer), not Python types.
# pyright: reportInvalidTypeForm=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportOperatorIssue=false

from dataclasses import dataclass

from tilus.dtypes import DataType, bfloat16, float32, int32, uint8, void_p
from tilus.ir.layout import RegisterLayout, local, resolve_dot_config, spatial
from tilus.lang.script import Script
from tilus.utils import cdiv

WARPS = 4
BLOCK_N = 64


@dataclass(frozen=True)
class TileFormat:
    """How the tiles of a quantised [K, N] weight lie in memory: [k tiles, n tiles, threads,
    bytes per thread].
    """

    weight_dtype: DataType
    activation_dtype: DataType
    n: int
    k: int
    block_k: int
    block_n: int = BLOCK_N

    @property
    def layout(self) -> RegisterLayout:
        """Where a tile's codes lie among the threads: the B operand of the tensor core."""
        config = resolve_dot_config(
            self.activation_dtype,
            float32,
            m=16,
            n=self.block_n,
            k=self.block_k,
            num_warps=WARPS,
        )
        return config.lb

    @property
    def byte_layout(self) -> RegisterLayout:
        """The same registers seen as bytes: thread t holds bytes [t * c, (t + 1) * c) of the
        tile.
        """
        layout = self.layout
        return spatial(layout.num_threads) * local(layout.local_size * self.weight_dtype.nbits // 8)

    @property
    def tile_bytes(self) -> int:
        return self.byte_layout.size

    @property
    def grid(self) -> tuple[int, int]:
        """Number of tiles along K and N."""
        return cdiv(self.k, self.block_k), cdiv(self.n, self.block_n)


class PackWeight(Script):
    """Codes [N, K] (packed rows) to tiles; see the module's docstring."""

    def __init__(self, tiles: TileFormat):
        super().__init__()
        self.tiles = tiles
        self.layout = tiles.layout
        self.byte_layout = tiles.byte_layout

    def __call__(self, codes_ptr: void_p, tiles_ptr: ~uint8):
        self.attrs.blocks = [self.tiles.grid[0], self.tiles.grid[1]]
        self.attrs.warps = WARPS
        n, k = self.tiles.n, self.tiles.k
        g_codes = self.global_view(
            codes_ptr, dtype=self.tiles.weight_dtype, shape=[k, n], strides=[1, k]
        )
        g_tiles = self.global_view(
            tiles_ptr, dtype=uint8, shape=[*self.tiles.grid, self.tiles.tile_bytes]
        )
        kt = self.blockIdx.x
        nt = self.blockIdx.y
        codes = self.load_global(
            g_codes,
            offsets=[kt * self.tiles.block_k, nt * self.tiles.block_n],
            shape=[self.tiles.block_k, self.tiles.block_n],
        )
        self.annotate_layout(codes, self.layout)
        packed = self.view(codes, dtype=uint8, layout=self.byte_layout)
        self.store_global(g_tiles, packed, offsets=[kt, nt, 0], dims=[2])


class QuantizedMatmul(Script):
    """y [M, N] = x [M, K] W^T for W in tiles: load bytes, view as codes, cast, scale, dot.

    It takes any type of weights, so x and the scaled weights are multiplied as sums of two bfloat16
    numbers, which have float32's range: x is exact, and weights are rounded to 16 bits.
    """

    def __init__(
        self,
        tiles: TileFormat,
        group_size: int,
        has_zeros: bool,
        scale_dtype: DataType,
        block_m: int,
    ):
        super().__init__()
        self.tiles = tiles
        self.layout = tiles.layout
        self.group_size = group_size
        self.has_zeros = has_zeros
        self.scale_dtype = scale_dtype
        self.block_m = block_m

    def __call__(
        self,
        m: int32,
        x_ptr: void_p,
        tiles_ptr: ~uint8,
        scales_ptr: void_p,
        zeros_ptr: void_p,
        y_ptr: void_p,
    ):
        self.attrs.blocks = [cdiv(m, self.block_m), self.tiles.grid[1]]
        self.attrs.warps = WARPS
        n, k = self.tiles.n, self.tiles.k
        block_m, block_n, block_k = self.block_m, self.tiles.block_n, self.tiles.block_k
        dtype = self.tiles.activation_dtype
        groups = k // self.group_size

        g_x = self.global_view(x_ptr, dtype=dtype, shape=[m, k])
        g_y = self.global_view(y_ptr, dtype=dtype, shape=[m, n])
        g_tiles = self.global_view(
            tiles_ptr, dtype=uint8, shape=[*self.tiles.grid, self.tiles.tile_bytes]
        )
        g_scales = self.global_view(scales_ptr, dtype=self.scale_dtype, shape=[groups, n])
        g_zeros = self.global_view(zeros_ptr, dtype=self.scale_dtype, shape=[groups, n])

        row = self.blockIdx.x * block_m
        nt = self.blockIdx.y
        acc = self.register_tensor(dtype=float32, shape=[block_m, block_n], init=0.0)
        for kt in self.range(self.tiles.grid[0]):
            x = self.load_global(g_x, offsets=[row, kt * block_k], shape=[block_m, block_k])
            packed = self.load_global(
                g_tiles, offsets=[kt, nt, 0], shape=[self.tiles.tile_bytes], dims=[2]
            )
            codes = self.view(packed, dtype=self.tiles.weight_dtype, layout=self.layout)
            w = codes.to(float32)
            group = kt * block_k // self.group_size
            if self.has_zeros:
                zeros = self.load_global(g_zeros, offsets=[group, nt * block_n], shape=[1, block_n])
                w -= zeros.to(float32)
            scales = self.load_global(g_scales, offsets=[group, nt * block_n], shape=[1, block_n])
            w *= scales.to(float32)
            x_parts = [x] if dtype == bfloat16 else self.parts(x.to(float32))
            for w_part in self.parts(w):
                for x_part in x_parts:
                    acc = self.dot(x_part, w_part, acc)
        self.store_global(g_y, acc.to(dtype), offsets=[row, nt * block_n])

    def parts(self, tile):
        """Two bfloat16 tiles whose sum is the float32 tile, to 16 bits."""
        upper = tile.to(bfloat16)
        return [upper, (tile - upper.to(float32)).to(bfloat16)]
