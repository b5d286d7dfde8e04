"""Mistakes in calls of kernels, in Script classes and in autotuning, and what users are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tilus
from tilus import float16, float32, int32, uint4b
from tilus.errors import TilusError


class AddConstant(tilus.Script):
    """p[i] += c for n elements, a block each."""

    def __call__(self, n: int32, p: ~float32, c: int = 3, scale: float16 = 1.0):
        self.attrs.blocks, self.attrs.warps = n, 1
        g = self.global_view(p, dtype=float32, shape=[n])
        x = self.load_global(g, offsets=[self.blockIdx.x], shape=[1])
        self.store_global(g, x * scale + c, offsets=[self.blockIdx.x])


def failure(action: Callable[[], Any]) -> TilusError:
    with pytest.raises(TilusError) as caught:
        action()
    return caught.value


X = torch.zeros(4)
SIGNATURE = "(n: int32, p: ~float32, c: int, scale: float16)"

# arguments, words of the message, where, words of found + expected + hint
CALLS: dict[str, tuple[tuple[Any, ...], str, str | None, str]] = {
    "nothing": ((), "missing a required argument: 'n'", None, SIGNATURE),
    "too few": ((4,), "missing a required argument: 'p'", None, SIGNATURE),
    "too many": ((4, X, 1, 2.0, 3), "too many positional arguments", None, SIGNATURE),
    "float for int32": ((4.0, X), "n is of the wrong kind", "n: int32", "float 4.0"),
    "text for int32": (("4", X), "n is of the wrong kind", "n: int32", "str '4'"),
    "bool for int32": ((True, X), "n is of the wrong kind", "n: int32", "bool True"),
    "int32 overflow": ((2**40, X), "constant out of range of int32", "n: int32", "2147483647"),
    "negative grid": ((-1, X), "the grid does not fit in x", "def __call__", "0..2147483647"),
    "float16 tensor": ((4, X.half()), "p has another dtype", "p: ~float32", "~float16"),
    "uint4b tensor": (
        (4, tilus.zeros(4, dtype=uint4b)),
        "p has another dtype",
        "p: ~float32",
        "a tensor of uint4b",
    ),
    "complex tensor": ((4, X.to(torch.complex64)), "torch.complex64", "p: ~float32", "float16"),
    "list": ((4, [1.0]), "p is of the wrong kind", "p: ~float32", "a tensor of float32"),
    "array": ((4, np.zeros(4)), "p is of the wrong kind", "p: ~float32", "torch.from_numpy(p)"),
    "None": ((4, None), "p is of the wrong kind", "p: ~float32", "NoneType None"),
    "transposed": ((4, torch.zeros(8, 2).t()), "not contiguous", "p: ~float32", "p.contiguous()"),
    "expanded": ((4, torch.zeros(1).expand(4)), "not contiguous", "p: ~float32", "strides [0]"),
    "sparse": ((4, X.to_sparse()), "not contiguous", "p: ~float32", "torch.sparse_coo"),
    "meta": ((4, X.to("meta")), "no engine runs kernels on this device", None, "tensors on meta"),
    "too small": ((5, X), "g reaches outside the memory of p", "self.load_global(", "its 16 bytes"),
    "float for int": ((4, X, 2.5), "c is of the wrong kind", "c: int", "a compile-time constant"),
    "text for int": ((4, X, "2"), "c is of the wrong kind", "c: int", "a compile-time constant"),
    "bool for int": ((4, X, True), "c is of the wrong kind", "c: int", "a compile-time constant"),
    "text for float16": ((4, X, 3, "x"), "scale is of the wrong kind", "scale: float16", "str 'x'"),
    "float16 overflow": ((4, X, 3, 1e9), "out of range of float16", "scale: float16", "65504"),
}


@pytest.mark.parametrize("case", CALLS.values(), ids=list(CALLS))
def test_a_call_that_does_not_fit(case: tuple[tuple[Any, ...], str, str | None, str]):
    arguments, message, place, notes = case
    error = failure(lambda: AddConstant()(*arguments))
    assert message in error.message
    assert notes in f"{error.found}\n{error.expected}\n{error.hint}"
    if place is None:
        assert error.location is None
    else:
        assert error.location is not None
        assert __file__ == error.location.file
        column = error.location.column
        assert error.location.source_line()[column:].startswith(place)


def test_an_unknown_keyword_argument():
    error = failure(lambda: AddConstant()(4, X, step=2))
    assert "unexpected keyword argument 'step'" in error.message
    assert error.expected == SIGNATURE


@pytest.mark.parametrize("n", [4, np.int32(4), np.int64(4)])
def test_numbers_of_numpy_are_numbers(n: Any):
    x = torch.zeros(4)
    AddConstant()(n, x, np.int8(2))
    assert [2.0] * 4 == x.tolist()


def test_an_empty_tensor_is_zero_blocks():
    AddConstant()(0, torch.zeros(0))


def test_many_blocks():
    x = torch.zeros(70_000)
    AddConstant()(70_000, x)
    assert bool((x == 3).all())


# ---- classes ------------------------------------------------------------------------------------


class NoSuperInit(tilus.Script):
    def __init__(self):
        self.block = 16

    def __call__(self, n: int32):
        self.attrs.blocks, self.attrs.warps = n, 1


class NoKernel(tilus.Script):
    pass


class LambdaKernel(tilus.Script):
    __call__ = lambda self, n: None  # noqa: E731


class AsyncKernel(tilus.Script):
    async def __call__(self, n: int32):
        pass


class SetsInstruction(tilus.Script):
    def __init__(self):
        super().__init__()
        self.load_global = 3


class SetsRange(tilus.Script):
    def __init__(self):
        super().__init__()
        self.range = 3


def test_init_must_call_that_of_script():
    error = failure(lambda: NoSuperInit()(1))
    assert "NoSuperInit.__init__ does not call super().__init__()" in error.message
    assert error.hint == "make it the first line of __init__"


@pytest.mark.parametrize("cls", [NoKernel, tilus.Script])
def test_a_script_needs_a_kernel(cls: type[tilus.Script]):
    for call in (lambda: cls()(1), lambda: cls().compile()):
        error = failure(call)
        assert f"{cls.__name__} has no kernel" in error.message
        assert error.hint == "define __call__(self, ...)"


@pytest.mark.parametrize("cls", [LambdaKernel, AsyncKernel])
def test_a_kernel_is_a_function_with_def(cls: type[tilus.Script]):
    error = failure(lambda: cls()(1))
    assert "cannot be compiled" in error.message
    assert error.expected == "a function defined with def"


def test_a_kernel_without_source():
    namespace: dict[str, Any] = {"tilus": tilus}
    exec(
        "class Typed(tilus.Script):\n"
        "    def __call__(self, n: tilus.int32):\n"
        "        self.attrs.blocks, self.attrs.warps = 1, 1\n",
        namespace,
    )
    error = failure(lambda: namespace["Typed"]()(1))
    assert "the source of Typed.__call__ cannot be read" in error.message
    assert "define the Script in a file" in (error.hint or "")


@pytest.mark.parametrize(("cls", "name"), [(SetsInstruction, "load_global"), (SetsRange, "range")])
def test_attributes_cannot_be_called_as_the_language_is(cls: type[tilus.Script], name: str):
    error = failure(cls)
    assert f"self.{name} is part of the language and cannot be set" in error.message
    assert error.hint == "give the attribute another name"


def test_methods_cannot_be_called_as_the_language_is():
    error = failure(lambda: type("Ranged", (tilus.Script,), {"range": lambda self: None}))
    assert "self.range is part of the language and cannot be set" in error.message


@pytest.mark.parametrize("name", ["load_global", "sync", "dot"])
def test_instructions_cannot_run_on_the_host(name: str):
    error = failure(lambda: getattr(AddConstant(), name)(1))
    assert f"self.{name} is an instruction of kernels and cannot run on the host" in error.message
    assert error.hint == "use it inside __call__"


@pytest.mark.parametrize("name", ["exp", "blockIdx", "attrs", "range", "static_assert"])
def test_the_language_has_no_meaning_on_the_host(name: str):
    error = failure(lambda: getattr(AddConstant(), name))
    assert f"self.{name} is part of the language of kernels" in error.message
    assert not hasattr(AddConstant(), name)


def test_other_attributes_are_missing_as_in_python():
    with pytest.raises(AttributeError, match="'AddConstant' object has no attribute 'block_n'"):
        _ = AddConstant().block_n


def test_init_arguments_that_do_not_fit():
    error = failure(lambda: AddConstant(16))
    assert "AddConstant: too many positional arguments" in error.message
    assert "AddConstant(self)" in (error.expected or "")


# ---- inlined methods ----------------------------------------------------------------------------


class Recursive(tilus.Script):
    def power(self, x, k):
        return x if k == 0 else self.power(x, k - 1)

    def __call__(self, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        self.power(n, 3)


class ReturnsFromLoop(tilus.Script):
    def first(self, n):
        for i in range(n):
            return i
        return n

    def __call__(self, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        self.first(n)


class MissesArgument(tilus.Script):
    def twice(self, x):
        return 2 * x

    def __call__(self, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        self.twice()


class CallsItself(tilus.Script):
    def __call__(self, n: int32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        self(n)


class StoresOnCondition(tilus.Script):
    def bump(self, g):
        self.store_global(g, self.load_global(g, offsets=[0], shape=[1]) + 1, offsets=[0])
        return 1

    def __call__(self, n: int32, p: ~float32):
        self.attrs.blocks, self.attrs.warps = 1, 1
        g = self.global_view(p, dtype=float32, shape=[1])
        m = self.bump(g) if n > 3 else 0
        self.printf("%d", m)


INLINED: dict[type[tilus.Script], tuple[str, str]] = {
    Recursive: ("power calls itself", "return x if k == 0 else self.power(x, k - 1)"),
    ReturnsFromLoop: ("returns from inside a run-time loop or branch", "return i"),
    MissesArgument: ("twice: missing a required argument: 'x'", "self.twice()"),
    CallsItself: ("n is of the wrong kind", "def __call__(self, n: int32):"),
    StoresOnCondition: ("evaluated on a condition", "m = self.bump(g) if n > 3 else 0"),
}


@pytest.mark.parametrize("cls", INLINED, ids=lambda c: c.__name__)
def test_methods_that_cannot_be_inlined(cls: type[tilus.Script]):
    message, line = INLINED[cls]
    arguments = (1, X) if cls is StoresOnCondition else (1,)
    error = failure(lambda: cls()(*arguments))
    assert message in error.message
    assert error.hint or error.expected
    assert error.location is not None
    assert line == error.location.source_line().strip()


# ---- autotuning ---------------------------------------------------------------------------------


def tuned(*axes: tuple[Any, Any], **attributes: Any) -> type[tilus.Script]:
    class Tuned(tilus.Script):
        def __init__(self, a: int, b: int = 2):
            super().__init__()

        def __call__(self, n: int32):
            self.attrs.blocks, self.attrs.warps = 1, 1

    for name, value in attributes.items():
        setattr(Tuned, name, value)
    cls: Any = Tuned
    for names, choices in axes:
        cls = tilus.autotune(names, choices)(cls)
    return cls


AUTOTUNE: dict[str, tuple[Callable[[], Any], str, str]] = {
    "unknown": (lambda: tuned(("c", [1])), "has no argument c", "a, b"),
    "no choice": (lambda: tuned(("a", [])), "needs names and choices", "'a', []"),
    "no name": (lambda: tuned(("", [1])), "needs names and choices", "autotune("),
    "names of another type": (lambda: tuned((5, [1])), "needs names and choices", "5, [1]"),
    "choices of another type": (lambda: tuned(("a", 5)), "needs names and choices", "'a', 5"),
    "tuned twice": (lambda: tuned(("a", [1]), ("a", [2])), "a is tuned twice", "one decorator"),
    "too few values": (lambda: tuned(("a, b", [1])), "another number of values", "['a', 'b']"),
    "too many values": (lambda: tuned(("a, b", [(1, 2, 3)])), "another number", "(1, 2, 3)"),
    "given by keyword": (lambda: tuned(("a", [1]))(a=1), "both tuned and given", "leave"),
    "given by position": (
        lambda: tuned(("a", [1]))(1),
        "multiple values for argument 'a'",
        "Tuned",
    ),
    "neither": (lambda: tuned()(), "missing a required argument: 'a'", "Tuned(self, a"),
    "incomplete schedule": (
        lambda: tuned(("a, b", [(1, 2)]), debug_schedule={"a": 1})(),
        "debug_schedule must give every tuned argument",
        "a, b",
    ),
    "schedule of another type": (
        lambda: tuned(("a", [1]), debug_schedule=3)(),
        "debug_schedule must give every tuned argument",
        "3",
    ),
}


@pytest.mark.parametrize("case", AUTOTUNE.values(), ids=list(AUTOTUNE))
def test_autotuning_that_cannot_be(case: tuple[Callable[[], Any], str, str]):
    action, message, notes = case
    error = failure(action)
    assert message in error.message
    assert notes in f"{error.found}\n{error.expected}\n{error.hint}"
