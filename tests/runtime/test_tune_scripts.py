"""Autotuned kernels on a GPU that is played: CPU tensors, the interpreter, and a clock of our own.

What a launch takes is what the kernel's point says, so the fastest point is known.
"""

from __future__ import annotations

import json
import threading
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tilus
from tilus import TilusError, float16, float32, int32, void_p
from tilus.runtime import launch, tune, tuning_arguments, tuning_scripts
from tilus.runtime.model import Demand
from tilus.runtime.tuning_arguments import Copies, nbytes_of
from tilus.target import nvgpu_sm90a

GPU = "NVIDIA H100 80GB HBM3"


@dataclass
class Gpu:
    """What was done on it."""

    launches: list[tuple[int, Any]] = field(default_factory=list)  # warps, values
    compiled: list[int] = field(default_factory=list)
    timed: list[list[int]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    free: int = 1 << 30
    driver: str = "13.0"
    capturing: bool = False
    before: Any = None

    def compile_kernel(self, kernel, target):
        program = kernel.program
        if program.warps not in self.compiled:
            self.compiled.append(program.warps)
            self.threads.add(threading.get_ident())
        if program.warps == 16:
            raise TilusError("16 warps do not fit")

        def start(values):
            self.launches.append((program.warps, values))
            launch.interpret(program, values)

        binary = SimpleNamespace(
            resources=None, source=None, code=SimpleNamespace(key=str(program.warps))
        )
        return SimpleNamespace(launch=start, binary=binary)

    def timer(self, before, warm_ups):
        self.before = before
        return self

    def time(self, runs, repeats):
        """The more warps, the faster."""
        found = []
        for run in runs:
            self.before()
            run()
            found.append([1e-3 / self.launches[-1][0]] * repeats)
        self.timed.append([round(1e-3 / times[0]) for times in found])
        return found


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    one = Gpu()
    monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(launch, "is_compiled_for", lambda device: True)
    monkeypatch.setattr(launch, "target_of", lambda device: nvgpu_sm90a)
    monkeypatch.setattr(launch, "compile_kernel", one.compile_kernel)
    monkeypatch.setattr(tune, "compile_kernel", one.compile_kernel)
    monkeypatch.setattr(tuning_scripts, "GraphTimer", one.timer)
    monkeypatch.setattr(
        tuning_scripts, "versions", lambda: {"driver": one.driver, "tilus": "0.1.0"}
    )
    for name, value in {
        "get_device_name": lambda device: GPU,
        "get_device_properties": lambda device: SimpleNamespace(L2_cache_size=1024),
        "mem_get_info": lambda device: (one.free, one.free),
        "device": lambda device: nullcontext(),
        "is_initialized": lambda: True,
        "is_current_stream_capturing": lambda: one.capturing,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return one


@tilus.autotune("warps", [1, 4, 2])
class Scale(tilus.Script):
    """x *= by, in place."""

    def __init__(self, warps: int, by: float = 2.0):
        super().__init__()
        self.warps = warps
        self.by = by

    def __call__(self, n: int32, x_ptr: ~float32):
        self.attrs.blocks = tilus.utils.cdiv(n, 32 * self.warps)
        self.attrs.warps = self.warps
        g_x = self.global_view(x_ptr, dtype=float32, shape=[n])
        start = self.blockIdx.x * 32 * self.warps
        x = self.load_global(g_x, offsets=[start], shape=[32 * self.warps])
        self.store_global(g_x, x * self.by, offsets=[start])


def stored(tmp_path) -> list[dict[str, Any]]:
    return json.loads((tmp_path / "tuning" / "nvidia-h100-80gb-hbm3.json").read_text())["entries"]


def test_the_first_call_tunes_and_later_ones_launch(gpu: Gpu, tmp_path):
    kernel, x = Scale(), torch.arange(1.0, 129.0)
    kernel(128, x)
    assert torch.equal(torch.arange(1.0, 129.0) * 2, x)  # once, for all that tuning ran
    assert {1, 2, 4} == set(gpu.compiled) and [1, 4, 2] == gpu.timed[0]
    assert 4 == gpu.launches[-1][0] and gpu.launches[-1][1][1] is x
    assert all(values[1] is not x for _, values in gpu.launches[:-1])
    (entry,) = stored(tmp_path)
    assert ("scale", {"n": 128}, {"x_ptr": "float32"}) == (
        entry["kernel"], entry["shape"], entry["dtypes"],
    )  # fmt: skip
    assert ({"warps": 4}, 3, True) == (entry["best"], entry["tried"], entry["complete"])
    before = len(gpu.launches)
    kernel(128, x)
    assert before + 1 == len(gpu.launches) and 4 == gpu.launches[-1][0]


def test_points_are_compiled_in_threads(gpu: Gpu):
    with tilus.option.context(parallel_workers=2):
        Scale()(128, torch.ones(128))
    assert threading.get_ident() not in gpu.threads


def test_another_process_finds_the_result(gpu: Gpu):
    Scale()(128, torch.ones(128))
    gpu.timed.clear()
    gpu.compiled.clear()
    Scale()(128, torch.ones(128))
    assert ([], [4]) == (gpu.timed, gpu.compiled)


@pytest.mark.parametrize(
    ("n", "anew"), [(128, False), (144, False), (176, False), (192, True), (129, True), (64, True)]
)
def test_a_bucket_of_integers_is_tuned_once(gpu: Gpu, n: int, anew: bool):
    """129 is no multiple of 16: another program."""
    kernel = Scale()
    kernel(128, torch.ones(128))
    gpu.timed.clear()
    kernel(n, torch.ones(n))
    assert anew == bool(gpu.timed)


@pytest.mark.parametrize(
    "change",
    [
        lambda gpu, kernel: setattr(gpu, "driver", "13.1") or Scale(),
        lambda gpu, kernel: Scale(by=3.0),
        lambda gpu, kernel: setattr(kernel, "by", 3.0) or kernel,
    ],
    ids=["another driver", "another constant", "an attribute"],
)
def test_what_has_changed_is_tuned_anew(gpu: Gpu, change):
    kernel, x = Scale(), torch.ones(128)
    kernel(128, x)
    gpu.timed.clear()
    other = change(gpu, kernel)
    other(128, x)
    assert gpu.timed and torch.equal(torch.full((128,), 2 * other.by), x)


def test_an_attribute_is_set_on_every_point():
    kernel = Scale()
    kernel.by = 5.0
    assert [5.0] * 3 == [script.by for _, script in kernel._candidates]


def test_off_takes_the_first_point_or_the_stored_one(gpu: Gpu):
    with tilus.option.context(tune="off"):
        Scale()(128, torch.ones(128))
        assert ([], 1) == (gpu.timed, gpu.launches[-1][0])
    kernel = Scale()
    kernel(128, torch.ones(128))
    gpu.timed.clear()
    with tilus.option.context(tune="off"):
        Scale()(128, torch.ones(128))
        assert ([], 4) == (gpu.timed, gpu.launches[-1][0])


def test_the_option_sets_it(monkeypatch):
    monkeypatch.setattr(tilus.config, "_process_values", {})
    tilus.option.tune("off")
    assert "off" == tilus.option.get_option("tune")
    with pytest.raises(TilusError, match="bad value"):
        tilus.option.tune("on")


def test_a_capture_tunes_nothing(gpu: Gpu):
    kernel, x = Scale(), torch.ones(128)
    gpu.capturing = True
    with pytest.raises(TilusError, match="scale is not tuned yet, and a CUDA graph") as info:
        kernel(128, x)
    assert "run once what is captured" in info.value.hint and [] == gpu.launches
    gpu.capturing = False
    kernel(128, x)
    gpu.capturing, before = True, len(gpu.launches)
    kernel(128, x)
    Scale()(128, x)  # another process, say: the stored result
    assert [4, 4] == [warps for warps, _ in gpu.launches[before:]]


def test_on_the_cpu_the_first_point_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path))
    x = torch.ones(128)
    Scale()(128, x)
    assert torch.equal(torch.full((128,), 2.0), x) and [] == list(tmp_path.iterdir())


