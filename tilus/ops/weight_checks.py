"""Whether the parts of a quantised weight fit one another: type, groups, codes, scales, zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tilus.dtypes import DataType, storage_nbytes
from tilus.errors import TilusError
from tilus.tensor import Tensor

if TYPE_CHECKING:
    from tilus.ops.quantized_tensor import QuantizedTensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32)  # of scales, biases and results


def check_groups(k: int, group_size: int) -> None:
    """Raises: TilusError unless `group_size` divides K."""
    if group_size <= 0 or k % group_size:
        divisors = [g for g in (256, 128, 64, 32, 16) if k % g == 0]
        raise TilusError(
            "K is not a multiple of the group size",
            found=f"K = {k}, group_size = {group_size}",
            expected="a group size that divides K, or -1 for one group per row",
            hint=f"{k} is divisible by {', '.join(map(str, divisors))}" if divisors else "use -1",
        )


def check_code_type(dtype: DataType) -> None:
    """Raises: TilusError unless weights can be codes of this type."""
    if not isinstance(dtype, DataType) or dtype.nbits > 8 or dtype.kind in ("bool", "pointer"):
        raise TilusError(
            "weights are quantised to a type of 1 to 8 bits",
            found=str(dtype),
            expected="for example tilus.uint4b",
        )
    if dtype.specials == "scale":
        raise TilusError(f"{dtype} has no sign and no zero", hint="it is a type for scales")


def check_codes(dtype: DataType, shape: tuple[int, int], codes: Tensor) -> None:
    """Raises: TilusError unless the codes are of this type and shape."""
    if codes.dtype != dtype or tuple(codes.shape) != tuple(shape):
        raise TilusError(
            "the codes do not fit the quantised tensor",
            found=f"{codes.dtype}{list(codes.shape)}",
            expected=f"{dtype}{list(shape)}",
        )
    check_code_type(dtype)


def check_data(dtype: DataType, shape: tuple[int, int], data: torch.Tensor) -> None:
    """Raises: TilusError unless these are the packed codes of such a matrix."""
    check_code_type(dtype)
    nbytes = storage_nbytes(dtype, shape[0] * shape[1])
    if data.dtype != torch.uint8 or tuple(data.shape) != (nbytes,) or not data.is_contiguous():
        raise TilusError(
            f"the codes are not those of {dtype}{list(shape)}",
            found=f"{data.dtype}{list(data.shape)}",
            expected=f"contiguous torch.uint8[{nbytes}]",
        )


def check_part(
    name: str, tensor: torch.Tensor, expected: tuple[int, int], weight: QuantizedTensor
) -> None:
    """Raises: TilusError unless scales or zeros have a shape, dtype and place that kernels read."""
    if tuple(tensor.shape) != expected:
        raise TilusError(
            f"the {name} have another shape than the groups",
            found=str(list(tensor.shape)),
            expected=f"{list(expected)} = [K / group_size, N]",
        )
    dtype, device = weight.scales.dtype, weight.data.device
    if tensor.dtype not in FLOATS or tensor.dtype != dtype:
        raise TilusError(
            f"the {name} are of a dtype that kernels do not read",
            found=str(tensor.dtype),
            expected="float16, bfloat16 or float32, the same for scales and zeros",
        )
    if tensor.device != device or not tensor.is_contiguous():
        raise TilusError(
            f"the {name} do not lie as the codes do",
            found=f"strides {list(tensor.stride())} on {tensor.device}",
            expected=f"contiguous on {device}",
        )
