"""The instruction: one class that answers five questions, and the registry that finds it by name.

    class Reduce(Instruction, name="sum"):
        out: RegisterTensor            # `out` and `dst` are written, every other operand is read
        x: RegisterTensor
        dim: int

Printer, parser, rewriting, liveness and effects read the typed dataclass fields and the two class
attributes `name` and `effects`; nothing outside the class's file knows that it exists.
"""

from __future__ import annotations

import enum
import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Any, ClassVar, Protocol

from tilus.errors import TilusError
from tilus.ir.expr import Expr, Var
from tilus.ir.layout import BitLayout, RegisterLayout, SharedLayout
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor, Tensor


class Effects(enum.Flag):
    """What an instruction does besides writing its register result."""

    NONE = 0
    READ_GLOBAL = enum.auto()
    WRITE_GLOBAL = enum.auto()
    READ_SHARED = enum.auto()
    WRITE_SHARED = enum.auto()
    SYNC = enum.auto()  # orders shared memory between the threads of the block
    ASYNC = enum.auto()  # starts or waits for asynchronous copies
    OUTSIDE = enum.auto()  # seen outside the kernel: printing
    WAIT = enum.auto()  # waits for another block

    @property
    def removable(self) -> bool:
        """True where an unused result makes the instruction dead."""
        reads = Effects.READ_GLOBAL | Effects.READ_SHARED
        return not self & ~reads


class Strength(enum.IntEnum):
    """How strongly an instruction wants a layout; lower is applied first."""

    MUST = 0  # the hardware or the meaning leaves no choice
    SHOULD = 1  # the fast choice
    MAY = 2  # a default so that nothing stays open


Layout = RegisterLayout | SharedLayout
LayoutTile = RegisterTensor | SharedTensor


@dataclass(frozen=True)
class Proposal:
    """`tile` should have `layout` (and, for register tiles, the bit layout `bits`)."""

    tile: LayoutTile
    layout: Layout
    strength: Strength
    bits: BitLayout | None = None


class Facts(Protocol):
    """What value analysis knows (passes/analyze.py)."""

    def divisibility(self, expr: Expr) -> int:
        """The largest known divisor of a scalar's value (a power of two times what is certain; 0
        means it is 0).
        """
        ...

    def alignment(self, tensor: GlobalTensor) -> int:
        """The largest known divisor of the tensor's address, in elements."""
        ...


class Known:
    """The layouts known so far, and what else `Instruction.layouts` may look at."""

    def __init__(self, num_threads: int, facts: Facts | None = None):
        self.num_threads = num_threads
        self.facts = facts
        self.layouts: dict[LayoutTile, Layout] = {}
        self.bits: dict[RegisterTensor, BitLayout] = {}

    def register(self, tile: RegisterTensor) -> RegisterLayout | None:
        layout = self.layouts.get(tile, tile.layout)
        assert layout is None or isinstance(layout, RegisterLayout)
        return layout

    def shared(self, tile: SharedTensor) -> SharedLayout | None:
        layout = self.layouts.get(tile, tile.layout)
        assert layout is None or isinstance(layout, SharedLayout)
        return layout

    def bit_layout(self, tile: RegisterTensor) -> BitLayout | None:
        return self.bits.get(tile, tile.bits)

    def divisibility(self, value: Expr | int) -> int:
        if isinstance(value, int):
            return abs(value)
        return 1 if self.facts is None else self.facts.divisibility(value)

    def alignment(self, tensor: GlobalTensor) -> int:
        return 1 if self.facts is None else self.facts.alignment(tensor)


WRITTEN = ("out", "dst")  # fields of what an instruction writes
REGISTRY: dict[str, type[Instruction]] = {}
TENSOR_METHODS: dict[tuple[type, str], type[Instruction]] = {}  # (RegisterTensor, "to") -> Cast