def test_points_that_do_not_fit_are_left_out(gpu: Gpu, tmp_path):
    class Fitting(tilus.Script):
        def __init__(self, warps: int):
            super().__init__()
            self.warps = warps

        def __call__(self, x_ptr: ~float32):
            self.attrs.blocks = 1
            self.attrs.warps = self.warps
            g_x = self.global_view(x_ptr, dtype=float32, shape=[32])
            self.store_global(g_x, self.load_global(g_x, offsets=[0], shape=[32]) + 1, offsets=[0])

    tilus.autotune("warps", [16, 2])(Fitting)()(torch.ones(32))
    (entry,) = stored(tmp_path)
    assert {"warps": 2} == entry["best"] and "16 warps do not fit" in str(entry["points"])


@tilus.autotune("shift", [0, 1])
class Shifted(tilus.Script):
    """The second point writes something else."""

    def __init__(self, shift: int):
        super().__init__()
        self.shift = shift

    def __call__(self, x_ptr: ~float32, y_ptr: ~float32):
        self.attrs.blocks = 1
        self.attrs.warps = 1 + self.shift
        g_x = self.global_view(x_ptr, dtype=float32, shape=[32])
        g_y = self.global_view(y_ptr, dtype=float32, shape=[32])
        x = self.load_global(g_x, offsets=[0], shape=[32])
        self.store_global(g_y, x + self.shift, offsets=[0])


