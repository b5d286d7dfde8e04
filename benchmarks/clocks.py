"""The state of a GPU while it is timed: its clocks, temperature and power, as nvidia-smi says."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Callable

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
