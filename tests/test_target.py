"""Targets: what each can do, what it supports, which one is current."""

from __future__ import annotations

import pytest
import torch

from tilus import config, target
from tilus.errors import TilusError
from tilus.target import (
    Target,
    TargetProperties,
    get_current_target,
    known_targets,
    scope,
    set_current_target,
    target_from_name,
    target_of_capability,
)

ALL = known_targets()


@pytest.fixture(autouse=True)
def no_device(monkeypatch):
    monkeypatch.setattr(config, "_process_values", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_constants():
    expected = (
        "sm80 sm86 sm87 sm89 sm90 sm90a sm100 sm100f sm100a sm103 sm103f sm103a"
        " sm110 sm110f sm110a sm120 sm120f sm120a sm121 sm121f sm121a"
    )
    assert [f"nvgpu_{name}" for name in expected.split()] == [t.name for t in ALL]
    assert all(getattr(target, t.name) is t for t in ALL)


@pytest.mark.parametrize(
    ("name", "capability", "suffix", "shared_kib"),
    [
        ("sm_80", (8, 0), "", 163),
        ("sm_86", (8, 6), "", 99),
        ("sm_87", (8, 7), "", 163),
        ("sm_89", (8, 9), "", 99),
        ("sm_90a", (9, 0), "a", 227),
        ("sm_103f", (10, 3), "f", 227),
        ("sm_110", (11, 0), "", 227),
        ("sm_121a", (12, 1), "a", 99),
    ],
)
def test_properties(name, capability, suffix, shared_kib):
    found = target_from_name(name)
    assert name == found.arch
    assert TargetProperties(capability, suffix, shared_kib * 1024) == found.properties


@pytest.mark.parametrize(
    ("current", "required", "expected"),
    [
        ("sm_90", "sm_80", True),
        ("sm_80", "sm_90", False),
        ("sm_120", "sm_90", True),  # no suffix: any higher capability, across majors
        ("sm_90a", "sm_90", True),
        ("sm_90", "sm_90a", False),
        ("sm_90a", "sm_90a", True),
        ("sm_100a", "sm_90a", False),  # a: exactly that one
        ("sm_103a", "sm_100a", False),
        ("sm_103a", "sm_100f", True),  # f: same major, at least as high
        ("sm_103f", "sm_100f", True),
        ("sm_103", "sm_100f", False),
        ("sm_100a", "sm_103f", False),
        ("sm_110a", "sm_100f", False),
        ("sm_100f", "sm_100a", False),
    ],
)
def test_supports(current, required, expected):
    assert expected is target_from_name(current).supports(target_from_name(required))


def test_supports_is_a_partial_order():
    for a in ALL:
        assert a.supports(a)
        for b in ALL:
            assert a == b or not (a.supports(b) and b.supports(a))
            for c in ALL:
                assert a.supports(c) or not (a.supports(b) and b.supports(c))


def test_the_any_targets():
    for t in ALL:
        assert t.supports(target.nvgpu_any)
        assert t.supports(target.gpgpu_any)
        assert not target.nvgpu_any.supports(t)
        assert not target.gpgpu_any.supports(t)
    assert target.nvgpu_any.supports(target.gpgpu_any)
    assert not target.gpgpu_any.supports(target.nvgpu_any)


@pytest.mark.parametrize("t", ALL, ids=str)
def test_names_are_read_in_every_spelling(t):
    short = t.arch.replace("_", "")
    for name in (t.name, t.arch, short, t.arch.upper(), f" {t.arch} ", f"nvgpu_{t.arch}"):
        assert t is target_from_name(name)


def test_an_unknown_name():
    with pytest.raises(TilusError) as caught:
        target_from_name("sm_91a")
    assert "'sm_91a'" == caught.value.found
    assert "did you mean sm_90a?" == caught.value.hint
    assert "sm_80, sm_86" in caught.value.expected


def test_current_target_without_a_device():
    assert target.nvgpu_sm90a is get_current_target()


def test_current_target_from_the_environment(monkeypatch):
    monkeypatch.setenv("TILUS_TARGET", "sm_86")
    assert target.nvgpu_sm86 is get_current_target()
    monkeypatch.setenv("TILUS_TARGET", "h100")
    with pytest.raises(TilusError, match="there is no such target"):
        get_current_target()


def test_current_target_from_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    assert target.nvgpu_sm89 is get_current_target()


@pytest.mark.parametrize(
    ("capability", "arch"),
    [
        ((8, 0), "sm_80"),
        ((8, 6), "sm_86"),
        ((8, 7), "sm_87"),
        ((8, 9), "sm_89"),
        ((9, 0), "sm_90a"),
        ((10, 0), "sm_100a"),
        ((10, 3), "sm_103a"),
        ((11, 0), "sm_110a"),
        ((12, 0), "sm_120a"),
        ((12, 1), "sm_121a"),
        ((8, 8), "sm_87"),  # not listed: the nearest lower minor that runs there
        ((12, 9), "sm_121f"),
    ],
)
def test_target_of_capability(capability, arch):
    assert arch == target_of_capability(capability).arch


def test_an_old_device():
    with pytest.raises(TilusError) as caught:
        target_of_capability((7, 5))
    assert "sm_75" == caught.value.found
    assert "sm_80 or newer" == caught.value.expected


def test_set_current_target_and_scope(monkeypatch):
    monkeypatch.setenv("TILUS_TARGET", "sm_80")
    assert target.nvgpu_sm80 is get_current_target()
    set_current_target(target.nvgpu_sm89)
    assert target.nvgpu_sm89 is get_current_target()
    with scope(target.nvgpu_sm100a):
        assert target.nvgpu_sm100a is get_current_target()
        set_current_target(target.nvgpu_sm120)
        assert target.nvgpu_sm120 is get_current_target()
    assert target.nvgpu_sm89 is get_current_target()


@pytest.mark.parametrize(
    "requirement",
    [
        target.nvgpu_any,
        target.gpgpu_any,
        Target("nvgpu", "sm_80", TargetProperties((8, 0), "", 1)),
    ],
    ids=["nvgpu_any", "gpgpu_any", "altered"],
)
def test_requirements_cannot_be_current(requirement):
    with pytest.raises(TilusError, match="cannot be compiled for"):
        set_current_target(requirement)
    with pytest.raises(TilusError, match="cannot be compiled for"), scope(requirement):
        pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TargetProperties((9, 0), "b"), "unknown feature suffix"),
        (lambda: TargetProperties((9, -1)), "a pair"),
        (lambda: TargetProperties((9, 0), "", 0), "needs shared memory"),
        (lambda: Target("cpu", "x86", TargetProperties((9, 0))), "unknown kind"),
    ],
)
def test_malformed_targets(make, message):
    with pytest.raises(TilusError, match=message):
        make()
