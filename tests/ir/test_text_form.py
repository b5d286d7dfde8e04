"""The text form: how programs print, that they read back exactly, what malformed text is told."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilus.instructions.elementwise
import tilus.instructions.global_memory  # noqa: F401, fills the registry
from tilus import dtypes
from tilus.dtypes import DataType, boolean, float16, float32, float64, int8, int32, int64, uint64
from tilus.errors import TilusError
from tilus.instructions.elementwise import Elementwise, MakeRegisterTensor
from tilus.instructions.global_memory import GlobalView, LoadGlobal
from tilus.ir.expr import (
    BLOCK_IDX,
    GRID_DIM,
    Apply,
    Const,
    Expr,
    Var,
    add,
    apply,
    const,
    format_expr,
)
from tilus.ir.instruction import REGISTRY, Instruction
from tilus.ir.layout import (
    BitLayout,
    RegisterLayout,
    SharedLayout,
    bit_layout,
    global_column_major,
    global_compose,
    global_row_major,
    local,
    register_layout,
    shared_row_major_swizzle,
    spatial,
)
from tilus.ir.operators import CAST, OPERATORS
from tilus.ir.parser import parse_program
from tilus.ir.printer import Names, format_instruction, format_program, format_stmt, is_reserved
from tilus.ir.program import Param, Program
from tilus.ir.stmt import (
    Assign,
    Assume,
    Break,
    Continue,
    Declare,
    Do,
    For,
    If,
    Return,
    Stmt,
    ThreadGroup,
    While,
)
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor

# ---- toy instructions, one for each kind of field ------------------------------------------------


class Toy(Instruction):
    def run(self, machine: Any) -> None:
        raise NotImplementedError("a toy is never run")


@dataclass(frozen=True, eq=False)
class Alloc(Toy, name="toy.alloc"):
    out: SharedTensor
    offset: int | None = None


@dataclass(frozen=True, eq=False)
class Item(Toy, name="toy.item"):
    out: Var
    x: RegisterTensor


@dataclass(frozen=True, eq=False)
class DivMod(Toy, name="toy.divmod"):
    out: tuple[Var, ...]
    a: Expr
    b: Expr


@dataclass(frozen=True, eq=False)
class Exchange(Toy, name="toy.exchange"):
    dst: SharedTensor
    value: RegisterTensor | Expr
    out: RegisterTensor | None = None


@dataclass(frozen=True, eq=False)
class Options(Toy, name="toy.options"):
    message: str
    dtype: DataType
    count: int
    pairs: tuple[tuple[int, Expr], ...]
    scale: float = 1.0
    clean: bool = False
    note: str | None = None
    span: tuple[int, float] = (0, 0.5)
    layout: RegisterLayout | SharedLayout | None = None
    bits: BitLayout | None = None


@dataclass(frozen=True, eq=False)
class Erf(Toy, name="erf"):
    out: RegisterTensor
    x: RegisterTensor
    dim: int


TOYS = {cls.name: REGISTRY.pop(cls.name) for cls in (Alloc, Item, DivMod, Exchange, Options, Erf)}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toys are instructions in these tests only."""
    for name, cls in TOYS.items():
        monkeypatch.setitem(REGISTRY, name, cls)


# ---- helpers ------------------------------------------------------------------------------------

ONE = const(1)
N = Var(int32, "n")
P = Var(~float32, "p")


def program(*body: Stmt, params: tuple[Param, ...] = (Param(N), Param(P))) -> Program:
    return Program("test", params, (ONE, ONE, ONE), 1, body)


def lines(*body: Stmt) -> list[str]:
    """The printed statements, after checking that the whole program reads back."""
    text = format_program(program(*body))
    assert text == format_program(parse_program(text))
    return [line[4:] for line in text.splitlines()[1:]]


def tile(name: str = "x", dtype: DataType = float32, **fields: Any) -> RegisterTensor:
    return RegisterTensor(dtype, (4,), name=name, **fields)


def make(out: RegisterTensor) -> Do:
    return Do(MakeRegisterTensor(out))


def trees_equal(a: Expr, b: Expr, names: Names) -> bool:
    """The same nodes, types, operators and values (nan, -0.0 and int against float included)."""
    if type(a) is not type(b) or a.dtype != b.dtype:
        return False
    if isinstance(a, Const) and isinstance(b, Const):
        return repr(a.value) == repr(b.value)
    if isinstance(a, Var) and isinstance(b, Var):
        return names(a) == b.name
    assert isinstance(a, Apply) and isinstance(b, Apply)
    pairs = zip(a.args, b.args, strict=True)
    return a.op == b.op and all(trees_equal(x, y, names) for x, y in pairs)


# ---- whole programs -----------------------------------------------------------------------------

