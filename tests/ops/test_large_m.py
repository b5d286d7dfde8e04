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
from tilus.ops import NF4, QuantizedTensor, matmul, quantize
from tilus.ops.blobs import BlobFormat, pack_blobs
from tilus.ops.choose import choose_large
from tilus.ops.large_m import LargeMatmul, scales_are_steady
from tilus.ops.large_schedule import Schedule
from tilus.ops.small_m import Epilogue
from tilus.runtime.compile import compile_program_for
from tilus.runtime.devices import H100
from tilus.runtime.inspect import Inspection
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
        kernel = self.kernel(schedule or choose_large(self.blobs, m, H100), epilogue)
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


@pytest.mark.parametrize(
    ("rows", "depth", "columns", "tiles"),
    [
        *((8, 1, 1, 1), (4, 1, 2, 1), (4, 2, 1, 1)),
        *((8, 1, 1, 2), (2, 1, 4, 2), (2, 4, 1, 2)),
        *((2, 4, 1, 4), (1, 2, 4, 4), (4, 2, 1, 4)),
    ],
)
def test_every_way_to_share_the_warps(rows: int, depth: int, columns: int, tiles: int):
    """N = 200 and k in chunks of 128 leave blobs and warps along k over."""
    for dtype in (tilus.uint4b, tilus.uint3b, tilus.uint1b):
        case = Case.of(dtype, 70, k=640)
        schedule = Schedule(rows, depth, columns, 32, 2, tiles)
        case.check(case.multiply("emulator", schedule), 1.2)


@pytest.mark.parametrize(("tiles", "tokens"), [(1, 256), (2, 128), (4, 48)])
def test_as_many_tokens_as_registers_hold(tiles: int, tokens: int):
    case = Case.of(tilus.uint5b, 256, 130, 256, 64)
    for engine in BOTH:
        case.check(case.multiply(engine, Schedule(8, 1, 1, tokens, 2, tiles)), 1.2)


@pytest.mark.parametrize("split", [2, 3, 8])
def test_blocks_share_the_tiles_of_the_last_wave(split: int):
    """Of 12 tiles: the last 4 on 8 multiprocessors, all on 16 or 64, by as many as there are."""
    case = Case.of(tilus.uint4b, 200, 700, 2048)
    for multiprocessors in (8, 16, 64):
        schedule = Schedule(4, 1, 2, 64, 3, 2, split, multiprocessors)
        case.check(case.multiply("interpreter", schedule), 1.2)
    schedule = Schedule(4, 1, 2, 64, 3, 2, split, 8)
    first, second = (case.multiply("emulator", schedule) for _ in range(2))
    case.check(first, 1.2)
    assert torch.equal(first, second)


# ---- scales --------------------------------------------------------------------------------------


def with_scales(case: Case, scales: torch.Tensor) -> Case:
    q = case.weight
    weight = QuantizedTensor(q.dtype, q.shape, q.group_size, q.codes, scales, q.zeros, q.zero)
    codes = torch.from_numpy(
        q.dtype.to_bits(q.codes.numpy_carrier()).astype(np.uint8).reshape(q.shape)
    )
    return Case(weight, case.x, case.blobs, pack_blobs(codes, scales, q.zeros, case.blobs))


@pytest.mark.parametrize("group", [32, 128])
def test_scales_far_apart_and_negative(group: int):
    """Sums are kept in units of one scale after the other."""
    plain = Case.of(tilus.uint4b, 40, 100, 512, group)
    powers = torch.randint(-8, 8, plain.weight.scales.shape, generator=torch.manual_seed(3))
    signs = torch.where(powers % 3 == 0, -1.0, 1.0)
    case = with_scales(plain, (torch.exp2(powers.float()) * signs).to(torch.float16))
    assert scales_are_steady(case.weight.scales)
    for engine in BOTH:
        case.check(case.multiply(engine), 1.2)


@pytest.mark.parametrize(
    ("scales", "steady"),
    [
        ([1.0, 2.0, -4.0], True),
        ([6e-8, 65504.0, 1.0], True),
        ([1.0, 0.0, 1.0], False),
        ([1.0, float("inf"), 1.0], False),
        ([1.0, float("nan"), 1.0], False),
        ([1e-20, 1.0, 1.0], False),
        ([1e-39, 1e-39, 1e-39], False),
    ],
)
def test_which_scales_are_steady(scales: list[float], steady: bool):
    """Those of a row: finite, not zero, normal, and not too far apart."""
    assert steady == scales_are_steady(torch.tensor(scales)[:, None].expand(3, 2))


def test_scales_of_zero_take_the_other_kernel():
    q = quantize(random(72, 256, seed=1), tilus.uint4b, 128, scale_dtype=torch.float32)
    q.scales[1, 5] = 0.0
    x = random(40, 256, seed=2, dtype=torch.float16)
    exact = x.double() @ q.dequantize(torch.float64).T
    with tilus.option.context(engine="interpreter"):
        y = matmul(x, q, out_dtype=torch.float32)
    assert (y - exact).abs().max() < 1e-3 * exact.abs().max()


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
    schedule = choose_large(case.blobs, 33, H100, scale_weights=True)
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
    for tiles in (1, 2, 4):
        assert (0, 1.0) == costs(case, Schedule(4, 1, 2, 32, 2, tiles), arch, out)


