"""Marlin of vLLM's lineage: the CUDA sources inside the wheel of `sglang`, compiled by tvm-ffi.

    pip install --no-deps sglang==0.5.10.post1 && pip install apache-tvm-ffi ninja    # and nvcc

Weights lie as GPTQ packs them, int32 [k / (32 / bits), n], and are rearranged by its own kernel.
Scales [k / group, n] are permuted within 64 columns, so that a thread finds its eight in a row.

The surprise: sglang itself is not imported, as it needs some sixty other packages; the two
functions are compiled from its files, and are called as `sglang/jit_kernel/gptq_marlin.py` does.

Checked with 0.5.10.post1 and 0.5.23 without a GPU: the files compile for sm_90 by nvcc 13.0, in 2
to 3 minutes for a type of activations; the functions refuse none of the arguments before they look
for a driver; and both kernels, run on the PTX emulator of this project for few tokens, give the
right product for every type of weights. It has not run on a GPU. The other tests call a recorded
fake.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from shutil import which
from typing import Any

import torch

from benchmarks.peers.codes import activation_of, integer_bits, pack_words, round_weight
from benchmarks.peers.installed import AMPERE, refuses_grouping, version_of, why_missing
from benchmarks.peers.protocol import Arithmetic, Prepared, Problem
from tilus.errors import TilusError

TILE = 16
MULTIPLE_N, MULTIPLE_K = 64, 64  # of the smallest block of threads
MOST_ROWS, MOST_COLUMNS = 64, 256  # of a block, for the buffer of partial sums
PAIR = 128  # tiles are of 64 along n and 128 along k, or the other way round, or larger
GROUPS, GROUPS_OF_FLOATS = (32, 64, 128), (128,)
CPP_TYPES = {torch.float16: "fp16_t", torch.bfloat16: "bf16_t"}
FOLDERS = ("jit_kernel", "kernels/jit")  # of 0.5.10, of 0.5.23
OPENED = "namespace sglang {}\nusing namespace sglang;\n"  # where all is in 0.5.23
FLAGS = ("-std=c++20", "-O3", "--expt-relaxed-constexpr")
Functions = Callable[[torch.dtype], tuple[Callable[..., None], Callable[..., None]]]


class Marlin:
    """Integers of 4 and 8 bits, e4m3; float16 and bfloat16."""

    name = "marlin"
    any_tokens = True
    arithmetic = Arithmetic(weights=1)

    def missing(self) -> str | None:
        return why_missing(("sglang", "apache-tvm-ffi"), _check_sources, AMPERE)

    def version(self) -> str:
        return f"sglang {version_of('sglang')}"

    def refuses(self, problem: Problem) -> str | None:
        if problem.dtype == "e2m1":
            return "weights of e2m1 have groups of 16 with scales of e4m3"
        form = form_of(problem.dtype)
        if form is None:
            return f"weights are integers of 4 or 8 bits, or e4m3, not {problem.dtype}"
        groups = GROUPS_OF_FLOATS if form.exponent else GROUPS
        if problem.group_size not in groups:
            return f"groups are of {', '.join(map(str, groups))}, not {problem.group_size}"
        return _refuses_extents(problem)

    def prepare(self, weight: torch.Tensor, problem: Problem) -> Prepared:
        return prepare(weight, problem, compiled_functions)


def _refuses_extents(problem: Problem) -> str | None:
    n, k = problem.n, problem.k
    if k == problem.group_size:
        return f"k = {k} is a single group, whose scales lie in another order"
    refused = refuses_grouping(
        n, k, problem.group_size, multiple_n=MULTIPLE_N, multiple_k=MULTIPLE_K
    )
    if refused is None and n % PAIR and k % PAIR:
        return f"neither n = {n} nor k = {k} is a multiple of {PAIR}"
    return refused


# ---- types ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """A type of weights as it is told to the kernel.

    Attributes:
        exponent: bits of it, likewise `mantissa`; an integer is all mantissa.
        bias: that codes are stored with.
        nan: 1 if numbers end as in IEEE 754, which integers are said to do as well; 2 if the codes
            of all ones are no numbers and there are no infinities.
    """

    exponent: int
    mantissa: int
    signed: bool = False
    bias: int = 0
    nan: int = 1

    @property
    def bits(self) -> int:
        return self.exponent + self.mantissa + self.signed

    @property
    def number(self) -> int:
        """Fields of 8, 8, 1, 32, 1 and 8 bits from the lowest on, as `sgl_kernel/scalar_type.hpp`
        has them: the last but one is set for types without infinities.

        >>> Form(0, 4, bias=8).number
        1125899907892224
        """
        fields = (
            (self.exponent, 8), (self.mantissa, 8), (self.signed, 1),
            (self.bias & 0xFFFFFFFF, 32), (self.nan != 1, 1), (self.nan, 8),
        )  # fmt: skip
        number = place = 0
        for value, width in fields:
            number |= int(value) << place
            place += width
        return number


def form_of(dtype: str) -> Form | None:
    """None for a type that it does not have in groups with 16-bit scales."""
    bits = integer_bits(dtype)
    if bits in (4, 8):
        return Form(0, bits, bias=1 << (bits - 1))
    return Form(4, 3, signed=True, nan=2) if dtype == "e4m3" else None


# ---- weights -------------------------------------------------------------------------------------


def prepare(weight: torch.Tensor, problem: Problem, functions: Functions) -> Prepared:
    """With the functions for a type of activations."""
    form, activation = form_of(problem.dtype), activation_of(problem)
    assert form is not None, "refused"
    name = problem.dtype if form.exponent else f"u{form.bits}"
    rounded = round_weight(weight, name, problem.group_size, activation)
    multiply, repack = functions(activation)
    operands = _Operands(
        packed_by(repack, pack_words(rounded.codes.T, form.bits), problem, form.bits),
        permuted(kernel_scales(rounded.scales.T, form)),
        torch.zeros(multiprocessors(weight.device), dtype=torch.int32, device=weight.device),
    )
    run = partial(_run, multiply, operands, form.number)
    run(torch.zeros(problem.m, problem.k, dtype=activation, device=weight.device))
    return Prepared(run, rounded.weight, operands.weight.nbytes + operands.scales.nbytes)


def packed_by(
    repack: Callable[..., None], words: torch.Tensor, problem: Problem, bits: int
) -> torch.Tensor:
    """int32 [k / 16, n * 16 * bits / 32]"""
    shape = (problem.k // TILE, problem.n * TILE * bits // 32)
    packed = torch.empty(shape, dtype=torch.int32, device=words.device)
    no_order = torch.empty(0, dtype=torch.int32, device=words.device)
    repack(words, no_order, packed, problem.k, problem.n, bits)
    return packed


def kernel_scales(scales: torch.Tensor, form: Form) -> torch.Tensor:
    """Those of floats make up for the bias of the exponent, which the kernel does not add."""
    if not form.exponent:
        return scales
    exponent = 5 if scales.dtype == torch.float16 else 8
    return scales * 2.0 ** ((1 << (exponent - 1)) - (1 << (form.exponent - 1)))


def permuted(scales: torch.Tensor) -> torch.Tensor:
    """Within each 64 columns, those 8 apart become neighbours.

    >>> permuted(torch.arange(64).reshape(1, 64))[0, :10].tolist()
    [0, 8, 16, 24, 32, 40, 48, 56, 1, 9]
    """
    groups, n = scales.shape
    return scales.reshape(groups, n // 64, 8, 8).transpose(2, 3).reshape(groups, n).contiguous()


# ---- running -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Operands:
    """Of a launch; the kernel leaves the zeros of `locks` as it finds them."""

    weight: torch.Tensor
    scales: torch.Tensor
    locks: torch.Tensor


def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _run(
    multiply: Callable[..., None], operands: _Operands, number: int, x: torch.Tensor
) -> torch.Tensor:
    m, n = x.shape[0], operands.scales.shape[1]
    y = torch.empty(m, n, dtype=x.dtype, device=x.device)
    rows = min((m + TILE - 1) // TILE * TILE, MOST_ROWS)
    room = operands.locks.numel() * rows * MOST_COLUMNS
    partial_sums = torch.empty(room, dtype=torch.float32, device=x.device)
    absent, order = x.new_empty(0), operands.locks.new_empty(0)
    multiply(
        x, operands.weight, operands.scales, absent, order, order, order, y, partial_sums, absent,
        operands.locks, number,
        True,  # no order of k is split
        False,  # parts are not added by atomics,
        True,  # but in float32
        False,  # there are no zero points of floating point
    )  # fmt: skip
    return y


# ---- compiling -----------------------------------------------------------------------------------


def _sources() -> Path:
    """The folder of its kernels."""
    spec = importlib.util.find_spec("sglang")
    file = "csrc/gemm/marlin/gptq_marlin.cuh"
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for folder in (Path(place) / name for name in FOLDERS):
            if (folder / file).is_file():
                return folder
    raise TilusError(
        "the sources of Marlin are not in the package sglang",
        expected=" or ".join(f"sglang/{folder}/{file}" for folder in FOLDERS),
        hint="pip install --no-deps sglang==0.5.10.post1",
    )


def _check_sources() -> object:
    import tvm_ffi.cpp  # pyright: ignore[reportMissingImports]

    if which("ninja") is None:
        raise TilusError(
            "Marlin is compiled by ninja", expected="ninja on the PATH", hint="pip install ninja"
        )
    return _sources(), _toolkit(), tvm_ffi.cpp


def _toolkit() -> Path:
    """Where nvcc and the libraries lie; what is called nvcc on the PATH may only call another."""
    named = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    found = which("nvcc")
    beside = [Path(found).resolve().parents[1]] if found else []
    for place in map(Path, (*named, *beside, "/usr/local/cuda")):
        if (place / "bin" / "nvcc").is_file() and (place / "lib64" / "libcudart.so").exists():
            return place
    raise TilusError(
        "Marlin is compiled by nvcc", expected="a CUDA toolkit at CUDA_HOME, or nvcc on the PATH"
    )


@cache
def compiled_functions(activation: torch.dtype) -> tuple[Callable[..., None], Callable[..., None]]:
    """gptq_marlin_gemm and gptq_marlin_repack; compiled at the first call, which takes minutes."""
    cpp = CPP_TYPES[activation]
    gemm = _compiled(f"marlin_gemm_{cpp}", "gptq_marlin.cuh",
                     "gptq_marlin_gemm", f"gptq_marlin_gemm<{cpp}>")  # fmt: skip
    repack = _compiled("marlin_repack", "gptq_marlin_repack.cuh",
                       "gptq_marlin_repack", "gptq_marlin_repack")  # fmt: skip
    return gemm.gptq_marlin_gemm, repack.gptq_marlin_repack


def _compiled(name: str, file: str, exported: str, function: str) -> Any:
    """A module with `function` of a file as `exported`."""
    import tvm_ffi.cpp  # pyright: ignore[reportMissingImports]

    folder = _sources()
    major, minor = torch.cuda.get_device_capability()
    os.environ["CUDA_HOME"] = str(_toolkit())
    os.environ["TVM_FFI_CUDA_ARCH_LIST"] = f"{major}.{minor}"  # else it asks nvidia-smi
    source = folder / "csrc" / "gemm" / "marlin" / file
    export = f"TVM_FFI_DLL_EXPORT_TYPED_FUNC({exported}, ({function}));"
    text = f'{OPENED}#include "{source}"\n{export}'
    return tvm_ffi.cpp.load_inline(
        name,
        cuda_sources=[text],
        extra_cflags=["-std=c++20", "-O3"],
        extra_cuda_cflags=[f"-DSGL_CUDA_ARCH={major * 100 + minor * 10}", *FLAGS],
        extra_include_paths=[str(folder / "include")],
    )
