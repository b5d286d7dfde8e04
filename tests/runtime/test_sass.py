"""Reading machine code: by listings small enough to count by hand, and by what NVRTC makes."""

from __future__ import annotations

import pytest

from tilus.errors import TilusError
from tilus.runtime import sass
from tilus.runtime.nvrtc import compile_cuda
from tilus.runtime.sass import (
    SassInstruction,
    basic_blocks,
    disassemble,
    find_disassembler,
    hottest_loop,
    parse,
    weights_of,
)

# As nvdisasm 13 prints it, headings and all.
REAL = """\
	.target	sm_90a

//--------------------- .text.f                   --------------------------
	.section	.text.f,"ax",@progbits
        .size           f,(.L_x_2 - f)
f:
.text.f:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/              @!P0 LDG.E.CONSTANT R0, desc[UR4][R2.64] ;
        /*0020*/                   BRA.DIV ~URZ, `(.L_x_1) ;
        /*0030*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm3x_div_rn) ;
        /*0040*/              @UP0 UIADD3 UR4, UR4, 0x1, URZ &wr=0x0 ?trans1;
        /*0050*/                   BRX R2 -0x60     (*"BRANCH_TARGETS .L_x_0,.L_x_1"*);
.L_x_1:
        /*0060*/                   EXIT ;
.L_x_2:

//--------------------- .text.g                   --------------------------
.text.g:
        /*0000*/                   EXIT ;
"""


def listing(text):
    """A listing of one instruction or label a line."""
    lines = [line.strip() for line in text.strip().splitlines()]
    body = [x if x.endswith(":") else f"    /*{16 * i:04x}*/  {x} ;" for i, x in enumerate(lines)]
    (kernel,) = parse("\n".join([".text.f:", *body]))
    return kernel


def path(text):
    """The opcodes of one turn of the hottest loop."""
    loop = hottest_loop(listing(text))
    return None if loop is None else " ".join(i.opcode for i in loop.instructions)


def instruction(opcode, operands="", predicate=""):
    return SassInstruction(0, predicate, opcode, operands)


# ---- the text ------------------------------------------------------------------------------------


def test_a_listing_as_it_is_printed():
    f, g = parse(REAL)
    assert ("f", "g") == (f.name, g.name)
    assert {".L_x_0": 1, ".L_x_1": 6, ".L_x_2": 7} == f.labels
    assert (
        SassInstruction(0x10, "@!P0", "LDG.E.CONSTANT", "R0, desc[UR4][R2.64]")
        == (f.instructions[1])
    )
    assert ("UIADD3", [], "@UP0") == (
        f.instructions[4].name,
        f.instructions[4].modifiers,
        f.instructions[4].predicate,
    )
    assert 1 == len(g.instructions)
    assert [] == parse("no kernel at all")


@pytest.mark.parametrize(
    ("opcode", "operands", "predicate", "expected"),
    [
        ("FADD", "R0, R1, R2", "", False),
        ("FADD", "R0, R1, R2", "@P1", True),
        ("FADD", "R0, R1, R2", "@!UP1", True),
        ("FADD", "R0, R1, R2", "@PT", False),
        ("BRA", "`(.L_x_0)", "", False),
        ("BRA", "!P2, `(.L_x_0)", "", True),
        ("BRA.U", "UP0, `(.L_x_0)", "", True),
        ("BRA.U.ANY", "`(.L_x_0)", "@P0", True),
        ("SEL", "P0, R1, R2", "", False),
    ],
)
def test_predicates(opcode, operands, predicate, expected):
    assert expected == instruction(opcode, operands, predicate).may_be_skipped


@pytest.mark.parametrize(
    ("opcode", "a", "b"),
    [
        ("HMMA.16816.F32", 8, 4),
        ("HMMA.16816.F32.BF16", 8, 4),
        ("HMMA.1688.F32", 4, 2),
        ("IMMA.16832.S8.U8", 16, 8),
        ("QMMA.16832.F32.E4M3.E4M3", 16, 8),
        ("HGMMA.64x8x16.F32", 8, 1),
        ("HGMMA.64x256x16.F32.BF16", 8, 32),
        ("QGMMA.64x64x32.F32.E4M3.E4M3", 16, 16),
        ("UTCHMMA.2CTA", None, None),
    ],
)
def test_elements_of_an_operand_in_a_lane(opcode, a, b):
    found = instruction(opcode)
    assert (a, b) == (weights_of(found, "A"), weights_of(found, "B"))


