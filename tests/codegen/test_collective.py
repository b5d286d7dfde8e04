"""The CUDA of reductions, scans, atomics, scatters, prints and random numbers: how threads meet."""

from __future__ import annotations

import re
import textwrap

import numpy as np
import pytest
from hypothesis import given

import tilus.instructions  # noqa: F401 (fills the registry)
from tests.layout_strategies import register_layouts
from tilus.codegen.collective import thread_digits
from tilus.codegen.kernel import generate
from tilus.codegen.source import CudaSource
from tilus.errors import TilusError
from tilus.ir.layout import RegisterLayout
from tilus.ir.parser import parse_program
from tilus.passes import compile_program
from tilus.runtime.build import parse_resources
from tilus.runtime.nvrtc import compile_cuda
from tilus.target import nvgpu_sm80

ARCHITECTURES = ("sm_80", "sm_90a", "sm_120a")
LANES = "register_layout([32], [32], [0], [])"  # over a warp
WARPS = "register_layout([128], [128], [0], [])"  # over four warps
LOCALS = "register_layout([32, 8], [32, 8], [0], [1])"  # rows over lanes, columns in registers
LANE_REPLICAS = "register_layout([8], [8], [0, -4], [])"
WARP_REPLICAS = "register_layout([32], [32], [-4, 0], [])"
IRREGULAR = "register_layout([6, 32], [3, 2, 32], [0, 2], [1])"  # three warps and two registers


def cuda(body: str, warps: int = 1) -> tuple[CudaSource, str]:
    """The CUDA of a kernel whose body is these lines, and the notes."""
    lines = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
    head = f"kernel k(p: ~void_p % 16, n: int32) blocks=[n] warps={warps}:\n"
    source, notes = generate(
        compile_program(parse_program(head + lines + "\n", "k.tir")), nvgpu_sm80
    )
    return source, "\n".join(notes)


def compiled(body: str, warps: int = 1) -> str:
    """The text of the kernel, which compiles everywhere and keeps every tile in registers."""
    source, _ = cuda(body, warps)
    for arch in ARCHITECTURES:
        log = compile_cuda(source.text, source.name, arch).log
        resources = parse_resources(log)
        assert resources is not None
        assert "warning" not in log
        assert (0, 0) == (resources.stack, resources.spill_stores)
    return source.text


def reduction(op: str, dtype: str, layout: str, dims: str, result: str) -> str:
    """Load a tile of `layout`, reduce it and store the result."""
    shape = re.match(r"register_layout\((\[.*?\])", layout)[1]  # type: ignore[index]
    out = "boolean" if op in ("any", "all") else dtype
    return f"""
        g: global {dtype}{shape} = global_view(p)
        h: global {out}{"[1]" if result == "[]" else result} = global_view(p)
        x: {dtype}{shape} @ {layout} = load_global(g, {at_zero(shape)})
        y: {out}{result} = {op}(x, dims={dims}, keepdim=False)
        store_global(h, y, {at_zero(result)})
    """


def at_zero(shape: str) -> str:
    """The place of a tile at the start of a tensor; a tile of rank 0 in one of rank 1."""
    rank = 0 if shape == "[]" else shape.count(",") + 1
    return f"offsets={[0] * max(rank, 1)}, dims={list(range(rank))}"


def offsets(text: str) -> list[str]:
    """The distances of the butterflies, in order."""
    return re.findall(r"__shfl_xor_sync\(0xffffffffu, [^,]+, (\d+)\)", text)


# ---- threads by digits --------------------------------------------------------------------------


