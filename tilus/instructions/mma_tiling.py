"""How the warps of a block share a product of tiles on tensor cores.

    for tiling in tilings_of(atom, (), (m, n, k), num_threads):   # those that read the least first
        tiling.la, tiling.lb, tiling.lc                           # of A[m, k], B[k, n], C[m, n]

The surprise: the same tilings are the same objects. An unrolled kernel asks for them thousands of
times, and layouts that are one object are equal without being compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd

from tilus.ir.layout import (
    AtomicMma,
    LayoutError,
    MmaDotConfig,
    RegisterLayout,
    local,
    placements,
    spatial,
)

WARP_SIZE = 32


@dataclass(frozen=True)
class Tiling:
    """A tensor-core tiling of each matrix of a batch: `batch` (matrices a warp, groups of warps)
    along the leading dimension; None where there is none.
    """

    config: MmaDotConfig
    batch: tuple[int, int] | None = None

    @cached_property
    def la(self) -> RegisterLayout:
        return self._batched(self.config.la)

    @cached_property
    def lb(self) -> RegisterLayout:
        return self._batched(self.config.lb)

    @cached_property
    def lc(self) -> RegisterLayout:
        return self._batched(self.config.lc)

    @property
    def matrices(self) -> int:
        """The products that a warp computes."""
        return 1 if self.batch is None else self.batch[0]

    def _batched(self, layout: RegisterLayout) -> RegisterLayout:
        if self.batch is None:
            return layout
        alone, groups = self.batch
        return local(alone, 1, 1) * spatial(groups, 1, 1) * layout.unsqueeze(0)


@lru_cache(1024)
def tilings_of(
    atom: AtomicMma, batch: tuple[int, ...], extents: tuple[int, int, int], num_threads: int
) -> tuple[Tiling, ...]:
    """All tilings of matrices of `extents` (m, n, k), first those in which a warp reads the least.

    `batch` is the number of matrices, or empty for one without a leading dimension.

    Raises: LayoutError where atoms do not fill the matrices, or the warps cannot share them.

    >>> from tilus.ir.layout import atomic_mma_configs
    >>> tilings = tilings_of(atomic_mma_configs.m16n8k16_f16_f32, (), (32, 32, 16), 64)
    >>> [tiling.config.warp_spatial for tiling in tilings]
    [(1, 2), (2, 1)]
    """
    _check_extents(atom, extents)
    warps = 0 if num_threads % WARP_SIZE else num_threads // WARP_SIZE
    if not batch:
        found = [Tiling(config) for config in placements(atom, extents, warps)]
    else:
        common = gcd(batch[0], warps)
        found = [
            Tiling(config, (batch[0] // groups, groups))
            for groups in range(common, 0, -1)
            if common % groups == 0
            for config in placements(atom, extents, warps // groups)
        ]
    if not found:
        raise LayoutError(
            f"{num_threads} threads cannot share the tile",
            found=f"{extents[0] // atom.m} x {extents[1] // atom.n} atoms of {atom.name}",
        )
    return tuple(found)


def _check_extents(atom: AtomicMma, extents: tuple[int, int, int]) -> None:
    units = (atom.m, atom.n, atom.k)
    for name, extent, unit in zip("mnk", extents, units, strict=True):
        if extent % unit:
            raise LayoutError(
                f"the tile is no multiple of {atom.name}",
                found=f"{name} = {extent}, {unit} needed",
            )
