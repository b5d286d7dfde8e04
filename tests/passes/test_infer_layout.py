"""Layout inference: what follows from what, in which order, and both lines of every conflict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.passes.programs import failure, line_of, program
from tilus.ir.instruction import Instruction, Known, Proposal, Strength
from tilus.ir.layout import LayoutError, local, spatial
from tilus.ir.program import Program
from tilus.ir.tensor import RegisterTensor
from tilus.ir.visit import instructions
from tilus.passes.infer_layout import InferLayout

ROW = "register_layout([128], [128], [0], [])"
SWAPPED = "register_layout([128], [4, 32], [1, 0], [])"


# Instructions that want a layout, as strongly as their name says.
class Toy(Instruction):
    def run(self, machine: Any) -> None:
        raise NotImplementedError("a toy is never run")


@dataclass(frozen=True, eq=False)
class Should(Toy, name="infer.should"):
    """Wants rows in the threads; `mark` makes the proposals of two lines different."""

    x: RegisterTensor
    mark: int

    def layouts(self, known: Known) -> Iterator[Proposal]:
        if known.register(self.x) is None:
            layout = spatial(128 // self.mark).local(self.mark)
            workers = known.num_threads // layout.num_threads
            wide = spatial(workers, 128 // self.mark).reduce([0]).local(self.mark)
            yield Proposal(self.x, wide, Strength.SHOULD)


@dataclass(frozen=True, eq=False)
class Must(Toy, name="infer.must"):
    """Its operands have the layout in which each thread has one element of the second dimension."""

    x: RegisterTensor
    y: RegisterTensor

    def layouts(self, known: Known) -> Iterator[Proposal]:
        for tile in (self.x, self.y):
            yield Proposal(tile, spatial(4, 32) * local(1, 1), Strength.MUST)


@dataclass(frozen=True, eq=False)
class AfterShould(Toy, name="infer.after"):
    """Wants `out` like `x`, once that is known: a SHOULD that appears late."""

    out: RegisterTensor
    x: RegisterTensor

    def layouts(self, known: Known) -> Iterator[Proposal]:
        layout = known.register(self.x)
        if layout is not None and known.register(self.out) is None:
            yield Proposal(self.out, layout, Strength.SHOULD)


@dataclass(frozen=True, eq=False)
class Silent(Toy, name="infer.silent"):
    out: RegisterTensor


def inferred(body: str) -> dict[str, str]:
    """The layout of every register tile by name."""
    return layouts_of(InferLayout()(program(body)))


def layouts_of(result: Program) -> dict[str, str]:
    tiles = {
        tile
        for instruction in instructions(result)
        for tile in instruction.operands()
        if isinstance(tile, RegisterTensor)
    }
    return {tile.name: str(tile.layout) for tile in tiles}


def test_a_layout_flows_forward_and_backward():
    body = (
        "a: float32[128] = register_tensor(init=0.0)\n"
        'b: float32[128] = elementwise("neg", [a])\n'
        f"annotate_layout(b, {SWAPPED})\n"
        'd: float32[128] = elementwise("neg", [b])'
    )
    assert {"a": SWAPPED, "b": SWAPPED, "d": SWAPPED} == inferred(body)


def test_an_annotation_holds_before_its_line():
    body = (
        "a: float32[128] = register_tensor(init=0.0)\n"
        f"annotate_layout(a, {ROW})\n"
        "b: float32[128] = register_tensor(init=1.0)\n"
        "b = assign(a)\n"
        f"annotate_layout(b, {ROW})"
    )
    assert {"a": ROW, "b": ROW} == inferred(body)


def test_a_layout_given_with_the_tile_is_kept():
    assert {"a": SWAPPED} == inferred(f"a: float32[128] @ {SWAPPED} = register_tensor(init=0.0)")


def test_broadcast_operands_take_the_reduced_layout():
    body = (
        "a: float32[4, 32] = register_tensor(init=0.0)\n"
        "b: float32[1, 32] = register_tensor(init=0.0)\n"
        'd: float32[4, 32] = elementwise("add", [a, b])\n'
        "annotate_layout(d, register_layout([4, 32], [4, 32], [0, 1], []))"
    )
    assert "register_layout([1, 32], [32], [-4, 0], [])" == inferred(body)["b"]


def test_the_fast_choice_comes_before_the_default():
    """register_tensor MAY have its default, but a later line SHOULD have another."""
    body = "a: float32[128] = register_tensor(init=0.0)\ninfer.should(a, 2)"
    assert "[128], [64, 2], [-2, 0], [1]" in inferred(body)["a"]


def test_of_two_fast_choices_the_first_in_the_program_wins():
    body = "a: float32[128] = register_tensor(init=0.0)\ninfer.should(a, 4)\ninfer.should(a, 2)"
    assert "[128], [32, 4], [-4, 0], [1]" in inferred(body)["a"]


def test_a_choice_that_appears_late_is_still_taken():
    """`b` has a wish only once `a` has its default, which is given last."""
    body = (
        "b: float32[128] = register_tensor()\n"
        "a: float32[128] = register_tensor(init=0.0)\n"
        "b = infer.after(a)\n"
        f"d: float32[128] @ {SWAPPED} = register_tensor()\n"
        "d = infer.after(d)"
    )
    assert {"a": ROW, "b": ROW, "d": SWAPPED} == inferred(body)


def test_tiles_of_a_thread_group_are_spread_over_its_threads():
    body = "threads 0..32:\n    a: float32[32] = register_tensor(init=0.0)"
    assert {"a": "register_layout([32], [32], [0], [])"} == inferred(body)


def test_a_program_with_all_layouts_is_the_same_object():
    first = InferLayout()(program("a: float32[128] = register_tensor(init=0.0)"))
    assert first is InferLayout()(first)


# ---- errors -------------------------------------------------------------------------------------


def test_a_conflict_names_both_lines_and_both_layouts():
    body = (
        "a: float32[4, 32] = register_tensor(init=0.0)\n"
        "annotate_layout(a, register_layout([4, 32], [4, 32], [1, 0], []))\n"
        "b: float32[4, 32] = register_tensor(init=0.0)\n"
        "infer.must(b, a)"
    )
    error = failure(InferLayout(), body)
    assert isinstance(error, LayoutError)
    assert "two layouts are needed for a (float32[4, 32])" == error.message
    assert "infer.must needs register_layout([4, 32], [4, 32], [0, 1], [])" == error.found
    origin = "register_layout([4, 32], [4, 32], [1, 0], [])"
    assert f"{origin}, from annotate_layout" == error.expected
    ((place, note),) = error.related
    assert (4, 2) == (line_of(error.location), line_of(place))
    assert f"annotate_layout gives it {origin}" == note
    assert error.hint is not None
    assert "shared memory" in error.hint


def test_two_annotations_conflict():
    body = (
        "a: float32[128] = register_tensor(init=0.0)\n"
        f"annotate_layout(a, {ROW})\n"
        f"annotate_layout(a, {SWAPPED})"
    )
    error = failure(InferLayout(), body)
    ((place, _),) = error.related
    assert (3, 2) == (line_of(error.location), line_of(place))


def test_two_spellings_of_one_layout_agree():
    body = (
        f"a: float32[128] @ {ROW} = register_tensor(init=0.0)\n"
        "annotate_layout(a, register_layout([128], [4, 32], [0, 1], []))"
    )
    assert {"a": ROW} == inferred(body)


def test_layouts_that_do_not_let_an_instruction_run():
    body = (
        f"a: float32[128] @ {ROW} = register_tensor(init=0.0)\n"
        f'b: float32[128] @ {SWAPPED} = elementwise("neg", [a])'
    )
    error = failure(InferLayout(), body)
    assert "elementwise: threads do not hold the elements they combine" == error.message
    assert 2 == line_of(error.location)


def test_a_layout_over_another_number_of_threads():
    error = failure(
        InferLayout(),
        "a: float32[32] @ register_layout([32], [32], [0], []) = register_tensor(init=0.0)",
    )
    assert "the layout of a is over another number of threads" == error.message
    assert "32 threads: register_layout([32], [32], [0], [])" == error.found
    assert "128: as many as run this line" == error.expected


def test_a_tile_of_the_block_in_a_thread_group():
    body = (
        "a: float32[128] = register_tensor(init=0.0)\n"
        "threads 0..32:\n"
        '    b: float32[128] = elementwise("neg", [a])'
    )
    error = failure(InferLayout(), body)
    assert "over another number of threads" in error.message
    assert 3 == line_of(error.location)
    assert error.hint is not None
    assert "in a thread group, use tiles made there" in error.hint


def test_a_layout_of_another_shape():
    error = failure(
        InferLayout(),
        "a: float32[4, 16] = register_tensor(init=0.0)\nb: float32[4, 32] = register_tensor()\n"
        "infer.must(a, b)",
    )
    assert "the layout of a has another shape" == error.message
    assert ("layout of shape [4, 32]", "[4, 16]") == (error.found, error.expected)


def test_a_tile_for_which_nothing_can_be_found():
    error = failure(InferLayout(), "a: uint8[128] = infer.silent()")
    assert "no layout could be found for a (uint8[128])" == error.message
    assert "say one: self.annotate_layout(a, layout)" == error.hint
    assert 1 == line_of(error.location)


@pytest.mark.parametrize("warps", [1, 8])
def test_defaults_use_every_thread(warps: int):
    header = f"kernel k() blocks=[1] warps={warps}:\n"
    result = InferLayout()(program("a: float32[1024] = register_tensor(init=0.0)", header))
    (make,) = instructions(result)
    assert isinstance(make.result, RegisterTensor)
    assert make.result.layout is not None
    assert 32 * warps == make.result.layout.num_threads
