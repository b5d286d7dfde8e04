"""The PTX parser, and loads, stores and predicates of the kernels it gives."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest

from tests.ptx.kernels import apply, launch, module
from tilus.errors import TilusError
from tilus.ptx.parse import parse_ptx
from tilus.ptx.syntax import (
    Address,
    Immediate,
    Kernel,
    Negated,
    Operand,
    Pair,
    Register,
    Special,
    Symbol,
    Vector,
)


def parsed(body: str, declarations: str = "") -> Kernel:
    """A kernel of `body` alone, without the instructions around it."""
    kernel = parse_ptx(module(body, 0, declarations))
    kernel.instructions = kernel.instructions[1:-1]
    return kernel


def operands(text: str) -> tuple[Operand, ...]:
    return parsed(f"op {text};").instructions[0].operands


def test_an_instruction():
    kernel = parsed("@!%q1 add.rn.ftz.f32 %f1, %f2, 0f3F800000;")
    (instruction,) = kernel.instructions
    assert instruction.name == "add.rn.ftz.f32"
    assert (instruction.predicate, instruction.negated) == ("%q1", True)
    one = Immediate(0x3F800000, "f32")
    assert instruction.operands == (Register("%f1"), Register("%f2"), one)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("%r1", Register("%r1")),
        ("%tid.x", Special("%tid.x")),
        ("-12", Immediate(-12)),
        ("0xFFU", Immediate(255)),
        ("0d3FF0000000000000", Immediate(0x3FF0000000000000, "f64")),
        ("-1.5", Immediate(int.from_bytes(struct.pack("<d", -1.5), "little"), "f64")),
        ("[%p1]", Address(Register("%p1"))),
        ("[%p1+16]", Address(Register("%p1"), 16)),
        ("[%p1+-8]", Address(Register("%p1"), -8)),
        ("[%p1 - 8]", Address(Register("%p1"), -8)),
        ("[%p1+0x10]", Address(Register("%p1"), 16)),
        ("[tile+4]", Address(Symbol("tile"), 4)),
        ("{%r1, %r2}", Vector((Register("%r1"), Register("%r2")))),
        ("%r1|%q1", Pair(Register("%r1"), Register("%q1"))),
        ("!%q1", Negated(Register("%q1"))),
        ("$L_1", Symbol("$L_1")),
    ],
)
def test_operands(text: str, wanted: Operand):
    assert operands(text) == (wanted,)


def test_parameters_of_every_spelling():
    text = """.visible .entry k(.param .u64 .ptr .global .align 16 a, .param .u64 .ptr .align 1 b,
        .param .align 8 .b8 c[24], .param .f32 d) { ret; }"""
    assert parse_ptx(text).params == [("a", "u64"), ("b", "u64"), ("c", "b8"), ("d", "f32")]


def test_structures_have_a_size():
    text = ".entry k(.param .align 8 .b8 p[16], .param .u16 n, .param .f64 x) { ret; }"
    assert parse_ptx(text).param_bytes == {"p": 16, "n": 2, "x": 8}


def test_local_arrays():
    kernel = parsed("", ".local .align 16 .b8 __local_depot0[144]; .local .f32 x[3]; .local .u8 y;")
    variables = [(v.name, v.size, v.alignment) for v in kernel.local]
    assert variables == [("__local_depot0", 144, 16), ("x", 12, 4), ("y", 1, 1)]


@pytest.mark.parametrize(
    ("declaration", "name", "data", "space"),
    [
        (".const .align 4 .b8 t[6] = {1, 0, 255, -1};", "t", b"\1\0\xff\xff\0\0", "const"),
        (".global .align 2 .u16 t[3] = {0x102, 07, 0b11};", "t", b"\2\1\7\0\3\0", "global"),
        (".visible .global .f32 t = 0f3FC00000;", "t", b"\0\0\xc0\x3f", "global"),
        (".global .f64 t[1] = {-0.5};", "t", struct.pack("<d", -0.5), "global"),
        (".global .b8 t[2][2] = {{1, 2}, {3, 4}};", "t", b"\1\2\3\4", "global"),
        (".global .align 8 .u64 $str$1;", "$str$1", bytes(8), "global"),
        (".global .align 1 .b8 t[4]\n= {97,\n98};", "t", b"ab\0\0", "global"),
    ],
)
def test_variables_of_the_module(declaration: str, name: str, data: bytes, space: str):
    (constant,) = parse_ptx(declaration + "\n" + module("", 0)).constants
    assert (constant.name, constant.data, constant.space) == (name, data, space)


def test_addresses_as_initial_values_are_an_error():
    text = ".global .align 8 .u64 names[2] = {generic($str), 0};"
    with pytest.raises(TilusError, match="this initial value is not emulated") as info:
        parse_ptx(text + module("", 0))
    assert info.value.found == "generic($str) in names"


def test_shared_arrays():
    declarations = """.shared .align 16 .b8 bytes[40];
        .shared .u32 word;
        .shared .align 8 .f32 floats[3];"""
    text = ".extern .shared .align 16 .b8 dynamic[];" + module("", 0, declarations)
    variables = [(v.name, v.size, v.alignment) for v in parse_ptx(text).shared]
    assert variables == [("dynamic", 0, 16), ("bytes", 40, 16), ("word", 4, 4), ("floats", 12, 8)]


def test_a_statement_may_take_several_lines():
    kernel = parsed("add.u32 %r1, /* one */ %r2, // two\n  %r3\n;")
    assert [i.name for i in kernel.instructions] == ["add.u32"]
    assert kernel.instructions[0].operands == tuple(Register(f"%r{n}") for n in (1, 2, 3))


def test_instructions_know_their_line():
    text = "// one\n/* two\nthree */\n.entry k() // four\n{ .reg .u32 %r<9>;\n\nadd.u32 %r1,\n"
    text += "%r2, %r3; ret;\nexit; }"
    lines = [(i.opcode, i.line) for i in parse_ptx(text).instructions]
    assert lines == [("add", 8), ("ret", 8), ("exit", 9)]


def test_labels_of_inner_braces_are_their_own():
    body = """{ bra L; L: ret; } { L: bra L; } bra L; bra M; { bra M; } L: ret; M:"""
    kernel = parsed(body)
    targets = [i.operands[0] for i in kernel.instructions if i.opcode == "bra"]
    assert all(isinstance(t, Symbol) for t in targets)
    # Instruction 0 is the load of the thread's number; then bra, ret, bra, bra, bra, bra, ret.
    places = [kernel.labels[t.name] for t in targets if isinstance(t, Symbol)]
    assert places == [2, 3, 7, 8, 8]


def test_a_branch_needs_its_label():
    with pytest.raises(TilusError, match="is not understood") as info:
        parsed("{ L: } bra L;")
    assert info.value.found == "bra L: there is no such label"


def test_calls():
    body = """{ // callseq 0, 0
        .reg .b32 temp_param_reg;
        .param .b64 param0;
        st.param.b64 [param0+0], %d1;
        .param .b32 retval0;
        call.uni (retval0),
        vprintf,
        (
        param0
        );
        ld.param.b32 %r1, [retval0+0];
        } // callseq 0"""
    store, call, load = parsed(body).instructions
    assert store.operands[0] == Address(Symbol("param0"))
    assert call.operands == (
        Vector((Symbol("retval0"),)), Symbol("vprintf"), Vector((Symbol("param0"),))
    )  # fmt: skip
    assert load.operands == (Register("%r1"), Address(Symbol("retval0")))