EVERYTHING = """\
kernel all(n: int32 % 16, x_ptr: ~float32 % 16, w: ~int4b) blocks=[(n + 255) // 256, 2] warps=4:
    gx: global float32[n] = global_view(x_ptr)
    gy: global float32[n, 4] @ strides[1, n] = global_view(x_ptr + 16)
    gw: global int4b[n * 2] = global_view(w)
    work: global int32[gridDim.x] = global_tensor(requires_clean=True)
    x: float32[256] = load_global(gx, offsets=[blockIdx.x * 256], dims=[0])
    y: float32[256] @ register_layout([256], [2, 128], [1], [0]) = elementwise("add", [x, 1.5])
    x = elementwise("add", [x, y])
    s: shared float16[8, 64] = toy.alloc()
    z: int4b[256] @ register_layout([256], [32, 8], [0], [1]) @ bit_layout(8, 4) = register_tensor()
    r: int32[16, 4] = register_tensor(axes=[i0, i1], init=i0 * 4 + i1)
    v: scalar float32 = toy.item(x)
    v: scalar = toy.item(y)
    q: scalar int32, m: scalar int32 = toy.divmod(n, 3)
    old: float32[256] = toy.exchange(s, x)
    toy.exchange(s, 0.5)
    toy.options("a \\"b\\"", float6_e3m2, count=-4, pairs=[[1, n], [2, 3]], scale=inf, clean=True)
    var i: int32 = 0
    i = i + 1
    for k in range(0, n, 32) unroll=all:
        for l: int64 in range(int64(0), int64(8), int64(2)) unroll=4:
            break
        while i < 4:
            if i == 3:
                continue
            elif not i > 2:
                pass
            else:
                return
    assume m % 16 == 0 and True
    threads 32..64:
        store_global(gx, x, offsets=[cast(where(n > 3, n, 4), int64)], dims=[0])
"""


def test_a_program_with_everything_reads_back():
    assert EVERYTHING == format_program(parse_program(EVERYTHING))


def test_what_is_read_is_what_was_written():
    result = parse_program(EVERYTHING)
    assert ("all", 4, 3) == (result.name, result.warps, len(result.params))
    assert [(int32, 16), (~float32, 16), (~dtypes.int4b, 1)] == [
        (p.var.dtype, p.divisible_by) for p in result.params
    ]
    assert [Do] * 15 == [type(s) for s in result.body[:15]]
    load = result.body[4].instruction
    assert isinstance(load, LoadGlobal) and load.src is result.body[0].instruction.out
    assert (0,) == load.dims and isinstance(load.offsets[0], Apply)
    declare, assign, loop, assume, group = result.body[16:]
    assert isinstance(declare, Declare) and isinstance(assign, Assign)
    assert assign.var is declare.var
    assert isinstance(loop, For) and loop.unroll == 0
    assert isinstance(loop.body[0], For) and loop.body[0].unroll == 4
    assert isinstance(assume, Assume)
    assert isinstance(group, ThreadGroup) and (32, 32) == (group.begin, group.count)


def test_every_statement_knows_its_place():
    result = parse_program(
        "kernel k() blocks=[1] warps=1:\n    while True:\n        break\n", "k.tir"
    )
    loop = result.body[0]
    assert "k.tir:2:5" == str(loop.location)
    assert "k.tir:3:9" == str(loop.body[0].location)
    assert "        break" == loop.body[0].location.source_line()
    assert (8, 13) == (loop.body[0].location.column, loop.body[0].location.end_column)
    assert "k.tir:1:1" == str(result.location)


def test_text_may_be_written_freely():
    free = """
# a comment first

kernel k(
    n: i32,   # short names of types
    p: ~f16,
) blocks=[n,] warps=1:

  x: f32[4] @ local(2).spatial(2) = register_tensor(
      init=1.0,
      axes=[],)   # fields in any order

      # a comment anywhere
  y: f32[4] = elementwise(op="add", args=[x, (x)])
  for i in range(n):
    pass
  else_ = 3
"""
    free = free.replace("  else_ = 3\n", "  var else_: i32 = 3").replace("(x)", "x")
    expected = """\
kernel k(n: int32, p: ~float16) blocks=[n] warps=1:
    x: float32[4] @ register_layout([4], [2, 2], [1], [0]) = register_tensor(init=1.0)
    y: float32[4] = elementwise("add", [x, x])
    for i in range(0, n):
        pass
    var else_: int32 = 3
"""
    assert expected == format_program(parse_program(free))
    assert expected == format_program(parse_program(free.replace("\n", "\r\n")))


def test_str_of_a_program_is_its_text():
    assert format_program(program()) == str(program())


def test_two_hundred_lines_parse_quickly():
    loads = "    x = load_global(gx, offsets=[blockIdx.x * 256 + n // 7], dims=[0])\n" * 200
    text = EVERYTHING + loads
    parse_program(EVERYTHING)  # builds the parser
    start = time.perf_counter()
    parse_program(text)
    assert time.perf_counter() - start < 1.5  # 0.1 s on an idle core


# ---- statements ---------------------------------------------------------------------------------


def test_an_empty_body_is_pass():
    assert ["while True:", "    pass"] == lines(While(const(True), ()))
    assert ["pass"] == lines()


def test_an_if_in_an_else_is_elif_where_it_is_alone():
    nested = If(const(False), (Return(),), (Break(),))
    assert ["if True:", "    pass", "elif False:", "    return", "else:", "    break"] == lines(
        If(const(True), (), (nested,))
    )
    both = lines(If(const(True), (), (nested, Continue())))
    assert ["if True:", "    pass", "else:", "    if False:"] == both[:4]


@pytest.mark.parametrize(
    ("unroll", "suffix"), [(None, ""), (0, " unroll=all"), (1, " unroll=1"), (8, " unroll=8")]
)
def test_loops(unroll, suffix):
    k = Var(int32, "k")
    loop = For(k, const(0), N, const(4), (), unroll)
    assert [f"for k in range(0, n, 4){suffix}:", "    pass"] == lines(loop)