def test_a_wrong_point_is_never_timed(gpu: Gpu, tmp_path):
    x, y = torch.arange(32.0), torch.zeros(32)
    Shifted()(x, y)
    assert torch.equal(x, y) and all(timed == [1] for timed in gpu.timed)
    (entry,) = stored(tmp_path)
    assert "32 of 32 elements differ" in str(entry["points"])


class Modelled(Scale):
    def tuning_demand(self, n, x_ptr):
        return Demand(132, 128, 32, 0, issue=0, read=1e9 * self.warps, in_flight=49152)


def test_a_kernel_may_tell_what_it_takes(gpu: Gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(
        tuning_scripts, "Tuner", lambda *args, **options: tune.Tuner(*args, keep=1, **options)
    )
    Modelled()(128, torch.ones(128))
    (entry,) = stored(tmp_path)
    assert (2, {"warps": 1}) == (entry["pruned"], entry["best"])  # 1 is first, and best


def test_what_it_tells_must_be_a_demand(gpu: Gpu):
    class Mistaken(Scale):
        def tuning_demand(self, n, x_ptr):
            return 3

    with pytest.raises(TilusError, match=r"Mistaken\.tuning_demand returns no demand"):
        Mistaken()(128, torch.ones(128))


@tilus.autotune("warps", [1, 2])
class Address(tilus.Script):
    def __init__(self, warps: int):
        super().__init__()
        self.warps = warps

    def __call__(self, x_ptr: void_p, y_ptr: ~float16):
        self.attrs.blocks = 1
        self.attrs.warps = self.warps


def test_addresses_are_not_tuned(gpu: Gpu):
    kernel, y = Address(), torch.ones(2).half()
    with pytest.warns(RuntimeWarning, match="address is not tuned: x_ptr is an address"):
        kernel(4096, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said once
        kernel(4096, y)
    assert ([], [1, 1]) == (gpu.timed, [warps for warps, _ in gpu.launches])


def test_without_memory_the_first_point_runs(gpu: Gpu):
    gpu.free = 8192
    with pytest.warns(RuntimeWarning, match="no memory for copies of its 65536 bytes"):
        Scale()(16384, torch.ones(16384))
    assert ([], [1]) == (gpu.timed, [warps for warps, _ in gpu.launches])


def test_a_damaged_log_stops_no_launch(gpu: Gpu, tmp_path):
    path = tmp_path / "tuning" / "nvidia-h100-80gb-hbm3.json"
    path.parent.mkdir()
    path.write_text("{")
    kernel, x = Scale(), torch.ones(128)
    with pytest.warns(RuntimeWarning, match="no tuning log that can be read"):
        kernel(128, x)
    assert 2.0 == x[0] and 4 == gpu.launches[-1][0] and "{" == path.read_text()


# ---- copies --------------------------------------------------------------------------------------


def test_copies_share_memory_as_the_originals_do():
    memory = torch.arange(64.0)
    values = [memory[:32], memory[16:48], 7, memory[:32], torch.zeros(0)]
    copies = Copies(values, 2)
    assert 48 * 4 == nbytes_of(values)
    first, second = copies.values
    for value, copy in zip(values, first, strict=True):
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, copy) and value.shape == copy.shape
            assert not value.numel() or (value.data_ptr() - copy.data_ptr()) % 256 == 0
    assert 7 == first[2] and first[0].data_ptr() == first[3].data_ptr()
    first[0][20] = -1
    assert -1 == first[1][4] and 20 == second[0][20] and 20 == memory[20]
    copies.restore()
    assert 20 == first[1][4]


def test_copies_of_packed_and_wide_types():
    packed = tilus.zeros(5, dtype=tilus.uint4b)
    wide = torch.arange(10, dtype=torch.int64)[3:]
    copies = Copies([packed, wide], 1)
    assert torch.equal(packed.storage, copies.values[0][0])
    assert torch.equal(wide, copies.values[0][1]) and torch.int64 == copies.values[0][1].dtype
    assert 256 == tuning_arguments.ALIGNMENT


# ---- on a device ---------------------------------------------------------------------------------


@pytest.mark.gpu
def test_a_kernel_is_tuned_on_a_device(monkeypatch, tmp_path):
    monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path))
    kernel, x = Scale(), torch.ones(1 << 20, device="cuda")
    kernel(1 << 20, x)
    assert bool((x == 2).all())
    (file,) = (tmp_path / "tuning").glob("*.json")
    (entry,) = json.loads(file.read_text())["entries"]
    assert 3 == entry["tried"] and entry["complete"]
