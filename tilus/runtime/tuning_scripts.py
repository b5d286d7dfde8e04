"""Autotuned kernels on a GPU: the first call of a kind tries the points, later ones take the best.

    kernel = SplitKMatmul()             # @tilus.autotune("split", [4, 2])
    kernel(m, n, k, a, b, c)            # compiles, checks and times 2 points on copies of a, b, c
    kernel(m, n, k, a, b, c)            # launches the faster one

Calls are of a kind where constants, dtypes, the buckets of integers and what is divisible by 16 are
the same. What was found is kept in the user's tuning log, so other processes measure nothing.

The surprises: while a CUDA graph is captured nothing is tuned. A stored result is used; without one
the call is an error. And on the CPU the first point always runs, as there is nothing to time.
"""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from tilus.config import get_option, settings
from tilus.errors import TilusError
from tilus.ir.printer import format_program
from tilus.lang.script import Script, Specialisation, TunedCall, set_chooser
from tilus.lang.signature import Argument
from tilus.runtime import launch
from tilus.runtime.devices import Device, device_of
from tilus.runtime.model import Demand
from tilus.runtime.timing import COLD, GraphTimer, Rotation, copies_for
from tilus.runtime.tune import Candidate, Tuner, built
from tilus.runtime.tuning_arguments import Copies, nbytes_of
from tilus.runtime.tuning_log import (
    Entry,
    Key,
    TuningLog,
    canonical,
    leading_bits,
    user_log,
    versions,
)
from tilus.target import Target
from tilus.tensor import Tensor, dtype_from_torch, storage_of

MOST_COPIES = 64  # of small arguments, which an emptied cache makes cold as well
UNKNOWN_L2 = 128 * 1024**2  # bytes, where torch does not tell
_tuning = threading.RLock()  # timings disturb one another


def choose_point(call: TunedCall) -> Script:
    """The kernel of the point that is best for a call: tuned now, stored, or else the first."""
    first = call.candidates[0][1]
    devices = {
        storage.device for a in call.arguments if (storage := storage_of(a.value)) is not None
    }
    if len(devices) != 1 or not launch.is_compiled_for(device := devices.pop()):
        return first
    kind = (get_option("tune"), device, *map(_kind, call.arguments))
    if kind not in call.chosen:
        with _tuning:
            if kind not in call.chosen:
                call.chosen[kind] = _chosen(call, device)
    return call.chosen[kind]


def _kind(argument: Argument) -> Any:
    """What of an argument tells calls apart."""
    if argument.is_constant:
        return argument.key
    dtype = _dtype_of(argument)
    if dtype is not None:
        return dtype, argument.divisible_by
    if isinstance(argument.value, int):
        return leading_bits(argument.value), argument.divisible_by
    return None


def _dtype_of(argument: Argument) -> str | None:
    value = argument.value
    if isinstance(value, Tensor):
        return value.dtype.name
    return dtype_from_torch(value.dtype).name if isinstance(value, torch.Tensor) else None


def _chosen(call: TunedCall, device: torch.device) -> Script:
    scripts = {canonical(point_of(point)): script for point, script in reversed(call.candidates)}
    first = call.specialise(call.candidates[0][1])
    name = torch.cuda.get_device_name(device)
    key, log = key_of(call, first, name), user_log(name)
    stored = log.find(key)
    if stored is not None and stored.complete and canonical(stored.best) in scripts:
        return scripts[canonical(stored.best)]
    if get_option("tune") == "off":
        return call.candidates[0][1]
    launch.refuse_in_capture(first.source.name, "tuned")
    try:
        entry = _Tuning(call, device, key, log).entry()
    except _CannotTune as error:
        warnings.warn(f"{first.source.name} is not tuned: {error}", RuntimeWarning, stacklevel=5)
        return call.candidates[0][1]
    return scripts[canonical(entry.best)]