# ---- blocks --------------------------------------------------------------------------------------


def successors(text):
    return [block.successors for block in basic_blocks(listing(text))]


def test_a_branch_makes_blocks():
    found = basic_blocks(listing("MOV R0, R1\n@P0 BRA `(.L_x_1)\nFADD R0, R1, R2\n.L_x_1:\nEXIT"))
    assert [(0, 2, (1, 2)), (2, 3, (2,)), (3, 4, ())] == [
        (block.start, block.end, block.successors) for block in found
    ]


def test_an_exit_under_a_predicate_goes_on():
    assert [()] == successors("@P0 EXIT\nEXIT")  # the second one, in the same block
    assert [(), ()] == successors("EXIT\nEXIT")


def test_an_indirect_branch_may_take_all_it_lists():
    jump = 'BRX R2 -0x60 (*"BRANCH_TARGETS .L_x_1,.L_x_2"*)'
    text = f"{jump}\nMOV R0, R1\n.L_x_1:\nEXIT\n.L_x_2:\nEXIT"
    assert [(2, 3), (2,), (), ()] == successors(text)


def test_threads_meet_where_the_region_says():
    text = """
        BSSY.RECONVERGENT B0, `(.L_x_1)
        @P0 BRA `(.L_x_0)
        BSYNC.RECONVERGENT B0
        .L_x_0:
        BSYNC.RECONVERGENT B0
        .L_x_1:
        EXIT"""
    assert [(1, 2), (3,), (3,), ()] == successors(text)


def test_a_call_comes_back_but_a_long_jump_does_not():
    text = "CALL.REL.NOINC `($div)\n@P0 CALL.REL.NOINC `(.L_x_1)\nEXIT\n.L_x_1:\nEXIT"
    assert [(1, 2), (), ()] == successors(text)


def test_divergent_threads_are_not_expected():
    assert [()] == successors("BRA.DIV ~URZ, `(.L_x_1)\nEXIT\n.L_x_1:")
    assert [(2,), (2,), ()] == successors(
        "BRA.CONV ~URZ, `(.L_x_1)\nCALL.REL.NOINC `($warpsync)\n.L_x_1:\nEXIT"
    )


# ---- the hottest loop ----------------------------------------------------------------------------


def test_no_loop():
    assert path("MOV R0, R1\nEXIT\n.L_x_0:\nBRA `(.L_x_0)") is None  # what is behind never runs


def test_a_loop_of_one_block():
    assert "FADD BRA" == path("MOV R0, R1\n.L_x_0:\nFADD R0, R0, R1\n@P0 BRA `(.L_x_0)\nEXIT")


def test_a_loop_whose_first_instruction_is_the_kernel_s():
    assert "FADD BRA" == path(".L_x_0:\nFADD R0, R0, R1\n@P0 BRA `(.L_x_0)\nEXIT")


def test_a_loop_on_a_uniform_predicate():
    assert "FADD BRA.U" == path(".L_x_0:\nFADD R0, R0, R1\nBRA.U UP0, `(.L_x_0)\nEXIT")


def test_matrix_instructions_make_a_loop_hot():
    text = """
        .L_x_0:
        FADD R0, R0, R1
        FADD R0, R0, R1
        FADD R0, R0, R1
        @P0 BRA `(.L_x_0)
        .L_x_1:
        HMMA.16816.F32 R4, R8, R12, R4
        @P0 BRA `(.L_x_1)
        EXIT"""
    assert "HMMA.16816.F32 BRA" == path(text)


def test_the_innermost_loop_counts():
    text = """
        .L_x_0:
        HMMA.16816.F32 R4, R8, R12, R4
        HMMA.16816.F32 R4, R8, R12, R4
        .L_x_1:
        HMMA.16816.F32 R4, R8, R12, R4
        @P0 BRA `(.L_x_1)
        @P1 BRA `(.L_x_0)
        EXIT"""
    assert "HMMA.16816.F32 BRA" == path(text)


def test_a_loop_that_waits_inside_counts_once():
    text = """
        .L_x_0:
        LDS R0, [R1]
        .L_x_1:
        SYNCS.PHASECHK R2, [R3]
        @!P0 BRA `(.L_x_1)
        HMMA.16816.F32 R4, R8, R12, R4
        @P1 BRA `(.L_x_0)
        EXIT"""
    assert "LDS SYNCS.PHASECHK BRA HMMA.16816.F32 BRA" == path(text)


