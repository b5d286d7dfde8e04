"""`matmul`: y = x W^T + bias with a quantised W.

    y = matmul(x, weight, bias=bias, out_dtype=torch.float32)

On CUDA tensors the low-precision kernel runs, and so it does on CPU tensors with the engine
"interpreter" or "emulator". The surprise is the engine "auto" on CPU tensors, so that whole models
run there: the weight is dequantised exactly and torch multiplies, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from tilus.config import get_option
from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.lang.script import Specialisation
from tilus.lang.signature import ALIGNMENT
from tilus.ops.codes import unpack_bits
from tilus.ops.kernels import PackWeight, QuantizedMatmul, TileFormat
from tilus.ops.lean import LeanForm, bucket, lean_form, lean_kernel, packed_blobs
from tilus.ops.quantized_tensor import QuantizedTensor
from tilus.ops.small_m import Epilogue
from tilus.ops.weight_checks import FLOATS
from tilus.runtime.launch import launcher, refuse_in_capture
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
    if out is None:
        return call_operator(*arguments, out_dtype)
    _check_out_alone(x, bias, out, out_dtype)
    operator: Any = torch.ops.tilus.matmul
    operator.out(*arguments, out=out)
    return out


def call_operator(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bias: torch.Tensor | None,
    *rest: Any,
) -> torch.Tensor:
    """The operator `tilus::matmul`, without the detour by its gradient where nobody wants one.

    Its gradient is Python that torch runs at every call, 4 us, if only to find that out.
    """
    operator: Any = torch.ops.tilus.matmul
    wanted = torch.is_grad_enabled() and (
        x.requires_grad or (bias is not None and bias.requires_grad)
    )
    if wanted or torch.compiler.is_compiling():
        return operator.default(x, codes, scales, zeros, bias, *rest)
    # The guard that torch's own kernels of gradients hold around what they call; it has no public
    # name.
    with torch._C._AutoDispatchBelowAutograd():  # pyright: ignore[reportPrivateUsage]
        return operator.default(x, codes, scales, zeros, bias, *rest)


# ---- the path of a call --------------------------------------------------------------------------


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


def multiply_ready(
    calls: Mapping[Any, Call],
    shape: Sequence[int],
    x: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bias: torch.Tensor | None,
    out: torch.Tensor,
) -> bool:
    """Write x W^T + bias to `out` if a call of this kind was made before, and the operands are such
    as it takes as they are; whether it was so. Where not, the long way finds out why.
    """
    n, k = shape
    m = x.numel() // k
    if x.dim() == 2:
        fits = x.shape == (m, k) and out.shape == (m, n)
    else:
        fits = x.shape[-1:] == (k,) and out.shape == (*x.shape[:-1], n)
    device = x.get_device()
    fits = fits and out.get_device() == device and x.is_contiguous() and out.is_contiguous()
    places = x.data_ptr() | out.data_ptr()
    bias_dtype = None
    if bias is not None:
        fits = fits and bias.shape == (n,) and bias.is_contiguous() and bias.get_device() == device
        bias_dtype = bias.dtype
        places |= bias.data_ptr()
    if not fits or m == 0:
        return False
    engine = get_option("engine")
    kind = (engine, device, x.dtype, out.dtype, bias_dtype, bucket(m), places % ALIGNMENT == 0)
    call = calls.get(kind)
    if call is None:
        return False
    call(m, x, scales, zeros, bias, out)
    return True


def multiply(
    x: torch.Tensor, weight: QuantizedTensor, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    """Write x W^T + bias to `out`, of operands that `check_operands` has accepted."""
    n, k = weight.shape
    if x.numel() == 0:
        return
    if _torch_multiplies(x.device):
        weight.check()
        _reference(x.reshape(-1, k), weight, bias, out.view(-1, n))
        return
    x, bias = x.contiguous(), None if bias is None else bias.contiguous()
    call = call_for(weight, _kind(x, bias, out, x.numel() // k))
    call(x.numel() // k, x, weight.scales, weight.zeros, bias, out)


def _kind(x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, m: int) -> Kind:
    places = x.data_ptr() | out.data_ptr() | (0 if bias is None else bias.data_ptr())
    bias_dtype = None if bias is None else bias.dtype
    engine, aligned = get_option("engine"), places % ALIGNMENT == 0
    return Kind(engine, x.get_device(), x.dtype, out.dtype, bias_dtype, bucket(m), aligned)


def call_for(weight: QuantizedTensor, kind: Kind) -> Call:
    """Made once and kept with the weight. Raises: TilusError where a graph is being captured."""
    calls = weight.calls
    if kind not in calls:
        refuse_in_capture(f"the matmul with a weight {list(weight.shape)}", "prepared")
        calls[kind] = product_of(weight, kind).call(weight)
    return calls[kind]


def _torch_multiplies(device: torch.device) -> bool:
    return device.type == "cpu" and get_option("engine") == "auto"


def _reference(
    rows: torch.Tensor, weight: QuantizedTensor, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    with torch.autocast(rows.device.type, enabled=False):  # it would multiply in 16 bits
        product = rows.float() @ weight.dequantize().T
    out.copy_(product if bias is None else product + bias.float())


# ---- the kernels ---------------------------------------------------------------------------------


_NO_BYTES = torch.empty(0, dtype=torch.uint8)


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