def test_a_loop_variable_of_another_type_says_so():
    k = Var(int64, "k")
    loop = For(k, const(0, int64), const(9, int64), const(1, int64), ())
    assert "for k: int64 in range(int64(0), int64(9), int64(1)):" == lines(loop)[0]


def test_the_same_variable_twice_stays_one_variable():
    k = Var(int32, "k")
    loop = For(k, const(0), N, ONE, ())
    declare = Declare(k, ONE)
    printed = lines(loop, loop, declare, declare)
    assert ["for k in range(0, n):", "    pass"] * 2 + ["var k: int32 = 1"] * 2 == printed


def test_one_statement_and_one_instruction_print_alone():
    names = Names()
    x, y = tile("x"), tile("x")
    assert "x: float32[4] = register_tensor()" == format_instruction(MakeRegisterTensor(x), names)
    stmt = Do(Elementwise(y, "abs", (x,)))
    assert 'x_1: float32[4] = elementwise("abs", [x])' == format_stmt(stmt, names)


# ---- tiles and layouts --------------------------------------------------------------------------


def test_register_tiles_show_layout_and_bits():
    layout, bits = local(2, 1).spatial(8, 4).local(1, 2), bit_layout(8, 4, [2, 4, 4], [4, 8, 1])
    both = RegisterTensor(dtypes.int4b, (16, 8), layout, bits, "x")
    only_bits = RegisterTensor(dtypes.int4b, (4,), None, bit_layout(4, 4), "y")
    assert [
        f"x: int4b[16, 8] @ {layout} @ {bits} = register_tensor()",
        "y: int4b[4] @ bit_layout(4, 4) = register_tensor()",
    ] == lines(make(both), make(only_bits))


def test_layouts_read_back_field_by_field():
    """Two spellings of one mapping stay two spellings."""
    layout = register_layout([4], [2, 2], [0], [1])
    read = parse_program(format_program(program(make(tile(layout=layout))))).body[0].instruction.out
    assert (layout.mode_shape, layout.local_modes) == (
        read.layout.mode_shape,
        read.layout.local_modes,
    )


def test_shared_tiles_show_their_layout():
    layout = shared_row_major_swizzle([8, 64], 16)
    s = SharedTensor(float16, (8, 64), layout, "s")
    assert [f"s: shared float16[8, 64] @ {layout} = toy.alloc(offset=128)"] == lines(
        Do(Alloc(s, 128))
    )


def test_tiles_of_rank_0_and_codebooks():
    nf = dtypes.codebook(1, [-1.0, 0.1])
    x = RegisterTensor(nf, (), name="x")
    y = RegisterTensor(nf, (2,), name="y")
    assert [
        "x: codebook1[-1.0,0.1][] = register_tensor()",
        f"y: {nf}[2] = register_tensor(init={nf}(-1.0))",
    ] == lines(make(x), Do(MakeRegisterTensor(y, (), const(-1.0, nf))))


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (global_row_major((N, const(4))), "global float32[n, 4]"),
        (global_column_major((N, const(4))), "global float32[n, 4] @ strides[1, n]"),
        (
            global_compose(global_row_major((4, 2)), global_row_major((2, 8))),
            "global float32[8, 16] @ strides[32, 8, 16, 1] @ modes[[4, 2], [2, 8]]",
        ),
    ],
)
def test_global_tensors_show_strides_that_are_not_row_major(layout, text):
    g = GlobalTensor(float32, tuple(layout.shape), layout=layout, name="g")
    assert [f"g: {text} = global_view(p)"] == lines(Do(GlobalView(g, P)))


# ---- names --------------------------------------------------------------------------------------


def test_names_are_unique_by_identity():
    x, same, unnamed, other = tile("x"), tile("x"), tile(""), tile("")
    printed = lines(
        make(x), make(same), make(unnamed), make(other), Do(Elementwise(x, "neg", (same,)))
    )
    assert ["x", "x_1", "t", "t_1"] == [line.partition(":")[0] for line in printed[:4]]
    assert 'x = elementwise("neg", [x_1])' == printed[4]


def test_a_name_that_looks_numbered_is_not_taken_twice():
    printed = lines(make(tile("x")), make(tile("x")), make(tile("x_1")), make(tile("x_1")))
    assert ["x", "x_1", "x_1_1", "x_1_2"] == [line.partition(":")[0] for line in printed]


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("for", "for_1"), ("var", "var_1"), ("threads", "threads_1"), ("max", "max_1"),
        ("float16", "float16_1"), ("float8_e3m4", "float8_e3m4_1"), ("cast", "cast_1"),
        ("inf", "inf_1"), ("blockIdx.x", "blockIdx_x"), ("blockIdx", "blockIdx_1"),
        ("self.x", "self_x"), ("2x", "_2x"), ("x y\n", "x_y_"), ("größe", "größe"), ("i1", "i1"),
        ("range", "range"), ("shared", "shared"), ("all", "all"), ("unroll", "unroll"),
        ("kernel", "kernel"), ("blocks", "blocks"), ("elementwise", "elementwise"), ("n", "n_1"),
    ],
)  # fmt: skip
def test_names_that_mean_something_else_are_numbered(name, printed):
    var = Var(int32, name)
    x = tile(name)
    assert [f"var {printed}: int32 = 1", f"{printed} = {printed} + n"] == lines(
        Declare(var, ONE), Assign(var, add(var, N))
    )
    assert (
        f'{printed} = elementwise("neg", [{printed}])'
        == lines(make(x), Do(Elementwise(x, "neg", (x,))))[1]
    )