def work(count: int) -> int:
    """Python calls that parsing `count` instructions takes."""
    lines = [
        f".loc 1 {n} 3\n@%q{n % 8} ld.global.v4.u32 {{%r{n % 64}, %r1, %r2, %r3}}, [%p1+{n}];"
        for n in range(count)
    ]
    text = module("\n".join(lines), 1)
    calls = 0

    def count_call(frame: object, event: str, arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count_call)
    try:
        parse_ptx(text)
    finally:
        sys.setprofile(before)
    return calls


def test_parsing_is_linear():
    """A statement costs as many calls in a long text as in a short one, and few."""
    short, long = work(500), work(5000)
    assert long < 11 * short
    assert long < 30 * 5000


def test_locations_come_from_loc():
    text = module(
        ".loc 1 7 3\nadd.u32 %r1, %r2, %r3;\n.loc 1 9 3, function_name f, inlined_at 1 2 3", 0
    )
    kernel = parse_ptx(text + '.file 1 "kernel.py"\n')
    location = kernel.instructions[1].location
    assert location is not None
    assert (location.file, location.line) == ("kernel.py", 7)


def test_names_of_inner_braces_are_registers_of_their_own():
    body = """mov.u32 %r1, {0};
        {{ .reg .b32 t; mov.u32 t, 5; {{ .reg .b16 t; mov.u16 t, 7; }} add.u32 %r1, %r1, t; }}
        {{ .reg .b32 t; mov.u32 t, 100; add.u32 {out}, %r1, t; }}"""
    got = apply(body, [np.arange(4, dtype=np.uint32)], np.uint32)
    assert got.tolist() == [105, 106, 107, 108]


