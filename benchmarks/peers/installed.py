"""What adapters of packages have in common: whether the package and a GPU for it are here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

import torch

Capability = tuple[int, int]
AMPERE, HOPPER = (8, 0), (9, 0)


def why_missing(
    packages: tuple[str, ...],
    load: Callable[[], object],
    least: Capability = AMPERE,
    only: Capability | None = None,
) -> str | None:
    """Why a peer cannot run here: a package is not installed, there is no GPU of its kind, or
    `load` fails in whatever way; None if it can.
    """
    for package in packages:
        if version_of(package) is None:
            return f"the package {package} is not installed"
    return _unfit_gpu(least, only) or _failure(load)


def version_of(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _unfit_gpu(least: Capability, only: Capability | None) -> str | None:
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    found = torch.cuda.get_device_capability()
    if only is not None and found != only:
        return f"it runs on GPUs of capability {only[0]}.{only[1]}, this is {found[0]}.{found[1]}"
    if found < least:
        return f"it needs capability {least[0]}.{least[1]}, this is {found[0]}.{found[1]}"
    return None


def _failure(load: Callable[[], object]) -> str | None:
    """An ImportError may come from deep inside, an OSError of a library that is not found; nor is
    there a list of what else packages raise while they look at the device.
    """
    try:
        load()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def refuses_grouping(
    n: int, k: int, group_size: int, *, multiple_n: int, multiple_k: int
) -> str | None:
    """Why a peer whose tiles are `multiple_n` by `multiple_k` does not take these extents."""
    if k % group_size:
        return f"k = {k} is no multiple of the group size {group_size}"
    if n % multiple_n:
        return f"n = {n} is no multiple of {multiple_n}"
    return f"k = {k} is no multiple of {multiple_k}" if k % multiple_k else None
