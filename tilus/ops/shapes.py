"""The linear layers of models: what `tilus tune --shapes llama-70b` tunes.

    for layer in model_of("llama-70b").layers: layer.name, layer.n, layer.k

N and K follow from a model's published configuration. Projections are fused as serving engines
fuse them: q, k and v are one weight, gate and up another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tilus.errors import TilusError


@dataclass(frozen=True)
class Layer:
    """A weight [n, k]."""

    name: str
    n: int
    k: int


@dataclass(frozen=True)
class Model:
    """The figures of a configuration that decide the shapes of its linear layers.

    Attributes:
        name: without its publisher.
        source: where the figures are from.
    """

    name: str
    source: str
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int

    @property
    def layers(self) -> tuple[Layer, ...]:
        """In the order of a decoder layer."""
        attention = self.heads * self.head_dim
        keys_and_values = 2 * self.kv_heads * self.head_dim
        return (
            Layer("qkv", attention + keys_and_values, self.hidden_size),
            Layer("o", self.hidden_size, attention),
            Layer("gate_up", 2 * self.intermediate_size, self.hidden_size),
            Layer("down", self.hidden_size, self.intermediate_size),
        )


MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "gemma-2-9b": Model(
            "Gemma-2-9B",
            "config.json of google/gemma-2-9b",
            hidden_size=3584,
            heads=16,
            kv_heads=8,
            head_dim=256,
            intermediate_size=14336,
        ),
        "qwen2.5-32b": Model(
            "Qwen2.5-32B",
            "config.json of Qwen/Qwen2.5-32B",
            hidden_size=5120,
            heads=40,
            kv_heads=8,
            head_dim=128,
            intermediate_size=27648,
        ),
        "llama-70b": Model(
            "Llama-3.3-70B",
            "config.json of meta-llama/Llama-3.3-70B-Instruct",
            hidden_size=8192,
            heads=64,
            kv_heads=8,
            head_dim=128,
            intermediate_size=28672,
        ),
    }
)


def model_of(name: str) -> Model:
    """The model called `name`, in lower or upper case.

    Raises: TilusError for another name.

    >>> [(layer.n, layer.k) for layer in model_of("Llama-70B").layers]
    [(10240, 8192), (8192, 8192), (57344, 8192), (8192, 28672)]
    """
    if name.lower() not in MODELS:
        raise TilusError(
            "the shapes of this model are not known", found=repr(name), expected=", ".join(MODELS)
        )
    return MODELS[name.lower()]
