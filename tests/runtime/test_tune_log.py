"""Tuning logs: keys, buckets, files that several write to, and files that are damaged."""

from __future__ import annotations

import json
import threading
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilus
from tilus import TilusError
from tilus.runtime.tuning_log import (
    Entry,
    Key,
    Measured,
    TuningLog,
    leading_bits,
    user_log,
    write_log,
)

GPU = "NVIDIA H100 80GB HBM3"


def key_of(**changes) -> Key:
    facts = {
        "kernel": "f", "digest": "d", "shape": {"m": 16}, "dtypes": {"x": "float16"},
        "device": GPU, "driver": "13.0", "tilus": "0.1.0",
    }  # fmt: skip
    return Key(**{**facts, **changes})


def entry_of(key: Key, split: int = 1, **changes) -> Entry:
    point = {"split": split}
    facts = {
        "points": (
            Measured(point, "timed", None, 10.5, 10.0, 11.0, 5),
            Measured({"split": 9}, "failed", "does not fit"),
        ),
        "best": point,
        "pruned": 3,
        "date": "2025-01-31T12:00:00Z",
        "complete": True,
    }
    return Entry(key, **{**facts, **changes})


@pytest.fixture
def log(tmp_path) -> TuningLog:
    return TuningLog(tmp_path / "log.json", GPU)


@given(st.integers(-(2**40), 2**40))
def test_a_bucket_keeps_two_leading_bits(number):
    bucket = leading_bits(number)
    assert leading_bits(bucket) == bucket and abs(bucket) <= abs(number)
    assert bin(abs(bucket)).count("1") <= 2 and abs(number) < 1.5 * abs(bucket) + 1
    assert bucket.bit_length() == number.bit_length()


