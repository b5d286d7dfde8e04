"""The autotuner: finds the fastest of several kernels that compute the same.

    candidate = Candidate({"split": 2}, build=..., run=..., result=..., demand=...)
    entry = Tuner(GraphTimer(), user_log(name)).tune(key, [usual, candidate, ...], H100)
    entry.best                                     # {"split": 2}

Points that the cost model proves slow are left out; the rest is compiled by several threads, held
against the result of the first, and timed in turn, the most promising ones first. What is wrong is
never timed, what is clearly slower is given up early. Every result is written at once, so that
after an interrupt the next run goes on where this one stopped.

The surprise: times are compared only where they were taken side by side, so the best point so far
is timed again with every batch of others. Clocks and temperature change meanwhile.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, TypeVar, cast

import torch

from tilus.config import settings
from tilus.errors import TilusError
from tilus.lang.script import Specialisation
from tilus.runtime.devices import Device
from tilus.runtime.inspect import occupancy
from tilus.runtime.launch import compile_kernel
from tilus.runtime.model import Demand, predict
from tilus.runtime.progress import progress_bar
from tilus.runtime.timing import Timer, spread_of
from tilus.runtime.tuning_check import difference
from tilus.runtime.tuning_log import Entry, Key, Measured, Point, TuningLog, canonical
from tilus.target import Target

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

BATCH = 8  # points that are timed side by side
FIRST_REPEATS = 3  # after which a point may be given up
CLEARLY = 1.02  # times the upper quartile of the best: a lower quartile above it is given up
KEEP = 10  # points that the model finds best
WITHIN = 1.1  # times the best prediction: such points are kept, too
T = TypeVar("T")
Result = Callable[[], Sequence[torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A point of a tuning space.

    Attributes:
        point: JSON, different for every candidate of a space.
        build: compiles it, in some thread, and returns a digest of its text; TilusError where it
            does not fit.
        run: launches it `launches` times.
        result: launches it once, and returns what it wrote.
        demand: for the cost model; None where that knows nothing of the kernel.
    """

    point: Point
    build: Callable[[], str]
    run: Callable[[], object]
    result: Result
    demand: Demand | None = None
    launches: int = 1


@dataclass(frozen=True)
class Tuner:
    """How tuning goes about it.

    Attributes:
        timer: of launches; see `tilus.runtime.timing`.
        log: where results are kept; None: nowhere.
        keep: points at least that are tried, by the model's order.
        within: times the best prediction, up to which they are tried, too.
        repeats: of a timing (None: the setting `bench_repeat`).
        workers: threads that compile (None: the setting `parallel_workers`).
        deadline: of `time.monotonic`, after which no further batch is begun.
        progress: whether to show a bar, where standard error is a terminal.
    """

    timer: Timer
    log: TuningLog | None = None
    keep: int = KEEP
    within: float = WITHIN
    repeats: int | None = None
    workers: int | None = None
    deadline: float | None = None
    progress: bool = False

    def tune(
        self,
        key: Key,
        candidates: Sequence[Candidate],
        device: Device | None = None,
        reference: Result | None = None,
    ) -> Entry:
        """The results for `key`, after every candidate worth it was tried, here or in an earlier
        run.

        Args:
            candidates: the first is what runs untuned; it is always tried.
            device: for the cost model; None where its figures are not known.
            reference: what is right (None: what the first candidate that runs computes).

        Raises: TilusError where no candidate works.
        """
        known = None if self.log is None else self.log.find(key)
        points = {canonical(candidate.point) for candidate in candidates}
        if known is not None and known.complete and canonical(known.best) in points:
            return known
        if known is None or known.complete:
            known = Entry(key)
        chosen = prune(candidates, device, self.keep, self.within)
        entry = replace(known, pruned=len(candidates) - len(chosen))
        with progress_bar(self.progress) as bar:
            return _Session(self, entry, bar).run(chosen, reference)


def built(kernel: Specialisation, target: Target) -> str:
    """Compile `kernel`; the digest of its text. Raises: TilusError where no block of it fits."""
    binary = compile_kernel(kernel, target).binary
    used, source = binary.resources, binary.source
    if used is not None:
        shared = used.static_shared + source.shared_bytes
        room = occupancy(target, source.threads, used.registers, shared)
        most = target.properties.shared_memory_per_block
        if not room.blocks or shared > most:
            raise TilusError(
                f"no block of {source.name} fits on a multiprocessor",
                found=f"{source.threads} threads of {used.registers} registers, "
                f"{shared} bytes of shared memory",
                expected=f"at most {most} bytes, and what {target.arch} has of registers",
            )
    return binary.code.key


