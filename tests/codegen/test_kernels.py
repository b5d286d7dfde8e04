"""Generated CUDA: every kernel compiles for every target, without spills, to the golden text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kernels import (
    TARGETS,
    example_launches,
    lean_program,
    matmul_launches,
    matmul_program,
)
from tilus import TilusError
from tilus.codegen.kernel import generate
from tilus.dtypes import LOW_PRECISION, DataType, dtype_from_name, uint4b
from tilus.ir.parser import parse_program
from tilus.ir.program import Program
from tilus.passes import compile_program
from tilus.runtime.build import parse_resources
from tilus.runtime.nvrtc import compile_cuda
from tilus.target import nvgpu_sm80, nvgpu_sm90a, target_from_name

GOLDEN = Path(__file__).parent.parent / "golden"
GOLDEN_MATMULS = ("uint4b", "int3b", "float6_e3m2", "float8_e4m3")
LEAN_TOKENS = (8, 64)  # the kernel for few and that for many


def check_compiles(program: Program, arch: str) -> None:
    """It compiles, and nothing lives in local memory: no spill, no array indexed at run time."""
    source, _ = generate(program, target_from_name(arch))
    log = compile_cuda(source.text, source.name, arch).log
    assert "warning" not in log
    resources = parse_resources(log)
    assert resources is not None
    assert (0, 0, 0) == (resources.stack, resources.spill_stores, resources.spill_loads)


@pytest.mark.parametrize("arch", TARGETS)
@pytest.mark.parametrize("name", list(example_launches()))
def test_examples_compile(name: str, arch: str):
    check_compiles(example_launches()[name].program, arch)


@pytest.mark.parametrize("arch", TARGETS)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_quantised_matmuls_compile(dtype: DataType, arch: str):
    for launch in matmul_launches(dtype):
        check_compiles(launch.program, arch)


# ---- golden texts -------------------------------------------------------------------------------


def golden_programs() -> dict[str, Program]:
    examples = {k.replace("/", "_"): v.program for k, v in example_launches().items()}
    kept = {k: v for k, v in examples.items() if not k.startswith("09") or k.endswith(("_0", "_1"))}
    matmuls = {f"matmul_{name}": matmul_program(dtype_from_name(name)) for name in GOLDEN_MATMULS}
    lean = {f"lean_matmul_uint4b_{m}": lean_program(uint4b, m) for m in LEAN_TOKENS}
    return kept | matmuls | lean


def golden_text(program: Program) -> str:
    """The text without `#line`: those carry the place of the checkout."""
    text = generate(program, nvgpu_sm90a)[0].text
    return "\n".join(line for line in text.split("\n") if not line.startswith("#line"))


@pytest.mark.parametrize("name", list(golden_programs()))
def test_text_is_golden(name: str):
    """To accept a change, read its diff: `UPDATE_GOLDEN=1 pytest tests/codegen`."""
    path, text = GOLDEN / f"{name}.cu", golden_text(golden_programs()[name])
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text


def test_the_text_is_the_same_in_every_run():
    program = example_launches()["05_shared_memory/0"].program
    assert generate(program, nvgpu_sm80)[0] == generate(program, nvgpu_sm80)[0]


# ---- what the generator chooses -----------------------------------------------------------------


def text_of(program: str, arch: str = "sm_90a") -> str:
    """The CUDA of a text program, after checking that it compiles."""
    compiled = compile_program(parse_program(program))
    check_compiles(compiled, arch)
    return generate(compiled, target_from_name(arch))[0].text


MATMUL = """
kernel k(a_ptr: ~float16 % 16, b_ptr: ~float16 % 16, c_ptr: ~float32 % 16) blocks=[1] warps=4:
    ga: global float16[32, 64] = global_view(a_ptr)
    gb: global float16[64, 64] = global_view(b_ptr)
    gc: global float32[32, 64] = global_view(c_ptr)
    sa: shared float16[32, 64] = shared_tensor()
    sb: shared float16[64, 64] = shared_tensor()
    copy_async(sa, ga, offsets=[0, 0], dims=[0, 1])
    copy_async(sb, gb, offsets=[0, 0], dims=[0, 1])
    copy_async_wait_all()
    sync()
    a: float16[32, 64] = load_shared(sa)
    b: float16[64, 64] = load_shared(sb)
    c: float32[32, 64] = dot(a, b)
    store_global(gc, c, offsets=[0, 0], dims=[0, 1])
