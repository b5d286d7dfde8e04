"""What a kernel is compiled for: `nvgpu_sm90a` is compute capability 9.0 with all its own features.

A target plays two parts. As *current target* it says what the code may use; as *requirement* it
says what an instruction needs: `current.supports(required)`. `nvgpu_any` (any NVIDIA GPU) and
`gpgpu_any` (any GPU) are requirements only. One surprise: a suffix adds features and removes reach,
so `nvgpu_sm90a` has everything of `nvgpu_sm90`, yet what it compiles runs on capability 9.0 alone.

Sources: CUDA C++ Programming Guide, "Compute Capabilities" (feature sets and technical
specifications per capability); PTX ISA, ".target" directive.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from tilus.config import context, get_option, set_option
from tilus.errors import TilusError

Capability = tuple[int, int]

# Bytes of shared memory a block may have after opting in, by compute capability.
# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability",
# row "Maximum amount of shared memory per thread block".
SHARED_MEMORY_PER_BLOCK: dict[Capability, int] = {
    (8, 0): 163 * 1024,
    (8, 6): 99 * 1024,
    (8, 7): 163 * 1024,
    (8, 9): 99 * 1024,
    (9, 0): 227 * 1024,
    (10, 0): 227 * 1024,
    (10, 3): 227 * 1024,
    (11, 0): 227 * 1024,
    (12, 0): 99 * 1024,
    (12, 1): 99 * 1024,
}
# What every capability gives without opting in; all that an unknown GPU can be trusted with.
BASE_SHARED_MEMORY = 48 * 1024


@dataclass(frozen=True)
class TargetProperties:
    """What the compiler needs to know of a GPU.

    `compute_capability` is (major, minor); `feature_suffix` is "" for the features every later GPU
    keeps, "f" for those of the family (same major), "a" for those of exactly this capability;
    `shared_memory_per_block` is in bytes, the most a block may opt in to.

    Raises: TilusError for another suffix, a negative capability or no shared memory.
    """

    compute_capability: Capability
    feature_suffix: str = ""
    shared_memory_per_block: int = BASE_SHARED_MEMORY

    def __post_init__(self) -> None:
        if self.feature_suffix not in ("", "a", "f"):
            raise TilusError(
                "unknown feature suffix of a target",
                found=repr(self.feature_suffix),
                expected='"", "a" (exactly this capability) or "f" (this family)',
            )
        if len(self.compute_capability) != 2 or min(self.compute_capability) < 0:
            raise TilusError(
                "a compute capability is a pair (major, minor)", found=str(self.compute_capability)
            )
        if self.shared_memory_per_block <= 0:
            raise TilusError(
                "a target needs shared memory",
                found=f"{self.shared_memory_per_block} bytes a block",
            )


@dataclass(frozen=True)
class Target:
    """A GPU to compile for or to require: `kind` "nvgpu" or "gpgpu" (any vendor), `arch` "sm_90a".

    >>> nvgpu_sm90a.supports(nvgpu_sm80)
    True
    """

    kind: str
    arch: str
    properties: TargetProperties

    def __post_init__(self) -> None:
        if self.kind not in ("nvgpu", "gpgpu"):
            raise TilusError(
                "unknown kind of target", found=repr(self.kind), expected="nvgpu or gpgpu"
            )

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """The name of the constant: "nvgpu_sm90a"."""
        return f"{self.kind}_{self.arch.replace('_', '')}"

    def supports(self, other: Target) -> bool:
        """Whether code for this target may use what `other` names.

        No suffix: this capability is at least as high. "f": same major, at least as high, and this
        target has a suffix, as family features exist in suffixed targets only. "a": exactly that
        capability, with "a".

        Source: CUDA C++ Programming Guide, "Feature Set Compiler Targets".

        >>> nvgpu_sm103a.supports(nvgpu_sm100f), nvgpu_sm103a.supports(nvgpu_sm100a)
        (True, False)
        """
        if other.kind == "gpgpu":
            return True
        return self.kind == other.kind and self.properties_cover(other.properties)

    def properties_cover(self, other: TargetProperties) -> bool:
        """`supports` for two targets of the same kind."""
        mine = self.properties
        at_least = mine.compute_capability >= other.compute_capability
        if other.feature_suffix == "a":
            same = mine.compute_capability == other.compute_capability
            return same and mine.feature_suffix == "a"
        if other.feature_suffix == "f":
            family = mine.compute_capability[0] == other.compute_capability[0]
            return at_least and family and mine.feature_suffix != ""
        return at_least


_TARGETS: dict[str, Target] = {}


def _nvgpu(major: int, minor: int, suffix: str = "") -> Target:
    """Declare the NVIDIA target of a compute capability."""
    shared = SHARED_MEMORY_PER_BLOCK[major, minor]
    properties = TargetProperties((major, minor), suffix, shared)
    target = Target("nvgpu", f"sm_{major}{minor}{suffix}", properties)
    _TARGETS[target.name] = target
    return target


nvgpu_sm80 = _nvgpu(8, 0)
nvgpu_sm86 = _nvgpu(8, 6)
nvgpu_sm87 = _nvgpu(8, 7)
nvgpu_sm89 = _nvgpu(8, 9)
nvgpu_sm90 = _nvgpu(9, 0)
nvgpu_sm90a = _nvgpu(9, 0, "a")
nvgpu_sm100 = _nvgpu(10, 0)
nvgpu_sm100f = _nvgpu(10, 0, "f")
nvgpu_sm100a = _nvgpu(10, 0, "a")
nvgpu_sm103 = _nvgpu(10, 3)
nvgpu_sm103f = _nvgpu(10, 3, "f")
nvgpu_sm103a = _nvgpu(10, 3, "a")
nvgpu_sm110 = _nvgpu(11, 0)
nvgpu_sm110f = _nvgpu(11, 0, "f")
nvgpu_sm110a = _nvgpu(11, 0, "a")
nvgpu_sm120 = _nvgpu(12, 0)
nvgpu_sm120f = _nvgpu(12, 0, "f")
nvgpu_sm120a = _nvgpu(12, 0, "a")
nvgpu_sm121 = _nvgpu(12, 1)
nvgpu_sm121f = _nvgpu(12, 1, "f")
nvgpu_sm121a = _nvgpu(12, 1, "a")

nvgpu_any = Target("nvgpu", "any", TargetProperties((0, 0)))
gpgpu_any = Target("gpgpu", "any", TargetProperties((0, 0)))

DEFAULT_TARGET = nvgpu_sm90a


def known_targets() -> tuple[Target, ...]:
    """Every target one can compile for, by rising capability."""
    return tuple(_TARGETS.values())


def target_from_name(name: str) -> Target:
    """The target called `name`, in either spelling.

    Raises: TilusError for an unknown name.

    >>> target_from_name("sm_90a") is target_from_name("nvgpu_sm90a") is nvgpu_sm90a
    True
    """
    key = str(name).strip().lower().replace("_", "").removeprefix("nvgpu")
    target = _TARGETS.get(f"nvgpu_{key}")
    if target is not None:
        return target
    known = [t.arch for t in known_targets()]
    close = difflib.get_close_matches(str(name), known, n=1)
    raise TilusError(
        "there is no such target",
        found=repr(name),
        expected="one of " + ", ".join(known),
        hint=f"did you mean {close[0]}?" if close else None,
    )


def get_current_target() -> Target:
    """What kernels are compiled for now.

    The first there is of: the innermost `scope`, `set_current_target`, TILUS_TARGET, the current
    CUDA device, sm_90a.

    Raises: TilusError for an unknown name in TILUS_TARGET, or a CUDA device older than sm_80.

    >>> with scope(nvgpu_sm89):
    ...     get_current_target().arch
    'sm_89'
    """
    name = get_option("target")
    if name is not None:
        return target_from_name(name)
    if torch.cuda.is_available():
        return target_of_capability(torch.cuda.get_device_capability())
    return DEFAULT_TARGET


def set_current_target(target: Target) -> None:
    """Compile for `target` from now on; inside a `scope`, until the scope ends.

    Raises: TilusError if `target` is a requirement only (nvgpu_any).
    """
    set_option("target", _compilable_name(target))


@contextmanager
def scope(target: Target) -> Iterator[None]:
    """Compile for `target` in the `with` block, in this thread or task alone.

    Raises: TilusError if `target` is a requirement only (nvgpu_any).
    """
    with context(target=_compilable_name(target)):
        yield


def target_of_capability(capability: Capability) -> Target:
    """The target with the most features that a device of compute capability (major, minor) runs.

    Raises: TilusError for a device older than sm_80.

    >>> target_of_capability((9, 0)).arch, target_of_capability((8, 8)).arch
    ('sm_90a', 'sm_87')
    """
    runnable = [t for t in known_targets() if _runs_on(t.properties, capability)]
    if not runnable:
        raise TilusError(
            "the CUDA device is too old",
            found="sm_{}{}".format(*capability),
            expected="sm_80 or newer",
            hint="set TILUS_TARGET to compile for another device",
        )
    rank = {"": 0, "f": 1, "a": 2}
    return max(
        runnable,
        key=lambda t: (t.properties.compute_capability, rank[t.properties.feature_suffix]),
    )


def _runs_on(code: TargetProperties, device: Capability) -> bool:
    """Whether `device` runs machine code built for `code`: it reaches later minors, not majors."""
    if code.feature_suffix == "a":
        return code.compute_capability == device
    return code.compute_capability[0] == device[0] and code.compute_capability <= device


def _compilable_name(target: Target) -> str:
    if _TARGETS.get(target.name) != target:
        raise TilusError(
            "this target cannot be compiled for",
            found=target.name,
            expected="one of " + ", ".join(_TARGETS),
            hint="nvgpu_any and gpgpu_any are for requirements: target.supports(nvgpu_any)",
        )
    return target.name
