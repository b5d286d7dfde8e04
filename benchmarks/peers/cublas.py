"""cuBLAS, through torch: weights of float16 and no quantisation, what everybody compares with."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.peers.installed import AMPERE, why_missing
from benchmarks.peers.protocol import Prepared, Problem


class Cublas:
    """float16 times float16. torch lets cuBLAS add in float32."""

    name = "cublas"
    any_tokens = True

    def missing(self) -> str | None:
        return why_missing((), lambda: None, AMPERE)

    def version(self) -> str:
        return f"torch {torch.__version__}, CUDA {torch.version.cuda}"

    def refuses(self, problem: Problem) -> str | None:
        if problem.dtype != "f16":
            return "it multiplies by weights of float16"
        return None if problem.activation == "float16" else "activations are float16, too"

    def prepare(self, weight: torch.Tensor, problem: Problem) -> Prepared:
        half = weight.half()
        run = partial(_run, half)
        run(torch.zeros(problem.m, problem.k, dtype=torch.float16, device=weight.device))
        return Prepared(run, half.float(), half.nbytes)


def _run(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(x, weight)