def test_debug_sections_after_the_kernel_are_not_read():
    text = module("", 0) + ".section .debug_str\n{\n$L_info:\n.b8 95,90\n.b8 0\n}\n"
    assert [i.name for i in parse_ptx(text).instructions] == ["mov.u32", "ret"]


@pytest.mark.parametrize(
    "body", ["add.u32 %r1, %r2, ?;", ".unknown thing;", "@%nobody ret;", "op [{%r1}];"]
)
def test_what_is_not_understood_is_an_error(body: str):
    with pytest.raises(TilusError, match=r"PTX line \d+ is not understood") as info:
        parsed(body)
    line = module(body, 0).split(body)[0].count("\n") + 1
    assert f"PTX line {line} is" in info.value.message


def test_a_text_without_a_kernel_or_an_end_is_an_error():
    with pytest.raises(TilusError, match="no kernel"):
        parse_ptx(".version 8.4")
    with pytest.raises(TilusError, match="not understood"):
        parse_ptx(".entry k() { ret;")


# ---- what runs ----------------------------------------------------------------------------------


def test_predicates_choose_lanes():
    body = """setp.lt.u32 %q0, {0}, 3;
        mov.u32 {out}, 1;
        @%q0 mov.u32 {out}, 2;
        @!%q0 add.u32 {out}, {out}, {0};"""
    got = apply(body, [np.arange(6, dtype=np.uint32)], np.uint32)
    assert got.tolist() == [2, 2, 2, 4, 5, 6]


def test_branches_part_and_meet():
    body = """mov.u32 {out}, 0; mov.u32 %r1, 0;
        $again: setp.ge.u32 %q0, %r1, {0};
        @%q0 bra $done;
        add.u32 %r1, %r1, 1; add.u32 {out}, {out}, %r1; bra $again;
        $done: add.u32 {out}, {out}, 1000;"""
    got = apply(body, [np.arange(7, dtype=np.uint32)], np.uint32)
    assert got.tolist() == [1000 + n * (n + 1) // 2 for n in range(7)]


@pytest.mark.parametrize(("count", "bits"), [(2, 32), (4, 32), (2, 64), (4, 16), (4, 8), (2, 16)])
def test_vector_loads_and_stores(count: int, bits: int):
    source = np.arange(16 * count, dtype=f"u{bits // 8}")
    target = np.zeros_like(source)
    letter = {8: "h", 16: "h", 32: "r", 64: "d"}[bits]
    names = [f"%{letter}{n}" for n in range(1, count + 1)]
    size = count * bits // 8
    body = f"""mad.wide.u32 %p0, %i, {size}, %p0; mad.wide.u32 %p1, %i, {size}, %p1;
        ld.global.nc.v{count}.b{bits} {{{", ".join(names)}}}, [%p0];
        st.global.v{count}.b{bits} [%p1], {{{", ".join(reversed(names))}}};"""
    launch(module(body, 2), [source, target], 16)
    np.testing.assert_array_equal(target.reshape(16, count), source.reshape(16, count)[:, ::-1])


def test_narrow_loads_extend():
    source = np.array([-1, -128, 127, 0], np.int8)
    for kind, wanted in (("s8", [-1, -128, 127, 0]), ("u8", [255, 128, 127, 0])):
        target = np.zeros(4, np.int32)
        body = f"""cvt.u64.u32 %d1, %i; add.u64 %p0, %p0, %d1; mad.wide.u32 %p1, %i, 4, %p1;
            ld.global.{kind} %r1, [%p0]; st.global.u32 [%p1], %r1;"""
        launch(module(body, 2), [source, target], 4)
        assert target.tolist() == wanted
