"""Example 7: software pipelining. While one stage is multiplied, the next ones are on their way.

New here: a shared tensor with a stage dimension, slices `s[stage]` at a run-time index, commit
groups. `copy_async_wait_group(n)` lets the n latest groups stay in flight.
"""

import torch

import tilus
from tilus import float16, float32, int32


class PipelinedMatmul(tilus.Script):
    def __init__(self, block_m: int = 32, block_n: int = 64, block_k: int = 32, stages: int = 3):
        super().__init__()
        self.block_m = block_m
        self.block_n = block_n
        self.block_k = block_k
        self.stages = stages

    def __call__(self, m: int32, n: int, k: int, a_ptr: ~float16, b_ptr: ~float16, c_ptr: ~float16):
        self.attrs.blocks = [tilus.utils.cdiv(m, self.block_m), tilus.utils.cdiv(n, self.block_n)]
        self.attrs.warps = 4
        block_m, block_n, block_k, stages = self.block_m, self.block_n, self.block_k, self.stages

        g_a = self.global_view(a_ptr, dtype=float16, shape=[m, k])
        g_b = self.global_view(b_ptr, dtype=float16, shape=[k, n])
        g_c = self.global_view(c_ptr, dtype=float16, shape=[m, n])
        i = self.blockIdx.x * block_m
        j = self.blockIdx.y * block_n

        s_a = self.shared_tensor(dtype=float16, shape=[stages, block_m, block_k])
        s_b = self.shared_tensor(dtype=float16, shape=[stages, block_k, block_n])
        for stage in range(stages - 1):
            self.copy_async(g_a, s_a[stage], offsets=[i, stage * block_k])
            self.copy_async(g_b, s_b[stage], offsets=[stage * block_k, j])
            self.copy_async_commit_group()

        acc = self.register_tensor(dtype=float32, shape=[block_m, block_n], init=0.0)
        for step in range(tilus.utils.cdiv(k, block_k)):
            self.copy_async_wait_group(stages - 2)
            self.sync()  # this stage has landed, and everybody is done with the one filled next
            ahead = step + stages - 1
            self.copy_async(g_a, s_a[ahead % stages], offsets=[i, ahead * block_k])
            self.copy_async(g_b, s_b[ahead % stages], offsets=[ahead * block_k, j])
            self.copy_async_commit_group()
            a = self.load_shared(s_a[step % stages])
            b = self.load_shared(s_b[step % stages])
            acc = self.dot(a, b, acc)
        self.copy_async_wait_all()
        self.store_global(g_c, acc.to(float16), offsets=[i, j])


def main() -> None:
    m, n, k = 50, 136, 200
    a, b, c = torch.randn(m, k).half(), torch.randn(k, n).half(), torch.empty(m, n).half()
    PipelinedMatmul()(m, n, k, a, b, c)
    torch.testing.assert_close(c, (a.float() @ b.float()).half(), rtol=2e-3, atol=1e-2)
    print(f"pipelined matmul of {m} x {n} x {k}: equal to torch")


if __name__ == "__main__":
    main()
