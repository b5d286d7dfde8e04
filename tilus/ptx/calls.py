"""Calls of what has no body in the module: vprintf, what `printf` in a kernel becomes.

    call.uni (retval0), vprintf, (param0, param1);

The second argument points at the values, each aligned to its size. Source: CUDA C++ Programming
Guide, "Formatted Output"; PTX ISA, "call".
"""

from __future__ import annotations

import math
import re

import numpy as np

from tilus.errors import TilusError
from tilus.ptx.machine import Machine, opcode
from tilus.ptx.memory import Array
from tilus.ptx.syntax import Address, Immediate, Instruction, Operand, Symbol, Vector
from tilus.ptx.transfer import load_bytes, store_bytes

_SPECIFIER = re.compile(
    r"%(?P<flags>[-+ #0]*)(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d*))?"
    r"(?P<length>hh|h|ll|l|j|z|t)?(?P<conversion>.)",
    re.S,
)
LONG = ("l", "ll", "j", "z", "t")
LONGEST = 1 << 16  # bytes of a string: one without an end is an error


@opcode("call")
def _call(m: Machine, op: Instruction) -> None:
    function = next((o for o in op.operands if isinstance(o, Symbol)), None)
    if function is None or function.name != "vprintf" or len(op.operands) != 3:
        raise TilusError(
            "a call of this function is not emulated",
            found=f"{function.name if function else op.text} at PTX line {op.line}",
            expected="vprintf",
            hint="only functions with a body in the same module can be called",
        )
    result, _, params = op.operands
    assert isinstance(result, Vector) and isinstance(params, Vector)
    formats, arguments = (_passed(m, item) for item in params.items)
    counts = np.zeros(m.lanes.shape, np.int32)
    lanes = m.lanes
    for number, lane in enumerate(lanes.tolist()):
        m.focus(lanes[number : number + 1])
        text = _string(m, int(formats[number]))
        printed = _Printed(m, int(arguments[number]), op)
        m.printed(_SPECIFIER.sub(printed.specifier, text), lane)
        counts[number] = printed.count
    m.focus(lanes)
    store_bytes(m, _place(result.items[0]), "param", counts.view(np.uint8).reshape(-1, 4))


def _place(variable: Operand) -> Address:
    assert isinstance(variable, Symbol)
    return Address(variable)


def _passed(m: Machine, variable: Operand) -> Array:
    """The 64 bits that each lane passes in a variable."""
    return load_bytes(m, _place(variable), "param", 8).view(np.int64)[:, 0]


def _bytes(m: Machine, address: int, size: int) -> bytes:
    """What the one active lane reads at a generic address."""
    return load_bytes(m, Address(Immediate(address)), "generic", size)[0].tobytes()


def _string(m: Machine, address: int) -> str:
    """The C string at a generic address."""
    if address == 0:
        return "(null)"
    data = bytearray()
    while len(data) < LONGEST:
        byte = _bytes(m, address + len(data), 1)
        if byte == b"\0":
            return data.decode("utf-8", "replace")
        data += byte
    raise TilusError("a string has no end", found=f"{LONGEST} bytes at {address:#x}")


