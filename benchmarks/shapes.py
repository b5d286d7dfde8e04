"""What the benchmark multiplies, in the order of its importance.

    for item in plan(): item                 # Llama-3.3-70B o, u4, m = 1 comes first

The layers are those of `tilus.ops.shapes`.

The surprise: a decoder step, all layers in a row, is an item like any other. Its `layers` are four
in place of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tilus.errors import TilusError
from tilus.ops.shapes import Layer, Model, model_of

GROUP_SIZE = 128
TOKENS = (1, 16, 8, 4, 2, 64, 256, 32, 128, 1024, 4096)  # the more telling ones first
STEP_TOKENS = (1, 16)  # of a decoder step
FEW, MEDIUM = 16, 256
FIRST_TYPE = "u4"
INTEGERS = (4, 2, 8, 3, 6, 1, 5, 7)  # bits; the more telling ones first
# Signed ints run the kernels of the unsigned ones, so they come last.
TYPES = (
    *(f"u{bits}" for bits in INTEGERS),
    *("e2m1", "e4m3", "e3m2", "e5m2"),
    *(f"i{bits}" for bits in INTEGERS),
)
STEP = "decoder step"


LLAMA, QWEN, GEMMA = map(model_of, ("llama-70b", "qwen2.5-32b", "gemma-2-9b"))
MODELS = (LLAMA, QWEN, GEMMA)
LAYERS = ("o", "gate_up", "down", "qkv")  # 8192 x 8192 is what others have measured


@dataclass(frozen=True)
class Item:
    """What is timed at once, by all peers in turn: `layers` one after the other, for m tokens."""

    model: str
    layers: tuple[Layer, ...]
    dtype: str
    m: int

    @property
    def layer(self) -> str:
        return self.layers[0].name if len(self.layers) == 1 else STEP

    @property
    def n(self) -> int:
        """Of all layers together."""
        return sum(layer.n for layer in self.layers)

    @property
    def k(self) -> int:
        """Of all layers together."""
        return sum(layer.k for layer in self.layers)

    def __str__(self) -> str:
        """
        >>> str(Item("Llama-3.3-70B", (Layer("o", 8192, 8192),), "u4", 1))
        'Llama-3.3-70B o 8192 x 8192, u4, m = 1'
        """
        shape = f" {self.n} x {self.k}" if len(self.layers) == 1 else ""
        return f"{self.model} {self.layer}{shape}, {self.dtype}, m = {self.m}"


def items(
    models: Sequence[Model] = MODELS,
    dtypes: Sequence[str] = TYPES,
    tokens: Sequence[int] = TOKENS,
) -> Iterable[Item]:
    """All of them, in no order that matters."""
    for model in models:
        for dtype in dtypes:
            for m in tokens:
                yield from (Item(model.name, (layer,), dtype, m) for layer in model.layers)
                if m in STEP_TOKENS and dtype == FIRST_TYPE:
                    yield Item(model.name, model.layers, dtype, m)


# ---- order ---------------------------------------------------------------------------------------


def _is_first(item: Item) -> bool:
    return item.model == LLAMA.name and item.dtype == FIRST_TYPE


# An item belongs to the first stage that takes it. What no stage takes comes last.
STAGES: tuple[tuple[str, Callable[[Item], bool]], ...] = (
    ("4 bits, few tokens, Llama", lambda i: _is_first(i) and i.m <= FEW and i.layer != STEP),
    ("decoder steps, Llama", lambda i: _is_first(i) and i.layer == STEP),
    ("4 bits, more tokens, Llama", lambda i: _is_first(i) and i.m <= MEDIUM),
    ("other types, 1 and 16 tokens, Llama", lambda i: i.model == LLAMA.name and i.m in (1, FEW)),
    ("other types, Llama", lambda i: i.model == LLAMA.name and i.m <= MEDIUM),
    ("4 bits, other models", lambda i: i.dtype == FIRST_TYPE and i.m <= MEDIUM),
    ("other types, other models", lambda i: i.m <= MEDIUM),
    ("4 bits, many tokens", lambda i: i.dtype == FIRST_TYPE),
)


def stage_of(item: Item) -> int:
    """The number of its stage."""
    return next((n for n, (_, takes) in enumerate(STAGES) if takes(item)), len(STAGES))


def stage_name(stage: int) -> str:
    return STAGES[stage][0] if stage < len(STAGES) else "the rest"


def importance(item: Item) -> tuple[int, ...]:
    """Sorts the most important items first: by stage, and within it so that items in a row have
    weights of one shape and type.
    """
    model = place(item.model, [model.name for model in MODELS])
    layer = place(item.layer, LAYERS)
    return stage_of(item), model, layer, place(item.dtype, TYPES), place(item.m, TOKENS)


def place(value: object, order: Sequence[object]) -> int:
    """In an order; after its end if it is not there.

    >>> place(3, (4, 3)), place(5, (4, 3))
    (1, 2)
    """
    return order.index(value) if value in order else len(order)


def plan(
    models: Sequence[Model] = MODELS,
    dtypes: Sequence[str] = TYPES,
    tokens: Sequence[int] = TOKENS,
) -> list[Item]:
    """The most important items first."""
    return sorted(items(models, dtypes, tokens), key=importance)


# The plan of a run that takes a minute: one shape, a few types.
SMOKE_TYPES, SMOKE_TOKENS = ("u4", "u2", "e4m3"), (1, 16, 256)


def models_named(names: Iterable[str]) -> tuple[Model, ...]:
    """Those whose names begin so, in lower or upper case.

    Raises: TilusError for a name of no model.

    >>> [model.name for model in models_named(["llama", "Gemma-2-9B"])]
    ['Llama-3.3-70B', 'Gemma-2-9B']
    """
    return tuple(_model_named(name) for name in names)


def _model_named(name: str) -> Model:
    found = [model for model in MODELS if name and model.name.lower().startswith(name.lower())]
    if len(found) != 1:
        raise TilusError(
            "this is no model of the benchmark",
            found=repr(name),
            expected=", ".join(model.name for model in MODELS),
        )
    return found[0]
