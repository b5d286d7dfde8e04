"""Settings: a dataclass field each, from which its variable, its check and its docs follow.

    TILUS_ENGINE=interpreter TILUS_DEBUG=1 python kernel.py

    with context(engine="interpreter", debug=1):    # this thread (or task), until the block ends
        kernel(a, b, c)

A setting's value is the first there is of: the innermost `context` that names it, `set_option`
(process-wide), its environment variable, its default. The environment is read when a setting is,
never remembered. One surprise: a new thread starts outside every `context`, as `contextvars` has
it.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from tilus.errors import TilusError

TUNE = ("auto", "off")
ENGINES = ("auto", "interpreter", "emulator", "cuda")
MAX_DEBUG_LEVEL = 5


@dataclass(frozen=True)
class Kind:
    """The values a setting takes, in words and as a conversion (ValueError for any other value)."""

    expected: str
    convert: Callable[[object], object]


def _integer(low: int, high: int | None = None) -> Kind:
    def convert(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        number = int(value)
        if number < low or (high is not None and number > high):
            raise ValueError
        return number

    at_least = f"an integer of at least {low}"
    return Kind(at_least if high is None else f"an integer from {low} to {high}", convert)


def _choice(names: tuple[str, ...]) -> Kind:
    def convert(value: object) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError
        return value

    return Kind("one of " + ", ".join(names), convert)


def _directory() -> Kind:
    def convert(value: object) -> Path:
        if not isinstance(value, str | Path) or not str(value).strip():
            raise ValueError
        path = os.path.expanduser(value)
        if os.path.exists(path) and not os.path.isdir(path):
            raise ValueError
        return Path(path)

    return Kind("a directory, which need not exist yet", convert)


def _switch() -> Kind:
    words = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}

    def convert(value: object) -> bool:
        if isinstance(value, bool):
            return value
        if not isinstance(value, str) or value.lower() not in words:
            raise ValueError
        return words[value.lower()]

    return Kind("on or off (1, true, on; 0, false, off)", convert)


def _target_name() -> Kind:
    def convert(value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            raise ValueError
        return value.strip()

    return Kind("the name of a target, as in sm_90a", convert)


def _or_none(kind: Kind) -> Kind:
    def convert(value: object) -> object:
        return None if value is None else kind.convert(value)

    return Kind(kind.expected, convert)


def _workers() -> int:
    """As many as the process may use CPU cores, and one more: kernels are written under Python's
    lock, and meanwhile NVRTC keeps the cores busy with others.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) + 1
    return (os.cpu_count() or 1) + 1


def _setting(
    kind: Kind,
    help: str,
    default: object = None,
    *,
    factory: Callable[[], Any] | None = None,
    default_words: str | None = None,
    name: str | None = None,
) -> Any:
    """A field of `Settings`; `default_words` describes a default that depends on the machine."""
    metadata = {"kind": kind, "help": help, "default_words": default_words, "name": name}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """Every setting with its value; `settings()` gives those in force."""

    cache_dir: Path = _setting(
        _directory(),
        "where compiled kernels and tuning results are kept",
        factory=lambda: platformdirs.user_cache_path("tilus-vm", appauthor=False),
        default_words="the user's cache directory",
    )
    engine: str = _setting(
        _choice(ENGINES),
        "what runs a kernel; auto: cuda for CUDA tensors, the interpreter for CPU tensors",
        "auto",
    )
    parallel_workers: int = _setting(
        _integer(1),
        "threads that compile kernels at the same time",
        factory=_workers,
        default_words="one per CPU core, and one more",
    )
    bench_warmup: int = _setting(_integer(0), "untimed runs before a tuning candidate is timed", 1)
    bench_repeat: int = _setting(
        _integer(1), "timed runs of a tuning candidate; the median counts", 5
    )
    tune: str = _setting(
        _choice(TUNE),
        "whether the first call of an autotuned kernel on a GPU tries its tuning points; off: it "
        "takes the stored result, or else the first point",
        "auto",
    )
    debug: int = _setting(
        _integer(0, MAX_DEBUG_LEVEL), "how much the compiler reports; 0 is silent", 0
    )
    dump: Path | None = _setting(
        _or_none(_directory()), "directory for the text of every compilation stage"
    )
    target: str | None = _setting(
        _or_none(_target_name()),
        "what to compile for",
        default_words="the CUDA device, else sm_90a",
    )
    debug_dump_ir: bool = _setting(
        _switch(),
        "write the IR after every pass; without `dump`, below `cache_dir`",
        False,
        name="debug.dump_ir",
    )

    @property
    def dump_directory(self) -> Path | None:
        """Where stages go: `dump`, or below `cache_dir` if `debug.dump_ir` is on, or nowhere."""
        if self.dump is not None:
            return self.dump
        return self.cache_dir / "dump" if self.debug_dump_ir else None


