"""The operands of an item: weights as each peer prepares them, in copies that no cache holds.

    stock = Stock(machine)
    ready = stock.prepared(peer, problem, cold_copies)      # kept for the next item of this weight

Everything is drawn at random from seeds that follow from the problem, so that two runs, and all
peers, multiply the same numbers. Never zeros: they run faster than real data.

The surprise: all copies, for whatever number of tokens, are prepared from one tensor, so that a
peer may keep what it derives from it; the copies must be memory of their own nevertheless.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from benchmarks.machine import Machine
from benchmarks.peers import Peer, Prepared, Problem
from benchmarks.shapes import Item
from tilus.dtypes import dtype_from_name
from tilus.tensor import dtype_to_torch

WEIGHT_SIZE = 0.05  # standard deviation
ANY_TOKENS = "any_tokens"  # a peer that has it True is not prepared for each m anew

Run = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Ready:
    """A weight as a peer has it.

    Attributes:
        first: what is checked; None once that is done and it is not needed again: its `weight` is
            large.
        runs: of each copy, the first among them.
        nbytes: that a launch reads of a copy.
        prepare_s: seconds that the first preparation took; 0 for one that was there.
        again_s: seconds that another one took; None without.
    """

    first: Prepared | None
    runs: list[Run]
    nbytes: int
    prepare_s: float
    again_s: float | None = None


@dataclass
class Stock:
    """Of a machine.

    Attributes:
        clock: seconds.
    """

    machine: Machine
    clock: Callable[[], float] = time.perf_counter
    weights: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    kept: dict[tuple[str, Problem], Ready] = field(default_factory=dict)

    def keep(self, item: Item) -> None:
        """Only what `item` may need: memory of a GPU is scarce."""
        shapes = {(layer.n, layer.k) for layer in item.layers}
        self.weights = {s: weight for s, weight in self.weights.items() if s in shapes}
        self.kept = {
            key: ready
            for key, ready in self.kept.items()
            if (key[1].n, key[1].k) in shapes and key[1].dtype in (item.dtype, "f16")
        }

    def weight(self, n: int, k: int) -> torch.Tensor:
        """[n, k] float32, the same object as long as it is kept."""
        if (n, k) not in self.weights:
            self.weights[n, k] = WEIGHT_SIZE * self.normal((n, k), seed=n * 1_000_003 + k)
        return self.weights[n, k]

    def tokens(self, problem: Problem, seed: int) -> torch.Tensor:
        """[m, k]"""
        shape = (problem.m, problem.k)
        x = self.normal(shape, seed=seed * 1_000_003 + problem.m * 8191 + problem.k)
        return x.to(dtype_to_torch(dtype_from_name(problem.activation)))

    def normal(self, shape: tuple[int, int], seed: int) -> torch.Tensor:
        generator = torch.Generator(self.machine.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=self.machine.device)

    def prepared(self, name: str, peer: Peer, problem: Problem) -> Ready:
        """With one copy at least; what the peer has for other numbers of tokens, where it may."""
        serves_any = getattr(peer, ANY_TOKENS, False)
        key = (name, replace(problem, m=0) if serves_any else problem)
        if key in self.kept:
            ready = self.kept[key]
            ready.prepare_s, ready.again_s = 0.0, None
            return ready
        first, seconds = self.prepare(peer, problem)
        ready = Ready(first, [first.run], first.nbytes, seconds)
        if serves_any:
            self.kept[key] = ready
        return ready

    def checked(self, ready: Ready) -> None:
        """Let go what is needed for a check alone, unless it may come up again."""
        if not any(ready is kept for kept in self.kept.values()):
            ready.first = None

    def copy(self, peer: Peer, problem: Problem, ready: Ready, copies: int) -> None:
        """Prepare until there are so many."""
        while len(ready.runs) < copies:
            another, ready.again_s = self.prepare(peer, problem)
            ready.runs.append(another.run)

    def prepare(self, peer: Peer, problem: Problem) -> tuple[Prepared, float]:
        """And the seconds that it took."""
        weight = self.weight(problem.n, problem.k)
        self.machine.synchronize()
        start = self.clock()
        prepared = peer.prepare(weight, problem)
        self.machine.synchronize()
        return prepared, self.clock() - start
