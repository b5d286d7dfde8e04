"""PTX text to a kernel: registers, parameters, shared arrays, and instructions in order.

    add.s32     %r3, %r1, 4;        Instruction("add", ("s32",), [Register("%r3"), ...])

Source: PTX ISA, "Syntax" and "State Spaces, Types, and Variables".
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tilus.errors import Location, TilusError

_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(")
_PARAM = re.compile(
    r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+"
    r"(?:\.ptr\s+(?:\.(?:global|shared|const|local)\s+)?(?:\.align\s+\d+\s+)?)?([\w$]+)"
    r"(?:\[(\d+)\])?"
)
_VARIABLE = (
    r"\s+(?:\.align\s+(?P<alignment>\d+)\s+)?\.[busf](?P<bits>8|16|32|64)\s+"
    r"(?P<name>[\w$]+)\s*(?P<extents>(?:\[\d*\]\s*)*)"
)
_SHARED = re.compile(rf"\.shared{_VARIABLE};")
_LOCAL = re.compile(rf"\.local{_VARIABLE}$")
_MODULE = re.compile(rf"\.(?P<space>global|const){_VARIABLE}(?:=\s*(?P<values>[^;]*))?;")
_CALL_PARAM = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+([\w$]+)$")
_REG = re.compile(r"\.reg\s+\.(\w+)\s+(.*)", re.S)
_RANGE = re.compile(r"([%\w$]+)<(\d+)>$")
_PLACE = r"(\d+)\s+(\d+)\s+(\d+)"
_LOC = re.compile(rf"\.loc\s+{_PLACE}(?:.*inlined_at\s+{_PLACE})?")
_FILE = re.compile(r'\.file\s+(\d+)\s+"([^"]*)"')
_LABEL = re.compile(r"([\w$]+):(?!:)")
_ADDRESS = re.compile(r"([%\w$]+)(\+?-?(?:0x[0-9a-fA-F]+|\d+))?")
_FLOAT = re.compile(r"-?0([fFdD])([0-9a-fA-F]+)$")
_INTEGER = re.compile(r"-?(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?")
_DECIMAL = re.compile(r"-?\d+\.\d*([eE][+-]?\d+)?")
_NAME = re.compile(r"[\w$]+")
_OPERAND = re.compile(r"(?:\{[^{}]*\}|\[[^\[\]]*\]|\([^()]*\)|[^,])+")
_LINES = (".file", ".section")  # directives that end with their line, and mean nothing here
_STATEMENTS = (".pragma", ".shared")  # ... with a semicolon; shared arrays are known already


def parse_ptx(text: str) -> Kernel:
    """The kernel of a PTX module with one entry. Raises `TilusError` naming what it cannot read."""
    body = re.sub(r"/\*.*?\*/", lambda comment: "\n" * comment[0].count("\n"), text, flags=re.S)
    files = {int(n): name for n, name in _FILE.findall(body)}
    match = _ENTRY.search(body)
    if match is None:
        raise TilusError("the PTX has no kernel", expected="a .entry")
    kernel = Kernel(match[1])
    opening = body.index("{", match.end())
    for kind, name, count in _PARAM.findall(body[match.end() : opening]):
        kernel.params.append((name, kind))
        kernel.param_bytes[name] = int(count or 1) * int(kind[1:]) // 8
    kernel.shared = [_variable(found) for found in _SHARED.finditer(body)]
    kernel.constants = [_constant(found) for found in _MODULE.finditer(body)]
    _Reader(kernel, files).read(body[opening + 1 :], body.count("\n", 0, opening) + 1)
    return kernel


def _variable(match: re.Match[str]) -> Variable:
    width = int(match["bits"]) // 8
    extents = re.findall(r"\[(\d*)\]", match["extents"])
    size = width * math.prod(int(n or 0) for n in extents)
    return Variable(match["name"], size, int(match["alignment"] or width))


def _constant(match: re.Match[str]) -> Constant:
    """A variable of the module; what its initialiser leaves out is 0."""
    variable, width = _variable(match), int(match["bits"]) // 8
    values = re.sub(r"[{}\s]", "", match["values"] or "")
    data = b"".join(_element(value, width, match["name"]) for value in values.split(",") if value)
    data = data.ljust(variable.size, b"\0")
    return Constant(variable.name, data, variable.alignment, match["space"])


def _element(text: str, width: int, name: str) -> bytes:
    """One number of an initialiser."""
    literal = _literal(text)
    if literal is None:
        raise TilusError(
            "this initial value is not emulated",
            found=f"{text} in {name}",
            expected="a number",
            hint="an array of addresses, such as of strings, cannot be a constant of the module",
        )
    return (literal.value & ((1 << 8 * width) - 1)).to_bytes(width, "little")


def _literal(text: str) -> Immediate | None:
    """A number as PTX writes it. Source: PTX ISA, "Constants"."""
    if match := _FLOAT.match(text):
        kind = "f32" if match[1] in "fF" else "f64"
        sign = 1 << (31 if kind == "f32" else 63) if text[0] == "-" else 0
        return Immediate(int(match[2], 16) ^ sign, kind)
    if _INTEGER.fullmatch(text):
        digits = text.rstrip("U")
        octal = re.fullmatch(r"-?0\d+", digits)
        return Immediate(int(digits, 8 if octal else 0))
    if _DECIMAL.fullmatch(text):
        return Immediate(int.from_bytes(struct.pack("<d", float(text)), "little"), "f64")
    if text == "WARP_SZ":
        return Immediate(32)
    return None


@dataclass(eq=False)
class _Scope:
    """What the names of one pair of braces stand for."""

    registers: dict[str, str] = field(default_factory=dict[str, str])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    branches: list[int] = field(default_factory=list[int])  # instructions whose label may follow


class _Reader:
    def __init__(self, kernel: Kernel, files: dict[int, str]):
        self.kernel = kernel
        self.files = files
        self.location: Location | None = None
        self.line = 0
        self.scopes = [_Scope()]
        self.callers: dict[tuple[str | None, ...], Location] = {}  # of inlined places
        self.known: dict[str, Operand] = {}  # operands read before, while their names stay
        self.opcodes: dict[str, tuple[str, tuple[str, ...]]] = {}

    def read(self, body: str, first: int) -> None:
        """Read the statements of a kernel whose `body` begins in line `first`."""
        code = ""
        for self.line, line in enumerate(body.split("\n"), first):
            if "//" in line:
                line = line[: line.index("//")]
            code = f"{code} {line.strip()}".strip() if code else line.strip()
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
            self._open()
            return code[1:]
        if code[0] == "}":
            self._close()
            return code[1:]
        if code[0] != "@" and (match := _LABEL.match(code)):
            self._label(match[1])
            return code[match.end() :]
        if code[0] == ".":
            return self._directive(code)
        statement, end, rest = code.partition(";")
        if not end:
            return None
        self._instruction(statement.strip())
        return rest

    def _called_from(self, place: Sequence[str | None]) -> Location:
        """The line of the kernel itself: that of a function inlined there is its caller's.

        Callers come first, so those of nested functions are known.
        """
        own = Location(self.files.get(int(place[0] or 0), "<ptx>"), int(place[1] or 0))
        key = tuple(place[:3])
        if place[3] is not None:
            caller = tuple(place[3:])
            self.callers[key] = self.callers.get(caller) or self._called_from((*caller, None))
            return self.callers[key]
        return own

    def _directive(self, code: str) -> str | None:
        if match := _LOC.match(code):
            self.location = self._called_from(match.groups())
            return ""
        if code.startswith(_LINES):
            return ""
        statement, end, rest = code.partition(";")
        if not end:
            return None
        if code.startswith(_STATEMENTS):
            return rest
        statement = statement.strip()
        if match := _REG.match(statement):
            for name in match[2].split(","):
                self._declare(name.strip(), match[1])
        elif match := _LOCAL.match(statement):
            self.kernel.local.append(_variable(match))
        elif match := _CALL_PARAM.match(statement):  # of a call: as good as a register
            self._declare(match[2], match[1])
        else:
            raise self._error(statement)
        return rest

    # ---- names ----

    def _open(self) -> None:
        self.scopes.append(_Scope())

    def _close(self) -> None:
        """The braces end: their branches go to labels in here, or further out."""
        scope = self.scopes.pop()
        if scope.registers:
            self.known = {}
        for index in scope.branches:
            instruction = self.kernel.instructions[index]
            (target,) = instruction.operands
            assert isinstance(target, Symbol)
            if target.name in scope.labels:
                label = Symbol(scope.labels[target.name])
                self.kernel.instructions[index] = replace(instruction, operands=(label,))
            elif self.scopes:
                self.scopes[-1].branches.append(index)
            else:
                self.line = instruction.line
                raise self._error(f"{instruction.text}: there is no such label")

    def _label(self, name: str) -> None:
        """A label of inner braces is one of its own, if its name is taken."""
        label = _free(name, self.kernel.labels)
        self.kernel.labels[label] = len(self.kernel.instructions)
        self.scopes[-1].labels[name] = label

    def _declare(self, name: str, kind: str) -> None:
        """`%r<4>` declares %r0 to %r3. A name of inner braces is a register of its own."""
        match = _RANGE.match(name)
        names = [name] if match is None else [f"{match[1]}{n}" for n in range(int(match[2]))]
        for name in names:
            register = _free(name, self.kernel.registers)
            self.kernel.registers[register] = kind
            self.scopes[-1].registers[name] = register
        self.known = {}

    def _register(self, name: str) -> str | None:
        """The register that a name stands for here: that of the innermost braces."""
        for scope in reversed(self.scopes):
            if name in scope.registers:
                return scope.registers[name]
        return None

    # ---- instructions and their operands ----

    def _instruction(self, statement: str) -> None:
        predicate, negated = None, False
        if statement[0] == "@":
            guard, statement = statement.split(None, 1)
            negated = guard[1] == "!"
            predicate = self._register(guard[1 + negated :])
            if predicate is None:
                raise self._error(guard)
        opcode, *rest = statement.split(None, 1)
        head, modifiers = self._opcode(opcode)
        texts = _OPERAND.findall(rest[0]) if rest else []
        operands = tuple([self._operand(text.strip()) for text in texts])
        if head == "bra":
            self.scopes[-1].branches.append(len(self.kernel.instructions))
            if len(operands) != 1 or not isinstance(operands[0], Symbol):
                raise self._error(statement)
        self.kernel.instructions.append(
            Instruction(
                head, modifiers, operands, predicate, negated, self.location, statement, self.line
            )
        )

    def _opcode(self, text: str) -> tuple[str, tuple[str, ...]]:
        if text not in self.opcodes:
            head, *modifiers = text.replace("::", "_").split(".")
            self.opcodes[text] = head, tuple(modifiers)
            if CARRY in modifiers:
                self.kernel.registers[CARRY_FLAG] = "pred"
        return self.opcodes[text]

    def _operand(self, text: str) -> Operand:
        operand = self.known.get(text)
        if operand is None:
            operand = self.known[text] = self._read_operand(text)
        return operand

    def _read_operand(self, text: str) -> Operand:
        if text.startswith("[") and text.endswith("]"):
            return self._address(text[1:-1])
        if text.startswith(("{", "(")):
            return Vector(tuple(self._operand(o.strip()) for o in _OPERAND.findall(text[1:-1])))
        if text.startswith("!"):
            register = self._operand(text[1:])
            if not isinstance(register, Register):
                raise self._error(text)
            return Negated(register)
        if "|" in text:
            value, predicate = text.split("|")
            return Pair(self._operand(value.strip()), self._operand(predicate.strip()))
        if (register := self._register(text)) is not None:
            return Register(register)
        if text.startswith("%"):
            return Special(text)
        if (literal := _literal(text)) is not None:
            return literal
        if _NAME.fullmatch(text):
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
            f"PTX line {self.line} is not understood",
            found=text.strip()[:100],
            location=self.location,
        )


def _free(name: str, taken: dict[str, Any]) -> str:
    """The name, with as many primes as make it a new one."""
    while name in taken:
        name += "'"
    return name
