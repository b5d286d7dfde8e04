"""The address permutation that spreads a column of 16-byte chunks over the banks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tilus.ir.layout.modes import LayoutError, as_int


@dataclass(frozen=True)
class Swizzle:
    """The address permutation `o ^ ((o & (((1 << bits) - 1) << (base + shift))) >> shift)`.

    Bits [base, base + bits) are xor-ed with the bits `shift` places above them. It is its own
    inverse where `shift >= bits`.

    >>> Swizzle(3, 3, 3)(64 + 8)
    64
    """

    base: int
    bits: int
    shift: int

    def __post_init__(self) -> None:
        for field in ("base", "bits", "shift"):
            object.__setattr__(
                self, field, as_int(getattr(self, field), f"swizzle {field}", minimum=0)
            )
        if self.bits and not self.shift:
            raise LayoutError(
                "a swizzle with shift 0 loses addresses",
                found=str(self),
                expected="shift of at least 1",
            )

    def __call__(self, offset: Any) -> Any:
        """The permuted offset; works on ints, integer arrays and expressions with `& ^ >>`."""
        if not self.bits:
            return offset
        mask = ((1 << self.bits) - 1) << (self.base + self.shift)
        return offset ^ ((offset & mask) >> self.shift)

    @property
    def block(self) -> int:
        """Aligned ranges of this many elements are permuted within themselves."""
        return 1 << (self.base + self.bits + (self.shift if self.shift < self.bits else 0))

    def __str__(self) -> str:
        return f"Swizzle({self.base}, {self.bits}, {self.shift})"

    __repr__ = __str__
