"""What is timed, in which order, and how: shapes, plan, floors, statistics, graphs and clocks."""

from __future__ import annotations

import itertools
import subprocess

import pytest
import torch

from benchmarks import clocks, expect, shapes
from benchmarks.peers import Problem
from benchmarks.shapes import GEMMA, LLAMA, QWEN, STEP, plan
from tilus.dtypes import float16, uint4b
from tilus.errors import TilusError
from tilus.ops import quantize
from tilus.ops.demand import demand
from tilus.ops.lean import bucket, lean_kernel
from tilus.ops.products import Kind, LeanProduct, product_of
from tilus.ops.small_m import Epilogue
from tilus.runtime.devices import A100, H100, H200

# ---- shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (GEMMA, {"qkv": (8192, 3584), "o": (3584, 4096), "gate_up": (28672, 3584),
                 "down": (3584, 14336)}),
        (QWEN, {"qkv": (7168, 5120), "o": (5120, 5120), "gate_up": (55296, 5120),
                "down": (5120, 27648)}),
        (LLAMA, {"qkv": (10240, 8192), "o": (8192, 8192), "gate_up": (57344, 8192),
                 "down": (8192, 28672)}),
    ],
    ids=lambda x: getattr(x, "name", ""),
)  # fmt: skip
def test_shapes_of_the_models(model, expected):
    assert expected == {layer.name: (layer.n, layer.k) for layer in model.layers}
    assert all(layer.k % shapes.GROUP_SIZE == 0 for layer in model.layers)
    assert "config.json" in model.source


@pytest.mark.parametrize(
    ("model", "billions", "layers", "vocabulary", "tied"),
    [(GEMMA, 9.24, 42, 256000, True), (QWEN, 32.76, 64, 152064, False),
     (LLAMA, 70.55, 80, 128256, False)],
    ids=lambda x: getattr(x, "name", ""),
)  # fmt: skip
def test_shapes_add_up_to_the_published_sizes(model, billions, layers, vocabulary, tied):
    """Linear layers and embeddings are all parameters but a thousandth."""
    weights = layers * sum(layer.n * layer.k for layer in model.layers)
    embeddings = vocabulary * model.hidden_size * (1 if tied else 2)
    assert pytest.approx(billions * 1e9, rel=1e-3) == weights + embeddings


def test_names_of_models():
    assert (LLAMA, GEMMA) == shapes.models_named(["llama", "gemma-2"])
    for name in ("", "gpt"):
        with pytest.raises(TilusError, match="no model of the benchmark"):
            shapes.models_named([name])


# ---- plan ----------------------------------------------------------------------------------------


def test_everything_is_in_the_plan_once():
    found = plan()
    assert len(found) == len(set(found))
    assert {1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096} == {item.m for item in found}
    names = {f"{sign}{bits}" for sign in "ui" for bits in range(1, 9)}
    assert names | {"e2m1", "e3m2", "e4m3", "e5m2"} == {item.dtype for item in found}
    singles = [item for item in found if item.layer != STEP]
    assert 12 * 11 * 20 == len(singles) and 3 * 2 == len(found) - len(singles)
    identities = {(item.dtype, item.m, item.n, item.k) for item in found}
    assert len(found) == len(identities)  # by which results are compared


def test_the_most_important_comes_first():
    found = plan()
    first = found[:20]
    assert all((LLAMA.name, "u4") == (item.model, item.dtype) and item.m <= 16 for item in first)
    assert {"qkv", "o", "gate_up", "down"} == {item.layer for item in first}
    assert [(STEP, 1), (STEP, 16)] == [(item.layer, item.m) for item in found[20:22]]
    assert {32, 64, 128, 256} == {item.m for item in found[22:38]}
    assert {"u4"} == {item.dtype for item in found[22:38]}
    stages = [shapes.stage_of(item) for item in found]
    assert sorted(stages) == stages and set(range(len(shapes.STAGES) + 1)) == set(stages)

    def place(wanted):
        return next(n for n, item in enumerate(found) if wanted(item))

    widths = place(lambda item: item.dtype != "u4")
    models = place(lambda item: item.model != LLAMA.name)
    large = place(lambda item: item.m > 256)
    assert 38 == widths < models < large
    assert all(item.m <= 256 for item in found[:large])
    assert {"u4"} == {item.dtype for item in found[large:][: 2 * 12]}


def test_items_in_a_row_share_their_weights():
    """Preparing weights takes longer than timing them."""
    found = plan()
    changes = sum(
        (one.layers, one.dtype) != (other.layers, other.dtype)
        for one, other in itertools.pairwise(found)
    )
    assert changes < len(found) / 3