class _Printed:
    """The values of one printf, taken one after the other."""

    def __init__(self, m: Machine, address: int, op: Instruction):
        self.m, self.address, self.op = m, address, op
        self.count = 0

    def take(self, dtype: str) -> int | float:
        size = np.dtype(dtype).itemsize
        self.address = -(-self.address // size) * size
        data = _bytes(self.m, self.address, size)
        self.address += size
        self.count += 1
        return np.frombuffer(data, dtype)[0].item()

    def specifier(self, match: re.Match[str]) -> str:
        """What stands for one % in the text."""
        conversion = match["conversion"]
        if conversion == "%":
            return "%"
        flags, width = match["flags"], match["width"] or ""
        if width == "*":
            width = str(int(self.take("i4")))
        if width.startswith("-"):
            flags, width = flags + "-", width[1:]
        precision = match["precision"]
        if precision == "*":
            precision = str(int(self.take("i4")))
        number = None if precision is None or precision.startswith("-") else int(precision or 0)
        text = self._converted(conversion, match["length"] or "", flags, number)
        return _padded(text, flags, int(width or 0), numeric=_is_padded(conversion, number))

    def _converted(self, conversion: str, length: str, flags: str, precision: int | None) -> str:
        if conversion in "diuoxX":
            return _integer(self._whole(conversion, length), conversion, flags, precision)
        if conversion in "eEfFgG":
            point = "" if precision is None else f".{precision}"
            return f"%{flags.replace('-', '').replace('0', '')}{point}{conversion}" % self.take(
                "f8"
            )
        if conversion in "aA":
            text = _hexadecimal(float(self.take("f8")), flags, precision)
            return text.upper() if conversion == "A" else text
        if conversion == "c":
            return chr(int(self.take("i4")) & 255)
        if conversion == "s":
            return _string(self.m, int(self.take("u8")))[:precision]
        if conversion == "p":
            return f"{int(self.take('u8')):#x}"
        raise TilusError(
            "this conversion of printf is not emulated",
            found=f"%{conversion}",
            expected="one of d i u o x X c s f F e E g G a A p",
        )

    def _whole(self, conversion: str, length: str) -> int:
        """An integer as its length and conversion say; short ones are passed as int."""
        size = 8 if length in LONG else 4
        kept = {"hh": 1, "h": 2}.get(length, size)
        value = int(self.take(f"i{size}"))
        bits = value & ((1 << 8 * kept) - 1)
        negative = conversion in "di" and bits >> (8 * kept - 1)
        return bits - (1 << 8 * kept) if negative else bits


def _integer(value: int, conversion: str, flags: str, precision: int | None) -> str:
    letter = {"i": "d", "u": "d"}.get(conversion, conversion)
    digits = format(abs(value), letter)
    if precision == 0 and value == 0:
        digits = ""
    digits = digits.rjust(precision or 0, "0")
    if "#" in flags and conversion == "o" and not digits.startswith("0"):
        digits = f"0{digits}"
    prefix = f"0{conversion}" if "#" in flags and conversion in "xX" and value else ""
    sign = "-" if value < 0 else _plus(flags) if conversion in "di" else ""
    return f"{sign}{prefix}{digits}"


def _plus(flags: str) -> str:
    return "+" if "+" in flags else " " if " " in flags else ""


def _hexadecimal(value: float, flags: str, precision: int | None) -> str:
    """%a: 0x1.8p+1, with as many digits as are needed, or as asked for."""
    sign = "-" if math.copysign(1, value) < 0 else _plus(flags)
    if not math.isfinite(value):
        return sign + ("nan" if math.isnan(value) else "inf")
    mantissa, exponent = math.frexp(abs(value))
    if value == 0:
        fraction, exponent = 0, 1
    else:
        if exponent < -1021:  # a subnormal number has no leading 1
            mantissa, exponent = math.ldexp(mantissa, exponent + 1021), -1021
        fraction = int(math.ldexp(mantissa, 53))
    if precision is not None and precision < 13:
        drop = 4 * (13 - precision)
        fraction = round(fraction / (1 << drop)) << drop
    digits = f"{fraction & ((1 << 52) - 1):013x}"
    digits = digits.rstrip("0") if precision is None else digits.ljust(precision, "0")[:precision]
    point = f".{digits}" if digits or "#" in flags else ""
    return f"{sign}0x{fraction >> 52}{point}p{exponent - 1:+d}"


def _is_padded(conversion: str, precision: int | None) -> bool:
    """Whether the flag 0 fills with zeros: not text, nor an integer with a precision."""
    return conversion in "eEfFgGaA" or (conversion in "diuoxX" and precision is None)


def _padded(text: str, flags: str, width: int, *, numeric: bool) -> str:
    if "-" in flags:
        return text.ljust(width)
    if not ("0" in flags and numeric) or text.lstrip("+- ")[:1] in ("i", "n", "I", "N"):
        return text.rjust(width)
    head = re.match(r"[-+ ]?(0[xX])?", text)
    assert head is not None
    return head[0] + text[head.end() :].rjust(width - head.end(), "0")
