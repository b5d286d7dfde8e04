"""`QuantizedLinear`: torch's Linear with a weight of 1 to 8 bits.

    layer = QuantizedLinear.from_linear(linear, tilus.uint4b, group_size=128)
    y = layer(x)                        # x float16 or bfloat16; on the CPU float32 too

Its state dict holds codes (uint8), scales, zeros and bias, and in `_extra_state` what the codes
mean, so that loading another type or group size is an error instead of nonsense. The surprise:
`.to(dtype)` converts the bias alone; codes, scales and zero points are the weight's format.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import torch

from tilus.dtypes import DataType, storage_nbytes
from tilus.errors import TilusError
from tilus.ops.matmul import call_operator
from tilus.ops.quantize import quantize
from tilus.ops.quantized_tensor import QuantizedTensor
from tilus.ops.storage import forget_packed
from tilus.ops.weight_checks import check_code_type, check_groups
from tilus.tensor import Device


class QuantizedLinear(torch.nn.Module):
    """y = x W^T + bias, with W [out_features, in_features] quantised.

    Attributes:
        in_features, out_features: K and N.
        dtype, group_size, zero: as of `QuantizedTensor`.
        codes, scales, zeros: buffers, as `QuantizedTensor.tensors` names them.
        bias: a parameter [N], or None.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    bias: torch.nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        dtype: DataType,
        group_size: int = 128,
        *,
        bias: bool = True,
        zeros: bool = False,
        zero: float = 0.0,
        scale_dtype: torch.dtype = torch.float16,
        device: Device = None,
    ):
        """A layer whose weights are all code 0 with scale 0, to load a state dict into.

        Args:
            group_size: along K; -1 means one group per row. It must divide K.
            zeros: whether each group has a zero point; else `zero` is common to all.
            scale_dtype: of scales, zero points and bias.

        Raises: TilusError if the group does not divide K, or the dtype is not of 1 to 8 bits.
        """
        super().__init__()
        group = in_features if group_size == -1 else group_size
        check_code_type(dtype)
        check_groups(in_features, group)
        self.in_features, self.out_features = in_features, out_features
        self.dtype, self.group_size, self.zero = dtype, group, zero
        nbytes = storage_nbytes(dtype, in_features * out_features)
        per_group = torch.zeros(
            in_features // group, out_features, dtype=scale_dtype, device=device
        )
        self.register_buffer("codes", torch.zeros(nbytes, dtype=torch.uint8, device=device))
        self.register_buffer("scales", per_group)
        self.register_buffer("zeros", per_group.clone() if zeros else None)
        initial = torch.zeros(out_features, dtype=scale_dtype, device=device) if bias else None
        self.register_parameter("bias", initial if initial is None else torch.nn.Parameter(initial))
        self.weight.check()
        self.register_load_state_dict_post_hook(_forget_packed)

    @classmethod
    def from_quantized(
        cls, weight: QuantizedTensor, bias: torch.Tensor | None = None
    ) -> QuantizedLinear:
        """A layer over the tensors of `weight`, which are shared; a parameter as bias is too."""
        n, k = weight.shape
        layer = cls(
            k,
            n,
            weight.dtype,
            weight.group_size,
            bias=False,
            zeros=weight.zeros is not None,
            zero=weight.zero,
            scale_dtype=weight.scales.dtype,
            device="meta",
        )
        for name, tensor in weight.tensors().items():
            setattr(layer, name, tensor)
        if bias is not None:
            shared = isinstance(bias, torch.nn.Parameter)
            layer.bias = bias if shared else torch.nn.Parameter(bias.detach())
        return layer

    @classmethod
    def from_linear(
        cls,
        linear: torch.nn.Linear,
        dtype: DataType,
        group_size: int = 128,
        symmetric: bool = True,
        method: str = "rtn",
        *,
        scale_dtype: torch.dtype = torch.float16,
    ) -> QuantizedLinear:
        """`linear` with its weight rounded by `tilus.ops.quantize`, whose arguments these are.

        >>> import tilus
        >>> layer = QuantizedLinear.from_linear(torch.nn.Linear(64, 8), tilus.uint4b, 32)
        >>> layer(torch.ones(2, 64).half()).shape
        torch.Size([2, 8])
        """
        if not isinstance(linear, torch.nn.Linear):
            raise TilusError(
                "from_linear takes a Linear layer",
                found=type(linear).__name__,
                expected="torch.nn.Linear",
            )
        weight = quantize(
            linear.weight, dtype, group_size, symmetric, method, scale_dtype=scale_dtype
        )
        return cls.from_quantized(weight, linear.bias).train(linear.training)

    @property
    def weight(self) -> QuantizedTensor:
        """The weight, sharing the buffers."""
        return QuantizedTensor.unchecked(
            self.dtype,
            (self.out_features, self.in_features),
            self.group_size,
            self.codes,
            self.scales,
            self.zeros,
            self.zero,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., K] -> [..., N] of x's dtype; errors are those of `tilus.ops.matmul`."""
        buffers = self._buffers  # an attribute of a module that is a tensor costs 0.4 us
        return call_operator(
            x,
            cast(torch.Tensor, buffers["codes"]),
            cast(torch.Tensor, buffers["scales"]),
            buffers["zeros"],
            self._parameters["bias"],
            self.dtype.name,
            (self.out_features, self.in_features),
            self.group_size,
            self.zero,
        )

    def extra_repr(self) -> str:
        zero = "per group" if self.zeros is not None else f"{self.zero:g}"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, dtype={self.dtype}, group_size={self.group_size}, "
            f"zero={zero}"
        )

    # State

    def get_extra_state(self) -> torch.Tensor:
        """What the codes mean, as JSON in a uint8 tensor: files of tensors alone keep it too."""
        return torch.frombuffer(bytearray(json.dumps(self._format()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Raises: TilusError if the loaded codes mean something else than this layer's."""
        try:
            found = json.loads(bytes(state.cpu().tolist()))
        except (AttributeError, TypeError, ValueError) as error:
            raise TilusError(
                "the state of a quantised layer is damaged", found=f"_extra_state: {error}"
            ) from None
        if found != self._format():
            raise TilusError(
                "the state is that of another quantised layer",
                found=json.dumps(found),
                expected=json.dumps(self._format()),
                hint="make the layer with the arguments of the one that was saved",
            )

    def _format(self) -> dict[str, Any]:
        return {
            "dtype": self.dtype.name,
            "shape": [self.out_features, self.in_features],
            "group_size": self.group_size,
            "zero": "per group" if self.zeros is not None else float(self.zero),
        }

    def _apply(
        self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
    ) -> QuantizedLinear:
        """Every `.to`, `.half`, `.cuda`: the weight changes its device, never its format."""
        weight = {id(tensor) for tensor in (self.scales, self.zeros)}

        def move(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            if id(tensor) in weight and moved.dtype != tensor.dtype:
                return tensor.to(moved.device)
            return moved

        return super()._apply(move, recurse)


def _forget_packed(layer: torch.nn.Module, _incompatible_keys: Any) -> None:
    assert isinstance(layer, QuantizedLinear)
    forget_packed(layer.codes)