def test_the_heavier_way_is_taken():
    text = """
        .L_x_0:
        @P0 BRA `(.L_x_1)
        HMMA.16816.F32 R4, R8, R12, R4
        BRA `(.L_x_2)
        .L_x_1:
        FADD R0, R0, R1
        FADD R0, R0, R1
        FADD R0, R0, R1
        .L_x_2:
        @P1 BRA `(.L_x_0)
        EXIT"""
    assert "BRA HMMA.16816.F32 BRA BRA" == path(text)


def test_what_a_predicate_allows_is_counted():
    text = """
        .L_x_0:
        HMMA.16816.F32 R4, R8, R12, R4
        @P0 BRA `(.L_x_1)
        LDGSTS.E.128 [R0], desc[UR4][R2.64]
        .L_x_1:
        @P1 BRA `(.L_x_0)
        EXIT"""
    assert "HMMA.16816.F32 BRA LDGSTS.E.128 BRA" == path(text)


STORING = """
    .L_x_0:
    {hot}
    @P0 BRA `(.L_x_1)
    STG.E desc[UR4][R2.64], R0
    FADD R0, R0, R1
    .L_x_1:
    @P1 BRA `(.L_x_0)
    EXIT"""


def test_results_stored_now_and_then_are_cold():
    assert "HMMA.16816.F32 BRA BRA" == path(STORING.format(hot="HMMA.16816.F32 R4, R8, R12, R4"))


def test_a_loop_without_matrix_instructions_stores_all_the_time():
    assert "LDG.E BRA STG.E FADD BRA" == path(STORING.format(hot="LDG.E R0, desc[UR4][R2.64]"))


def test_a_loop_that_stores_on_every_way_is_counted_with_it():
    text = """
        .L_x_0:
        HMMA.16816.F32 R4, R8, R12, R4
        @P0 BRA `(.L_x_1)
        STG.E desc[UR4][R2.64], R0
        BRA `(.L_x_0)
        .L_x_1:
        STG.E desc[UR4][R2.64], R0
        STG.E desc[UR4][R2.64], R0
        BRA `(.L_x_0)"""
    assert "HMMA.16816.F32 BRA STG.E STG.E BRA" == path(text)


@pytest.mark.parametrize(("length", "expected"), [(40, 43), (200, 3)])
def test_a_long_epilogue_is_left_out(length, expected):
    """It stores to shared memory only, so it is its length that gives it away."""
    text = """
        .L_x_0:
        HMMA.16816.F32 R4, R8, R12, R4
        @P0 BRA `(.L_x_1)
        {epilogue}
        .L_x_1:
        @P1 BRA `(.L_x_0)
        EXIT""".format(epilogue="STS [R0], R1\n" * length)
    loop = hottest_loop(listing(text))
    assert loop is not None and expected == loop.issue


def test_two_ways_back_are_one_loop():
    text = """
        .L_x_0:
        HMMA.16816.F32 R4, R8, R12, R4
        @P0 BRA `(.L_x_0)
        HMMA.16816.F32 R4, R8, R12, R4
        @P1 BRA `(.L_x_0)
        EXIT"""
    assert "HMMA.16816.F32 BRA HMMA.16816.F32 BRA" == path(text)


def test_a_jump_into_the_middle_makes_no_loop():
    text = """
        @P0 BRA `(.L_x_1)
        .L_x_0:
        FADD R0, R0, R1
        .L_x_1:
        FMUL R0, R0, R1
        @P1 BRA `(.L_x_0)
        EXIT"""
    assert path(text) is None


def test_what_a_turn_costs():
    text = """
        .L_x_0:
        LOP3.LUT R0, R1, R2, R3, 0xea, !PT
        IMAD.MOV.U32 R4, RZ, RZ, R5
        HFMA2.MMA R4, R5, R6, R7
        I2F.F16 R4, R5
        STL [R1], R4
        @P0 LDL R4, [R1]
        UIADD3 UR4, UR4, 0x1, URZ
        CALL.REL.NOINC `($div)
        HMMA.16816.F32 R4, R8, R12, R4
        IMMA.16832.S8.S8 R4, R8, R12, R4
        @P0 BRA `(.L_x_0)
        EXIT"""
    loop = hottest_loop(listing(text))
    assert loop is not None
    assert (11, 1, 2, 1, 2) == (loop.issue, loop.alu, loop.fma, loop.xu, loop.matrix)
    assert (2, 1) == (loop.local_memory, loop.calls)
    assert (8 + 16, 4 + 8) == (loop.weights("A"), loop.weights("B"))


