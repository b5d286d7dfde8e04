"""Random numbers that depend on nothing but a seed and a counter: Philox 4x32-10.

    x = self.rand(shape=[16, 32], seed=seed, offset=self.blockIdx.x * 512)    # uniform in [0, 1)
    y = self.randn(shape=[16, 32], dtype=tilus.float16, seed=seed)            # normal
    k = self.randint(0, 10, shape=[64], seed=seed)                            # 0..9

Element J (counted row-major) is a function of `seed` and `offset + J` alone, so no layout, number
of warps or engine changes it. Tiles with the same seed need different offsets, or they repeat each
other.

Source: J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tilus.codegen.pieces import turns
from tilus.dtypes import Array, DataType, convert, float32, float64, int32, int64
from tilus.instructions.arguments import describe, expect, shape_tuple
from tilus.instructions.elementwise import default_layout, layout_of
from tilus.interp.machine import spread
from tilus.ir.expr import Const, Expr, apply, as_expr, cast
from tilus.ir.instruction import Instruction, Known, Proposal, Strength
from tilus.ir.tensor import RegisterTensor

if TYPE_CHECKING:
    from tilus.codegen.emitter import Emitter
    from tilus.interp.machine import Machine

U = TypeVar("U", bound="_Floats")

MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(counter: tuple[Array, ...], key: tuple[Array, ...]) -> tuple[Array, ...]:
    """The four random words of a counter of four words and a key of two.

    All are uint64 arrays of 32-bit values, broadcast against each other.

    >>> zero = np.zeros((), np.uint64)
    >>> [f"{int(word):08x}" for word in philox((zero,) * 4, (zero,) * 2)]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    a, b, c, d = counter
    for number in range(ROUNDS):
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        key0, key1 = (
            k + np.uint64(step * number & 0xFFFFFFFF) & LOW
            for k, step in zip(key, KEY_STEPS, strict=True)
        )
        a, b = second >> HALF ^ b ^ key0, second & LOW
        c, d = first >> HALF ^ d ^ key1, first & LOW
    return a, b, c, d


@dataclass(frozen=True, eq=False)
class _Random(Instruction):
    """Base of the family; a subclass says what an element makes of its four random words."""

    out: RegisterTensor
    seed: Expr
    offset: Expr

    @abstractmethod
    def number(self, words: tuple[Array, ...], machine: Machine) -> Array:
        """The elements in the carrier of `out`, given their random words."""

    @abstractmethod
    def number_text(self, e: Emitter, words: str) -> str:
        """C of an element, given the name of its random words, a uint4."""

    def verify(self) -> None:
        for name in ("seed", "offset"):
            value = getattr(self, name)
            self.require(
                value.dtype == int64, f"{name} is an int64", found=describe(value), expected="int64"
            )

    def layouts(self, known: Known) -> Iterator[Proposal]:
        if known.register(self.out) is None:
            yield Proposal(self.out, default_layout(known.num_threads, self.out), Strength.MAY)

    def run(self, machine: Machine) -> None:
        rank = len(self.out.shape)
        seed, offset = (
            spread(machine.scalar(v), rank).astype(np.uint64) for v in (self.seed, self.offset)
        )
        place = np.arange(self.out.size, dtype=np.uint64).reshape(1, *self.out.shape)
        with np.errstate(over="ignore"):
            counter = offset + place
        zero = np.zeros((), np.uint64)
        words = philox((counter & LOW, counter >> HALF, zero, zero), (seed & LOW, seed >> HALF))
        machine[self.out] = self.number(words, machine)

    def emit(self, e: Emitter) -> None:
        layout = layout_of(self.out)
        e.declare(self.out)
        with e.block(""):
            key, start = e.temporary("key"), e.temporary("start")
            e(f"const uint64_t {key} = (uint64_t)({e.scalar(self.seed)});")
            e(f"const uint64_t {start} = (uint64_t)({e.scalar(self.offset)});")
            for i, turn in turns(e, layout.local_size):
                place: Expr = as_expr(0)
                for index, extent in zip(
                    layout.indices(e.thread, turn), self.out.shape, strict=True
                ):
                    place = apply("add", apply("mul", place, extent), index)
                words = e.temporary("words")
                e(f"const uint4 {words} = {e.use('philox')}({key}, {start} + ({e.index(place)}));")
                e.set(self.out, i, self.number_text(e, words))


