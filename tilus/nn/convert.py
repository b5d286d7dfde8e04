"""`quantize_model`: replace the Linear layers of a model by quantised ones, in place.

    report = quantize_model(model, tilus.uint4b, group_size=128)
    print(report)           # a row a layer, what was skipped and why, the bits per weight

Layers are replaced one by one, so that at no time two models are in memory. The surprise: a weight
that an embedding uses too stays as it is, since an embedding reads it row by row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from tabulate import tabulate

from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.nn.linear import QuantizedLinear
from tilus.ops.quantize import check_choices, check_weight, quantize
from tilus.ops.quantized_tensor import QuantizedTensor
from tilus.runtime.progress import progress_bar

Linear = torch.nn.Linear
GROUP_SIZES = (256, 128, 64, 32, 16)
FALLBACKS = GROUP_SIZES[1:]
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")  # torch has no public list


@dataclass(frozen=True)
class Layer:
    """A layer that was quantised; `note` says what is not as asked for."""

    name: str
    shape: tuple[int, int]  # (N, K)
    dtype: DataType
    group_size: int
    bits_per_weight: float  # scales and zero points included
    note: str = ""
    tied_to: str = ""  # the layer whose tensors it shares


@dataclass(frozen=True)
class Skipped:
    """A Linear layer that was left as it is."""

    name: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What `quantize_model` did; printed, a table."""

    layers: tuple[Layer, ...]
    skipped: tuple[Skipped, ...]

    @property
    def bits_per_weight(self) -> float:
        """The mean over the quantised weights, tied ones once; 0 where there are none."""
        stored = [(n * k, one) for one in self.layers if not one.tied_to for n, k in (one.shape,)]
        weights = sum(count for count, _ in stored)
        bits = sum(count * layer.bits_per_weight for count, layer in stored)
        return bits / weights if weights else 0.0

    def __str__(self) -> str:
        rows = [
            (one.name, f"{one.shape[0]} x {one.shape[1]}", one.dtype, one.group_size,
             one.bits_per_weight, one.note)
            for one in self.layers
        ]  # fmt: skip
        headers = ("layer", "N x K", "type", "group", "bits/weight", "note")
        lines = [tabulate(rows, headers, floatfmt=".3f"), ""]
        lines += [f"skipped {one.name}: {one.reason}" for one in self.skipped]
        lines.append(f"{len(self.layers)} layers, {self.bits_per_weight:.3f} bits per weight")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class _Shared:
    """The Linear layers of one weight: mostly one; several where weights are tied."""

    names: list[str]
    linears: list[Linear]


def quantize_model(
    model: torch.nn.Module,
    dtype: DataType,
    *,
    group_size: int = 128,
    symmetric: bool = True,
    method: str = "rtn",
    scale_dtype: torch.dtype = torch.float16,
    skip: Sequence[str] = ("lm_head",),
    progress: bool = True,
) -> Report:
    """Replace every `torch.nn.Linear` of `model` by a `QuantizedLinear`, in place.

    Args:
        dtype, symmetric, method, scale_dtype: as of `tilus.ops.quantize`.
        group_size: 16, 32, 64, 128, 256, or -1 for one group per row. A layer whose K is no
            multiple takes the largest of 128, 64, 32, 16 below it that divides K, or else one
            group per row; the report says so.
        skip: layers to leave, by their full name, the last part of it, or a pattern such as
            `model.layers.0.*`.
        progress: whether to show a progress bar, if standard error is a terminal.

    Returns:
        What became of each layer. Left are those to skip, those with hooks or of a subclass of
        Linear, whose code may read the weight, and those tied to anything that is left.

    Raises:
        TilusError: nothing to quantise, a bad argument, or weights that are not finite; the model
            is unchanged then.

    >>> import tilus
    >>> model = torch.nn.Sequential(torch.nn.Linear(96, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    >>> report = quantize_model(model, tilus.uint4b, group_size=64, progress=False)
    >>> [(layer.group_size, layer.note) for layer in report.layers]
    [(32, 'K = 96 is no multiple of 64'), (8, 'K = 8 is no multiple of 64')]
    """
    check_choices(dtype, method, scale_dtype)
    _check_group_size(group_size)
    shared, skipped = _plan(model, skip)
    _check_weights(shared)
    layers: list[Layer] = []
    with progress_bar(progress) as bar:
        task = bar.add_task("", total=len(shared))
        while shared:  # what is replaced is let go
            one = shared.pop(0)
            bar.update(task, description=f"{one.names[0]} as {dtype}")
            group, note = fit_group(one.linears[0].in_features, group_size)
            weight = quantize(
                one.linears[0].weight, dtype, group, symmetric, method, scale_dtype=scale_dtype
            )
            _replace(model, one, weight)
            layers += _reports(one, weight, note)
            bar.advance(task)
    return Report(tuple(layers), tuple(skipped))