def test_axes_are_variables_of_the_program():
    i, j = Var(int32, "i"), Var(int32, "i")
    first = MakeRegisterTensor(tile("a", int32), (i,), add(i, 1))
    second = MakeRegisterTensor(tile("b", int32), (j,), add(j, 1))
    third = MakeRegisterTensor(tile("c", int32), (i,), add(i, 2))
    wide = Var(int64, "w")
    fourth = MakeRegisterTensor(tile("d", int64), (wide,), wide)
    assert [
        "a: int32[4] = register_tensor(axes=[i], init=i + 1)",
        "b: int32[4] = register_tensor(axes=[i_1], init=i_1 + 1)",
        "c: int32[4] = register_tensor(axes=[i], init=i + 2)",
        "d: int64[4] = register_tensor(axes=[w: int64], init=w)",
    ] == lines(Do(first), Do(second), Do(third), Do(fourth))


def test_the_name_of_a_kernel_may_be_anything():
    for name, printed in (
        ("add", "add"),
        ("for", '"for"'),
        ("a b", '"a b"'),
        ("", '""'),
        ('"', '"\\""'),
    ):
        text = format_program(Program(name, (), (ONE, ONE, ONE), 1, ()))
        assert f"kernel {printed}() blocks=[1] warps=1:" == text.splitlines()[0]
        assert name == parse_program(text).name


# ---- fields of instructions ---------------------------------------------------------------------


def test_fields_of_every_kind():
    layout, bits = spatial(4), bit_layout(8, 4)
    options = Options(
        "a\n", ~float16, 2, ((1, N), (2, ONE)), math.nan, True, "x", (3, -0.0), layout, bits
    )
    assert [
        'toy.options("a\\n", ~float16, count=2, pairs=[[1, n], [2, 1]], scale=nan, clean=True, '
        f'note="x", span=[3, -0.0], layout={layout}, bits={bits})'
    ] == lines(Do(options))


def test_a_field_is_read_by_its_type():
    text = (
        'kernel k() blocks=[1] warps=1:\n    toy.options("", codebook1[0.0,1.0], 4, [[5, 6]], 2)\n'
    )
    options = parse_program(text).body[0].instruction
    assert (4, 2) == (options.count, options.scale)
    assert ((5, Const(int32, 6)),) == options.pairs
    assert dtypes.codebook(1, [0.0, 1.0]) == options.dtype
    assert (0, 0.5) == options.span and options.layout is None


def test_a_result_may_be_absent_a_scalar_or_several():
    s, x, v = SharedTensor(float32, (4,), name="s"), tile(), Var(float32, "v")
    q, r = Var(int32, "q"), Var(int32, "r")
    assert [
        "s: shared float32[4] = toy.alloc()",
        "x: float32[4] = register_tensor()",
        "toy.exchange(s, x)",
        "x = toy.exchange(s, n)",
        "v: scalar float32 = toy.item(x)",
        "v: scalar = toy.item(x)",
        "q: scalar int32, r: scalar int32 = toy.divmod(n, 2)",
        "r: scalar, q: scalar = toy.divmod(q, r)",
        "toy.divmod(q, r)",
    ] == lines(
        Do(Alloc(s)),
        make(x),
        Do(Exchange(s, x)),
        Do(Exchange(s, N, x)),
        Do(Item(v, x)),
        Do(Item(v, x)),
        Do(DivMod((q, r), N, const(2))),
        Do(DivMod((r, q), q, r)),
        Do(DivMod((), q, r)),
    )


def test_an_instruction_may_be_called_like_an_operator():
    x, y, v = tile("x"), tile("y"), Var(float32, "v")
    assert [
        "x: float32[4] = register_tensor()",
        "y: float32[4] = erf(x, dim=0)",
        "var v: float32 = erf(0.5)",
        "v = erf(v)",
    ] == lines(
        make(x),
        Do(Erf(y, x, 0)),
        Declare(v, Apply(float32, "erf", (const(0.5),))),
        Assign(v, apply("erf", v)),
    )


# ---- scalar expressions -------------------------------------------------------------------------

VARS = tuple(
    Var(dtype, f"v_{dtype}")
    for dtype in dtypes.ALL_DTYPES
    if dtype.nbits >= 8 and (dtype.kind in ("bool", "int", "uint") or dtype.nbits >= 16)
    if not dtype.is_pointer()
)
POINTERS = (Var(~float32, "p"), Var(dtypes.void_p, "q"), Var(~~dtypes.int4b, "r"))
PARAMS = tuple(Param(v) for v in (*VARS, *POINTERS))


def reread(expr: Expr) -> Expr:
    """`expr` printed in a program and parsed."""
    text = format_program(program(Assume(expr), params=PARAMS))
    read = parse_program(text)
    assert text == format_program(read)
    return read.body[0].condition


def check_exact(expr: Expr) -> None:
    assert trees_equal(expr, reread(expr), Names()), format_expr(expr)