@dataclass(frozen=True, eq=False)
class Instruction:
    """Base class. Subclass with `name=`, and `methods=` for what is also written
    `tile.method(...)`.
    """

    name: ClassVar[str] = ""
    effects: ClassVar[Effects] = Effects.NONE
    allocates_shared: ClassVar[bool] = False  # `out` is new shared memory, at its field `offset`
    frees_operand: ClassVar[bool] = False  # ends the life of the shared tensor it reads

    def __init_subclass__(
        cls,
        *,
        name: str = "",
        effects: Effects = Effects.NONE,
        methods: tuple[tuple[type, str], ...] = (),
    ) -> None:
        super().__init_subclass__()
        if not name:
            return  # a shared base of a family
        assert name not in REGISTRY, f"two instructions are called {name}"
        cls.name = name
        cls.effects = effects
        REGISTRY[name] = cls
        for key in methods:
            TENSOR_METHODS[key] = cls

    # ---- the five questions ----

    @classmethod
    def build(cls, *args: Any, **kwargs: Any) -> Instruction:
        """Make the instruction from what the user wrote; overridden with the language's
        signature.
        """
        return cls(*args, **kwargs)

    def verify(self) -> None:
        """Raise `TilusError` where the operands are not legal."""

    def layouts(self, known: Known) -> Iterator[Proposal]:
        """Proposals that follow from the layouts known so far."""
        return iter(())

    def address_alignment(self, facts: Facts) -> int:
        """The largest known divisor, in bytes, of the address of a global tensor `out`."""
        return 1

    def check_layouts(self) -> None:
        """Raise `TilusError` where the layouts, now final, do not let the instruction run."""

    @abstractmethod
    def run(self, machine: Any) -> None:
        """Compute on whole tiles in NumPy: the definition of what the instruction means."""

    def emit(self, e: Any) -> None:
        """Write the CUDA of this instruction, every layout being known."""
        raise TilusError(
            f"{self.name} cannot be compiled to CUDA yet",
            hint="run the kernel on CPU tensors: the interpreter executes it",
        )

    # ---- derived from the fields ----

    @property
    def result(self) -> Tensor | Var | None:
        """What the instruction defines or updates: its field `out`, if it has one."""
        return getattr(self, "out", None)

    def reads(self) -> Iterator[Tensor | Expr]:
        return iter(self._read_leaves)

    def writes(self) -> Iterator[Tensor | Var]:
        return iter(self._written_leaves)

    def bound_variables(self) -> Iterator[Var]:
        """Variables that exist inside this instruction only: its fields typed `tuple[Var, ...]`."""
        for name in _binding_fields(type(self)):
            yield from getattr(self, name)

    def operands(self) -> Iterator[Tensor | Expr]:
        return iter(self._all_leaves)

    # Every pass asks for them, and fields never change.

    @cached_property
    def _read_leaves(self) -> tuple[Tensor | Expr, ...]:
        return self._leaves_of(n for n in field_names(type(self)) if n not in WRITTEN)

    @cached_property
    def _written_leaves(self) -> tuple[Tensor | Var, ...]:
        return self._leaves_of(n for n in field_names(type(self)) if n in WRITTEN)

    @cached_property
    def _all_leaves(self) -> tuple[Tensor | Expr, ...]:
        return self._leaves_of(field_names(type(self)))

    def _leaves_of(self, names: Iterable[str]) -> tuple[Any, ...]:
        return tuple(leaf for name in names for leaf in leaves(getattr(self, name)))

    def require(
        self,
        condition: bool,
        message: str,
        *,
        found: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Raise a `TilusError` naming this instruction unless `condition` holds."""
        if not condition:
            raise TilusError(f"{self.name}: {message}", found=found, expected=expected, hint=hint)


@cache
def field_names(cls: type[Any]) -> tuple[str, ...]:
    """The names of the fields of a dataclass."""
    return tuple(f.name for f in fields(cls))


@cache
def _binding_fields(cls: type[Instruction]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls) if f.type in ("tuple[Var, ...]", tuple[Var, ...]))


def leaves(value: object) -> Iterator[Any]:
    """The tensors and expressions in a field's value."""
    if isinstance(value, (Expr, RegisterTensor, SharedTensor, GlobalTensor)):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from leaves(item)


def map_leaves(value: Any, fn: Callable[[Any], Any]) -> Any:
    """`value` with `fn` applied to every tensor and expression in it."""
    if isinstance(value, (Expr, RegisterTensor, SharedTensor, GlobalTensor)):
        return fn(value)
    if isinstance(value, tuple):
        items = tuple(map_leaves(item, fn) for item in value)
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    return value


def rebuild(instruction: Instruction, fn: Callable[[Any], Any]) -> Instruction:
    """The same instruction with `fn` applied to every operand; the same object where nothing
    changed.
    """
    names = field_names(type(instruction))
    changed: dict[str, Any] = {}
    for name in names:
        old = getattr(instruction, name)
        new = map_leaves(old, fn)
        if new is not old:
            changed[name] = new
    if not changed:
        return instruction
    values = {name: getattr(instruction, name) for name in names} | changed
    return type(instruction)(**values)


@cache
def _signature(cls: type[Instruction]) -> inspect.Signature:
    return inspect.signature(cls.build)


def build_from_call(
    cls: type[Instruction], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Instruction:
    """Call `cls.build` after checking the arguments against its signature."""
    signature = _signature(cls)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
        raise TilusError(
            f"{cls.name}: {error}", expected=f"{cls.name}{inspect.Signature(bare)}"
        ) from None
    return cls.build(*args, **kwargs)
