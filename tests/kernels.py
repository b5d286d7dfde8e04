"""The kernels that tests compile and launch: of every example, and of the quantised matmul."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import tilus.lang.script as script
from tilus import Tensor, option
from tilus.dtypes import DataType
from tilus.ir.program import Program
from tilus.ops import kernels, matmul, quantize
from tilus.ops.products import tile_format
from tilus.ops.shapes import Layer
from tilus.ops.tune import problem_of, space
from tilus.runtime.devices import H100
from tilus.target import scope, target_from_name
from tilus.tensor import dtype_from_torch

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120a")


@dataclass(frozen=True, eq=False)
class Launch:
    """One call of a kernel: its compiled program, and its arguments before and after."""

    program: Program
    before: list[Any]
    after: list[Any]


def load_example(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copied(value: Any, device: str = "cpu") -> Any:
    """A copy of a kernel argument, on `device`."""
    if isinstance(value, Tensor):
        return Tensor(value.dtype, value.shape, value.storage.clone().to(device))
    return value.clone().to(device) if isinstance(value, torch.Tensor) else value


def launches(action: Callable[[], Any]) -> list[Launch]:
    """The launches that `action()` makes, run as they would be."""
    found: list[Launch] = []
    original = script._launcher  # pyright: ignore[reportPrivateUsage]

    def record(kernel: script.Specialisation, values: Any) -> None:
        before = [copied(v) for v in values]
        original(kernel, values)
        found.append(Launch(kernel.program, before, [copied(v) for v in values]))

    script.set_launcher(record)
    try:
        action()
    finally:
        script.set_launcher(original)
    return found


@cache
def example_launches() -> dict[str, Launch]:
    """Launches of the examples by name, such as "04_naive_matmul/0"."""
    torch.manual_seed(0)
    return {
        f"{path.stem}/{number}": launch
        for path in EXAMPLES
        for number, launch in enumerate(launches(load_example(path).main))
    }


@cache
def matmul_launches(dtype: DataType, activations: torch.dtype = torch.float16) -> list[Launch]:
    """Multiplying with weights of `dtype` in groups of 64, by a kernel that fits every target."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(72, 128, generator=generator) * 0.05
    x = torch.randn(16, 128, generator=generator).to(activations)
    weight = quantize(w, dtype, 64, symmetric=dtype.kind != "uint")
    # With the engine "auto", torch multiplies on the CPU.
    with option.context(engine="interpreter"), scope(target_from_name("sm_86")):
        return launches(lambda: matmul(x, weight))


@cache
def matmul_program(dtype: DataType) -> Program:
    """The compiled matmul program for 4096 x 4096 weights of `dtype` in groups of 128."""
    n = k = 4096
    weight = quantize(torch.ones(1, 128), dtype, 128)
    tiles = tile_format(weight, dtype_from_torch(torch.float16))
    tiles = kernels.TileFormat(dtype, tiles.activation_dtype, n, k, tiles.block_k)
    kernel = kernels.QuantizedMatmul(tiles, 128, False, tiles.activation_dtype, 16)
    buffers = [torch.empty(16, dtype=torch.uint8)] * 5
    return kernel.program(16, *buffers)


@cache
def lean_program(dtype: DataType, tokens: int) -> Program:
    """The compiled matmul that Hopper runs for 64 x 256 weights of `dtype` in groups of 128."""
    problem = problem_of(Layer("", 64, 256), dtype, tokens)
    return space(problem, H100)[0].kernel().program
