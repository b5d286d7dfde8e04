"""Codes as numbers: the fields of a bit stream, what each of them stands for, one rounding."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch

from tilus.dtypes import DataType
from tilus.utils import cdiv


def unpack_bits(data: torch.Tensor, nbits: int, count: int) -> torch.Tensor:
    """The first `count` fields of `nbits` (1..8) bits of a flat little-endian bit stream.

    Args:
        data: uint8[at least ceil(count * nbits / 8)], on any device.

    Returns:
        uint8[count], on the same device.

    >>> unpack_bits(torch.tensor([0x21, 0x0F], dtype=torch.uint8), 4, 3)
    tensor([ 1,  2, 15], dtype=torch.uint8)
    """
    if nbits == 8:
        return data[:count]
    eights = cdiv(count, 8)  # eight fields fill nbits bytes
    padded = torch.nn.functional.pad(data, (0, eights * nbits - data.numel()))
    word_type = torch.int32 if nbits <= 4 else torch.int64
    of_bytes = 8 * torch.arange(nbits, device=data.device, dtype=word_type)
    of_fields = nbits * torch.arange(8, device=data.device, dtype=word_type)
    parts = padded.reshape(eights, nbits).to(word_type) << of_bytes
    words = parts.sum(1, keepdim=True, dtype=word_type)
    fields = (words >> of_fields) & ((1 << nbits) - 1)
    return fields.to(torch.uint8).reshape(-1)[:count]


@cache
def code_values(dtype: DataType) -> np.ndarray[Any, Any]:
    """The numbers that the codes 0, 1, ... stand for, float64."""
    codes = np.arange(1 << dtype.nbits, dtype=np.uint8)
    return dtype.decode(dtype.from_bits(codes)).astype(np.float64)


def rounded_once(numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """To `dtype`, nearest, ties to even. torch goes from float64 to 16 bits by float32, which
    rounds twice; a float32 rounded to odd on the way makes that harmless.
    """
    if numbers.dtype != torch.float64 or dtype in (torch.float32, torch.float64):
        return numbers.to(dtype)
    nearest = numbers.float()
    beyond = nearest.double().abs() > numbers.abs()
    bits = nearest.view(torch.int32) - beyond.int()  # sign and magnitude: towards zero
    inexact = bits.view(torch.float32).double() != numbers
    return (bits | inexact.int()).view(torch.float32).to(dtype)