V = {v.dtype: v for v in VARS}
THREE = const(3)


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (const(-3), "-3"),
        (Apply(int32, "neg", (THREE,)), "-(3)"),
        (Apply(int32, "neg", (const(-3),)), "--3"),
        (Apply(float32, "neg", (const(math.inf),)), "-(inf)"),
        (Apply(float32, "neg", (const(math.nan),)), "-(nan)"),
        (Apply(float16, "neg", (const(1.5, float16),)), "-float16(1.5)"),
        (Apply(int32, "sub", (const(-3), const(-4))), "-3 - -4"),
        (Apply(int32, "sub", (V[int32], Apply(int32, "sub", (THREE, V[int32])))),
         "v_int32 - (3 - v_int32)"),
        (Apply(int32, "mul", (Apply(int32, "add", (V[int32], THREE)), THREE)), "(v_int32 + 3) * 3"),
        (Apply(boolean, "not", (Apply(boolean, "eq", (THREE, THREE)),)), "not 3 == 3"),
        (Apply(boolean, "eq", (Apply(boolean, "eq", (THREE, THREE)), const(True))),
         "(3 == 3) == True"),
        (Apply(int32, "invert", (Apply(int32, "neg", (V[int32],)),)), "~-v_int32"),
        (Apply(int32, "add", (THREE, THREE)), "3 + 3"),
        (Apply(int32, CAST, (THREE,)), "cast(3, int32)"),
        (const(2**31), "2147483648"),
        (const(-(2**31)), "-2147483648"),
        (const(2**64 - 1, uint64), "uint64(18446744073709551615)"),
        (const(5, int8), "int8(5)"),
        (const(5, int64), "int64(5)"),
        (const(True), "True"),
        (const(1, float32), "1.0"),
        (const(-0.0), "-0.0"),
        (const(1e-05), "9.999999747378752e-06"),
        (const(1e30, float64), "float64(1e+30)"),
        (const(-math.inf, float16), "float16(-inf)"),
        (const(0, ~int8), "(~int8)(0)"),
        (const(64, dtypes.void_p), "void_p(64)"),
        (Apply(~float32, "add", (POINTERS[0], const(16, int64))), "p + int64(16)"),
        (Apply(boolean, "ne", (POINTERS[0], POINTERS[0])), "p != p"),
        (Apply(~float16, CAST, (POINTERS[1],)), "cast(q, ~float16)"),
        (Apply(boolean, "lt", (BLOCK_IDX[2], GRID_DIM[0])), "blockIdx.z < gridDim.x"),
    ],
)  # fmt: skip
def test_expressions_read_back_to_the_same_tree(expr, text):
    assert text == format_expr(expr)
    check_exact(expr)


def test_equal_constants_print_alike():
    assert "1.0" == format_expr(Const(float32, 1))
    assert format_expr(const(0.1)) == format_expr(Const(float32, 0.1))


def literals() -> st.SearchStrategy[Expr]:
    """A constant of any type, low-precision ones included."""
    return st.sampled_from(dtypes.ALL_DTYPES).flatmap(constants_of)


def constants_of(dtype: DataType) -> st.SearchStrategy[Expr]:
    if dtype.kind in ("int", "uint", "pointer"):
        values: st.SearchStrategy[Any] = st.integers(int(dtype.min_value), int(dtype.max_value))
    elif dtype.kind == "bool":
        values = st.booleans()
    else:
        low, high = float(dtype.min_value), float(dtype.max_value)
        width = 32 if dtype.nbits <= 32 else 64
        values = st.floats(low, high, width=width)
        if dtype.specials == "ieee":
            values = values | st.sampled_from([math.inf, -math.inf, math.nan, -0.0])
    return values.map(lambda value: const(value, dtype))


def is_arithmetic(expr: Expr) -> bool:
    wide_enough = not expr.dtype.is_float() or expr.dtype.nbits > 8
    standard = expr.dtype.kind in ("bool", "int", "uint", "float") and not expr.dtype.is_subbyte()
    return standard and wide_enough


def node(draw: Any, children: st.SearchStrategy[Expr]) -> Expr:
    """A random operator on random operands, which are cast where the operator would refuse them."""
    name = draw(st.sampled_from([*OPERATORS, CAST, "pointer"]))
    if name == CAST:
        return Apply(draw(st.sampled_from(dtypes.ALL_DTYPES)), CAST, (draw(children),))
    if name == "pointer":
        step = Apply(int64, CAST, (draw(children),))
        pointer = draw(st.sampled_from(POINTERS))
        return Apply(pointer.dtype, draw(st.sampled_from(["add", "sub"])), (pointer, step))
    row = OPERATORS[name]
    args = [draw(children) for _ in range(row.arity)]
    args = [a if is_arithmetic(a) else Apply(int32, CAST, (a,)) for a in args]
    if name.startswith(("bit", "sh", "invert")):
        args = [Apply(int32, CAST, (a,)) if a.dtype.is_float() else a for a in args]
    return Apply(row.result(tuple(a.dtype for a in args)), name, tuple(args))


def expressions() -> st.SearchStrategy[Expr]:
    leaves = st.sampled_from((*VARS, *POINTERS, *BLOCK_IDX)) | literals()
    return st.recursive(leaves, lambda inner: st.composite(node)(inner), max_leaves=12)


@given(expressions())
def test_random_expressions_read_back_to_the_same_tree(expr):
    check_exact(expr)


# ---- random programs ----------------------------------------------------------------------------


