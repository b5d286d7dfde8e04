"""The per-thread side of register tiles: which bits each thread holds, and `view` on them.

The machine keeps a tile as one array of logical elements, because all threads that hold an element
agree on it. Only a reinterpretation asks what is in the threads: here elements go to threads, their
codes to bits, and back.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tilus import dtypes
from tilus.dtypes import Array
from tilus.errors import TilusError
from tilus.ir.layout import BitLayout, RegisterLayout
from tilus.ir.tensor import RegisterTensor


def to_threads(values: Array, layout: RegisterLayout) -> Array:
    """(blocks, *shape) -> (blocks, threads, locals)."""
    flat = values.reshape(values.shape[0], -1)
    return flat[:, layout.logical_indices()]


def from_threads(held: Array, layout: RegisterLayout) -> Array:
    """(blocks, threads, locals) -> (blocks, *shape); threads that hold the same element must
    agree.
    """
    threads, local = layout.owner_table()
    return held[:, threads[:, 0], local].reshape((held.shape[0], *layout.shape))


def thread_bytes(tile: RegisterTensor, values: Array) -> Array:
    """(blocks, *shape) carrier -> (blocks, threads, bytes): the registers of each thread,
    little-endian.
    """
    assert tile.layout is not None
    codes = tile.dtype.to_bits(to_threads(values, tile.layout))
    return pack_bits(codes, tile.dtype.nbits, tile.bits)


def pack_bits(codes: Array, nbits: int, bits: BitLayout | None) -> Array:
    if bits is None:
        return dtypes.pack(codes, nbits)
    words = np.ascontiguousarray(bits.pack(codes))
    return words.view(np.uint8)


def unpack_bits(data: Array, nbits: int, count: int, bits: BitLayout | None) -> Array:
    if bits is None:
        return dtypes.unpack(data, nbits, count)
    padding = (-data.shape[-1]) % 4
    padded = np.pad(data, [(0, 0)] * (data.ndim - 1) + [(0, padding)])
    return bits.unpack(np.ascontiguousarray(padded).view(np.uint32))


def reinterpret(source: RegisterTensor, values: Array, target: RegisterTensor) -> Array:
    """The bits of `source` in each thread, read as `target`: same threads, same bits per thread."""
    assert source.layout is not None and target.layout is not None
    data = thread_bytes(source, values)
    codes = unpack_bits(data, target.dtype.nbits, target.layout.local_size, target.bits)
    return from_threads(target.dtype.from_bits(codes), target.layout)


def check_view(source: RegisterTensor, target: RegisterTensor) -> None:
    """Raise unless `target` can be a view of `source` (threads, bits per thread, agreement of
    replicas).
    """
    have, want = source.layout, target.layout
    assert have is not None and want is not None
    if have.num_threads != want.num_threads:
        raise TilusError(
            "view: both layouts must be over the same threads",
            found=f"{source} is held by {have.num_threads} threads, {target} by {want.num_threads}",
        )
    bits, wanted = have.local_size * source.dtype.nbits, want.local_size * target.dtype.nbits
    if bits != wanted:
        raise TilusError(
            "view: both sides must have the same bits in each thread",
            found=f"{have.local_size} x {source.dtype.nbits} = {bits} bits and "
            f"{want.local_size} x {target.dtype.nbits} = {wanted} bits",
            hint="choose a layout whose local size times the width of the dtype is equal",
        )
    culprit = _disagreeing_replica(source, target)
    if culprit is not None:
        raise TilusError(
            "view: threads that hold one element of the result hold different data",
            found=f"threads {culprit[0]} and {culprit[1]} hold different elements of the source",
            expected="a result layout that replicates no more than the source layout",
            hint="use a layout without replication over those threads",
        )


def _disagreeing_replica(source: RegisterTensor, target: RegisterTensor) -> tuple[int, int] | None:
    assert source.layout is not None and target.layout is not None
    return _replica_conflict(
        source.layout,
        source.dtype.nbits,
        source.bits,
        target.layout,
        target.dtype.nbits,
        target.bits,
    )


@lru_cache(maxsize=1024)
def _replica_conflict(
    have: RegisterLayout,
    have_nbits: int,
    have_bits: BitLayout | None,
    want: RegisterLayout,
    want_nbits: int,
    want_bits: BitLayout | None,
) -> tuple[int, int] | None:
    """Two threads holding one element of `want` but different bits of `have`, if there are any."""
    threads, _ = want.owner_table()
    if threads.shape[1] == 1:
        return None
    held = (
        have.logical_indices()
    )  # two threads hold the same bits where their rows of elements agree
    for replica in range(1, threads.shape[1]):
        differ = (held[threads[:, 0]] != held[threads[:, replica]]).any(axis=1)
        if differ.any():
            element = int(np.argmax(differ))
            return int(threads[element, 0]), int(threads[element, replica])
    return None
