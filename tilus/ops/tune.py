"""Tuning the matmul: the candidates of a problem, on the GPU at hand or by the model alone.

    problem = problem_of(Layer("o", 8192, 8192), uint4b, tokens=16)
    rank(problem, H100)[0].point            # what the model finds fastest; nothing is compiled
    tune(problem, torch.device("cuda"), Tuner(GraphTimer(), user_log(name)))

A problem is tuned with random codes and scales, over as many copies of the weight as do not fit in
the cache, and held against torch's product of the same weight in float32.

The surprise: it is tuned with as many tokens as its bucket has at most. All numbers of tokens in a
bucket share one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from tilus.dtypes import DataType, float16
from tilus.errors import TilusError
from tilus.lang.script import Specialisation
from tilus.ops.blobs import BlobFormat, pack_blobs
from tilus.ops.choose import (
    LARGE,
    SMALL,
    SMS,
    Small,
    choose_large,
    device_for,
    hardware,
    key_for,
    large_point,
    large_space,
    small_point,
    small_space,
)
from tilus.ops.demand import demand
from tilus.ops.large_m import LargeMatmul
from tilus.ops.large_schedule import Schedule
from tilus.ops.lean import FEW, LeanForm, bucket, lean_form
from tilus.ops.quantize import quantize
from tilus.ops.quantized_tensor import QuantizedTensor
from tilus.ops.shapes import Layer
from tilus.ops.small_m import Epilogue, SmallMatmul
from tilus.runtime import launch
from tilus.runtime.devices import Device
from tilus.runtime.model import Prediction, predict
from tilus.runtime.timing import copies_for, rotation
from tilus.runtime.tune import Candidate, Tuner, built
from tilus.runtime.tuning_log import Entry, Key, Point, versions
from tilus.target import Target
from tilus.tensor import dtype_to_torch

GROUP_SIZE = 128
SEED = 0
_NO_BYTES = torch.empty(0, dtype=torch.uint8)
ROWS_AT_ONCE = 4096  # of a weight that torch multiplies


@dataclass(frozen=True)
class Problem:
    """A weight [n, k] times at most `tokens` tokens.

    Attributes:
        label: what people call it.
        tokens: the most of a bucket.
    """

    label: str
    form: LeanForm
    tokens: int

    @property
    def blobs(self) -> BlobFormat:
        return self.form.blobs

    @property
    def kernel(self) -> str:
        """Which kernel takes it, with scales as weights have them."""
        return SMALL if self.tokens <= FEW else LARGE


def problem_of(
    layer: Layer,
    dtype: DataType,
    tokens: int,
    *,
    group: int = GROUP_SIZE,
    activation: DataType = float16,
    symmetric: bool = True,
) -> Problem:
    """A layer of a model, in `dtype`; `group` and `symmetric` as of `quantize`.

    Raises: TilusError where the lean kernels do not take it.
    """
    k = layer.k
    size = k if group == -1 else group
    if size < 1 or k % size:
        raise TilusError("the group size does not divide K", found=f"group size {group}, K = {k}")
    sample = quantize(torch.ones(1, size), dtype, size, symmetric)
    scales = torch.empty(k // size, layer.n, dtype=sample.scales.dtype, device="meta")
    zeros = None if sample.zeros is None else torch.empty_like(scales)
    parts = (dtype, (layer.n, k), size, sample.data, scales, zeros, sample.zero)
    form = lean_form(QuantizedTensor.unchecked(*parts), activation)
    if form is None:
        raise TilusError(
            f"there is nothing to tune for {dtype}",
            found=f"weights that {activation} does not hold exactly; they are cast one by one",
        )
    label = f"{layer.name} {layer.n} x {k}, {dtype.short_name}, m <= {bucket(tokens)}"
    return Problem(label, form, bucket(tokens))


# ---- the space -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A point of a problem's space."""

    problem: Problem
    cut: Small | Schedule

    @property
    def point(self) -> dict[str, int]:
        return small_point(self.cut) if isinstance(self.cut, Small) else large_point(self.cut)

    @cached_property
    def demand(self) -> Any:
        problem, columns, schedule = self.problem, None, self.cut
        if isinstance(schedule, Small):
            columns, schedule = schedule
        form = problem.form
        return demand(form.blobs, problem.tokens, schedule, zero=form.zero, columns=columns)

    def prediction(self, device: Device) -> Prediction:
        """Raises: TilusError where no block of it fits on `device`."""
        return predict(self.demand, device)

    def kernel(self) -> Specialisation:
        """As the library runs it: for any number of tokens, and aligned tensors."""
        form, epilogue = self.problem.form, Epilogue(self.problem.blobs.activation)
        if isinstance(self.cut, Small):
            columns, schedule = self.cut
            script: Any = SmallMatmul(form.blobs, schedule, epilogue, columns, form.zero)
        else:
            script = LargeMatmul(form.blobs, self.cut, epilogue, form.zero)
        return script.specialise(1, 0, _NO_BYTES, 0, 0)


