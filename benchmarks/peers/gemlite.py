"""GemLite: Triton kernels for packed integers and 8-bit floats, `pip install gemlite`.

Integers lie as uint8 codes [n, k] with scales [n, k / group] and one zero point for all; it packs
them itself. Weights of 8-bit floats are torch's own types. Its autotuner runs at the first call for
a number of tokens.

The surprise: parts of a result are added in its own 16-bit type, by up to 16 blocks; for up to 4
tokens a part may be as few as 16 weights, so that it is as wrong as hundreds of roundings make it.

Checked with 0.6.0.post2 on the CPU: what it packs unpacks to `Prepared.weight`, for every type; its
kernels for 1, 4 and 16 tokens multiply by it in Triton's interpreter, in float16. It has not run on
a GPU. The other tests call a recorded fake, which checks shapes, dtypes and values.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.peers.codes import (
    Rounded,
    activation_of,
    integer_bits,
    round_weight,
)
from benchmarks.peers.installed import AMPERE, refuses_grouping, version_of, why_missing
from benchmarks.peers.protocol import Arithmetic, Prepared, Problem

BITS = (1, 2, 4, 8)
FLOATS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
LEAST_GROUP = 16
MULTIPLE_K = 32
SPLITS = 16
FEW_TOKENS, LEAST_ROWS = 4, 16  # up to so many tokens, a block adds up two steps of 8 rows of k


def partial_sums(m: int, k: int) -> int:
    """That are added in 16 bits, at most.

    >>> partial_sums(1, 8192), partial_sums(16, 8192)
    (512, 16)
    """
    return max(SPLITS, k // LEAST_ROWS) if m <= FEW_TOKENS else SPLITS


class GemLite:
    """Integers of 1, 2, 4 and 8 bits, e4m3 and e5m2; float16 and bfloat16."""

    name = "gemlite"
    any_tokens = True
    arithmetic = Arithmetic(weights=1, sums=partial_sums)

    def missing(self) -> str | None:
        return why_missing(("gemlite", "triton"), _package, AMPERE)

    def version(self) -> str:
        return f"gemlite {version_of('gemlite')}"

    def refuses(self, problem: Problem) -> str | None:
        if integer_bits(problem.dtype) not in BITS and problem.dtype not in FLOATS:
            return f"weights are integers of 1, 2, 4 or 8 bits, e4m3 or e5m2, not {problem.dtype}"
        if problem.group_size < LEAST_GROUP:
            return f"groups are of at least {LEAST_GROUP}, not {problem.group_size}"
        return refuses_grouping(
            problem.n, problem.k, problem.group_size, multiple_n=1, multiple_k=MULTIPLE_K
        )

    def prepare(self, weight: torch.Tensor, problem: Problem) -> Prepared:
        bits = integer_bits(problem.dtype)
        name = problem.dtype if bits is None else f"u{bits}"
        activation = activation_of(problem)
        rounded = round_weight(weight, name, problem.group_size, activation)
        layer = layer_of(_package(), rounded, problem, bits)
        layer(torch.zeros(problem.m, problem.k, dtype=activation, device=weight.device))
        nbytes = layer.W_q.nbytes + layer.scales.nbytes
        return Prepared(layer, rounded.weight, nbytes)


def _package() -> Any:
    import gemlite  # pyright: ignore[reportMissingImports]

    return gemlite


def layer_of(gemlite: Any, rounded: Rounded, problem: Problem, bits: int | None) -> Any:
    """A layer with the weight packed."""
    kind = gemlite.DType.FP16 if problem.activation == "float16" else gemlite.DType.BF16
    layer = gemlite.GemLiteLinear(
        8 if bits is None else bits,
        group_size=problem.group_size,
        in_features=problem.k,
        out_features=problem.n,
        input_dtype=kind,
        output_dtype=kind,
    )
    codes = rounded.codes.clone() if bits else rounded.codes.clone().view(FLOATS[problem.dtype])
    zero = None if bits is None else 1 << (bits - 1)
    layer.pack(codes, rounded.scales.clone(), zero, None)
    return layer
