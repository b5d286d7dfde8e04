"""One data type: its facts, and what it does with numbers and with arrays of itself.

The types themselves are declared in `tilus/dtypes/__init__.py`; what they hold is computed in
`values.py`, and how numbers are rounded to them in `encoding.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilus.dtypes.encoding import ENCODERS, as_numbers, drop_tail
from tilus.dtypes.values import (
    as_carrier,
    as_constant,
    bits_dtype,
    carrier_dtype,
    code_values,
    exact_constant,
    is_coded,
    mask,
    number_dtype,
    value_range,
)
from tilus.errors import TilusError

Array = NDArray[Any]
Number = int | float | bool
Kind = Literal["int", "uint", "float", "bool", "pointer", "codebook"]
# Which bit patterns of a float are no number: none; only S.11..1 is nan (OCP e4m3); the all-ones
# exponent is inf and nan (IEEE 754); 0xFF of the sign-less power-of-two scale is nan (OCP e8m0).
Specials = Literal["none", "nan", "ieee", "scale"]

POINTER_NBITS = 64


@dataclass(frozen=True, repr=False)
class DataType:
    """A type of element; equal and hashable by value, and printed as its name.

    `exponent_nbits` and `mantissa_nbits` are 0 where the type is no float; `values` are the numbers
    of a codebook by code; `pointee` is the type a pointer points to (None for `void_p`).

    >>> from tilus.dtypes import float6_e3m2, float16, int4b
    >>> int4b.min_value, int4b.nbits, float6_e3m2.max_value, ~float16
    (-8, 4, 28.0, ~float16)
    """

    name: str
    short_name: str
    kind: Kind
    nbits: int
    exponent_nbits: int = 0
    mantissa_nbits: int = 0
    specials: Specials = "none"
    pointee: DataType | None = None
    values: tuple[float, ...] = ()

    def __eq__(self, other: object) -> bool:
        if self is other:  # nearly always, where they are equal
            return True
        if not isinstance(other, DataType) or self.name != other.name:
            return False
        return vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(self.name)  # the name tells everything, and a str remembers its hash

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name

    def __call__(self, value: Any) -> Any:
        """A constant of this dtype, made by the factory of `set_constant_factory`."""
        return _constant_factory(self, value)

    def __invert__(self) -> DataType:
        """The type of a pointer to this one."""
        return DataType(
            f"~{self.name}", f"~{self.short_name}", "pointer", POINTER_NBITS, pointee=self
        )

    # What it is

    def is_integer(self) -> bool:
        """Whether it is a signed or unsigned integer (boolean and pointers are not)."""
        return self.kind in ("int", "uint")

    def is_float(self) -> bool:
        """Whether it is a float, the MX scale `ufloat8_e8m0` included (codebooks are not)."""
        return self.kind == "float"

    def is_pointer(self) -> bool:
        """Whether it is an address."""
        return self.kind == "pointer"

    def is_subbyte(self) -> bool:
        """Whether an element is narrower than a byte."""
        return self.nbits < 8

    def is_any_float16(self) -> bool:
        """Whether it is float16 or bfloat16."""
        return self.kind == "float" and self.nbits == 16

    @property
    def nbytes(self) -> int:
        """Bytes of one element; a `TilusError` for a sub-byte type, which has no address."""
        if self.is_subbyte():
            raise TilusError(
                f"{self} has no size in bytes",
                found=f"{self.nbits} bits an element",
                expected="a type of 8 bits or more",
                hint="use .nbits, or storage_nbytes(dtype, count) for the bytes of a packed tensor",
            )
        return self.nbits // 8

    @property
    def bias(self) -> int:
        """The exponent bias of a float, 2^(exponent_nbits - 1) - 1; 0 where it is no float."""
        return (1 << (self.exponent_nbits - 1)) - 1 if self.is_float() else 0

    @property
    def min_value(self) -> Number:
        """The least finite value, as a Python number."""
        return value_range(self)[0]

    @property
    def max_value(self) -> Number:
        """The greatest finite value, as a Python number."""
        return value_range(self)[1]

    @property
    def zero(self) -> Number:
        """0 as a constant of this type; a `TilusError` where there is none (`ufloat8_e8m0`)."""
        return exact_constant(self, 0)

    @property
    def one(self) -> Number:
        """1 as a constant of this type; a `TilusError` where there is none (`int1b`)."""
        return exact_constant(self, 1)

    def constant(self, value: Number) -> Number:
        """`value` as this type holds it: an int, a bool, or a float rounded to the type.

        Raises `TilusError` where the value is out of range, no number, or has a fraction that an
        integer would lose.

        >>> from tilus.dtypes import boolean, float6_e3m2, int4b
        >>> int4b.constant(-8), float6_e3m2.constant(1.1), boolean.constant(1)
        (-8, 1.0, True)
        """
        return as_constant(self, value)

    # Its arrays

    @property
    def carrier(self) -> np.dtype[Any]:
        """The NumPy dtype that holds one element unpacked."""
        return carrier_dtype(self)

    def to_bits(self, array: ArrayLike) -> Array:
        """Carrier -> bit patterns in uint8, uint16, uint32 or uint64, any shape; a view of `array`.

        >>> from tilus.dtypes import float16
        >>> float16.to_bits(np.array([1.0], np.float16))
        array([15360], dtype=uint16)
        """
        return as_carrier(self, array).view(bits_dtype(self))

    def from_bits(self, bits: ArrayLike) -> Array:
        """Bit patterns in unsigned integers -> carrier, any shape; bits above `nbits` are dropped.

        A byte of `boolean` that is neither 0 nor 1 counts as true.
        """
        unsigned = np.asarray(bits).astype(bits_dtype(self), copy=False)
        if self.kind == "bool":
            return np.asarray(unsigned != 0)
        if self.nbits < 8:
            return np.asarray(unsigned & np.uint8(mask(self)))
        return unsigned.view(self.carrier)

    def decode(self, array: ArrayLike) -> Array:
        """Carrier -> the numbers it stands for, exactly, in the same shape.

        float64 gives float64, other floats and codebooks float32, signed integers and pointers
        int64, unsigned integers uint64, boolean bool.

        >>> from tilus.dtypes import float4_e2m1
        >>> float4_e2m1.decode(np.array([1, 7, 15], np.uint8))
        array([ 0.5,  6. , -6. ], dtype=float32)
        """
        carrier = as_carrier(self, array)
        if is_coded(self):
            return np.asarray(np.take(code_values(self), carrier))
        if self.name == "tfloat32":
            return drop_tail(carrier)  # memory may hold more; tensor cores read 19 bits of it
        with np.errstate(invalid="ignore"):  # a signalling nan is a nan like others
            return carrier.astype(number_dtype(self), copy=False)

    def encode(self, values: ArrayLike, *, saturate: bool = True) -> Array:
        """Numbers (float, integer or bool, any shape) -> carrier: the casts of the language.

        * To a float: round once, to nearest even, subnormals included. Floats of at most 8 bits
          saturate at their largest number, infinity too; nan stays nan where there is one, else it
          becomes the largest number. Wider ones overflow to infinity. `saturate=False` lets
          float8_e5m2 overflow to infinity and float8_e4m3 to nan.
        * To `ufloat8_e8m0`: the nearest power of two, the greater one of two equally near (as
          `ml_dtypes`); zero becomes the least one (nan if not `saturate`), negative numbers become
          nan.
        * To a codebook: the nearest value, the lower code of two equally near; nan becomes the
          greatest value.
        * Float to integer: truncate toward zero, saturate; nan becomes 0.
        * Integer to integer or pointer: keep the low bits (two's complement wraps around).
        * To boolean: whether it differs from 0.

        The result may be `values` itself where they are in the carrier already. Raises `TilusError`
        where values are no real numbers, or a float is cast to a pointer.

        >>> from tilus.dtypes import float4_e2m1
        >>> float4_e2m1.decode(float4_e2m1.encode([0.3, 2.5, 100.0]))
        array([0.5, 2. , 6. ], dtype=float32)
        """
        numbers = as_numbers(values)
        with np.errstate(over="ignore", invalid="ignore"):  # overflow and nan have their rules
            return np.asarray(ENCODERS[self.kind](self, numbers, saturate))


_constant_factory: Callable[[DataType, Any], Any] = DataType.constant


def set_constant_factory(factory: Callable[[DataType, Any], Any]) -> None:
    """Make `dtype(value)` return `factory(dtype, value)`; the IR installs its constants here."""
    global _constant_factory
    _constant_factory = factory
