"""The kernel for many tokens: against float64 on interpreter and emulator, and by the counters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import tilus
from tilus import TilusError, float16
from tilus.dtypes import DataType, dtype_from_name
from tilus.ops import NF4, QuantizedTensor, quantize
from tilus.ops.blobs import BlobFormat, pack_blobs
from tilus.ops.large_m import LargeMatmul, Schedule
from tilus.ops.small_m import Epilogue
from tilus.runtime.compile import compile_program_for
from tilus.runtime.profile import profile_program
from tilus.target import target_from_name
from tilus.tensor import dtype_from_torch

BOTH = ("interpreter", "emulator")
TYPES = [
    *(dtype_from_name(f"uint{bits}b") for bits in range(1, 8)),
    *(getattr(tilus, name) for name in ("uint8", "float8_e4m3", "float8_e5m2", "float4_e2m1")),
    *(getattr(tilus, name) for name in ("float6_e3m2", "float6_e2m3", "float5_e3m1")),
    *(tilus.float5_e2m2, NF4),
]  # fmt: skip
IDS = [*(dtype.name for dtype in TYPES[:-1]), "nf4"]


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@dataclass
class Case:
    """A weight, its blobs, and tokens to multiply it with."""

    weight: QuantizedTensor
    x: torch.Tensor
    blobs: BlobFormat
    packed: torch.Tensor

    @staticmethod
    def of(
        dtype: DataType,
        m: int,
        n: int = 200,
        k: int = 256,
        group: int = 128,
        *,
        symmetric: bool = True,
        activations: torch.dtype = torch.float16,
        offset: float = 0.0,
    ) -> Case:
        """Weights quantised to `dtype`, zero points moved by `offset`."""
        q = quantize(random(n, k, seed=1) * 0.05, dtype, group, symmetric=symmetric)
        if q.zeros is not None:
            q = QuantizedTensor(dtype, q.shape, q.group_size, q.codes, q.scales, q.zeros + offset)
        blobs = BlobFormat(
            dtype,
            dtype_from_torch(activations),
            n,
            k,
            q.group_size,
            dtype_from_torch(q.scales.dtype),
            q.zeros is not None,
        )
        bits = dtype.to_bits(q.codes.numpy_carrier()).astype(np.uint8).reshape(n, k)
        packed = pack_blobs(torch.from_numpy(bits), q.scales, q.zeros, blobs)
        return Case(q, random(m, k, seed=2, dtype=activations), blobs, packed)

    def kernel(self, schedule: Schedule, epilogue: Epilogue) -> LargeMatmul:
        return LargeMatmul(self.blobs, schedule, epilogue, self.weight.zero)

    def multiply(
        self,
        engine: str,
        schedule: Schedule | None = None,
        out: torch.dtype | None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        m, k = self.x.shape
        dtype = out or self.x.dtype
        epilogue = Epilogue(
            dtype_from_torch(dtype), None if bias is None else dtype_from_torch(bias.dtype)
        )
        kernel = self.kernel(schedule or Schedule.of(self.blobs, m), epilogue)
        x = torch.nn.functional.pad(self.x, (0, self.blobs.padded_k - k))
        y = torch.full((m, self.blobs.n), float("nan"), dtype=dtype)
        with tilus.option.context(engine=engine):
            kernel(m, x, self.packed, x if bias is None else bias, y)
        return y

    def check(
        self,
        y: torch.Tensor,
        factor: float = 3.0,
        bias: torch.Tensor | None = None,
    ) -> None:
        """At most `factor` times the error of a float32 product of the exact weights, rounded."""
        exact = self.x.double() @ self.weight.dequantize(torch.float64).T
        plain = self.x.float() @ self.weight.dequantize(torch.float32).T
        if bias is not None:
            exact, plain = exact + bias.double(), plain + bias.float()
        allowed = factor * (plain.to(y.dtype).double() - exact).abs().max()
        assert (y.double() - exact).abs().max() <= allowed


# ---- what it computes ----------------------------------------------------------------------------


@pytest.mark.parametrize("activations", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=IDS)
def test_every_type(dtype: DataType, activations: torch.dtype):
    case = Case.of(dtype, 33, n=72, activations=activations)
    # The numbers of a codebook are rounded to the activations' type.
    case.check(case.multiply("interpreter"), 3.0 if dtype is NF4 else 1.2)


@pytest.mark.parametrize("m", [33, 64, 70, 130])
@pytest.mark.parametrize("engine", BOTH)
def test_any_number_of_tokens(m: int, engine: str):
    case = Case.of(tilus.uint4b, m)
    case.check(case.multiply(engine), 1.2)


@pytest.mark.parametrize("group", [16, 32, 64, 128, 256, -1])
@pytest.mark.parametrize("name", ["uint4b", "uint3b", "uint8", "float8_e4m3", "float4_e2m1"])
def test_groups(name: str, group: int):
    case = Case.of(getattr(tilus, name), 33, group=group)
    for engine in BOTH:
        case.check(case.multiply(engine), 1.2)


@pytest.mark.parametrize("activations", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("offset", [0.0, 0.25])
@pytest.mark.parametrize(("name", "group"), [("uint4b", 32), ("uint3b", 64), ("uint8", 128)])
def test_zero_points(name: str, group: int, offset: float, activations: torch.dtype):
    case = Case.of(
        getattr(tilus, name), 40, 130, group=group,
        symmetric=False, offset=offset, activations=activations,
    )  # fmt: skip
    assert case.blobs.has_zeros
    for engine in BOTH:
        case.check(case.multiply(engine), 1.2)


@pytest.mark.parametrize(("rows", "depth", "columns"), [(8, 1, 1), (2, 1, 4), (2, 4, 1), (4, 2, 1)])
@pytest.mark.parametrize("tiles", [2, 4])
def test_every_way_to_share_the_warps(rows: int, depth: int, columns: int, tiles: int):
    """N = 200 and k in chunks of 128 leave blobs and warps along k over."""
    for dtype in (tilus.uint4b, tilus.uint3b):
        case = Case.of(dtype, 70, k=640)
        schedule = Schedule(rows, depth, columns, 32, 2, tiles)
        case.check(case.multiply("emulator", schedule), 1.2)


@pytest.mark.parametrize("bias_dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("out", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_output_and_bias(out: torch.dtype, bias_dtype: torch.dtype):
    case = Case.of(tilus.uint4b, 40, 100, group=64)
    bias = random(100, seed=3, dtype=bias_dtype)
    for engine in BOTH:
        case.check(case.multiply(engine, out=out, bias=bias), bias=bias)


@pytest.mark.parametrize("k", [64, 320, 576])
def test_chunks_of_64_and_few_of_them(k: int):
    case = Case.of(tilus.uint5b, 48, 64, k, 64)
    for engine in BOTH:
        case.check(case.multiply(engine), 1.2)


@pytest.mark.parametrize("activations", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", ["uint4b", "uint8", "float4_e2m1", "float8_e4m3"])
def test_scaled_weights(name: str, symmetric: bool, activations: torch.dtype):
    """Rounding the weights, too, costs accuracy: about twice the error."""
    case = Case.of(getattr(tilus, name), 33, group=64, symmetric=symmetric, activations=activations)
    schedule = Schedule.of(case.blobs, 33, scale_weights=True)
    for engine in BOTH:
        case.check(case.multiply(engine, schedule))


def test_two_runs_are_bit_identical():
    case = Case.of(tilus.uint4b, 70, k=1024)
    schedule = Schedule(2, 4, 1, 64, 2)
    first, second = (case.multiply("emulator", schedule) for _ in range(2))
    assert torch.equal(first, second)


# ---- what it costs -------------------------------------------------------------------------------


def costs(
    case: Case, schedule: Schedule, arch: str, out: torch.dtype = torch.float16
) -> tuple[int, float]:
    """(bank conflicts, the share of the sectors' bytes that is used), on whole tiles."""
    m, n = len(case.x), case.blobs.n
    kernel = case.kernel(schedule, Epilogue(dtype_from_torch(out)))
    values = [m, case.x, case.packed, case.x, torch.empty(m, n, dtype=out)]
    counters = profile_program(kernel.program(*values), values, target_from_name(arch))
    return counters.shared.conflicts, counters.global_memory.used


@pytest.mark.parametrize("out", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize(("name", "group"), [("uint4b", 128), ("uint3b", 64), ("uint8", 16)])
def test_no_bank_conflicts_and_whole_sectors(name: str, group: int, arch: str, out: torch.dtype):
    case = Case.of(getattr(tilus, name), 64, 256, 512, group)
    assert (0, 1.0) == costs(case, Schedule(4, 1, 2, 32, 2, tiles=4), arch, out)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize(("name", "group"), [("uint4b", 128), ("uint3b", 64), ("uint8", 128)])
def test_half_blobs_have_one_load_with_conflicts_a_step(name: str, group: int, arch: str):
    """NVRTC puts wide loads together 64 words at a time: the 8 bytes of scales, once in a step,
    make it cut a load of 16 bytes in two, whose 4 wavefronts more count as conflicts.
    """
    case = Case.of(getattr(tilus, name), 64, 256, 512, group)
    schedule = Schedule(4, 1, 2, 32, 2)
    warps, steps = 2 * schedule.warps, schedule.steps(case.blobs)
    conflicts, used = costs(case, schedule, arch)
    assert conflicts <= 4 * warps * steps
    assert used == 1.0


@pytest.mark.parametrize(("arch", "shared"), [("sm_80", 163), ("sm_86", 99), ("sm_90a", 227)])
@pytest.mark.parametrize("m", [33, 64, 256])
@pytest.mark.parametrize("name", ["uint1b", "uint4b", "uint8"])
def test_schedules_fit_in_shared_memory(name: str, m: int, arch: str, shared: int):
    blobs = BlobFormat(getattr(tilus, name), float16, 8192, 8192, 128, float16)
    for scale_weights in (False, True):
        schedule = Schedule.of(blobs, m, scale_weights=scale_weights, shared_bytes=shared * 1024)
        kernel = LargeMatmul(blobs, schedule, Epilogue(tilus.float32))
        some = torch.empty(16, dtype=torch.float16)
        program = kernel.program(m, some, some.view(torch.uint8), some, some)
        source = compile_program_for(program, target_from_name(arch)).source
        assert source.shared_bytes <= shared * 1024


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("dtype", TYPES, ids=IDS)
def test_nothing_spills(dtype: DataType, arch: str):
    """In the widest schedule: 64 tokens a warp."""
    blobs = BlobFormat(dtype, float16, 8192, 8192, 128, float16)
    zero = 2.0 ** (dtype.nbits - 1) if dtype.kind == "uint" else 0.0
    schedule = Schedule.of(blobs, 256)
    assert schedule.tokens == 64
    kernel = LargeMatmul(blobs, schedule, Epilogue(float16), zero)
    some = torch.empty(16, dtype=torch.float16)
    program = kernel.program(256, some, some.view(torch.uint8), some, some)
    resources = compile_program_for(program, target_from_name(arch)).resources
    assert resources is not None
    assert (0, 0) == (resources.spill_stores, resources.spill_loads)


# ---- schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "block_m"), [(48, 48), (64, 64), (256, 64), (2048, 512)])
def test_blocks_fill_the_multiprocessors(m: int, block_m: int):
    """Of a weight of 8192 x 8192: 128 warps' tiles of 64 rows."""
    blobs = BlobFormat(tilus.uint4b, float16, 8192, 8192, 128, float16)
    schedule = Schedule.of(blobs, m, shared_bytes=227 * 1024)
    blocks = -(-m // schedule.block_m) * -(-128 // schedule.blobs)
    waves = -(-blocks // 132)
    assert blocks > 0.9 * 132 * waves
    assert schedule.stage_bytes(blobs) * schedule.stages <= 227 * 1024


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schedule(3, 1, 1, 64, 3), ["powers of two", "rows = 3"]),
        (lambda: Schedule(1, 1, 8, 64, 3), ["whole blobs", "1 warps of 2 x 16 rows"]),
        (lambda: Schedule(4, 1, 2, 60, 3), ["60 tokens", "8, 16, .. 64"]),
        (lambda: Schedule(4, 1, 2, 64, 3, 4), ["64 tokens", "8, 16, .. 32"]),
        (lambda: Schedule(4, 1, 2, 64, 1), ["1 stages", "at least 2"]),
    ],
)
def test_schedules_that_do_not_fit(make: Callable[[], Schedule], words: list[str]):
    with pytest.raises(TilusError) as info:
        make()
    for word in words:
        assert word in str(info.value)


def test_too_little_shared_memory():
    blobs = BlobFormat(tilus.uint8, float16, 8192, 8192, 128, float16)
    with pytest.raises(TilusError, match="no two stages") as info:
        Schedule.of(blobs, 256, shared_bytes=16 * 1024)
    assert "16384 bytes" in str(info.value)


def test_a_common_zero_point_that_is_not_exact():
    blobs = BlobFormat(tilus.uint8, float16, 64, 128, 128, float16)
    with pytest.raises(TilusError, match="zero point is not exact") as info:
        LargeMatmul(blobs, Schedule(2, 1, 1, 32, 2), Epilogue(float16), 128.25)
    assert "has_zeros=True" in str(info.value)
