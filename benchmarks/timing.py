"""How long launches take: CUDA graphs over cold weights, several kernels in turn.

    first, second = GraphTimer().time([one, other], repeats=REPEATS)   # tilus.runtime.timing

A `Rotation` is what is timed: calls over copies of the weights that together do not fit in the L2
cache, so that each launch finds its weights in DRAM, as in a model of many layers. Activations stay
in the cache, as they do there.

The surprise: what is timed is a graph's replay, so that a launch costs what it costs in a graph,
well below a microsecond, and nothing of Python.
"""

from __future__ import annotations

import csv
import math
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from tilus.runtime.timing import LEAST_LAUNCHES

REPEATS = 21


@dataclass(frozen=True)
class Rotation:
    """Calls over all copies, in rounds; `steps` has for each copy what is called of it."""

    steps: tuple[tuple[Callable[[], object], ...], ...]

    @property
    def rounds(self) -> int:
        return math.ceil(LEAST_LAUNCHES / sum(map(len, self.steps)))

    @property
    def count(self) -> int:
        """How often a copy is run through in a call."""
        return self.rounds * len(self.steps)

    def __call__(self) -> None:
        for _ in range(self.rounds):
            for calls in self.steps:
                for call in calls:
                    call()


# ---- the state of the device ---------------------------------------------------------------------

QUERY = (
    "clocks.sm", "clocks.mem", "clocks.max.sm", "temperature.gpu", "power.draw",
    "clocks_throttle_reasons.active", "driver_version",
)  # fmt: skip
Runner = Callable[..., "subprocess.CompletedProcess[str]"]


def clocks(which: str, run: Runner = subprocess.run) -> dict[str, str]:
    """Clocks in MHz, temperature and power of a GPU now, read by nvidia-smi; or why there are none.

    Args:
        which: its UUID or number, as nvidia-smi takes it.
    """
    if run is subprocess.run and shutil.which("nvidia-smi") is None:
        return {"absent": "nvidia-smi is not installed"}
    fields = f"--query-gpu={','.join(QUERY)}"
    command = ["nvidia-smi", "-i", which, fields, "--format=csv,noheader,nounits"]
    try:
        told = run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return {"absent": f"nvidia-smi failed: {error}"}
    rows = list(csv.reader(told.stdout.splitlines(), skipinitialspace=True))
    if told.returncode or len(rows) != 1 or len(rows[0]) != len(QUERY):
        return {"absent": f"nvidia-smi failed: {(told.stderr or told.stdout).strip()}"}
    return dict(zip(QUERY, rows[0], strict=True))
