"""Unpack plans: where packed weights lie, and the straight-line program that widens them.

    r2 = shf(r0, r0) << 8                          rotate the word, fields 8.. come within reach
    r3 = lop3(r2, 0x00f000f0, 0x54005400) lut 0x6a two halves, each 64 + the nibble at bits 4..7

Registers are numbered in the order of their making (SSA): the words first, then one a step. Every
output register holds equal parts ("lanes"), two halves or four bytes, and
`part = scale * value + base[output]`, exactly, for the codes in `exact_codes`.

The surprise: integers are stored offset-binary, their top bit inverted, so signed and unsigned ones
unpack alike and differ in `base` only. `pack` and `unpack_codes` take and give the bit patterns of
the dtype itself; they invert that bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tilus.dtypes import DataType, bfloat16, float16, int8
from tilus.errors import TilusError
from tilus.ir.layout.bits import BitLayout

Words = npt.NDArray[np.uint32]
Kind = Literal["lop3", "shf", "prmt", "hfma2"]
Position = tuple[int, int]
WORD_NBITS = 32
PROOF_SEED = 0


@dataclass(frozen=True)
class Constant:
    """A 32-bit immediate, or a register that holds it for the whole kernel."""

    value: int

    def __str__(self) -> str:
        return f"0x{self.value:08x}"


Operand = int | Constant


@dataclass(frozen=True)
class Step:
    """One instruction; an operand is a register number or a constant.

    | kind | operands | detail | result |
    |---|---|---|---|
    | lop3 | a, b, c | truth table | bit k is the table's bit a_k * 4 + b_k * 2 + c_k |
    | shf | low, high | s | the upper word of (high : low) << s |
    | prmt | a, b, selector | 0 | four bytes of (b : a), by the nibbles of the selector |
    | hfma2 | a, b, c | 0 | a * b + c in each half, rounded once |

    Source: PTX ISA, "lop3", "shf" (mode .wrap), "prmt" (default mode), "fma" (.f16x2, .bf16x2).
    """

    kind: Kind
    operands: tuple[Operand, ...]
    detail: int = 0

    def __str__(self) -> str:
        names = [f"r{one}" if isinstance(one, int) else str(one) for one in self.operands]
        suffix = {"lop3": f" lut 0x{self.detail:02x}", "shf": f" << {self.detail}"}
        return f"{self.kind}({', '.join(names)}){suffix.get(self.kind, '')}"


@dataclass(frozen=True)
class UnpackPlan:
    """A placement of `elements` weights in `words` words, and the program that unpacks them.

    Args:
        dtype: the type of the weights: integer, float or codebook.
        target: float16, bfloat16 (two an output register) or int8 (four).
        placement: the (word, bit) of each bit of each element.
        steps: the program.
        outputs: the registers that hold the results, the first elements in the first.
        scale: a power of two; of codebooks any number, and `scale * value` is rounded to `target`.
        base: what is added in each output register.
        exact_codes: bit patterns that unpack to `scale * value + base` (nan to nan); the others,
            specials of `dtype` that `target` spells differently, unpack to finite numbers or inf.
    """

    dtype: DataType
    target: DataType
    elements: int
    words: int
    placement: tuple[tuple[Position, ...], ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    scale: float
    base: tuple[float, ...]
    exact_codes: tuple[int, ...]

    @cached_property
    def layout(self) -> BitLayout:
        """The placement of the stored bits as a `BitLayout`."""
        table = [word * WORD_NBITS + bit for bits in self.placement for word, bit in bits]
        return BitLayout(self.elements, self.dtype.nbits, tuple(table))

    @cached_property
    def scaled_values(self) -> npt.NDArray[np.float64]:
        """float64 (2^nbits,): `scale * value` of every bit pattern, for codebooks rounded."""
        scaled = self.scale * code_values(self.dtype)
        if self.dtype.kind == "codebook":
            scaled = self.target.encode(scaled).astype(np.float64)
        return scaled

    @property
    def issue_per_pair(self) -> float:
        """Instructions for each two elements."""
        return 2 * len(self.steps) / self.elements

    @property
    def alu_per_pair(self) -> float:
        """Instructions of the ALU pipe (all but hfma2) for each two elements."""
        return 2 * sum(step.kind != "hfma2" for step in self.steps) / self.elements

    @property
    def base_by_register(self) -> tuple[float, ...] | None:
        """`base` of outputs 0..3 where it repeats with period 4, as tensor core tiles like it."""
        period = self.base[:4]
        repeats = len(self.base) % 4 == 0 and self.base == period * (len(self.base) // 4)
        return period if repeats else None

    def pack(self, codes: npt.ArrayLike) -> Words:
        """Bit patterns of the dtype, integers (..., elements) -> uint32 (..., words)."""
        return self.layout.pack(np.asarray(codes) ^ self._inverted_bits)

    def unpack_codes(self, words: Words) -> npt.NDArray[Any]:
        """The inverse of `pack`: uint32 (..., words) -> bit patterns (..., elements)."""
        codes = self.layout.unpack(words)
        return codes ^ codes.dtype.type(self._inverted_bits)

    @property
    def _inverted_bits(self) -> int:
        return 1 << (self.dtype.nbits - 1) if self.dtype.kind == "int" else 0

    def run(self, words: Words) -> Words:
        """Execute the program: uint32 (..., words) -> uint32 (..., outputs)."""
        if words.dtype != np.uint32 or words.ndim == 0 or words.shape[-1] != self.words:
            raise TilusError(
                "an unpack plan runs on the words of its placement",
                found=f"{words.dtype} of shape {words.shape}",
                expected=f"uint32 of shape (..., {self.words})",
            )
        registers = [words[..., word] for word in range(self.words)]
        for step in self.steps:
            registers.append(_execute(step, registers, self.target))
        return np.stack([registers[number] for number in self.outputs], axis=-1)

    def numbers(self, outputs: Words) -> npt.NDArray[np.float64]:
        """What output registers (..., outputs) hold: float64 (..., elements)."""
        parts = np.ascontiguousarray(outputs).view(self.target.carrier)
        return parts.astype(np.float64)

    def prove(self) -> None:
        """Run every bit pattern of every element, the others random; TilusError if one is wrong."""
        patterns = 1 << self.dtype.nbits
        generator = np.random.default_rng(PROOF_SEED)
        codes = generator.integers(
            0, patterns, (patterns, self.elements, self.elements), dtype=np.uint8
        )
        diagonal = np.arange(self.elements)
        codes[:, diagonal, diagonal] = np.arange(patterns)[:, None]
        words = self.pack(codes)
        if not np.array_equal(codes, self.unpack_codes(words)):
            raise TilusError(f"the placement of {self.dtype} for {self.target} loses bits")
        parts = self.numbers(self.run(words))
        wrong = (parts != self._expected(codes)) & np.isin(codes, self.exact_codes)
        wrong &= ~(np.isnan(parts) & np.isnan(self._expected(codes)))
        if wrong.any():
            where = tuple(int(index) for index in np.argwhere(wrong)[0])
            raise TilusError(
                f"the plan for {self.dtype} to {self.target} is wrong at element {where[-1]}",
                found=f"{parts[where]} for the bit pattern {codes[where]:#x}",
                expected=f"{self._expected(codes)[where]}",
            )

    def _expected(self, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        lanes = self.elements // len(self.outputs)
        return self.scaled_values[codes] + np.repeat(self.base, lanes)

    def __str__(self) -> str:
        scaled = "value" if self.scale == 1 else f"{self.scale:g} * value"
        same = len(set(self.base)) == 1
        base = f"{self.base[0]:g}" if same else "(" + ", ".join(f"{b:g}" for b in self.base) + ")"
        head = (
            f"{self.dtype} -> {self.target}: {self.elements} elements in {self.words} words, "
            f"{len(self.steps)} steps, {self.issue_per_pair:.4g} a pair\n"
            f"part = {scaled} + {base}; entries are element.bit"
        )
        return "\n".join([head, *self._table(), *self._listing()])

    def _table(self) -> list[str]:
        names = {
            place: f"{element}.{bit}"
            for element, bits in enumerate(self.placement)
            for bit, place in enumerate(bits)
        }
        width = 1 + max(map(len, names.values()))
        lines: list[str] = []
        for word in range(self.words):
            for top in (31, 15):
                row = "".join(f"{names[word, top - k]:>{width}}" for k in range(16))
                lines.append(f"r{word} bits {top:>2}..{top - 15:<2}{row}")
        return lines

    def _listing(self) -> list[str]:
        outputs = {number: index for index, number in enumerate(self.outputs)}
        notes = [
            f"  output {outputs[self.words + n]}" if self.words + n in outputs else ""
            for n in range(len(self.steps))
        ]
        return [f"r{self.words + n} = {s}{notes[n]}" for n, s in enumerate(self.steps)]


def code_values(dtype: DataType) -> npt.NDArray[np.float64]:
    """float64 (2^nbits,): the number of every bit pattern."""
    codes = np.arange(1 << dtype.nbits, dtype=np.uint8)
    return dtype.decode(dtype.from_bits(codes)).astype(np.float64)


# ---- executing steps: one function a kind, found by table ------------------------------------


def _execute(step: Step, registers: list[Words], target: DataType) -> Words:
    shape = registers[0].shape
    values = [
        registers[one] if isinstance(one, int) else np.full(shape, one.value, np.uint32)
        for one in step.operands
    ]
    return _EXECUTE[step.kind](values, step.detail, target)


def _lop3(values: list[Words], table: int, target: DataType) -> Words:
    del target
    a, b, c = values
    result = np.zeros_like(a)
    for row in range(8):
        if table >> row & 1:
            chosen = [v if row >> k & 1 else ~v for v, k in ((a, 2), (b, 1), (c, 0))]
            result |= chosen[0] & chosen[1] & chosen[2]
    return result


def _shf(values: list[Words], amount: int, target: DataType) -> Words:
    del target
    low, high = values
    both = high.astype(np.uint64) << np.uint64(WORD_NBITS) | low
    return (both << np.uint64(amount) >> np.uint64(WORD_NBITS)).astype(np.uint32)


def _prmt(values: list[Words], detail: int, target: DataType) -> Words:
    del detail, target
    a, b, selector = values
    both = b.astype(np.uint64) << np.uint64(WORD_NBITS) | a
    result = np.zeros_like(a)
    for byte in range(4):
        nibble = selector >> np.uint32(4 * byte) & np.uint32(15)
        chosen = (both >> ((nibble & 7) * 8).astype(np.uint64)).astype(np.uint32) & np.uint32(0xFF)
        sign = (chosen >> np.uint32(7)) * np.uint32(0xFF)  # nibble bit 3 repeats the byte's msb
        result |= np.where(nibble & 8, sign, chosen) << np.uint32(8 * byte)
    return result


def _hfma2(values: list[Words], detail: int, target: DataType) -> Words:
    del detail
    with np.errstate(invalid="ignore", over="ignore"):  # words of no plan may hold nan and inf
        # products of halves are exact in float64
        a, b, c = (np.ascontiguousarray(v).view(target.carrier).astype(np.float64) for v in values)
        result = target.encode(a * b + c)
    return result.view(np.uint32).reshape(values[0].shape)


_EXECUTE = {"lop3": _lop3, "shf": _shf, "prmt": _prmt, "hfma2": _hfma2}


# ---- writing programs ------------------------------------------------------------------------


class Writer:
    """Appends steps; knows which (word, bit) lies at every bit of a register of moved bits."""

    def __init__(self, words: int):
        self.words = words
        self.steps: list[Step] = []
        self.places: list[list[Position]] = [
            [(word, bit) for bit in range(WORD_NBITS)] for word in range(words)
        ]
        self._rotations: dict[tuple[int, int], int] = {}

    def step(
        self, kind: Kind, *operands: Operand, detail: int = 0, places: list[Position] | None = None
    ) -> int:
        """Append a step; returns the number of its register."""
        self.steps.append(Step(kind, operands, detail))
        self.places.append(places or [])
        return len(self.places) - 1

    def rotate(self, register: int, amount: int) -> int:
        """The register rotated left, made once."""
        if amount == 0:
            return register
        if (register, amount) not in self._rotations:
            source = self.places[register]
            places = [source[(bit - amount) % WORD_NBITS] for bit in range(WORD_NBITS)]
            self._rotations[register, amount] = self.step(
                "shf", register, register, detail=amount, places=places
            )
        return self._rotations[register, amount]

    def select(self, base: int, other: int, mask: int) -> int:
        """(base & ~mask) | (other & mask)."""
        sides = (self.places[base], self.places[other])
        places = [sides[mask >> bit & 1][bit] for bit in range(WORD_NBITS)]
        return self.step("lop3", base, other, Constant(mask), detail=0xD8, places=places)


def lanes_of(target: DataType) -> int:
    """The parts of an output register."""
    if target not in (float16, bfloat16, int8):
        raise TilusError(
            f"there is no unpacking to {target}",
            found=str(target),
            expected="float16, bfloat16 or int8",
        )
    return 4 if target == int8 else 2
