"""Measured schedules that are shipped: a table for each device, in the form of a tuning log.

    table = table_of("NVIDIA H100 80GB HBM3")      # None for a device without a table
    table.for_problem(key)                         # whatever driver and version measured it

`<device>.json` holds what `tilus tune --table FILE` writes on that device: `schema`, `device` as
torch calls it, `entries`, and a `note` on where they are from. An entry says `kernel`
("small_matmul" or "large_matmul"), `shape` (m as a bucket, n, k, group, and zeros: 1 for a zero
point in every group), `dtypes`, the `best` point and its times, with what measured them;
docs/tuning.md has all of it. The surprise: `digest`, `driver` and `tilus` of an entry are not asked
for. A table is right for the package that it is in.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tilus.errors import TilusError
from tilus.runtime.devices import device_of
from tilus.runtime.tuning_log import TuningLog, slug

TABLES = Path(__file__).parent


@cache
def table_of(name: str) -> TuningLog | None:
    """The table of the device that torch calls `name`; read when first asked, and then kept."""
    try:
        device = device_of(name)
    except TilusError:
        return None
    path = TABLES / f"{slug(device.name)}.json"
    return TuningLog(path, name) if path.exists() else None
