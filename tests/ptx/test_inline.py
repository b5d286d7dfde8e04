"""Functions of a module: what NVRTC leaves uninlined, and every form of a call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ptx.kernels import launch, module
from tests.ptx.test_spaces import run
from tilus.errors import TilusError
from tilus.ptx.parse import parse_ptx
from tilus.runtime.nvrtc import compile_ptx

Array = np.ndarray[Any, Any]

# ---- functions that NVRTC leaves ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_large_angles_in_float64(name: str):
    """They are reduced by a function that returns a structure, and is defined after the kernel."""
    source = f"""extern "C" __global__ void k(double* x) {{
        x[threadIdx.x] = {name}(x[threadIdx.x]); }}"""
    ptx = compile_ptx(source, "k", "sm_90a")
    assert ".b8 retval0[16]" in ptx and ptx.rindex(".func") > ptx.index(".entry")
    x = np.array([0.0, 0.5, -3.0, 1e5, 2.0**31, -1e10, 1e22, -1.7e308, np.inf, np.nan])
    with np.errstate(invalid="ignore"):
        wanted = getattr(np, name)(x)
    launch(ptx, [x], len(x))
    np.testing.assert_array_max_ulp(x[:-2], wanted[:-2], 2)
    assert np.isnan(x[-2:]).all()


def test_structures_and_small_types_are_passed_by_value():
    source = """struct P { double a; int b[3]; };
        __device__ __noinline__ P moved(P p, int n, short s, bool up, signed char c) {
            P q; q.a = p.a * n; for (int i = 0; i < 3; i++) q.b[i] = up ? p.b[i] + s : c;
            return q; }
        extern "C" __global__ void k(int* out) { int t = threadIdx.x;
            P p{0.5 * t, {t, 2 * t, 3 * t}};
            P q = moved(p, 4, -7, t % 2, -100 - t);
            out[2 * t] = int(q.a); out[2 * t + 1] = q.b[2]; }"""
    got, thread = run(source, threads=16).reshape(-1, 2)[:16], np.arange(16)
    np.testing.assert_array_equal(got[:, 0], 2 * thread)
    np.testing.assert_array_equal(got[:, 1], np.where(thread % 2, 3 * thread - 7, -100 - thread))


def test_parameters_may_be_indexed():
    """Their address is taken, so that they are arrays of local memory."""
    source = """struct P { int b[8]; };
        __device__ __noinline__ int picked(P p, int n) { return p.b[n & 7]; }
        extern "C" __global__ void k(int* out) { P p;
            for (int i = 0; i < 8; i++) p.b[i] = 100 * threadIdx.x + i;
            out[threadIdx.x] = picked(p, threadIdx.x * 3); }"""
    thread = np.arange(32)
    np.testing.assert_array_equal(run(source)[:32], 100 * thread + thread * 3 % 8)


def test_lanes_part_and_meet_in_a_function():
    """Functions call functions, from branches and loops, and return early."""
    source = """__device__ __noinline__ int half(int x) { return x % 2 ? -1 : x / 2; }
        __device__ __noinline__ int halvings(int x) { int n = 0;
            for (; x > 0; n++) { x = half(x); if (x < 0) return n; } return 100 + n; }
        __device__ __noinline__ void put(int* to, int value) {
            if (value > 100) { *to = -value; return; } *to = value; }
        extern "C" __global__ void k(int* out) { int t = threadIdx.x;
            if (t % 3) put(out + t, halvings(t)); else put(out + t, halvings(4 * t)); }"""

    def twos(n: int) -> int:
        return -100 if n == 0 else (n & -n).bit_length() - 1

    wanted = [twos(t if t % 3 else 4 * t) for t in range(32)]
    wanted[0] = 100  # halvings(0) leaves its loop at once
    assert run(source)[:32].tolist() == wanted


def test_barriers_in_a_function():
    source = """__device__ __noinline__ int other(int* s, int t) {
            s[t] = t * t; __syncthreads(); int x = s[63 - t]; __syncthreads(); return x; }
        extern "C" __global__ void k(int* out) { __shared__ int s[64];
            int t = threadIdx.x; out[t] = other(s, t); out[t] -= other(s, t) + t; }"""
    np.testing.assert_array_equal(run(source, threads=64), -np.arange(64))
    with pytest.raises(TilusError, match="race in shared memory: read after write") as info:
        run(source.replace("__syncthreads(); int", "int"), threads=64)
    # The line that calls it is the one to look at: of the kernel, which is in the last line.
    assert info.value.location is not None and info.value.location.line == 4


# ---- forms of calls -----------------------------------------------------------------------------

SQUARE = """.func (.param .b32 result) square(.param .b32 number)
    {
    .reg .pred %q<2>; .reg .b32 %r<3>; .local .align 4 .b8 array[8];
    ld.param.b32 %r1, [number]; mul.lo.u32 %r2, %r1, %r1; st.local.b32 [array+4], %r2;
    st.param.b32 [result], %r2;
    setp.eq.u32 %q1, %r1, 3; @!%q1 bra L; mov.u32 %r2, 1000; st.param.b32 [result+0], %r2;
    L: @%q1 ret; { .reg .b32 %r1; ld.local.b32 %r1, [array+4]; add.u32 %r1, %r1, 1;
    st.param.b32 [result], %r1; }
    }
