"""Example 3: layer norm over long rows, in float16. The row is walked in pieces.

New here: a run-time loop, tiles carried by the loop (assigning to a bound name copies in place),
casts, scalars of the launch (`eps`).
"""

import torch

import tilus
from tilus import float16, float32, int32


class LayerNorm(tilus.Script):
    def __init__(self, columns: int, piece: int = 256):
        super().__init__()
        self.columns = columns
        self.piece = piece

    def __call__(
        self,
        m: int32,
        eps: float32,
        x_ptr: ~float16,
        weight_ptr: ~float16,
        bias_ptr: ~float16,
        out_ptr: ~float16,
    ):
        self.attrs.blocks = m
        self.attrs.warps = 4
        columns, piece = self.columns, self.piece

        g_x = self.global_view(x_ptr, dtype=float16, shape=[m, columns])
        g_weight = self.global_view(weight_ptr, dtype=float16, shape=[columns])
        g_bias = self.global_view(bias_ptr, dtype=float16, shape=[columns])
        g_out = self.global_view(out_ptr, dtype=float16, shape=[m, columns])
        row = self.blockIdx.x

        # Columns beyond the row read as 0 and add nothing to either sum.
        total = self.register_tensor(dtype=float32, shape=[piece], init=0.0)
        squares = self.register_tensor(dtype=float32, shape=[piece], init=0.0)
        for j in range(0, columns, piece):
            x = self.load_global(g_x, offsets=[row, j], shape=[piece]).to(float32)
            total += x
            squares += x * x
        mean = self.sum(total, dim=0, keepdim=True) / columns
        variance = self.sum(squares, dim=0, keepdim=True) / columns - self.square(mean)
        scale = self.rsqrt(variance + eps)

        for j in range(0, columns, piece):
            x = self.load_global(g_x, offsets=[row, j], shape=[piece]).to(float32)
            weight = self.load_global(g_weight, offsets=[j], shape=[piece]).to(float32)
            bias = self.load_global(g_bias, offsets=[j], shape=[piece]).to(float32)
            y = (x - mean) * scale * weight + bias
            self.store_global(g_out, y.to(float16), offsets=[row, j], dims=[1])


def main() -> None:
    m, columns, eps = 5, 600, 1e-5
    x, out = torch.randn(m, columns).half(), torch.empty(m, columns).half()
    weight, bias = torch.randn(columns).half(), torch.randn(columns).half()
    LayerNorm(columns)(m, eps, x, weight, bias, out)
    expected = torch.nn.functional.layer_norm(
        x.float(), (columns,), weight.float(), bias.float(), eps
    )
    torch.testing.assert_close(out, expected.half(), rtol=1e-3, atol=1e-3)
    print(f"layer norm of {m} x {columns}: equal to torch")


if __name__ == "__main__":
    main()