def space(
    problem: Problem, device: Device, multiprocessors: int = SMS, shared_bytes: int | None = None
) -> list[Choice]:
    """All points of a problem; the first is what runs untuned."""
    blobs, tokens = problem.blobs, problem.tokens
    room = device.target.properties.shared_memory_per_block
    room = room if shared_bytes is None else min(room, shared_bytes)
    if problem.kernel == SMALL:
        return [Choice(problem, cut) for cut in small_space(blobs, tokens, multiprocessors, room)]
    usual = choose_large(blobs, tokens, device, shared_bytes=room)
    others = (cut for cut in large_space(blobs, tokens, device, room) if cut != usual)
    return [Choice(problem, usual), *(Choice(problem, cut) for cut in others)]


def rank(problem: Problem, device: Device) -> list[Choice]:
    """All points that fit on `device`, those first that the model finds fastest."""
    seconds: dict[Choice, float] = {}
    for choice in space(problem, device, device.multiprocessors):
        try:
            seconds[choice] = choice.prediction(device).seconds
        except TilusError:  # no block of it fits
            continue
    return sorted(seconds, key=seconds.__getitem__)


# ---- on a device ---------------------------------------------------------------------------------


def tune(problem: Problem, device: torch.device, tuner: Tuner, l2_bytes: int) -> Entry:
    """Find the fastest point on a torch device; `l2_bytes` is what its cache holds.

    Raises: TilusError where no point works.
    """
    operands = Operands.random(problem, device, l2_bytes)
    figures, (multiprocessors, shared_bytes) = device_for(device), hardware(device)
    target = launch.target_of(device)
    candidates = [
        operands.candidate(choice, target)
        for choice in space(problem, figures, multiprocessors, shared_bytes)
    ]
    return tuner.tune(key_of(problem, device), candidates, figures, operands.reference)


def key_of(problem: Problem, device: torch.device) -> Key:
    """Under which the results for a problem are kept."""
    name = torch.cuda.get_device_name(device)
    return key_for(problem.kernel, problem.blobs, problem.tokens, name, versions())