def _tile(dtype: Any, shape: Any, what: str) -> RegisterTensor:
    return RegisterTensor(expect(dtype, DataType, f"{what}: dtype"), shape_tuple(shape))


def _integer(value: Any, what: str) -> Expr:
    return cast(expect(as_expr(value, int64), Expr, what), int64)


# ---- floats -------------------------------------------------------------------------------------


class _Floats(_Random):
    @classmethod
    def build(cls: type[U], *, shape: Any, dtype: Any = float32, seed: Any, offset: Any = 0) -> U:
        """Random numbers: rand is uniform in [0, 1), randn normal with mean 0 and deviation 1.

        `shape` is constant, `dtype` float16, bfloat16, float32 or float64. `seed` and `offset` are
        integers, run-time scalars too: element J (row-major) depends on `seed` and `offset + J`
        alone. rand gives multiples of 2^-24, in float16 of 2^-11, in bfloat16 of 2^-8 and in
        float64 of 2^-53; randn is made from two of them by the Box-Muller transform, in float32
        (float64 in float64). Raises `TilusError` for other dtypes.

        Example: `noise = self.randn(shape=[16, 32], seed=seed, offset=self.blockIdx.x * 512)`.
        """
        out = _tile(dtype, shape, cls.name)
        return cls(
            out, _integer(seed, f"{cls.name}: seed"), _integer(offset, f"{cls.name}: offset")
        )

    def verify(self) -> None:
        super().verify()
        dtype = self.out.dtype
        self.require(
            dtype.is_any_float16() or dtype in (float32, float64),
            f"there are no random numbers of {dtype}",
            found=str(dtype),
            expected="float16, bfloat16, float32 or float64",
            hint="make float32 and cast it: self.rand(...).to(dtype)",
        )

    @property
    def suffix(self) -> str:
        """Of the functions that compute in the precision of the result."""
        return "f64" if self.out.dtype == float64 else "f32"


class Rand(_Floats, name="rand"):
    @property
    def precision(self) -> int:
        """The bits of the numbers: as many as a number just below 1 has."""
        return self.out.dtype.mantissa_nbits + 1

    def number(self, words: tuple[Array, ...], machine: Machine) -> Array:
        dtype, bits = self.out.dtype, self.precision
        drawn = _long(words[0], words[1]) if dtype == float64 else words[0] << HALF
        return dtype.encode((drawn >> np.uint64(64 - bits)).astype(np.float64) * 2.0**-bits)

    def number_text(self, e: Emitter, words: str) -> str:
        precision = "" if self.out.dtype == float64 else f"<{self.precision}>"
        return f"{e.use(f'uniform_{self.suffix}')}{precision}({words})"


class Randn(_Floats, name="randn"):
    def number(self, words: tuple[Array, ...], machine: Machine) -> Array:
        if self.out.dtype == float64:
            square, turn = _long(words[0], words[1]), _long(words[2], words[3])
            return _box_muller(square >> np.uint64(11), turn >> np.uint64(11), 53, np.float64)
        normal = _box_muller(words[0], words[1] >> np.uint64(8), 32, np.float32)
        return convert(normal, float32, self.out.dtype)

    def number_text(self, e: Emitter, words: str) -> str:
        return f"{e.use(f'normal_{self.suffix}')}({words})"


