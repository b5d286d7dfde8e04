"""Asynchronous copies: what arrives, when it may be read, and every way to read too early."""

import re
from itertools import groupby

import numpy as np
import pytest
import torch

import tilus
from tests.instructions.harness import failure, run_body
from tilus.dtypes import float16, int4b, int32
from tilus.instructions.async_copy import EVICTION_PRIORITIES, CopyAsync
from tilus.ir.expr import BLOCK_IDX
from tilus.ir.instruction import Effects
from tilus.runtime.compile import compile_program_for
from tilus.target import nvgpu_sm80

X = np.arange(8 * 32).reshape(8, 32) % 50


def copied(k, values, shape, offsets, dtype=int32, **options):
    s = k("shared_tensor", dtype=dtype, shape=shape)
    s.name = "s"
    k("copy_async", k.array(values, dtype), s, offsets, **options)
    return s


def arrive(k):
    k("copy_async_wait_all")
    k("sync")


@pytest.mark.parametrize("evict", [None, *EVICTION_PRIORITIES])
@pytest.mark.parametrize("dtype", [float16, int32, int4b])
def test_a_copy_arrives(dtype, evict):
    def body(k):
        s = copied(k, X % 8, [4, 16], [2, BLOCK_IDX[0]], dtype, evict=evict)
        arrive(k)
        return k("load_shared", s)

    expected = [(X % 8)[2:6, b : 16 + b].tolist() for b in range(2)]
    assert expected == run_body(body, blocks=2).tolist()


class Copies(tilus.Script):
    """A copy of 32 rows of `nbytes` for each hint."""

    def __init__(self, hints: list[str | None], nbytes: int = 16):
        super().__init__()
        self.hints, self.columns = list(enumerate(hints)), nbytes // 4

    def __call__(self, x_ptr: ~int32, y_ptr: ~int32):
        self.attrs.blocks = 1
        self.attrs.warps = 1
        shape = [len(self.hints), 32, self.columns]
        g_x = self.global_view(x_ptr, dtype=int32, shape=shape)
        g_y = self.global_view(y_ptr, dtype=int32, shape=shape)
        s = self.shared_tensor(dtype=int32, shape=shape)
        for part, hint in self.hints:
            self.copy_async(g_x, s[part], offsets=[part, 0, 0], dims=[1, 2], evict=hint)
        self.copy_async_wait_all()
        self.sync()
        self.store_global(g_y, self.load_shared(s), offsets=[0, 0, 0])


def ptx_of(script: Copies) -> str:
    x = torch.empty(16, dtype=torch.int32)
    return compile_program_for(script.program(x, x), nvgpu_sm80).ptx


@pytest.mark.parametrize("nbytes", [4, 8, 16])
@pytest.mark.parametrize("evict", EVICTION_PRIORITIES)
def test_a_hint_is_a_policy_made_once(evict: str, nbytes: int):
    """Two copies with a hint surround one without."""
    text = ptx_of(Copies([evict, None, evict], nbytes))
    policies = re.findall(r"createpolicy\.fractional\.L2::(\w+)\.b64\s+(%rd\d+), (\S+);", text)
    assert [(evict, "1.0")] == [(priority, fraction) for priority, _, fraction in policies]
    copies = re.findall(r"cp\.async\.c[ag]\.shared\.global(\S*) .*, (\S+);", text)
    hint = (".L2::cache_hint", policies[0][1])
    assert [hint, "", hint] == [one for one, _ in groupby(c if c[0] else "" for c in copies)]


def test_each_priority_has_its_policy():
    text = ptx_of(Copies(["evict_last", "evict_first", "evict_last"]))
    policies = dict(re.findall(r"createpolicy\.fractional\.L2::(\w+)\.b64\s+(%rd\d+)", text))
    copies = re.findall(r"cp\.async\S*cache_hint .*, (\S+);", text)
    expected = [policies[name] for name in ("evict_last", "evict_first", "evict_last")]
    assert expected == [one for one, _ in groupby(copies)]


def test_without_a_hint_there_is_no_policy():
    assert "createpolicy" not in ptx_of(Copies([None]))


@pytest.mark.parametrize("hints", [[None], ["evict_first", None, "evict_last"]], ids=str)
def test_hints_change_no_value(hints: list[str | None]):
    x = torch.randint(0, 99, (len(hints), 32, 4), dtype=torch.int32)
    for engine in ("interpreter", "emulator"):
        y = torch.zeros_like(x)
        with tilus.option.context(engine=engine):
            Copies(hints)(x, y)
        assert torch.equal(x, y)


def test_few_bytes_are_copied_by_the_first_threads():
    """In whole vectors: pieces of 4 bytes for all threads would be as many instructions."""
    x = torch.arange(4 * 32 * 4, dtype=torch.int32).reshape(4, 32, 4)
    y = torch.zeros_like(x)

    class Few(tilus.Script):
        def __call__(self, x_ptr: ~int32, y_ptr: ~int32):
            self.attrs.blocks = 1
            self.attrs.warps = 4
            g_x = self.global_view(x_ptr, dtype=int32, shape=[4, 32, 4])
            g_y = self.global_view(y_ptr, dtype=int32, shape=[4, 32, 4])
            s = self.shared_tensor(dtype=int32, shape=[4, 4, 4])
            for part in self.range(8):
                self.copy_async(g_x, s, offsets=[0, part * 4, 0])
                self.copy_async_wait_all()
                self.sync()
                self.store_global(g_y, self.load_shared(s), offsets=[0, part * 4, 0])
                self.sync()

    for engine in ("interpreter", "emulator"):
        with tilus.option.context(engine=engine):
            Few()(x, y)
        assert torch.equal(x, y)
        y.zero_()
    text = compile_program_for(Few().program(x, y), nvgpu_sm80).source.text
    assert "if (tid < 16)" in text and re.findall(r"copy_async_\d+\(t?s", text) == [
        "copy_async_16(s"
    ]


