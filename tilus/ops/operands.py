"""Whether the operands of a matmul fit the weight and one another."""

from __future__ import annotations

import torch

from tilus.config import get_option
from tilus.errors import TilusError
from tilus.ops.quantized_tensor import QuantizedTensor
from tilus.ops.weight_checks import FLOATS

ACTIVATIONS = (torch.float16, torch.bfloat16)


def torch_multiplies(device: torch.device) -> bool:
    """Whether torch multiplies in the place of the kernels."""
    return device.type == "cpu" and get_option("engine") == "auto"


def check_types(x: torch.Tensor, weight: QuantizedTensor) -> None:
    """Raises: TilusError unless they are a tensor and a quantised weight."""
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


def check_out_alone(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    out_dtype: torch.dtype | None,
) -> None:
    """Raises: TilusError if `out` is not of `out_dtype`, or a gradient would be lost."""
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


def _check_input(x: torch.Tensor, weight: QuantizedTensor) -> None:
    if x.dtype not in ACTIVATIONS and not (x.dtype == torch.float32 and torch_multiplies(x.device)):
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
