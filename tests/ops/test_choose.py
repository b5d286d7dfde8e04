"""Which schedule a launch takes: the user's results, then the package's table, then the rules."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tilus
from tilus import TilusError
from tilus.dtypes import LOW_PRECISION, DataType, bfloat16, float16, uint4b, uint8
from tilus.ops import choose, small_m, tuned
from tilus.ops.blobs import TOKENS, BlobFormat
from tilus.ops.choose import (
    LARGE,
    SMALL,
    Small,
    choose_large,
    choose_small,
    key_for,
    large_for,
    large_of,
    large_point,
    large_space,
    small_for,
    small_of,
    small_point,
    small_space,
    split_of,
)
from tilus.ops.lean import bucket, lean_form
from tilus.ops.quantize import quantize
from tilus.ops.shapes import MODELS, Layer, model_of
from tilus.ops.tune import Operands, problem_of, rank, space, tune
from tilus.ops.tuned import TABLES, table_of
from tilus.runtime import launch
from tilus.runtime.devices import DEVICES, H100, device_of
from tilus.runtime.tune import Tuner
from tilus.runtime.tuning_check import difference
from tilus.runtime.tuning_log import Entry, Measured, TuningLog, leading_bits, slug, user_log
from tilus.target import nvgpu_sm90a
from tilus.utils import cdiv

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
GPU = "NVIDIA H100 80GB HBM3"
VERSIONS = {"driver": "13.0", "tilus": "0.1.0"}
MOST = 227 * 1024


def blobs_of(n=8192, k=8192, dtype: DataType = uint4b, group=128, **options) -> BlobFormat:
    return BlobFormat(dtype, float16, n, k, group, float16, **options)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """An H100, as far as torch is asked; results and tables are in `tmp_path`."""
    monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda device: SimpleNamespace(multi_processor_count=132),
    )
    monkeypatch.setattr(choose, "versions", lambda: VERSIONS)
    monkeypatch.setattr(tuned, "TABLES", tmp_path)
    table_of.cache_clear()
    choose.device_for.cache_clear()
    choose._warn_once.cache_clear()
    yield tmp_path
    table_of.cache_clear()
    choose.device_for.cache_clear()


def entry_of(kernel, blobs, tokens, point, **changes) -> Entry:
    key = key_for(kernel, blobs, tokens, GPU, {**VERSIONS, **changes})
    return Entry(key, (Measured(point, "timed", None, 2.0, 1.0, 3.0, 5),), point, complete=True)


def ship(folder: Path, *entries: Entry) -> None:
    table = TuningLog(folder / "h100.json", GPU)
    for entry in entries:
        table.update(entry)


# ---- without tables ------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("tokens", [8, 16, 32, 64])
@pytest.mark.parametrize(("n", "k"), [(8192, 8192), (64, 8192), (4096, 4096), (64, 64)])
def test_few_tokens_follow_the_rule(gpu, device, tokens, n, k):
    blobs = blobs_of(n, k, group=64)
    columns = next((c for c in (1, 2, 4) if tokens <= 8 * c), 4)
    split = split_of(blobs, cdiv(tokens, 8 * columns), 132)
    expected = Small(columns, small_m.Schedule.of(blobs, split, MOST))
    assert expected == small_for(blobs, tokens, device) == choose_small(blobs, tokens, 132, MOST)


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("tokens", [64, 1024])
def test_many_tokens_follow_the_model(gpu, device, tokens):
    assert choose_large(blobs_of(), tokens, H100) == large_for(blobs_of(), tokens, device)


# ---- tables --------------------------------------------------------------------------------------

FEW = {"columns": 1, "warps": 4, "stages": 7, "split": 2}
OTHER_FEW = {"columns": 1, "warps": 5, "stages": 4, "split": 1}


def test_the_users_results_come_first_then_the_table(gpu):
    blobs = blobs_of()
    ship(gpu, entry_of(SMALL, blobs, 8, FEW, driver="12.0"))  # whatever measured it
    assert Small(1, small_m.Schedule(4, 7, 2)) == small_for(blobs, 8, CUDA)
    user_log(GPU).update(entry_of(SMALL, blobs, 8, OTHER_FEW))
    assert Small(1, small_m.Schedule(5, 4, 1)) == small_for(blobs, 8, CUDA)


def test_many_tokens_look_up_too(gpu):
    blobs = blobs_of()
    usual, other = (s for s in (choose_large(blobs, 256, H100), large_space(blobs, 256, H100)[0]))
    assert usual != other
    user_log(GPU).update(entry_of(LARGE, blobs, 256, large_point(other)))
    assert other == large_for(blobs, 256, CUDA)
    assert usual == large_for(blobs, 256, CPU)


@pytest.mark.parametrize(
    ("blobs", "tokens", "device"),
    [
        (blobs_of(), 16, CUDA),
        (blobs_of(n=8256), 8, CUDA),
        (blobs_of(k=4096), 8, CUDA),
        (blobs_of(group=64), 8, CUDA),
        (blobs_of(dtype=uint8), 8, CUDA),
        (blobs_of(has_zeros=True), 8, CUDA),
        (BlobFormat(uint4b, bfloat16, 8192, 8192, 128, float16), 8, CUDA),
        (BlobFormat(uint4b, float16, 8192, 8192, 128, bfloat16), 8, CUDA),
        (blobs_of(), 8, CPU),
    ],
    ids=["tokens", "n", "k", "group", "dtype", "zeros", "activations", "scales", "the CPU"],
)  # fmt: skip
def test_results_are_for_their_problem_alone(gpu, blobs, tokens, device):
    ship(gpu, entry_of(SMALL, blobs_of(), 8, FEW))
    assert choose_small(blobs, tokens, 132, MOST) == small_for(blobs, tokens, device)


@pytest.mark.parametrize("changes", [{"driver": "12.9"}, {"tilus": "0.0.9"}], ids=str)
def test_the_users_results_are_for_their_versions(gpu, changes):
    user_log(GPU).update(entry_of(SMALL, blobs_of(), 8, FEW, **changes))
    assert choose_small(blobs_of(), 8, 132, MOST) == small_for(blobs_of(), 8, CUDA)


def test_unfinished_results_are_not_taken(gpu):
    entry = entry_of(SMALL, blobs_of(), 8, FEW)
    user_log(GPU).update(Entry(entry.key, entry.points, entry.best))
    assert choose_small(blobs_of(), 8, 132, MOST) == small_for(blobs_of(), 8, CUDA)


@pytest.mark.parametrize(
    "point",
    [
        {},
        {**FEW, "more": 1},
        {**FEW, "warps": "4"},
        {**FEW, "warps": 0},
        {**FEW, "warps": 9},
        {**FEW, "columns": 3},
        {**FEW, "stages": 1},
        {**FEW, "stages": 99},
        {**FEW, "split": 9},
        {**FEW, "split": True},
    ],
    ids=str,
)
def test_points_that_do_not_fit_are_warned_of_once(gpu, point):
    blobs, log = blobs_of(), user_log(GPU)
    log.update(entry_of(SMALL, blobs, 8, point))
    with pytest.warns(RuntimeWarning, match="a schedule that does not fit its kernel"):
        assert choose_small(blobs, 8, 132, MOST) == small_for(blobs, 8, CUDA)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ship(gpu, entry_of(SMALL, blobs, 8, FEW))
        table_of.cache_clear()
        assert Small(1, small_m.Schedule(4, 7, 2)) == small_for(blobs, 8, CUDA)


def test_a_large_point_that_does_not_fit(gpu):
    blobs = blobs_of()
    point = {**large_point(choose_large(blobs, 256, H100)), "stages": 9}
    user_log(GPU).update(entry_of(LARGE, blobs, 256, point))
    with pytest.warns(RuntimeWarning, match="does not fit"):
        assert choose_large(blobs, 256, H100) == large_for(blobs, 256, CUDA)


@pytest.mark.parametrize("device", DEVICES.values(), ids=lambda device: device.name)
def test_the_shipped_tables_are_sound(device):
    """Each holds what fits its kernel, under the keys that are looked up."""
    path = TABLES / f"{slug(device.name)}.json"
    facts = json.loads(path.read_text())
    assert device_of(facts["device"]) is device and facts["note"]
    entries = TuningLog(path, facts["device"]).entries()
    assert len(entries) == len(facts["entries"])
    room = device.target.properties.shared_memory_per_block
    for entry in entries.values():
        assert entry.complete and entry.key.kernel in (SMALL, LARGE) and entry.best is not None
        shape, dtypes = entry.key.shape, map(tilus.dtype_from_name, entry.key.dtypes.values())
        weight, x, scales = dtypes
        blobs = BlobFormat(
            weight, x, shape["n"], shape["k"], shape["group"], scales, bool(shape["zeros"])
        )
        assert bucket(shape["m"]) == shape["m"] == leading_bits(shape["m"])
        small = small_of(entry.best, blobs, room)
        assert (small or large_of(entry.best, blobs, shape["m"], device, room)) is not None


def test_devices_without_a_table():
    assert table_of("NVIDIA GeForce GTX 1080") is None
    assert {path.stem for path in TABLES.glob("*.json")} == {slug(name) for name in DEVICES}


# ---- spaces --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [8, 16, 32, 64])
@pytest.mark.parametrize("dtype", [uint4b, uint8], ids=str)
@pytest.mark.parametrize(("n", "k"), [(8192, 8192), (64, 64), (3584, 4096)])
def test_the_space_for_few_tokens(dtype, tokens, n, k):
    blobs = blobs_of(n, k, dtype, group=64)
    found = small_space(blobs, tokens, 132, MOST)
    assert choose_small(blobs, tokens, 132, MOST) == found[0]
    assert len(found) == len(set(found))
    assert all(cut == small_of(small_point(cut), blobs, MOST) for cut in found)
    assert {cut.columns for cut in found} == {c for c in (1, 2, 4) if c <= max(1, tokens // TOKENS)}


@pytest.mark.parametrize("tokens", [64, 256, 4096])
def test_the_space_for_many_tokens(tokens):
    found = large_space(blobs_of(), tokens, H100)
    assert all(s == large_of(large_point(s), blobs_of(), tokens, H100, None) for s in found)
    assert choose_large(blobs_of(), tokens, H100) in found


def test_the_matmul_has_a_hundred_points_and_ranking_compiles_none(monkeypatch):
    monkeypatch.setattr(launch, "compile_source", None)
    problem = problem_of(Layer("o", 8192, 8192), uint4b, 1)
    ranked = rank(problem, H100)
    assert 100 <= len(ranked) <= 500
    seconds = [choice.prediction(H100).seconds for choice in ranked]
    assert sorted(seconds) == seconds and len({str(c.point) for c in ranked}) == len(ranked)


def test_the_first_point_is_what_runs_untuned():
    few, many = (problem_of(Layer("o", 8192, 8192), uint4b, m) for m in (1, 256))
    assert choose_small(few.blobs, 8, 132, MOST) == space(few, H100)[0].cut
    assert choose_large(many.blobs, 256, H100) == space(many, H100)[0].cut
    assert ("small_matmul", "large_matmul") == (few.kernel, many.kernel)


# ---- problems ------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero points"])
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_a_problem_has_the_form_of_a_weight(dtype, symmetric):
    """Its results are found by calls with weights from `quantize`."""
    weight = quantize(torch.randn(64, 128), dtype, 64, symmetric)
    form = lean_form(weight, float16)
    layer = Layer("x", 64, 128)
    if form is None:
        with pytest.raises(TilusError, match="nothing to tune"):
            problem_of(layer, dtype, 1, group=64, symmetric=symmetric)
    else:
        assert form == problem_of(layer, dtype, 1, group=64, symmetric=symmetric).form


def test_groups_divide_k():
    with pytest.raises(TilusError, match="does not divide K"):
        problem_of(Layer("x", 64, 100), uint4b, 1)


def test_shapes_of_models():
    """q, k and v, and gate and up, are one weight each; as the models' own files have them."""
    assert [(layer.n, layer.k) for layer in model_of("GEMMA-2-9b").layers] == [
        (8192, 3584), (3584, 4096), (28672, 3584), (3584, 14336),
    ]  # fmt: skip
    assert [(layer.n, layer.k) for layer in model_of("qwen2.5-32b").layers] == [
        (7168, 5120), (5120, 5120), (55296, 5120), (5120, 27648),
    ]  # fmt: skip
    assert 3 == len(MODELS)
    with pytest.raises(TilusError, match="not known") as info:
        model_of("llama-7b")
    assert "llama-70b" in str(info.value)


