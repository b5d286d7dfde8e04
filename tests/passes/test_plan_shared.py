"""Shared-memory planning: places, reuse after free, and the block's capacity."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.passes.programs import failure, line_of, program
from tilus import target
from tilus.errors import TilusError
from tilus.ir.parser import parse_program
from tilus.ir.program import Program
from tilus.ir.tensor import SharedTensor
from tilus.ir.visit import instructions
from tilus.passes import compile_program
from tilus.passes.plan_shared import PlanShared, shared_bytes


def alloc(name: str, nbytes: int, dtype: str = "uint8") -> str:
    """Allocate `nbytes` elements, one after the other."""
    layout = f"shared_layout([{nbytes}], [{nbytes}], [1])"
    return f"{name}: shared {dtype}[{nbytes}] @ {layout} = shared_tensor()\n"


def places(result: Program) -> dict[str, int]:
    found = {}
    for instruction in instructions(result):
        if instruction.allocates_shared:
            assert isinstance(instruction.result, SharedTensor)
            found[instruction.result.name] = instruction.offset  # type: ignore[attr-defined]
    return found


def planned(body: str) -> dict[str, int]:
    return places(PlanShared()(program(body)))


def indent(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.strip("\n").split("\n"))


def test_tensors_alive_together_lie_side_by_side_in_steps_of_128_bytes():
    assert {"a": 0, "b": 128, "c_": 384} == planned(
        alloc("a", 100) + alloc("b", 129) + alloc("c_", 1)
    )


def test_what_is_freed_is_used_again_first_fit():
    body = alloc("a", 256) + alloc("b", 128) + "passes.free(a)\n" + alloc("d", 64) + alloc("e", 300)
    assert {"a": 0, "b": 256, "d": 0, "e": 384} == planned(body)


def test_a_tensor_freed_in_a_loop_is_kept_until_the_loop_ends():
    body = (
        alloc("a", 128)
        + "while c:\n"
        + indent("if c:\n    passes.free(a)\n    break\n" + alloc("b", 128))
        + alloc("d", 128)
    )
    assert {"a": 0, "b": 128, "d": 0} == planned(body)


def test_a_tensor_made_and_freed_in_each_iteration_shares_with_the_next():
    body = "while c:\n" + indent(
        alloc("a", 128) + "passes.free(a)\n" + alloc("b", 128) + "passes.free(b)"
    )
    assert {"a": 0, "b": 0} == planned(body)


def test_a_tensor_freed_in_one_branch_is_alive_in_the_other():
    body = (
        alloc("a", 128)
        + "if c:\n    passes.free(a)\nelse:\n"
        + indent(alloc("b", 128) + "passes.free(a)")
        + alloc("d", 128)
    )
    assert {"a": 0, "b": 128, "d": 0} == planned(body)


def test_narrow_elements_are_packed():
    result = PlanShared()(program(alloc("a", 100, "uint3b") + alloc("b", 8)))
    assert {"a": 0, "b": 128} == places(result)
    assert 136 == shared_bytes(result)


def test_without_shared_memory_nothing_is_needed():
    source = program("sync()")
    assert source is PlanShared()(source)
    assert 0 == shared_bytes(source)


def test_more_than_a_block_has():
    body = alloc("a", 100_000) + alloc("b", 200_000) + alloc("d", 1000)
    with target.scope(target.nvgpu_sm80):
        error = failure(PlanShared(), body)
    assert "k needs more shared memory than a block has" == error.message
    assert "301160 bytes: a 100000, b 200000, d 1000" == error.found
    assert f"at most 166912 bytes on {target.nvgpu_sm80}" == error.expected
    assert 2 == line_of(error.location)
    assert error.hint is not None
    assert "free_shared" in error.hint


def test_another_target_may_have_enough():
    body = alloc("a", 200_000)
    with target.scope(target.nvgpu_sm90):
        assert {"a": 0} == planned(body)
    with target.scope(target.nvgpu_sm86), pytest.raises(TilusError):
        planned(body)


@given(st.lists(st.tuples(st.integers(1, 700), st.integers(0, 3)), min_size=1, max_size=12))
def test_tensors_alive_together_never_overlap(steps: list[tuple[int, int]]):
    """Each step allocates, then frees the oldest one or more that are still alive."""
    lines, alive, together = "", [], []
    sizes = {}
    for number, (size, frees) in enumerate(steps):
        name = f"t{number}"
        sizes[name] = size
        lines += alloc(name, size)
        alive.append(name)
        together.append(list(alive))
        for _ in range(min(frees, len(alive))):
            lines += f"passes.free({alive.pop(0)})\n"
    result = PlanShared()(program(lines))
    offsets = places(result)
    for group in together:
        spans = sorted((offsets[t], offsets[t] + sizes[t]) for t in group)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    assert all(offset % 128 == 0 for offset in offsets.values())
    assert shared_bytes(result) == max(offsets[t] + sizes[t] for t in offsets)


def test_the_real_free_shared_gives_memory_back():
    """The planner's tests use toy instructions; this is the real pair."""
    program = parse_program("""
kernel k() blocks=[1] warps=1:
    x: float32[32] = register_tensor(init=0.0)
    a: shared float32[32] = shared_tensor()
    store_shared(a, x)
    free_shared(a)
    b: shared float32[32] = shared_tensor()
    store_shared(b, x)
""")
    assert 128 == shared_bytes(compile_program(program))


def test_the_real_free_shared_ends_a_life():
    program = parse_program("""
kernel k() blocks=[1] warps=1:
    x: float32[32] = register_tensor(init=0.0)
    a: shared float32[32] = shared_tensor()
    free_shared(a)
    store_shared(a, x)
""")
    with pytest.raises(TilusError, match="used after it was freed"):
        compile_program(program)
