"""Ours, through the library: `tilus.ops.matmul`."""

from __future__ import annotations

from functools import partial

import torch

import tilus
from benchmarks.peers.codes import activation_of, pack_stream, round_weight, type_of
from benchmarks.peers.installed import AMPERE, why_missing
from benchmarks.peers.protocol import Prepared, Problem
from tilus.ops.quantized_tensor import QuantizedTensor


class Ours:
    """Every type of 1 to 8 bits, float16 and bfloat16 activations."""

    name = "tilus"
    any_tokens = True

    def missing(self) -> str | None:
        return why_missing(("cuda-core",), _load, AMPERE)

    def version(self) -> str:
        return tilus.__version__

    def refuses(self, problem: Problem) -> str | None:
        if problem.dtype == "f16":
            return "it multiplies by quantised weights"
        if problem.k % problem.group_size:
            return f"k = {problem.k} is no multiple of the group size {problem.group_size}"
        return None

    def prepare(self, weight: torch.Tensor, problem: Problem) -> Prepared:
        rounded = round_weight(weight, problem.dtype, problem.group_size)
        dtype = type_of(problem.dtype)
        tensors = {
            "codes": pack_stream(rounded.codes, dtype.nbits),
            "scales": rounded.scales.T.contiguous(),
        }
        zero = float(1 << (dtype.nbits - 1)) if dtype.kind == "uint" else 0.0
        shape = (problem.n, problem.k)
        quantized = QuantizedTensor.from_tensors(dtype, shape, problem.group_size, tensors, zero)
        run = partial(_run, quantized)
        run(torch.zeros(problem.m, problem.k, dtype=activation_of(problem), device=weight.device))
        nbytes = sum(part.nbytes for part in tensors.values())
        return Prepared(run, rounded.weight, nbytes)


def _load() -> object:
    from tilus.runtime.nvrtc import nvrtc_version

    return nvrtc_version()


def _run(weight: QuantizedTensor, x: torch.Tensor) -> torch.Tensor:
    return tilus.ops.matmul(x, weight)
