"""`warmup`: make ready before the first request, or a capture, what they would wait for.

    report = warmup(weight, tokens=(1, 16, 64), dtype=torch.float16)
    print(report)           # 3 kernels: 2 compiled, 1 found in the cache; 1.9 s

On a GPU weights are packed, and kernels compiled, loaded and run once on zeros, which allocates
their workspaces on the current stream. On the CPU kernels are compiled into the cache for the
current target, as in the building of a container. The surprise: kernels are the same for all
numbers of tokens up to the next power of two, so a few of them stand for all.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tilus.config import get_option, settings
from tilus.errors import TilusError
from tilus.lang.script import Specialisation
from tilus.ops.lean import MOST_TOKENS, bucket
from tilus.ops.matmul import call_for
from tilus.ops.operands import ACTIVATIONS
from tilus.ops.products import Call, Kind, Product, product_of
from tilus.ops.quantized_tensor import QuantizedTensor
from tilus.ops.weight_checks import FLOATS
from tilus.runtime import launch
from tilus.runtime.cache import SUFFIX, kernel_cache
from tilus.runtime.progress import progress_bar
from tilus.target import Target, get_current_target

if TYPE_CHECKING:
    from rich.progress import Progress

# One of each range that has kernels of its own: after these no number of tokens compiles.
ALL_TOKENS = tuple(1 << bit for bit in range(3, MOST_TOKENS.bit_length()))


@dataclass(frozen=True)
class WarmupReport:
    """What a warm-up did; printed, a line.

    Attributes:
        kernels: different ones, packing included.
        compiled: of them, by NVRTC, now.
        found: of them, in the cache on disk or compiled earlier in this process.
        seconds: all of it took.
    """

    kernels: int
    compiled: int
    found: int
    seconds: float

    def __str__(self) -> str:
        done = f"{self.compiled} compiled, {self.found} found in the cache"
        return f"{self.kernels} kernels: {done}; {self.seconds:.1f} s"


@dataclass(frozen=True, eq=False)
class Use:
    """A weight, and the dtypes of what it will be multiplied with."""

    weight: QuantizedTensor
    x: torch.dtype
    out: torch.dtype
    bias: torch.dtype | None


@dataclass(frozen=True, eq=False)
class _Job:
    """A weight and a kind of operands, of `tokens` tokens; `product` says by which kernels."""

    use: Use
    tokens: int
    kind: Kind
    product: Product


def warmup(
    weight: QuantizedTensor | torch.nn.Module,
    tokens: Sequence[int] = ALL_TOKENS,
    dtype: torch.dtype = torch.float16,
    *,
    bias: torch.dtype | None = None,
    out_dtype: torch.dtype | None = None,
    progress: bool = True,
) -> WarmupReport:
    """Make ready every kernel that `matmul` takes for these operands.

    Args:
        weight: from `quantize`, or a module with layers whose `weight` is such a one.
        tokens: numbers of rows of x; those up to the next power of two are ready then, too, and
            after 4096 those above. By default, all.
        dtype: of x.
        bias: its dtype; None for calls without. Layers of a module have their own.
        out_dtype: of the result, that of x if None.
        progress: whether to show a progress bar, if standard error is a terminal.

    Raises:
        TilusError: an argument is none of these, no kernel takes the weight, or a CUDA graph is
            being captured.

    >>> import tilus
    >>> weight = tilus.ops.quantize(torch.eye(64), tilus.uint4b, 64)
    >>> warmup(weight, tokens=(1, 5, 8), progress=False).kernels
    1
    """
    start = time.perf_counter()
    uses = _uses(weight, dtype, bias, dtype if out_dtype is None else out_dtype)
    _check(uses, tokens)
    with progress_bar(progress) as bar:
        jobs = [job for use in uses for job in _jobs(use, tokens)]
        kernels = {kernel: _target(job) for job in jobs for kernel in job.product.kernels}
        compiled = _compile(kernels, bar)
        _make_ready([job for job in jobs if launch.is_compiled_for(job.use.weight.device)], bar)
    seconds = time.perf_counter() - start
    return WarmupReport(len(kernels), compiled, len(kernels) - compiled, seconds)


def _uses(
    weight: QuantizedTensor | torch.nn.Module,
    dtype: torch.dtype,
    bias: torch.dtype | None,
    out_dtype: torch.dtype,
) -> list[Use]:
    if isinstance(weight, QuantizedTensor):
        return [Use(weight, dtype, out_dtype, bias)]
    if not isinstance(weight, torch.nn.Module):
        raise TilusError(
            "there is nothing to warm up",
            found=type(weight).__name__,
            expected="a QuantizedTensor, or a module with quantised layers",
        )
    uses = list(_uses_of(weight, dtype, out_dtype))
    if not uses:
        raise TilusError(
            "the module has no quantised layer to warm up",
            found=type(weight).__name__,
            hint="quantise it first: tilus.nn.quantize_model(model, tilus.uint4b)",
        )
    if bias is not None:
        raise TilusError(
            "the layers of a module have their own biases", found=f"bias = {bias}", expected="None"
        )
    return uses


def _uses_of(module: torch.nn.Module, dtype: torch.dtype, out_dtype: torch.dtype) -> Iterator[Use]:
    """Of the layers in `module` whose `weight` is a QuantizedTensor, once each."""
    for layer in module.modules():
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        if isinstance(weight, QuantizedTensor):
            bias_dtype = bias.dtype if isinstance(bias, torch.Tensor) else None
            yield Use(weight, dtype, out_dtype, bias_dtype)


def _jobs(use: Use, tokens: Iterable[int]) -> Iterator[_Job]:
    """One for each range of tokens, with the most that are asked for in it."""
    most = {bucket(m): m for m in sorted(tokens)}
    device = use.weight.scales.get_device()
    for top, m in most.items():
        kind = Kind(get_option("engine"), device, use.x, use.out, use.bias, top, True)
        yield _Job(use, m, kind, product_of(use.weight, kind))


def _target(job: _Job) -> Target:
    device = job.use.weight.device
    return launch.target_of(device) if launch.is_compiled_for(device) else get_current_target()


# ---- compiling -----------------------------------------------------------------------------------


def _compile(kernels: Mapping[Specialisation, Target], bar: Progress) -> int:
    """Compile all, several at a time; how many of them NVRTC had to make."""
    task = bar.add_task("compiling kernels", total=len(kernels))
    known = _cached_keys()
    new = [kernel for kernel, target in kernels.items() if not launch.is_compiled(kernel, target)]
    with ThreadPoolExecutor(settings().parallel_workers, "tilus-warmup") as pool:
        # Each in a copy of this context, so that settings made by `with` hold there as well.
        tasks = [
            pool.submit(
                contextvars.copy_context().run, launch.compile_kernel, kernel, kernels[kernel]
            )
            for kernel in new
        ]
        bar.advance(task, len(kernels) - len(new))
        for done in as_completed(tasks):
            bar.advance(task)
            done.result()
    keys = {launch.compile_kernel(kernel, kernels[kernel]).binary.code.key for kernel in new}
    return len(keys - known)


def _cached_keys() -> set[str]:
    """Of what is on disk; the names of the files are enough."""
    cache = kernel_cache()
    if cache.refusal() is not None:
        return set()
    return {path.name.removesuffix(SUFFIX) for path in cache.directory.glob(f"*{SUFFIX}")}


# ---- loading and running -------------------------------------------------------------------------


def _make_ready(jobs: Sequence[_Job], bar: Progress) -> None:
    """Pack and load for every weight, and run every kernel once with every number of tokens.

    Only a launch is sure to have allocated all: code may be loaded lazily. Source: CUDA C++
    Programming Guide, "Lazy Loading".
    """
    task = bar.add_task("loading kernels", total=len(jobs))
    run: set[tuple[Specialisation, int]] = set()
    for job in jobs:
        call, subject = call_for(job.use.weight, job.kind), (job.product.kernels[-1], job.tokens)
        if subject not in run:
            _run(call, job.use, job.tokens)
        run.add(subject)
        bar.advance(task)
    for device in {job.use.weight.device for job in jobs if job.use.weight.device.type == "cuda"}:
        torch.cuda.synchronize(device)  # what fails, fails here


def _run(call: Call, use: Use, m: int) -> None:
    """Multiply zeros."""
    (n, k), device = use.weight.shape, use.weight.device
    x = torch.zeros(m, k, dtype=use.x, device=device)
    out = torch.empty(m, n, dtype=use.out, device=device)
    bias = None if use.bias is None else torch.zeros(n, dtype=use.bias, device=device)
    call(m, x, use.weight.scales, use.weight.zeros, bias, out)


# ---- checks --------------------------------------------------------------------------------------


def _check(uses: Sequence[Use], tokens: Sequence[int]) -> None:
    launch.refuse_in_capture("the warm-up", "done")
    if not tokens or not all(type(m) is int and m > 0 for m in tokens):
        raise TilusError(
            "numbers of tokens are positive", found=str(tokens), expected="for example (1, 16, 64)"
        )
    for use in uses:
        _check_dtypes(use)
        if use.weight.device.type not in ("cpu", "cuda"):
            raise TilusError(
                "no kernels run where the weight is",
                found=f"a weight on {use.weight.device}",
                expected="a weight on the CPU or on a CUDA device",
                hint="load the weights, and move the model to the GPU, before it is warmed up",
            )


def _check_dtypes(use: Use) -> None:
    if use.x not in ACTIVATIONS:
        raise TilusError(
            "kernels do not take activations of this dtype",
            found=str(use.x),
            expected="torch.float16 or torch.bfloat16",
        )
    for name, dtype in (("result", use.out), ("bias", use.bias)):
        if dtype is not None and dtype not in FLOATS:
            raise TilusError(
                f"the {name} is of a dtype that kernels do not take",
                found=str(dtype),
                expected="torch.float16, torch.bfloat16 or torch.float32",
            )
