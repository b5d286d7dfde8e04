"""What was tuned: a readable JSON file for each device, and the entries in it.

    log = user_log("NVIDIA H100 80GB HBM3")        # cache_dir/tuning/nvidia-h100-80gb-hbm3.json
    entry = log.find(key)                          # None where nothing was measured
    log.update(entry)                              # merged into what others wrote meanwhile

An entry belongs to a `Key`: the kernel's name and a digest of its text, integers bucketed to their
two leading bits, dtypes, the device, and the versions of driver and package. docs/tuning.md shows
a file. Entries grow while a kernel is tuned, so an interrupt loses little.

The surprise: a file that is damaged, or no such log, is an error for who tunes by hand, and only a
warning, once, where a kernel is launched.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tilus.config import settings
from tilus.errors import TilusError
from tilus.runtime.cuda import connect

SCHEMA = 1
Point = Mapping[str, Any]  # what is chosen: JSON


def leading_bits(number: int) -> int:
    """The bucket of an integer: its two leading bits, the others zero.

    >>> [leading_bits(n) for n in (0, 1, 3, 5, 7, 1000, -9)]
    [0, 1, 3, 4, 6, 768, -8]
    """
    drop = max(0, abs(number).bit_length() - 2)
    bucket = abs(number) >> drop << drop
    return -bucket if number < 0 else bucket


@dataclass(frozen=True)
class Key:
    """What was tuned, and where.

    Attributes:
        kernel: its name.
        digest: of its text.
        shape: integers by name, those known at run time as buckets.
        dtypes: names of dtypes, by what they are the dtype of.
        device: as torch calls it.
        driver, tilus: versions.
    """

    kernel: str
    digest: str
    shape: Mapping[str, int]
    dtypes: Mapping[str, str]
    device: str
    driver: str
    tilus: str

    @property
    def problem(self) -> str:
        """The kernel and what it is given, on whatever device, in whatever version."""
        return canonical([self.kernel, self.shape, self.dtypes])

    @property
    def text(self) -> str:
        """Equal for equal keys alone."""
        return canonical([self.problem, self.digest, self.device, self.driver, self.tilus])


@dataclass(frozen=True)
class Measured:
    """What became of a point.

    Attributes:
        state: "timed"; "slow", given up after a few repeats; "wrong"; or "failed".
        reason: in words, for the last two.
        median_us, q1_us, q3_us: microseconds of a launch, over `repeats`.
    """

    point: Point
    state: str
    reason: str | None = None
    median_us: float | None = None
    q1_us: float | None = None
    q3_us: float | None = None
    repeats: int = 0


def versions() -> dict[str, str]:
    """Of the driver of this machine (the CUDA it is for) and of this package, for a key.

    Source: CUDA Driver API, "Version Management".
    """
    number = connect().call("cuDriverGetVersion")
    return {"driver": f"{number // 1000}.{number % 1000 // 10}", "tilus": _package_version()}


@cache
def _package_version() -> str:
    try:
        return importlib.metadata.version("tilus-vm")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


STATES = ("timed", "slow", "wrong", "failed")


@dataclass(frozen=True)
class Entry:
    """The results for a key.

    Attributes:
        points: what became of those that were tried.
        best: the fastest of them; None while there is none.
        pruned: points that the cost model proved slow, or that do not fit.
        date: of the last change, UTC.
        complete: whether every point that was to be tried has been.
    """

    key: Key
    points: tuple[Measured, ...] = ()
    best: Point | None = None
    pruned: int = 0
    date: str = ""
    complete: bool = False

    @property
    def of_best(self) -> Measured | None:
        """The measurement of `best`."""
        return None if self.best is None else self.of(self.best)

    def of(self, point: Point) -> Measured | None:
        """What became of `point`."""
        wanted = canonical(point)
        return next((one for one in self.points if canonical(one.point) == wanted), None)


def canonical(value: Any) -> str:
    """JSON that is equal for equal values.

    >>> canonical({"b": 1, "a": (2, 3)})
    '{"a":[2,3],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


