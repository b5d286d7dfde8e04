"""Humming: kernels for every type of up to 8 bits by NVRTC.

    pip install "humming-kernels[cu13]"     # with the headers of CUDA, unless a toolkit is here

It rounds the weight itself, with scales per group; what it multiplies by is its own dequantisation
of what it loaded, before it rearranges the weight for its kernels.

The surprise: its integers are unsigned with the middle as zero point, whether one asks for "int4"
or "uint4". Blocks that share a k add their parts in the 16-bit type of the result.

Checked with 0.1.19 without a GPU: its kernels that quantise, pack, unpack, dequantise and rearrange
ran on the PTX emulator of this project, and what the layer holds decodes to `Prepared.weight`, for
every type. Its matmul has not run. The other tests call a recorded fake of the layer.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.peers.codes import activation_of, integer_bits, remembered, type_of
from benchmarks.peers.installed import AMPERE, refuses_grouping, version_of, why_missing
from benchmarks.peers.protocol import Arithmetic, Prepared, Problem

PARTS = ("weight", "weight_scale")
MULTIPLE = 64
SPLITS = 16  # blocks that share a result, at most: 11 where n = 3584 on 132 multiprocessors


class Humming:
    """Integers of 1 to 8 bits and floats of up to 8; float16 and bfloat16."""

    name = "humming"
    any_tokens = True
    arithmetic = Arithmetic(weights=1, sums=SPLITS)

    def missing(self) -> str | None:
        return why_missing(("humming-kernels",), _layer_class, AMPERE)

    def version(self) -> str:
        return f"humming-kernels {version_of('humming-kernels')}"

    def refuses(self, problem: Problem) -> str | None:
        if name_of(problem.dtype) is None:
            return f"weights have 1 to 8 bits and 5 of exponent at most, not {problem.dtype}"
        return refuses_grouping(
            problem.n, problem.k, problem.group_size, multiple_n=MULTIPLE, multiple_k=MULTIPLE
        )

    def prepare(self, weight: torch.Tensor, problem: Problem) -> Prepared:
        key = ("humming", problem.dtype, problem.group_size, problem.activation)
        loaded, exact = remembered(
            weight, problem.dtype, key, lambda: rounded_by_it(weight, problem)
        )
        layer = layer_of(problem, weight.device)
        layer.load_from_tensors(loaded)
        layer.transform()
        activation = activation_of(problem)
        layer(torch.zeros(problem.m, problem.k, dtype=activation, device=weight.device))
        return Prepared(layer, exact, sum(getattr(layer, part).nbytes for part in PARTS))


def name_of(dtype: str) -> str | None:
    """Its name of a type; None for one that it does not have.

    >>> name_of("u4"), name_of("i3"), name_of("e3m2"), name_of("f16")
    ('int4', 'int3', 'float6e3m2', None)
    """
    if dtype == "f16":
        return None
    bits = integer_bits(dtype)
    if bits is not None:
        return f"int{bits}"
    found = type_of(dtype)
    if found.kind != "float" or int(dtype[1]) > 5:
        return None
    return f"float{found.nbits}{dtype}"


def _layer_class() -> Any:
    from humming.layer import HummingLayer  # pyright: ignore[reportMissingImports]

    return HummingLayer


def layer_of(problem: Problem, device: torch.device) -> Any:
    """Without weights."""
    activation = activation_of(problem)
    layer = _layer_class()(
        shape_n=problem.n,
        shape_k=problem.k,
        weight_config={
            "dtype": name_of(problem.dtype),
            "group_size": problem.group_size,
            "scale_dtype": problem.activation,
        },
        torch_dtype=activation,
    )
    return layer.to(device)


def rounded_by_it(
    weight: torch.Tensor, problem: Problem
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What it loads of a weight, and the numbers that this stands for, [n, k] float32."""
    layer = layer_of(problem, weight.device)
    layer.load_from_unquantized(weight)
    loaded = {part: getattr(layer, part).detach().clone() for part in PARTS}
    return loaded, layer.weight_schema.dequant_tensors(loaded).float()
