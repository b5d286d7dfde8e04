"""The command line: what each subcommand prints, and what a mistake is told."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tilus
from tilus.cli import main
from tilus.config import SETTINGS

EXAMPLES = Path(__file__).parents[2] / "examples"
VECTOR_ADD = str(EXAMPLES / "01_vector_add.py")
QUANTIZED = str(EXAMPLES / "09_quantized_matmul.py")

DOUBLE = """\
kernel double(n: int32, x_ptr: ~int4b, y_ptr: ~float16) blocks=[(n + 31) // 32] warps=1:
    gx: global int4b[n] = global_view(x_ptr)
    gy: global float16[n] = global_view(y_ptr)
    x: int4b[32] = load_global(gx, offsets=[blockIdx.x * 32], dims=[0])
    y: float16[32] = cast(x)
    z: float16[32] = elementwise("add", [y, y])
    store_global(gy, z, offsets=[blockIdx.x * 32], dims=[0])
"""


@pytest.fixture
def double(tmp_path):
    path = tmp_path / "double.tir"
    path.write_text(DOUBLE)
    return str(path)


def assignments(**values):
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


VECTORS = assignments(
    n=50, x_ptr="arange:float32[50]", y_ptr="ones:float32[50]", out_ptr="float32[50]"
)


def failure(capsys, *argv):
    """What an error prints; nothing else may."""
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err


# ---- the command itself --------------------------------------------------------------------------


def test_help_ends_with_every_setting(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert 0 == exit.value.code
    table = capsys.readouterr().out.partition("settings:")[2]
    assert [s.variable for s in SETTINGS] == re.findall(r"`(TILUS_\w+)`", table)


def test_version(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert (0, f"tilus {tilus.__version__}\n") == (exit.value.code, capsys.readouterr().out)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["build"], "invalid choice: 'build'"),
        (["run", "add.tir", "--set", "n"], "'n' is not of the form NAME=VALUE"),
        (["run", "add.tir", "--set", "3=n"], "'3=n' is not of the form NAME=VALUE"),
        (["demo", "--m", "0"], "'0' is not a positive integer"),
        (["demo", "--group-size", "many"], "'many' is not a positive integer"),
        (["demo", "--random", "--gguf", "f"], "not allowed with argument --random"),
        (["layout", "spatial(2)", "--view", "rear"], "invalid choice: 'rear'"),
    ],
)
def test_usage_errors_exit_with_2(capsys, argv, message):
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert 2 == exit.value.code
    assert message in capsys.readouterr().err


def test_debug_shows_where_an_error_comes_from(capsys, monkeypatch):
    monkeypatch.setenv("TILUS_DEBUG", "1")
    assert 1 == main(["layout", "spatial(2"])
    assert "Traceback" in capsys.readouterr().err


def test_a_bad_setting_is_an_error_like_others(capsys, monkeypatch):
    monkeypatch.setenv("TILUS_DEBUG", "loud")
    assert "TILUS_DEBUG has a bad value" in failure(capsys, "run", VECTOR_ADD, *VECTORS)


def test_the_module_runs_and_a_closed_pipe_is_no_error():
    command = [sys.executable, "-m", "tilus", "layout", "spatial(256, 64)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert b"register_layout" in process.stdout.readline()
        process.stdout.close()
        assert b"" == process.stderr.read()


# ---- layout --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["local(2, 1).spatial(1, 2)"],
            "register_layout([2, 2], [2, 2], [1], [0]): [2, 2], 2 threads, 2 each\n"
            "0: 0 | 1: 0\n0: 1 | 1: 1\n",
        ),
        (
            ["spatial(2).local(2)", "--view", "contents"],
            "register_layout([4], [2, 2], [0], [1]): [4], 2 threads, 2 each\n"
            "thread | i = 0 | i = 1\n     0 |     0 |     1\n     1 |     2 |     3\n",
        ),
        (
            ["shared_column_major(2, 2)"],
            "shared_layout([2, 2], [2, 2], [1, 2]): [2, 2]\n0 | 2\n1 | 3\n",
        ),
    ],
)
def test_layout_draws(capsys, argv, expected):
    assert 0 == main(["layout", *argv])
    assert expected == capsys.readouterr().out


def test_layout_writes_an_image(capsys, tmp_path):
    path = tmp_path / "mma.svg"
    assert 0 == main(["layout", "local(2,1).spatial(8,4).local(1,2)", "--svg", str(path)])
    assert f"written to {path}" in capsys.readouterr().out
    assert path.read_text().startswith("<svg") and path.read_text().count("<rect") == 16 * 8 + 1


@pytest.mark.parametrize(
    ("argv", "messages"),
    [
        (["local(2,1).spatal(8)"], ["spatal is not an operation", "      | ^^^^^^^^^^^^^^^^^\n"]),
        (["local(2"], ["this is not a layout", "'(' was never closed", "     ^"]),
        (["global_row_major([4, 4])"], ["only register and shared layouts have drawings"]),
        (["shared_row_major(4, 4)", "--view", "contents"], ["leave --view contents out"]),
        (["spatial(2)", "--svg", "/nowhere/at/all.svg"], ["/nowhere/at/all.svg cannot be written"]),
    ],
)
def test_layout_errors(capsys, argv, messages):
    error = failure(capsys, "layout", *argv)
    for message in messages:
        assert message in error


# ---- show ----------------------------------------------------------------------------------------


def passes_shown(text):
    return re.findall(r"^# (\w+)", text, re.MULTILINE)


def test_show_prints_the_program_after_each_pass(capsys, double):
    assert 0 == main(["show", double])
    out = capsys.readouterr().out
    expected = ["source", *(step.name for step in tilus.passes.PIPELINE)]
    assert expected == passes_shown(out)
    assert out.startswith(f"# source\n{DOUBLE}\n")
    assert "x: int4b[32] @ register_layout" in out


def test_show_diff_prints_what_changed(capsys, double):
    assert 0 == main(["show", double, "--diff"])
    inferred = re.search(r"# infer_layout\n(.*?)\n\n", capsys.readouterr().out, re.DOTALL)
    assert inferred is not None
    changed = [line for line in inferred[1].split("\n") if line[0] in "+-"]
    assert ["--- before", "+++ after"] == changed[:2]
    assert "-    y: float16[32] = cast(x)" in changed
    assert any(line.startswith("+    y: float16[32] @ register_layout") for line in changed)


def test_show_constructs_a_script(capsys):
    argv = [f"{QUANTIZED}:PackTiles", "--init", "dtype=int3b", "--init", "block_k=16"]
    values = assignments(n=64, k=32, codes_ptr="int3b[32,64]", tiles_ptr="uint8[768]")
    assert 0 == main(["show", *argv, *values])
    out = capsys.readouterr().out
    assert "blocks=[2]" in out and "codes: int3b[16, 64] = load_global" in out


def test_what_show_prints_runs(capsys, tmp_path):
    assert 0 == main(["show", VECTOR_ADD, *VECTORS])
    source = capsys.readouterr().out.partition("\n# ")[0]
    path, result = tmp_path / "add.tir", tmp_path / "out.npy"
    path.write_text(source)
    assert 0 == main(["run", str(path), *VECTORS, "--save", f"out_ptr={result}"])
    assert np.array_equal(np.arange(50, dtype=np.float32) + 1, np.load(result))


# ---- run -----------------------------------------------------------------------------------------


def test_run_prints_the_time_and_what_changed(capsys, double):
    values = assignments(n=18, x_ptr="arange:int4b[18]", y_ptr="float16[18]")
    assert 0 == main(["run", double, *values, "--print", "y_ptr"])
    printed, _, rest = capsys.readouterr().out.partition("double: compiled in ")
    numbers = [int(x) for x in re.findall(r"-?\d+(?=\.)", printed)]
    assert [0, 2, 4, 6, 8, 10, 12, 14, -16, -14, -12, -10, -8, -6, -4, -2, 0, 2] == numbers
    assert re.match(r"[\d.]+ ms, ran in [\d.]+ ms\n", rest)
    assert ["y_ptr", "float16[18]", "-16", "14", "-0.777778", "0"] == rest.splitlines()[-1].split()


def test_run_takes_and_writes_files(capsys, double, tmp_path):
    source, result = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(source, np.array([1, -2, 7, -8]))
    values = assignments(n=4, x_ptr=f"{source}:int4b", y_ptr="float16[4]")
    argv = ["run", double, *values, "--engine", "interpreter"]
    assert 0 == main([*argv, "--save", f"y_ptr={result}", "--save", f"x_ptr={source}"])
    assert [2, -4, 14, -16] == np.load(result).tolist()
    assert np.load(result).dtype == np.float16
    assert [1, -2, 7, -8] == np.load(source).tolist()  # int4b, which NumPy lacks, as its values


def test_run_of_a_script_and_its_defaults(capsys, tmp_path):
    path = tmp_path / "fill.py"
    path.write_text(
        "import tilus\n"
        "from tilus import float32\n"
        "class Fill(tilus.Script):\n"
        "    def __call__(self, y_ptr: ~float32, value: float = 2.5):\n"
        "        self.attrs.blocks = 1\n"
        "        self.attrs.warps = 1\n"
        "        g = self.global_view(y_ptr, dtype=float32, shape=[8])\n"
        "        r = self.register_tensor(dtype=float32, shape=[8], init=value)\n"
        "        self.store_global(g, r, offsets=[0])\n"
    )
    assert 0 == main(["run", str(path), *assignments(y_ptr="float32[8]")])
    summary = capsys.readouterr().out.splitlines()[-1]
    assert ["y_ptr", "float32[8]", "2.5", "2.5", "2.5", "0"] == summary.split()
    assert 0 == main(["run", str(path), *assignments(y_ptr="float32[8]", value="0")])
    assert capsys.readouterr().out.endswith("\nno tensor argument changed\n")


def test_runs_repeat_with_a_seed(capsys, tmp_path):
    values = assignments(n=9, x_ptr="randn:float32[9]", y_ptr="float32[9]", out_ptr="float32[9]")
    saved = [tmp_path / f"{i}.npy" for i in range(3)]
    for path, seed in zip(saved, (1, 1, 2), strict=True):
        argv = ["run", VECTOR_ADD, *values, "--seed", str(seed), "--save", f"out_ptr={path}"]
        assert 0 == main(argv)
    first, second, third = (np.load(path) for path in saved)
    assert np.array_equal(first, second) and not np.array_equal(first, third)


@pytest.mark.parametrize(
    ("argv", "messages"),
    [
        (["none.tir"], ["none.tir cannot be read", "No such file"]),
        (["kernel.cu"], ["kernel.cu is no kernel", "FILE.py:Class"]),
        (["DOUBLE"], ["double needs more arguments", "n: int32, x_ptr: ~int4b, y_ptr: ~float16"]),
        (["DOUBLE", "--init", "a=1"], ["has no constructor", "--set instead"]),
        (["DOUBLE", *assignments(k=1)], ["double has no parameter k", "n: int32"]),
        (["DOUBLE", *assignments(n=1), *assignments(n=2)], ["n is given twice"]),
        (
            ["DOUBLE", *assignments(n=1, x_ptr="zeroes:int4b[4]")],
            ["no tensor source 'zeroes'", "x_ptr=zeroes:int4b[4]", "      ^^^^^", "zeros, ones"],
        ),
        (["DOUBLE", *assignments(x_ptr="int4[4]")], ["unknown data type 'int4'", "int4b?"]),
        (
            ["DOUBLE", *assignments(x_ptr="rand:int4b[4]")],
            ["x_ptr=rand:int4b[4]", "rand makes floats, not int4b"],
        ),
        (["DOUBLE", *assignments(x_ptr="randint:f16[4]")], ["randint makes integers"]),
        (["DOUBLE", *assignments(x_ptr="ones:int1b[4]")], ["constant out of range of int1b"]),
        (["DOUBLE", *assignments(x_ptr="none.npy")], ["none.npy cannot be read"]),
        (
            ["DOUBLE", *assignments(n=4, x_ptr="int5b[4]", y_ptr="float16[4]")],
            ["x_ptr is of the wrong kind", "int5b[4]", "a tensor of int4b"],
        ),
        (
            ["DOUBLE", *assignments(n=4, x_ptr="7", y_ptr="float16[4]")],
            ["x_ptr is of the wrong kind", "randn:float16[16,512]"],
        ),
        (
            ["DOUBLE", *assignments(n="true", x_ptr="int4b[4]", y_ptr="float16[4]")],
            ["n is of the wrong kind", "True", "a value of int32"],
        ),
        (
            ["DOUBLE", *assignments(n="2.5", x_ptr="int4b[4]", y_ptr="float16[4]")],
            ["2.5 is no value of int32"],
        ),
        (
            ["DOUBLE", *assignments(n=4, x_ptr="int4b[4]", y_ptr="float16[4]"), "--print", "n"],
            ["double has no tensor argument n", "x_ptr, y_ptr"],
        ),
        (
            ["DOUBLE", *assignments(n=4, x_ptr="int4b[4]", y_ptr="float16[4]"), "--engine", "cuda"],
            ["the cuda engine runs on CUDA tensors"],
        ),
        (
            [
                "DOUBLE",
                *assignments(n=4, x_ptr="int4b[4]", y_ptr="float16[4]"),
                "--save",
                "y_ptr=/nowhere/y.npy",
            ],
            ["/nowhere/y.npy cannot be written"],
        ),
        (
            ["DOUBLE", *assignments(n=40, x_ptr="int4b[4]", y_ptr="float16[40]")],
            ["double.tir:4:"],
        ),
        (
            [f"{QUANTIZED}:PackTiles", "--init", "dtype=int99"],
            ["PackTiles cannot be constructed: AttributeError", "dtype=int99", "09_quantized"],
        ),
        ([QUANTIZED], ["defines several kernels", "PackTiles, QuantizedMatmul", "name one: "]),
        ([f"{QUANTIZED}:Pack"], ["has no kernel Pack", "PackTiles, QuantizedMatmul"]),
        ([f"{QUANTIZED}:PackTiles"], ["missing a required argument: 'dtype'"]),
        ([VECTOR_ADD, *assignments(n=4)], ["VectorAdd needs more", "x_ptr: ~float32"]),
        (
            [VECTOR_ADD, *assignments(n=4, x_ptr="f16[4]", y_ptr="f32[4]", out_ptr="f32[4]")],
            ["x_ptr has another dtype", "01_vector_add.py:18:", "a tensor of float32"],
        ),
    ],
)
def test_run_errors(capsys, double, argv, messages):
    error = failure(capsys, "run", *(double if word == "DOUBLE" else word for word in argv))
    for message in messages:
        assert message in error


@pytest.mark.parametrize(
    ("source", "messages"),
    [
        ("x = (\n", ["is not Python: '(' was never closed", "bad.py:1:5", "1 | x = ("]),
        (
            "def f():\n    return 1 / 0\nf()\n",
            ["cannot be imported: ZeroDivisionError", "bad.py:2:5", "    2 |     return 1 / 0"],
        ),
        ("import tilus\n", ["defines no kernels", "one subclass of tilus.Script"]),
        (
            "from tilus import Script\nclass Empty(Script):\n    pass\n",
            ["Empty has no kernel", "define __call__"],
        ),
        ("import tilus\ntilus.float_(9, 9)\n", ["there is no such low-precision float"]),
    ],
)
def test_mistakes_in_a_python_file(capsys, tmp_path, source, messages):
    path = tmp_path / "bad.py"
    path.write_text(source)
    error = failure(capsys, "run", str(path))
    for message in messages:
        assert message in error


def test_a_mistake_in_a_text_program_has_its_place(capsys, tmp_path):
    path = tmp_path / "bad.tir"
    path.write_text(DOUBLE.replace("cast(x)", "cost(x)"))
    assert "bad.tir:5:" in failure(capsys, "show", str(path))


def test_a_file_that_is_no_text(capsys, tmp_path):
    path = tmp_path / "bad.tir"
    path.write_bytes(b"\xff\xfe\x00")
    assert "bad.tir cannot be read" in failure(capsys, "show", str(path))
