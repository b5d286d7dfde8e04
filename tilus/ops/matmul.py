"""`matmul`: y = x W^T + bias with a quantised W.

    y = matmul(x, weight, bias=bias, out_dtype=torch.float32)

On CUDA tensors the low-precision kernel runs, and so it does on CPU tensors with the engine
"interpreter" or "emulator". The surprise is the engine "auto" on CPU tensors, so that whole models
run there: the weight is dequantised exactly and torch multiplies, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tilus.config import get_option
from tilus.lang.signature import ALIGNMENT
from tilus.ops.lean import bucket
from tilus.ops.operands import check_out_alone, check_types, torch_multiplies
from tilus.ops.products import Call, Kind, product_of
from tilus.ops.quantized_tensor import QuantizedTensor
from tilus.runtime.launch import refuse_in_capture


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
    check_types(x, weight)
    arguments = (
        x, weight.data, weight.scales, weight.zeros, bias,
        weight.dtype.name, weight.shape, weight.group_size, weight.zero,
    )  # fmt: skip
    if out is None:
        return call_operator(*arguments, out_dtype)
    check_out_alone(x, bias, out, out_dtype)
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
    if torch_multiplies(x.device):
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


def _reference(
    rows: torch.Tensor, weight: QuantizedTensor, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    with torch.autocast(rows.device.type, enabled=False):  # it would multiply in 16 bits
        product = rows.float() @ weight.dequantize().T
    out.copy_(product if bias is None else product + bias.float())
