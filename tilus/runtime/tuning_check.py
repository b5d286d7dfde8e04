"""Whether two kernels compute the same, as far as rounding lets them.

    difference([y_of_one], [y_of_another])      # None, or what differs, in words

Points of a tuning space add in different orders, so floating-point results differ in their last
bits. What is wrong, a tile left out or a race, is off by far more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Of an element, plus the root mean square of its tensor, by the bytes of the dtype: sums may be
# kept in 16 bits, or products rounded as tensor cores do (11 bits).
TOLERANCE = {1: 2.0**-2, 2: 2.0**-5, 4: 2.0**-9, 8: 2.0**-24}


def difference(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> str | None:
    """What `found` has wrong; None where it agrees with `wanted`. Integers agree exactly.

    >>> difference([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 3.0])])
    'tensor 0: 1 of 2 elements differ, the first at [1]: 2.0 instead of 3.0'
    """
    if len(found) != len(wanted):
        return f"{len(found)} tensors instead of {len(wanted)}"
    for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"tensor {index}: {_type(one)} instead of {_type(other)}"
        wrong = _differs(one, other)
        if bool(wrong.any()):
            place = wrong.nonzero()[0].tolist()
            values = (tensor[tuple(place)].item() for tensor in (one, other))
            return (
                f"tensor {index}: {int(wrong.sum())} of {wrong.numel()} elements differ, "
                "the first at {}: {} instead of {}".format(place, *values)
            )
    return None


def _type(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"


def _differs(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Of every element, whether it is off."""
    if not wanted.dtype.is_floating_point:
        return found != wanted
    one, other = found.double(), wanted.double()
    finite = other.isfinite()
    size = other[finite].square().mean().sqrt() if bool(finite.any()) else other.new_zeros(())
    near = (one - other).abs() <= TOLERANCE[wanted.element_size()] * (other.abs() + size)
    same = (one == other) | (one.isnan() & other.isnan())
    return ~(same | (near & finite & one.isfinite()))
