"""Example 2: softmax over rows. One block takes several rows; a reduction keeps its dimension.

New here: two-dimensional tiles, reductions, broadcasting, unary functions, a tile with `where`.
"""

import torch

import tilus
from tilus import boolean, float32, int32


class Softmax(tilus.Script):
    def __init__(self, columns: int, rows: int = 4):
        super().__init__()
        self.columns = columns
        self.rows = rows
        self.width = max(32, 1 << (columns - 1).bit_length())  # tiles have constant shapes

    def __call__(self, m: int32, x_ptr: ~float32, out_ptr: ~float32):
        self.attrs.blocks = tilus.utils.cdiv(m, self.rows)
        self.attrs.warps = 4

        g_x = self.global_view(x_ptr, dtype=float32, shape=[m, self.columns])
        g_out = self.global_view(out_ptr, dtype=float32, shape=[m, self.columns])
        row = self.blockIdx.x * self.rows

        x = self.load_global(g_x, offsets=[row, 0], shape=[self.rows, self.width])
        inside = self.register_tensor(
            dtype=boolean, shape=[self.rows, self.width], init=lambda i, j: j < self.columns
        )
        x = self.where(inside, x, float("-inf"))  # columns beyond the row must not win the maximum
        e = self.exp(x - self.max(x, dim=1, keepdim=True))
        self.store_global(g_out, e / self.sum(e, dim=1, keepdim=True), offsets=[row, 0])


def main() -> None:
    m, columns = 37, 100
    x, out = torch.randn(m, columns), torch.empty(m, columns)
    Softmax(columns)(m, x, out)
    torch.testing.assert_close(out, torch.softmax(x, dim=1))
    print(f"softmax of {m} x {columns}: equal to torch")


if __name__ == "__main__":
    main()