# ---- pruning -------------------------------------------------------------------------------------


def prune(
    candidates: Sequence[Candidate], device: Device | None, keep: int, within: float
) -> list[Candidate]:
    """The first candidate, then the `keep` that the model finds fastest, those within a factor of
    the best, and those it knows nothing of; the fastest ones first.

    Points of which no block fits on the device are left out.
    """
    if not candidates:
        raise TilusError("there is nothing to tune", expected="at least one candidate")
    first, *others = candidates
    times = {one: _predicted(one.demand, device) for one in candidates}
    unknown = [one for one in others if times[one] is None]
    fitting = {one: seconds for one, seconds in times.items() if seconds is not None}
    fitting = {one: seconds for one, seconds in fitting.items() if seconds < _NEVER}
    ranked = sorted(fitting, key=fitting.__getitem__)
    most = within * min(fitting.values(), default=0.0)
    best = [one for n, one in enumerate(ranked) if n < keep or fitting[one] <= most]
    return [first, *(one for one in best if one is not first), *unknown]


_NEVER = float("inf")


def _predicted(demand: Demand | None, device: Device | None) -> float | None:
    """Seconds; infinite where it does not fit, None where nothing is known."""
    if demand is None or device is None:
        return None
    try:
        return predict(demand, device).seconds
    except TilusError:
        return _NEVER


# ---- a run ---------------------------------------------------------------------------------------


