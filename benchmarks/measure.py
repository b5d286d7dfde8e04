"""One item of the benchmark: prepare, check against float64, then time all peers in turn.

    bench = Bench(machine, PEERS)
    rows = bench.measure(item)             # and bench.errors, of what went wrong

A peer is prepared as often as it takes to have cold weights, and is checked on random numbers of
their own before it is timed. One that raises or is wrong is left out and told in `errors`.

The surprise: cuBLAS has no weights of few bits. It runs in float16 beside every item, so that each
row has its time in the very same minute as `baseline_us`, but has a row of its own only once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.expect import US, Work, floor_of, prediction_of
from benchmarks.machine import Machine
from benchmarks.peers import Peer, Problem, check
from benchmarks.record import Row
from benchmarks.shapes import GROUP_SIZE, STEP, Item
from benchmarks.stock import Ready, Stock
from tilus.errors import TilusError
from tilus.runtime.timing import Rotation, copies_for, rotation, spread_of

OURS, BASELINE = "tilus", "cublas"
BASELINE_TYPE = "f16"
ACTIVATIONS = ("float16", "bfloat16")  # the latter for peers that refuse the former
REPEATS = 21
BEST = 2  # peers beside ours and cuBLAS, in a decoder step
CHECKED, TIMED = 1, 2  # seeds of activations
LEAST_REPEATS, LONGEST = 5, 2.0  # seconds that the repetitions take together, beyond the least


@dataclass(frozen=True)
class Contender:
    """A peer, and what it multiplies in an item: a problem for each layer."""

    name: str
    peer: Peer
    problems: tuple[Problem, ...]

    @property
    def identity(self) -> tuple[Any, ...]:
        """Of its row, as that of a baseline is the same in many items."""
        return self.name, self.problems


@dataclass(frozen=True)
class Lane:
    """A contender that is ready, and right.

    Attributes:
        readies: its weights, for each layer.
        rotation: what is timed.
        error: the worst of the layers', against float64, relative to that of a float32 product.
        seconds: that a call of `rotation` took at the first try.
        compile_s: to the first results, preparation included; `prepare_s` of another copy.
    """

    contender: Contender
    readies: tuple[Ready, ...]
    rotation: Rotation
    error: float
    seconds: float
    compile_s: float
    prepare_s: float | None

    @property
    def copies(self) -> int:
        return len(self.rotation.calls) // len(self.readies)

    @property
    def times(self) -> int:
        """How often a call of `rotation` runs through all layers."""
        return self.rotation.launches // len(self.readies)


@dataclass
class Bench:
    """Of peers on a machine.

    Attributes:
        check: the error of a result against float64; it raises for one that is wrong.
        rows: of all items so far, likewise `errors`.
        refused: why a peer does not take a dtype, by its name.
    """

    machine: Machine
    peers: Mapping[str, Peer]
    repeats: int = REPEATS
    check: Callable[..., float] = check
    clock: Callable[[], float] = time.perf_counter
    rows: list[Row] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stock = Stock(self.machine, self.clock)
        self.known: set[tuple[Any, ...]] = set()

    def measure(self, item: Item) -> list[Row]:
        """The rows of an item, which are added to all of them.

        Raises: DeviceLost if the device answers no more.
        """
        self.stock.keep(item)
        lanes = [self.lane(contender, item) for contender in self.contenders(item)]
        times = self.timed([lane for lane in lanes if lane is not None], item)
        baseline = next((s for lane, s in times if lane.contender.name == BASELINE), None)
        rows = [
            self.row(item, lane, seconds, baseline)
            for lane, seconds in times
            if lane.contender.identity not in self.known
        ]
        self.known |= {lane.contender.identity for lane, _ in times}
        self.rows += rows
        return rows

    def tried(self, item: Item) -> Iterator[tuple[Contender, float | None, float]]:
        """Each contender with the error of its result, None if it failed or is wrong, which is
        noted; and the seconds to its first result, compilation included. Nothing is timed.

        Raises: DeviceLost if the device answers no more.
        """
        self.stock.keep(item)
        for contender in self.contenders(item):
            start = self.clock()
            found = self.right_results(contender, item)
            yield contender, None if found is None else found[2], self.clock() - start

    # ---- who takes part --------------------------------------------------------------------------

    def contenders(self, item: Item) -> Iterable[Contender]:
        for name, peer in self.peers.items():
            if item.layer == STEP and name not in self.best(item.dtype):
                continue
            problems = self.problems(name, peer, item)
            if problems:
                yield Contender(name, peer, problems)

    def problems(self, name: str, peer: Peer, item: Item) -> tuple[Problem, ...]:
        """Those that the peer takes; none, with its reason noted, if it refuses one of them."""
        dtype = BASELINE_TYPE if name == BASELINE else item.dtype
        reasons: list[str] = []
        for activation in ACTIVATIONS:
            problems = tuple(
                Problem(item.m, layer.n, layer.k, dtype, GROUP_SIZE, activation)
                for layer in item.layers
            )
            found = [reason for p in problems if (reason := peer.refuses(p)) is not None]
            if not found:
                return problems
            reasons += found
        self.refused.setdefault(name, {}).setdefault(dtype, reasons[0])
        return ()

    def best(self, dtype: str) -> set[str]:
        """Ours, cuBLAS, and the fastest others so far; all where nothing was timed so far."""
        ratios = log_ratios(self.rows, dtype)
        others = sorted(
            (name for name in ratios if name not in (OURS, BASELINE)),
            key=lambda name: sum(ratios[name]) / len(ratios[name]),
        )
        return {OURS, BASELINE, *others[:BEST]} if ratios else set(self.peers)

    # ---- prepare and check -----------------------------------------------------------------------

    def lane(self, contender: Contender, item: Item) -> Lane | None:
        """None, with the error noted, for a contender that fails or is wrong."""
        found = self.right_results(contender, item)
        if found is None:
            return None
        readies, compile_s, error = found
        doing = "prepare copies"
        try:
            launches = self.rotation(contender, readies)
            doing = "time"
            seconds = self.machine.timer.time([launches], 1)[0][0]
        except Exception as problem:
            self.fail(contender.name, contender.problems, item, doing, problem)
            return None
        again = [ready.again_s for ready in readies]
        prepare_s = None if None in again else sum(seconds or 0.0 for seconds in again)
        return Lane(contender, readies, launches, error, seconds, compile_s, prepare_s)

    def right_results(
        self, contender: Contender, item: Item
    ) -> tuple[tuple[Ready, ...], float, float] | None:
        """What is ready, the seconds to its first results, and the worst of their errors; None,
        with the reason noted, for a contender that fails or is wrong.
        """
        doing = "prepare"
        try:
            readies, seconds = self.first_results(contender)
            doing = "check"
            error = max(map(partial(self.error, contender), contender.problems, readies))
        except Exception as problem:
            self.fail(contender.name, contender.problems, item, doing, problem)
            return None
        return readies, seconds, error

    def first_results(self, contender: Contender) -> tuple[tuple[Ready, ...], float]:
        """And the seconds from nothing to them."""
        readies, seconds = [], 0.0
        for problem in contender.problems:
            x = self.stock.tokens(problem, TIMED)
            ready = self.stock.prepared(contender.name, contender.peer, problem)
            start = self.clock()
            ready.runs[0](x)
            self.machine.synchronize()
            seconds += ready.prepare_s + self.clock() - start
            readies.append(ready)
        return tuple(readies), seconds

    def error(self, contender: Contender, problem: Problem, ready: Ready) -> float:
        x = self.stock.tokens(problem, CHECKED)
        found = self.check(contender.peer, ready.first, x)
        self.stock.checked(ready)
        if not math.isfinite(found):
            raise TilusError("the error of a result is no number", found=str(found))
        return found

    def rotation(self, contender: Contender, readies: Sequence[Ready]) -> Rotation:
        """With copies of all layers that do not fit in the cache together."""
        copies = copies_for(sum(ready.nbytes for ready in readies), self.machine.l2_bytes)
        for problem, ready in zip(contender.problems, readies, strict=True):
            self.stock.copy(contender.peer, problem, ready, copies)
        xs = [self.stock.tokens(problem, TIMED) for problem in contender.problems]
        return rotation(
            [
                partial(ready.runs[copy], x)
                for copy in range(copies)
                for ready, x in zip(readies, xs, strict=True)
            ]
        )

    def fail(
        self, name: str, problems: Sequence[Problem], item: Item, doing: str, error: Exception
    ) -> None:
        """Raises: DeviceLost if it took the device along."""
        self.errors.append(
            {
                "kernel": name, "dtype": problems[0].dtype, "m": item.m, "n": item.n, "k": item.k,
                "model": item.model, "layer": item.layer, "doing": doing,
                "error": f"{type(error).__name__}: {error}",
            }
        )  # fmt: skip
        self.machine.recover()

    # ---- time ------------------------------------------------------------------------------------

    def timed(self, lanes: Sequence[Lane], item: Item) -> list[tuple[Lane, list[float]]]:
        """Seconds of running once through all layers, in each repetition."""
        if not lanes:
            return []
        affordable = int(LONGEST / sum(lane.seconds for lane in lanes))
        repeats = min(self.repeats, max(LEAST_REPEATS, affordable))
        try:
            found = self.machine.timer.time([lane.rotation for lane in lanes], repeats)
            for seconds in found:
                spread_of(seconds)
        except Exception as error:
            names = ", ".join(lane.contender.name for lane in lanes)
            self.fail(names, lanes[0].contender.problems, item, "time together", error)
            return []
        return [
            (lane, [second / lane.times for second in seconds])
            for lane, seconds in zip(lanes, found, strict=True)
        ]

    def row(
        self, item: Item, lane: Lane, seconds: Sequence[float], baseline: Sequence[float] | None
    ) -> Row:
        problem, spread = lane.contender.problems[0], spread_of(seconds)
        return {
            "kernel": lane.contender.name,
            "dtype": problem.dtype,
            "m": item.m,
            "n": item.n,
            "k": item.k,
            "group_size": None if problem.dtype == BASELINE_TYPE else problem.group_size,
            "activation": problem.activation,
            "device": self.machine.name,
            "model": item.model,
            "layer": item.layer,
            "median_us": US * spread.median,
            "q1_us": US * spread.q1,
            "q3_us": US * spread.q3,
            "repeats": len(seconds),
            **self.expected(lane),
            "compile_s": lane.compile_s,
            "prepare_s": lane.prepare_s,
            "error": lane.error,
            "baseline_us": None if baseline is None else US * spread_of(baseline).median,
            "copies": lane.copies,
        }

    def expected(self, lane: Lane) -> dict[str, Any]:
        """Bytes, operations and floor; for ours, what the cost model says."""
        pairs = zip(lane.contender.problems, lane.readies, strict=True)
        work = [Work.of(problem, ready.nbytes) for problem, ready in pairs]
        device = self.machine.figures
        floor = None if device is None else floor_of(work, device)
        predicted = self.predicted(lane.contender)
        return {
            "bytes": sum(one.nbytes for one in work),
            "flops": sum(one.flops for one in work),
            "floor_us": None if floor is None else floor.us,
            "floor_binds": None if floor is None else floor.binds,
            "predicted_us": None if predicted is None else predicted[0],
            "binds": None if predicted is None else predicted[1],
        }

    def predicted(self, contender: Contender) -> tuple[float, str] | None:
        """Microseconds and what binds in each layer; None for peers, and where nothing is known."""
        device = self.machine.figures
        if contender.name != OURS or device is None:
            return None
        found = [prediction_of(p, device, self.machine.device) for p in contender.problems]
        known = [prediction for prediction in found if prediction is not None]
        if len(known) < len(found):
            return None
        binds = ", ".join(dict.fromkeys(prediction.binds for prediction in known))
        return US * sum(prediction.seconds for prediction in known), binds


def log_ratios(rows: Iterable[Row], dtype: str) -> dict[str, list[float]]:
    """By peer, the logarithms of its time over ours, where both multiply by weights of `dtype`."""
    ours, found = {}, {}
    for row in rows:
        if row["kernel"] == OURS and row["dtype"] == dtype:
            ours[row["m"], row["n"], row["k"]] = row["median_us"]
    for row in rows:
        shape = (row["m"], row["n"], row["k"])
        if row["dtype"] == dtype and shape in ours:
            ratio = math.log(row["median_us"] / ours[shape])
            found.setdefault(row["kernel"], []).append(ratio)
    return found
