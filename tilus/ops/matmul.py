"""`matmul`: y = x W^T + bias with a quantised W.

    y = matmul(x, weight, bias=bias, out_dtype=torch.float32)

On CUDA tensors the low-precision kernel runs, and so it does on CPU tensors with the engine
"interpreter" or "emulator". The surprise is the engine "auto" on CPU tensors, so that whole models
run there: the weight is dequantised exactly and torch multiplies, in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tilus.config import settings
from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.ops.kernels import PackWeight, QuantizedMatmul, TileFormat
from tilus.ops.lean import lean_form, run_lean
from tilus.ops.storage import FLOATS, QuantizedTensor, unpack_bits
from tilus.tensor import Tensor, dtype_from_torch, from_carrier
from tilus.utils import gcd

WIDEST_BLOCK_K = 64
ACTIVATIONS = (torch.float16, torch.bfloat16)


def matmul(
    x: torch.Tensor,
    weight: QuantizedTensor,
    *,
    bias: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """x W^T + bias for a quantised W; the op `tilus::matmul` of torch, so it differentiates (to x
    and bias) and compiles.

    Args:
        x: [..., K], float16 or bfloat16, on the weight's device; float32 only on the CPU with the
            engine "auto", where torch multiplies.
        weight: [N, K] from `quantize`.
        bias: [N], float16, bfloat16 or float32.
        out: [..., N], contiguous, to write to; allocated if None. It has no gradient.
        out_dtype: float16, bfloat16 or float32; that of `out`, or else of x, if None.

    Returns:
        [..., N]; products are accumulated in float32.

    Raises:
        TilusError: dtype, shape or device of x, bias or out do not fit the weight.

    >>> import tilus
    >>> weight = tilus.ops.quantize(torch.eye(2, 32), tilus.int4b, 32)
    >>> matmul(torch.full((1, 32), 3.0).half(), weight, bias=torch.tensor([0.5, 1.0]))
    tensor([[3.5000, 4.0000]], dtype=torch.float16)
    """
    _check_types(x, weight)
    arguments = (
        x, weight.data, weight.scales, weight.zeros, bias,
        weight.dtype.name, weight.shape, weight.group_size, weight.zero,
    )  # fmt: skip
    operator: Any = torch.ops.tilus.matmul
    if out is None:
        return operator.default(*arguments, out_dtype)
    _check_out_alone(x, bias, out, out_dtype)
    operator.out(*arguments, out=out)
    return out


def multiply(
    x: torch.Tensor, weight: QuantizedTensor, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    """Write x W^T + bias to `out`, of operands that `check_operands` has accepted."""
    n, k = weight.shape
    if x.ndim != 2:
        x, out = x.reshape(-1, k), out.view(-1, n)
    if x.shape[0] == 0:
        return
    if _torch_multiplies(x.device):
        weight.check()
        _reference(x, weight, bias, out)
    else:
        run_kernel(x.contiguous(), weight, bias, out)


def _torch_multiplies(device: torch.device) -> bool:
    return device.type == "cpu" and settings().engine == "auto"


def _reference(
    rows: torch.Tensor, weight: QuantizedTensor, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    with torch.autocast(rows.device.type, enabled=False):  # it would multiply in 16 bits
        product = rows.float() @ weight.dequantize().T
    out.copy_(product if bias is None else product + bias.float())


# ---- the kernel ----------------------------------------------------------------------------------


_pack_kernels: dict[TileFormat, PackWeight] = {}
_matmul_kernels: dict[tuple[TileFormat, int, bool, DataType, int], QuantizedMatmul] = {}


def run_kernel(
    x2d: torch.Tensor, weight: QuantizedTensor, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    """Write x W^T + bias to `out` by the kernel that suits them.

    Args:
        x2d: [M, K] float16 or bfloat16, contiguous; M >= 1.
        bias: [N] float16, bfloat16, float32, or None.
        out: [M, N] float16, bfloat16 or float32, contiguous.

    Raises:
        TilusError: no kernel takes this weight.
    """
    activation = dtype_from_torch(x2d.dtype)
    form = lean_form(weight, activation)
    if form is not None:
        run_lean(x2d, weight, form, bias, out)
        return
    tiles = tile_format(weight, activation)
    packed = pack_weight(weight, tiles)
    m = x2d.shape[0]
    zeros = _zeros(weight)
    scale_dtype = dtype_from_torch(weight.scales.dtype)
    block_m = 16 if m <= 16 else 32 if m <= 32 else 64
    key = (tiles, weight.group_size, zeros is not None, scale_dtype, block_m)
    kernel = _matmul_kernels.setdefault(key, QuantizedMatmul(*key))
    direct = bias is None and out.dtype == x2d.dtype
    product = out if direct else torch.empty(out.shape, dtype=x2d.dtype, device=out.device)
    kernel(m, x2d, packed, weight.scales, weight.scales if zeros is None else zeros, product)
    if not direct:
        out.copy_(product if bias is None else product.float() + bias.float())


def tile_format(weight: QuantizedTensor, activation_dtype: DataType) -> TileFormat:
    """The tile format for `weight`; a k tile never straddles two groups."""
    n, k = weight.shape
    if weight.group_size == k:
        block_k = WIDEST_BLOCK_K  # one group: padding along k reads zero activations
    else:
        block_k = gcd(weight.group_size, WIDEST_BLOCK_K)
    if block_k < 16:
        raise TilusError(
            "the group size does not fit the tensor core",
            found=f"group_size = {weight.group_size}",
            expected="a multiple of 16, or one group per row (-1)",
        )
    return TileFormat(weight.dtype, activation_dtype, n, k, block_k)


def pack_weight(weight: QuantizedTensor, tiles: TileFormat) -> torch.Tensor:
    """The tiles of `weight`, [k tiles, n tiles, bytes] uint8, made by the packing program;
    kept with the weight. Shapes that are no multiple of a tile are padded here: x reads as 0.
    """
    forms = weight.prepared
    if tiles not in forms:
        kernel = _pack_kernels.setdefault(tiles, PackWeight(tiles))
        packed = torch.empty(
            (*tiles.grid, tiles.tile_bytes), dtype=torch.uint8, device=weight.device
        )
        kernel(weight.codes, packed)
        forms[tiles] = packed
    return forms[tiles]


def unpack_weight(packed: torch.Tensor, tiles: TileFormat) -> Tensor:
    """The codes [N, K] of which `packed` are the tiles; the inverse of `pack_weight`, bit for bit.

    Args:
        packed: [k tiles, n tiles, bytes] uint8, on any device; the result is on the CPU.
    """
    nbits = tiles.weight_dtype.nbits
    places = tiles.layout.logical_indices().reshape(-1)  # in [k, n] of the codes of a tile, in turn
    rows, columns = np.unravel_index(places, tiles.layout.shape)
    padded = np.zeros((tiles.grid[1] * tiles.block_n, tiles.grid[0] * tiles.block_k), np.uint8)
    for kt, nt in np.ndindex(*tiles.grid):
        codes = unpack_bits(packed[kt, nt].cpu(), nbits, len(places)).numpy()
        padded[nt * tiles.block_n + columns, kt * tiles.block_k + rows] = codes
    dtype = tiles.weight_dtype
    return from_carrier(dtype.from_bits(padded[: tiles.n, : tiles.k].copy()), dtype)


def _zeros(weight: QuantizedTensor) -> torch.Tensor | None:
    """Zero points for a kernel that reads one per group, a common one spread out; kept."""
    if weight.zeros is not None or weight.zero == 0:
        return weight.zeros
    forms = weight.prepared
    if "zeros" not in forms:
        forms["zeros"] = torch.full_like(weight.scales, weight.zero)
    return forms["zeros"]


# ---- checks --------------------------------------------------------------------------------------


def check_operands(
    x: torch.Tensor,
    weight: QuantizedTensor,
    bias: torch.Tensor | None,
    out_dtype: torch.dtype,
    out: torch.Tensor | None = None,
) -> None:
    """Raises: TilusError if they do not fit the weight; also of fake tensors, in compilation."""
    _check_input(x, weight)
    if bias is not None:
        _check_bias(bias, weight)
    if out_dtype not in FLOATS:
        raise TilusError(
            "the result is of a dtype the matmul does not write",
            found=str(out_dtype),
            expected="torch.float16, torch.bfloat16 or torch.float32",
        )
    if out is not None:
        _check_out(out, (*x.shape[:-1], weight.shape[0]), x.device)


def _check_types(x: torch.Tensor, weight: QuantizedTensor) -> None:
    if not isinstance(x, torch.Tensor):
        raise TilusError(
            "the activations are no tensor",
            found=type(x).__name__,
            expected="a tensor of torch.float16 or torch.bfloat16",
        )
    if not isinstance(weight, QuantizedTensor):
        raise TilusError(
            "the weight is not quantised",
            found=type(weight).__name__,
            expected="a QuantizedTensor",
            hint="make one with tilus.ops.quantize(weight, tilus.uint4b)",
        )


def _check_input(x: torch.Tensor, weight: QuantizedTensor) -> None:
    if x.dtype not in ACTIVATIONS and not (
        x.dtype == torch.float32 and _torch_multiplies(x.device)
    ):
        raise TilusError(
            "the activations are of a dtype the matmul does not take",
            found=str(x.dtype),
            expected="torch.float16 or torch.bfloat16 (torch.float32 only on the CPU with the "
            'engine "auto": tensor cores do not multiply it)',
            hint="convert them: x.half(); out_dtype=torch.float32 keeps the sums unrounded",
        )
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise TilusError(
            "the last extent of the activations is not the weight's K",
            found=f"x {list(x.shape)}, weight {list(weight.shape)}",
            expected=f"[..., {weight.shape[1]}]",
        )
    if x.device != weight.device:
        raise TilusError(
            "activations and weight are on different devices",
            found=f"{x.device} and {weight.device}",
            hint="move the weight once: weight.to(device)",
        )


def _check_bias(bias: torch.Tensor, weight: QuantizedTensor) -> None:
    n = weight.shape[0]
    if tuple(bias.shape) != (n,) or bias.dtype not in FLOATS or bias.device != weight.device:
        raise TilusError(
            "the bias does not fit the weight",
            found=f"{bias.dtype}{list(bias.shape)} on {bias.device}",
            expected=f"float16, bfloat16 or float32 [{n}] on {weight.device}",
        )


def _check_out(out: torch.Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    if tuple(out.shape) != shape or not out.is_contiguous() or out.device != device:
        raise TilusError(
            "out does not fit the result",
            found=f"{list(out.shape)} with strides {list(out.stride())} on {out.device}",
            expected=f"contiguous {list(shape)} on {device}",
        )


def _check_out_alone(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    out_dtype: torch.dtype | None,
) -> None:
    if out_dtype not in (None, out.dtype):
        raise TilusError(
            "out is of another dtype than out_dtype", found=f"{out.dtype} and {out_dtype}"
        )
    learned = [t for t in (x, bias, out) if t is not None and t.requires_grad]
    if torch.is_grad_enabled() and learned:
        raise TilusError(
            "a result written to out has no gradient",
            found="a tensor that requires one",
            hint="leave out= away, or call in torch.no_grad()",
        )
