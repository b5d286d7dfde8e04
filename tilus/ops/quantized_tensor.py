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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tilus.dtypes import DataType, dtype_from_name
from tilus.errors import TilusError
from tilus.ops.codes import code_values, rounded_once, unpack_bits
from tilus.ops.storage import prepared_of
from tilus.ops.weight_checks import check_codes, check_data, check_groups, check_part
from tilus.ops.weight_files import FORMAT, VERSION, read_file, write_file
from tilus.tensor import Device, Tensor, view_torch

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
        check_codes(dtype, shape, codes)
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
        return prepared_of(self).forms

    @property
    def calls(self) -> dict[Any, Any]:
        """What is ready to multiply by this weight, by the kind of operands; see `prepared`."""
        return prepared_of(self).calls

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
        table = torch.from_numpy(code_values(self.dtype)).to(self.device, compute)
        values = table.index_select(0, codes.int()).reshape(n, k // group, group)
        zeros = self.zero if self.zeros is None else self.zeros.T.unsqueeze(-1).to(compute)
        weight = ((values - zeros) * self.scales.T.unsqueeze(-1).to(compute)).reshape(n, k)
        return rounded_once(weight, dtype)

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
        write_file(Path(path), tensors, _metadata(self))

    @classmethod
    def load(cls, path: str | Path, device: Device = "cpu") -> QuantizedTensor:
        """Read what `save` wrote.

        Raises: TilusError if the file cannot be read, is no quantised weight, is of another
            version, or its parts do not fit one another.
        """
        metadata, tensors = read_file(Path(path))
        try:
            return _from_file(metadata, tensors).to(device)
        except TilusError as error:
            raise TilusError(
                f"{path} is damaged: {error.message}", found=error.found, expected=error.expected
            ) from None

    def check(self) -> None:
        """Raises: TilusError if the parts do not fit one another."""
        n, k = self.shape
        check_data(self.dtype, self.shape, self.data)
        check_groups(k, self.group_size)
        for name, tensor in (("scales", self.scales), ("zeros", self.zeros)):
            if tensor is not None:
                check_part(name, tensor, (k // self.group_size, n), self)
        if self.zeros is not None and self.zero != 0:
            raise TilusError(
                "a weight has zero points per group or a common one, not both",
                found=f"zeros, and zero = {self.zero:g}",
            )


def _head(weight: QuantizedTensor) -> tuple[Any, ...]:
    return weight.dtype, tuple(weight.shape), weight.group_size, weight.zero


def _metadata(weight: QuantizedTensor) -> dict[str, str]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "dtype": weight.dtype.name,  # of a codebook, its values too
        "shape": json.dumps(list(weight.shape)),
        "group_size": str(weight.group_size),
        "zero": repr(float(weight.zero)),
    }


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
