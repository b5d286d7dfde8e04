"""The timer of CUDA graphs: what it captures and replays, in which order, with CUDA played."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import pytest
import torch

from tilus import TilusError
from tilus.runtime.timing import COLD, GraphTimer, Rotation, Spread, copies_for, rotation, spread_of


@dataclass
class Cuda:
    """`torch.cuda`: each call of a run takes its microseconds, in a graph or not."""

    did: list[str] = field(default_factory=list)
    now: float = 0.0  # microseconds
    capturing: bool = False

    def run(self, name: str, microseconds: float):
        def call() -> None:
            self.did.append(f"{'capture' if self.capturing else 'run'} {name}")
            self.captured = (name, microseconds)
            self.now += 0.0 if self.capturing else microseconds

        return call

    def Stream(self):
        cuda = self

        class Stream:
            def wait_stream(self, other):
                cuda.did.append("wait")

        return Stream()

    def current_stream(self):
        return self.Stream()

    def stream(self, stream):
        return nullcontext()

    def CUDAGraph(self):
        cuda = self

        class Graph:
            def replay(self):
                cuda.did.append(f"replay {self.name}")
                cuda.now += self.microseconds

        return Graph()

    @contextmanager
    def graph(self, graph):
        self.capturing = True
        yield
        self.capturing = False
        graph.name, graph.microseconds = self.captured

    def Event(self, enable_timing):
        assert enable_timing
        cuda = self

        class Event:
            def record(self):
                self.time = cuda.now

            def synchronize(self):
                pass

            def elapsed_time(self, end):
                return (end.time - self.time) / 1e3

        return Event()


def test_runs_are_timed_in_turn_by_replays_that_take_a_while():
    cuda = Cuda()
    one, two = cuda.run("one", 400.0), cuda.run("two", 2000.0)
    found = GraphTimer(cuda=cuda).time([one, two], repeats=2)
    assert [[pytest.approx(400e-6)] * 2, [pytest.approx(2000e-6)] * 2] == found
    assert ["capture one", "capture two"] == [did for did in cuda.did if "capture" in did]
    turn = ["replay one"] * 3 + ["replay two"]  # 1 ms at least
    assert turn * 2 == cuda.did[-8:]
    assert cuda.did.index("run one") < cuda.did.index("capture one")


def test_graphs_are_kept_while_their_runs_are_timed():
    cuda = Cuda()
    one, two = cuda.run("one", 400.0), cuda.run("two", 2000.0)
    timer = GraphTimer(cuda=cuda)
    for runs in ([one, two], [one], [one, two]):
        timer.time(runs, 1)
    captures = [did for did in cuda.did if "capture" in did]
    assert ["capture one", "capture two", "capture two"] == captures


def test_what_runs_before_is_not_timed_and_comes_before_every_call():
    cuda = Cuda()

    def before() -> None:
        cuda.did.append("before")
        cuda.now += 5000.0

    found = GraphTimer(before, warm_ups=2, cuda=cuda).time([cuda.run("one", 10.0)], 3)
    assert [[pytest.approx(10e-6)] * 3] == found
    calls = [did for did in cuda.did if did not in ("wait", "capture one")]
    assert ["before", "run one"] * 2 + ["before", "replay one"] * 4 == calls


def test_a_rotation_goes_over_all_copies():
    did = []
    rotation_ = rotation([lambda n=n: did.append(n) for n in range(5)])
    rotation_()
    assert [*range(5)] * 4 == did and 20 == rotation_.launches
    assert 1 == rotation([print] * 99).rounds and 3 == Rotation((print,) * 3).launches


@pytest.mark.parametrize("nbytes", [1, 10**6, 35 * 10**6, 10**9])
def test_copies_are_cold(nbytes):
    l2_bytes = 50 * 1024**2
    copies = copies_for(nbytes, l2_bytes)
    assert copies * nbytes > COLD * l2_bytes >= (copies - 1) * nbytes


def test_spreads():
    assert Spread(2.0, 2.0, 2.0) == spread_of([2.0])
    assert Spread(1.5, 1.25, 1.75) == spread_of([2.0, 1.0])
    for values in ([], [0.0, 1.0], [float("nan")], [float("inf")]):
        with pytest.raises(TilusError, match="times are positive"):
            spread_of(values)


@pytest.mark.gpu
def test_a_graph_is_timed_on_a_device():
    tensors = [torch.zeros(1 << 26, device="cuda") for _ in range(2)]
    run = rotation([lambda t=t: t.add_(1) for t in tensors])
    (found,) = GraphTimer().time([run], 5)
    assert 0 < spread_of(found).median / run.launches < 1e-2
