"""The library users call: quantise a weight, multiply by it."""

from tilus.ops.matmul import matmul
from tilus.ops.quantize import QuantizedTensor, quantize

__all__ = ["QuantizedTensor", "matmul", "quantize"]