@given(register_layouts())
def test_digits_number_the_threads(layout: RegisterLayout):
    digits = thread_digits(layout)
    threads = np.arange(layout.num_threads)
    numbers = sum((threads // d.weight % d.size * d.weight for d in digits), np.zeros_like(threads))
    assert threads.tolist() == numbers.tolist()


@given(register_layouts())
def test_digits_say_where_elements_lie(layout: RegisterLayout):
    threads = np.arange(layout.num_threads)
    for dim, expected in enumerate(layout.indices(threads, 0)):
        along = [d for d in thread_digits(layout) if d.dim == dim]
        index = sum((threads // d.weight % d.size * d.stride for d in along), 0 * threads)
        assert np.broadcast_to(expected, threads.shape).tolist() == index.tolist()


@given(register_layouts())
def test_digits_in_a_warp_are_reached_by_shuffles(layout: RegisterLayout):
    for digit in thread_digits(layout):
        lanes = np.arange(layout.num_threads)
        apart = lanes // digit.weight % digit.size
        if digit.in_warp:
            assert (lanes // 32 == (lanes - apart * digit.weight) // 32).all()
            assert ((lanes ^ digit.weight) // 32 == lanes // 32).all()


# ---- reductions ---------------------------------------------------------------------------------


def test_registers_are_combined_without_communication():
    text = compiled(reduction("sum", "float32", LOCALS, "[1]", "[32]"))
    assert ([], 0) == (offsets(text), text.count("__syncthreads"))


def test_lanes_are_combined_by_butterflies():
    text = compiled(reduction("sum", "float32", LANES, "[0]", "[]"))
    assert (["1", "2", "4", "8", "16"], 0) == (offsets(text), text.count("__syncthreads"))
    assert "arena" not in text


def test_only_the_lanes_of_the_dimension_take_part():
    layout = "register_layout([8, 4], [8, 4], [0, 1], [])"
    assert ["4", "8", "16"] == offsets(compiled(reduction("max", "int32", layout, "[0]", "[4]")))
    assert ["1", "2"] == offsets(compiled(reduction("max", "int32", layout, "[1]", "[8]")))


def test_warps_are_combined_in_order_through_shared_memory():
    source, notes = cuda(reduction("sum", "float32", WARPS, "[0]", "[]"), warps=4)
    text = compiled(reduction("sum", "float32", WARPS, "[0]", "[]"), warps=4)
    barrier, write, second, read = (
        re.search(pattern, text).start()  # type: ignore[union-attr]
        for pattern in (
            r"__syncthreads\(\);",
            r"box_\d+\[.*\] = total",
            r"__syncthreads\(\);\s+(#line.*\s+)?(#pragma unroll\s+)?(#line.*\s+)?(for.*)?\{",
            r"folded = box_\d+",
        )
    )
    assert barrier < write < second < read
    assert 2 == text.count("__syncthreads")
    assert 16 == source.shared_bytes  # a float of each warp
    assert ["1", "2", "4", "8", "16"] == offsets(text)
    assert "through shared memory" in notes


def test_scratch_memory_lies_behind_the_programs_own():
    body = "s: shared float32[33] = shared_tensor()\nv: float32[33] = load_shared(s)\n"
    body += "store_shared(s, v)\n" + textwrap.dedent(
        reduction("sum", "float32", WARPS, "[0]", "[]")
    )
    source, _ = cuda(body, warps=4)
    assert 144 + 16 == source.shared_bytes
    assert "scratch = arena + 144;" in source.text


@pytest.mark.parametrize("dims", ["[0]", "[1]", "[0, 1]"])
def test_sizes_that_are_no_power_of_two(dims: str):
    result = {"[0]": "[32]", "[1]": "[6]", "[0, 1]": "[]"}[dims]
    text = compiled(reduction("sum", "float32", IRREGULAR, dims, result), warps=3)
    assert ("box" in text) == ("0" in dims)
    assert (len(offsets(text)) > 0) == ("1" in dims)


def test_half_precision_is_summed_in_float_and_rounded_once():
    text = compiled(reduction("sum", "float16", LANES, "[0]", "[]"))
    assert "float total" in text
    assert 1 == text.count("= f32_to_f16(")


@pytest.mark.parametrize("op", ["min", "max"])
def test_nan_wins(op: str):
    assert f"{op}.NaN.f32" in compiled(reduction(op, "float32", LANES, "[0]", "[]"))
    body = f"""
        g: global float32[32] = global_view(p)
        x: float32[32] = load_global(g, offsets=[0], dims=[0])
        y: float32[32] = elementwise("{op}", [x, x])
        store_global(g, y, offsets=[0], dims=[0])
    """
    assert f"{op}.NaN.f32" in compiled(body)


@pytest.mark.parametrize("op", ["sum", "min", "max", "any", "all"])
@pytest.mark.parametrize("dtype", ["int8", "uint32", "int64", "float64", "bfloat16"])
def test_every_reduction_compiles(op: str, dtype: str):
    compiled(reduction(op, dtype, LOCALS, "[0, 1]", "[]"))


def test_groups_have_barriers_and_scratch_memory_of_their_own():
    group = textwrap.dedent("""
        threads {begin}..{end}:
            g{begin}: global float32[64] = global_view(p)
            x{begin}: float32[64] = load_global(g{begin}, offsets=[0], dims=[0])
            y{begin}: float32[] = sum(x{begin}, dims=[0], keepdim=False)
            store_global(g{begin}, y{begin}, offsets=[0], dims=[])
    """)
    body = group.format(begin=0, end=64) + group.format(begin=64, end=128)
    text = compiled(body, warps=4)
    assert [("1", "64")] * 2 + [("2", "64")] * 2 == re.findall(r"bar.sync (\d+), (\d+);", text)
    assert "scratch_0_64 = arena + 0;" in text
    assert "scratch_64_64 = arena + 16;" in text


def test_the_text_is_the_same_every_time():
    body = reduction("sum", "float16", IRREGULAR, "[0, 1]", "[]")
    assert cuda(body, 3) == cuda(body, 3)


def test_too_large_an_exchange_is_an_error():
    body = """
        x: float64[256, 128] = register_tensor(init=float64(0.0))
        annotate_layout(x, register_layout([256, 128], [256, 4, 32], [1, 2], [0]))
        y: float64[256] = sum(x, dims=[1], keepdim=False)
        s: shared float64[2000, 10] = shared_tensor()
        store_shared(s, y, offsets=[0, 0], dims=[0])
    """
    with pytest.raises(TilusError, match="more shared memory than is left"):
        cuda(body, warps=4)


# ---- scans --------------------------------------------------------------------------------------


def scan(op: str, dtype: str, layout: str, dim: int) -> str:
    shape = re.match(r"register_layout\((\[.*?\])", layout)[1]  # type: ignore[index]
    place = at_zero(shape)
    return f"""
        g: global {dtype}{shape} = global_view(p)
        x: {dtype}{shape} @ {layout} = load_global(g, {place})
        y: {dtype}{shape} = {op}(x, dim={dim})
        store_global(g, y, {place})
    """


def test_a_scan_of_registers_stays_in_the_thread():
    text = compiled(scan("cumsum", "float32", LOCALS, 1))
    assert (0, 0) == (text.count("__shfl"), text.count("__syncthreads"))


def test_a_scan_of_lanes_is_shuffled():
    text = compiled(scan("cumsum", "int32", LANES, 0))
    assert (2, 0) == (text.count("__shfl_up_sync"), text.count("__syncthreads"))


def test_a_scan_of_warps_passes_totals():
    body = scan("cumsum", "int32", WARPS, 0)
    assert 2 == compiled(body, warps=4).count("__syncthreads")
    assert "warps pass their totals" in cuda(body, warps=4)[1]


@pytest.mark.parametrize("op", ["cumsum", "cumprod"])
@pytest.mark.parametrize("dtype", ["int8", "uint64", "float16", "float64"])
def test_every_scan_compiles(op: str, dtype: str):
    compiled(scan(op, dtype, IRREGULAR, 0), warps=3)


# ---- atomics ------------------------------------------------------------------------------------


def atomic(op: str, dtype: str, layout: str, extent: str, space: str = "global") -> str:
    shape = re.match(r"register_layout\((\[.*?\])", layout)[1]  # type: ignore[index]
    compare = ", compare=x" if op == "cas" else ""
    tensor = "g" if space == "global" else "s"
    return f"""
        g: global {dtype}[{extent}] = global_view(p)
        s: shared {dtype}[256] = shared_tensor()
        z: {dtype}[256] = register_tensor(init={dtype}(0))
        store_shared(s, z)
        sync()
        x: {dtype}{shape} @ {layout} = load_global(g, offsets=[0], dims=[0])
        y: {dtype}{shape} = atomic.{space}_{op}({tensor}, x, offsets=[0], dims=[0]{compare})
        store_global(g, y, offsets=[0], dims=[0])
    """


@pytest.mark.parametrize("dtype", ["int16", "uint32", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("op", ["add", "sub", "min", "max", "exch", "cas"])
def test_every_atomic_compiles(op: str, dtype: str):
    source, _ = cuda(atomic(op, dtype, LANES, "n"))
    log = compile_cuda(source.text, source.name, "sm_80").log
    assert "warning" not in log


@pytest.mark.parametrize(
    ("op", "dtype", "function"),
    [
        ("add", "int32", "atomicAdd"),
        ("sub", "float32", "atomicAdd"),
        ("max", "int64", "atomicMax"),
        ("max", "float32", "atomicCAS"),
        ("add", "bfloat16", "atomicCAS"),
        ("exch", "float32", "atomicExch"),
        ("exch", "float64", "atomicCAS"),
        ("cas", "uint32", "atomicCAS"),
    ],
)
def test_cudas_own_operations_are_used_where_there_are_some(op: str, dtype: str, function: str):
    text = compiled(atomic(op, dtype, LANES, "32", space="shared"))
    assert {function} == set(re.findall(r"\batomic[A-Z]\w+", text))


def test_elements_out_of_bounds_are_skipped():
    assert "< n) old" in compiled(atomic("add", "int32", LANES, "n"))
    assert "if (" not in compiled(atomic("add", "int32", LANES, "32")).partition("atomic.")[2]


def test_replicas_in_a_warp_get_the_old_value_by_a_shuffle():
    text = compiled(atomic("add", "int32", LANE_REPLICAS, "8"))
    assert "if (tid % 4 == 0) old" in text
    assert 1 == text.count("__shfl_sync")
    assert "scratch" not in text


def test_replicas_in_other_warps_get_it_through_shared_memory():
    body = atomic("add", "int32", WARP_REPLICAS, "32")
    text = compiled(body, warps=4)
    assert "if (tid / 32 == 0) old" in text
    assert 3 == text.count("__syncthreads")  # one is the program's own
    assert "wait for the one that acts" in cuda(body, warps=4)[1]


# ---- scatters, prints, random numbers -----------------------------------------------------------


def scatter(dtype: str, index: str = "int32") -> str:
    return f"""
        g: global {dtype}[n, 32] = global_view(p)
        s: shared {dtype}[16, 32] = shared_tensor()
        x: {dtype}[8, 4] = load_global(g, {at_zero("[8, 4]")})
        annotate_layout(x, register_layout([8, 4], [8, 4], [-2, 0, 1], []))
        r: {index}[8, 4] = register_tensor(axes=[a, b], init=cast(a * b - 3, {index}))
        store_global_scatter(g, x, indices=[r, r])
        store_shared_scatter(s, x, indices=[r, r])
        sync()
        y: {dtype}[16, 32] = load_shared(s)
        store_global(g, y, {at_zero("[16, 32]")})
    """


@pytest.mark.parametrize("dtype", ["float16", "float8_e4m3", "int64"])
def test_scatters_store_the_bits_where_the_index_is_inside(dtype: str):
    text = compiled(scatter(dtype), warps=2)
    assert 2 == text.count("if (tid / 32 == 0)")
    assert re.search(r">= 0 && \w+ < n && \w+ >= 0 && \w+ < 32", text)
    assert re.search(r">= 0 && \w+ < 16 && \w+ >= 0 && \w+ < 32", text)


def test_scatters_of_narrow_elements_change_their_bits_only():
    text = compiled(scatter("uint3b", "int64"), warps=2)
    assert 2 == len(re.findall(r"store_bits<3>\([gs],.* take<3>\(x,", text))


def test_each_element_is_printed_once_with_its_index():
    source, _ = cuda(
        """
        x: int32[8] @ register_layout([8], [8], [0, -4], []) = register_tensor(init=3)
        print_tensor("50% of x:", x)
        """
    )
    assert "if (tid % 4 == 0)" in source.text
    assert r'printf("[block %d, %d, %d] 50%% of x:[%d] = %d\n", ' in source.text
    compile_cuda(source.text, source.name, "sm_80")


@pytest.mark.parametrize(
    ("dtype", "conversion"),
    [("float6_e3m2", "%g"), ("int3b", "%d"), ("uint64", "%llu"), ("bfloat16", "%g")],
)
def test_shared_tiles_of_every_type_are_printed(dtype: str, conversion: str):
    source, _ = cuda(f's: shared {dtype}[8, 16] = shared_tensor()\nprint_tensor("s", s)')
    assert rf"s[%d, %d] = {conversion}\n" in source.text
    compile_cuda(source.text, source.name, "sm_80")


def test_random_numbers_compile():
    names = iter("uvwxyz")
    lines = ["g: global float32[n] = global_view(p)"]
    draws = (
        ("rand", "float16", ""),
        ("rand", "float64", ""),
        ("randn", "bfloat16", ""),
        ("randn", "float64", ""),
        ("randint", "int8", ", low=int64(-3), high=cast(n, int64)"),
        ("randint", "uint64", ", low=int64(0), high=int64(9)"),
    )
    for draw, dtype, rest in draws:
        name = next(names)
        seed = "seed=int64(-7), offset=cast(blockIdx.x * 64, int64)"
        lines += [
            f"{name}: {dtype}[64] = {draw}({seed}{rest})",
            f"g{name}: global {dtype}[n] = global_view(p)",
            f"store_global(g{name}, {name}, offsets=[0], dims=[0])",
        ]
    source, _ = cuda("\n".join(lines))
    for arch in ARCHITECTURES:
        assert "warning" not in compile_cuda(source.text, source.name, arch).log
    assert 6 == source.text.count("= philox(")


def test_names_that_mean_something_in_cuda_are_changed():
    text = compiled(
        """
        g: global int32[64] = global_view(p)
        i: int32[64] = load_global(g, offsets=[0], dims=[0])
        double: int32[64] = elementwise("add", [i, i])
        t0: int32[64] = elementwise("mul", [double, i])
        store_global(g, t0, offsets=[0], dims=[0])
        """
    )
    assert "int double_[2];" in text
