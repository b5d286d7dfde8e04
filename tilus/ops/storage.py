"""Quantised weights: a matrix as codes of 1 to 8 bits with a scale (and maybe a zero point) per
group.

    w[n, k]  =  (value(code[n, k]) - zero[k // group, n]) * scale[k // group, n]

    weight.save("layer.safetensors")
    weight == QuantizedTensor.load("layer.safetensors").to("cuda")

Groups run along k, the input dimension, as in every checkpoint format. The matrix is [N, K] =
[out, in] like torch's. The surprise: what kernels pack from a weight (`prepared`) belongs to the
memory of its codes, not to the object. Objects over the same memory share it, writing to that
memory drops it, and it goes when the memory goes.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tilus.dtypes import DataType, dtype_from_name, storage_nbytes
from tilus.errors import TilusError
from tilus.tensor import Device, Tensor, view_torch
from tilus.utils import cdiv

FORMAT = "tilus.quantized"
VERSION = "1"
FLOATS = (torch.float16, torch.bfloat16, torch.float32)  # of scales, biases and results
EXACT_INTEGERS = 2.0**23  # float32 holds integers of this size, and their differences


class QuantizedTensor:
    """A quantised matrix [N, K].

    Attributes:
        dtype: the type of the codes, 1 to 8 bits.
        shape: (N, K).
        group_size: elements along K that share a scale; it divides K.
        data: the packed codes [N, K], row-major, as one flat uint8 tensor.
        scales: [K / group_size, N], float16, bfloat16 or float32.
        zeros: the zero point of each group, [K / group_size, N] of the scales' dtype, or None.
        zero: the zero point common to all groups where `zeros` is None.
    """

    def __init__(
        self,
        dtype: DataType,
        shape: tuple[int, int],
        group_size: int,
        codes: Tensor,
        scales: torch.Tensor,
        zeros: torch.Tensor | None = None,
        zero: float = 0.0,
    ):
        """Raises: TilusError if the parts do not fit one another."""
        _check_codes(dtype, shape, codes)
        data = codes.storage.reshape(-1).view(torch.uint8)
        self._assign(dtype, shape, group_size, data, scales, zeros, zero)
        self.check()

    @classmethod
    def from_tensors(
        cls,
        dtype: DataType,
        shape: tuple[int, int],
        group_size: int,
        tensors: Mapping[str, torch.Tensor],
        zero: float = 0.0,
    ) -> QuantizedTensor:
        """The weight of which `tensors()` are these.

        Raises: TilusError if they do not fit one another.
        """
        weight = cls.unchecked(
            dtype,
            shape,
            group_size,
            tensors["codes"],
            tensors["scales"],
            tensors.get("zeros"),
            zero,
        )
        weight.check()
        return weight

    @classmethod
    def unchecked(cls, *parts: Any) -> QuantizedTensor:
        """Of dtype, shape, group_size, data, scales, zeros, zero that are known to fit: this is in
        the path of every call.
        """
        weight = object.__new__(cls)
        weight._assign(*parts)
        return weight

    def _assign(
        self,
        dtype: DataType,
        shape: tuple[int, int],
        group_size: int,
        data: torch.Tensor,
        scales: torch.Tensor,
        zeros: torch.Tensor | None,
        zero: float,
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.group_size = group_size
        self.data = data
        self.scales = scales
        self.zeros = zeros
        self.zero = zero

    def __repr__(self) -> str:
        zero = "per group" if self.zeros is not None else f"{self.zero:g}"
        return (
            f"QuantizedTensor({self.dtype}{list(self.shape)}, group_size={self.group_size}, "
            f"zero={zero}, scales={self.scales.dtype}, device={self.device})"
        )

    @property
    def codes(self) -> Tensor:
        """The codes [N, K] as a tensor of `dtype`, sharing `data`."""
        return view_torch(self.data, dtype=self.dtype, shape=self.shape)

    @property
    def device(self) -> torch.device:
        """Where all of it lives."""
        return self.scales.device

    @property
    def prepared(self) -> dict[Any, torch.Tensor]:
        """What kernels have packed from this weight, by format; see the module's docstring."""
        return _prepared_of(self).forms

    @property
    def calls(self) -> dict[Any, Any]:
        """What is ready to multiply by this weight, by the kind of operands; see `prepared`."""
        return _prepared_of(self).calls

    @property
    def bits_per_weight(self) -> float:
        """Storage of codes, scales and zero points, per weight."""
        n, k = self.shape
        extra = self.scales.numel() * self.scales.element_size()
        if self.zeros is not None:
            extra += self.zeros.numel() * self.zeros.element_size()
        return self.dtype.nbits + 8 * extra / (n * k)

    def tensors(self) -> dict[str, torch.Tensor]:
        """codes (uint8, flat), scales and, where there are any, zeros: what a checkpoint keeps."""
        parts = {"codes": self.data, "scales": self.scales}
        return parts if self.zeros is None else {**parts, "zeros": self.zeros}

    def equal(self, other: QuantizedTensor) -> bool:
        """Whether type, shape, groups and every bit are the same, wherever the two live."""
        if _head(self) != _head(other):
            return False
        mine, others = self.cpu().tensors(), other.cpu().tensors()
        return mine.keys() == others.keys() and all(
            mine[name].dtype == others[name].dtype and torch.equal(mine[name], others[name])
            for name in mine
        )

    # Moving

    def to(self, device: Device) -> QuantizedTensor:
        """This weight on another device; itself where it is there already."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        if all(moved[name] is tensor for name, tensor in self.tensors().items()):
            return self
        return self.from_tensors(self.dtype, self.shape, self.group_size, moved, self.zero)

    def cpu(self) -> QuantizedTensor:
        """This weight on the CPU."""
        return self.to("cpu")

    def cuda(self, device: int | None = None) -> QuantizedTensor:
        """This weight on a CUDA device; the current one if None."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    # Numbers

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The matrix [N, K] that the codes stand for, on this device, rounded once to `dtype`.

        Once is a promise for scales and zero points of 16 bits; with float32 ones the difference
        of value and zero point may be rounded to float64 before.

        >>> import tilus
        >>> tilus.ops.quantize(torch.tensor([[1.0, -0.3]]), tilus.int4b, -1).dequantize()
        tensor([[ 1.0000, -0.2500]])
        """
        single = dtype == torch.float32 and self._is_exact_in_float32()
        compute = torch.float32 if single else torch.float64
        (n, k), group = self.shape, self.group_size
        codes = unpack_bits(self.data, self.dtype.nbits, n * k)
        table = torch.from_numpy(_values(self.dtype)).to(self.device, compute)
        values = table.index_select(0, codes.int()).reshape(n, k // group, group)
        zeros = self.zero if self.zeros is None else self.zeros.T.unsqueeze(-1).to(compute)
        weight = ((values - zeros) * self.scales.T.unsqueeze(-1).to(compute)).reshape(n, k)
        return _rounded_once(weight, dtype)

    def _is_exact_in_float32(self) -> bool:
        """Whether values less their zero points are exact there, so that only scaling rounds."""
        zeros = torch.tensor(self.zero) if self.zeros is None else self.zeros
        if self.zeros is None and self.zero == 0:
            return True
        integers = (zeros == zeros.round()) & (zeros.abs() < EXACT_INTEGERS)
        return self.dtype.is_integer() and bool(integers.all())

    # Files

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; it appears whole or not at all.

        Raises: TilusError if it cannot be written.
        """
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.tensors().items()}
        _write(Path(path), tensors, _metadata(self))

    @classmethod
    def load(cls, path: str | Path, device: Device = "cpu") -> QuantizedTensor:
        """Read what `save` wrote.

        Raises: TilusError if the file cannot be read, is no quantised weight, is of another
            version, or its parts do not fit one another.
        """
        metadata, tensors = _read(Path(path))
        try:
            return _from_file(metadata, tensors).to(device)
        except TilusError as error:
            raise TilusError(
                f"{path} is damaged: {error.message}", found=error.found, expected=error.expected
            ) from None

    def check(self) -> None:
        """Raises: TilusError if the parts do not fit one another."""
        n, k = self.shape
        _check_data(self.dtype, self.shape, self.data)
        check_groups(k, self.group_size)
        for name, tensor in (("scales", self.scales), ("zeros", self.zeros)):
            if tensor is not None:
                _check_part(name, tensor, (k // self.group_size, n), self)
        if self.zeros is not None and self.zero != 0:
            raise TilusError(
                "a weight has zero points per group or a common one, not both",
                found=f"zeros, and zero = {self.zero:g}",
            )


def _head(weight: QuantizedTensor) -> tuple[Any, ...]:
    return weight.dtype, tuple(weight.shape), weight.group_size, weight.zero


# ---- checks --------------------------------------------------------------------------------------


def check_groups(k: int, group_size: int) -> None:
    """Raises: TilusError unless `group_size` divides K."""
    if group_size <= 0 or k % group_size:
        divisors = [g for g in (256, 128, 64, 32, 16) if k % g == 0]
        raise TilusError(
            "K is not a multiple of the group size",
            found=f"K = {k}, group_size = {group_size}",
            expected="a group size that divides K, or -1 for one group per row",
            hint=f"{k} is divisible by {', '.join(map(str, divisors))}" if divisors else "use -1",
        )


def check_code_type(dtype: DataType) -> None:
    """Raises: TilusError unless weights can be codes of this type."""
    if not isinstance(dtype, DataType) or dtype.nbits > 8 or dtype.kind in ("bool", "pointer"):
        raise TilusError(
            "weights are quantised to a type of 1 to 8 bits",
            found=str(dtype),
            expected="for example tilus.uint4b",
        )
    if dtype.specials == "scale":
        raise TilusError(f"{dtype} has no sign and no zero", hint="it is a type for scales")


def _check_codes(dtype: DataType, shape: tuple[int, int], codes: Tensor) -> None:
    if codes.dtype != dtype or tuple(codes.shape) != tuple(shape):
        raise TilusError(
            "the codes do not fit the quantised tensor",
            found=f"{codes.dtype}{list(codes.shape)}",
            expected=f"{dtype}{list(shape)}",
        )
    check_code_type(dtype)


def _check_data(dtype: DataType, shape: tuple[int, int], data: torch.Tensor) -> None:
    check_code_type(dtype)
    nbytes = storage_nbytes(dtype, shape[0] * shape[1])
    if data.dtype != torch.uint8 or tuple(data.shape) != (nbytes,) or not data.is_contiguous():
        raise TilusError(
            f"the codes are not those of {dtype}{list(shape)}",
            found=f"{data.dtype}{list(data.shape)}",
            expected=f"contiguous torch.uint8[{nbytes}]",
        )


def _check_part(
    name: str, tensor: torch.Tensor, expected: tuple[int, int], weight: QuantizedTensor
) -> None:
    if tuple(tensor.shape) != expected:
        raise TilusError(
            f"the {name} have another shape than the groups",
            found=str(list(tensor.shape)),
            expected=f"{list(expected)} = [K / group_size, N]",
        )
    dtype, device = weight.scales.dtype, weight.data.device
    if tensor.dtype not in FLOATS or tensor.dtype != dtype:
        raise TilusError(
            f"the {name} are of a dtype that kernels do not read",
            found=str(tensor.dtype),
            expected="float16, bfloat16 or float32, the same for scales and zeros",
        )
    if tensor.device != device or not tensor.is_contiguous():
        raise TilusError(
            f"the {name} do not lie as the codes do",
            found=f"strides {list(tensor.stride())} on {tensor.device}",
            expected=f"contiguous on {device}",
        )


# ---- packed forms --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Prepared:
    """What kernels have made of a weight.

    Attributes:
        sources: the memory of scales and zeros that it was made of; that of the codes is the key.
        versions: how often codes, scales and zeros had been written to.
        forms: packed tensors, by format.
        calls: what multiplies by the weight, by the kind of operands (matmul.py). Neither holds
            the codes, or they would never be freed.
    """

    sources: tuple[ReferenceType[torch.UntypedStorage], ReferenceType[torch.UntypedStorage] | None]
    versions: tuple[int, int, int]
    forms: dict[Any, torch.Tensor]
    calls: dict[Any, Any]

    def is_alive(self) -> bool:
        return all(source is None or source() is not None for source in self.sources)


# By the memory of the codes; it is weak, so that what is prepared goes with its weight.
_prepared: WeakKeyDictionary[torch.UntypedStorage, dict[Any, Prepared]] = WeakKeyDictionary()


def find_prepared(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    dtype: str,
    shape: Sequence[int],
    group_size: int,
    zero: float,
) -> Prepared | None:
    """What was made of the weight that has these parts and is in the same state as then.

    None where there is nothing, or something is not as it was. This is in the path of every call:
    that the parts fit one another was checked when it was made.
    """
    entries = _prepared.get(codes.untyped_storage())
    if entries is None:
        return None
    key, versions = _state(codes, scales, zeros, dtype, shape, group_size, zero)
    entry = entries.get(key)
    if entry is None or entry.versions != versions:
        return None
    of_scales, of_zeros = entry.sources
    if of_scales() is not scales.untyped_storage():
        return None
    if zeros is not None and (of_zeros is None or of_zeros() is not zeros.untyped_storage()):
        return None
    return entry


def _state(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    dtype: str,
    shape: Sequence[int],
    group_size: int,
    zero: float,
) -> tuple[tuple[Any, ...], tuple[int, int, int]]:
    """(where the parts of a weight begin and what they mean, how often each was written to).

    Tensors made in inference mode do not count writes.
    """
    n, k = shape
    counts = (
        0 if codes.is_inference() else codes._version,
        0 if scales.is_inference() else scales._version,
        0 if zeros is None or zeros.is_inference() else zeros._version,
    )
    at_zeros = None if zeros is None else zeros.data_ptr()
    places = codes.data_ptr(), scales.data_ptr(), at_zeros
    return (dtype, n, k, group_size, zero, scales.dtype, places), counts


def _prepared_of(weight: QuantizedTensor) -> Prepared:
    parts = weight.data, weight.scales, weight.zeros
    meaning = weight.dtype.name, weight.shape, weight.group_size, weight.zero
    found = find_prepared(*parts, *meaning)
    if found is not None:
        return found
    weight.check()
    entries = _prepared.setdefault(weight.data.untyped_storage(), {})
    for stale in [old for old, kept in entries.items() if not kept.is_alive()]:
        del entries[stale]
    of_zeros = None if weight.zeros is None else ref(weight.zeros.untyped_storage())
    sources = ref(weight.scales.untyped_storage()), of_zeros
    key, versions = _state(*parts, *meaning)
    entry = entries[key] = Prepared(sources, versions, {}, {})
    return entry


def forget_packed(data: torch.Tensor) -> None:
    """Drop what was made of these codes, after writes that torch does not count: to tensors made
    in inference mode, and by way of `.data`, NumPy or other code.
    """
    _prepared.pop(data.untyped_storage(), None)


# ---- unpacking -----------------------------------------------------------------------------------


def unpack_bits(data: torch.Tensor, nbits: int, count: int) -> torch.Tensor:
    """The first `count` fields of `nbits` (1..8) bits of a flat little-endian bit stream.

    Args:
        data: uint8[at least ceil(count * nbits / 8)], on any device.

    Returns:
        uint8[count], on the same device.

    >>> unpack_bits(torch.tensor([0x21, 0x0F], dtype=torch.uint8), 4, 3)
    tensor([ 1,  2, 15], dtype=torch.uint8)
    """
    if nbits == 8:
        return data[:count]
    eights = cdiv(count, 8)  # eight fields fill nbits bytes
    padded = torch.nn.functional.pad(data, (0, eights * nbits - data.numel()))
    word_type = torch.int32 if nbits <= 4 else torch.int64
    of_bytes = 8 * torch.arange(nbits, device=data.device, dtype=word_type)
    of_fields = nbits * torch.arange(8, device=data.device, dtype=word_type)
    parts = padded.reshape(eights, nbits).to(word_type) << of_bytes
    words = parts.sum(1, keepdim=True, dtype=word_type)
    fields = (words >> of_fields) & ((1 << nbits) - 1)
    return fields.to(torch.uint8).reshape(-1)[:count]


@cache
def _values(dtype: DataType) -> np.ndarray[Any, Any]:
    """The numbers that the codes 0, 1, ... stand for, float64."""
    codes = np.arange(1 << dtype.nbits, dtype=np.uint8)
    return dtype.decode(dtype.from_bits(codes)).astype(np.float64)


def _rounded_once(numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """To `dtype`, nearest, ties to even. torch goes from float64 to 16 bits by float32, which
    rounds twice; a float32 rounded to odd on the way makes that harmless.
    """
    if numbers.dtype != torch.float64 or dtype in (torch.float32, torch.float64):
        return numbers.to(dtype)
    nearest = numbers.float()
    beyond = nearest.double().abs() > numbers.abs()
    bits = nearest.view(torch.int32) - beyond.int()  # sign and magnitude: towards zero
    inexact = bits.view(torch.float32).double() != numbers
    return (bits | inexact.int()).view(torch.float32).to(dtype)


# ---- files ---------------------------------------------------------------------------------------


def _metadata(weight: QuantizedTensor) -> dict[str, str]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "dtype": weight.dtype.name,  # of a codebook, its values too
        "shape": json.dumps(list(weight.shape)),
        "group_size": str(weight.group_size),
        "zero": repr(float(weight.zero)),
    }


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise TilusError(f"{path} cannot be written", found=str(error)) from None


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            _check_metadata(path, metadata)
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise TilusError(
            f"{path} cannot be read as a quantised weight",
            found=str(error) or type(error).__name__,
            expected="a safetensors file written by QuantizedTensor.save",
            hint="check the path, or save the weight again",
        ) from None


def _check_metadata(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise TilusError(
            f"{path} is a safetensors file, but no quantised weight",
            found=f"format {metadata.get('format')!r} in its metadata",
            expected=repr(FORMAT),
            hint="QuantizedTensor.load reads what QuantizedTensor.save wrote",
        )
    if metadata.get("version") != VERSION:
        raise TilusError(
            f"{path} is of a version of the format that is not known here",
            found=f"version {metadata.get('version')!r}",
            expected=repr(VERSION),
            hint="update tilus, or save the weight again with this version",
        )


def _from_file(metadata: dict[str, str], tensors: dict[str, torch.Tensor]) -> QuantizedTensor:
    found = set(tensors)
    if not {"codes", "scales"} <= found <= {"codes", "scales", "zeros"}:
        raise TilusError(
            "its tensors are not those of a quantised weight",
            found=", ".join(sorted(found)) or "none",
            expected="codes, scales and maybe zeros",
        )
    try:
        n, k = (int(extent) for extent in json.loads(metadata["shape"]))
        group_size, zero = int(metadata["group_size"]), float(metadata["zero"])
        dtype = dtype_from_name(metadata["dtype"])
    except (KeyError, ValueError, TypeError) as error:
        raise TilusError(
            "its metadata does not say what it is",
            found=f"{type(error).__name__}: {error}",
            expected="dtype, shape, group_size and zero",
        ) from None
    return QuantizedTensor.from_tensors(dtype, (n, k), group_size, tensors, zero)
