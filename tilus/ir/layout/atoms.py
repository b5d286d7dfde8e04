"""Tensor-core atoms: the matrix instructions of the hardware as data, and block tiles made of them.

    m16n8k16_f16_f32:  A float16[16, 16]  column_local(2, 2).spatial(8, 4).local(1, 2)
                       B float16[16, 8]   local(2, 1).column_spatial(4, 8).local(2, 1)
                       C float32[16, 8]   local(2, 1).spatial(8, 4).local(1, 2)

`resolve_dot_config` covers a block tile with copies of one atom: warps go along m and n, and where
they do not share an operand it is replicated; what is left is repeated in registers.

The surprise: fragments are ordinary register layouts, so the algebra does all the work and no code
knows a fragment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from types import SimpleNamespace
from typing import Protocol

from tilus.ir.layout.modes import LayoutError, as_int, as_shape
from tilus.ir.layout.register import RegisterLayout, column_local, local, reduce, spatial, unsqueeze


class NamedDtype(Protocol):
    """What this module needs of a dtype."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class AtomicMma:
    """One warp-level matrix instruction, `C[m, n] += A[m, k] @ B[k, n]`.

    Attributes:
        name: such as `m16n8k16_f16_f32`.
        m, n, k: its extents.
        a_dtype, b_dtype, c_dtype: names of the dtypes.
        la, lb, lc: register layouts of the fragments over the 32 lanes of a warp.
        opcode: the PTX instruction.
        min_capability: the first compute capability that has it.
        section: where the PTX ISA manual defines the fragments.
    """

    name: str
    m: int
    n: int
    k: int
    a_dtype: str
    b_dtype: str
    c_dtype: str
    la: RegisterLayout
    lb: RegisterLayout
    lc: RegisterLayout
    opcode: str
    min_capability: tuple[int, int]
    section: str


_LC = local(2, 1).spatial(8, 4).local(1, 2)
_K16 = (column_local(2, 2).spatial(8, 4).local(1, 2), local(2, 1).column_spatial(4, 8).local(2, 1))
_K32 = (column_local(2, 2).spatial(8, 4).local(1, 4), local(2, 1).column_spatial(4, 8).local(4, 1))
_SECTION_K16 = "PTX ISA 9.7.14.5, Matrix Fragments for mma.m16n8k16 with floating point type"
_SECTION_K32 = "PTX ISA 9.7.14.5, Matrix Fragments for mma.m16n8k32"
_SHORT = {
    "float16": "f16", "bfloat16": "bf16", "float32": "f32",
    "int8": "i8", "uint8": "u8", "int32": "i32", "float8_e4m3": "e4m3", "float8_e5m2": "e5m2",
}  # fmt: skip


def _atom(k: int, a: str, b: str, c: str, min_capability: tuple[int, int]) -> AtomicMma:
    la, lb = _K16 if k == 16 else _K32
    operands = _SHORT[a] if a == b else f"{_SHORT[a]}_{_SHORT[b]}"
    # PTX writes signed integers s8, s32.
    a_ptx, b_ptx, c_ptx = (_SHORT[name].replace("i", "s") for name in (a, b, c))
    return AtomicMma(
        name=f"m16n8k{k}_{operands}_{_SHORT[c]}",
        m=16,
        n=8,
        k=k,
        a_dtype=a,
        b_dtype=b,
        c_dtype=c,
        la=la,
        lb=lb,
        lc=_LC,
        opcode=f"mma.sync.aligned.m16n8k{k}.row.col.{c_ptx}.{a_ptx}.{b_ptx}.{c_ptx}",
        min_capability=min_capability,
        section=_SECTION_K16 if k == 16 else _SECTION_K32,
    )


