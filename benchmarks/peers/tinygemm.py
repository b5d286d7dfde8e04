"""tinygemm: the 4-bit matmul inside torch, `torch.ops.aten._weight_int4pack_mm`.

Codes q of 0..15 with a bfloat16 scale and zero point in each group stand for (q - 8) * scale +
zero. On CUDA they are packed from bytes of two codes, the first one highest; on the CPU, whose
operator multiplies by the same numbers, from int32.

The surprise: it rounds (q - 8) * scale + zero to bfloat16 before it multiplies.

The operators of the CPU are run by the tests; those of CUDA have not been run here, only called on
a recorded fake that checks shapes and dtypes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.peers.codes import Rounded, activation_of, integer_bits, round_weight
from benchmarks.peers.installed import AMPERE, refuses_grouping, why_missing
from benchmarks.peers.protocol import Arithmetic, Prepared, Problem

INNER_TILES = 8  # of 16 along k in what a warp loads at once; 2, 4 and 8 are possible
GROUPS = (32, 64, 128, 256)


class TinyGemm:
    """4-bit integers, bfloat16."""

    name = "tinygemm"
    any_tokens = True
    arithmetic = Arithmetic(weights=1)

    def missing(self) -> str | None:
        return why_missing((), _load, AMPERE)

    def version(self) -> str:
        return f"torch {torch.__version__}"

    def refuses(self, problem: Problem) -> str | None:
        if integer_bits(problem.dtype) != 4:
            return f"weights are 4-bit integers, not {problem.dtype}"
        if problem.activation != "bfloat16":
            return f"activations are bfloat16, not {problem.activation}"
        if problem.group_size not in GROUPS:
            return f"groups are of {', '.join(map(str, GROUPS))}, not {problem.group_size}"
        return refuses_grouping(
            problem.n, problem.k, problem.group_size, multiple_n=8, multiple_k=16 * INNER_TILES
        )

    def prepare(self, weight: torch.Tensor, problem: Problem) -> Prepared:
        rounded = round_weight(weight, "u4", problem.group_size, torch.bfloat16)
        packed, multiply = pack(rounded.codes)
        scales = scales_and_zeros(rounded)
        run = partial(_run, multiply, packed, problem.group_size, scales)
        run(torch.zeros(problem.m, problem.k, dtype=activation_of(problem), device=weight.device))
        return Prepared(run, rounded.weight, packed.nbytes + scales.nbytes)


def _load() -> object:
    return torch.ops.aten._weight_int4pack_mm, torch.ops.aten._convert_weight_to_int4pack


def scales_and_zeros(rounded: Rounded) -> torch.Tensor:
    """[k / group, n, 2] bfloat16; zeros are those beside the 8 that it subtracts anyway."""
    scales = rounded.scales.T
    return torch.stack([scales, torch.zeros_like(scales)], -1).contiguous()


def pack(codes: torch.Tensor) -> tuple[torch.Tensor, Callable[..., torch.Tensor]]:
    """[n, k] as the operator of the device takes them, and that operator."""
    if codes.device.type == "cuda":
        halves = (codes[:, ::2] << 4 | codes[:, 1::2]).contiguous()
        packed = torch.ops.aten._convert_weight_to_int4pack(halves, INNER_TILES)
        return packed, torch.ops.aten._weight_int4pack_mm
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), INNER_TILES)
    return packed, torch.ops.aten._weight_int4pack_mm_for_cpu


def _run(
    multiply: Callable[..., torch.Tensor],
    packed: torch.Tensor,
    group_size: int,
    scales: torch.Tensor,
    x: torch.Tensor,
) -> torch.Tensor:
    return multiply(x, packed, group_size, scales)