def point_of(point: dict[str, Any]) -> dict[str, Any]:
    """A point as JSON: what JSON has not is spelled.

    >>> from tilus.dtypes import float16
    >>> point_of({"split": 2, "tile": (16, 64), "dtype": float16})
    {'split': 2, 'tile': [16, 64], 'dtype': 'float16'}
    """
    return {name: _plain(value) for name, value in point.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else str(value)


def key_of(call: TunedCall, first: Specialisation, device: str) -> Key:
    """The digest is of the first point's program and of all points; it holds the constants."""
    points = [point_of(point) for point, _ in call.candidates]
    text = format_program(first.source) + canonical(points)
    shape = {
        argument.name: argument.value if argument.is_constant else leading_bits(argument.value)
        for argument in call.arguments
        if type(argument.value) is int and not _is_address(argument)
    }
    dtypes = {a.name: dtype for a in call.arguments if (dtype := _dtype_of(a)) is not None}
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Key(first.source.name, digest, shape, dtypes, device, **versions())


def _is_address(argument: Argument) -> bool:
    """A number for a `void_p`."""
    constant, value = argument.is_constant, argument.value
    return not constant and isinstance(value, int) and argument.variable().dtype.is_pointer()


# ---- tuning --------------------------------------------------------------------------------------


class _CannotTune(Exception):
    """The first point is used instead, and a warning says why."""


@dataclass(frozen=True, eq=False)
class _Tuning:
    call: TunedCall
    device: torch.device
    key: Key
    log: TuningLog

    @property
    def values(self) -> list[Any]:
        return [a.value for a in self.call.arguments if not a.is_constant]

    def entry(self) -> Entry:
        """Raises: _CannotTune where arguments cannot be copied; TilusError where no point works."""
        addresses = [a.name for a in self.call.arguments if _is_address(a)]
        if addresses:
            raise _CannotTune(
                f"{', '.join(addresses)} is an address, so what is behind it cannot be copied; "
                "pass a tensor, or TILUS_TUNE=off"
            )
        try:
            with torch.cuda.device(self.device), torch.no_grad():
                return self._tuned()
        except torch.OutOfMemoryError:
            raise _CannotTune(
                f"there is no memory for copies of its {nbytes_of(self.values)} bytes; "
                "tune it by a call while there is, or set TILUS_TUNE=off"
            ) from None

    def _tuned(self) -> Entry:
        copies, before = self._cold_copies()
        timer = GraphTimer(before, settings().bench_warmup)
        tuner = Tuner(timer, self.log, progress=True)
        candidates = [
            self._candidate(point_of(point), script, copies)
            for point, script in self.call.candidates
        ]
        return tuner.tune(self.key, candidates, _figures_of(self.key.device))

    def _cold_copies(self) -> tuple[Copies, Callable[[], None]]:
        """As many as are cold and fit in half of the memory, and what restores them, and then
        drives them out of the cache.
        """
        properties: Any = torch.cuda.get_device_properties(self.device)
        l2_bytes = getattr(properties, "L2_cache_size", 0) or UNKNOWN_L2
        room = torch.cuda.mem_get_info(self.device)[0] // 2 - COLD * l2_bytes
        nbytes = max(1, nbytes_of(self.values))
        count = min(copies_for(nbytes, l2_bytes), MOST_COPIES, room // nbytes)
        if count < 1:
            raise torch.OutOfMemoryError
        copies = Copies(self.values, count)
        others = torch.empty(COLD * l2_bytes, dtype=torch.uint8, device=self.device)

        def before() -> None:
            copies.restore()
            others.zero_()

        return copies, before

    def _candidate(self, point: dict[str, Any], script: Script, copies: Copies) -> Candidate:
        kernel = partial(self.call.specialise, script)  # made in a thread, by the first to ask
        target = launch.target_of(self.device)
        calls = [partial(_launch, kernel, target, values) for values in copies.values]

        def result() -> list[torch.Tensor]:
            copies.restore()
            calls[0]()
            return copies.tensors(0)

        run = Rotation(tuple(calls))  # in one round: none runs on what another has written
        return Candidate(
            point, lambda: built(kernel(), target), run, result, self._demand(script), run.launches
        )

    def _demand(self, script: Script) -> Demand | None:
        """What the kernel itself says it takes, if it does."""
        told: Callable[..., Demand] | None = getattr(script, "tuning_demand", None)
        if told is None:
            return None
        demand = told(**{argument.name: argument.value for argument in self.call.arguments})
        if not isinstance(demand, Demand):
            raise TilusError(
                f"{type(script).__name__}.tuning_demand returns no demand",
                found=type(demand).__name__,
                expected="a tilus.runtime.model.Demand",
            )
        return demand


def _launch(kernel: Callable[[], Specialisation], target: Target, values: Sequence[Any]) -> None:
    launch.compile_kernel(kernel(), target).launch(values)


def _figures_of(name: str) -> Device | None:
    try:
        return device_of(name)
    except TilusError:
        return None


set_chooser(choose_point)