class ProgramMaker:
    """Random statements over the tiles and variables made so far; names collide on purpose."""

    def __init__(self, draw: Any):
        self.draw = draw
        self.tiles: list[RegisterTensor] = []
        self.scalars: list[Var] = [N]

    def pick(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def name(self) -> str:
        return self.pick("x", "x_1", "t", "", "for", "a.b", "i", "max", "n")

    def scalar(self) -> Expr:
        a, b = self.pick(*self.scalars), self.pick(const(2), *self.scalars)
        return self.pick(a, Apply(int32, self.pick("add", "floordiv", "min"), (a, b)))

    def body(self, depth: int) -> tuple[Stmt, ...]:
        return tuple(self.stmt(depth) for _ in range(self.pick(0, 1, 2, 3)))

    def stmt(self, depth: int) -> Stmt:
        kinds = ["make", "elementwise", "declare", "assign", "item", "word"]
        kinds += ["loop", "while", "if", "threads"] if depth else []
        return getattr(self, self.pick(*kinds))(depth)

    def tile(self) -> RegisterTensor:
        return RegisterTensor(
            self.pick(float32, dtypes.int4b, dtypes.codebook(1, [0.0, 0.5])),
            self.pick((), (8,), (2, 4)),
            self.pick(None, spatial(8), local(2).spatial(4)),
            self.pick(None, bit_layout(8, 4)),
            self.name(),
        )

    def make(self, depth: int) -> Stmt:
        out = self.tile()
        self.tiles.append(out)
        axes = tuple(Var(int32, self.name()) for _ in out.shape)
        return Do(MakeRegisterTensor(out, axes, self.pick(None, self.scalar(), *axes)))

    def elementwise(self, depth: int) -> Stmt:
        args = tuple(self.pick(*self.tiles, *self.scalars, const(0.5)) for _ in range(2))
        out = self.pick(*self.tiles, self.tile())
        self.tiles.append(out)
        return Do(Elementwise(out, "add", args))

    def declare(self, depth: int) -> Stmt:
        value, var = self.scalar(), self.pick(Var(int32, self.name()), *self.scalars[1:])
        self.scalars.append(var)
        return Declare(var, value)

    def assign(self, depth: int) -> Stmt:
        return Assign(self.pick(*self.scalars), self.scalar())

    def item(self, depth: int) -> Stmt:
        if not self.tiles:
            return Assume(self.scalar())
        out = Var(int32, self.name())
        self.scalars.append(out)
        return Do(Item(out, self.pick(*self.tiles)))

    def word(self, depth: int) -> Stmt:
        return self.pick(Break, Continue, Return)()

    def loop(self, depth: int) -> Stmt:
        var = self.pick(Var(int32, self.name()), *self.scalars[1:])
        bounds = [self.scalar() for _ in range(3)]
        self.scalars.append(var)
        return For(var, *bounds, self.body(depth - 1), self.pick(None, 0, 3))

    def while_(self, depth: int) -> Stmt:
        return While(self.scalar(), self.body(depth - 1))

    def if_(self, depth: int) -> Stmt:
        return If(self.scalar(), self.body(depth - 1), self.body(depth - 1))

    def threads(self, depth: int) -> Stmt:
        return ThreadGroup(self.pick(0, 32), self.pick(1, 32), self.body(depth - 1))


setattr(ProgramMaker, "while", ProgramMaker.while_)
setattr(ProgramMaker, "if", ProgramMaker.if_)


@st.composite
def programs(draw: Any) -> Program:
    maker = ProgramMaker(draw)
    return Program(maker.name() or "k", (Param(N, 16),), (N, maker.scalar(), ONE), 4, maker.body(2))


@given(programs())
def test_random_programs_read_back(original):
    text = format_program(original)
    read = parse_program(text)
    assert text == format_program(read)
    assert list(shapes(original.body)) == list(shapes(read.body))


def shapes(body: tuple[Stmt, ...]) -> Iterator[Any]:
    """The kinds of statements, nested, without what is printed anyway."""
    for stmt in body:
        yield type(stmt)
        for field in fields(stmt):
            value = getattr(stmt, field.name)
            if isinstance(value, tuple):
                yield list(shapes(value))


@given(
    st.integers(0, len(EVERYTHING) - 1),
    st.integers(0, 8),
    st.text('()[]:=,.@~"# \n\tax01', max_size=3),
)
def test_damaged_text_is_read_or_refused_with_a_place(start, removed, inserted):
    damaged = EVERYTHING[:start] + inserted + EVERYTHING[start + removed :]
    error: TilusError | None = None
    try:
        format_program(parse_program(damaged))
    except TilusError as caught:
        error = caught
    assert error is None or str(error).startswith("<text>:")


# ---- malformed text -----------------------------------------------------------------------------

HEAD = "kernel k(n: int32, p: ~float32) blocks=[1] warps=1:\n"
SETUP = """\
    x: float32[4] = register_tensor()
    var i: int32 = 0
    s: shared float32[4] = toy.alloc()
"""


def refusal(text: str) -> TilusError:
    with pytest.raises(TilusError) as caught:
        parse_program(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "place", "message", "details"),
    [
        ("", "1:1", "this is not the text of a program",
         ["found:    the end of the text", "'kernel'"]),
        ("kernal k() blocks=[1] warps=1:\n  pass", "1:1", "not the text", ["did you mean kernel?"]),
        ("kernel k() blocks=[1]:\n  pass", "1:22", "not the text",
         ["found:    ':'", "expected: 'warps'"]),
        ("kernel k(n) blocks=[1] warps=1:\n  pass", "1:11", "not the text", ["expected: ':'"]),
        ("kernel k() blocks=[1] warps=1:\n", "1:31", "not the text",
         ["expected: an indented block", "pass"]),
        ("kernel k() blocks=[1] warps=1:\npass", "2:1", "not the text",
         ["found:    'pass'", "expected: an indented block", "written as pass"]),
        ("kernel k() blocks=[1] warps=0:\n  pass", "1:1", "1 to 32 warps", ["warps = 0"]),
        ("kernel k() blocks=[] warps=1:\n  pass", "1:19", "1 to 3 dimensions", ["found:    0"]),
        ("kernel k(n: int3) blocks=[1] warps=1:\n  pass", "1:13", "unknown data type",
         ["did you mean"]),
        ("kernel k(n: int32, n: int32) blocks=[1] warps=1:\n  pass", "1:20", "two parameters", []),
        ("kernel k(n: int32 % 0) blocks=[1] warps=1:\n  pass", "1:21", "multiple of 1",
         ["found:    0"]),
        ("kernel k(max: int32) blocks=[1] warps=1:\n  pass",
         "1:10", "max is a word of the language",
         []),
    ],
)  # fmt: skip
def test_malformed_heads(text, place, message, details):
    check_refusal(text, place, message, details)


