"""The library users call: quantise a weight, multiply by it."""

from tilus.ops import library  # registers the operators of torch
from tilus.ops.matmul import matmul
from tilus.ops.quantize import NF4, quantize
from tilus.ops.quantized_tensor import QuantizedTensor
from tilus.ops.warmup import warmup

__all__ = ["NF4", "QuantizedTensor", "library", "matmul", "quantize", "warmup"]
