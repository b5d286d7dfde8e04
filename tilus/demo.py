"""`tilus demo`: the project's main job, a quantised matmul in every 1..8-bit type, checked.

    x [M, K] float16, W [N, K]          the original: y0 = x W^T in float64
    Q = quantize(W)                     rounding alone: y1 = x dequantize(Q)^T in float64
    y = matmul(x, Q)                    the kernel

    kernel error    |y - y1| / |y1|     what float16 does: the kernel's only excuse
    rounding        |y1 - y0| / |y0|    what rounding the weights does, without any kernel
    total error     |y - y0| / |y0|     what a user sees

(|.| is the Frobenius norm.) The kernel rounds each scaled weight and each output to float16, else
it computes in float32. Were these roundings independent, they would cause an error of the size that
`float16_error` computes from the numbers at hand; a kernel error of more than three times that
fails, and so does a total error beyond that of rounding by more than as much.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tabulate import tabulate

from tilus import ops
from tilus.config import context, get_option
from tilus.demo_weights import Matrix
from tilus.dtypes import LOW_PRECISION, DataType, dtype_from_name, storage_nbytes
from tilus.errors import TilusError
from tilus.runtime.progress import progress_bar

UNIT_ROUNDOFF = 2.0**-11  # of float16, relative
SMALLEST_NORMAL = 2.0**-14  # below, float16 rounds to a fixed step
ALLOWANCE = 3.0  # roundings are not quite independent: equal codes of a group round alike
MATRICES_PER_BLOCK = 7


@dataclass(frozen=True)
class Measurement:
    """One matrix in one type; the errors are relative Frobenius norms, as the module says."""

    dtype: str
    matrix: str
    shape: tuple[int, int]  # (N, K)
    bits_per_weight: float  # scales and zero points included
    nbytes: int
    kernel_error: float
    kernel_limit: float
    total_error: float
    total_limit: float
    rounding_error: float
    milliseconds: float  # of the matmul alone, once compiled and packed
    engine: str

    @property
    def passed(self) -> bool:
        """Whether the errors are what rounding explains; false for NaNs."""
        kernel_fits = self.kernel_error <= self.kernel_limit
        return kernel_fits and self.total_error <= self.total_limit


def parse_types(text: str) -> tuple[DataType, ...]:
    """Types by name, separated by commas; floats of 3 to 8 bits also as `e3m2`.

    Raises: TilusError for an unknown type, or one that weights are not quantised to.

    >>> parse_types("u4, int6b,e3m2")
    (uint4b, int6b, float6_e3m2)
    """
    return tuple(_parse_type(word.strip()) for word in text.split(","))


def _parse_type(word: str) -> DataType:
    if match := re.fullmatch(r"e(\d+)m(\d+)", word):
        word = f"f{1 + int(match[1]) + int(match[2])}{word}"
    dtype = dtype_from_name(word)
    if dtype not in LOW_PRECISION:
        raise TilusError(
            "the demo quantises to types of 1 to 8 bits",
            found=str(dtype),
            expected=", ".join(known.short_name for known in LOW_PRECISION),
        )
    return dtype


def measure_all(
    matrices: Iterable[Matrix], types: Sequence[DataType], group_size: int, blocks: int
) -> list[Measurement]:
    """Every matrix in every type, with a progress bar on a terminal.

    Raises: TilusError if a matrix's K is not a multiple of the group size.
    """
    results: list[Measurement] = []
    with progress_bar(True) as progress:
        task = progress.add_task("", total=blocks * MATRICES_PER_BLOCK * len(types))
        for matrix in matrices:
            for dtype in types:
                progress.update(task, description=f"{matrix.name} as {dtype}")
                results.append(measure(matrix, dtype, group_size))
                progress.advance(task)
    return results


def measure(matrix: Matrix, dtype: DataType, group_size: int) -> Measurement:
    """Quantise one matrix, multiply by it, and compare with float64."""
    x = matrix.activations
    weight = ops.quantize(matrix.weight, dtype, group_size, symmetric=dtype.kind != "uint")
    with context(engine=_engine()):  # with "auto", torch would multiply
        ops.matmul(x, weight)  # compiles, and packs the weight
        start = time.perf_counter()
        y = ops.matmul(x, weight).double()
        seconds = time.perf_counter() - start

    rounded = weight.dequantize(torch.float64)
    original = x.double() @ matrix.weight.double().T
    exact = x.double() @ rounded.T
    limit = ALLOWANCE * float16_error(x.double(), rounded, exact)
    rounding_error = _relative(exact - original, original)
    return Measurement(
        dtype=dtype.name,
        matrix=matrix.name,
        shape=weight.shape,
        bits_per_weight=weight.bits_per_weight,
        nbytes=_nbytes(weight),
        kernel_error=_relative(y - exact, exact),
        kernel_limit=limit,
        total_error=_relative(y - original, original),
        total_limit=rounding_error + limit * _relative(exact, original),
        rounding_error=rounding_error,
        milliseconds=1e3 * seconds,
        engine=_engine(),
    )


def float16_error(x: torch.Tensor, weight: torch.Tensor, y: torch.Tensor) -> float:
    """The relative error of y = x W^T if each weight and each output is rounded to float16 once.

    The roundings count as independent and uniform within half a unit in the last place.

    Args:
        x: [M, K] float64, exact in float16.
        weight: [N, K] float64.
        y: [M, N] float64, their exact product.
    """
    of_weights = x.square() @ _roundoff(weight).square().T
    return float((of_weights + _roundoff(y).square()).sum().sqrt()) / _norm(y)


def _roundoff(values: torch.Tensor) -> torch.Tensor:
    """The standard deviation of the error of rounding each value to float16."""
    return values.abs().clamp(min=SMALLEST_NORMAL) * (UNIT_ROUNDOFF / 3**0.5)


def _relative(difference: torch.Tensor, reference: torch.Tensor) -> float:
    return float(difference.norm()) / _norm(reference)


def _norm(reference: torch.Tensor) -> float:
    return max(float(reference.norm()), sys.float_info.min)  # a matrix of zeros has no relative


def _nbytes(weight: ops.QuantizedTensor) -> int:
    """Codes, scales and zero points."""
    n, k = weight.shape
    extras = [tensor for tensor in (weight.scales, weight.zeros) if tensor is not None]
    return storage_nbytes(weight.dtype, n * k) + sum(t.numel() * t.element_size() for t in extras)


def _engine() -> str:
    name: str = get_option("engine")
    return "interpreter" if name == "auto" else name  # the demo's tensors are on the CPU


# ---- the report ----------------------------------------------------------------------------------


def format_report(measurements: Sequence[Measurement]) -> str:
    """A table with a row a type, and the verdict in its last line.

    Sizes and times add up over the matrices; errors are those of the matrix with the worst.
    """
    by_type: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        by_type.setdefault(measurement.dtype, []).append(measurement)
    headers = (
        "type", "bits/weight", "KiB", "kernel error", "limit", "rounding", "total error", "ms",
        "engine", "",
    )  # fmt: skip
    rows = [_row(name, group) for name, group in by_type.items()]
    formats = ("", ".2f", ".0f", ".1e", ".1e", ".4f", ".4f", ".1f", "", "")
    table = tabulate(rows, headers, tablefmt="simple", floatfmt=formats)
    return "\n".join([table, "", *_verdict(measurements)])


def _row(name: str, group: list[Measurement]) -> tuple[Any, ...]:
    worst = max(group, key=lambda one: one.kernel_error / one.kernel_limit)
    weights = sum(one.shape[0] * one.shape[1] for one in group)
    nbytes = sum(one.nbytes for one in group)
    return (
        name,
        8 * nbytes / weights,
        nbytes / 1024,
        worst.kernel_error,
        worst.kernel_limit,
        max(one.rounding_error for one in group),
        max(one.total_error for one in group),
        sum(one.milliseconds for one in group),
        worst.engine,
        "ok" if all(one.passed for one in group) else "FAILED",
    )


def _verdict(measurements: Sequence[Measurement]) -> Iterator[str]:
    yield "kernel error: against float64 with the same quantised weights; limit: three times what"
    yield "rounding to float16 explains. total error: against float64 with the original weights;"
    yield "rounding: what it would be without any error of the kernel. Worst matrix of each type."
    failed = [one for one in measurements if not one.passed]
    for one in failed:
        yield (
            f"FAILED: {one.matrix} as {one.dtype}: kernel error {one.kernel_error:.1e} (limit "
            f"{one.kernel_limit:.1e}), total {one.total_error:.4f} (limit {one.total_limit:.4f})"
        )
    types = len({one.dtype for one in measurements})
    names = len({one.matrix for one in measurements})
    within = len(measurements) - len(failed)
    yield (
        f"{types} types x {names} matrices: {within} of {len(measurements)} results within the "
        "error that rounding explains"
    )


def as_json(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Each measurement as a dictionary of its fields and `passed`."""
    return [{**asdict(one), "passed": one.passed} for one in measurements]
