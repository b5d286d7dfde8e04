"""The kernels that multiply by a weight: which a kind of call takes, and what is packed for them.

    product = product_of(weight, kind)
    call = product.call(weight)                  # packs, compiles and loads
    call(m, x, scales, zeros, bias, out)         # launches

A kind is what calls have in common, so what is compiled for one of them serves them all.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.lang.script import Specialisation
from tilus.ops.codes import unpack_bits
from tilus.ops.kernels import PackWeight, QuantizedMatmul, TileFormat
from tilus.ops.lean import LeanForm, lean_form, lean_kernel, packed_blobs
from tilus.ops.quantized_tensor import QuantizedTensor
from tilus.ops.small_m import Epilogue
from tilus.runtime.launch import launcher
from tilus.tensor import Tensor, dtype_from_torch, from_carrier
from tilus.utils import gcd

WIDEST_BLOCK_K = 64
_NO_BYTES = torch.empty(0, dtype=torch.uint8)


class Kind(NamedTuple):
    """What of the operands of a call decides how it multiplies; `device` is -1 for the CPU."""

    engine: str
    device: int
    x: torch.dtype
    out: torch.dtype
    bias: torch.dtype | None
    tokens: int  # the most that have the same kernel, of `bucket`
    aligned: bool  # whether x, bias and out begin at multiples of 16 bytes


class Call(Protocol):
    """Writes x W^T + bias to `out` for m rows of x; every tensor is contiguous."""

    def __call__(
        self,
        m: int,
        x: torch.Tensor,
        scales: torch.Tensor,
        zeros: torch.Tensor | None,
        bias: torch.Tensor | None,
        out: torch.Tensor,
        /,
    ) -> None: ...


class Product(Protocol):
    """The kernels for one weight and one kind of operands."""

    @property
    def kernels(self) -> tuple[Specialisation, ...]:
        """What is run, packing included."""
        ...

    def call(self, weight: QuantizedTensor) -> Call:
        """Pack the weight, compile and load."""
        ...


def product_of(weight: QuantizedTensor, kind: Kind) -> Product:
    """How a weight is multiplied. Raises: TilusError if no kernel takes it."""
    form = lean_form(weight, dtype_from_torch(kind.x))
    if form is not None:
        return LeanProduct(weight, form, kind)
    return CastProduct(weight, kind)


class LeanProduct:
    """One kernel of lean.py, which writes the result itself."""

    def __init__(self, weight: QuantizedTensor, form: LeanForm, kind: Kind):
        bias = None if kind.bias is None else dtype_from_torch(kind.bias)
        epilogue = Epilogue(dtype_from_torch(kind.out), bias)
        kernel = lean_kernel(weight, form, kind.tokens, epilogue)
        place = _place(kind)
        self.form = form
        # For 1 token, as for any number that is no multiple of 16: it serves them all.
        self.kernels = (kernel.specialise(1, place, _NO_BYTES, place, place),)

    def call(self, weight: QuantizedTensor) -> Call:
        packed, blobs = packed_blobs(weight, self.form), self.form.blobs
        launch, lacking = launcher(*self.kernels, weight.device), blobs.padded_k - blobs.k

        def call(m: int, x: torch.Tensor, _scales: Any, _zeros: Any, bias: Any, out: Any) -> None:
            if lacking:
                x = torch.nn.functional.pad(x.view(m, -1), (0, lacking))
            launch((m, x, packed, x if bias is None else bias, out))

        return call


class CastProduct:
    """The kernel of kernels.py, which casts weights one by one; torch adds the bias."""

    def __init__(self, weight: QuantizedTensor, kind: Kind):
        self.kind = kind
        self.tiles = tile_format(weight, dtype_from_torch(kind.x))
        block_m = min(64, max(16, kind.tokens))
        has_zeros = _has_zeros(weight)
        scale_dtype = dtype_from_torch(weight.scales.dtype)
        kernel = _cast_kernel(self.tiles, weight.group_size, has_zeros, scale_dtype, block_m)
        place, scales = _place(kind), weight.scales.data_ptr()
        zeros = scales if weight.zeros is None else weight.zeros.data_ptr()
        packing = _pack_kernel(self.tiles).specialise(weight.data.data_ptr(), _NO_BYTES)
        self.kernels = (packing, kernel.specialise(1, place, _NO_BYTES, scales, zeros, place))

    def call(self, weight: QuantizedTensor) -> Call:
        packed = pack_weight(weight, self.tiles)
        spread = _spread_zeros(weight)
        launch = launcher(self.kernels[1], weight.device)
        direct = self.kind.bias is None and self.kind.out == self.kind.x

        def call(
            m: int, x: torch.Tensor, scales: Any, zeros: Any, bias: Any, out: torch.Tensor
        ) -> None:
            product = out if direct else torch.empty(out.shape, dtype=x.dtype, device=out.device)
            subtracted = zeros if zeros is not None else scales if spread is None else spread
            launch((m, x, packed, scales, subtracted, product))
            if not direct:
                out.copy_(product if bias is None else product.float() + bias.float())

        return call


def _place(kind: Kind) -> int:
    """An address like those of x, bias and out."""
    return 0 if kind.aligned else 1


# ---- the tiles of CastProduct --------------------------------------------------------------------


_pack_kernel = cache(PackWeight)
_cast_kernel = cache(QuantizedMatmul)


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
        packed = torch.empty(
            (*tiles.grid, tiles.tile_bytes), dtype=torch.uint8, device=weight.device
        )
        _pack_kernel(tiles)(weight.codes, packed)
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


def _has_zeros(weight: QuantizedTensor) -> bool:
    return weight.zeros is not None or weight.zero != 0


def _spread_zeros(weight: QuantizedTensor) -> torch.Tensor | None:
    """A common zero point, spread out for a kernel that reads one per group; kept."""
    if weight.zeros is not None or not _has_zeros(weight):
        return None
    forms = weight.prepared
    if "zeros" not in forms:
        forms["zeros"] = torch.full_like(weight.scales, weight.zero)
    return forms["zeros"]
