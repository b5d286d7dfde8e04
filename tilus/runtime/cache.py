"""The kernel cache: compiled kernels on disk, named by what they were compiled from.

    cache_dir/kernels/        mode 0700
        3f0c...e1.kernel      one entry: header and machine code, its name the key

    an entry: "TILUSKC1" | length of the header, 4 bytes | header, JSON | payload
              | SHA-256 of these and the key

The key hashes all that decides the code (text, options, NVRTC), so an entry cannot go stale; it can
only be damaged, which its checksum tells, and then it is removed and made anew. Files are written
under another name and renamed, so a reader sees a whole entry or none, whoever is killed when.

Machine code from this directory is run, so a directory that others may write to is not used. The
surprise: no trouble with the directory is an error. It is warned of once, and kernels are compiled
without the cache.

This is not `cuda.core.utils.FileStreamProgramCache` (1.2), which renames files as well, but has no
checksum, trusts any directory, raises where the directory is read-only or full, lists nothing, and
takes 0.15 s to import.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import struct
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tilus.config import settings

DEFAULT_LIMIT = 1 << 30  # bytes
SUFFIX = ".kernel"
_TEMPORARY = ".tmp"
_STALE_SECONDS = 3600  # a temporary file this old belongs to a process that was killed

_MAGIC = b"TILUSKC1"  # the last character is the version of the format
_LENGTH = struct.Struct("<I")
_DIGEST_SIZE = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Entry:
    """What is kept of one kernel: machine code, and facts about it that JSON can hold."""

    header: Mapping[str, Any]
    payload: bytes


@dataclass(frozen=True)
class Listed:
    """One entry as `tilus cache list` shows it; `used` is in seconds since 1970."""

    key: str
    header: Mapping[str, Any]
    nbytes: int
    used: float


def content_key(*parts: str) -> str:
    """The name of what these parts determine: 64 hexadecimal digits.

    >>> content_key("ab", "c") == content_key("a", "bc")
    False
    """
    digest = hashlib.sha256(_MAGIC)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def kernel_cache() -> KernelCache:
    """The cache below the setting `cache_dir`."""
    return _cache_in(settings().cache_dir / "kernels")


@cache
def _cache_in(directory: Path) -> KernelCache:
    return KernelCache(directory)


class KernelCache:
    """Entries in `directory`, at most about `limit` bytes: the least recently used ones go first.

    Processes and threads may share a directory.

    >>> with tempfile.TemporaryDirectory() as directory:
    ...     cache = KernelCache(Path(directory) / "kernels")
    ...     cache.put("ab12", Entry({"name": "add"}, b"code"))
    ...     cache.get("ab12"), cache.get("cd34")
    (Entry(header={'name': 'add'}, payload=b'code'), None)
    """

    def __init__(self, directory: Path, limit: int = DEFAULT_LIMIT):
        self.directory = directory
        self.limit = limit
        self._warned = False
        self._written: int | None = None  # bytes since the size was last checked; None: never

    def get(self, key: str) -> Entry | None:
        """The entry called `key`, or None where there is none that can be trusted."""
        path = self._path(key)
        try:
            if self._refusal() is not None:
                return None
            data = _read_own(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(str(error))
            return None
        entry = None if data is None else _decode(key, data)
        if entry is None:
            with contextlib.suppress(OSError):
                path.unlink()
        return entry

    def put(self, key: str, entry: Entry) -> None:
        """Keep `entry` as `key`; where that is impossible, say so once and go on."""
        data = _encode(key, entry)
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            refusal = self._refusal()
            if refusal is not None:
                self._warn(refusal)
                return
            _write(self._path(key), data)
            self._keep_within_limit(len(data))
        except OSError as error:
            self._warn(str(error))

    def entries(self) -> list[Listed]:
        """Every entry that can be read, the most recently used first. Raises: OSError."""
        found = [listed for path in self._files(SUFFIX) if (listed := _list(path)) is not None]
        return sorted(found, key=lambda listed: -listed.used)

    def clear(self) -> int:
        """Remove every entry; returns how many there were. Raises: OSError."""
        self._remove_stale_temporaries()
        return sum(_removed(path) for path in self._files(SUFFIX))

    def refusal(self) -> str | None:
        """Why this directory is not used, in words; None where it is, or does not exist yet."""
        try:
            return self._refusal()
        except FileNotFoundError:
            return None
        except OSError as error:
            return str(error)

    def _refusal(self) -> str | None:
        facts = self.directory.stat()
        if not stat.S_ISDIR(facts.st_mode):
            return f"{self.directory} is no directory"
        if facts.st_uid != os.geteuid():
            return f"{self.directory} belongs to another user (number {facts.st_uid})"
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            mode = stat.S_IMODE(facts.st_mode)
            return f"{self.directory} can be written to by others (mode {mode:04o})"
        return None

    def _warn(self, reason: str) -> None:
        if self._warned:
            return
        self._warned = True
        warnings.warn(
            f"kernels are compiled without the cache: {reason}; "
            "set TILUS_CACHE_DIR to a directory of your own",
            RuntimeWarning,
            stacklevel=3,
        )

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}{SUFFIX}"

    def _files(self, suffix: str) -> Iterator[Path]:
        try:
            with os.scandir(self.directory) as found:
                yield from (Path(file.path) for file in found if file.name.endswith(suffix))
        except FileNotFoundError:
            return

    # ---- the size

    def _keep_within_limit(self, added: int) -> None:
        """Check the size now and then: listing the directory costs more than writing to it."""
        self._written = None if self._written is None else self._written + added
        if self._written is None or self._written > self.limit // 16:
            self._remove_stale_temporaries()
            self._evict()
            self._written = 0

    def _evict(self) -> None:
        facts = [(path, facts) for path in self._files(SUFFIX) if (facts := _facts(path))]
        total = sum(one.st_size for _, one in facts)
        for path, one in sorted(facts, key=lambda pair: pair[1].st_mtime_ns):
            if total <= self.limit:
                return
            total -= one.st_size
            _removed(path)

    def _remove_stale_temporaries(self) -> None:
        horizon = time.time() - _STALE_SECONDS
        for path in self._files(_TEMPORARY):
            facts = _facts(path)
            if facts is not None and facts.st_mtime < horizon:
                _removed(path)


# ---- files ---------------------------------------------------------------------------------------


def _encode(key: str, entry: Entry) -> bytes:
    header = json.dumps(entry.header).encode()
    body = _MAGIC + _LENGTH.pack(len(header)) + header + entry.payload
    return body + _digest(key, body)


def _digest(key: str, body: bytes) -> bytes:
    return hashlib.sha256(body + key.encode()).digest()  # a renamed file is no other's entry


def _decode(key: str, data: bytes) -> Entry | None:
    """The entry of a file's bytes; None if they are not exactly what `_encode` made."""
    body, digest = data[:-_DIGEST_SIZE], data[-_DIGEST_SIZE:]
    start = len(_MAGIC) + _LENGTH.size
    if _digest(key, body) != digest or not body.startswith(_MAGIC) or len(body) < start:
        return None
    (length,) = _LENGTH.unpack_from(body, len(_MAGIC))
    return Entry(json.loads(body[start : start + length]), body[start + length :])


def _read_own(path: Path) -> bytes | None:
    """The file's bytes, None if it is not a plain file of this user; marks it as just used."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
            return None
        with contextlib.suppress(OSError):  # a read-only directory can still be read
            os.utime(file.fileno())
        return file.read()


def _write(path: Path, data: bytes) -> None:
    """Make `path` hold `data`, at once and whole."""
    descriptor, temporary = tempfile.mkstemp(_TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _list(path: Path) -> Listed | None:
    facts, key = _facts(path), path.name.removesuffix(SUFFIX)
    try:
        entry = _decode(key, path.read_bytes())
    except OSError:
        return None
    if facts is None or entry is None:
        return None
    return Listed(key, entry.header, facts.st_size, facts.st_mtime)


def _facts(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # another process removed it
        return None


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
