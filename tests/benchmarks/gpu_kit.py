"""A machine without a GPU for the tests of benchmarks/gpu.py: made-up times, real products."""

from __future__ import annotations

import itertools
from functools import partial

import torch

import tilus
from benchmarks.expect import code_type
from benchmarks.machine import Machine
from benchmarks.peers import Prepared
from benchmarks.shapes import Item, Layer
from tilus.runtime.devices import H200

L2_BYTES = 4000
SQUARE, WIDE = Layer("o", 64, 128), Layer("gate_up", 128, 128)


def item(dtype="u4", m=1, layers=(SQUARE,), model="Tiny"):
    return Item(model, layers, dtype, m)


class RecordedTimer:
    """A call takes as many microseconds as `times` says of its place in turn, give or take; real
    calls are made if it `calls`.
    """

    def __init__(self, times=(160.0,), calls=False):
        self.times, self.calls, self.timed = times, calls, []

    def time(self, runs, repeats):
        self.timed.append((list(runs), repeats))
        for run in runs if self.calls else ():
            run()
        spread = itertools.cycle((0.9, 1.0, 1.1))
        return [
            [micros * next(spread) * 1e-6 for _ in range(repeats)]
            for micros, _ in zip(itertools.cycle(self.times), runs, strict=False)
        ]


class TickingClock:
    """A second later at each look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def machine(timer=None, figures=H200):
    """The CPU."""
    states = ({"clocks.sm": str(1000 + n), "driver_version": "0.0"} for n in itertools.count())
    return Machine(
        torch.device("cpu"),
        "Tiny GPU",
        L2_BYTES,
        timer or RecordedTimer(),
        figures,
        partial(next, states),
        fixture=True,
    )


class LibraryPeer:
    """Ours, through the library: on the CPU, by torch or an engine."""

    def __init__(self, engine="auto"):
        self.name, self.engine, self.prepared = "tilus", engine, []

    def missing(self):
        return None

    def version(self):
        return tilus.__version__

    def refuses(self, problem):
        return "weights are quantised" if problem.dtype == "f16" else None

    def prepare(self, weight, problem):
        self.prepared.append((weight, problem))
        q = tilus.ops.quantize(weight, code_type(problem.dtype), problem.group_size)
        nbytes = sum(part.nbytes for part in q.tensors().values())
        return Prepared(partial(self.run, q), q.dequantize(torch.float32), nbytes)

    def run(self, q, x):
        with tilus.option.context(engine=self.engine):
            return tilus.ops.matmul(x, q)


class HalfPeer:
    """float16 weights, multiplied by torch."""

    def __init__(self, name="cublas", any_tokens=True):
        self.name, self.any_tokens, self.prepared = name, any_tokens, []

    def missing(self):
        return None

    def version(self):
        return torch.__version__

    def refuses(self, problem):
        return None

    def prepare(self, weight, problem):
        self.prepared.append((weight, problem))
        half = weight.half()
        return Prepared(partial(self.run, half), half.float(), half.nbytes)

    def run(self, half, x):
        return (x.float() @ half.float().T).to(x.dtype)


class WrongPeer(HalfPeer):
    """A column is not written."""

    def run(self, half, x):
        y = super().run(half, x)
        y[:, -1] = 0
        return y


class RaisingPeer(HalfPeer):
    def __init__(self, name, at, **options):
        super().__init__(name, **options)
        self.at, self.calls = at, 0

    def prepare(self, weight, problem):
        if self.at == "prepare":
            raise RuntimeError("out of paper")
        return super().prepare(weight, problem)

    def run(self, half, x):
        self.calls += 1
        if self.at == "run":
            raise ImportError("libpaper.so")
        if self.at == "time" and self.calls > 2:  # the first result, and the check
            raise RuntimeError("capture refused")
        return super().run(half, x)


class RefusingPeer(HalfPeer):
    """bfloat16 and 4 bits alone."""

    def refuses(self, problem):
        if problem.dtype != "u4":
            return f"no weights of {problem.dtype}"
        return None if problem.activation == "bfloat16" else f"no {problem.activation}"


class MissingPeer(HalfPeer):
    def missing(self):
        return "No module named 'paper'"

    def version(self):
        raise AssertionError("what is missing has no version")
