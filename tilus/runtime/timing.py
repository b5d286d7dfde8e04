"""How long launches take: CUDA graphs over cold inputs, several kernels in turn.

    one = rotation([lambda: kernel(x), lambda: kernel(other_x)])
    (seconds,) = GraphTimer().time([one], repeats=5)     # of a call of `one`, five times
    spread_of([each / one.launches for each in seconds]).median

A `Rotation` launches over copies of the inputs that together do not fit in the L2 cache, so that
each launch finds its own in DRAM, as in a model of many layers.

The surprise: what is timed is a graph's replay, so that a launch costs what it costs in a graph,
well below a microsecond, and nothing of Python.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from tilus.errors import TilusError
from tilus.utils import cdiv

COLD = 3  # times the L2 cache, that the copies take together
LEAST_LAUNCHES = 16  # in a graph
LEAST_SECONDS = 1e-3  # of a repetition: events resolve half a microsecond
Run = Callable[[], object]


class Timer(Protocol):
    """Times what runs on a device; tests put one of their own in its place."""

    def time(self, runs: Sequence[Run], repeats: int) -> list[list[float]]:
        """Seconds of a call of each of `runs`, `repeats` times, all of them in turn."""
        ...


# ---- what is timed -------------------------------------------------------------------------------


def copies_for(nbytes: int, l2_bytes: int) -> int:
    """How many copies of `nbytes` take more than three L2 caches.

    >>> copies_for(35_000_000, 50 * 1024**2)
    5
    """
    return COLD * l2_bytes // max(1, nbytes) + 1


@dataclass(frozen=True, eq=False)
class Rotation:
    """Launches over all copies, `rounds` times."""

    calls: tuple[Run, ...]
    rounds: int = 1

    @property
    def launches(self) -> int:
        return self.rounds * len(self.calls)

    def __call__(self) -> None:
        for _ in range(self.rounds):
            for call in self.calls:
                call()


def rotation(calls: Sequence[Run]) -> Rotation:
    """As many rounds as make a graph long enough to be timed.

    >>> rotation([print] * 5).launches
    20
    """
    return Rotation(tuple(calls), cdiv(LEAST_LAUNCHES, len(calls)))


# ---- how -----------------------------------------------------------------------------------------


@dataclass
class GraphTimer:
    """Events around replays of CUDA graphs on the current device.

    Attributes:
        before: runs before every call, untimed; then each call is timed by itself. It restores what
            calls write, or empties the cache.
        warm_ups: calls before a capture.
        cuda: `torch.cuda`.

    Graphs are kept from one `time` to the next, for the runs that are timed in both: a capture
    takes longer than what it captures.
    """

    before: Callable[[], None] | None = None
    warm_ups: int = 1
    cuda: Any = torch.cuda
    _graphs: dict[Run, tuple[Any, int]] = field(default_factory=dict[Run, tuple[Any, int]])

    def time(self, runs: Sequence[Run], repeats: int) -> list[list[float]]:
        self._graphs = {run: self._graphs.get(run) or self._prepared(run) for run in runs}
        found: dict[Run, list[float]] = {run: [] for run in runs}
        for _ in range(repeats):
            for run, (graph, count) in self._graphs.items():
                found[run].append(self._seconds(graph, count) / count)
        return [found[run] for run in runs]

    def _prepared(self, run: Run) -> tuple[Any, int]:
        """The graph of a call, and so many replays of it that they take a while."""
        graph = self._captured(run)
        self._seconds(graph, 1)  # the first replay uploads the graph
        if self.before is not None:
            return graph, 1
        return graph, math.ceil(LEAST_SECONDS / max(self._seconds(graph, 1), 1e-6))

    def _captured(self, run: Run) -> Any:
        """On a stream of its own, as torch asks for ("CUDA semantics", "CUDA Graphs")."""
        stream = self.cuda.Stream()
        stream.wait_stream(self.cuda.current_stream())
        with self.cuda.stream(stream):
            for _ in range(self.warm_ups):
                self._restore()
                run()
        self.cuda.current_stream().wait_stream(stream)
        graph = self.cuda.CUDAGraph()
        with self.cuda.graph(graph):
            run()
        return graph

    def _seconds(self, graph: Any, count: int) -> float:
        """Of `count` replays."""
        self._restore()
        start, end = (self.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def _restore(self) -> None:
        if self.before is not None:
            self.before()


# ---- what was found ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    q1: float
    q3: float


def spread_of(values: Sequence[float]) -> Spread:
    """Quartiles of the values themselves, interpolated between them.

    Raises: TilusError for no value, or what is no time.

    >>> spread_of([1.0, 2.0, 3.0, 4.0, 10.0])
    Spread(median=3.0, q1=2.0, q3=4.0)
    """
    if not values or not all(0 < value < math.inf for value in values):
        raise TilusError(
            "times are positive, and there is at least one",
            found=", ".join(map(str, values[:3])) or "none",
        )
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, q1, q3)