def test_weights_of_a_loop_without_or_with_unknown_matrix_instructions():
    for other in ("FADD R0, R0, R1", "UTCHMMA gdesc[UR4], gdesc[UR8], tmem[UR6]"):
        loop = hottest_loop(listing(f".L_x_0:\n{other}\n@P0 BRA `(.L_x_0)\nEXIT"))
        assert loop is not None and loop.weights("A") is None


# ---- what NVRTC makes ----------------------------------------------------------------------------

SUM = """extern "C" __global__ void f(float* x, const float* y, int n) {
    float s = 0;
    #pragma unroll 1
    for (int i = 0; i < n; i++) {
        float t[4];
        #pragma unroll
        for (int j = 0; j < 4; j++) t[j] = y[4 * i + j];
        #pragma unroll
        for (int j = 0; j < 4; j++) s += t[j] * t[j];
    }
    x[0] = s;
}
"""
MATRIX = """extern "C" __global__ void f(float* x, const unsigned* y, int n) {
    float c[4] = {0, 0, 0, 0};
    #pragma unroll 1
    for (int i = 0; i < n; i++) {
        unsigned r[6];
        #pragma unroll
        for (int j = 0; j < 6; j++) r[j] = y[6 * i + j] & 0x000f000f;
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(r[4]), "r"(r[5]));
        if (i % 64 == 63) {
            #pragma unroll
            for (int j = 0; j < 32; j++) x[i + j * n] = c[j % 4] * j;
        }
    }
    x[0] = c[0] + c[1] + c[2] + c[3];
}
"""
TARGETS = ("sm_80", "sm_90a", "sm_120a")


def compiled_loop(text, arch):
    (kernel,) = parse(disassemble(compile_cuda(text, "f", arch).cubin))
    loop = hottest_loop(kernel)
    assert loop is not None and "f" == kernel.name
    return loop


@pytest.mark.parametrize("arch", TARGETS)
def test_a_compiled_sum(arch):
    loop = compiled_loop(SUM, arch)
    assert (4, 4, 0) == (loop.counts["FFMA"], loop.counts["LDG"], loop.matrix)
    assert loop.weights("B") is None and 10 <= loop.issue <= 25


@pytest.mark.parametrize("arch", TARGETS)
def test_a_compiled_matrix_product(arch):
    loop = compiled_loop(MATRIX, arch)
    assert (1, 6, 0) == (loop.matrix, loop.counts["LDG"], loop.counts["STG"])
    assert (8, 4) == (loop.weights("A"), loop.weights("B"))
    assert loop.alu >= 6 and loop.local_memory == 0


def test_an_array_indexed_at_run_time_lies_in_local_memory():
    text = """extern "C" __global__ void f(float* x, int n) {
        float t[64];
        for (int i = 0; i < 64; i++) t[(i * n) & 63] = x[i];
        float s = 0;
        #pragma unroll 1
        for (int i = 0; i < n; i++) s += t[(i * n) & 63];
        x[0] = s;
    }"""
    assert 1 == compiled_loop(text, "sm_90a").local_memory


def test_no_cubin():
    with pytest.raises(TilusError, match="nvdisasm could not read the cubin") as error:
        disassemble(b"nonsense")
    assert error.value.found


def no_wheel(name):
    raise sass.importlib.metadata.PackageNotFoundError(name)


def test_no_disassembler(monkeypatch):
    monkeypatch.setattr(sass.importlib.metadata, "files", no_wheel)
    monkeypatch.setattr(sass.shutil, "which", lambda name: None)
    with pytest.raises(TilusError, match="reading machine code needs nvdisasm") as error:
        disassemble(b"")
    assert 'pip install "tilus-vm[inspect]"' == error.value.hint


def test_a_disassembler_on_the_path(monkeypatch):
    monkeypatch.setattr(sass.importlib.metadata, "files", no_wheel)
    monkeypatch.setattr(sass.shutil, "which", lambda name: f"/opt/{name}")
    assert "/opt/nvdisasm" == find_disassembler()
    with pytest.raises(TilusError, match="nvdisasm could not be started"):
        disassemble(b"")
