"""Example 8: split K. Several blocks share one output tile and take turns to add to it.

New here: a workspace of the launch (`global_tensor`), semaphores between blocks, autotuning. The
blocks of a tile add in the order of their index, so the result is the same in every run.
"""

import torch

import tilus
from tilus import float16, float32, int32


@tilus.autotune("split", [4, 2])
@tilus.autotune("block_n", [64, 128])
class SplitKMatmul(tilus.Script):
    def __init__(self, split: int, block_n: int, block_m: int = 16, block_k: int = 32):
        super().__init__()
        self.split = split
        self.block_m = block_m
        self.block_n = block_n
        self.block_k = block_k

    def __call__(self, m: int32, n: int, k: int, a_ptr: ~float16, b_ptr: ~float16, c_ptr: ~float16):
        block_m, block_n, block_k = self.block_m, self.block_n, self.block_k
        tiles_m = tilus.utils.cdiv(m, block_m)
        tiles_n = tilus.utils.cdiv(n, block_n)
        self.attrs.blocks = [self.split, tiles_m, tiles_n]
        self.attrs.warps = 4

        g_a = self.global_view(a_ptr, dtype=float16, shape=[m, k])
        g_b = self.global_view(b_ptr, dtype=float16, shape=[k, n])
        g_c = self.global_view(c_ptr, dtype=float16, shape=[m, n])
        partial = self.global_tensor(float32, [m, n], requires_clean=True)
        turns = self.global_tensor(int32, [tiles_m, tiles_n], requires_clean=True)

        turn = self.blockIdx.x
        i = self.blockIdx.y * block_m
        j = self.blockIdx.z * block_n
        steps = tilus.utils.cdiv(k, block_k * self.split)  # of each block

        acc = self.register_tensor(dtype=float32, shape=[block_m, block_n], init=0.0)
        for step in range(steps):
            p = (turn * steps + step) * block_k
            a = self.load_global(g_a, offsets=[i, p], shape=[block_m, block_k])
            b = self.load_global(g_b, offsets=[p, j], shape=[block_k, block_n])
            acc = self.dot(a, b, acc)

        semaphore = turns[self.blockIdx.y, self.blockIdx.z].item_ptr()
        self.lock_semaphore(semaphore, turn)
        acc += self.load_global(partial, offsets=[i, j], shape=[block_m, block_n])
        if turn < self.split - 1:
            self.store_global(partial, acc, offsets=[i, j])
            self.release_semaphore(semaphore, turn + 1)
        else:
            self.store_global(g_c, acc.to(float16), offsets=[i, j])
            zeros = self.register_tensor(dtype=float32, shape=[block_m, block_n], init=0.0)
            self.store_global(partial, zeros, offsets=[i, j])  # leave the workspace clean
            self.release_semaphore(semaphore, 0)


def main() -> None:
    m, n, k = 20, 200, 300
    a, b, c = torch.randn(m, k).half(), torch.randn(k, n).half(), torch.empty(m, n).half()
    SplitKMatmul()(m, n, k, a, b, c)
    torch.testing.assert_close(c, (a.float() @ b.float()).half(), rtol=2e-3, atol=1e-2)
    print(f"split-K matmul of {m} x {n} x {k}: equal to torch")


if __name__ == "__main__":
    main()