def fit_group(k: int, group_size: int) -> tuple[int, str]:
    """The group size for a layer, and a note where it is not the one asked for.

    >>> fit_group(576, 128), fit_group(576, 64), fit_group(100, 64)
    ((64, 'K = 576 is no multiple of 128'), (64, ''), (-1, 'K = 100 is no multiple of 64'))
    """
    if group_size == -1 or k % group_size == 0:
        return group_size, ""
    smaller = (size for size in FALLBACKS if size < group_size and k % size == 0)
    return next(smaller, -1), f"K = {k} is no multiple of {group_size}"


def _replace(model: torch.nn.Module, shared: _Shared, weight: QuantizedTensor) -> None:
    """Tied layers get the same tensors, so they stay tied."""
    new = {
        id(linear): QuantizedLinear.from_quantized(weight, linear.bias).train(linear.training)
        for linear in shared.linears
    }
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in new:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new[id(module)])


def _reports(shared: _Shared, weight: QuantizedTensor, note: str) -> Iterator[Layer]:
    first = shared.names[0]
    for name in shared.names:
        tied_to = "" if name == first else first
        notes = [note, f"tied to {first}" if tied_to else ""]
        yield Layer(
            name,
            weight.shape,
            weight.dtype,
            weight.group_size,
            weight.bits_per_weight,
            "; ".join(filter(None, notes)),
            tied_to,
        )


# ---- which layers --------------------------------------------------------------------------------


def _plan(model: torch.nn.Module, skip: Sequence[str]) -> tuple[list[_Shared], list[Skipped]]:
    if isinstance(model, Linear):
        raise TilusError(
            "the model is a Linear layer itself, which cannot be replaced in place",
            hint="use tilus.nn.QuantizedLinear.from_linear(layer, dtype)",
        )
    users: dict[int, list[tuple[str, torch.nn.Module]]] = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            users[id(parameter)].append((name, module))
    linears = [(name, one) for name, one in model.named_modules() if isinstance(one, Linear)]
    if not linears:
        raise TilusError("the model has no torch.nn.Linear to quantise", found=type(model).__name__)
    shared: dict[int, _Shared] = {}
    skipped: list[Skipped] = []
    for name, linear in linears:
        reason = _reason(name, linear, users[id(linear.weight)], skip)
        if reason:
            skipped.append(Skipped(name, reason))
        else:
            one = shared.setdefault(id(linear.weight), _Shared([], []))
            one.names.append(name)
            one.linears.append(linear)
    return list(shared.values()), skipped


def _reason(
    name: str,
    linear: Linear,
    users: list[tuple[str, torch.nn.Module]],
    skip: Sequence[str],
) -> str:
    """Why a layer is left; empty if it is not."""
    reason = _own_reason(name, linear, skip)
    if reason:
        return reason
    for other, module in users:
        if not isinstance(module, Linear):
            return f"its weight is also that of {other}, a {type(module).__name__}"
        if other != name and (reason := _own_reason(other, module, skip)):
            return f"its weight is also that of {other}, which is left: {reason}"
    return ""


def _own_reason(name: str, linear: Linear, skip: Sequence[str]) -> str:
    if any(fnmatchcase(name, one) or name.rpartition(".")[2] == one for one in skip):
        return "named in skip"
    if type(linear) is not Linear:
        return f"a {type(linear).__name__}, whose code may read the weight"
    if any(getattr(linear, hooks) for hooks in HOOKS):
        return "it has hooks, which may read the weight"
    return ""


# ---- checks --------------------------------------------------------------------------------------


def _check_group_size(group_size: int) -> None:
    if group_size != -1 and group_size not in GROUP_SIZES:
        raise TilusError(
            "kernels do not take groups of this size",
            found=f"group_size = {group_size}",
            expected="16, 32, 64, 128, 256, or -1 for one group per row",
        )


def _check_weights(shared: list[_Shared]) -> None:
    for one in shared:
        try:
            check_weight(one.linears[0].weight)
        except TilusError as error:
            raise TilusError(
                f"{one.names[0]}: {error.message}",
                found=error.found,
                expected=error.expected,
                hint=error.hint or "leave the layer with skip=",
            ) from None