@pytest.mark.parametrize(("tokens", "tiles", "slots"), [(128, 2, 6.0), (64, 2, 4.1), (32, 4, 2.8)])
def test_issue_slots_of_a_weight(tokens: int, tiles: int, slots: float):
    """Of which tokens / 64 are the tensor core's. An access to shared memory is one instruction."""
    blobs = BlobFormat(tilus.uint4b, float16, 8192, 8192, 128, float16)
    kernel = LargeMatmul(blobs, Schedule(8, 1, 1, tokens, 3, tiles), Epilogue(float16), 8.0)
    some = torch.empty(16, dtype=torch.float16)
    program = kernel.program(256, some, some.view(torch.uint8), some, some)
    loop = Inspection(compile_program_for(program, target_from_name("sm_90a"))).loop
    assert loop is not None
    weights = tiles * 16 * blobs.chunk // 32
    assert loop.matrix == weights * tokens // 64
    assert loop.issue <= slots * weights


@pytest.mark.parametrize(("arch", "shared"), [("sm_80", 163), ("sm_86", 99), ("sm_90a", 227)])
@pytest.mark.parametrize("m", [33, 64, 256])
@pytest.mark.parametrize("name", ["uint1b", "uint4b", "uint8"])
def test_schedules_fit_in_shared_memory(name: str, m: int, arch: str, shared: int):
    blobs = BlobFormat(getattr(tilus, name), float16, 8192, 8192, 128, float16)
    for scale_weights in (False, True):
        schedule = choose_large(
            blobs, m, H100, scale_weights=scale_weights, shared_bytes=shared * 1024
        )
        kernel = LargeMatmul(blobs, schedule, Epilogue(tilus.float32))
        some = torch.empty(16, dtype=torch.float16)
        program = kernel.program(m, some, some.view(torch.uint8), some, some)
        source = compile_program_for(program, target_from_name(arch)).source
        assert source.shared_bytes <= shared * 1024


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("dtype", TYPES, ids=IDS)
def test_registers_hold_the_loop(dtype: DataType, arch: str):
    """In the widest schedule, 128 tokens a warp. Outside of it, a few registers may be spilled."""
    blobs = BlobFormat(dtype, float16, 8192, 8192, 128, float16)
    zero = 2.0 ** (dtype.nbits - 1) if dtype.kind == "uint" else 0.0
    schedule = Schedule(8, 1, 1, 128, 2, 2)
    kernel = LargeMatmul(blobs, schedule, Epilogue(float16), zero)
    some = torch.empty(16, dtype=torch.float16)
    program = kernel.program(256, some, some.view(torch.uint8), some, some)
    binary = compile_program_for(program, target_from_name(arch))
    loop, resources = Inspection(binary).loop, binary.resources
    assert loop is not None and resources is not None
    assert 0 == loop.counts["LDL"] + loop.counts["STL"]
    assert resources.spill_stores <= 8


# ---- schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [48, 64, 256, 2048])
def test_blocks_fill_the_multiprocessors(m: int):
    """Of a weight of 8192 x 8192, with as many blocks a tile of the last wave as there is room."""
    blobs = BlobFormat(tilus.uint4b, float16, 8192, 8192, 128, float16)
    schedule = choose_large(blobs, m, H100)
    whole, rest = divmod(-(-m // schedule.block_m) * schedule.tiles_n(blobs), 132)
    blocks = whole * 132 + rest * schedule.split
    assert blocks > 0.9 * 132 * (whole + (rest > 0))
    assert schedule.stage_bytes(blobs) * schedule.stages <= 227 * 1024


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schedule(3, 1, 1, 64, 3), ["powers of two", "rows = 3"]),
        (lambda: Schedule(1, 1, 8, 64, 3), ["whole blobs", "1 warps of 2 x 16 rows"]),
        (lambda: Schedule(4, 1, 2, 60, 3), ["60 tokens", "8, 16, .. 128"]),
        (lambda: Schedule(4, 1, 2, 64, 3, 4), ["64 tokens", "8, 16, .. 48"]),
        (lambda: Schedule(4, 1, 2, 64, 3, 3), ["whole blobs", "tiles = 1, 2 or 4"]),
        (lambda: Schedule(4, 1, 2, 64, 1), ["1 stages", "at least 2"]),
        (lambda: Schedule(4, 1, 2, 64, 2, 2, 9, 8), ["split = 9", "8 multiprocessors"]),
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
        choose_large(blobs, 256, H100, shared_bytes=16 * 1024)
    assert "16384 bytes" in str(info.value)


def test_a_common_zero_point_that_is_not_exact():
    blobs = BlobFormat(tilus.uint8, float16, 64, 128, 128, float16)
    with pytest.raises(TilusError, match="zero point is not exact") as info:
        LargeMatmul(blobs, Schedule(2, 1, 1, 32, 2), Epilogue(float16), 128.25)
    assert "has_zeros=True" in str(info.value)
