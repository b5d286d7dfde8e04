"""The JSON of a run on a GPU: complete on disk after every item, and honest about what it is.

    log = new_log(machine, peers, command)
    write(path, log)                       # to a temporary name, then renamed
    read(path)                             # refuses a fixture

The surprise: a log with `"fixture": true` is made up, for tests. Nothing reads, shows or compares
it unless it is asked for by `allow_fixture`, and nothing writes one among the results.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare import damaged, fixture_refused
from benchmarks.peers.installed import version_of
from tilus import __version__
from tilus.errors import TilusError
from tilus.runtime.nvrtc import nvrtc_version

SCHEMA = 1
HERE = Path(__file__).parent
RESULTS = HERE / "results"
NAME = "gpu.json"
Log = dict[str, Any]
Row = Mapping[str, Any]
LISTS = ("rows", "errors", "not_reached")
# What every row has, as the table and the plots read it; README.md beside this says what they mean.
KEYS = frozenset(
    {
        "kernel", "dtype", "m", "n", "k", "group_size", "activation", "device", "model", "layer",
        "median_us", "q1_us", "q3_us", "repeats", "bytes", "flops", "floor_us", "floor_binds",
        "predicted_us", "binds", "compile_s", "prepare_s", "error", "baseline_us", "copies",
    }
)  # fmt: skip


def folder_of(device: str) -> str:
    """Of the results on a device.

    >>> folder_of("NVIDIA H100 80GB HBM3")
    'nvidia-h100-80gb-hbm3'
    """
    return "-".join(device.lower().replace("/", " ").split())


# ---- writing -------------------------------------------------------------------------------------


def write(path: Path, log: Log) -> None:
    """All or nothing: whoever reads finds the old content or the new one.

    Raises: TilusError for a fixture that would lie among the results.
    """
    if log.get("fixture") and RESULTS.resolve() in path.resolve().parents:
        raise fixture_refused(path, "kept among the results")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(log, indent=1, allow_nan=False) + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# ---- reading -------------------------------------------------------------------------------------


def read(path: Path, *, allow_fixture: bool = False) -> Log:
    """Raises: TilusError for a file that is not there, damaged, or a fixture."""
    try:
        log = json.loads(path.read_text())
    except OSError as error:
        raise TilusError(
            "there are no results of a GPU",
            found=f"{path}: {error.strerror or error}",
            hint="`python -m benchmarks.gpu` writes them, on a machine with a GPU",
        ) from None
    except ValueError as error:
        raise damaged(path, f"no JSON: {error}") from None
    if not isinstance(log, dict) or log.get("schema") != SCHEMA:
        raise damaged(path, f"no object of schema {SCHEMA}")
    for name in LISTS:
        if not isinstance(log.get(name), list):
            raise damaged(path, f"`{name}` is no list")
    for number, row in enumerate(log["rows"]):
        lacking = KEYS - set(row) if isinstance(row, dict) else KEYS
        if lacking:
            raise damaged(path, f"rows[{number}] does not say {', '.join(sorted(lacking))}")
    refuse_fixture(log, path, allow_fixture=allow_fixture)
    return log


def refuse_fixture(log: Log, found: object, *, allow_fixture: bool) -> None:
    """Raises: TilusError for a log that is a fixture, unless it is allowed."""
    if log.get("fixture") and not allow_fixture:
        raise fixture_refused(found, "shown as one")


# ---- where it was made ---------------------------------------------------------------------------


def versions() -> dict[str, str]:
    return {
        "tilus": __version__,
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "nvrtc": _nvrtc(),
        "cuda-bindings": version_of("cuda-bindings") or "absent",
        "python": platform.python_version(),
    }


def _nvrtc() -> str:
    try:
        return ".".join(map(str, nvrtc_version()))
    except TilusError as error:
        return f"absent: {error.message}"
