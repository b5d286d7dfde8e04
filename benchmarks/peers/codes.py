"""Weights rounded to codes on the device they are on, and packed as peers take them.

    rounded = round_weight(weight, "u4", 128)       # kept as long as `weight` lives
    rounded.codes, rounded.scales                   # uint8 [n, k], float16 [n, k / 128]
    pack_words(rounded.codes.T, 4)                  # int32 [k / 8, n], the first code lowest

Unsigned codes have the middle of their range as zero point, so `i4` has the very codes of `u4`, but
for the inverted highest bit.

The surprise: `tilus.ops.quantize` is not used. It computes in float64 on the CPU, which takes
minutes for the weights of a benchmark; and its choice of scales matters for models, not for speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.weak import WeakTensorKeyDictionary

from benchmarks.peers.protocol import Problem
from tilus.demo import parse_types
from tilus.dtypes import DataType, dtype_from_name
from tilus.ops.quantize import WIDEST_VALUE
from tilus.tensor import dtype_to_torch

T = TypeVar("T")
WORD = 32  # bits


def type_of(name: str) -> DataType:
    """
    >>> type_of("u4"), type_of("e3m2")
    (uint4b, float6_e3m2)
    """
    (dtype,) = parse_types(name)
    return dtype


def integer_bits(name: str) -> int | None:
    """Of an integer weight; None for others.

    >>> integer_bits("u4"), integer_bits("i7"), integer_bits("e2m1"), integer_bits("f16")
    (4, 7, None, None)
    """
    if name == "f16":
        return None
    dtype = type_of(name)
    return dtype.nbits if dtype.is_integer() else None


def activation_of(problem: Problem) -> torch.dtype:
    """
    >>> activation_of(Problem(1, 64, 128, "u4"))
    torch.float16
    """
    return dtype_to_torch(dtype_from_name(problem.activation))


# ---- rounding ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rounded:
    """codes uint8 [n, k] with scales [n, groups]: w = values[code] * scale.

    Attributes:
        values: float32, what each code stands for; of unsigned integers, without the zero point.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    values: torch.Tensor

    @cached_property
    def weight(self) -> torch.Tensor:
        """[n, k] float32."""
        n, k = self.codes.shape
        groups = self.scales.shape[1]
        values = self.values[self.codes.reshape(-1).int()].reshape(n, groups, k // groups)
        return (values * self.scales.float().unsqueeze(-1)).reshape(n, k)


@cache
def _code_values(name: str) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """The finite values in ascending order without their zero point, and their codes."""
    dtype = type_of(name)
    codes = np.arange(1 << dtype.nbits, dtype=np.uint8)
    values = dtype.decode(dtype.from_bits(codes)).astype(np.float64)
    values = values - (1 << dtype.nbits - 1 if dtype.kind == "uint" else 0)
    found = {float(value): int(code) for value, code in zip(values, codes, strict=True)
             if np.isfinite(value)}  # fmt: skip
    ordered = sorted(found)
    return tuple(ordered), tuple(found[value] for value in ordered)


def round_weight(
    weight: torch.Tensor, name: str, group_size: int, scales: torch.dtype = torch.float16
) -> Rounded:
    """Each weight [n, k] to the nearest code; the scale of a group fits its largest weight."""
    key = ("rounded", name, group_size, scales)
    return remembered(weight, name, key, lambda: _round(weight, name, group_size, scales))


def _round(weight: torch.Tensor, name: str, group_size: int, scale_type: torch.dtype) -> Rounded:
    n, k = weight.shape
    ordered, codes = _code_values(name)
    device = weight.device
    reach = min(max(map(abs, ordered)), WIDEST_VALUE)
    grouped = weight.float().reshape(n, k // group_size, group_size)
    scale = (grouped.abs().amax(-1) / reach).to(scale_type)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    values = torch.tensor(ordered, device=device)
    places = torch.bucketize(grouped / scale.float().unsqueeze(-1), (values[1:] + values[:-1]) / 2)
    of_place = torch.tensor(codes, dtype=torch.uint8, device=device)
    table = torch.zeros(max(codes) + 1, device=device)
    table[of_place.long()] = values
    return Rounded(of_place[places].reshape(n, k), scale, table)


# What is derived from a weight is kept with it, for one type of codes at a time: it is large.
_kept: Any = WeakTensorKeyDictionary()


def remembered(weight: torch.Tensor, name: str, key: object, make: Callable[[], T]) -> T:
    """What `make` makes of a weight for codes of the type `name`; made once."""
    kept_name, results = _kept.get(weight, (name, {}))
    if kept_name != name:
        results = {}
    if key not in results:
        results[key] = make()
    _kept[weight] = (name, results)
    return results[key]


# ---- packing -------------------------------------------------------------------------------------


def pack_words(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes along the first dimension, 32 / bits to an int32, the first one lowest.

    >>> codes = torch.tensor([[1], [2], [3], [4], [5], [6], [7], [8]], dtype=torch.uint8)
    >>> hex(pack_words(codes, 4).item() & 0xFFFFFFFF)
    '0x87654321'
    """
    count = WORD // bits
    parts = codes.reshape(codes.shape[0] // count, count, *codes.shape[1:])
    words = torch.zeros_like(parts[:, 0], dtype=torch.int32)
    for place in range(count):
        words |= parts[:, place].int() << (bits * place)
    return words.contiguous()


def pack_stream(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """All codes in a row as a little-endian stream of bits, uint8[ceil(count * bits / 8)].

    >>> pack_stream(torch.tensor([[1, 2, 3]], dtype=torch.uint8), 3)
    tensor([209,   0], dtype=torch.uint8)
    """
    flat = codes.reshape(-1)
    count = (flat.numel() * bits + 7) // 8
    if bits == 8:
        return flat.clone()
    eights = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).reshape(-1, 8)
    word = torch.zeros(len(eights), dtype=torch.int64, device=codes.device)
    for place in range(8):
        word |= eights[:, place].long() << (bits * place)
    parts = [(word >> (8 * place)) & 0xFF for place in range(bits)]
    return torch.stack(parts, 1).to(torch.uint8).reshape(-1)[:count].contiguous()