def _box_muller(square: Array, turn: Array, bits: int, kind: Any) -> Array:
    """G. Box and M. Muller, "A note on the generation of random normal deviates" (1958).

    `square` has `bits` random bits, `turn` 24 (float32) or 53; the half keeps the logarithm finite.
    """
    radius = (square.astype(kind) + kind(0.5)) * kind(2.0**-bits)
    angle = turn.astype(np.float64) * (2 * np.pi * 2.0 ** -(24 if kind is np.float32 else 53))
    return np.asarray(np.sqrt(kind(-2) * np.log(radius)) * np.cos(angle).astype(kind))


def _long(low: Array, high: Array) -> Array:
    return low | high << HALF


# ---- integers -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Randint(_Random, name="randint"):
    low: Expr
    high: Expr

    @classmethod
    def build(
        cls,
        low: Any,
        high: Any,
        *,
        shape: Any,
        dtype: Any = int32,
        seed: Any,
        offset: Any = 0,
    ) -> Randint:
        """Random integers from `low` to `high - 1`, all (nearly) equally likely.

        `low` and `high` are integers, run-time scalars too, with low < high in the range of
        `dtype`, an integer of 8..64 bits. Of 2^32 random numbers (2^64 for 64 bits) at most one
        more falls on one integer than on another. `shape`, `seed` and `offset` as for rand.
        Raises `TilusError` for an empty range, when run for run-time bounds.

        Example: `dice = self.randint(1, 7, shape=[64], seed=seed)`.
        """
        return cls(
            _tile(dtype, shape, "randint"),
            _integer(seed, "randint: seed"),
            _integer(offset, "randint: offset"),
            _integer(low, "randint: low"),
            _integer(high, "randint: high"),
        )

    def verify(self) -> None:
        super().verify()
        dtype = self.out.dtype
        self.require(
            dtype.is_integer() and not dtype.is_subbyte(),
            f"there are no random integers of {dtype}",
            found=str(dtype),
            expected="an integer of 8..64 bits",
            hint="make int32 and cast it: self.randint(...).to(dtype)",
        )
        if isinstance(self.low, Const) and isinstance(self.high, Const):
            self._check_range(int(self.low.value), int(self.high.value))

    def _check_range(self, low: int, high: int) -> None:
        dtype = self.out.dtype
        self.require(
            dtype.min_value <= low < high <= dtype.max_value + 1,
            f"no range of integers of {dtype}",
            found=f"{low} to {high}, exclusive",
            expected=f"low < high, from {dtype.min_value} to {dtype.max_value + 1}",
        )

    def number(self, words: tuple[Array, ...], machine: Machine) -> Array:
        rank, dtype = len(self.out.shape), self.out.dtype
        low, high = machine.scalar(self.low), machine.scalar(self.high)
        for pair in np.broadcast(low, high):
            self._check_range(int(pair[0]), int(pair[1]))
        low, high = spread(low, rank).astype(np.uint64), spread(high, rank).astype(np.uint64)
        with np.errstate(over="ignore"):
            if dtype.nbits == 64:
                number = low + _high_product(_long(words[0], words[1]), high - low)
            else:
                number = low + (words[0] * (high - low) >> HALF)
        return number.astype(np.int64).astype(dtype.carrier)

    def number_text(self, e: Emitter, words: str) -> str:
        low, high = e.scalar(self.low), e.scalar(self.high)
        span = f"((uint64_t)({high}) - (uint64_t)({low}))"
        if self.out.dtype.nbits == 64:
            e.use("long_words")
            step = f"__umul64hi(low_words({words}), {span})"
        else:
            step = f"({words}.x * {span} >> 32)"
        return e.scalar.converted(f"((uint64_t)({low}) + {step})", int64, self.out.dtype)


def _high_product(a: Array, b: Array) -> Array:
    """The upper 64 bits of the product of uint64 arrays."""
    a0, a1, b0, b1 = a & LOW, a >> HALF, b & LOW, b >> HALF
    middle = a1 * b0 + (a0 * b0 >> HALF)
    other = a0 * b1 + (middle & LOW)
    return a1 * b1 + (middle >> HALF) + (other >> HALF)
