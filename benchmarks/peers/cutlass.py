"""CUTLASS' mixed-input matmul for Hopper: `torch.ops.mslk.bf16i4bf16_shuffled` of `mslk-cuda`.

Signed 4-bit integers lie two to a byte along k, the first one lowest, with bfloat16 scales and zero
points [k / group, n]: w = code * scale + zero. `preshuffle_i4` rearranges them for the kernel.

The surprise: zero points are added, in the weight's own unit; those of a symmetric weight are 0.

Checked with 1.1.0 on the CPU, where its library does not load: the schemas of the two operators in
its file, and that codes are packed, scaled and shifted as its own quantiser does. The operators
have not run; the other tests call a recorded fake of them.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import torch

from benchmarks.peers.codes import activation_of, integer_bits, round_weight
from benchmarks.peers.installed import HOPPER, refuses_grouping, version_of, why_missing
from benchmarks.peers.protocol import Arithmetic, Prepared, Problem

LEAST_GROUP = 128
MULTIPLE_N, MULTIPLE_K = 16, 128


class Cutlass:
    """4-bit integers, bfloat16, on Hopper."""

    name = "cutlass"
    any_tokens = True
    arithmetic = Arithmetic(weights=1)

    def missing(self) -> str | None:
        return why_missing(("mslk-cuda",), _operators, HOPPER, HOPPER)

    def version(self) -> str:
        return f"mslk-cuda {version_of('mslk-cuda')}"

    def refuses(self, problem: Problem) -> str | None:
        if integer_bits(problem.dtype) != 4:
            return f"weights are 4-bit integers, not {problem.dtype}"
        if problem.activation != "bfloat16":
            return f"activations are bfloat16, not {problem.activation}"
        if problem.group_size % LEAST_GROUP:
            return f"groups are multiples of {LEAST_GROUP}, not {problem.group_size}"
        return refuses_grouping(
            problem.n, problem.k, problem.group_size, multiple_n=MULTIPLE_N, multiple_k=MULTIPLE_K
        )

    def prepare(self, weight: torch.Tensor, problem: Problem) -> Prepared:
        rounded = round_weight(weight, "i4", problem.group_size, torch.bfloat16)
        shuffle, multiply = _operators()
        packed, scales = shuffle(pack_pairs(rounded.codes), rounded.scales.T.contiguous())
        zeros = torch.zeros_like(rounded.scales.T).contiguous()
        run = partial(_run, multiply, packed, scales, zeros)
        run(torch.zeros(problem.m, problem.k, dtype=activation_of(problem), device=weight.device))
        nbytes = packed.nbytes + scales.nbytes + zeros.nbytes
        return Prepared(run, rounded.weight, nbytes)


def _operators() -> tuple[Any, Any]:
    """preshuffle_i4 and bf16i4bf16_shuffled."""
    importlib.import_module("mslk")  # registers them
    return torch.ops.mslk.preshuffle_i4, torch.ops.mslk.bf16i4bf16_shuffled


def pack_pairs(codes: torch.Tensor) -> torch.Tensor:
    """uint8 [n, k] of 4-bit codes to int8 [n, k / 2].

    >>> pack_pairs(torch.tensor([[1, 2, 15, 8]], dtype=torch.uint8))
    tensor([[  33, -113]], dtype=torch.int8)
    """
    return (codes[:, ::2] | codes[:, 1::2] << 4).view(torch.int8).contiguous()


def _run(
    multiply: Any,
    packed: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    x: torch.Tensor,
) -> torch.Tensor:
    return multiply(x, packed, scales, zeros)
