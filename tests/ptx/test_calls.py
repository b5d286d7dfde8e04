"""printf of kernels, compiled by NVRTC, against what C prints."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ptx.test_spaces import run
from tilus.errors import TilusError

CASES: list[tuple[str, str, str]] = [  # format, arguments in C, what C prints
    ("%d %i %u", "-5, 7, -1", "-5 7 4294967295"),
    ("%x %X %o %#x %#o", "255, 255, 8, 255, 8", "ff FF 10 0xff 010"),
    ("%5d|%-5d|%05d|%+d|% d", "42, 42, 42, 42, 42", "   42|42   |00042|+42| 42"),
    ("%.3d|%6.3d|%-6.3d|%06.3d", "7, 7, -7, 7", "007|   007|-007  |   007"),
    ("%c%c", "'o', 'k'", "ok"),
    ("%s|%6s|%-6s|%.2s", '"abc", "abc", "abc", "abc"', "abc|   abc|abc   |ab"),
    ("%f %e %g", "1.5f, 1.5, 0.0001", "1.500000 1.500000e+00 0.0001"),
    ("%.2f %8.3f %-8.1f| %08.2f", "pi, pi, pi, -pi", "3.14    3.142 3.1     | -0003.14"),
    ("%g %G %g", "1e20, 1e-20, 100000.0", "1e+20 1E-20 100000"),
    ("%a %a %a", "1.5, 0.0, -0.1", "0x1.8p+0 0x0p+0 -0x1.999999999999ap-4"),
    ("%.2a %A", "1.999, 10.0", "0x2.00p+0 0X1.4P+3"),
    ("%lld %llx", "-1ll << 40, 1ull << 36", "-1099511627776 1000000000"),
    ("%llu", "~0ull", "18446744073709551615"),
    ("%ld %hd %hhu", "-3l, 70000, 300", "-3 4464 44"),
    ("%d %f %lld %d", "1, 2.0, 3ll, 4", "1 2.000000 3 4"),
    ("%*d %-*d| %.*f", "5, 42, 5, 42, 1, 2.25", "   42 42   | 2.2"),
    ("100%% %d", "1", "100% 1"),
    ("%f %f %5.1f", "1.0 / zero, -1.0 / zero, 1.0 / zero", "inf -inf   inf"),
    ("%p", "(void*)0x1234abcdll", "0x1234abcd"),
    ("nothing", "", "nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "arguments", "wanted"), CASES)
def test_formats(form: str, arguments: str, wanted: str, capsys: Any):
    comma = ", " if arguments else ""
    source = f"""extern "C" __global__ void k(int* out, double zero) {{
        const double pi = 3.14159;
        out[0] = printf("{form}\\n"{comma}{arguments}); }}"""
    got = run(source, ("f64", 0.0), threads=1)
    assert capsys.readouterr().out == wanted + "\n"
    stars = form.count("*")
    assert got[0] == form.replace("%%", "").count("%") + stars


def test_threads_print_in_order(capsys: Any):
    source = """extern "C" __global__ void k(int* out) {
        if (threadIdx.x % 2) printf("thread %d of %s\\n", threadIdx.x, "k"); }"""
    run(source, threads=6)
    assert capsys.readouterr().out == "".join(f"thread {n} of k\n" for n in (1, 3, 5))


def test_an_unknown_conversion_is_an_error():
    source = """extern "C" __global__ void k(int* out) { printf("%n", out); }"""
    with pytest.raises(TilusError, match="this conversion of printf"):
        run(source, threads=1)
