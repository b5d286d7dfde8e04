"""The tuner, with candidates that compute nothing and a timer that reads their times."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import pytest
import torch

import tilus
from tilus import TilusError
from tilus.runtime.devices import H100
from tilus.runtime.model import Demand
from tilus.runtime.tune import BATCH, Candidate, Tuner, in_threads, prune
from tilus.runtime.tuning_check import difference
from tilus.runtime.tuning_log import Key, TuningLog

KEY = Key("f", "digest", {"m": 16}, {"x": "float16"}, "a GPU", "13.0", "0.1.0")


@dataclass
class Space:
    """Candidates by number, each of which takes that many microseconds; and what was done."""

    times: list[float]
    failing: set[int] = field(default_factory=set)
    wrong: set[int] = field(default_factory=set)
    losing: set[int] = field(default_factory=set)  # the device
    interrupted: set[int] = field(default_factory=set)  # while they are timed
    demands: dict[int, Demand] = field(default_factory=dict)
    built: list[int] = field(default_factory=list)
    checked: list[int] = field(default_factory=list)
    timed: list[int] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)

    def candidates(self) -> list[Candidate]:
        return [self.candidate(number) for number in range(len(self.times))]

    def candidate(self, number: int) -> Candidate:
        def build() -> str:
            self.built.append(number)
            if number in self.failing:
                raise TilusError(f"{number} does not fit")
            return str(number)

        def run() -> None:
            self.timed.append(number)
            if number in self.interrupted:
                raise KeyboardInterrupt

        def result() -> list[torch.Tensor]:
            self.checked.append(number)
            if number in self.losing:
                raise RuntimeError("an illegal memory access")
            return [torch.tensor([1.0, 0.0 if number in self.wrong else 2.0])]

        return Candidate({"number": number}, build, run, result, self.demands.get(number))

    def time(self, runs, repeats):
        """The protocol of `Timer`: 1% slower each time, all in turn."""
        self.batches.append([])
        found = []
        for run in runs:
            run()
            number = self.timed[-1]
            self.batches[-1].append(number)
            found.append([self.times[number] * 1e-6 * (1 + 0.01 * n) for n in range(repeats)])
        return found


def tuner(space: Space, log: TuningLog | None = None, **options) -> Tuner:
    return Tuner(space, log, workers=2, **options)


@pytest.fixture
def log(tmp_path) -> TuningLog:
    return TuningLog(tmp_path / "a-gpu.json", "a GPU")


def states(entry) -> dict[int, str]:
    return {one.point["number"]: one.state for one in entry.points}


def streamed(read: float, shared_memory: int = 65536) -> Demand:
    return Demand(132, 256, 64, shared_memory, issue=0, read=read, in_flight=49152)


# ---- what is found -------------------------------------------------------------------------------


def test_the_fastest_is_found_and_written(log):
    space = Space([30, 10, 20])
    entry = tuner(space, log).tune(KEY, space.candidates())
    assert {"number": 1} == entry.best and entry.complete
    best = entry.of_best
    assert (10, 5) == (best.q1_us and round(best.q1_us), best.repeats)
    assert entry == TuningLog(log.path, "a GPU").find(KEY)


def test_what_is_known_is_not_measured_again(log):
    first, again = Space([30, 10]), Space([30, 10])
    entry = tuner(first, log).tune(KEY, first.candidates())
    assert entry == tuner(again, log).tune(KEY, again.candidates())
    assert [] == again.built == again.timed


def test_a_best_point_that_is_no_more_is_measured_anew(log):
    first, other = Space([30, 10]), Space([30])
    tuner(first, log).tune(KEY, first.candidates())
    assert {"number": 0} == tuner(other, log).tune(KEY, other.candidates()).best


def test_clearly_slower_ones_are_given_up_early():
    space = Space([10, 10.1, 50])
    entry = tuner(space, repeats=9).tune(KEY, space.candidates())
    assert {0: "timed", 1: "timed", 2: "slow"} == states(entry)
    assert [[0, 1, 2], [0, 1], [0, 1]] == space.batches
    assert (9, 3) == (entry.of_best.repeats, entry.of({"number": 2}).repeats)


def test_the_best_so_far_is_timed_beside_each_batch():
    times = [50.0] * (2 * BATCH)
    times[3] = 10.0
    space = Space(times)
    entry = tuner(space, repeats=3).tune(KEY, space.candidates())
    assert {"number": 3} == entry.best
    assert [list(range(BATCH)), [3, *range(BATCH, 2 * BATCH)]] == space.batches


def test_repeats_are_those_of_the_setting():
    space = Space([10])
    with tilus.option.context(bench_repeat=2):
        assert 2 == tuner(space).tune(KEY, space.candidates()).of_best.repeats


# ---- what is left out ----------------------------------------------------------------------------


def test_what_does_not_fit_is_recorded_and_not_fatal(log):
    space = Space([30, 10, 20], failing={1})
    entry = tuner(space, log).tune(KEY, space.candidates())
    assert {"number": 2} == entry.best
    assert "1 does not fit" in entry.of({"number": 1}).reason
    assert 1 not in space.checked + space.timed


def test_what_is_wrong_is_never_timed():
    space = Space([30, 10, 20], wrong={1})
    entry = tuner(space).tune(KEY, space.candidates())
    assert ({"number": 2}, "wrong") == (entry.best, states(entry)[1])
    assert "1 of 2 elements differ, the first at [1]: 0.0 instead of 2.0" in str(entry.points)
    assert 1 in space.checked and 1 not in space.timed


def test_a_reference_judges_the_first_candidate_too():
    space = Space([10, 30], wrong={0})
    entry = tuner(space).tune(KEY, space.candidates(), reference=lambda: [torch.tensor([1.0, 2.0])])
    assert ({"number": 1}, {0: "wrong", 1: "timed"}) == (entry.best, states(entry))


def test_nothing_works(log):
    space = Space([1, 2], failing={0, 1})
    with pytest.raises(TilusError, match="no point of f can be used") as info:
        tuner(space, log).tune(KEY, space.candidates())
    assert "0 does not fit" in str(info.value)
    space.failing.clear()  # another driver, say
    assert {"number": 0} == tuner(space, log).tune(KEY, space.candidates()).best


def test_there_must_be_a_candidate():
    with pytest.raises(TilusError, match="nothing to tune"):
        tuner(Space([])).tune(KEY, [])


def test_the_model_prunes():
    reads = [5e9, 1e9, 2e9, 1.01e9, 4e9]
    space = Space([1] * 5, demands=dict(enumerate(map(streamed, reads))))
    kept = prune(space.candidates(), H100, keep=1, within=1.1)
    assert [0, 1, 3] == [one.point["number"] for one in kept]  # 0 is what runs untuned
    kept = prune(space.candidates(), H100, keep=3, within=1.0)
    assert [0, 1, 3, 2] == [one.point["number"] for one in kept]
    entry = tuner(space, keep=1).tune(KEY, space.candidates(), H100)
    assert (2, {0, 1, 3}) == (entry.pruned, set(space.built))


def test_the_model_keeps_what_it_knows_nothing_of():
    space = Space([1] * 3, demands={1: streamed(1e9, shared_memory=400_000)})
    assert [0, 2] == [c.point["number"] for c in prune(space.candidates(), H100, 1, 1.0)]
    assert 3 == len(prune(space.candidates(), None, 1, 1.0))


# ---- interrupts ----------------------------------------------------------------------------------


def test_an_interrupt_loses_little(log):
    times = [float(10 + n) for n in range(3 * BATCH)]
    first = Space(times, failing={2}, interrupted={BATCH + 4})
    with pytest.raises(KeyboardInterrupt):
        tuner(first, log).tune(KEY, first.candidates())
    kept = TuningLog(log.path, "a GPU").find(KEY)
    assert not kept.complete and {"number": 0} == kept.best
    assert {*range(BATCH + 1)} == set(states(kept))  # a batch, and what did not fit

    again = Space(times, failing={2})
    entry = tuner(again, log).tune(KEY, again.candidates())
    assert entry.complete and {"number": 0} == entry.best and len(times) == len(entry.points)
    assert {0, *range(BATCH + 1, 3 * BATCH)} == set(again.built) == set(again.timed)
    assert 0 == again.batches[0][0]  # the best so far runs along


def test_an_interrupt_while_compiling_begins_nothing_more():
    begun, release = [], threading.Event()

    def job():
        begun.append(threading.get_ident())
        release.wait(10)

    def run():
        for _ in in_threads([lambda: None, *[job] * 20], workers=2):
            threading.Timer(0.05, release.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(begun) <= 3


def test_late_runs_go_on_next_time(log):
    space = Space([10.0] * 20)
    late = tuner(space, log, deadline=time.monotonic() - 1)
    entry = late.tune(KEY, space.candidates())
    assert not entry.complete and [] == space.timed
    assert tuner(space, log).tune(KEY, space.candidates()).complete


def test_a_point_that_loses_the_device_is_left_out_by_the_next_process(log):
    first = Space([10, 5, 20], losing={1})
    with pytest.raises(TilusError, match="made the device fail") as info:
        tuner(first, log).tune(KEY, first.candidates())
    assert "{'number': 1}" in str(info.value) and "illegal memory access" in str(info.value)
    again = Space([10, 5, 20], losing={1})
    assert {"number": 0} == tuner(again, log).tune(KEY, again.candidates()).best
    assert 1 not in again.built


# ---- threads -------------------------------------------------------------------------------------


def test_candidates_are_compiled_by_several_threads_in_the_settings_of_the_caller():
    together, seen = threading.Barrier(2, timeout=10), []

    def build() -> str:
        together.wait()  # passes only if two are compiled at the same time
        seen.append(tilus.option.get_option("debug"))
        return ""

    space = Space([10, 20])
    candidates = [Candidate(c.point, build, c.run, c.result) for c in space.candidates()]
    with tilus.option.context(debug=3):
        assert tuner(space).tune(KEY, candidates).complete
    assert [3, 3] == seen


# ---- whether results agree -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rounding_is_no_difference(dtype):
    wanted = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    eps = torch.finfo(dtype).eps
    assert difference([(wanted.double() * (1 + eps)).to(dtype)], [wanted]) is None
    wrong = wanted.clone()
    wrong[3, 5] += 0.5
    assert "1 of 4096 elements differ, the first at [3, 5]" in difference([wrong], [wanted])


@pytest.mark.parametrize(
    ("found", "wanted", "words"),
    [
        ([1, 2], [1, 2], None),
        ([1, 2], [1, 3], "the first at [1]: 2 instead of 3"),
        ([float("nan"), float("inf")], [float("nan"), float("inf")], None),
        ([float("nan"), 1.0], [0.0, 1.0], "the first at [0]: nan instead of 0.0"),
        ([float("inf"), 1.0], [-float("inf"), 1.0], "inf instead of -inf"),
        ([1.0, 2.0, 3.0], [1.0, 2.0], "torch.float32[3] instead of torch.float32[2]"),
    ],
)
def test_differences(found, wanted, words):
    said = difference([torch.tensor(found)], [torch.tensor(wanted)])
    assert said is None if words is None else words in said


def test_another_number_of_tensors():
    assert "0 tensors instead of 1" == difference([], [torch.ones(1)])
