"""Bank conflicts: how many passes an access to shared memory takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tilus.ir.layout.modes import LayoutError
from tilus.ir.layout.places import IntArray
from tilus.ir.layout.register import RegisterLayout
from tilus.ir.layout.shared import SharedLayout

# CUDA C++ Programming Guide, "Shared Memory" of compute capability 5.x and later.
NUM_BANKS = 32
BANK_NBITS = 32
WARP_SIZE = 32


@dataclass(frozen=True)
class BankConflicts:
    """How an access to shared memory uses the banks.

    Attributes:
        vector_nbits: bits each thread moves per request.
        wavefronts: passes the worst request of any warp needs.
        ideal: passes a request needs without conflicts (1, 2 for 8-byte, 4 for 16-byte vectors).
        requests: requests of all warps together.
        total_wavefronts: passes of all requests together.
    """

    vector_nbits: int
    wavefronts: int
    ideal: int
    requests: int
    total_wavefronts: int

    @property
    def conflict_free(self) -> bool:
        """Whether every request needs no more than the ideal number of passes."""
        return self.wavefronts == self.ideal


def bank_conflicts(
    shared: SharedLayout,
    register: RegisterLayout,
    element_nbits: int,
    vector_nbits: int | None = None,
) -> BankConflicts:
    """Count the wavefronts of moving a tile between shared memory and registers.

    There are 32 banks of 4 bytes. Lanes that touch the same word share it; a warp's 8-byte vectors
    go by half warps and 16-byte vectors by quarter warps.

    Args:
        shared, register: layouts of the same shape.
        element_nbits: width of an element.
        vector_nbits: width of the vectors, 8..128 bits; by default the widest whose elements are
            contiguous and aligned for every thread.

    Raises:
        LayoutError: shapes differ, or vectors of that width do not exist here.

    >>> from tilus.ir.layout import shared_row_major
    >>> column = RegisterLayout((32, 32), (32, 32), (0,), (1,))
    >>> bank_conflicts(shared_row_major(32, 32), column, 32, 32).wavefronts
    32
    """
    if shared.shape != register.shape:
        raise LayoutError(
            "shared and register layout differ in shape",
            found=f"{list(shared.shape)}, {list(register.shape)}",
        )
    places = shared.offsets().ravel()[register.logical_indices()]  # (threads, locals), in elements
    if vector_nbits is None:
        vector_nbits = next(
            (v for v in (128, 64, 32, 16, 8) if _vectorizes(places, element_nbits, v)), None
        )
    if vector_nbits is None or not _vectorizes(places, element_nbits, vector_nbits):
        raise LayoutError(
            "the access has no such vectors",
            found=f"{element_nbits}-bit elements in {vector_nbits or 'any'}-bit vectors",
            expected="8, 16, 32, 64 or 128 bits, contiguous and aligned in shared memory",
        )
    first_bit = (
        places[:, :: vector_nbits // element_nbits] * element_nbits
    )  # (threads, requests a warp)
    return _count_wavefronts(first_bit, vector_nbits)


def _vectorizes(places: IntArray, element_nbits: int, vector_nbits: int) -> bool:
    count, remainder = divmod(vector_nbits, element_nbits)
    if (
        vector_nbits not in (8, 16, 32, 64, 128)
        or remainder
        or not count
        or places.shape[1] % count
    ):
        return False
    vectors = places.reshape(places.shape[0], -1, count)
    contiguous = bool(np.all(vectors == vectors[..., :1] + np.arange(count)))
    return contiguous and not np.any(vectors[..., 0] * element_nbits % vector_nbits)


def _count_wavefronts(first_bit: IntArray, vector_nbits: int) -> BankConflicts:
    passes = max(1, vector_nbits // BANK_NBITS)  # lanes are served in this many groups
    padding = (
        -first_bit.shape[0] % WARP_SIZE
    )  # missing lanes repeat one that is there: no extra words
    lanes = np.concatenate([first_bit, np.repeat(first_bit[-1:], padding, axis=0)])
    words = lanes[..., None] // BANK_NBITS + np.arange(
        passes
    )  # (threads, requests, words of a vector)
    groups = words.reshape(
        -1, WARP_SIZE // passes, first_bit.shape[1], passes
    )  # (warps*passes, lanes, ...)
    groups = np.sort(groups.transpose(0, 2, 1, 3).reshape(-1, WARP_SIZE), axis=1)
    distinct = np.diff(groups, axis=1, prepend=-1) != 0
    counts = np.zeros((groups.shape[0], NUM_BANKS), dtype=np.int64)
    rows = np.broadcast_to(np.arange(groups.shape[0])[:, None], groups.shape)
    np.add.at(counts, (rows[distinct], groups[distinct] % NUM_BANKS), 1)
    group_passes = counts.max(axis=1).reshape(
        -1, passes, first_bit.shape[1]
    )  # (warps, groups, requests)
    per_request = group_passes.sum(axis=1)
    return BankConflicts(
        vector_nbits, int(per_request.max()), passes, per_request.size, int(per_request.sum())
    )
