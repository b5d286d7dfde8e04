"""PTX text to a kernel: registers, parameters, shared arrays, and instructions in order.

    add.s32     %r3, %r1, 4;        Instruction("add", ("s32",), [Register("%r3"), ...])

Source: PTX ISA, "Syntax" and "State Spaces, Types, and Variables".
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from tilus.errors import Location, TilusError


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

    @property
    def name(self) -> str:
        return ".".join((self.opcode, *self.modifiers))

    def has(self, modifier: str) -> bool:
        return modifier in self.modifiers


@dataclass(frozen=True)
class Variable:
    """An array in shared memory; `size` is 0 for the dynamic one."""

    name: str
    size: int
    alignment: int


@dataclass(eq=False)
class Kernel:
    name: str
    params: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])  # (name, type)
    registers: dict[str, str] = field(default_factory=dict[str, str])  # name -> type
    shared: list[Variable] = field(default_factory=list[Variable])
    instructions: list[Instruction] = field(default_factory=list[Instruction])
    labels: dict[str, int] = field(default_factory=dict[str, int])


_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(")
_PARAM = re.compile(
    r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+"
    r"(?:\.ptr\s+(?:\.(?:global|shared|const|local)\s+)?(?:\.align\s+\d+\s+)?)?([\w$]+)"
)
_SHARED = re.compile(
    r"\.shared\s+(?:\.align\s+(\d+)\s+)?\.[busf](8|16|32|64)\s+([\w$]+)\s*(?:\[(\d*)\])?\s*;"
)
_REG = re.compile(r"\.reg\s+\.(\w+)\s+(.*)")
_RANGE = re.compile(r"([%\w$]+)<(\d+)>$")
_LOC = re.compile(r"\.loc\s+(\d+)\s+(\d+)\s+(\d+)")
_FILE = re.compile(r'\.file\s+(\d+)\s+"([^"]*)"')
_LABEL = re.compile(r"([\w$]+):")
_ADDRESS = re.compile(r"([%\w$]+)(\+?-?(?:0x[0-9a-fA-F]+|\d+))?")
_FLOAT = re.compile(r"0([fFdD])([0-9a-fA-F]+)$")


def parse_ptx(text: str) -> Kernel:
    """The kernel of a PTX module with one entry. Raises `TilusError` naming what it cannot read."""
    body = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    files = {int(n): name for n, name in _FILE.findall(body)}
    match = _ENTRY.search(body)
    if match is None:
        raise TilusError("the PTX has no kernel", expected="a .entry")
    kernel = Kernel(match[1])
    opening = body.index("{", match.end())
    kernel.params = [(name, kind) for kind, name in _PARAM.findall(body[match.end() : opening])]
    for match in _SHARED.finditer(body):
        alignment, bits, name, count = match.groups()
        width = int(bits) // 8
        size = width * (1 if count is None else int(count or 0))
        kernel.shared.append(Variable(name, size, int(alignment or width)))
    _Reader(kernel, files).read(body[opening + 1 :])
    return kernel


class _Reader:
    def __init__(self, kernel: Kernel, files: dict[int, str]):
        self.kernel = kernel
        self.files = files
        self.location: Location | None = None
        self.scopes: list[dict[str, str]] = [{}]  # the register that a name stands for

    def read(self, body: str) -> None:
        code = ""
        for line in body.split("\n"):
            code = f"{code} {line.split('//')[0]}".strip()
            while code:
                rest = self._statement(code)
                if rest is None:  # the statement goes on in the next line
                    break
                code = rest.strip()
                if not self.scopes:  # the kernel ends here; debug sections may follow
                    return
        raise self._error(code or "the end of the text")

    def _statement(self, code: str) -> str | None:
        """Read one statement; returns the rest of the line, or None where its end is missing."""
        if code[0] == "{":
            self.scopes.append({})
            return code[1:]
        if code[0] == "}":
            self.scopes.pop()
            return code[1:]
        if match := _LABEL.match(code):
            self.kernel.labels[match[1]] = len(self.kernel.instructions)
            return code[match.end() :]
        if match := _LOC.match(code):
            self.location = Location(self.files.get(int(match[1]), "<ptx>"), int(match[2]))
            return ""
        if code.startswith((".pragma", ".file", ".section", ".shared")):
            return ""
        end = code.find(";")
        if end < 0:
            return None
        statement, rest = code[:end].strip(), code[end + 1 :]
        if match := _REG.match(statement):
            for name in match[2].split(","):
                self._declare(name.strip(), match[1])
        elif not statement.startswith("."):
            self.kernel.instructions.append(self._instruction(statement))
        else:
            raise self._error(statement)
        return rest

    def _declare(self, name: str, kind: str) -> None:
        """`%r<4>` declares %r0 to %r3. A name of inner braces is a register of its own."""
        match = _RANGE.match(name)
        names = [name] if match is None else [f"{match[1]}{n}" for n in range(int(match[2]))]
        for name in names:
            register = name
            while register in self.kernel.registers:
                register += "'"
            self.kernel.registers[register] = kind
            self.scopes[-1][name] = register

    def _register(self, name: str) -> str | None:
        """The register that a name stands for here: that of the innermost braces."""
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), None)

    def _instruction(self, statement: str) -> Instruction:
        predicate, negated = None, False
        if statement[0] == "@":
            guard, statement = statement.split(None, 1)
            negated = guard[1] == "!"
            predicate = self._register(guard[1 + negated :])
            if predicate is None:
                raise self._error(guard)
        opcode, *rest = statement.split(None, 1)
        head, *modifiers = opcode.replace("::", "_").split(".")
        operands = tuple(self._operand(o) for o in _split("".join(rest)))
        return Instruction(
            head, tuple(modifiers), operands, predicate, negated, self.location, statement
        )

    def _operand(self, text: str) -> Operand:
        if text.startswith("["):
            return self._address(text[1:-1])
        if text.startswith("{"):
            return Vector(tuple(self._operand(o) for o in _split(text[1:-1])))
        if text.startswith("!"):
            register = self._operand(text[1:])
            if not isinstance(register, Register):
                raise self._error(text)
            return Negated(register)
        if "|" in text:
            value, predicate = text.split("|")
            return Pair(self._operand(value), self._operand(predicate))
        if (register := self._register(text)) is not None:
            return Register(register)
        if text.startswith("%"):
            return Special(text)
        if match := _FLOAT.match(text):
            kind = "f32" if match[1] in "fF" else "f64"
            return Immediate(int(match[2], 16), kind)
        if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
            return Immediate(int(text.rstrip("U"), 0))
        if re.fullmatch(r"-?\d+\.\d*(e[+-]?\d+)?", text):
            return Immediate(int.from_bytes(struct.pack("<d", float(text)), "little"), "f64")
        if re.fullmatch(r"[\w$]+", text):
            return Symbol(text)
        raise self._error(text)

    def _address(self, text: str) -> Address:
        match = _ADDRESS.fullmatch(text.replace(" ", ""))
        operand = self._operand(match[1]) if match else None
        if match is None or not isinstance(operand, (Register, Symbol, Immediate)):
            raise self._error(text)
        return Address(operand, int(match[2].removeprefix("+"), 0) if match[2] else 0)

    def _error(self, text: str) -> TilusError:
        return TilusError(
            "this PTX is not understood", found=text.strip()[:100], location=self.location
        )


def _split(text: str) -> list[str]:
    """The operands of a list, at commas outside of braces and brackets."""
    parts, depth, current = list[str](), 0, ""
    for character in text:
        depth += (character in "{[(") - (character in "}])")
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    if current.strip():
        parts.append(current.strip())
    return parts
