"""Example 4: a matmul. Tiles are loaded straight into the layout that the tensor core wants.

New here: `dot`. Nothing says how a tile is spread over the threads: layout inference starts from
what the tensor core needs and works back to the loads.
"""

import torch

import tilus
from tilus import float16, float32, int32


class NaiveMatmul(tilus.Script):
    def __init__(self, block_m: int = 32, block_n: int = 64, block_k: int = 32):
        super().__init__()
        self.block_m = block_m
        self.block_n = block_n
        self.block_k = block_k

    def __call__(self, m: int32, n: int, k: int, a_ptr: ~float16, b_ptr: ~float16, c_ptr: ~float16):
        self.attrs.blocks = [tilus.utils.cdiv(m, self.block_m), tilus.utils.cdiv(n, self.block_n)]
        self.attrs.warps = 4

        g_a = self.global_view(a_ptr, dtype=float16, shape=[m, k])
        g_b = self.global_view(b_ptr, dtype=float16, shape=[k, n])
        g_c = self.global_view(c_ptr, dtype=float16, shape=[m, n])
        i = self.blockIdx.x * self.block_m
        j = self.blockIdx.y * self.block_n

        acc = self.register_tensor(dtype=float32, shape=[self.block_m, self.block_n], init=0.0)
        for p in range(0, k, self.block_k):
            a = self.load_global(g_a, offsets=[i, p], shape=[self.block_m, self.block_k])
            b = self.load_global(g_b, offsets=[p, j], shape=[self.block_k, self.block_n])
            acc = self.dot(a, b, acc)
        self.store_global(g_c, acc.to(float16), offsets=[i, j])


def main() -> None:
    m, n, k = 50, 136, 104
    a, b, c = torch.randn(m, k).half(), torch.randn(k, n).half(), torch.empty(m, n).half()
    NaiveMatmul()(m, n, k, a, b, c)
    torch.testing.assert_close(c, (a.float() @ b.float()).half(), rtol=2e-3, atol=1e-2)
    print(f"matmul of {m} x {n} x {k}: equal to torch")


if __name__ == "__main__":
    main()
