"""Checking kernels: comparison with a reference that says where and how much a result is off.

testing.assert_close(y, expected, rtol=1e-3, atol=1e-3)
"""

from __future__ import annotations

import torch

from tilus.dtypes import float32
from tilus.tensor import Tensor


def assert_close(
    actual: torch.Tensor | Tensor,
    expected: torch.Tensor | Tensor,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-8,
) -> None:
    """Raise AssertionError unless |actual - expected| <= atol + rtol * |expected| everywhere.

    Tensors of tilus (any dtype of 1 to 64 bits) and of torch may be mixed; they are compared as
    float64. NaNs are equal to NaNs only, infinities to themselves.

    >>> assert_close(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]))
    """
    left, right = _values(actual), _values(expected)
    if left.shape != right.shape:
        raise AssertionError(f"shapes differ: {list(left.shape)} and {list(right.shape)}")
    close = torch.isclose(left, right, rtol=rtol, atol=atol, equal_nan=True)
    if bool(close.all()):
        return
    wrong = (~close).nonzero()
    index = tuple(int(i) for i in wrong[0])
    error = (left - right).abs()
    raise AssertionError(
        f"{len(wrong)} of {close.numel()} elements differ by more than {atol} + {rtol} |expected|; "
        f"the first at {list(index)}: {float(left[index])} instead of {float(right[index])}; "
        f"largest error {float(error.nan_to_num(nan=float('inf')).max())}"
    )


def _values(tensor: torch.Tensor | Tensor) -> torch.Tensor:
    if isinstance(tensor, Tensor):
        is_torch = tensor.dtype.nbits > 8 or tensor.dtype.kind in ("bool",)
        tensor = tensor.torch() if is_torch else tensor.to(float32).torch()
    return tensor.detach().cpu().double()