@dataclass(frozen=True)
class Operands:
    """Random operands of a problem.

    Attributes:
        codes: [n, k] bit patterns; scales and zeros as `pack_blobs` takes them.
        packed: copies of the weight.
        x: [m, padded k].
        out: [m, n].
    """

    problem: Problem
    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    packed: Sequence[torch.Tensor]
    x: torch.Tensor
    out: torch.Tensor

    @staticmethod
    def random(problem: Problem, device: torch.device, l2_bytes: int) -> Operands:
        """Never zeros: what multiplies them takes less power, and hides mistakes."""
        blobs, m = problem.blobs, problem.tokens
        generator = torch.Generator(device).manual_seed(SEED)
        make: dict[str, Any] = {"generator": generator, "device": device}
        finite = _finite(blobs.dtype)
        size = (blobs.n, blobs.k)
        codes = torch.randint(0, len(finite), size, dtype=torch.uint8, **make)
        if len(finite) < 1 << blobs.dtype.nbits:
            codes = torch.from_numpy(finite).to(device)[codes.int()]
        groups = max(1, blobs.k // blobs.group)
        scale_dtype = dtype_to_torch(blobs.scale_dtype)
        scales = (torch.rand(groups, blobs.n, **make) * 0.01 + 0.005).to(scale_dtype)
        middle = 1 << (blobs.dtype.nbits - 1)
        zeros = torch.full_like(scales, middle) if blobs.has_zeros else None
        packed = pack_blobs(codes, scales, zeros, blobs)
        copies = [packed.clone() for _ in range(copies_for(packed.nbytes, l2_bytes) - 1)]
        dtype = dtype_to_torch(blobs.activation)
        x = torch.zeros(m, blobs.padded_k, dtype=dtype, device=device)
        x[:, : blobs.k] = torch.randn(m, blobs.k, **make)
        out = torch.empty(m, blobs.n, dtype=dtype, device=device)
        return Operands(problem, codes, scales, zeros, [packed, *copies], x, out)

    def candidate(self, choice: Choice, target: Target) -> Candidate:
        kernel = partial(_once, choice, {})
        calls = [partial(self._launch, kernel, target, packed) for packed in self.packed]

        def result() -> list[torch.Tensor]:
            self.out.fill_(float("nan"))  # what is not written is seen
            calls[0]()
            return [self.out]

        run = rotation(calls)
        return Candidate(
            choice.point,
            lambda: built(kernel(), target),
            run,
            result,
            choice.demand,
            run.launches,
        )

    def _launch(self, kernel: Any, target: Target, packed: torch.Tensor) -> None:
        values = (self.problem.tokens, self.x, packed, self.x, self.out)
        if launch.is_compiled_for(self.x.device):
            launch.compile_kernel(kernel(), target).launch(values)
        else:
            launch.run_specialisation(kernel(), values)

    def reference(self) -> list[torch.Tensor]:
        """torch's product, in float32, rounded once."""
        blobs, zero = self.problem.blobs, self.problem.form.zero
        values = _values(blobs.dtype).to(self.codes.device)
        x = self.x[:, : blobs.k].float()
        out = torch.empty_like(self.out)
        for start in range(0, blobs.n, ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            numbers = values[self.codes[rows].long()]
            scales, zeros = (self._spread(each, rows) for each in (self.scales, self.zeros))
            numbers -= zero if zeros is None else zeros
            out[:, rows] = (x @ (numbers * scales).T).to(out.dtype)
        return [out]

    def _spread(self, numbers: torch.Tensor | None, rows: slice) -> Any:
        """[rows, k] of numbers for each group."""
        if numbers is None:
            return None
        size = self.problem.blobs.k // len(numbers)
        return numbers[:, rows].float().T.repeat_interleave(size, 1)


def _once(choice: Choice, made: dict[str, Specialisation]) -> Specialisation:
    """The kernel, made by the first thread that asks."""
    if "kernel" not in made:
        made["kernel"] = choice.kernel()
    return made["kernel"]


def _values(dtype: DataType) -> torch.Tensor:
    """What each code stands for."""
    codes = np.arange(1 << dtype.nbits, dtype=np.uint8)
    return torch.from_numpy(dtype.decode(dtype.from_bits(codes)).astype(np.float32))


def _finite(dtype: DataType) -> np.ndarray[Any, Any]:
    """The codes that stand for numbers."""
    return np.flatnonzero(np.isfinite(_values(dtype).numpy())).astype(np.uint8)


def without_points(entry: Entry) -> Entry:
    """As tables are shipped: of the points, the best alone."""
    return replace(entry, points=tuple(one for one in (entry.of_best,) if one is not None))


def usual_time(entry: Entry, usual: Point) -> float | None:
    """Microseconds of what runs untuned, where it was timed."""
    found = entry.of(usual)
    return None if found is None else found.median_us
