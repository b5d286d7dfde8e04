"""The compiler on one screen: the passes between a script's program and code for an engine."""

from collections.abc import Iterator

from tilus.ir.program import Program
from tilus.passes.dead_code import DeadCode
from tilus.passes.hazards import CheckHazards
from tilus.passes.infer_layout import InferLayout
from tilus.passes.manager import Pass, run_passes
from tilus.passes.manager import trace as trace_passes
from tilus.passes.plan_shared import PlanShared
from tilus.passes.simplify_scalars import SimplifyScalars

PIPELINE: tuple[Pass, ...] = (
    SimplifyScalars(),  # fold and shorten scalar expressions with what value analysis knows
    DeadCode(),         # drop instructions nobody reads and branches never taken
    InferLayout(),      # give every register and shared tile a layout
    CheckHazards(),     # shared memory written and read without a sync in between
    PlanShared(),       # place shared tensors in the block's arena
)  # fmt: skip


def compile_program(program: Program) -> Program:
    """`program` ready for an engine; raises `TilusError` at the line that cannot be compiled."""
    return run_passes(program, PIPELINE)


def trace(program: Program) -> Iterator[tuple[str, Program]]:
    """(pass name, program after it), starting with ("source", program)."""
    return trace_passes(program, PIPELINE)