# ---- the file ------------------------------------------------------------------------------------


class _Index(NamedTuple):
    entries: dict[str, Entry]  # by `Key.text`
    problems: dict[str, Entry]  # complete ones, by `Key.problem`


@dataclass
class TuningLog:
    """The entries in a file, which processes and threads may share.

    Attributes:
        path: of the file, which need not exist.
        device: whose results it holds, as torch calls it.
    """

    path: Path
    device: str
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _read: tuple[object, _Index] | None = None
    _warned: bool = False

    def entries(self) -> dict[str, Entry]:
        """All entries, by `Key.text`; read again where the file has changed.

        Raises: TilusError for a file that is no log of this device.
        """
        return self._index().entries

    def _index(self) -> _Index:
        try:
            facts = self.path.stat()
            state = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            if self._read is None or self._read[0] != state:
                self._read = state, _parsed(self.path, self.path.read_bytes(), self.device)
        except FileNotFoundError:
            return _Index({}, {})
        except OSError as error:
            raise _damaged(self.path, str(error)) from None
        return self._read[1]

    def find(self, key: Key) -> Entry | None:
        """The entry of `key`. Where the file cannot be read it is ignored, with a warning."""
        try:
            return self.entries().get(key.text)
        except TilusError as error:
            self._warn(error)
            return None

    def for_problem(self, key: Key) -> Entry | None:
        """A complete entry for the same problem, of whatever version and digest; as `find`."""
        try:
            return self._index().problems.get(key.problem)
        except TilusError as error:
            self._warn(error)
            return None

    def update(self, entry: Entry) -> None:
        """Write `entry`, beside what others have written. Where that is impossible a warning says
        so, once; a file that is damaged stays as it is.
        """
        try:
            with self._exclusive():
                known = dict(self.entries())
                other = known.get(entry.key.text)
                if other is None or entry.complete or not other.complete:
                    known[entry.key.text] = entry
                    write_log(self.path, self.device, known.values())
        except (TilusError, OSError) as error:
            self._warn(error)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """No other thread or process reads, merges and writes meanwhile."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock, open(self.path.with_suffix(".lock"), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released as the file is closed
            yield

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"tuning results are not used: {error}", RuntimeWarning, stacklevel=4)


def user_log(device: str) -> TuningLog:
    """The user's results for a device, below the setting `cache_dir`."""
    return _log_at(settings().cache_dir / "tuning" / f"{slug(device)}.json", device)


@cache
def _log_at(path: Path, device: str) -> TuningLog:
    return TuningLog(path, device)


def slug(device: str) -> str:
    """The name of a file for a device.

    >>> slug("NVIDIA H100 80GB HBM3")
    'nvidia-h100-80gb-hbm3'
    """
    letters = (letter if letter.isalnum() else " " for letter in device.lower())
    return "-".join("".join(letters).split())