@dataclass(frozen=True)
class Setting:
    """What there is to know of one setting: a row of the documentation."""

    name: str  # as `get_option` takes it: debug.dump_ir
    attribute: str  # as `Settings` and `context(...)` have it: debug_dump_ir
    variable: str  # TILUS_DEBUG_DUMP_IR
    kind: Kind
    default: Callable[[], object]
    default_words: str
    help: str


def _declared(spec: dataclasses.Field[Any]) -> Setting:
    return Setting(
        name=spec.metadata["name"] or spec.name,
        attribute=spec.name,
        variable=f"TILUS_{spec.name.upper()}",
        kind=spec.metadata["kind"],
        default=_default_factory(spec),
        default_words=spec.metadata["default_words"] or _words(spec.default),
        help=spec.metadata["help"],
    )


def _default_factory(spec: dataclasses.Field[Any]) -> Callable[[], object]:
    if spec.default_factory is dataclasses.MISSING:
        return lambda: spec.default
    return spec.default_factory


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


SETTINGS: tuple[Setting, ...] = tuple(_declared(spec) for spec in dataclasses.fields(Settings))
_BY_NAME = {name: setting for setting in SETTINGS for name in (setting.name, setting.attribute)}

_NOTHING: Mapping[str, object] = {}
_context_values: ContextVar[Mapping[str, object]] = ContextVar("tilus_settings", default=_NOTHING)
_process_values: dict[str, object] = {}
_process_lock = threading.Lock()


def settings() -> Settings:
    """The settings in force, read once: use it where several are needed together.

    Raises: TilusError if an environment variable holds a bad value.

    >>> with context(debug=2):
    ...     settings().debug
    2
    """
    return Settings(**{setting.attribute: _value(setting) for setting in SETTINGS})


def get_option(name: str) -> Any:
    """The value in force of the setting `name`, as in "engine" or "debug.dump_ir".

    Raises: TilusError for an unknown name, or if its environment variable holds a bad value.

    >>> with context(engine="interpreter"):
    ...     get_option("engine")
    'interpreter'
    """
    return _value(_find(name))


def set_option(name: str, value: object) -> None:
    """Set `name` for the process, or, inside a `context` that names it, until that context ends.

    Raises: TilusError for an unknown name or a bad value.
    """
    setting = _find(name)
    checked = _convert(setting, value, f"setting `{setting.name}`")
    scoped = _context_values.get()
    if setting.attribute in scoped:
        _context_values.set({**scoped, setting.attribute: checked})
        return
    with _process_lock:
        _process_values[setting.attribute] = checked


@contextmanager
def context(**values: object) -> Iterator[None]:
    """Settings for the `with` block, in this thread or task alone; a dot of a name is spelled `_`.

    Raises: TilusError for an unknown name or a bad value, before the block is entered.

    >>> with context(debug_dump_ir=True, dump="ir"):
    ...     str(settings().dump_directory)
    'ir'
    """
    checked: dict[str, object] = {}
    for name, value in values.items():
        setting = _find(name)
        checked[setting.attribute] = _convert(setting, value, f"setting `{setting.name}`")
    token = _context_values.set({**_context_values.get(), **checked})
    try:
        yield
    finally:
        _context_values.reset(token)


def settings_table() -> str:
    """All settings as a Markdown table: setting, environment variable, values, default, meaning."""
    rows: list[tuple[str, ...]] = [
        ("setting", "environment variable", "values", "default", "meaning")
    ]
    rows += [
        (f"`{s.name}`", f"`{s.variable}`", s.kind.expected, s.default_words, s.help)
        for s in SETTINGS
    ]
    rows.insert(1, ("---",) * len(rows[0]))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _value(setting: Setting) -> Any:
    for values in (_context_values.get(), _process_values):
        if setting.attribute in values:
            return values[setting.attribute]
    text = os.environ.get(setting.variable)
    if text:  # a variable set to nothing is how shells spell "unset"
        return _convert(setting, text, f"environment variable {setting.variable}")
    return setting.default()


def _find(name: str) -> Setting:
    if name in _BY_NAME:
        return _BY_NAME[name]
    names = [setting.name for setting in SETTINGS]
    close = difflib.get_close_matches(str(name), names, n=1)
    raise TilusError(
        "there is no such setting",
        found=repr(name),
        expected="one of " + ", ".join(names),
        hint=f"did you mean `{close[0]}`?" if close else None,
    )


def _convert(setting: Setting, value: object, holder: str) -> object:
    try:
        return setting.kind.convert(value)
    except ValueError:
        raise TilusError(
            f"{holder} has a bad value",
            found=repr(value),
            expected=setting.kind.expected,
            hint=f"{setting.help}; default: {setting.default_words}",
        ) from None
