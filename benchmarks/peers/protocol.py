"""What the benchmark asks of a peer, and tells it.

The surprise: a peer says itself which numbers it multiplies with (`Prepared.weight`), since each
quantises in its own way; it is checked against those, not against the weight it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class Problem:
    """x [m, k] times W [n, k].

    Attributes:
        dtype: of weights: "u4", "i6", "e3m2", or "f16" for those that are not quantised.
        group_size: weights along k that share a scale.
        activation: "float16" or "bfloat16".
    """

    m: int
    n: int
    k: int
    dtype: str
    group_size: int = 128
    activation: str = "float16"


@dataclass
class Prepared:
    """A weight in the form that a peer multiplies with.

    Attributes:
        run: x [m, k] -> y [m, n], ready to be captured in a CUDA graph: it takes no memory but of
            torch's allocator, and compiles nothing.
        weight: [n, k] float32, exactly what `run` multiplies with.
        nbytes: of weights, scales and zero points, that a launch reads.
    """

    run: Callable[[torch.Tensor], torch.Tensor]
    weight: torch.Tensor
    nbytes: int


class Peer(Protocol):
    """Somebody who multiplies by low-precision weights."""

    name: str

    def missing(self) -> str | None:
        """Why it cannot run here; None if it can."""
        ...

    def version(self) -> str: ...

    def refuses(self, problem: Problem) -> str | None:
        """Why it does not do this problem; None if it does."""
        ...

    def prepare(self, weight: torch.Tensor, problem: Problem) -> Prepared:
        """`weight` is [n, k] float32 on the device."""
        ...


@dataclass(frozen=True)
class Arithmetic:
    """Roundings to the 16-bit type of activations that a float32 product does not make.

    Attributes:
        weights: of each dequantised weight.
        sums: of partial sums of a result, beside the result's own; a function of m and k where
            they are not always as many.
    """

    weights: int = 0
    sums: int | Callable[[int, int], int] = 0