"""


def test_a_matmul_uses_what_the_hardware_has():
    text = text_of(MATMUL)
    assert "copy_async_16(sa" in text
    assert "ldmatrix_x4(&a" in text
    assert "ldmatrix_x4_trans(&b" in text
    assert "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" in text
    assert "swizzle<3, 3, 3>" in text


@pytest.mark.parametrize(
    ("pointer", "extent", "vector"),
    [
        ("p: ~float16 % 16", "1024", "uint4"),
        ("p: ~float16", "1024", "uint16_t"),  # nothing is known of the address
        ("p: ~float16 % 16", "m", "uint4"),  # a multiple of 16, so that no vector is cut
        ("p: ~float16 % 16", "n", "uint16_t"),  # any number
        ("p: ~uint8 % 16", "1024", "uint4"),
        ("p: ~float32 % 16", "1024", "uint4"),
    ],
)
def test_accesses_are_as_wide_as_is_proven(pointer: str, extent: str, vector: str):
    dtype = pointer.split("~")[1].split(" ")[0]
    text = text_of(f"""
kernel k(n: int32, m: int32 % 16, {pointer}, q: ~{dtype} % 16) blocks=[1] warps=1:
    g: global {dtype}[{extent}] = global_view(p)
    h: global {dtype}[1024] = global_view(q)
    x: {dtype}[1024] = load_global(g, offsets=[0], dims=[0])
    store_global(h, x, offsets=[0], dims=[0])
""")
    assert f"*reinterpret_cast<const {vector}*>(g + " in text


def test_masks_that_are_proven_are_left_out():
    text = text_of(MATMUL)
    loads = [line for line in text.split("\n") if "copy_async_16(" in line and "void" not in line]
    assert loads and all(line.rstrip().endswith("true);") for line in loads)
    assert " ? " not in text.split("extern")[-1]


@pytest.mark.parametrize("nbits", [3, 5, 6, 7])
def test_odd_widths_are_loaded_as_bytes_in_wide_pieces(nbits: int):
    """Packed weights lie as bytes: 128 threads x 32 codes, 4 n bytes each, at multiples of 4 n."""
    text = text_of(f"""
kernel k(p: ~uint8 % 16, q: ~float16 % 16) blocks=[1] warps=4:
    g: global uint8[{128 * 4 * nbits}] = global_view(p)
    h: global float16[4096] = global_view(q)
    x: uint8[{128 * 4 * nbits}] = load_global(g, offsets=[0], dims=[0])
    c: uint{nbits}b[4096] @ register_layout([4096], [128, 32], [0], [1]) = view(x)
    w: float16[4096] = cast(c)
    store_global(h, w, offsets=[0], dims=[0])
""")
    width = 4 * nbits & -(4 * nbits)
    vector = {4: "uint32_t", 8: "uint2", 16: "uint4"}[min(width, 16)]
    assert f"*reinterpret_cast<const {vector}*>(g + " in text
    assert "take<" not in text  # no code is taken out by itself


def test_a_view_costs_nothing():
    text = text_of("""
kernel k(p: ~uint8 % 16, q: ~float16 % 16) blocks=[1] warps=1:
    g: global uint8[128] = global_view(p)
    h: global float16[256] = global_view(q)
    x: uint8[128] = load_global(g, offsets=[0], dims=[0])
    c: uint4b[256] @ register_layout([256], [32, 8], [0], [1]) = view(x)
    w: float16[256] = cast(c)
    store_global(h, w, offsets=[0], dims=[0])
