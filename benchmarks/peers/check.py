"""Whether a peer's product is right: against float64, on the weight that it says it multiplies by.

The error is the root mean square of the difference from float64, told relative to that of a float32
product rounded to the same type. A peer may be three times as far off, and further by what its
arithmetic is known to round: the square root of a sum of squares, as roundings are independent.

The surprise: many tokens are not compared one by one. 128 sums of all rows with random signs are,
which a wrong row moves as well, and which float64 computes in a fraction of the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from benchmarks.peers.protocol import Arithmetic, Peer, Prepared
from tilus.errors import TilusError

SLACK = 3.0  # times the error of a float32 product
OUTLIER = 32.0  # times the error that is allowed on average, in a single number
ROWS = 128  # that are compared
COLUMNS = 4096  # at once, as float64
UNIFORM = 1 / math.sqrt(3)  # root mean square of a rounding, over its largest


def check(peer: Peer, prepared: Prepared, x: torch.Tensor) -> float:
    """The error of `peer` on x [m, k], relative to that of a float32 product.

    Raises: TilusError if the result has another shape or dtype than it should, or is wrong.
    """
    y = prepared.run(x)
    _check_form(peer, prepared, x, y)
    found = _compare(prepared.weight, x, y)
    arithmetic = getattr(peer, "arithmetic", Arithmetic())
    explained = _explained(arithmetic, prepared.weight, x, y)
    allowed = math.hypot(SLACK * found.plain, explained)
    if not (found.error <= allowed and found.largest <= OUTLIER * allowed):
        raise TilusError(
            f"the result of {peer.name} is wrong",
            found=f"an error of {found.error:.3g}, {found.largest:.3g} at most",
            expected=f"{allowed:.3g}, as a float32 product has {found.plain:.3g} and its "
            f"arithmetic explains {explained:.3g}",
        )
    return found.error / found.plain if found.plain else 1.0


def _check_form(peer: Peer, prepared: Prepared, x: torch.Tensor, y: torch.Tensor) -> None:
    expected = (x.shape[0], prepared.weight.shape[0])
    if tuple(y.shape) != expected or y.dtype != x.dtype:
        raise TilusError(
            f"the result of {peer.name} has another form than it should",
            found=f"{y.dtype}{list(y.shape)}",
            expected=f"{x.dtype}{list(expected)}",
        )


@dataclass(frozen=True)
class _Found:
    """Root mean squares of differences from float64; not a number where the result is none."""

    error: float
    plain: float  # of a float32 product
    largest: float  # of the peer's differences


def _compare(weight: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> _Found:
    """Column by column, so that float64 copies of the weight stay small."""
    mixed, sample = _mixing(x), _sample(x)
    wrong = plain = largest = 0.0
    for start in range(0, weight.shape[0], COLUMNS):
        part = weight[start : start + COLUMNS]
        exact = _mix(mixed, x.double()) @ part.double().T
        off = _mix(mixed, y[:, start : start + COLUMNS].double()) - exact
        wrong += float(off.square().sum())
        largest = _larger(largest, float(off.abs().max()))
        product = (sample.float() @ part.T).to(y.dtype).double()
        plain += float((product - sample.double() @ part.double().T).square().sum())
    columns = weight.shape[0]
    rows = min(x.shape[0], ROWS)
    return _Found(math.sqrt(wrong / (rows * columns)), math.sqrt(plain / (rows * columns)), largest)


def _larger(one: float, other: float) -> float:
    """The larger; not a number if one is none."""
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


def _mixing(x: torch.Tensor) -> torch.Tensor | None:
    """[ROWS, m] signs over the root of m, so that sums of independent errors are as large as one;
    None where rows are compared as they are.
    """
    m = x.shape[0]
    if m <= ROWS:
        return None
    generator = torch.Generator(x.device).manual_seed(m)
    bits = torch.randint(0, 2, (ROWS, m), generator=generator, device=x.device)
    return (2 * bits - 1).double() / math.sqrt(m)


def _mix(mixing: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    return rows if mixing is None else mixing @ rows


def _sample(x: torch.Tensor) -> torch.Tensor:
    """At most ROWS of its rows, evenly."""
    m = x.shape[0]
    return x if m <= ROWS else x[torch.linspace(0, m - 1, ROWS, device=x.device).long()]


def _explained(
    arithmetic: Arithmetic, weight: torch.Tensor, x: torch.Tensor, y: torch.Tensor
) -> float:
    """Root mean square of what its roundings add, if they are independent.

    A rounding of a number v is at most v * eps / 2. That of weights adds up over k as x w does; the
    mean over all rows and columns is a sum over k of the products of means.
    """
    unit = UNIFORM * torch.finfo(y.dtype).eps / 2
    sums = arithmetic.sums(*x.shape) if callable(arithmetic.sums) else arithmetic.sums
    products = x.double().square().mean(0) @ _mean_squares(weight)
    of_weights = arithmetic.weights * float(products)
    of_sums = sums * float(y.double().square().mean())
    return unit * math.sqrt(of_weights + of_sums)


def _mean_squares(weight: torch.Tensor) -> torch.Tensor:
    """Over the rows of [n, k], in float64."""
    parts = [part.double().square().sum(0) for part in weight.split(COLUMNS)]
    return torch.stack(parts).sum(0) / weight.shape[0]
