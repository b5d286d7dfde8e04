"""Layers and models with low-precision weights."""

from tilus.nn.convert import Report, quantize_model
from tilus.nn.linear import QuantizedLinear
from tilus.nn.warmup import warmup

__all__ = ["QuantizedLinear", "Report", "quantize_model", "warmup"]
