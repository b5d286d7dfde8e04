"""The declarations of a PTX module: its variables, what they hold at first, and its functions.

    .global .align 8 .b8 table[16] = {1, 2};      Constant("table", b"\\1\\2...", 8, "global")
    .func (.param .b32 result) f(.param .b32 x)   Function("f", result, x, and where its body is)

Source: PTX ISA, "State Spaces, Types, and Variables" and "Kernel and Function Directives: .func".
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass

from tilus.errors import TilusError
from tilus.ptx.syntax import Constant, Immediate, Kernel, Variable

_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^()]*)\)[^{]*\{")
_FUNCTION = re.compile(
    r"\.func\s+(?:\((?P<results>[^()]*)\)\s*)?(?P<name>[\w$]+)\s*(?:\((?P<params>[^()]*)\))?"
    r"[^{};]*(?P<opening>[{;])"
)
_KIND = r"\.(?P<kind>[busf](?P<bits>8|16|32|64))"
_NAME = r"(?P<name>[\w$]+)\s*(?P<extents>(?:\[\d*\]\s*)*)"
_VARIABLE = rf"\s+(?:\.align\s+(?P<alignment>\d+)\s+)?{_KIND}\s+{_NAME}"
PARAM = re.compile(
    rf"\.param\s+(?:\.align\s+(?P<alignment>\d+)\s+)?{_KIND}\s+"
    r"(?:\.ptr\s+(?:\.(?:global|shared|const|local)\s+)?(?:\.align\s+\d+\s+)?)?" + _NAME
)
LOCAL = re.compile(rf"\.local{_VARIABLE}")
_SHARED = re.compile(rf"\.shared{_VARIABLE};")
_MODULE = re.compile(rf"\.(?P<space>global|const){_VARIABLE}(?:=\s*(?P<values>[^;]*))?;")
_FLOAT = re.compile(r"-?0([fFdD])([0-9a-fA-F]+)$")
_INTEGER = re.compile(r"-?(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?")
_DECIMAL = re.compile(r"-?\d+\.\d*([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Function:
    """A device function whose body begins behind offset `body` of the text."""

    name: str
    results: tuple[Variable, ...]
    params: tuple[Variable, ...]
    body: int


def find_kernel(text: str) -> tuple[Kernel, int]:
    """The one kernel of a module with the module's variables, and the offset of its body."""
    match = _ENTRY.search(text)
    if match is None:
        raise TilusError("the PTX has no kernel", expected="a .entry")
    kernel = Kernel(match[1])
    for param in PARAM.finditer(match[2]):
        kernel.params.append((param["name"], param["kind"]))
        kernel.param_bytes[param["name"]] = variable(param).size
    kernel.shared = [variable(found) for found in _SHARED.finditer(text)]
    kernel.constants = [_constant(found) for found in _MODULE.finditer(text)]
    return kernel, match.end()


def find_functions(text: str) -> dict[str, Function]:
    """The functions that have a body here, which may follow the kernel that calls them."""
    return {
        found["name"]: Function(
            found["name"],
            tuple(variable(result) for result in PARAM.finditer(found["results"] or "")),
            tuple(variable(param) for param in PARAM.finditer(found["params"] or "")),
            found.end(),
        )
        for found in _FUNCTION.finditer(text)
        if found["opening"] == "{"
    }


def variable(match: re.Match[str]) -> Variable:
    """The variable of a match of a declaration; one number has no extents."""
    width = int(match["bits"]) // 8
    extents = re.findall(r"\[(\d*)\]", match["extents"])
    size = width * math.prod(int(n or 0) for n in extents)
    return Variable(match["name"], size, int(match["alignment"] or width))


def _constant(match: re.Match[str]) -> Constant:
    """A variable of the module; what its initialiser leaves out is 0."""
    declared, width = variable(match), int(match["bits"]) // 8
    values = re.sub(r"[{}\s]", "", match["values"] or "")
    data = b"".join(_element(value, width, match["name"]) for value in values.split(",") if value)
    data = data.ljust(declared.size, b"\0")
    return Constant(declared.name, data, declared.alignment, match["space"])


def _element(text: str, width: int, name: str) -> bytes:
    """One number of an initialiser."""
    number = literal(text)
    if number is None:
        raise TilusError(
            "this initial value is not emulated",
            found=f"{text} in {name}",
            expected="a number",
            hint="an array of addresses, such as of strings, cannot be a constant of the module",
        )
    return (number.value & ((1 << 8 * width) - 1)).to_bytes(width, "little")


def literal(text: str) -> Immediate | None:
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