""")
    assert "auto& c = x;" in text


def test_a_view_of_a_tile_that_changes_is_a_copy():
    text = text_of("""
kernel k(q: ~float16 % 16) blocks=[1] warps=1:
    h: global float16[64] = global_view(q)
    x: int32[32] = register_tensor(init=7)
    c: float16[64] @ register_layout([64], [32, 2], [0], [1]) = view(x)
    y: int32[32] = register_tensor(init=9)
    x = assign(y)
    store_global(h, c, offsets=[0], dims=[0])
""")
    assert "auto& c" not in text


def test_clip_keeps_nan():
    text = text_of("""
kernel k(q: ~float32 % 16) blocks=[1] warps=1:
    h: global float32[32] = global_view(q)
    x: float32[32] = load_global(h, offsets=[0], dims=[0])
    y: float32[32] = elementwise("clip", [x, 0.0, 1.0])
    store_global(h, y, offsets=[0], dims=[0])
""")
    assert "y[i] = min_f32(max_f32(x[i], 0.0f), 1.0f);" in text or (
        "y[0] = min_f32(max_f32(x[0], 0.0f), 1.0f);" in text
    )


def test_slower_forms_say_why():
    program = compile_program(
        parse_program("""
kernel k(n: int32, p: ~float16) blocks=[1] warps=1:
    g: global float16[n] = global_view(p)
    x: float16[256] = load_global(g, offsets=[0], dims=[0])
    store_global(g, x, offsets=[0], dims=[0])
""")
    )
    _, notes = generate(program, nvgpu_sm90a)
    assert any("loaded in pieces of 2 bytes" in note for note in notes)


FRAGMENT_STORE = """
kernel k(p: ~float16 % 16) blocks=[1] warps=4:
    g: global float16[32, 32] = global_view(p)
    a: float16[32, 32] = load_global(g, offsets=[0, 0], dims=[0, 1])
    b: float16[32, 32] = load_global(g, offsets=[0, 0], dims=[0, 1])
    c: float32[32, 32] = dot(a, b)
    h: float16[32, 32] = cast(c)
    s: shared float16[32, 32] = shared_tensor()
    store_shared(s, h)
"""


@pytest.mark.parametrize(("arch", "stores"), [("sm_80", False), ("sm_90a", True)])
def test_fragments_are_stored_by_stmatrix_from_sm_90(arch: str, stores: bool):
    assert ("stmatrix_x4(&h" in text_of(FRAGMENT_STORE, arch)) == stores


def test_errors_of_the_compiler_point_to_python(tmp_path: Path):
    """The text's lines are those of the user's file."""
    launch = example_launches()["04_naive_matmul/0"]
    text = generate(launch.program, nvgpu_sm90a)[0].text
    broken = text.replace("m16n8k16_f16_f32(&acc", "no_such_function(&acc").replace(
        "m16n8k16_f16_f32(&t", "no_such_function(&t"
    )
    assert broken != text
    with pytest.raises(TilusError) as info:
        compile_cuda(broken, launch.program.name, "sm_90a")
    location = info.value.location
    assert location is not None
    assert "self.dot(a, b, acc)" in location.source_line()


def test_float8_products_need_sm_89():
    program = compile_program(
        parse_program("""
kernel k(p: ~float8_e4m3 % 16, q: ~float32 % 16) blocks=[1] warps=1:
    g: global float8_e4m3[32, 32] = global_view(p)
    h: global float32[32, 32] = global_view(q)
    a: float8_e4m3[32, 32] = load_global(g, offsets=[0, 0], dims=[0, 1])
    b: float8_e4m3[32, 32] = load_global(g, offsets=[0, 0], dims=[0, 1])
    c: float32[32, 32] = dot(a, b)
    store_global(h, c, offsets=[0, 0], dims=[0, 1])
""")
    )
    with pytest.raises(TilusError, match="does not exist"):
        generate(program, nvgpu_sm80)
    check_compiles(program, "sm_89")
