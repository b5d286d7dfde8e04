"""What a PTX text says: operands, instructions, variables, and a kernel of them.

    add.s32     %r3, %r1, 4;        Instruction("add", ("s32",), (Register("%r3"), ...))

Source: PTX ISA, "Syntax" and "State Spaces, Types, and Variables".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tilus.errors import Location, TilusError

CARRY = "cc"  # the modifier of an addition that hands its carry on ...
CARRY_FLAG = "%cc"  # ... in this register. Source: PTX ISA, "Extended-Precision Arithmetic"
LOADS = ("ld", "ldu")


@dataclass(frozen=True)
class Register:
    name: str


@dataclass(frozen=True)
class Special:
    """A special register, such as %tid.x."""

    name: str


@dataclass(frozen=True)
class Immediate:
    """A literal: the bit pattern of a float, or an integer."""

    value: int
    kind: str = "int"  # "int", "f32" or "f64": how the literal is written


@dataclass(frozen=True)
class Symbol:
    """A label, a parameter or a variable."""

    name: str


@dataclass(frozen=True)
class Address:
    """[base + offset]"""

    base: Register | Symbol | Immediate
    offset: int = 0


@dataclass(frozen=True)
class Vector:
    """{a, b, c, d}"""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """d|p: a value and the predicate that goes with it."""

    value: Operand
    predicate: Operand


@dataclass(frozen=True)
class Negated:
    """!p: a predicate the other way round."""

    register: Register


Operand = Negated | Register | Special | Immediate | Symbol | Address | Vector | Pair


@dataclass(frozen=True, eq=False)
class Instruction:
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    predicate: str | None
    negated: bool
    location: Location | None
    text: str
    line: int = 0  # of the PTX text, counted from 1
    used_bytes: int | None = None  # of a load: a bit for each byte, where not all are used

    @property
    def name(self) -> str:
        return ".".join((self.opcode, *self.modifiers))

    def has(self, modifier: str) -> bool:
        return modifier in self.modifiers

    def refusal(self, what: str = "this form") -> TilusError:
        """The error of an instruction whose `what` is beyond the emulator."""
        return TilusError(
            f"{what} of {self.opcode} is not emulated", found=f"{self.name} at PTX line {self.line}"
        )


@dataclass(frozen=True)
class Variable:
    """An array in shared or local memory; `size` is 0 for the dynamic shared one."""

    name: str
    size: int
    alignment: int


@dataclass(frozen=True)
class Constant:
    """A variable of the module in global or constant memory, and what it holds at first."""

    name: str
    data: bytes
    alignment: int
    space: str  # "global" or "const"


@dataclass(eq=False)
class Kernel:
    name: str
    params: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])  # (name, type)
    param_bytes: dict[str, int] = field(default_factory=dict[str, int])  # name -> size
    registers: dict[str, str] = field(default_factory=dict[str, str])  # name -> type
    shared: list[Variable] = field(default_factory=list[Variable])
    local: list[Variable] = field(default_factory=list[Variable])
    constants: list[Constant] = field(default_factory=list[Constant])
    instructions: list[Instruction] = field(default_factory=list[Instruction])
    labels: dict[str, int] = field(default_factory=dict[str, int])
