"""What kernels have made of a weight, kept with the memory of its codes.

    prepared_of(weight).forms             # packed tensors, by format
    find_prepared(codes, scales, ...)     # the same entry, from the parts of the weight

The surprise: it belongs to that memory, not to the object. Objects over the same memory share it,
writing to that memory drops it, and it goes when the memory goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch

if TYPE_CHECKING:
    from tilus.ops.quantized_tensor import QuantizedTensor


@dataclass(frozen=True, eq=False)
class Prepared:
    """What kernels have made of a weight.

    Attributes:
        sources: the memory of scales and zeros that it was made of; that of the codes is the key.
        versions: how often codes, scales and zeros had been written to.
        forms: packed tensors, by format.
        calls: what multiplies by the weight, by the kind of operands (products.py). Neither holds
            the codes, or they would never be freed.
    """

    sources: tuple[ReferenceType[torch.UntypedStorage], ReferenceType[torch.UntypedStorage] | None]
    versions: tuple[int, int, int]
    forms: dict[Any, torch.Tensor]
    calls: dict[Any, Any]

    def is_alive(self) -> bool:
        return all(source is None or source() is not None for source in self.sources)


# By the memory of the codes; it is weak, so that what is prepared goes with its weight.
_prepared: WeakKeyDictionary[torch.UntypedStorage, dict[Any, Prepared]] = WeakKeyDictionary()


def find_prepared(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    dtype: str,
    shape: Sequence[int],
    group_size: int,
    zero: float,
) -> Prepared | None:
    """What was made of the weight that has these parts and is in the same state as then.

    None where there is nothing, or something is not as it was. This is in the path of every call:
    that the parts fit one another was checked when it was made.
    """
    entries = _prepared.get(codes.untyped_storage())
    if entries is None:
        return None
    key, versions = _state(codes, scales, zeros, dtype, shape, group_size, zero)
    entry = entries.get(key)
    if entry is None or entry.versions != versions:
        return None
    of_scales, of_zeros = entry.sources
    if of_scales() is not scales.untyped_storage():
        return None
    if zeros is not None and (of_zeros is None or of_zeros() is not zeros.untyped_storage()):
        return None
    return entry


def _state(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    dtype: str,
    shape: Sequence[int],
    group_size: int,
    zero: float,
) -> tuple[tuple[Any, ...], tuple[int, int, int]]:
    """(where the parts of a weight begin and what they mean, how often each was written to).

    Tensors made in inference mode do not count writes.
    """
    n, k = shape
    counts = (
        0 if codes.is_inference() else codes._version,
        0 if scales.is_inference() else scales._version,
        0 if zeros is None or zeros.is_inference() else zeros._version,
    )
    at_zeros = None if zeros is None else zeros.data_ptr()
    places = codes.data_ptr(), scales.data_ptr(), at_zeros
    return (dtype, n, k, group_size, zero, scales.dtype, places), counts


def prepared_of(weight: QuantizedTensor) -> Prepared:
    """What was made of a weight; nothing yet, where it is new or has been written to."""
    parts = weight.data, weight.scales, weight.zeros
    meaning = weight.dtype.name, weight.shape, weight.group_size, weight.zero
    found = find_prepared(*parts, *meaning)
    if found is not None:
        return found
    weight.check()
    entries = _prepared.setdefault(weight.data.untyped_storage(), {})
    for stale in [old for old, kept in entries.items() if not kept.is_alive()]:
        del entries[stale]
    of_zeros = None if weight.zeros is None else ref(weight.zeros.untyped_storage())
    sources = ref(weight.scales.untyped_storage()), of_zeros
    key, versions = _state(*parts, *meaning)
    entry = entries[key] = Prepared(sources, versions, {}, {})
    return entry


def forget_packed(data: torch.Tensor) -> None:
    """Drop what was made of these codes, after writes that torch does not count: to tensors made
    in inference mode, and by way of `.data`, NumPy or other code.
    """
    _prepared.pop(data.untyped_storage(), None)
