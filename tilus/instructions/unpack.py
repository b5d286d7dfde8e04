"""Unpacking: the affine half of a cast, in the fewest instructions there are.

    codes = packed.view(dtype=uint4b, layout=layout, bits=plan.layout.repeat(4))
    w = self.unpack(codes, dtype=float16)     # plan.scale * value + plan.base[register]

What remains of the cast, a factor and an offset known at compile time, costs nothing elsewhere: the
factor goes into a scale, the offset into an accumulator. The surprise: the offset depends on the
register that holds an element, hence on where the element lies in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilus.codegen.emitter import is_packed
from tilus.dtypes import DataType
from tilus.errors import TilusError
from tilus.instructions.arguments import expect
from tilus.instructions.elementwise import layout_of, same_layout
from tilus.ir.instruction import Instruction, Known, Proposal
from tilus.ir.layout.bit_machine import Constant, Operand, Step, UnpackPlan
from tilus.ir.layout.bit_search import plan_unpack
from tilus.ir.tensor import RegisterTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine


@dataclass(frozen=True, eq=False)
class Unpack(Instruction, name="unpack", methods=((RegisterTensor, "unpack"),)):
    """`scale * value + base` of narrow codes, with a scale and bases known at compile time."""

    out: RegisterTensor
    x: RegisterTensor

    @classmethod
    def build(cls, x: Any, *, dtype: Any, plan: Any = None) -> Unpack:
        """Widen the codes `x` to `dtype`: `plan.scale * value + plan.base[register]`, exactly.

        Args:
            x: unsigned integers, floats or codes of a codebook, of 1 to 8 bits, whose bits lie as
                the plan has it: `view(..., bits=plan.layout.repeat(n))`.
            dtype: float16, bfloat16 or int8.
            plan: `plan_unpack(x.dtype, dtype)`, which is the default.

        The register is the 32-bit word of the result within its thread, counted modulo those of the
        plan. Raises `TilusError` where the bits of `x` lie otherwise.

        Example: `w = self.unpack(codes, dtype=float16)`.
        """
        tile = expect(x, RegisterTensor, "unpack: x")
        target = expect(dtype, DataType, "unpack: dtype")
        if plan is not None and plan != plan_unpack(tile.dtype, target):
            raise TilusError(
                "unpack: the plan is of other types",
                found=f"{plan.dtype} to {plan.target}"
                if isinstance(plan, UnpackPlan)
                else repr(plan),
                expected=f"plan_unpack({tile.dtype}, {target})",
            )
        return cls(RegisterTensor(target, tile.shape), tile)

    @property
    def plan(self) -> UnpackPlan:
        return plan_unpack(self.x.dtype, self.out.dtype)

    def verify(self) -> None:
        self.require(
            self.x.shape == self.out.shape,
            "the result is of another shape",
            found=f"{self.x} to {self.out}",
        )
        self.require(
            self.x.dtype.kind != "int",
            "signed codes are unpacked as unsigned ones",
            found=str(self.x),
            expected=f"uint{self.x.dtype.nbits}b: value + {2 ** (self.x.dtype.nbits - 1)}",
            hint="store signed weights offset-binary, with a zero point",
        )
        _ = self.plan

    def layouts(self, known: Known) -> Iterator[Proposal]:
        yield from same_layout(known, self.out, self.x)

    def check_layouts(self) -> None:
        plan, count = self.plan, layout_of(self.x).local_size
        self.require(
            count % plan.elements == 0,
            "threads do not hold whole words of the plan",
            found=f"{count} elements in each thread",
            expected=f"a multiple of {plan.elements}",
        )
        self.require(
            self.x.bits == plan.layout.repeat(count // plan.elements),
            "the bits of the operand do not lie as the plan has it",
            found="the little-endian stream" if self.x.bits is None else "another bit layout",
            expected=f"plan.layout.repeat({count // plan.elements})",
            hint=f"x.view(dtype={self.x.dtype}, layout=..., bits=plan.layout.repeat(...))",
        )
        self.require(
            self.x.layout == self.out.layout,
            "the result lies in another layout",
            found=f"{self.x.layout} and {self.out.layout}",
        )

    def run(self, machine: Machine) -> None:
        plan, layout = self.plan, layout_of(self.x)
        scaled = plan.scaled_values[self.x.dtype.to_bits(machine[self.x])]
        register = layout.owner_table()[1] % plan.elements // (plan.elements // len(plan.outputs))
        base = np.asarray(plan.base)[register].reshape(self.x.shape)
        # A base of 0 is not added: -0 stays.
        machine[self.out] = self.out.dtype.encode(np.where(base == 0, scaled, scaled + base))

    def emit(self, e: Emitter) -> None:
        plan = self.plan
        assert is_packed(self.x.dtype)
        out, words = e.declare(self.out), e.tile(self.x)
        name = e.define(_name(plan), unpack_function(plan, _name(plan)))
        kept = [f"{e.use('in_register')}({_hex(value)})" for value in kept_constants(plan)]
        with e.unrolled(layout_of(self.x).local_size // plan.elements) as i:
            arguments = [
                f"&{words}[{i} * {plan.words}]",
                f"reinterpret_cast<uint32_t*>({out}) + {i} * {len(plan.outputs)}",
                *kept,
            ]
            e(f"{name}({', '.join(arguments)});")


def kept_constants(plan: UnpackPlan) -> list[int]:
    """Constants that must lie in registers: an instruction has room for one, its last."""
    found: dict[int, None] = {}
    for step in plan.steps:
        constants = [one.value for one in step.operands if isinstance(one, Constant)]
        # The mask of a lop3 and the selector of a prmt stay in the instruction.
        room = {"lop3": 1, "prmt": 2, "hfma2": 1}.get(step.kind, 0)
        for place, one in enumerate(step.operands):
            if not isinstance(one, Constant) or one.value == 0 or place == room:
                continue  # the hardware has a register of zeros
            if len(constants) > 1:
                found[one.value] = None
    return list(found)


def _name(plan: UnpackPlan) -> str:
    return f"unpack_{plan.dtype.short_name}_{plan.target.short_name}"


def unpack_function(plan: UnpackPlan, name: str) -> str:
    """A CUDA function that runs the plan's program on its words."""
    names = [f"x[{n}]" for n in range(plan.words)]
    outputs = {number: f"y[{n}]" for n, number in enumerate(plan.outputs)}
    kept = {value: f"c{n}" for n, value in enumerate(kept_constants(plan))}
    parameters = ["const uint32_t* x", "uint32_t* y", *(f"uint32_t {c}" for c in kept.values())]
    lines = [
        f"// Each part of y: {plan.scale:g} * value + {', '.join(f'{b:g}' for b in plan.base)}",
        f"__device__ __forceinline__ void {name}({', '.join(parameters)}) {{",
    ]
    for number, step in enumerate(plan.steps, plan.words):
        names.append(f"r{number}")
        lines += [f"    {line}" for line in _cuda(step, names, kept, plan.target.name)]
    lines += [f"    {y} = {names[number]};" for number, y in outputs.items()]
    return "\n".join([*lines, "}", ""])


def _cuda(step: Step, names: list[str], kept: dict[int, str], target: str) -> list[str]:
    """The declaration of the last of `names`. Source: PTX ISA, "lop3", "shf", "prmt", "fma"."""
    name, operands = names[-1], [_operand(one, names, kept) for one in step.operands]
    if step.kind == "shf":
        low, high = operands
        return [f"const uint32_t {name} = __funnelshift_l({low}, {high}, {step.detail});"]
    half = {"float16": "f16x2", "bfloat16": "bf16x2"}.get(target, "")
    code = {"lop3": "lop3.b32", "prmt": "prmt.b32", "hfma2": f"fma.rn.{half}"}[step.kind]
    table = f", {step.detail:#04x}" if step.kind == "lop3" else ""
    inputs = ", ".join(f'"r"({operand})' for operand in operands)
    return [
        f"uint32_t {name};",
        f'asm("{code} %0, %1, %2, %3{table};" : "=r"({name}) : {inputs});',
    ]


def _operand(operand: Operand, names: list[str], kept: dict[int, str]) -> str:
    if isinstance(operand, Constant):
        return kept.get(operand.value, _hex(operand.value))
    return names[operand]


def _hex(value: int) -> str:
    return f"{value:#010x}u"