@pytest.mark.parametrize("count", [16, 512, 528, 1040, 1002])
def test_threads_that_do_not_divide_the_vectors(count):
    """Of 4 float16 x 8 vectors and some: the last ones are copied by some threads alone."""
    x = np.arange(2048) % 97

    def body(k):
        s = copied(k, x, [count], [16], float16)
        arrive(k)
        return k("load_shared", s)

    assert x[16 : 16 + count].tolist() == run_body(body, warps=2).tolist()


def test_elements_out_of_bounds_become_zero():
    def body(k):
        s = copied(k, X, [4, 16], [-2, 24])
        arrive(k)
        return k("load_shared", s)

    expected = np.zeros((4, 16), int)
    expected[2:, :8] = X[:2, 24:]
    assert expected.tolist() == run_body(body).tolist()


def test_dims_choose_the_direction():
    def body(k):
        s = copied(k, X, [8], [0, 5], dims=[0])
        arrive(k)
        return k("load_shared", s)

    assert X[:, 5].tolist() == run_body(body).tolist()


def test_a_pipeline_of_two_stages():
    def body(k):
        g = k.array(X, int32)
        s = k("shared_tensor", dtype=int32, shape=[2, 32])
        total = k("register_tensor", dtype=int32, shape=[32], init=0)
        k("copy_async", g, k.index(s, 0), [0, 0])
        k("copy_async_commit_group")
        with k.loop(8) as i:
            k("copy_async", g, k.index(s, (i + 1) % 2), [i + 1, 0])
            k("copy_async_commit_group")
            k("copy_async_wait_group", 1)
            k("sync")
            k("elementwise", "add", total, k("load_shared", k.index(s, i % 2)), out=total)
            k("sync")
        return total

    assert X.sum(0).tolist() == run_body(body).tolist()


def without_wait(k):
    return k("load_shared", copied(k, X, [32], [0, 0]))


def without_sync(k):
    s = copied(k, X, [32], [0, 0])
    k("copy_async_wait_all")
    return k("load_shared", s)


def waiting_for_too_few(k):
    s = copied(k, X, [32], [0, 0])
    k("copy_async_commit_group")
    k("copy_async_wait_group", 1)
    k("sync")
    return k("load_shared", s)


def never_committed(k):
    s = copied(k, X, [32], [0, 0])
    k("copy_async_wait_group", 0)
    k("sync")
    return k("load_shared", s)


def overwritten(k):
    s = copied(k, X, [32], [0, 0])
    k("store_shared", s, k.tile(X[0], int32))


def copied_over_a_read(k):
    s = k.shared(X[0], int32)
    k("load_shared", s)
    k("copy_async", k.array(X, int32), s, [0, 0])


def freed(k):
    k("free_shared", copied(k, X, [32], [0, 0]))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (without_wait, "s is read before its asynchronous copy has been waited for"),
        (without_sync, "s is read by other threads than wrote it, without a sync in between"),
        (waiting_for_too_few, "s is read before its asynchronous copy has been waited for"),
        (never_committed, "call copy_async_wait_group(n) or copy_async_wait_all(), then sync()"),
        (overwritten, "s is written while an asynchronous copy into it is in flight"),
        (copied_over_a_read, "s is overwritten while other threads may still be reading it"),
        (freed, "s is freed while an asynchronous copy into it is in flight"),
    ],
)
def test_what_would_be_a_race_is_an_error(body, expected):
    assert expected in failure(body)


def test_a_broken_promise_about_bounds_is_found():
    message = failure(lambda k: copied(k, X, [32], [0, 1], check_bounds=False))
    assert "although check_bounds=False promises that none is" in message
    assert "at offsets [0, 1]" in message


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda k: copied(k, X, [32], [0]), "one offset for each dimension"),
        (lambda k: copied(k, X, [2, 2, 2], [0, 0]), "more dimensions than the tensor"),
        (lambda k: copied(k, X, [32], [0, 0], evict="soon"), "evict is not understood"),
        (
            lambda k: k("copy_async", k.array(X, int32), k.shared(X, float16), [0, 0]),
            "the dtypes of the two tensors differ",
        ),
        (
            lambda k: k("copy_async", k.array(X, int32), k.array(X, int32), [0, 0]),
            "a shared tensor",
        ),
        (lambda k: k("copy_async_wait_group", BLOCK_IDX[0]), "n must be known at compile time"),
        (lambda k: k("copy_async_wait_group", -1), "n must be at least 0"),
    ],
)
def test_arguments_that_do_not_fit(build, expected):
    assert expected in failure(build)


def test_a_copy_writes_its_target():
    assert Effects.ASYNC in CopyAsync.effects and not CopyAsync.effects.removable


@pytest.mark.parametrize("columns", [264, 520, 272, 1032])
def test_rows_that_end_within_a_turn_of_a_warp(columns):
    """Two warps copy a row each: the last vectors of a row by some of the lanes."""
    x = np.arange(2 * 1040).reshape(2, 1040) % 97

    def body(k):
        s = copied(k, x, [2, columns], [0, 8], float16)
        arrive(k)
        return k("load_shared", s)

    assert x[:, 8 : 8 + columns].tolist() == run_body(body, warps=2).tolist()