@pytest.mark.parametrize(
    ("line", "column", "message", "details"),
    [
        # syntax
        ("i = i +", 12, "not the text",
         ["found:    the end of the line", "expected: an expression"]),
        ("i = 1 < 2 < 3", 15, "not the text", ["comparisons do not chain"]),
        ("i = $", 9, "not the text", ['found:    the character "$"']),
        ('i = "a', 9, "not the text", ["a string starts and ends on one line"]),
        ("for for in range(3):", 9, "not the text", ["for is a word of the language"]),
        ("for k in rang(3):", 14, "not the text", ["did you mean range?"]),
        ("i = 1 2", 11, "not the text", ["found:    '2'", "an operator"]),
        ("  i = 1", 7, "not the text", ["found:    a deeper indentation", "blocks follow a line"]),
        ("i = (1", None, "not the text", ["found:    the end of the block", "is not closed"]),
        ("i = 1)", 10, "not the text", ["found:    ')'"]),
        ("x: [4] = register_tensor()", 8, "not the text", ["a data type"]),
        ("else:", 5, "not the text", ["found:    'else'", "a statement"]),
        # names and scalars
        ("i = blokIdx", 9, "blokIdx is not defined", ["did you mean blockIdx"]),
        ("y = 3", 5, "y is not defined", ["define it first"]),
        ("i = blockIdx.w", 9, "blockIdx.w is not defined", ["did you mean blockIdx."]),
        ("i = x + 1", 9, "x is no scalar", ["float32[4]"]),
        ("i = maximum(i, 2)", 9, "no scalar function maximum", ["did you mean max"]),
        ("i = register_tensor()", 9, "no scalar function", ["is an instruction"]),
        ("i = min(i)", 9, "min takes 2 operands", ["found:    1"]),
        ("i = min(i, b=2)", 16, "no arguments by name", ["b=2"]),
        ("i = float16(i)", 9, "is written with one number", ["cast(x, float16)"]),
        ("i = cast(i)", 9, "cast takes a scalar and a data type", ["1 arguments"]),
        ("i = cast(i, flaot16)", 17, "unknown data type", ["did you mean float16?"]),
        ("i = cast(i, 3)", 17, "a data type is needed here", ["found:    3"]),
        ("i = p * 2", 9, "no arithmetic is defined on ~float32", []),
        ("i = i | 1.5", 9, "bit operations need integers", ["float32"]),
        ("i = int8(300)", 9, "out of range of int8", ["found:    300"]),
        ("i = 99999999999999999999", 9, "out of range of int64", []),
        (f"i = {'9' * 5000}", 9, "this number is too large", ["5000 digits"]),
        ("i = 1e999", 9, "this number is too large", ["inf"]),
        ('i = "a"', 9, "a scalar is needed here", ['found:    "a"']),
        ("i = [1]", 9, "a scalar is needed here", []),
        # statements
        ("var x: int32 = 1", 9, "x is defined already", ["float32[4]", "use another name"]),
        ("var i: int64 = 1", 9, "i is defined already", ["scalar int32"]),
        ("var nan: int32 = 1", 9, "nan is a word of the language", []),
        ("for k in range(1, 2, 3, 4): pass", None, "not the text", []),
        ("threads 32..32:\n        pass", 17, "a thread or more", ["32..32"]),
        ("for k in range(1) unroll=0:\n        pass", 30, "unrolled 1 or more", ["unroll=all"]),
        ("for k in range(1, 2, 3, 4):\n        pass", 19, "range takes 1 to 3 numbers",
         ["found:    4"]),
        # instructions
        ("register_tenser()", 5, "no instruction register_tenser",
         ["did you mean register_tensor"]),
        ("i + 1", 5, "this is no instruction", ["found:    i + 1"]),
        ("y: float32[4] = x", 21, "this is no instruction", ["found:    x"]),
        ("register_tensor()", 5, "register_tensor has a result",
         ["name: float32[...] = register_tensor"]),
        ('y: float32[4] = toy.options("", int8, 1, [])', 5, "has no result", ["left side"]),
        ("x, x = register_tensor()", 8, "register_tensor has one result", ["found:    2"]),
        ("s = register_tensor()", 5, "another kind of result",
         ["shared float32[4]", "a register tile"]),
        ("x: float32[4] = register_tensor()", 5, "x is defined already", ["leave its type out"]),
        ("v: scalar = toy.item(x)", 5, "v is not defined", ["v: scalar int32"]),
        ("x = elementwise()", 9, "elementwise: op, args missing", ["elementwise(op, args)"]),
        ('x = elementwise("add", [x, x], 3)', 36, "too many operands", ["elementwise(op, args)"]),
        ('x = elementwise("add", arg=[x])', 28, "has no field arg", ["did you mean args?"]),
        ('x = elementwise("add", op="add")', 28, "op is given twice", []),
        ('x = elementwise(op="add", [x, x])', 31, "operands come before fields by name", []),
        ("x = elementwise(3, [x, x])", 21, "op is of another type",
         ["expected: a string", "found:    3"]),
        ('x = elementwise("add", x)', 28, "args is of another type",
         ["found:    float32[4]", "a list, each item a register tile or a scalar expression"]),
        ('x = elementwise("add", [x, s])', 28, "args is of another type",
         ["expected: a list", "found:    [x, s]"]),
        ('x = elementwise("add", [x, xx])', 32, "xx is not defined", ["did you mean x?"]),
        ("v: scalar float32 = toy.item(s)", 34, "x is of another type",
         ["expected: a register tile", "found:    shared float32[4]"]),
        ('toy.options("", int8, n, [])', 27, "count is of another type",
         ["expected: a whole number", "scalar int32"]),
        ('toy.options("", int8, 1.5, [])', 27, "count is of another type",
         ["expected: a whole number", "found:    1.5"]),
        ('toy.options("", int9, 1, [])', 21, "unknown data type", []),
        ('toy.options("", int8, 1, [[1]])', 30, "pairs is of another type",
         ["expected: a list", "[[1]]"]),
        ('toy.options("", int8, 1, [], clean=1)', 40, "clean is of another type",
         ["expected: True or False", "found:    1"]),
        ('toy.options("\\q", int8, 1, [])', 17, "this string is malformed", ["JSON"]),
        ('toy.options("", int8, 1, [], layout=local(0))', 41, "", []),
        ('toy.options("", int8, 1, [], bits=local(2))', 39, "bits is of another type",
         ["expected: a bit layout", "local(2)"]),
        ("y: int32[4] = register_tensor(axes=2)", 40, "variables are a list", ["[i, j]"]),
        ("y: int32[4] = register_tensor(axes=[2])", 41, "no name for a variable", ["found:    2"]),
        # types of tiles
        ("y: float32[n] = register_tensor()", 16, "known at compile time", ["found:    n"]),
        ("y: float23[4] = register_tensor()", 8, "unknown data type", ["did you mean"]),
        ("y: float32[4] @ lokal(4) = register_tensor()", 21, "lokal", []),
        ("y: float32[4] @ shared_row_major(4) = register_tensor()", 8, "layout of its memory",
         ["a register layout or a bit layout"]),
        ("y: shared float32[4] @ local(4) = toy.alloc()", 8, "layout of its memory",
         ["a shared layout"]),
        ("y: float32[4] @ local(4) @ local(4) = register_tensor()", 8, "one layout of a kind", []),
        ("y: float32[4] @ Swizzle(1, 1, 1) = register_tensor()", 21, "", []),
        ("y: global float32[4] @ modes[[4]] = global_view(p)", None, "modes need strides", []),
        ("y: global float32[4] @ strides[4, 1] = global_view(p)", None, "one stride a dimension",
         []),
    ],
)  # fmt: skip
def test_malformed_statements(line, column, message, details):
    place = "" if column is None else f"5:{column}: "
    check_refusal(f"{HEAD}{SETUP}    {line}\n", place, message, details)