ATOMIC_MMAS: tuple[AtomicMma, ...] = (
    _atom(16, "float16", "float16", "float32", (8, 0)),
    _atom(16, "float16", "float16", "float16", (8, 0)),
    _atom(16, "bfloat16", "bfloat16", "float32", (8, 0)),
    _atom(32, "int8", "int8", "int32", (8, 0)),
    _atom(32, "uint8", "uint8", "int32", (8, 0)),
    _atom(32, "int8", "uint8", "int32", (8, 0)),
    _atom(32, "uint8", "int8", "int32", (8, 0)),
    _atom(32, "float8_e4m3", "float8_e4m3", "float32", (8, 9)),
    _atom(32, "float8_e5m2", "float8_e5m2", "float32", (8, 9)),
    _atom(32, "float8_e4m3", "float8_e5m2", "float32", (8, 9)),
    _atom(32, "float8_e5m2", "float8_e4m3", "float32", (8, 9)),
)

# The atoms by name: `atomic_mma_configs.m16n8k16_f16_f32`.
atomic_mma_configs = SimpleNamespace(**{atom.name: atom for atom in ATOMIC_MMAS})


def find_atomic_mma(a: NamedDtype, b: NamedDtype, c: NamedDtype) -> AtomicMma:
    """The atom with these operand and accumulator dtypes.

    Raises:
        LayoutError: there is none; the message lists those there are.
    """
    for atom in ATOMIC_MMAS:
        if (atom.a_dtype, atom.b_dtype, atom.c_dtype) == (a.name, b.name, c.name):
            return atom
    raise LayoutError(
        "no tensor-core instruction multiplies these dtypes",
        found=f"{a.name} x {b.name} -> {c.name}",
        expected="one of " + ", ".join(atom.name for atom in ATOMIC_MMAS),
        hint="cast the operands, or choose another accumulator dtype",
    )


@dataclass(frozen=True)
class MmaDotConfig:
    """A block tile covered by copies of one atom.

    Attributes:
        atom: the instruction.
        warp_spatial: warps along (m, n), numbered row-major.
        warp_repeat: atoms of each warp along (m, n, k).
    """

    atom: AtomicMma
    warp_spatial: tuple[int, int]
    warp_repeat: tuple[int, int, int]

    @property
    def num_warps(self) -> int:
        """Warps that take part."""
        return prod(self.warp_spatial)

    @property
    def m(self) -> int:
        """Rows of A and C."""
        return self.atom.m * self.warp_spatial[0] * self.warp_repeat[0]

    @property
    def n(self) -> int:
        """Columns of B and C."""
        return self.atom.n * self.warp_spatial[1] * self.warp_repeat[1]

    @property
    def k(self) -> int:
        """Columns of A, rows of B."""
        return self.atom.k * self.warp_repeat[2]

    @property
    def la(self) -> RegisterLayout:
        """Layout of A[m, k]; warps along n hold the same rows."""
        rm, _, rk = self.warp_repeat
        return unsqueeze(reduce(self._warps, 1), 1).local(rm, rk) * self.atom.la

    @property
    def lb(self) -> RegisterLayout:
        """Layout of B[k, n]; warps along m hold the same columns."""
        _, rn, rk = self.warp_repeat
        return unsqueeze(reduce(self._warps, 0), 0).local(rk, rn) * self.atom.lb

    @property
    def lc(self) -> RegisterLayout:
        """Layout of C[m, n]."""
        rm, rn, _ = self.warp_repeat
        return self._warps.local(rm, rn) * self.atom.lc

    @property
    def _warps(self) -> RegisterLayout:
        return spatial(*self.warp_spatial)


