"""`matmul`: y = x W^T with a quantised W, by the programs of `kernels.py`.

Shapes that are no multiple of a tile are padded when the weight is packed: x reads as 0 there.
"""

from __future__ import annotations

import torch

from tilus import dtypes
from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.ops.kernels import PackWeight, QuantizedMatmul, TileFormat
from tilus.ops.quantize import QuantizedTensor
from tilus.tensor import dtype_from_torch
from tilus.utils import gcd

WIDEST_BLOCK_K = 64
ACTIVATIONS = (dtypes.float16, dtypes.bfloat16)


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


_pack_kernels: dict[TileFormat, PackWeight] = {}
_matmul_kernels: dict[tuple[TileFormat, int, bool, DataType, int], QuantizedMatmul] = {}


def pack_weight(weight: QuantizedTensor, tiles: TileFormat) -> torch.Tensor:
    """The tiles of `weight`, [k tiles, n tiles, bytes] uint8, made by the packing program;
    kept with the weight.
    """
    if tiles not in weight.prepared:
        kernel = _pack_kernels.setdefault(tiles, PackWeight(tiles))
        packed = torch.empty(
            (*tiles.grid, tiles.tile_bytes), dtype=torch.uint8, device=weight.device
        )
        kernel(weight.codes, packed)
        weight.prepared[tiles] = packed
    return weight.prepared[tiles]


def matmul(
    x: torch.Tensor, weight: QuantizedTensor, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """x W^T for a quantised W, by the low-precision matmul program.

    Args:
        x: [..., K], float16 or bfloat16, on the weight's device.
        weight: [N, K] from `quantize`.
        out: [..., N] of x's dtype to write to; allocated if None.

    Returns:
        [..., N] of x's dtype; products are accumulated in float32.

    Raises:
        TilusError: dtype, shape or device of x or out do not fit the weight.
    """
    n, k = weight.shape
    _check_input(x, weight)
    result = _output(x, n, out)
    rows = x.reshape(-1, k).contiguous()
    m = rows.shape[0]
    if m == 0:
        return result
    tiles = tile_format(weight, dtype_from_torch(x.dtype))
    scale_dtype = dtype_from_torch(weight.scales.dtype)
    block_m = 16 if m <= 16 else 32 if m <= 32 else 64
    key = (tiles, weight.group_size, weight.zeros is not None, scale_dtype, block_m)
    kernel = _matmul_kernels.setdefault(key, QuantizedMatmul(*key))
    zeros = weight.scales if weight.zeros is None else weight.zeros
    kernel(m, rows, pack_weight(weight, tiles), weight.scales, zeros, result)
    return result


def _check_input(x: torch.Tensor, weight: QuantizedTensor) -> None:
    if not isinstance(x, torch.Tensor) or dtype_from_torch(x.dtype) not in ACTIVATIONS:
        raise TilusError(
            "the activations are of a dtype the matmul does not take",
            found=str(x.dtype) if isinstance(x, torch.Tensor) else type(x).__name__,
            expected="torch.float16 or torch.bfloat16",
            hint="convert them: x.half()",
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
        )


def _output(x: torch.Tensor, n: int, out: torch.Tensor | None) -> torch.Tensor:
    shape = (*x.shape[:-1], n)
    if out is None:
        return torch.empty(shape, dtype=x.dtype, device=x.device)
    if (
        tuple(out.shape) != shape
        or out.dtype != x.dtype
        or not out.is_contiguous()
        or out.device != x.device
    ):
        raise TilusError(
            "out does not fit the result",
            found=f"{out.dtype} {list(out.shape)} on {out.device}",
            expected=f"contiguous {x.dtype} {list(shape)} on {x.device}",
        )
    return out