def test_what_is_written_is_read(log):
    entry = entry_of(key_of())
    log.update(entry)
    assert entry == TuningLog(log.path, GPU).find(key_of())
    text = json.loads(log.path.read_text())
    assert (1, GPU) == (text["schema"], text["device"])
    (facts,) = text["entries"]
    expected = {
        "kernel": "f", "digest": "d", "shape": {"m": 16}, "dtypes": {"x": "float16"},
        "driver": "13.0", "tilus": "0.1.0", "best": {"split": 1}, "median_us": 10.5,
        "q1_us": 10.0, "q3_us": 11.0, "tried": 2, "pruned": 3, "date": "2025-01-31T12:00:00Z",
        "complete": True,
    }  # fmt: skip
    assert expected == {name: facts[name] for name in expected}
    assert {"point": {"split": 9}, "state": "failed", "reason": "does not fit"} == facts["points"][
        1
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"kernel": "g"}, {"digest": "e"}, {"shape": {"m": 24}}, {"dtypes": {"x": "bfloat16"}},
        {"driver": "13.1"}, {"tilus": "0.2.0"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_every_part_of_a_key_counts(log, change):
    log.update(entry_of(key_of()))
    other = key_of(**change)
    assert log.find(other) is None
    same_problem = set(change) & {"digest", "driver", "tilus"}
    assert bool(same_problem) == (log.for_problem(other) is not None)


def test_the_order_of_names_does_not_matter(log):
    log.update(entry_of(key_of(shape={"m": 1, "n": 2})))
    assert log.find(key_of(shape={"n": 2, "m": 1})) is not None


def test_what_others_wrote_meanwhile_is_kept(log):
    other = TuningLog(log.path, GPU)
    assert log.find(key_of()) is None and other.find(key_of()) is None
    log.update(entry_of(key_of()))
    other.update(entry_of(key_of(kernel="g"), 2))
    assert {"f", "g"} == {entry.key.kernel for entry in log.entries().values()}


def test_a_complete_entry_is_not_replaced_by_an_unfinished_one(log):
    log.update(entry_of(key_of()))
    log.update(entry_of(key_of(), 2, complete=False))
    assert {"split": 1} == log.find(key_of()).best
    log.update(entry_of(key_of(), 2))
    assert {"split": 2} == log.find(key_of()).best


def test_threads_lose_nothing(tmp_path):
    logs = [TuningLog(tmp_path / "log.json", GPU) for _ in range(4)]

    def write(log, start):
        for number in range(start, 40, 4):
            log.update(entry_of(key_of(kernel=f"k{number}")))

    threads = [threading.Thread(target=write, args=(log, n)) for n, log in enumerate(logs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 40 == len(logs[0].entries())
    assert {"log.json", "log.lock"} == {path.name for path in tmp_path.iterdir()}


# ---- damage --------------------------------------------------------------------------------------


def damaged(change) -> str:
    point = {"point": {"split": 1}, "state": "timed", "median_us": 2.0, "q1_us": 1.0, "q3_us": 3.0}
    entry = {
        "kernel": "f", "digest": "d", "shape": {"m": 16}, "dtypes": {}, "best": {"split": 1},
        "pruned": 0, "date": "", "complete": True, "driver": "13.0", "tilus": "0.1.0",
        "points": [point],
    }  # fmt: skip
    log = {"schema": 1, "device": GPU, "entries": [entry]}
    change(log, entry, point)
    return json.dumps(log)


DAMAGE = {
    "schema": lambda log, entry, point: log.update(schema=2),
    "another device": lambda log, entry, point: log.update(device="NVIDIA A100"),
    "entries": lambda log, entry, point: log.update(entries={}),
    "an entry": lambda log, entry, point: log.update(entries=[3]),
    "no kernel": lambda log, entry, point: entry.pop("kernel"),
    "shape": lambda log, entry, point: entry.update(shape={"m": "16"}),
    "a boolean extent": lambda log, entry, point: entry.update(shape={"m": True}),
    "dtypes": lambda log, entry, point: entry.update(dtypes=["float16"]),
    "no best": lambda log, entry, point: entry.update(best=None),
    "best of no points": lambda log, entry, point: entry.update(best={"split": 2}),
    "pruned": lambda log, entry, point: entry.update(pruned=-1),
    "points": lambda log, entry, point: entry.update(points=[[]]),
    "state": lambda log, entry, point: point.update(state="quick"),
    "no time": lambda log, entry, point: point.pop("median_us"),
    "a negative time": lambda log, entry, point: point.update(median_us=-1.0),
    "repeats": lambda log, entry, point: point.update(repeats="5"),
    "reason": lambda log, entry, point: point.update(reason=5),
}
TEXTS = {"nothing": "", "no JSON": "{", "a list": "[]", "binary": "\x00\x01", "deep": "[" * 99999}


def test_what_is_damaged_below_is_read_otherwise(log):
    log.path.write_text(damaged(lambda *_: None))
    assert {"split": 1} == log.find(key_of(dtypes={})).best


@pytest.mark.parametrize(
    "text",
    [*TEXTS.values(), *(damaged(change) for change in DAMAGE.values())],
    ids=[*TEXTS, *DAMAGE],
)
def test_a_damaged_file_is_named_and_not_touched(log, text):
    log.path.write_text(text)
    with pytest.raises(TilusError) as info:
        log.entries()
    assert f"{log.path} is no tuning log that can be read" == info.value.message
    assert "delete it" in info.value.hint
    with pytest.warns(RuntimeWarning, match="tuning results are not used"):
        found = log.find(key_of())
    with warnings.catch_warnings():  # one warning is enough
        warnings.simplefilter("error")
        log.update(entry_of(key_of()))
        assert [None, None, None] == [found, log.find(key_of()), log.for_problem(key_of())]
    assert text == log.path.read_text()


def test_a_file_that_appears_is_read(log):
    assert log.find(key_of()) is None
    write_log(log.path, GPU, [entry_of(key_of())])
    assert log.find(key_of()) is not None
    log.path.unlink()
    assert log.find(key_of()) is None


def test_a_place_that_cannot_be_written_is_warned_of(tmp_path):
    (tmp_path / "file").write_text("")
    log = TuningLog(tmp_path / "file" / "log.json", GPU)
    with pytest.warns(RuntimeWarning, match="tuning results are not used"):
        log.update(entry_of(key_of()))


def test_the_users_log_lies_in_the_cache_directory(tmp_path):
    with tilus.option.context(cache_dir=tmp_path), warnings.catch_warnings():
        warnings.simplefilter("error")
        log = user_log(GPU)
        log.update(entry_of(key_of()))
        assert log is user_log(GPU)
    assert tmp_path / "tuning" / "nvidia-h100-80gb-hbm3.json" == log.path
    assert log.path.exists() and 0o700 == log.path.parent.stat().st_mode & 0o777