"""
DECLARED = """.func (.param .b32 result) square(.param .b32 number);
"""
CALL = """{ .param .b32 result; .param .b32 x; st.param.b32 [x], %i; call (result), square, (x);
    ld.param.b32 %r2, [result]; }"""
STORE = "mad.wide.u32 %p0, %i, 4, %p0; st.global.u32 [%p0], %r2;"
VALUES = [1, 2, 5, 1000, 17]


def called(body: str, before: str = SQUARE, after: str = "") -> list[int]:
    out = np.zeros(5, np.uint32)
    launch(before + module(body + STORE, 1) + after, [out], 5)
    return out.tolist()


def test_a_function_may_be_declared_first():
    assert called(CALL) == VALUES
    assert called(CALL, DECLARED, SQUARE) == VALUES
    assert called(CALL, DECLARED, SQUARE.replace(".func", ".visible .func")) == VALUES


def test_each_call_has_names_of_its_own():
    """Registers, labels and arrays of the function are others than those of the kernel."""
    body = f"""mov.u32 %r1, 7; L: {CALL} mov.u32 %r3, %r2; {CALL} add.u32 %r2, %r2, %r3;
        add.u32 %r2, %r2, %r1;"""
    assert called(body) == [2 * v + 7 for v in VALUES]
    text = SQUARE + module(body, 0)
    names = [v.name for v in parse_ptx(text).local]
    assert len(names) == len(set(names)) == 6


def test_a_predicate_chooses_who_calls():
    body = "setp.lt.u32 %q0, %i, 4; mov.u32 %r2, 50;" + CALL.replace("call", "{} call")
    default = "st.param.b32 [result], 9; "
    body = body.replace("st.param.b32 [x]", default + "st.param.b32 [x]")
    assert called(body.replace("{} call", "@%q0 call")) == [*VALUES[:4], 9]
    assert called(body.replace("{} call", "@!%q0 call")) == [9, 9, 9, 9, 17]


def test_functions_without_parameters():
    nothing = ".func (.param .b32 r) five() { st.param.b32 [r], 5; ret; }\n.func none { exit; }\n"
    body = """{ .param .b32 r; call.uni (r), five, (
        ); ld.param.b32 %r2, [r]; }"""
    assert called(body, nothing) == [5] * 5
    end = "mov.u32 %r2, 6; setp.eq.u32 %q0, %i, 1; @%q0 call none;"
    assert called(end, nothing) == [6, 0, 6, 6, 6]


ERRORS: list[tuple[str, str, str, str]] = [  # functions, body, message, what was found
    (
        ".func a(.param .b32 x) { call b, (x); }\n.func b(.param .b32 x) {\ncall a, (x); }\n",
        "{ .param .b32 y; call a, (y); }",
        "a recursive function is not emulated",
        "a at PTX line 3",
    ),
    (
        ".extern .func a(.param .b32 x);\n",
        "{ .param .b32 y; st.param.b32 [y], 0; call a, (y); }",
        "a call of this function is not emulated",
        "a at PTX line",
    ),
    (SQUARE, "{ .param .b32 y; call square, (y); }", "does not pass what", "square, (y) at PTX"),
    (
        SQUARE,
        "{ .param .b32 r; .param .b64 y; call (r), square, (y); }",
        "does not pass what the function square takes",
        "call (r), square, (y) at PTX line",
    ),
    (SQUARE, "{ .param .b32 r; call (r), square, (%r1); }", "does not pass what", "PTX line"),
    (".func a() { bra L; }\n", "L: call a;", "is not understood", "bra L: there is no such label"),
    (".func a() { mov.u32 %r1, 5; }\n", "call a;", "no register that can be written", "%r1"),
]  # fmt: skip


@pytest.mark.parametrize(("functions", "body", "message", "found"), ERRORS)
def test_what_cannot_be_called(functions: str, body: str, message: str, found: str):
    with pytest.raises(TilusError, match=message) as info:
        launch(functions + module(body, 0), [], 1)
    assert found in str(info.value)


def test_a_function_that_is_not_called_may_be_unknown():
    """Nor need it be emulated, as long as no thread gets there."""
    source = """extern __device__ int elsewhere(int x);
        extern "C" __global__ void k(int* out) { int t = threadIdx.x;
            out[t] = t > 40 ? elsewhere(t) : t; }"""
    np.testing.assert_array_equal(run(source)[:32], np.arange(32))
    with pytest.raises(TilusError, match="a call of this function is not emulated") as info:
        run(source, threads=64)
    assert "elsewhere" in str(info.value.found) and "PTX line" in str(info.value.found)
