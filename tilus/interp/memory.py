"""Global memory as the interpreter sees it: allocations at addresses, read and written by element.

A pointer is an int64 address. Every host tensor passed to the kernel and every workspace is one
`Allocation`; an access that leaves its allocation, or is not aligned to its element, is an error
that names the tensor.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tilus.dtypes import Array, DataType
from tilus.errors import TilusError

GUARD = (
    1 << 16
)  # bytes kept free between workspaces, so that running off one never lands in the next


@dataclass(frozen=True, eq=False)
class Allocation:
    """`nbytes` bytes at `base`; `data` is the uint8 array behind them, shared with the host
    tensor.
    """

    name: str
    base: int
    data: Array

    @property
    def end(self) -> int:
        return self.base + self.data.size


class Memory:
    """The allocations of one launch, found by address."""

    def __init__(self) -> None:
        self._allocations: list[Allocation] = []
        self._bases: list[int] = []
        self._workspaces: dict[object, int] = {}
        self._next = 1 << 52  # above every address a host tensor can have

    def map(self, name: str, base: int, data: Array) -> None:
        """Make `data` (uint8) readable at address `base`; tensors that overlap share their
        memory.
        """
        assert data.dtype == np.uint8 and data.ndim == 1
        position = bisect.bisect(self._bases, base)
        self._bases.insert(position, base)
        self._allocations.insert(position, Allocation(name, base, data))

    def allocate(self, name: str, nbytes: int) -> int:
        """A fresh zeroed workspace; returns its address (256-byte aligned)."""
        base = self._next
        self._next += (nbytes + GUARD + 255) // 256 * 256
        self.map(name, base, np.zeros(nbytes, np.uint8))
        return base

    def workspace(self, owner: object, name: str, nbytes: int) -> int:
        """The address of the workspace that belongs to `owner`, the same for every block of the
        launch.
        """
        if owner not in self._workspaces:
            self._workspaces[owner] = self.allocate(name, nbytes)
        return self._workspaces[owner]

    def find(self, address: int) -> Allocation:
        # Overlapping tensors start at different bases: the nearest below that covers the address.
        for position in range(bisect.bisect(self._bases, address) - 1, -1, -1):
            allocation = self._allocations[position]
            if address < allocation.end:
                return allocation
        raise TilusError(
            "the pointer does not point into any tensor of this launch",
            found=f"address {address:#x}",
            expected="an address inside one of: " + ", ".join(a.name for a in self._allocations),
            hint="pass the tensor itself as an argument of the kernel",
        )

    def gather(
        self, address: Array, offset: Array, dtype: DataType, mask: Array | None, name: str
    ) -> Array:
        """Elements of `dtype` at `address` + `offset` elements; 0 where `mask` is False.

        `address` and `mask` broadcast against `offset` (int64, any shape).
        """
        address = np.asarray(address)
        if address.ndim == 0 or address.size == 1:
            return self._gather(int(address.reshape(-1)[0]), offset, dtype, mask, name)
        result = np.zeros(np.broadcast_shapes(address.shape, offset.shape), dtype.carrier)
        for base, part in _by_address(address, result.shape):
            sub_offset = np.broadcast_to(offset, result.shape)[part]
            sub_mask = None if mask is None else np.broadcast_to(mask, result.shape)[part]
            result[part] = self._gather(base, sub_offset, dtype, sub_mask, name)
        return result

    def scatter(
        self,
        address: Array,
        offset: Array,
        dtype: DataType,
        mask: Array | None,
        values: Array,
        name: str,
    ) -> None:
        """Store `values` at `address` + `offset` elements where `mask` holds."""
        address = np.asarray(address)
        shape = np.broadcast_shapes(address.shape, offset.shape, values.shape)
        offset, values = np.broadcast_to(offset, shape), np.broadcast_to(values, shape)
        whole = None if mask is None else np.broadcast_to(mask, shape)
        if address.size == 1:
            self._scatter(int(address.reshape(-1)[0]), offset, dtype, whole, values, name)
            return
        for base, part in _by_address(address, shape):
            self._scatter(
                base,
                offset[part],
                dtype,
                None if whole is None else whole[part],
                values[part],
                name,
            )

    def update(
        self,
        address: Array,
        offset: Array,
        dtype: DataType,
        mask: Array | None,
        change: Callable[[Array, tuple[Array, ...]], Array],
        operands: tuple[Array, ...],
        name: str,
    ) -> Array:
        """Replace elements by `change(old, operands)`, return the old ones, 0 where masked.

        Elements that occur several times are updated one after the other, in row-major order.
        """
        shape = np.broadcast_shapes(address.shape, offset.shape, *(o.shape for o in operands))
        result = np.zeros(shape, dtype.carrier)
        chosen = np.ones(shape, bool) if mask is None else np.broadcast_to(mask, shape)
        bases = np.broadcast_to(address, shape)[chosen]
        places = np.broadcast_to(offset, shape)[chosen]
        values = tuple(np.broadcast_to(o, shape)[chosen] for o in operands)
        turn = _turns(bases + places * dtype.nbytes)
        before = np.zeros(bases.shape, dtype.carrier)
        for now in range(int(turn.max()) + 1 if turn.size else 0):
            rows = turn == now
            base, place = bases[rows], places[rows]
            before[rows] = old = self.gather(base, place, dtype, None, name)
            new = change(old, tuple(v[rows] for v in values))
            self.scatter(base, place, dtype, None, new, name)
        result[chosen] = before
        return result

    def _gather(
        self, address: int, offset: Array, dtype: DataType, mask: Array | None, name: str
    ) -> Array:
        if mask is not None:
            offset, mask = np.broadcast_arrays(np.where(mask, offset, 0), mask)
            if not mask.any():
                return np.zeros(offset.shape, dtype.carrier)
        allocation, first = self._locate(address, offset, dtype, mask, name)
        if dtype.nbits % 8 == 0:
            flat = _typed(allocation.data, first, dtype)
            values = flat.take(offset + _lead(first, dtype), mode="clip")
        else:
            values = dtype.from_bits(
                _gather_bits(allocation.data, 8 * first + offset * dtype.nbits, dtype.nbits)
            )
        if mask is None:
            return values
        zero = np.zeros((), dtype.carrier)
        return np.where(mask, values, zero)

    def _scatter(
        self,
        address: int,
        offset: Array,
        dtype: DataType,
        mask: Array | None,
        values: Array,
        name: str,
    ) -> None:
        if mask is not None:
            offset, values = offset[mask], values[mask]
        if offset.size == 0:
            return
        allocation, first = self._locate(address, offset, dtype, None, name)
        if dtype.nbits % 8 == 0:
            _typed(allocation.data, first, dtype)[offset + _lead(first, dtype)] = values
        else:
            _scatter_bits(
                allocation.data,
                8 * first + offset * dtype.nbits,
                dtype.nbits,
                dtype.to_bits(values),
            )

    def _locate(
        self, address: int, offset: Array, dtype: DataType, mask: Array | None, name: str
    ) -> tuple[Allocation, int]:
        """The allocation holding all accessed elements and the byte offset of `address` in it."""
        used = offset if mask is None else offset[mask]
        low, high = int(used.min()), int(used.max())
        allocation = self.find(address)
        first = address - allocation.base
        if dtype.nbits % 8 == 0 and first % dtype.nbytes:
            raise TilusError(
                f"{name} is not aligned to its elements",
                found=f"byte offset {first} into {allocation.name}",
                expected=f"a multiple of {dtype.nbytes} ({dtype})",
            )
        begin, end = 8 * first + low * dtype.nbits, 8 * first + (high + 1) * dtype.nbits
        if begin < 0 or end > 8 * allocation.data.size:
            raise TilusError(
                f"{name} reaches outside the memory of {allocation.name}",
                found=f"element {low if begin < 0 else high} of {dtype} from byte {first}",
                expected=f"within its {allocation.data.size} bytes",
                hint="the shape given to global_view is larger than the tensor passed in",
            )
        return allocation, first


def _turns(keys: Array) -> Array:
    """For each key, how often it occurred before."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    first = np.searchsorted(ranked, ranked, side="left")
    turns = np.empty(keys.shape, np.int64)
    turns[order] = np.arange(keys.size) - first
    return turns


