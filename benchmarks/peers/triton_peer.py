"""Triton: the kernel of triton_w4a16.py, tuned for each shape and number of tokens.

    peer.prepare(weight, Problem(16, 8192, 8192, "u4"))

The first call for a number of tokens compiles its points and times them in CUDA graphs, as whole
products with the addition of parts; the fastest is kept for all weights of the shape.

The surprise: `triton.autotune` is not used, as it would time the kernel without that addition, and
in launches from Python, which take longer than the product.

The kernel runs in the tests, by Triton's interpreter; tuning has been run on a recorded clock only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from benchmarks.peers.codes import activation_of, integer_bits, pack_words, round_weight
from benchmarks.peers.installed import AMPERE, refuses_grouping, version_of, why_missing
from benchmarks.peers.protocol import Arithmetic, Prepared, Problem
from tilus.errors import TilusError

BITS = (1, 2, 4, 8)
STEP = 128  # the largest step along k
TIMED_MS = 2  # of a graph; ten of them are replayed
Clock = Callable[[Callable[[], object]], float]


class TritonPeer:
    """Integers of 1, 2, 4 and 8 bits, float16 activations."""

    name = "triton"
    any_tokens = True
    arithmetic = Arithmetic(weights=1)  # code times scale, where scales come first

    def missing(self) -> str | None:
        return why_missing(("triton",), _kernels, AMPERE)

    def version(self) -> str:
        return f"triton {version_of('triton')}"

    def refuses(self, problem: Problem) -> str | None:
        if integer_bits(problem.dtype) not in BITS:
            return f"weights are integers of 1, 2, 4 or 8 bits, not {problem.dtype}"
        if problem.activation != "float16":
            return f"activations are float16, not {problem.activation}"
        if problem.group_size % STEP:
            return f"groups are multiples of {STEP}, not {problem.group_size}"
        return refuses_grouping(problem.n, problem.k, problem.group_size, multiple_n=1,
                                multiple_k=STEP)  # fmt: skip

    def prepare(self, weight: torch.Tensor, problem: Problem) -> Prepared:
        bits = integer_bits(problem.dtype)
        assert bits is not None, "refused"
        rounded = round_weight(weight, f"u{bits}", problem.group_size)
        packed = pack_words(rounded.codes.T, bits)
        scales = rounded.scales.T.contiguous()
        run = partial(_run, packed, scales, bits, problem.group_size)
        run(torch.zeros(problem.m, problem.k, dtype=activation_of(problem), device=weight.device))
        return Prepared(run, rounded.weight, packed.nbytes + scales.nbytes)


def _kernels() -> Any:
    from benchmarks.peers import triton_w4a16

    return triton_w4a16


_fastest: dict[tuple[int, ...], Any] = {}


def _run(
    packed: torch.Tensor, scales: torch.Tensor, bits: int, group_size: int, x: torch.Tensor
) -> torch.Tensor:
    kernels = _kernels()
    (m, k), n = x.shape, packed.shape[1]
    key = (kernels.bucket_of(m), n, k, bits, group_size, -1 if m <= STEP else m)
    if key not in _fastest:
        device = torch.cuda.get_device_properties(x.device)
        points = kernels.points_for(m, n, k, group_size, device.multi_processor_count)
        calls = {
            point: partial(kernels.multiply, point, x, packed, scales, bits, group_size)
            for point in points
        }
        _fastest[key] = fastest(calls, graph_clock)
    return kernels.multiply(_fastest[key], x, packed, scales, bits, group_size)


def graph_clock(call: Callable[[], object]) -> float:
    """Milliseconds of a call in a CUDA graph."""
    from triton.testing import do_bench_cudagraph

    found = do_bench_cudagraph(call, rep=TIMED_MS, return_mode="median")
    return float(found)  # pyright: ignore[reportArgumentType]


def fastest(calls: dict[Any, Callable[[], object]], clock: Clock) -> Any:
    """The point whose call takes the least; one that needs more than the GPU has is left out.

    Raises: TilusError if none runs.
    """
    times = dict(_timed(calls, clock))
    if not times:
        raise TilusError(
            "no point of the Triton kernel runs on this GPU",
            found=", ".join(map(str, calls)),
            expected="one that its shared memory and registers suffice for",
        )
    return min(times, key=lambda point: times[point])


def _timed(calls: dict[Any, Callable[[], object]], clock: Clock) -> Iterable[tuple[Any, float]]:
    from triton.runtime.errors import OutOfResources

    for point, call in calls.items():
        try:
            call()  # compiles it
            yield point, clock(call)
        except OutOfResources:
            continue
