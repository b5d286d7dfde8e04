"""Example 9: a matmul with weights of 1 to 8 bits, the paper's way.

New here: `view`. Weights are packed once so that every thread finds its codes as whole bytes; the
kernel loads bytes as wide as it can and *views* them as codes of any width, at no cost. Then they
are cast, scaled by group, and multiplied. `tilus.ops.matmul` is this kernel, made general.
"""

import torch

import tilus
from tilus import float16, float32, int32, uint8, void_p
from tilus.ir.layout import spatial


class PackTiles(tilus.Script):
    """Codes [K, N] to tiles [K / block_k, N / block_n, bytes]."""

    def __init__(self, dtype: tilus.DataType, block_k: int = 32, block_n: int = 64):
        super().__init__()
        self.dtype = dtype
        self.block_k = block_k
        self.block_n = block_n
        config = self.cuda_config(block_n, block_k)
        self.fragment = config.lb  # which thread's registers hold which code
        per_thread = config.lb.local_size * dtype.nbits // 8
        self.as_bytes = spatial(config.lb.num_threads).local(per_thread)

    @staticmethod
    def cuda_config(block_n: int, block_k: int):
        return tilus.ir.layout.resolve_dot_config(
            float16, float32, m=16, n=block_n, k=block_k, num_warps=4
        )

    def __call__(self, n: int, k: int, codes_ptr: void_p, tiles_ptr: ~uint8):
        self.attrs.blocks = [k // self.block_k, n // self.block_n]
        self.attrs.warps = 4
        grid = [k // self.block_k, n // self.block_n]
        g_codes = self.global_view(codes_ptr, dtype=self.dtype, shape=[k, n])
        g_tiles = self.global_view(tiles_ptr, dtype=uint8, shape=[*grid, self.as_bytes.size])
        codes = self.load_global(
            g_codes,
            offsets=[self.blockIdx.x * self.block_k, self.blockIdx.y * self.block_n],
            shape=[self.block_k, self.block_n],
        )
        self.annotate_layout(codes, self.fragment)
        packed = self.view(codes, dtype=uint8, layout=self.as_bytes)
        self.store_global(g_tiles, packed, offsets=[self.blockIdx.x, self.blockIdx.y, 0], dims=[2])


class QuantizedMatmul(PackTiles):
    """y = x W with W in tiles and a scale for every group of 32 rows and every column."""

    def __call__(
        self,
        m: int32,
        n: int,
        k: int,
        x_ptr: ~float16,
        tiles_ptr: ~uint8,
        scales_ptr: ~float16,
        y_ptr: ~float16,
    ):
        self.attrs.blocks = [tilus.utils.cdiv(m, 16), n // self.block_n]
        self.attrs.warps = 4
        grid = [k // self.block_k, n // self.block_n]
        g_x = self.global_view(x_ptr, dtype=float16, shape=[m, k])
        g_tiles = self.global_view(tiles_ptr, dtype=uint8, shape=[*grid, self.as_bytes.size])
        g_scales = self.global_view(scales_ptr, dtype=float16, shape=[grid[0], n])
        g_y = self.global_view(y_ptr, dtype=float16, shape=[m, n])
        i = self.blockIdx.x * 16
        j = self.blockIdx.y

        acc = self.register_tensor(dtype=float32, shape=[16, self.block_n], init=0.0)
        for p in range(grid[0]):
            x = self.load_global(g_x, offsets=[i, p * self.block_k], shape=[16, self.block_k])
            packed = self.load_global(
                g_tiles, offsets=[p, j, 0], shape=[self.as_bytes.size], dims=[2]
            )
            codes = self.view(packed, dtype=self.dtype, layout=self.fragment)
            scales = self.load_global(
                g_scales, offsets=[p, j * self.block_n], shape=[1, self.block_n]
            )
            acc = self.dot(x, codes.to(float16) * scales, acc)
        self.store_global(g_y, acc.to(float16), offsets=[i, j * self.block_n])


def run(dtype: tilus.DataType, m: int, n: int, k: int) -> None:
    scales = torch.rand(k // 32, n).half() * 0.05 + 0.01
    weight = tilus.randint(0, 2, (k, n), tilus.int32).to(float32)  # values every dtype here has
    codes = tilus.from_torch(-weight.torch()).to(dtype)
    x, y = torch.randn(m, k).half(), torch.empty(m, n).half()

    tiles = torch.empty(n * k * dtype.nbits // 8, dtype=torch.uint8)
    PackTiles(dtype)(n, k, codes, tiles)
    QuantizedMatmul(dtype)(m, n, k, x, tiles, scales, y)

    values = codes.to(float32).torch() * scales.float().repeat_interleave(32, 0)
    torch.testing.assert_close(y.float(), x.float() @ values, rtol=5e-3, atol=2e-2)


def main() -> None:
    for dtype in (tilus.int4b, tilus.int3b, tilus.float6_e3m2, tilus.int1b):
        run(dtype, m=5, n=128, k=96)
        print(f"quantised matmul with {dtype} weights: equal to torch")


if __name__ == "__main__":
    main()