def _by_address(address: Array, shape: tuple[int, ...]) -> Iterator[tuple[int, Array]]:
    whole = np.broadcast_to(address, shape)
    for base in np.unique(address):
        yield int(base), whole == base


def _typed(data: Array, first: int, dtype: DataType) -> Array:
    """`data` as elements of `dtype`, starting at the largest whole element before `first`."""
    skip = first % dtype.nbytes
    count = (data.size - skip) // dtype.nbytes
    return data[skip : skip + count * dtype.nbytes].view(dtype.carrier)


def _lead(first: int, dtype: DataType) -> int:
    return first // dtype.nbytes


def _gather_bits(data: Array, position: Array, nbits: int) -> Array:
    """`nbits` (< 8) bits at each bit `position`; they lie in one byte or two."""
    byte, shift = position >> 3, (position & 7).astype(np.uint16)
    low = data[byte].astype(np.uint16)
    high = data[np.minimum(byte + 1, data.size - 1)].astype(np.uint16)
    return (((low | (high << 8)) >> shift) & ((1 << nbits) - 1)).astype(np.uint8)


def _scatter_bits(data: Array, position: Array, nbits: int, bits: Array) -> None:
    byte, shift = position >> 3, (position & 7).astype(np.uint16)
    mask = (np.uint16((1 << nbits) - 1) << shift).astype(np.uint16)
    value = (bits.astype(np.uint16) << shift).astype(np.uint16)
    for half in (0, 1):
        clear = ((mask >> (8 * half)) & 0xFF).astype(np.uint8)
        touched = clear != 0
        target = byte[touched] + half
        np.bitwise_and.at(data, target, ~clear[touched])
        np.bitwise_or.at(data, target, ((value >> (8 * half)) & 0xFF).astype(np.uint8)[touched])
