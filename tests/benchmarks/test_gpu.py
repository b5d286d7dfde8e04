"""The driver of the benchmark on the CPU: products and checks are real, times are made up."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, measure, record
from benchmarks.machine import DeviceLost, machine_at_hand
from benchmarks.measure import Bench
from benchmarks.peers import PEERS
from benchmarks.shapes import STEP, Layer
from tests.benchmarks.gpu_kit import (
    SQUARE,
    WIDE,
    HalfPeer,
    LibraryPeer,
    MissingPeer,
    RaisingPeer,
    RecordedTimer,
    RefusingPeer,
    TickingClock,
    WrongPeer,
    item,
    machine,
)
from tilus.errors import TilusError

REPOSITORY = Path(__file__).parents[2]


def bench(*peers, timer=None, **options):
    return Bench(machine(timer), {peer.name: peer for peer in peers}, **options)


def by_kernel(rows):
    return {row["kernel"]: row for row in rows}


# ---- an item -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["auto", "interpreter"])
def test_a_row_of_each_peer(engine):
    timer = RecordedTimer(times=(160.0, 320.0))
    rows = bench(LibraryPeer(engine), HalfPeer(), timer=timer).measure(item(m=2))
    ours, base = rows
    assert ("tilus", "u4", 128) == (ours["kernel"], ours["dtype"], ours["group_size"])
    assert ("cublas", "f16", None) == (base["kernel"], base["dtype"], base["group_size"])
    for row in rows:
        assert record.KEYS == set(row)
        assert ("Tiny GPU", "Tiny", "o") == (row["device"], row["model"], row["layer"])
        assert (2, 64, 128, "float16") == (row["m"], row["n"], row["k"], row["activation"])
        assert 0 < row["error"] < 3
        assert row["q1_us"] <= row["median_us"] <= row["q3_us"]
    # Together more than 3 x 4,000 bytes: 3 of 4,224, or one of 16,384.
    assert (3, 1) == (ours["copies"], base["copies"])


def test_times_are_those_of_a_launch():
    timer = RecordedTimer(times=(180.0, 320.0))
    rows = by_kernel(bench(LibraryPeer(), HalfPeer(), timer=timer).measure(item()))
    assert pytest.approx(10.0) == rows["tilus"]["median_us"]  # 6 rounds over 3 copies
    assert pytest.approx(20.0) == rows["cublas"]["median_us"]
    assert pytest.approx((9.0, 11.0)) == (rows["tilus"]["q1_us"], rows["tilus"]["q3_us"])
    assert pytest.approx(20.0) == rows["tilus"]["baseline_us"]


def test_all_are_timed_together_after_each_was_tried():
    timer = RecordedTimer()
    bench(LibraryPeer(), HalfPeer(), timer=timer, repeats=7).measure(item())
    assert [(1, 1), (1, 1), (2, 7)] == [(len(runs), n) for runs, n in timer.timed]


def test_long_runs_are_repeated_less():
    timer = RecordedTimer(times=(300_000.0,))
    (row,) = bench(LibraryPeer(), timer=timer).measure(item())
    assert measure.LEAST_REPEATS < row["repeats"] == 7 < measure.REPEATS


def test_what_is_timed_runs_over_copies_of_random_numbers():
    calls = []

    class Spy(HalfPeer):
        def run(self, half, x):
            calls.append((half.data_ptr(), x))
            return super().run(half, x)

    peer = Spy(any_tokens=False)
    bench(peer, timer=RecordedTimer(calls=True)).measure(item(m=3, layers=(SQUARE,)))
    assert 1 == len(peer.prepared)  # one of 16 KB is more than 3 x 4,000 bytes
    assert all(x.shape == (3, 128) and x.count_nonzero() == x.numel() for _, x in calls)
    ours = LibraryPeer()
    bench(ours, timer=RecordedTimer(calls=True)).measure(item())
    weights = {id(weight) for weight, _ in ours.prepared}
    assert (3, 1) == (len(ours.prepared), len(weights))


def test_two_runs_multiply_the_same_numbers():
    peers = [HalfPeer(), HalfPeer()]
    for peer in peers:
        bench(peer).measure(item())
    first, second = (peer.prepared[0][0] for peer in peers)
    assert first is not second and torch.equal(first, second)


def test_what_is_checked_is_not_what_is_timed():
    stock = bench().stock
    (problem,) = bench(LibraryPeer()).problems("tilus", LibraryPeer(), item())
    checked, timed = (stock.tokens(problem, s) for s in (measure.CHECKED, measure.TIMED))
    assert not torch.equal(checked, timed)


# ---- cuBLAS has one row --------------------------------------------------------------------------


def test_the_baseline_is_timed_beside_each_and_kept_once():
    timer = RecordedTimer(times=(180.0, 320.0))
    found = bench(LibraryPeer(), HalfPeer(), timer=timer)
    for dtype in ("u4", "u2", "e4m3"):
        found.measure(item(dtype))
    assert ["tilus", "cublas", "tilus", "tilus"] == [row["kernel"] for row in found.rows]
    assert all(row["baseline_us"] == pytest.approx(20.0) for row in found.rows)


def test_a_peer_for_any_tokens_is_prepared_once():
    peers = HalfPeer(any_tokens=True), HalfPeer("other", any_tokens=False)
    found = bench(*peers)
    for m in (1, 16, 2):
        found.measure(item(m=m))
    assert [1, 3] == [len(peer.prepared) for peer in peers]
    found.measure(item(layers=(WIDE,)))
    found.measure(item(m=4))
    assert [3, 5] == [len(peer.prepared) for peer in peers]  # the first shape was let go


def test_dequantised_weights_are_let_go_after_the_check():
    """They are four bytes a weight, of each peer."""
    found = bench(HalfPeer(any_tokens=False), HalfPeer("kept"))
    lanes = [found.lane(contender, item()) for contender in found.contenders(item())]
    assert [True, False] == [lane.readies[0].first is None for lane in lanes]


# ---- what goes wrong -----------------------------------------------------------------------------


def test_a_wrong_peer_is_told_and_never_timed():
    timer = RecordedTimer()
    found = bench(LibraryPeer(), WrongPeer("wrong"), timer=timer)
    assert ["tilus"] == [row["kernel"] for row in found.measure(item())]
    (error,) = found.errors
    assert ("wrong", "check", 1, 64, 128) == tuple(
        error[key] for key in ("kernel", "doing", "m", "n", "k")
    )
    assert "found:" in error["error"]  # with its figures
    assert [1, 1] == [len(runs) for runs, _ in timer.timed]  # ours: tried, then timed


@pytest.mark.parametrize(
    ("at", "doing", "text"),
    [
        ("prepare", "prepare", "RuntimeError: out of paper"),
        ("run", "prepare", "ImportError: libpaper.so"),
        ("time", "time", "RuntimeError: capture refused"),
    ],
)
def test_a_peer_that_raises_is_told(at, doing, text):
    found = bench(LibraryPeer(), RaisingPeer("bad", at), timer=RecordedTimer(calls=True))
    rows = found.measure(item())
    assert ["tilus"] == [row["kernel"] for row in rows]
    (error,) = found.errors
    assert ("bad", doing, text) == (error["kernel"], error["doing"], error["error"])


def test_an_error_that_is_no_number_is_wrong():
    found = bench(LibraryPeer(), check=lambda *_: math.nan)
    assert [] == found.measure(item())
    assert "no number" in found.errors[0]["error"]


def test_times_that_cannot_be():
    class Backwards(RecordedTimer):
        def time(self, runs, repeats):
            return [[1.0 if repeats == 1 else -1.0] * repeats for _ in runs]

    found = bench(LibraryPeer(), timer=Backwards())
    assert [] == found.measure(item())
    assert "time together" == found.errors[0]["doing"]


def test_refusals_are_no_errors():
    found = bench(LibraryPeer(), RefusingPeer("picky"))
    rows = by_kernel(found.measure(item()))
    assert "bfloat16" == rows["picky"]["activation"]  # what it takes in place of float16
    found.measure(item("u2"))
    assert {"picky": {"u2": "no weights of u2"}} == found.refused
    assert [] == found.errors


def test_a_lost_device_ends_the_run(tmp_path, monkeypatch):
    def lost(self):
        raise DeviceLost("the GPU answers no more")

    monkeypatch.setattr("benchmarks.machine.Machine.recover", lost)
    peers = {"tilus": LibraryPeer(), "bad": RaisingPeer("bad", "run")}
    path = tmp_path / "gpu.json"
    run = gpu.Run(machine(), peers, [item(m=1), item(m=2)], path, 1e6, "test")
    with pytest.raises(DeviceLost):
        run.run()
    log = record.read(path, allow_fixture=True)
    assert "answers no more" in log["stopped"] and 2 == len(log["not_reached"])
    assert "libpaper.so" in log["errors"][0]["error"]


# ---- decoder steps -------------------------------------------------------------------------------


def test_a_decoder_step_runs_all_layers_in_turn():
    timer = RecordedTimer(times=(160.0, 320.0))
    found = bench(LibraryPeer(), HalfPeer(), timer=timer)
    deep = Layer("down", 128, 256)
    ours = by_kernel(found.measure(item(layers=(SQUARE, deep))))["tilus"]
    assert (STEP, 192, 384) == (ours["layer"], ours["n"], ours["k"])
    assert pytest.approx(20.0) == ours["median_us"]  # 8 launches of each layer in a call
    assert 2 * (64 * 128 + 128 * 256) == ours["flops"]
    launches = timer.timed[0][0][0].calls
    assert [SQUARE.k, deep.k] * ours["copies"] == [call.args[0].shape[1] for call in launches]
    single = by_kernel(found.measure(item()))["tilus"]
    assert ours["floor_us"] > single["floor_us"] and ours["predicted_us"] > single["predicted_us"]


def test_only_the_best_peers_take_the_step():
    names = ("cublas", "slow", "fast", "faster")
    timer = RecordedTimer(times=(180.0, 500.0, 900.0, 300.0, 200.0))
    found = bench(LibraryPeer(), *map(HalfPeer, names), timer=timer)
    found.measure(item())
    assert {"tilus", "cublas", "fast", "faster"} == found.best("u4")
    assert {"tilus", *names} == found.best("u2")  # nothing is known of it
    step = item(layers=(SQUARE, WIDE))
    assert ["tilus", "cublas", "fast", "faster"] == [c.name for c in found.contenders(step)]


# ---- floor and prediction ------------------------------------------------------------------------


def test_bytes_and_floor():
    (row,) = bench(LibraryPeer()).measure(item(m=2))
    codes, scales = 64 * 128 // 2, 2 * 64
    assert codes + scales + 2 * 2 * (64 + 128) == row["bytes"]
    assert pytest.approx(row["bytes"] / 4.2e6) == row["floor_us"] and "DRAM" == row["floor_binds"]


def test_only_ours_is_predicted():
    rows = by_kernel(bench(LibraryPeer(), HalfPeer()).measure(item()))
    assert rows["tilus"]["predicted_us"] > 0.5 and rows["tilus"]["binds"]
    assert rows["cublas"]["predicted_us"] is None is rows["cublas"]["binds"]


def test_a_device_that_is_not_in_the_table():
    found = Bench(machine(figures=None), {"tilus": LibraryPeer()})
    (row,) = found.measure(item())
    assert row["floor_us"] is None is row["predicted_us"]


# ---- a run and its budget ------------------------------------------------------------------------

PLAN = [item(m=1), item(m=16), item("u2", 1), item(m=1, layers=(SQUARE, WIDE)), item("e4m3", 2)]


def run(path, budget, *, peers=None, **options):
    peers = {p.name: p for p in peers or (LibraryPeer(), HalfPeer(), MissingPeer("paper"))}
    return gpu.Run(machine(), peers, PLAN, path, budget, "test", **options)


def test_the_json_is_complete_at_every_cut(tmp_path, monkeypatch):
    """What is on disk is whole after each item, and says what was not reached."""
    path, seen = tmp_path / "tiny-gpu" / "gpu.json", []
    written = record.write

    def spy(path, log):
        written(path, log)
        seen.append(record.read(path, allow_fixture=True))

    monkeypatch.setattr(gpu, "write_log", spy)
    log = run(path, 1e9).run()
    assert [5, 4, 3, 2, 1, 0] == [len(at["not_reached"]) for at in seen]
    for count, at in enumerate(seen):
        assert [str(i) for i in PLAN[count:]] == at["not_reached"]
        done = {(r["dtype"], r["m"], r["layer"]) for r in at["rows"] if r["kernel"] == "tilus"}
        assert {(i.dtype, i.m, i.layer) for i in PLAN[:count]} == done
    assert json.loads(path.read_text()) == log
    assert ["gpu.json"] == [found.name for found in path.parent.iterdir()]


def test_the_budget_cuts(tmp_path):
    path = tmp_path / "gpu.json"
    one = run(path, 1e9, clock=TickingClock())
    whole = one.run()
    half = run(path, whole["elapsed_s"] / 2, clock=TickingClock()).run()
    assert [] == whole["not_reached"]
    assert 0 < len(half["not_reached"]) < len(PLAN) and half["rows"]
    assert half["elapsed_s"] <= half["budget_s"]
    kernels = [(row["kernel"], row["dtype"], row["m"], row["layer"]) for row in whole["rows"]]
    assert kernels[: len(half["rows"])] == [
        (row["kernel"], row["dtype"], row["m"], row["layer"]) for row in half["rows"]
    ]


def test_a_budget_for_nothing(tmp_path):
    log = run(tmp_path / "gpu.json", 0.5, clock=TickingClock()).run()
    assert [] == log["rows"] and len(PLAN) == len(log["not_reached"])


def test_the_log_says_where_it_was_made(tmp_path):
    log = run(tmp_path / "gpu.json", 1e9).run()
    assert (1, True, "Tiny GPU", "0.0", "test") == tuple(
        log[key] for key in ("schema", "fixture", "device", "driver", "command")
    )
    before, after = log["clocks"]["before"], log["clocks"]["after"]
    assert "1000" == before["clocks.sm"] < after["clocks.sm"]
    assert "No module named 'paper'" == log["peers"]["paper"]["missing"]
    assert log["peers"]["tilus"]["version"] and {"tilus", "torch", "nvrtc"} <= set(log["versions"])
    assert (
        len([row for row in log["rows"] if row["kernel"] == "tilus"]) == log["model_error"]["rows"]
    )


def test_a_peer_that_always_raises_does_not_end_the_run(tmp_path):
    peers = LibraryPeer(), RaisingPeer("bad", "prepare"), WrongPeer("wrong")
    log = run(tmp_path / "gpu.json", 1e9, peers=peers).run()
    assert len(PLAN) == sum(row["kernel"] == "tilus" for row in log["rows"])
    assert {"bad", "wrong"} == {error["kernel"] for error in log["errors"]}
    assert not {"bad", "wrong"} & {row["kernel"] for row in log["rows"]}


# ---- the command ---------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_can_be_run():
    command = [sys.executable, "-m", "benchmarks.gpu"]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert (2, "") == (found.returncode, found.stdout)
    assert "times kernels on an NVIDIA GPU" in found.stderr and "make bench" in found.stderr
    assert "Traceback" not in found.stderr
    with pytest.raises(TilusError, match="NVIDIA GPU"):
        machine_at_hand()


def test_the_list_is_the_plan(capsys):
    assert 0 == gpu.main(["--list", "--smoke"])
    lines = capsys.readouterr().out.splitlines()
    assert "4 bits, few tokens, Llama:" == lines[0]
    assert "  Llama-3.3-70B o 8192 x 8192, u4, m = 1" == lines[1]
    assert "9 items" in lines
    assert all(any(line.startswith(f"{name}: ") for line in lines) for name in PEERS)


@pytest.fixture
def tiny(monkeypatch):
    """The command with small shapes, on a machine that takes the place of a GPU."""

    def command(argv, peers=None, **options):
        here = dataclasses.replace(machine(RecordedTimer((160.0, 320.0))), **options)
        monkeypatch.setattr(gpu, "machine_at_hand", lambda: here)
        usual = {"tilus": LibraryPeer(), "cublas": HalfPeer()}
        monkeypatch.setattr(gpu, "PEERS", usual if peers is None else peers)
        monkeypatch.setattr(gpu, "plan_of", lambda arguments: PLAN)
        return gpu.main(argv)

    return command


def test_a_whole_command(tiny, tmp_path, capsys):
    assert 0 == tiny(["--out", str(tmp_path), "--peers", "cublas,tilus"], fixture=False)
    out, err = capsys.readouterr()
    assert "Tiny o 64x128" in out and "Geometric means" in out and "The cost model is off by" in out
    assert len(PLAN) == len(err.splitlines()) and "Tiny o 64 x 128, u4, m = 1: tilus " in err
    log = record.read(tmp_path / "gpu.json")
    assert "python -m benchmarks.gpu --out" in log["command"] and [] == log["not_reached"]
    assert sorted(["gpu.json", *log["plots"]]) == sorted(p.name for p in tmp_path.iterdir())
    assert 3 == len(log["plots"])


def test_a_whole_command_with_made_up_times_shows_nothing(tiny, tmp_path, capsys):
    assert 2 == tiny(["--out", str(tmp_path)])
    out, err = capsys.readouterr()
    assert "" == out and "a fixture is no result" in err
    assert ["gpu.json"] == [path.name for path in tmp_path.iterdir()]
    assert json.loads((tmp_path / "gpu.json").read_text())["fixture"] is True


def test_peers_are_checked_and_not_timed(tiny, capsys, monkeypatch):
    timer = RecordedTimer()
    monkeypatch.setattr(gpu, "CHECKED_LAYER", SQUARE)
    command = ["--check", "--dtypes", "u4", "--m", "1,3"]
    assert 0 == tiny(command, timer=timer)
    lines = capsys.readouterr().out.splitlines()
    starts = [f"{name}, u4, m = {m}: " for m in (1, 3) for name in ("tilus", "cublas")]
    assert all(map(str.startswith, lines, starts)) and len(starts) == len(lines)
    assert all("times float32, " in line for line in lines) and not timer.timed


def test_peers_that_fail_the_check_are_told(tiny, capsys):
    peers = {"a": WrongPeer("a"), "b": RaisingPeer("b", "run"), "c": MissingPeer("c")}
    assert 1 == tiny(["--check", "--dtypes", "u4", "--m", "1"], peers=peers)
    wrong, raised, missing = capsys.readouterr().out.splitlines()
    assert (
        "the result of a is wrong" in wrong and "libpaper" in raised and missing.startswith("c: ")
    )


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--models", "gpt"], "no model of the benchmark"),
        (["--dtypes", "q4"], "q4"),
        (["--peers", "tilus,nobody"], "nobody"),
    ],
)
def test_what_is_not_known(capsys, argv, text):
    assert 2 == gpu.main([*argv, "--list"])
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--m", "0"], ["--budget", "0"], ["--budget", "nan"]])
def test_arguments_that_are_out_of_range(argv):
    with pytest.raises(SystemExit):
        gpu.main([*argv, "--list"])


def test_smoke_results_do_not_replace_whole_ones():
    whole, smoke = (gpu.folder_for(machine(), smoke) for smoke in (False, True))
    assert (record.RESULTS / "tiny-gpu", whole / "smoke") == (whole, smoke)