def check_refusal(text: str, place: str, message: str, details: list[str]) -> None:
    error = refusal(text)
    rendered = str(error)
    assert rendered.startswith(f"<text>:{place}"), rendered
    assert message in error.message
    for detail in details:
        assert detail in rendered


def test_a_misaligned_line_names_the_columns():
    error = refusal(f"{HEAD}    while True:\n            break\n      return\n")
    assert "not aligned with any block" in error.message
    assert "4:7" == str(error.location).removeprefix("<text>:")
    assert ("column 7", "column 1 or column 5 or column 13") == (error.found, error.expected)


def test_a_second_kernel_is_refused():
    error = refusal(f"{HEAD}    pass\nkernel l() blocks=[1] warps=1:\n    pass\n")
    assert "3:1" == str(error.location).removeprefix("<text>:")
    assert "the end of the text" == error.expected


def test_deep_nesting_is_an_error_not_a_crash():
    error = refusal(f"{HEAD}    assume {'(' * 20000}1{')' * 20000}\n")
    assert "nested too deeply" in error.message


def test_an_error_shows_the_line_with_a_caret():
    error = refusal(f"{HEAD}    assume n + m\n")
    assert str(error).splitlines()[1:3] == [
        "    2 |     assume n + m",
        "      |                ^",
    ]


def test_reserved_words_are_those_with_another_meaning():
    assert all(is_reserved(name) for name in ("add", "if", "float3_e1m1", "codebook4", "gridDim"))
    assert not any(is_reserved(name) for name in ("x", "f16", "i1", "shared", "floating", "_"))