def mma_dot_config(
    atomic_mma: AtomicMma, warp_spatial: Sequence[int], warp_repeat: Sequence[int]
) -> MmaDotConfig:
    """A block tile of `warp_spatial` warps, each repeating the atom `warp_repeat` times.

    Args:
        atomic_mma: one of `atomic_mma_configs`.
        warp_spatial: warps along (m, n), or (m, n, 1).
        warp_repeat: atoms of a warp along (m, n) or (m, n, k).

    Raises:
        LayoutError: wrong numbers of entries, or warps along k: they would hold partial sums.

    >>> config = mma_dot_config(atomic_mma_configs.m16n8k16_f16_f32, (2, 2), (1, 4, 2))
    >>> config.m, config.n, config.k, config.la.shape, config.lb.shape, config.lc.shape
    (32, 64, 32, (32, 32), (32, 64), (32, 64))
    """
    warps = as_shape(warp_spatial, "warp_spatial")
    repeat = as_shape(warp_repeat, "warp_repeat")
    if len(warps) not in (2, 3) or len(repeat) not in (2, 3):
        raise LayoutError(
            "warp_spatial and warp_repeat need an entry for m, n and optionally k",
            found=f"{list(warps)} and {list(repeat)}",
        )
    if len(warps) == 3 and warps[2] != 1:
        raise LayoutError(
            "warps cannot share the k dimension",
            found=f"warp_spatial {list(warps)}",
            expected="1 warp along k: others would hold partial sums of C",
            hint="split k across blocks instead",
        )
    wm, wn = warps[:2]
    rm, rn, rk = repeat if len(repeat) == 3 else (*repeat, 1)
    return MmaDotConfig(atomic_mma, (wm, wn), (rm, rn, rk))


def resolve_dot_config(
    operand_dtype: NamedDtype, acc_dtype: NamedDtype, *, m: int, n: int, k: int, num_warps: int
) -> MmaDotConfig:
    """The best covering of a block tile `C[m, n] += A[m, k] @ B[k, n]` by an atom.

    Of all ways to place the warps it takes the one in which a warp reads the fewest elements of A
    and B; among equals the one with most warps along n.

    Raises:
        LayoutError: no atom has these dtypes, or the tile cannot be divided; the message says which
            extent is in the way.
    """
    atom = find_atomic_mma(operand_dtype, operand_dtype, acc_dtype)
    extents = {"m": (m, atom.m), "n": (n, atom.n), "k": (k, atom.k)}
    for name, (extent, unit) in extents.items():
        if as_int(extent, name, minimum=1) % unit:
            raise LayoutError(
                f"the tile is not a multiple of {atom.name} along {name}",
                found=f"{name} = {extent}",
                expected=f"a multiple of {unit}",
                hint="pad the tile; elements that are zero do no harm",
            )
    configs = placements(atom, (m, n, k), as_int(num_warps, "num_warps", minimum=1))
    if not configs:
        raise LayoutError(
            f"{num_warps} warps cannot share this tile",
            found=f"{m // atom.m} x {n // atom.n} atoms of {atom.m} x {atom.n}",
            expected="num_warps = wm * wn with wm dividing the first and wn the second",
            hint="use fewer warps or a larger tile",
        )
    return configs[0]


def placements(
    atom: AtomicMma, extents: tuple[int, int, int], num_warps: int
) -> list[MmaDotConfig]:
    """All coverings by `num_warps` warps of a tile whose extents (m, n, k) are whole atoms; first
    those in which a warp reads the fewest elements of A and B, then those with most warps along n.

    >>> found = placements(atomic_mma_configs.m16n8k16_f16_f32, (32, 32, 16), 2)
    >>> [config.warp_spatial for config in found]
    [(1, 2), (2, 1)]
    """
    m, n, k = (e // u for e, u in zip(extents, (atom.m, atom.n, atom.k), strict=True))
    found = [
        MmaDotConfig(atom, (wm, num_warps // wm), (m // wm, n * wm // num_warps, k))
        for wm in range(1, num_warps + 1)
        if num_warps % wm == 0 and m % wm == 0 and n % (num_warps // wm) == 0
    ]
    return sorted(found, key=_operand_traffic)


def _operand_traffic(config: MmaDotConfig) -> tuple[int, tuple[int, int]]:
    wm, wn = config.warp_spatial
    return config.m // wm + config.n // wn, config.warp_spatial
