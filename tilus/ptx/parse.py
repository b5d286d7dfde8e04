"""PTX text to a kernel: registers, parameters, shared arrays, and instructions in order.

    call (y), square, (x);           the body of `square`, in which `ret` goes to its end

Functions are read anew at each of their calls, so a kernel is one list of instructions. Parameters
of a call are variables in local memory, by the caller's name and by the function's.
Source: PTX ISA, "Syntax", "Kernel and Function Directives: .func" and "Control Flow Instructions:
call".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from tilus.errors import Location, TilusError
from tilus.ptx.module import LOCAL, PARAM, Function, find_functions, find_kernel, literal, variable
from tilus.ptx.syntax import (
    CARRY,
    CARRY_FLAG,
    LOADS,
    Address,
    Immediate,
    Instruction,
    Kernel,
    Negated,
    Operand,
    Pair,
    Register,
    Special,
    Symbol,
    Variable,
    Vector,
)

_REG = re.compile(r"\.reg\s+\.(\w+)\s+(.*)", re.S)
_RANGE = re.compile(r"([%\w$]+)<(\d+)>$")
_PLACE = r"(\d+)\s+(\d+)\s+(\d+)"
_LOC = re.compile(rf"\.loc\s+{_PLACE}(?:.*inlined_at\s+{_PLACE})?")
_FILE = re.compile(r'\.file\s+(\d+)\s+"([^"]*)"')
_USED_BYTES = re.compile(r'"used_bytes_mask\s+(0[xX][0-9a-fA-F]+|\d+)"')
_LABEL = re.compile(r"([\w$]+):(?!:)")
_ADDRESS = re.compile(r"([%\w$]+)(\+?-?(?:0x[0-9a-fA-F]+|\d+))?")
_NAME = re.compile(r"[\w$]+")
_OPERAND = re.compile(r"(?:\{[^{}]*\}|\[[^\[\]]*\]|\([^()]*\)|[^,])+")
_LINES = (".file", ".section")  # directives that end with their line, and mean nothing here
_STATEMENTS = (".pragma", ".shared")  # ... with a semicolon; shared arrays are known already
_END = "%return"  # the label behind a function, which no text can spell


def parse_ptx(text: str) -> Kernel:
    """The kernel of a PTX module with one entry. Raises `TilusError` naming what it cannot read."""
    text = re.sub(r"/\*.*?\*/", lambda comment: "\n" * comment[0].count("\n"), text, flags=re.S)
    kernel, body = find_kernel(text)
    _Reader(kernel, text).read(body)
    return kernel


@dataclass(eq=False)
class _Scope:
    """What the names of one pair of braces stand for."""

    registers: dict[str, str] = field(default_factory=dict[str, str])
    variables: dict[str, str] = field(default_factory=dict[str, str])  # in local memory
    labels: dict[str, str] = field(default_factory=dict[str, str])
    branches: list[int] = field(default_factory=list[int])  # instructions whose label may follow


class _Reader:
    def __init__(self, kernel: Kernel, text: str):
        self.kernel = kernel
        self.text = text
        self.lines = text.split("\n")
        self.files = {int(n): name for n, name in _FILE.findall(text)}
        self.functions = find_functions(text)
        self.called: list[str] = []  # the functions being read, the outermost first
        self.location: Location | None = None
        self.line = 0
        self.scopes: list[_Scope] = []  # of the kernel, or of the function being read
        self.local: dict[str, Variable] = {}  # every variable in local memory
        self.taken = {n for n, _ in kernel.params}
        self.taken.update(v.name for v in (*kernel.shared, *kernel.constants))
        self.callers: dict[tuple[str | None, ...], Location] = {}  # of inlined places
        self.known: dict[str, Operand] = {}  # operands read before, while their names stay
        self.opcodes: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.used_bytes: int | None = None  # of the load that follows

    def read(self, body: int, names: _Scope | None = None) -> None:
        """Read the statements of the body behind offset `body`, up to its closing brace.

        `names` are those that it knows from the start.
        """
        outer, self.scopes, self.known = self.scopes, [names or _Scope()], {}
        column = body - self.text.rfind("\n", 0, body) - 1
        first = self.text.count("\n", 0, body)
        code = ""
        for number in range(first, len(self.lines)):
            self.line, line, column = number + 1, self.lines[number][column:], 0
            if "//" in line:
                line = line[: line.index("//")]
            code = f"{code} {line.strip()}".strip() if code else line.strip()
            while code:
                rest = self._statement(code)
                if rest is None:  # the statement goes on in the next line
                    break
                code = rest.strip()
                if not self.scopes:  # the body ends here; other functions may follow
                    self.scopes, self.known = outer, {}
                    return
        raise self._error(code or "the end of the text")

    def _statement(self, code: str) -> str | None:
        """Read one statement; returns the rest of the line, or None where its end is missing."""
        if code[0] == "{":
            self.scopes.append(_Scope())
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
            if not self.called:  # what a function does is done by the line that calls it
                self.location = self._called_from(match.groups())
            return ""
        if code.startswith(_LINES):
            return ""
        statement, end, rest = code.partition(";")
        if not end:
            return None
        statement = statement.strip()
        if code.startswith(_STATEMENTS):
            if used := _USED_BYTES.search(statement):
                self.used_bytes = int(used[1], 0)
        elif match := _REG.match(statement):
            for name in match[2].split(","):
                self._declare(name.strip(), match[1])
        elif match := LOCAL.fullmatch(statement) or PARAM.fullmatch(statement):
            self._declare_local(variable(match))
        else:
            raise self._error(statement)
        return rest

    # ---- names ----

    def _close(self) -> None:
        """The braces end: their branches go to labels in here, or further out."""
        if self.called and len(self.scopes) == 1:
            self._label(_END)
        scope = self.scopes.pop()
        if scope.registers or scope.variables:
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

    def _declare_local(self, declared: Variable) -> None:
        """An array of a thread, or a parameter of a call, which is one more."""
        name = _free(declared.name, self.taken)
        self.taken.add(name)
        self.local[name] = replace(declared, name=name)
        self.kernel.local.append(self.local[name])
        self.scopes[-1].variables[declared.name] = name
        self.known = {}

    def _register(self, name: str) -> str | None:
        """The register that a name stands for here: that of the innermost braces."""
        for scope in reversed(self.scopes):
            if name in scope.registers:
                return scope.registers[name]
        return None

    def _variable(self, name: str) -> str:
        """The variable that a name stands for here: local ones hide those of the module."""
        for scope in reversed(self.scopes):
            if name in scope.variables:
                return scope.variables[name]
        return name

    # ---- calls ----

    def _inline(self, call: Instruction, function: Function) -> None:
        """call f, (x)  ->  the body of f, whose parameters are the variables that are passed."""
        if function.name in self.called:
            raise TilusError(
                "a recursive function is not emulated",
                found=f"{function.name} at PTX line {call.line}",
                location=call.location,
                hint="write it as a loop",
            )
        names = _Scope(variables=self._bound(call, function))
        if call.predicate is not None:  # where it does not hold, there is no call
            names.branches.append(len(self.kernel.instructions))
            skip = replace(call, opcode="bra", modifiers=(), operands=(Symbol(_END),))
            self.kernel.instructions.append(replace(skip, negated=not call.negated))
        self.called.append(function.name)
        self.read(function.body, names)
        self.called.pop()
        self.line = call.line

    def _bound(self, call: Instruction, function: Function) -> dict[str, str]:
        """The variable that is passed for each parameter of a function."""
        place = call.operands.index(Symbol(function.name))
        bound: dict[str, str] = {}
        for vectors, formal in (
            (call.operands[:place], function.results),
            (call.operands[place + 1 :], function.params),
        ):
            items = [item for v in vectors if isinstance(v, Vector) for item in v.items]
            passed = [self.local.get(i.name) if isinstance(i, Symbol) else None for i in items]
            if [v.size if v else None for v in passed] != [f.size for f in formal]:
                raise self._mismatch(call, function)
            bound |= {f.name: v.name for f, v in zip(formal, passed, strict=True) if v}
        return bound

    def _mismatch(self, call: Instruction, function: Function) -> TilusError:
        results, params = (
            ", ".join(str(v.size) for v in part) for part in (function.results, function.params)
        )
        return TilusError(
            f"this call does not pass what the function {function.name} takes",
            found=f"{call.text} at PTX line {call.line}",
            expected=f"variables in .param of ({results}) bytes for results, and of ({params})",
            location=call.location,
        )

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
        if head == "ret" and self.called:  # a function's end is where its call goes on
            head, modifiers, operands = "bra", (), (Symbol(_END),)
        used = self.used_bytes if head in LOADS else None
        self.used_bytes = None
        self._append(
            Instruction(
                head, modifiers, operands, predicate, negated, self.location, statement, self.line,
                used,
            )
        )  # fmt: skip

    def _append(self, instruction: Instruction) -> None:
        if instruction.opcode == "call":
            name = next((o.name for o in instruction.operands if isinstance(o, Symbol)), "")
            if name in self.functions:
                self._inline(instruction, self.functions[name])
                return
        if instruction.opcode == "bra":
            self.scopes[-1].branches.append(len(self.kernel.instructions))
            operands = instruction.operands
            if len(operands) != 1 or not isinstance(operands[0], Symbol):
                raise self._error(instruction.text)
        self.kernel.instructions.append(instruction)

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
            items = _OPERAND.findall(text[1:-1].strip())
            return Vector(tuple([self._operand(item.strip()) for item in items]))
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
        if (number := literal(text)) is not None:
            return number
        if _NAME.fullmatch(text):
            return Symbol(self._variable(text))
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


def _free(name: str, taken: Collection[str]) -> str:
    """The name, with as many primes as make it a new one."""
    while name in taken:
        name += "'"
    return name
