"""The three kinds of tile: in registers, in shared memory, in global memory.

    a: float16[16, 32]                       a register tile, spread over the threads of the block
    s: shared float16[64, 64]                a tile in the block's shared memory
    g: global float16[m, 4096]               a view of device memory; extents may be scalars

A tensor is identified by the object, not by its name: two tiles called `a` are two tiles. The
layout of a register or shared tile is absent until layout inference has chosen it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tilus.dtypes import DataType
from tilus.ir.expr import Expr
from tilus.ir.layout import BitLayout, GlobalLayout, RegisterLayout, SharedLayout


@dataclass(eq=False)
class RegisterTensor:
    """A tile whose elements live in the registers of the block's threads.

    `layout` says which thread holds which element, `bits` where the bits of a thread's elements lie
    in its 32-bit words (None: the little-endian bit stream).
    """

    dtype: DataType
    shape: tuple[int, ...]
    layout: RegisterLayout | None = None
    bits: BitLayout | None = None
    name: str = ""

    @property
    def size(self) -> int:
        result = 1
        for extent in self.shape:
            result *= extent
        return result

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclass(eq=False)
class SharedTensor:
    """A tile in the block's shared memory; the extents are compile-time constants."""

    dtype: DataType
    shape: tuple[int, ...]
    layout: SharedLayout | None = None
    name: str = ""

    def __str__(self) -> str:
        return f"shared {self.dtype}{list(self.shape)}"


@dataclass(eq=False)
class GlobalTensor:
    """A view of global memory: extents and strides are scalar expressions, in elements."""

    dtype: DataType
    shape: tuple[Expr, ...]
    layout: GlobalLayout = field(kw_only=True)
    name: str = ""

    def __str__(self) -> str:
        return f"global {self.dtype}[{', '.join(str(e) for e in self.shape)}]"


Tensor = RegisterTensor | SharedTensor | GlobalTensor