# ---- tuning --------------------------------------------------------------------------------------


class Clock:
    """A timer for which candidates are the faster the later they come."""

    def __init__(self):
        self.runs = 0

    def time(self, runs, repeats):
        for run in runs:
            run.calls[0]()
            self.runs += 1
        return [[1e-3 / (n + 1)] * repeats for n in range(len(runs))]


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero points"])
@pytest.mark.parametrize("dtype", [uint4b, tilus.float6_e3m2, tilus.float8_e5m2], ids=str)
def test_random_operands_are_multiplied_right(monkeypatch, dtype, symmetric):
    """The reference is torch's, the candidates run in the interpreter."""
    monkeypatch.setenv("TILUS_ENGINE", "interpreter")
    problem = problem_of(Layer("x", 80, 128), dtype, 3, group=64, symmetric=symmetric)
    operands = Operands.random(problem, CPU, l2_bytes=10_000)
    assert sum(packed.nbytes for packed in operands.packed) > 3 * 10_000
    candidate = operands.candidate(space(problem, H100)[0], nvgpu_sm90a)
    assert difference(candidate.result(), operands.reference()) is None
    assert bool(operands.out.isfinite().all()) and float(operands.out.abs().max()) > 0.05


@pytest.mark.parametrize("tokens", [1, 33])
def test_the_matmul_is_tuned_and_the_result_is_taken(gpu, monkeypatch, tokens):
    monkeypatch.setenv("TILUS_ENGINE", "interpreter")
    monkeypatch.setattr(launch, "target_of", lambda device: nvgpu_sm90a)
    monkeypatch.setattr("tilus.ops.tune.versions", lambda: VERSIONS)
    problem = problem_of(Layer("x", 64, 256), uint4b, tokens, group=64)
    tuner = Tuner(Clock(), user_log(GPU), keep=3, within=1.0, repeats=3)
    entry = tune(problem, CPU, tuner, l2_bytes=0)
    assert entry.complete and {"timed", "slow"} >= {one.state for one in entry.points}
    assert 3 <= len(entry.points) <= 4 and entry.pruned > 0
    assert entry == tune(problem, CPU, tuner, l2_bytes=0)
    assert {"m": problem.tokens, "n": 64, "k": 256, "group": 64, "zeros": 0} == entry.key.shape
    usual = space(problem, H100)[0].point
    assert entry.best != usual
    if problem.kernel == SMALL:
        assert entry.best == small_point(small_for(problem.blobs, problem.tokens, CUDA))
    else:
        assert entry.best == large_point(large_for(problem.blobs, problem.tokens, CUDA))