def write_log(path: Path, device: str, entries: Any, note: str | None = None) -> None:
    """Make `path` a log of `entries`, at once and whole. Raises: OSError."""
    facts: dict[str, Any] = {"schema": SCHEMA, "device": device}
    if note is not None:
        facts["note"] = note
    log = {**facts, "entries": [_as_json(entry) for entry in entries]}
    descriptor, temporary = tempfile.mkstemp(".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps(log, indent=1, allow_nan=False) + "\n")
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _as_json(entry: Entry) -> dict[str, Any]:
    best = entry.of_best
    return {
        "kernel": entry.key.kernel,
        "shape": dict(entry.key.shape),
        "dtypes": dict(entry.key.dtypes),
        "best": None if entry.best is None else dict(entry.best),
        "median_us": None if best is None else best.median_us,
        "q1_us": None if best is None else best.q1_us,
        "q3_us": None if best is None else best.q3_us,
        "tried": len(entry.points),
        "pruned": entry.pruned,
        "date": entry.date,
        "complete": entry.complete,
        "driver": entry.key.driver,
        "tilus": entry.key.tilus,
        "digest": entry.key.digest,
        "points": [_point_as_json(one) for one in entry.points],
    }


def _point_as_json(one: Measured) -> dict[str, Any]:
    facts = {"point": dict(one.point), "state": one.state}
    others = {name: getattr(one, name) for name in (*_OPTIONAL, "repeats")}
    return {**facts, **{name: value for name, value in others.items() if value}}


# ---- reading -------------------------------------------------------------------------------------

_OPTIONAL = {"reason": str, "median_us": float, "q1_us": float, "q3_us": float}
_NAMES = ("kernel", "digest", "driver", "tilus")
_Check = Callable[[Any], bool]


def _is_map(kind: type) -> _Check:
    return lambda value: isinstance(value, dict) and all(type(v) is kind for v in value.values())


def _is_time(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and value > 0)


# What an entry must have; times, dates and counts of points are repeated from `points` for readers.
_ENTRY: Mapping[str, _Check] = {
    **dict.fromkeys((*_NAMES, "date"), lambda value: isinstance(value, str)),
    "shape": _is_map(int),
    "dtypes": _is_map(str),
    "best": lambda value: value is None or isinstance(value, dict),
    "pruned": lambda value: type(value) is int and value >= 0,
    "complete": lambda value: isinstance(value, bool),
    "points": lambda value: isinstance(value, list),
}
_POINT: Mapping[str, _Check] = {
    "point": lambda value: isinstance(value, dict),
    "state": lambda value: value in STATES,
}


def _parsed(path: Path, data: bytes, device: str) -> _Index:
    try:
        log = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"no JSON: {error}") from None
    if not isinstance(log, dict) or log.get("schema") != SCHEMA:
        raise _damaged(path, f"no object of schema {SCHEMA}")
    if log.get("device") != device or not isinstance(log.get("entries"), list):
        raise _damaged(path, f"no `entries` of the device {device}")
    entries = [_entry(path, f"entries[{n}]", e, device) for n, e in enumerate(log["entries"])]
    problems = {entry.key.problem: entry for entry in entries if entry.complete}
    return _Index({entry.key.text: entry for entry in entries}, problems)


def _entry(path: Path, place: str, facts: Any, device: str) -> Entry:
    _check(path, place, facts, _ENTRY)
    names = {name: facts[name] for name in _NAMES}
    key = Key(**names, shape=facts["shape"], dtypes=facts["dtypes"], device=device)
    points = tuple(_point(path, f"{place}.points[{n}]", p) for n, p in enumerate(facts["points"]))
    others = {name: facts[name] for name in ("best", "pruned", "date", "complete")}
    entry = Entry(key, points, **others)
    best = entry.of_best
    if (entry.complete or entry.best is not None) and (best is None or best.state != "timed"):
        raise _damaged(path, f"`{place}.best` is no point that was timed")
    return entry


def _point(path: Path, place: str, facts: Any) -> Measured:
    _check(path, place, facts, _POINT)
    repeats, reason = facts.get("repeats", 0), facts.get("reason")
    times = [facts.get(name) for name in ("median_us", "q1_us", "q3_us")]
    timed = facts["state"] in ("timed", "slow")
    fits = all(map(_is_time, times)) and (None not in times) == timed
    if not fits or type(repeats) is not int or not isinstance(reason, str | None):
        raise _damaged(path, f"`{place}` has no such times")
    median, q1, q3 = times
    return Measured(facts["point"], facts["state"], reason, median, q1, q3, repeats)


def _check(path: Path, place: str, facts: Any, checks: Mapping[str, _Check]) -> None:
    for name, check in checks.items():
        if not isinstance(facts, dict) or name not in facts or not check(facts[name]):
            raise _damaged(path, f"`{place}.{name}` is missing, or of another type")


def _damaged(path: Path, found: str) -> TilusError:
    return TilusError(
        f"{path} is no tuning log that can be read",
        found=found,
        expected=f"JSON of schema {SCHEMA}, as docs/tuning.md describes",
        hint="delete it: what it held is measured again",
    )
