"""Host tensors: what a caller hands to a kernel, for every dtype, in ordinary (CPU or CUDA) memory.

    weight = tilus.from_torch(torch.randn(4, 8)).to(tilus.float6_e3m2)  # 24 bytes, packed
    weight.storage                     # uint8[24], the bit stream
    weight.view(dtype=tilus.uint8, shape=[24])                          # the same memory
    weight.to(tilus.float32).torch()                                    # back to torch

A dtype that torch has is held by a torch tensor of that dtype and shape. Every other one is a
one-dimensional uint8 torch tensor: the packed little-endian bit stream of `tilus.dtypes.pack`, in
row-major order. The surprise: conversion goes through the CPU, wherever the tensor lives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tilus import dtypes
from tilus.dtypes import DataType, Number, convert, float32, int32, pack, storage_nbytes, unpack
from tilus.errors import TilusError

TorchTensor = torch.Tensor
TorchDtype = torch.dtype
TorchDevice = torch.device
Shape = int | Sequence[int]
Device = str | torch.device | None  # None: torch's default device

# The torch dtype that holds the elements; in the other direction its first row counts.
_TORCH_DTYPES: dict[DataType, torch.dtype] = {
    dtypes.int8: torch.int8,
    dtypes.int16: torch.int16,
    dtypes.int32: torch.int32,
    dtypes.int64: torch.int64,
    dtypes.uint8: torch.uint8,
    dtypes.uint16: torch.uint16,
    dtypes.uint32: torch.uint32,
    dtypes.uint64: torch.uint64,
    dtypes.float8_e4m3: torch.float8_e4m3fn,
    dtypes.float8_e5m2: torch.float8_e5m2,
    dtypes.ufloat8_e8m0: torch.float8_e8m0fnu,
    dtypes.float16: torch.float16,
    dtypes.bfloat16: torch.bfloat16,
    dtypes.float32: torch.float32,
    dtypes.tfloat32: torch.float32,
    dtypes.float64: torch.float64,
    dtypes.boolean: torch.bool,
}
_FROM_TORCH: dict[torch.dtype, DataType] = {
    held: dtype for dtype, held in reversed(list(_TORCH_DTYPES.items()))
}


def dtype_to_torch(dtype: DataType) -> torch.dtype:
    """The torch dtype whose elements are those of `dtype`.

    tfloat32 is held in float32, pointers in int64. Raises `TilusError` where torch has none.

    >>> dtype_to_torch(dtypes.float8_e4m3)
    torch.float8_e4m3fn
    """
    found = _torch_dtype(dtype)
    if found is None:
        raise TilusError(
            f"torch has no dtype for {dtype}",
            hint="convert with .to(tilus.float32), or take the packed bytes from .storage",
        )
    return found


def dtype_from_torch(dtype: torch.dtype) -> DataType:
    """The dtype of a torch dtype's elements; a `TilusError` for complex and quantised ones.

    >>> dtype_from_torch(torch.bfloat16)
    bfloat16
    """
    if dtype not in _FROM_TORCH:
        raise TilusError(
            f"no data type corresponds to {dtype}",
            expected=", ".join(str(known) for known in _FROM_TORCH),
        )
    return _FROM_TORCH[dtype]


def _torch_dtype(dtype: DataType) -> torch.dtype | None:
    return torch.int64 if dtype.is_pointer() else _TORCH_DTYPES.get(dtype)


@dataclass(frozen=True, eq=False, repr=False)
class Tensor:
    """`shape` elements of `dtype` in `storage`, row-major and contiguous.

    `storage` is a torch tensor of the same shape where torch has the dtype, else a one-dimensional
    uint8 torch tensor of ceil(numel * nbits / 8) bytes; it is shared, not copied. Raises
    `TilusError` for any other storage.

    >>> Tensor(dtypes.int4b, (3,), torch.tensor([0x21, 0x0F], dtype=torch.uint8)).to(int32).torch()
    tensor([ 1,  2, -1], dtype=torch.int32)
    """

    dtype: DataType
    shape: tuple[int, ...]
    storage: TorchTensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _as_shape(self.shape))
        expected_dtype, expected_shape = _storage_form(self.dtype, self.shape)
        if self.storage.dtype != expected_dtype or tuple(self.storage.shape) != expected_shape:
            raise TilusError(
                f"this storage does not hold {self.dtype}{list(self.shape)}",
                found=f"{self.storage.dtype}{list(self.storage.shape)}",
                expected=f"{expected_dtype}{list(expected_shape)}",
                hint="use view_torch to give other memory this dtype and shape",
            )
        _check_contiguous(self.storage)

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}{list(self.shape)}, device={self.device})"

    @property
    def device(self) -> TorchDevice:
        """Where the storage lives."""
        return self.storage.device

    @property
    def numel(self) -> int:
        """How many elements there are."""
        return math.prod(self.shape)

    def data_ptr(self) -> int:
        """The address of the first byte."""
        return self.storage.data_ptr()

    def clone(self) -> Tensor:
        """A copy in memory of its own."""
        return Tensor(self.dtype, self.shape, self.storage.clone())

    def torch(self) -> TorchTensor:
        """The torch tensor of the elements, sharing memory.

        Raises `TilusError` where torch lacks the dtype.

        >>> zeros([2], dtypes.float16).torch()
        tensor([0., 0.], dtype=torch.float16)
        """
        dtype_to_torch(self.dtype)
        return self.storage

    def to(self, dtype: DataType) -> Tensor:
        """Cast every element by the rules of `DataType.encode`.

        Gives the tensor itself where the dtypes are equal.

        >>> from_torch(torch.tensor([0.3, 9.0])).to(dtypes.float4_e2m1).to(float32).torch()
        tensor([0.5000, 6.0000])
        """
        if dtype == self.dtype:
            return self
        return from_carrier(convert(self.numpy_carrier(), self.dtype, dtype), dtype, self.device)

    def view(self, *, dtype: DataType | None = None, shape: Shape | None = None) -> Tensor:
        """The same memory as other elements; one extent of `shape` may be -1.

        Without a shape the last extent changes with the width of the dtype. Raises `TilusError`
        where the sizes differ, or the memory is not aligned to the dtype.

        >>> zeros([4, 8], dtypes.uint4b).view(dtype=dtypes.uint8)
        Tensor(uint8[4, 4], device=cpu)
        """
        target = self.dtype if dtype is None else dtype
        if shape is None:
            extents = _rescaled(self, target)
        else:
            extents = _resolved(shape, self.numel * self.dtype.nbits, self.dtype.nbits, target)
        return _over_bytes(_flat_bytes(self.storage), target, extents)

    def numpy_carrier(self) -> NDArray[Any]:
        """The elements as `DataType.carrier` holds them, in `shape`: a copy on the CPU.

        >>> full([2], -1, dtypes.int4b).numpy_carrier()
        array([15, 15], dtype=uint8)
        """
        data = _flat_bytes(self.storage).cpu().numpy()
        bits = unpack(data, self.dtype.nbits, self.numel).reshape(self.shape)
        return self.dtype.from_bits(bits.copy())


# Making tensors


def storage_of(value: object) -> TorchTensor | None:
    """The torch tensor behind a kernel's argument, or None where it is a number.

    >>> storage_of(3) is None, storage_of(torch.zeros(2)).shape
    (True, torch.Size([2]))
    """
    if isinstance(value, Tensor):
        return value.storage
    return value if isinstance(value, torch.Tensor) else None


def from_torch(tensor: TorchTensor) -> Tensor:
    """A torch tensor of any shape as a tensor of the same dtype, sharing memory.

    Raises `TilusError` where it is not contiguous or its dtype has no counterpart.

    >>> from_torch(torch.zeros(2, 3))
    Tensor(float32[2, 3], device=cpu)
    """
    return Tensor(dtype_from_torch(tensor.dtype), tuple(tensor.shape), tensor.detach())


def view_torch(tensor: TorchTensor, *, dtype: DataType, shape: Shape) -> Tensor:
    """The memory of a torch tensor as elements of `dtype` in `shape`, shared.

    One extent may be -1. The last byte may have bits left over. Raises `TilusError` where the
    tensor is not contiguous, holds another number of bytes or is not aligned to the dtype.

    >>> view_torch(torch.zeros(3, dtype=torch.uint8), dtype=dtypes.int6b, shape=[2, 2])
    Tensor(int6b[2, 2], device=cpu)
    """
    _check_contiguous(tensor)
    flat = _flat_bytes(tensor.detach())
    return _over_bytes(flat, dtype, _resolved(shape, flat.numel() * 8, 8, dtype))


def from_carrier(array: NDArray[Any], dtype: DataType, device: Device = "cpu") -> Tensor:
    """A tensor of a NumPy array in the carrier of `dtype` (`DataType.carrier`), copied to `device`.

    >>> from_carrier(np.array([1, 15], np.uint8), dtypes.int4b).to(int32).torch()
    tensor([ 1, -1], dtype=torch.int32)
    """
    bits = dtype.to_bits(np.ascontiguousarray(array)).reshape(-1)
    data = torch.from_numpy(pack(bits, dtype.nbits).copy()).to(device)
    return _over_bytes(data, dtype, array.shape)


def empty(shape: Shape, dtype: DataType = float32, device: Device = None) -> Tensor:
    """A tensor of uninitialised memory."""
    extents = _as_shape(shape)
    torch_dtype, storage_shape = _storage_form(dtype, extents)
    return Tensor(dtype, extents, torch.empty(storage_shape, dtype=torch_dtype, device=device))


def zeros(shape: Shape, dtype: DataType = float32, device: Device = None) -> Tensor:
    """A tensor of zeros; a `TilusError` where the dtype has no 0."""
    return full(shape, dtype.zero, dtype, device)


def ones(shape: Shape, dtype: DataType = float32, device: Device = None) -> Tensor:
    """A tensor of ones; a `TilusError` where the dtype has no 1."""
    return full(shape, dtype.one, dtype, device)


def full(
    shape: Shape, fill_value: Number, dtype: DataType = float32, device: Device = None
) -> Tensor:
    """A tensor of one value; a `TilusError` where the value is out of range.

    >>> full([2, 2], 3, dtypes.uint2b).to(int32).torch()
    tensor([[3, 3],
            [3, 3]], dtype=torch.int32)
    """
    value = dtype.encode(dtype.constant(fill_value))
    return from_carrier(np.full(_as_shape(shape), value, dtype.carrier), dtype, _device(device))


def rand(shape: Shape, dtype: DataType = float32, device: Device = None) -> Tensor:
    """A tensor of uniform numbers from [0, 1), rounded to `dtype`; from torch's generator.

    Raises `TilusError` where the dtype is no float and no codebook.
    """
    _check_has_fractions(dtype, "rand")
    return from_torch(torch.rand(_as_shape(shape), dtype=torch.float32, device=device)).to(dtype)


def randn(shape: Shape, dtype: DataType = float32, device: Device = None) -> Tensor:
    """A tensor of standard normal numbers, rounded to `dtype`; from torch's generator.

    Raises `TilusError` where the dtype is no float and no codebook.
    """
    _check_has_fractions(dtype, "randn")
    return from_torch(torch.randn(_as_shape(shape), dtype=torch.float32, device=device)).to(dtype)


def randint(
    low: int, high: int, shape: Shape, dtype: DataType = int32, device: Device = None
) -> Tensor:
    """A tensor of uniform integers in [low, high), from torch's generator.

    Raises `TilusError` where the interval is empty or does not fit in `dtype`.

    >>> randint(-8, 8, [3], dtypes.int4b)
    Tensor(int4b[3], device=cpu)
    """
    if not low < high:
        raise TilusError(
            "there is no integer to draw", found=f"low {low}, high {high}", expected="low < high"
        )
    dtypes.int64.constant(high)  # what torch draws
    for bound in (low, high - 1):
        if bound != dtype.constant(bound):
            raise TilusError(f"{dtype} cannot represent {bound}", hint="choose a smaller interval")
    return from_torch(
        torch.randint(low, high, _as_shape(shape), dtype=torch.int64, device=device)
    ).to(dtype)


# Shapes and memory


def _device(device: Device) -> TorchDevice:
    return torch.get_default_device() if device is None else torch.device(device)


def _check_has_fractions(dtype: DataType, function: str) -> None:
    if not (dtype.is_float() or dtype.kind == "codebook"):
        raise TilusError(f"{function} makes floats, not {dtype}", hint="use randint for integers")


def _as_shape(shape: Shape) -> tuple[int, ...]:
    try:
        extents = tuple(index(extent) for extent in ((shape,) if isinstance(shape, int) else shape))
    except TypeError:
        raise TilusError("a shape is a list of integers", found=repr(shape)) from None
    if any(extent < 0 for extent in extents):
        raise TilusError("the extents of a shape are not negative", found=str(list(extents)))
    return extents


def _storage_form(dtype: DataType, shape: tuple[int, ...]) -> tuple[TorchDtype, tuple[int, ...]]:
    """The torch dtype and shape of the storage of such a tensor."""
    torch_dtype = _torch_dtype(dtype)
    if torch_dtype is None:
        return torch.uint8, (storage_nbytes(dtype, math.prod(shape)),)
    return torch_dtype, shape


def _check_contiguous(tensor: TorchTensor) -> None:
    if not tensor.is_contiguous():
        raise TilusError(
            "the torch tensor is not contiguous",
            found=f"shape {list(tensor.shape)} with strides {list(tensor.stride())}",
            hint="call .contiguous() on it first",
        )


def _flat_bytes(tensor: TorchTensor) -> TorchTensor:
    """The memory of a contiguous tensor as uint8[bytes], shared."""
    if (
        tensor.numel() == 0
    ):  # torch refuses to view some empty tensors, and there is nothing to share
        return torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return tensor.reshape(-1).view(torch.uint8)


def _over_bytes(flat: TorchTensor, dtype: DataType, shape: tuple[int, ...]) -> Tensor:
    """The tensor whose memory is `flat`, uint8[bytes] of the right size; shared."""
    torch_dtype = _torch_dtype(dtype)
    if torch_dtype is None:
        return Tensor(dtype, shape, flat)
    if flat.numel() == 0:
        return Tensor(dtype, shape, torch.empty(shape, dtype=torch_dtype, device=flat.device))
    if flat.storage_offset() % dtype.nbytes or flat.data_ptr() % dtype.nbytes:
        raise TilusError(
            f"this memory is not aligned to {dtype}",
            found=f"address 0x{flat.data_ptr():x}, byte {flat.storage_offset()} of its storage",
            expected=f"multiples of {dtype.nbytes} bytes",
            hint="call .clone() on it first",
        )
    return Tensor(dtype, shape, flat.view(torch_dtype).reshape(shape))


def _rescaled(tensor: Tensor, dtype: DataType) -> tuple[int, ...]:
    """The shape after a view as `dtype`: the last extent takes the change of width."""
    if dtype.nbits == tensor.dtype.nbits:
        return tensor.shape
    row_nbits = tensor.shape[-1] * tensor.dtype.nbits if tensor.shape else tensor.dtype.nbits
    if not tensor.shape or row_nbits % dtype.nbits:
        raise TilusError(
            f"{tensor.dtype}{list(tensor.shape)} has no view as {dtype}",
            found=f"{row_nbits} bits along the last axis",
            expected=f"a multiple of {dtype.nbits}, and at least one axis",
            hint="give the shape: .view(dtype=..., shape=...)",
        )
    return (*tensor.shape[:-1], row_nbits // dtype.nbits)


def _resolved(shape: Shape, nbits: int, unit: int, dtype: DataType) -> tuple[int, ...]:
    """`shape` with its -1 filled in, checked to fill `nbits` bits of elements of `unit` bits.

    Between sub-byte and whole-byte elements only the bytes are compared: the last may be partial.
    """
    given = [shape] if isinstance(shape, int) else list(shape)
    if given.count(-1) == 1:
        known = math.prod(extent for extent in given if extent != -1)
        given[given.index(-1)] = nbits // dtype.nbits // known if known > 0 else 0
    extents = _as_shape(given)
    needed = math.prod(extents) * dtype.nbits
    by_bytes = (unit % 8 == 0) != (dtype.nbits % 8 == 0)
    if not (needed == nbits or (by_bytes and (needed + 7) // 8 == (nbits + 7) // 8)):
        raise TilusError(
            f"{dtype}{list(extents)} does not fill this memory",
            found=f"{nbits} bits, {(nbits + 7) // 8} bytes",
            expected=f"{needed} bits, {(needed + 7) // 8} bytes",
            hint="choose a shape of the same size; one extent may be -1",
        )
    return extents
