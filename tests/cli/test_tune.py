"""`tilus tune`: dry runs, tuning on a device that is played, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tilus.cli import build_parser, main, tune, tune_dry_run
from tilus.cli.tune import tune_on
from tilus.cli.tune_dry_run import compile_choices, dry_run
from tilus.cli.tune_request import tuning_request
from tilus.dtypes import uint4b
from tilus.errors import TilusError
from tilus.ops import choose, shapes
from tilus.ops.shapes import Layer
from tilus.ops.tune import problem_of, rank
from tilus.runtime import launch
from tilus.runtime.build import Binary
from tilus.runtime.devices import H100, RTX_4090
from tilus.runtime.tuning_log import TuningLog
from tilus.target import nvgpu_sm80, nvgpu_sm90a

GPU = "NVIDIA H100 80GB HBM3"


class Tiny:
    """A model whose layers the interpreter multiplies in no time."""

    layers = (Layer("o", 64, 128), Layer("down", 64, 192))


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(shapes, "MODELS", {"tiny": Tiny, "twin": Tiny, **shapes.MODELS})


def request_of(*words: str):
    argv = ["tune", "--shapes", "tiny", "--group-size", "64", *words]
    return tuning_request(build_parser().parse_args(argv))


# ---- what is asked for ---------------------------------------------------------------------------


def test_defaults():
    arguments = build_parser().parse_args(["tune", "--shapes", "llama-70b"])
    request = tuning_request(arguments)
    labels = [problem.label for problem in request.problems]  # type: ignore[union-attr]
    assert 4 * 3 == len(labels) and (10, None) == (request.keep, request.seconds)
    assert [
        "llama-70b qkv 10240 x 8192, u4, m <= 8",
        "llama-70b qkv 10240 x 8192, u4, m <= 16",
        "llama-70b qkv 10240 x 8192, u4, m <= 256",
    ] == labels[:3]


def test_shapes_dtypes_and_tokens_multiply():
    request = request_of("--dtypes", "u4,i6,e3m2", "--m", "1,2,16")
    labels = [problem.label for problem in request.problems]  # type: ignore[union-attr]
    assert 2 * 3 * 2 == len(labels)  # 1 and 2 tokens share a kernel
    assert ["u4", "u4", "i6", "i6", "f6e3m2", "f6e3m2"] == [
        label.split(", ")[1] for label in labels[:6]
    ]


def test_layers_of_one_shape_are_tuned_once():
    arguments = ["tune", "--shapes", "tiny,twin", "--m", "1", "--group-size", "64"]
    request = tuning_request(build_parser().parse_args(arguments))
    assert ["tiny o, twin o 64 x 128, u4, m <= 8", "tiny down, twin down 64 x 192, u4, m <= 8"] == [
        problem.label  # type: ignore[union-attr]
        for problem in request.problems
    ]


def test_zero_points_and_activations():
    request = request_of("--m", "1", "--asymmetric", "--activations", "bfloat16")
    blobs = request.problems[0].blobs  # type: ignore[union-attr]
    assert blobs.has_zeros and "bfloat16" == blobs.activation.name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shapes", "gpt"], "the shapes of this model are not known"),
        (["--dtypes", "u9"], "u9"),
        (["--device", "H100"], "they belong to --dry-run"),
        (["--target", "sm_80"], "they belong to --dry-run"),
        (["--dry-run", "--table", "t.json"], "a dry run measures nothing"),
        (["--dry-run", "--device", "H101"], "the cost model does not know this device"),
        (["--dry-run", "--target", "sm_1"], "sm_1"),
        (["--dry-run", "--device", "H100", "--target", "sm_100a"], "does not run code for sm_100a"),
    ],
)
def test_mistakes_are_named(capsys, words, message):
    assert 1 == main(["tune", "--shapes", "tiny", "--m", "1", *words])
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_a_dry_run_is_named(capsys):
    assert 1 == main(["tune", "--shapes", "llama-70b"])
    out, err = capsys.readouterr()
    assert "" == out and "an NVIDIA GPU" in err and "--dry-run" in err


@pytest.mark.parametrize("words", [["--m", "0"], ["--keep", "0"], ["--seconds", "-1"], []])
def test_arguments_that_are_none(words):
    with pytest.raises(SystemExit) as info:
        main(["tune", *(["--shapes", "tiny"] if words else []), *words])
    assert 2 == info.value.code


# ---- dry runs ------------------------------------------------------------------------------------


def test_a_dry_run_shows_what_would_be_tried(capsys):
    words = ["--m", "1", "--keep", "2", "--dry-run", "--group-size", "64", "--target", "sm_80"]
    assert 0 == main(["tune", "--shapes", "tiny", *words])
    out = capsys.readouterr().out
    assert 2 == out.count("on A100 by the cost model") == out.count("compiled for sm_80")
    lines = [line for line in out.splitlines() if line.startswith("columns=")]
    assert 2 * 2 == len(lines)
    for line in lines:
        *_, microseconds, _binds, registers, spilled = line.split()
        assert 0 < float(microseconds) < 20 and 16 < int(registers) < 256 and "0" == spilled


def test_figures_and_target():
    def found(*words: str):
        return tune_dry_run._figures(request_of("--m", "1", "--dry-run", *words))

    assert (H100, nvgpu_sm90a) == found()
    assert (RTX_4090, RTX_4090.target) == found("--device", "rtx 4090")
    assert (H100, nvgpu_sm80) == found("--device", "H100", "--target", "sm_80")


def test_a_dry_run_ends_in_time():
    (text,) = dry_run(request_of("--dry-run", "--seconds", "1e-9"))
    assert "the rest is left out" in text


def test_the_best_ten_are_compiled_and_nothing_else(monkeypatch):
    """The work before a point is timed: a kernel each, of ten, however many were ranked."""
    compiled = []
    compile_source = launch.compile_source

    def count(program, target):
        compiled.append(program.name)
        return compile_source(program, target)

    monkeypatch.setattr(launch, "compile_source", count)
    ranked = rank(problem_of(Layer("o", 128, 512), uint4b, 1), H100)
    found = compile_choices(ranked[:10], nvgpu_sm90a)
    assert len(ranked) > 30 and ["small_matmul"] * 10 == compiled
    assert ranked[:10] == [choice for choice, _ in found]
    assert all(isinstance(binary, Binary) for _, binary in found)
    assert 10 == len({binary.code.key for _, binary in found})  # type: ignore[union-attr]


def test_an_error_stands_for_what_does_not_compile(monkeypatch):
    def refuse(program, target):
        raise TilusError("too many registers")

    monkeypatch.setattr(launch, "compile_source", refuse)
    text = next(dry_run(request_of("--m", "1", "--keep", "1", "--dry-run")))
    assert "too many registers" in text


# ---- tuning --------------------------------------------------------------------------------------


class Clock:
    """All points take the same time, and the first repeat a little longer."""

    def time(self, runs, repeats):
        for run in runs:
            run.calls[0]()
        return [[1.5e-4] + [1e-4] * (repeats - 1) for _ in runs]


@pytest.fixture
def gpu(monkeypatch):
    """CPU tensors and the interpreter in the place of an H100."""
    versions = {"driver": "13.0", "tilus": "0.1.0"}
    monkeypatch.setenv("TILUS_ENGINE", "interpreter")
    monkeypatch.setattr(tune, "GraphTimer", Clock)
    monkeypatch.setattr(launch, "target_of", lambda device: nvgpu_sm90a)
    monkeypatch.setattr("tilus.ops.tune.versions", lambda: versions)
    monkeypatch.setattr(choose, "versions", lambda: versions)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: GPU)
    return torch.device("cpu")


def test_every_shape_is_tuned_and_resumed(gpu, tmp_path: Path):
    log, table = TuningLog(tmp_path / "log.json", GPU), tmp_path / "table.json"
    request = request_of("--m", "1", "--keep", "1", "--table", str(table))
    lines = list(tune_on(gpu, 0, log, request))
    assert 3 == len(lines) and f"2 of 2 shapes tuned; results in {log.path}" == lines[-1]
    assert lines[0].startswith("tiny o 64 x 128, u4, m <= 8: columns=1 ")
    assert " us (" in lines[0] and "untuned " in lines[0] and "points tried" in lines[0]
    before = log.path.read_text()
    assert lines == list(tune_on(gpu, 0, TuningLog(log.path, GPU), request))
    assert before == log.path.read_text()

    facts = json.loads(table.read_text())
    assert (GPU, 2) == (facts["device"], len(facts["entries"])) and "tilus tune" in facts["note"]
    assert [1, 1] == [len(entry["points"]) for entry in facts["entries"]]
    for entry in TuningLog(table, GPU).entries().values():
        assert entry.best == log.for_problem(entry.key).best  # type: ignore[union-attr]


def test_time_runs_out(gpu, tmp_path: Path):
    log = TuningLog(tmp_path / "log.json", GPU)
    lines = list(tune_on(gpu, 0, log, request_of("--m", "1", "--seconds", "1e-9")))
    assert ["after 1e-09 s, the rest is left for the next run"] == lines


def test_what_cannot_be_tuned_is_said_and_passed_over(gpu, tmp_path: Path):
    log = TuningLog(tmp_path / "log.json", GPU)
    request = request_of("--m", "1", "--keep", "1", "--group-size", "128")
    lines = list(tune_on(gpu, 0, log, request))
    assert "tiny o" in lines[0] and lines[1].startswith("not tuned: tiny down 64 x 192, u4")
    assert "does not divide K" in lines[1] and "1 of 2 shapes tuned" in lines[2]


def test_a_table_that_cannot_be_written(gpu, tmp_path: Path):
    log = TuningLog(tmp_path / "log.json", GPU)
    request = request_of("--m", "1", "--keep", "1", "--table", str(tmp_path / "no" / "table.json"))
    with pytest.raises(TilusError, match="cannot be written"):
        list(tune_on(gpu, 0, log, request))


def test_a_damaged_log_is_an_error(capsys, gpu, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=0)
    )
    monkeypatch.setenv("TILUS_TARGET", "sm_90a")
    path = tmp_path / "cache" / "tuning" / "nvidia-h100-80gb-hbm3.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert 1 == main(["tune", "--shapes", "tiny", "--m", "1"])
    err = capsys.readouterr().err
    assert str(path) in err and "delete it" in err


@pytest.mark.gpu
def test_tuning_on_a_device(capsys, tmp_path: Path):
    words = ["--m", "1,64", "--keep", "2", "--group-size", "64"]
    assert 0 == main(["tune", "--shapes", "tiny", *words])
    assert "4 of 4 shapes tuned" in capsys.readouterr().out