@dataclass
class _Session:
    """A run of the tuner for one key; `entry` is what is known so far."""

    tuner: Tuner
    entry: Entry
    bar: Progress
    task: TaskID = field(default=cast("TaskID", 0))

    def run(self, chosen: Sequence[Candidate], reference: Result | None) -> Entry:
        todo = [one for one in chosen if self.entry.of(one.point) is None]
        if not todo and self.entry.best is None:  # what hindered all of them may be gone
            self.entry, todo = replace(self.entry, points=()), list(chosen)
        champion = [one for one in chosen if _same(self.entry.best, one.point)]
        first = [one for one in chosen[:1] if reference is None and not self._has_failed(one)]
        needed = dict.fromkeys([*first, *champion, *todo])
        right = self._right(self._built(list(needed)), reference)
        self._time([one for one in champion if one in right], [one for one in todo if one in right])
        return self.entry

    def _has_failed(self, candidate: Candidate) -> bool:
        found = self.entry.of(candidate.point)
        return found is not None and found.state in ("failed", "wrong")

    def _keep(self, *found: Measured) -> None:
        """Add to the entry, in place of what it says of the same points, and write it."""
        new = {canonical(one.point): one for one in found}
        others = [one for one in self.entry.points if canonical(one.point) not in new]
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        best = self.entry.best
        if any(one.state != "timed" and _same(best, one.point) for one in found):
            best = None
        self.entry = replace(self.entry, points=(*others, *found), best=best, date=date)
        if self.tuner.log is not None:
            self.tuner.log.update(self.entry)

    def _failed(self, candidate: Candidate, state: str, reason: str) -> None:
        self._keep(Measured(candidate.point, state, reason))

    # ---- compiling

    def _built(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that compile, in their order; all are tried, several at a time."""
        working: set[Candidate] = set()
        with self._step("compiling", len(candidates)):
            builds = [one.build for one in candidates]
            for number, task in in_threads(builds, self.tuner.workers):
                try:
                    task.result()
                    working.add(candidates[number])
                except TilusError as error:
                    self._failed(candidates[number], "failed", str(error))
                self.bar.advance(self.task)
        return [one for one in candidates if one in working]

    # ---- checking

    def _right(self, candidates: Sequence[Candidate], reference: Result | None) -> list[Candidate]:
        """Those that compute what the reference does, or else the first that runs. Each has run
        once then, so that all it needs is loaded.
        """
        wanted = None if reference is None else _copied(reference())
        right: list[Candidate] = []
        with self._step("checking", len(candidates)):
            for one in candidates:
                found = self._result(one)
                self.bar.advance(self.task)
                if found is None:
                    continue
                if wanted is None:
                    wanted = _copied(found)
                reason = difference(found, wanted)
                if reason is None:
                    right.append(one)
                else:
                    self._failed(one, "wrong", reason)
        return right

    def _result(self, candidate: Candidate) -> Sequence[torch.Tensor] | None:
        """What it computes; None, with the reason in the entry, where it cannot run.

        Raises: TilusError where the device answers no more. The next run leaves this point out.
        """
        try:
            found = candidate.result()
            for tensor in found:
                if tensor.device.type == "cuda":
                    torch.cuda.synchronize(tensor.device)
            return found
        except TilusError as error:
            self._failed(candidate, "failed", str(error))
            return None
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # torch's, for errors of the device
            self._failed(candidate, "failed", str(error))
            raise TilusError(
                f"a point of {self.entry.key.kernel} made the device fail while it was tuned",
                found=f"{dict(candidate.point)}: {str(error).partition(chr(10))[0]}",
                hint="start again: the next process leaves this point out",
            ) from error

    # ---- timing

    def _time(self, champion: list[Candidate], candidates: list[Candidate]) -> None:
        with self._step("timing", len(candidates)):
            for start in range(0, len(candidates), BATCH):
                if self._is_late():
                    return
                batch = candidates[start : start + BATCH]
                champion = [self._time_batch([*champion, *batch])]
                self.bar.advance(self.task, len(batch))
        if self.entry.best is None:
            raise _nothing_works(self.entry)
        self.entry = replace(self.entry, complete=True)
        self._keep()

    def _is_late(self) -> bool:
        deadline = self.tuner.deadline
        return deadline is not None and time.monotonic() >= deadline

    def _time_batch(self, batch: Sequence[Candidate]) -> Candidate:
        """Time all side by side; the fastest, which becomes the best so far."""
        times: dict[Candidate, list[float]] = {one: [] for one in batch}
        alive, left = list(batch), self.tuner.repeats or settings().bench_repeat
        while left:
            count = min(FIRST_REPEATS, left)
            runs = [one.run for one in alive]
            for one, found in zip(alive, self.tuner.timer.time(runs, count), strict=True):
                times[one] += [seconds / one.launches for seconds in found]
            alive, left = _still_fast(alive, times), left - count
        best = min(alive, key=lambda one: spread_of(times[one]).median)
        self.entry = replace(self.entry, best=best.point)
        self._keep(*(_measured(one, times[one], one in alive) for one in batch))
        return best

    @contextmanager
    def _step(self, name: str, total: int) -> Iterator[None]:
        self.task = self.bar.add_task(f"{self.entry.key.kernel}: {name}", total=total)
        try:
            yield
        finally:
            self.bar.remove_task(self.task)


def in_threads(
    jobs: Sequence[Callable[[], T]], workers: int | None = None
) -> Iterator[tuple[int, Future[T]]]:
    """The number of each job and what became of it, as they are done. An interrupt begins no
    further ones.
    """
    pool = ThreadPoolExecutor(workers or settings().parallel_workers, "tilus-tune")
    try:
        # Each in a copy of this context, so that settings made by `with` hold there as well.
        tasks = {
            pool.submit(contextvars.copy_context().run, job): number
            for number, job in enumerate(jobs)
        }
        for task in as_completed(tasks):
            yield tasks[task], task
    finally:
        pool.shutdown(cancel_futures=True)


def _same(one: Point | None, other: Point) -> bool:
    """Lists that were tuples before they were written are the same."""
    return one is not None and canonical(one) == canonical(other)


def _copied(found: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The next candidate may write to the same memory."""
    return [tensor.clone() for tensor in found]


def _still_fast(alive: Sequence[Candidate], times: dict[Candidate, list[float]]) -> list[Candidate]:
    """Without those whose lower quartile is clearly above the upper one of the best."""
    spreads = {one: spread_of(times[one]) for one in alive}
    best = min(spreads.values(), key=lambda spread: spread.median)
    return [one for one in alive if spreads[one].q1 <= CLEARLY * best.q3]


def _measured(candidate: Candidate, seconds: Sequence[float], is_alive: bool) -> Measured:
    spread = spread_of(seconds)
    microseconds = (round(1e6 * each, 4) for each in (spread.median, spread.q1, spread.q3))
    state = "timed" if is_alive else "slow"
    return Measured(candidate.point, state, None, *microseconds, repeats=len(seconds))


def _nothing_works(entry: Entry) -> TilusError:
    reasons = [f"{dict(one.point)}: {one.reason}" for one in entry.points if one.reason]
    return TilusError(
        f"no point of {entry.key.kernel} can be used",
        found="; ".join(reason.replace("\n", " ") for reason in reasons[:3]) or "none was tried",
    )
