"""Example 1: vector add. A kernel is a class; its __call__ is compiled from its source.

New here: parameters, the grid, global views, loading and storing tiles. Elements outside a tensor
read as 0 and are not stored, so no length needs special care.
"""

import torch

import tilus
from tilus import float32, int32


class VectorAdd(tilus.Script):
    def __init__(self, block: int = 256):
        super().__init__()
        self.block = block

    def __call__(self, n: int32, x_ptr: ~float32, y_ptr: ~float32, out_ptr: ~float32):
        self.attrs.blocks = tilus.utils.cdiv(n, self.block)
        self.attrs.warps = 4

        g_x = self.global_view(x_ptr, dtype=float32, shape=[n])
        g_y = self.global_view(y_ptr, dtype=float32, shape=[n])
        g_out = self.global_view(out_ptr, dtype=float32, shape=[n])

        start = self.blockIdx.x * self.block
        x = self.load_global(g_x, offsets=[start], shape=[self.block])
        y = self.load_global(g_y, offsets=[start], shape=[self.block])
        self.store_global(g_out, x + y, offsets=[start])


def main() -> None:
    n = 1000
    x, y, out = torch.randn(n), torch.randn(n), torch.empty(n)
    VectorAdd()(n, x, y, out)
    torch.testing.assert_close(out, x + y)
    print(f"vector add of {n} elements: equal to torch")


if __name__ == "__main__":
    main()