def test_items_read_well():
    steps = [item for item in plan() if item.layer == STEP]
    assert "Llama-3.3-70B decoder step, u4, m = 1" == str(steps[0])
    assert (44032, 25600) == (steps[-1].n, steps[-1].k)


# ---- floors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("m", "us", "binds"),
    [(1, 11.5, "DRAM"), (256, 36.2, "tensor core"), (4096, 579, "tensor core")],
)
def test_floors_of_an_h100(m, us, binds):
    """34.6 MB at 3.0 TB/s; 2 m n k at 132 SMs x 4096 a clock x 1.755 GHz."""
    work = expect.Work.of(Problem(m, 8192, 8192, "u4"), 8192 * 8192 // 2 + 2 * 8192 * 64)
    floor = expect.floor_of([work], H100)
    assert (pytest.approx(us, rel=0.01), binds) == (floor.us, floor.binds)


def test_the_peak_of_a_device():
    """312 TFLOPS of an A100's data sheet; of Hopper not the rate of mma.sync."""
    assert pytest.approx(312e12) == expect.Rates.of(A100).flops
    assert expect.Rates.of(H200).flops > 1.5 * H200.matrix_rate * 4096 * H200.per_second


def test_the_floor_of_a_step_is_the_sum():
    one = expect.Work.of(Problem(1, 64, 128, "u4"), 4224)
    two = expect.Work.of(Problem(4096, 64, 128, "u4"), 4224)
    floors = [expect.floor_of([work], H100).us for work in (one, two)]
    assert pytest.approx(sum(floors)) == expect.floor_of([one, two], H100).us


@pytest.mark.parametrize("dtype", ["u4", "i4", "e4m3", "u1"])
def test_predictions_are_those_of_the_kernel_that_runs(dtype):
    few, many = (
        expect.prediction_of(Problem(m, 8192, 8192, dtype), H100, torch.device("cpu"))
        for m in (1, 256)
    )
    assert few is not None and many is not None
    assert 0.5e-6 < few.seconds < many.seconds
    assert few.binds != "tensor core" and many.waves >= 1


@pytest.mark.parametrize("m", [1, 40, 200])
def test_a_prediction_is_of_the_schedule_that_the_library_takes(monkeypatch, m):
    seen = []

    def spy(blobs, m, schedule, **options):
        seen.append((blobs, schedule))
        return demand(blobs, m, schedule, **options)

    monkeypatch.setattr(expect, "demand", spy)
    assert expect.prediction_of(Problem(m, 512, 1024, "u4"), H200, torch.device("cpu"))
    weight = quantize(torch.randn(512, 1024, generator=torch.Generator().manual_seed(0)), uint4b)
    x = torch.empty(m, 1024, dtype=torch.float16)
    kind = Kind("emulator", -1, x.dtype, x.dtype, None, bucket(m), True)
    product = product_of(weight, kind)
    assert isinstance(product, LeanProduct) and product.form.blobs == seen[0][0]
    kernel = lean_kernel(weight, product.form, bucket(m), Epilogue(float16))
    assert [kernel.schedule] == [schedule for _, schedule in seen]


def test_what_has_no_lean_kernel_is_not_predicted(monkeypatch):
    monkeypatch.setattr(expect, "lean_form", lambda weight, activation: None)
    assert expect.prediction_of(Problem(1, 64, 128, "u4"), H100, torch.device("cpu")) is None


# ---- clocks --------------------------------------------------------------------------------------


def told(stdout, code=0):
    def run(command, **options):
        run.command = command
        return subprocess.CompletedProcess(command, code, stdout, "no such device")

    return run


def test_clocks_are_read():
    run = told("1755, 2619, 1980, 41, 322.10, 0x0000000000000000, 570.86.15\n")
    found = clocks.clocks("GPU-1", run)
    assert ("1755", "41", "570.86.15") == tuple(
        found[key] for key in ("clocks.sm", "temperature.gpu", "driver_version")
    )
    assert ["nvidia-smi", "-i", "GPU-1"] == run.command[:3]
    assert not any("=" in word and "query" not in word and "format" not in word
                   for word in run.command)  # fmt: skip


@pytest.mark.parametrize("stdout", ["", "1, 2\n", "a\nb\n"])
def test_clocks_that_cannot_be_read(stdout):
    assert ["absent"] == list(clocks.clocks("0", told(stdout)))
    assert "no such device" in clocks.clocks("0", told("", code=6))["absent"]


def test_no_program_that_reads_clocks(monkeypatch):
    def run(*_, **__):
        raise FileNotFoundError("nvidia-smi")

    assert "absent" in clocks.clocks("0", run)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert {"absent": "nvidia-smi is not installed"} == clocks.clocks("0")
