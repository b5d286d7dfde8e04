"""Reading the instructions of a text and the types of the tiles they write.

An argument is read by the annotation of the field it goes to: `4` is a number for a field of type
`int` and a constant for one of type `Expr`; no instruction is known by its name.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from typing import Any

from lark import Token

from tilus import dtypes
from tilus.dtypes import DataType
from tilus.errors import locate
from tilus.ir.elaborate_scalars import (
    ABSENT,
    Node,
    ScalarReader,
    close,
    describe_named,
    tokens,
    trees,
)
from tilus.ir.expr import Expr, Var
from tilus.ir.instruction import REGISTRY, Instruction
from tilus.ir.layout import (
    BitLayout,
    GlobalLayout,
    LayoutError,
    RegisterLayout,
    SharedLayout,
    global_row_major,
    parse_layout,
)
from tilus.ir.printer import (
    TENSORS,
    Named,
    alternatives,
    binds,
    field_hints,
    has_default,
)
from tilus.ir.tensor import GlobalTensor, RegisterTensor, SharedTensor, Tensor

LAYOUTS = (RegisterLayout, SharedLayout, BitLayout)

_KINDS: dict[Any, str] = {
    RegisterTensor: "a register tile",
    SharedTensor: "a shared tile",
    GlobalTensor: "a global tensor",
    Expr: "a scalar expression",
    Var: "a scalar variable",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: 'a string in "quotes"',
    type(None): "None",
    DataType: "a data type",
    RegisterLayout: "a register layout",
    SharedLayout: "a shared layout",
    BitLayout: "a bit layout",
}


class InstructionReader(ScalarReader):
    """Reads instructions, with what they write and every field."""

    # ---- instructions

    def instruction(self, node: Node, targets: list[Node]) -> Instruction:
        cls = self.instruction_class(node)
        hints = field_hints(cls)
        values = self.arguments(cls, hints, node)
        out = next((f for f in fields(cls) if f.name == "out"), None)
        if out is not None:
            values["out"] = self.results(cls, hints["out"], node, targets)
        elif targets:
            raise self.error(
                targets[0], f"{cls.name} has no result", hint="leave out the left side"
            )
        with locate(self.place(node)):
            return cls(**values)

    def instruction_class(self, node: Node) -> type[Instruction]:
        name = self.callee(node)
        if name is None:
            raise self.error(
                node, "this is no instruction", found=self.source(node), expected="name(operands)"
            )
        if name not in REGISTRY:
            raise self.error(
                trees(node)[0],
                f"there is no instruction {name}",
                hint=close(name, REGISTRY) or "import the module that defines it first",
            )
        return REGISTRY[name]

    def arguments(
        self, cls: type[Instruction], hints: Mapping[str, Any], node: Node
    ) -> dict[str, Any]:
        known = {f.name: f for f in fields(cls) if f.init and f.name != "out"}
        nodes = self.match_arguments(cls, known, trees(node)[1:])
        missing = [
            name for name, field in known.items() if name not in nodes and not has_default(field)
        ]
        if missing:
            raise self.error(
                node, f"{cls.name}: {', '.join(missing)} missing", expected=_signature(cls, known)
            )
        # In the order of the fields, since some bind variables that later ones use.
        return {
            name: self.field(cls, name, hints[name], nodes[name]) for name in known if name in nodes
        }

    def match_arguments(
        self, cls: type[Instruction], known: Mapping[str, Field[Any]], given: list[Node]
    ) -> dict[str, Node]:
        positions = [name for name, field in known.items() if not field.kw_only]
        nodes: dict[str, Node] = {}
        for index, argument in enumerate(given):
            if argument.data == "keyword":
                name, value = str(tokens(argument)[0]), trees(argument)[0]
            elif len(nodes) < index or any(a.data == "keyword" for a in given[:index]):
                raise self.error(argument, f"{cls.name}: operands come before fields by name")
            elif index >= len(positions):
                raise self.error(
                    argument, f"{cls.name}: too many operands", expected=_signature(cls, known)
                )
            else:
                name, value = positions[index], argument
            if name not in known:
                raise self.error(
                    argument,
                    f"{cls.name} has no field {name}",
                    expected=_signature(cls, known),
                    hint=close(name, known),
                )
            if name in nodes:
                raise self.error(argument, f"{cls.name}: {name} is given twice")
            nodes[name] = value
        return nodes

    def results(self, cls: type[Instruction], hint: Any, node: Node, targets: list[Node]) -> Any:
        wanted = alternatives(hint)
        several = any(typing.get_origin(m) is tuple for m in wanted)
        if not targets:
            if type(None) in wanted or several:
                return () if several else None
            raise self.error(
                node,
                f"{cls.name} has a result",
                expected=f"name: {_result_type(wanted)} = {cls.name}(...)",
            )
        if several:
            members = tuple(m for t in wanted for m in typing.get_args(t))
            return tuple(self.result(cls, members, target) for target in targets)
        if len(targets) > 1:
            raise self.error(targets[1], f"{cls.name} has one result", found=f"{len(targets)}")
        return self.result(cls, wanted, targets[0])

    def result(self, cls: type[Instruction], wanted: tuple[Any, ...], node: Node) -> Named:
        item = self.target(node)
        if not isinstance(item, _classes(wanted)):
            expected = _describe(wanted)
            raise self.error(
                node,
                f"{cls.name} has another kind of result",
                found=describe_named(item),
                expected=expected,
            )
        return item

    def target(self, node: Node) -> Named:
        """What a left side names: something new where it gives a type, else something known."""
        name, types = tokens(node)[0], trees(node)
        if not types:
            return self.lookup(name, "write its type where it is first defined")
        if types[0].data == "scalar":
            return self.scalar_target(name, types[0])
        if name in self.env:
            raise self.error(
                node,
                f"{name} is defined already",
                found=describe_named(self.env[name]),
                hint="leave its type out to write it again, or use another name",
            )
        self.check_free(name)
        tensor = self.env[str(name)] = self.tensor(types[0], str(name))
        return tensor

    def scalar_target(self, name: Token, node: Node) -> Named:
        if not trees(node):
            return self.lookup(name, f"give its data type: {name}: scalar int32")
        return self.bind(name, self.dtype(trees(node)[0]))

    # ---- types of tiles

    def tensor(self, node: Node, name: str) -> Tensor:
        dtype, extents, *rest = trees(node)
        if node.data == "global":
            return self.global_tensor(self.dtype(dtype), self.exprs(extents), rest, name)
        shape = self.shape(extents)
        layouts = [self.layout(trees(attribute)[0]) for attribute in rest]
        if node.data == "shared":
            layout = self.take(SharedLayout, layouts, node)
            return SharedTensor(self.dtype(dtype), shape, layout, name)
        layout, bits = (self.take(kind, layouts, node) for kind in (RegisterLayout, BitLayout))
        return RegisterTensor(self.dtype(dtype), shape, layout, bits, name)

    def shape(self, node: Node) -> tuple[int, ...]:
        extents: list[int] = []
        for child in trees(node):
            if child.data != "integer":
                raise self.error(
                    child,
                    "the extents of a tile are known at compile time",
                    found=self.source(child),
                    expected="whole numbers",
                )
            extents.append(self.integer(tokens(child)[0]))
        return tuple(extents)

    def layout(self, node: Node) -> RegisterLayout | SharedLayout | BitLayout:
        text, place = self.source(node), self.place(node)
        try:
            layout = parse_layout(text)
        except LayoutError as error:
            error.location = place
            raise
        if not isinstance(layout, LAYOUTS):
            raise self.error(
                node, "a tile has no such layout", found=text, expected=_describe(LAYOUTS)
            )
        return layout

    def take(self, kind: type[Any], layouts: list[Any], node: Node) -> Any:
        """The layout of a kind among those written after a tile's type, or None."""
        allowed = (SharedLayout,) if node.data == "shared" else (RegisterLayout, BitLayout)
        if not all(isinstance(layout, allowed) for layout in layouts):
            raise self.error(
                node,
                "a tile has the layout of its memory",
                found=f"@ {layouts[-1]}",
                expected=_describe(allowed),
            )
        found = [layout for layout in layouts if isinstance(layout, kind)]
        if len(found) > 1:
            raise self.error(
                node, f"a tile has one layout of a kind, not {len(found)}", expected=_KINDS[kind]
            )
        return found[0] if found else None

    def global_tensor(
        self, dtype: DataType, shape: tuple[Expr, ...], rest: list[Node], name: str
    ) -> GlobalTensor:
        lists = {str(node.data): trees(node)[0] for node in rest}
        if not lists:
            return GlobalTensor(dtype, shape, layout=global_row_major(shape), name=name)
        if "strides" not in lists:
            raise self.error(rest[0], "modes need strides", expected="@ strides[...] @ modes[...]")
        modes = (
            tuple(self.exprs(child) for child in trees(lists["modes"])) if "modes" in lists else ()
        )
        with locate(self.place(lists["strides"])):
            layout = GlobalLayout(shape, self.exprs(lists["strides"]), modes)
        return GlobalTensor(dtype, shape, layout=layout, name=name)

    # ---- fields of instructions

    def field(self, cls: type[Instruction], name: str, hint: Any, node: Node) -> Any:
        if binds(hint):
            return self.axes(node)
        value = self.value(node, hint)
        if value is ABSENT:
            found = self.source(node)
            if node.data == "name":
                found = describe_named(self.env[tokens(node)[0]])
            raise self.error(
                node,
                f"{cls.name}: {name} is of another type",
                found=found,
                expected=_describe(alternatives(hint)),
            )
        return value

    def axes(self, node: Node) -> tuple[Var, ...]:
        if node.data != "list":
            raise self.error(
                node,
                "the instruction's own variables are a list",
                found=self.source(node),
                expected="[i, j]",
            )
        return tuple(self.axis(child) for child in trees(node))

    def axis(self, node: Node) -> Var:
        if node.data not in ("name", "typed"):
            raise self.error(
                node, "this is no name for a variable", found=self.source(node), expected="a name"
            )
        types = trees(node)
        return self.bind(tokens(node)[0], self.dtype(types[0]) if types else dtypes.int32)

    def value(self, node: Node, hint: Any) -> Any:
        """The value of a field of type `hint`, or `ABSENT` where the text is none of that type."""
        wanted = alternatives(hint)
        for read in (
            self.as_literal,
            self.as_tuple,
            self.as_tensor,
            self.as_dtype,
            self.as_layout,
            self.as_scalar,
        ):
            value = read(node, wanted)
            if value is not ABSENT:
                return value
        if node.data == "name":
            self.lookup(tokens(node)[0])  # better to say that it is unknown than that it is no tile
        return ABSENT

    def as_literal(self, node: Node, wanted: tuple[Any, ...]) -> Any:
        value = self.literal(node)
        if value is ABSENT:
            return ABSENT
        fits = isinstance(value, _classes(wanted)) or (float in wanted and isinstance(value, int))
        chosen = any(
            value in typing.get_args(m) for m in wanted if typing.get_origin(m) is typing.Literal
        )
        return value if fits or chosen else ABSENT

    def as_tuple(self, node: Node, wanted: tuple[Any, ...]) -> Any:
        if node.data != "list":
            return ABSENT
        for member in wanted:
            if typing.get_origin(member) is tuple:
                values = self.tuple_of(trees(node), typing.get_args(member))
                if values is not ABSENT:
                    return values
        return ABSENT

    def tuple_of(self, nodes: list[Node], hints: tuple[Any, ...]) -> Any:
        if len(hints) == 2 and hints[1] is ...:
            hints = (hints[0],) * len(nodes)
        if len(hints) != len(nodes):
            return ABSENT
        values = tuple(self.value(node, hint) for node, hint in zip(nodes, hints, strict=True))
        return ABSENT if ABSENT in values else values

    def as_tensor(self, node: Node, wanted: tuple[Any, ...]) -> Any:
        item = self.env.get(tokens(node)[0]) if node.data == "name" else None
        return item if isinstance(item, TENSORS) and type(item) in wanted else ABSENT

    def as_dtype(self, node: Node, wanted: tuple[Any, ...]) -> Any:
        if DataType not in wanted or (node.data == "name" and tokens(node)[0] in self.env):
            return ABSENT
        if Expr in wanted and not self.is_dtype(node):
            return ABSENT
        return self.dtype(node)

    def as_layout(self, node: Node, wanted: tuple[Any, ...]) -> Any:
        if node.data not in ("call", "binary", "paren") or not any(
            kind in wanted for kind in LAYOUTS
        ):
            return ABSENT
        layout = self.layout(node)
        return layout if type(layout) in wanted else ABSENT

    def as_scalar(self, node: Node, wanted: tuple[Any, ...]) -> Any:
        if Expr not in wanted and Var not in wanted:
            return ABSENT
        if node.data in ("string", "none", "list", "typed"):
            return ABSENT
        if node.data == "name" and isinstance(self.env.get(tokens(node)[0]), TENSORS):
            return ABSENT
        expr = self.expr(node)
        return expr if Expr in wanted or isinstance(expr, Var) else ABSENT


def _classes(wanted: tuple[Any, ...]) -> tuple[type, ...]:
    """The plain classes of `wanted`, for isinstance."""
    return tuple(m for m in wanted if isinstance(m, type) and typing.get_origin(m) is None)


def _describe(wanted: Iterable[Any]) -> str:
    return " or ".join(dict.fromkeys(_describe_one(member) for member in wanted))


def _describe_one(member: Any) -> str:
    if typing.get_origin(member) is tuple:
        return _describe_list(typing.get_args(member))
    if typing.get_origin(member) is typing.Literal:
        return " or ".join(repr(value) for value in typing.get_args(member))
    return _KINDS.get(member, str(member))


def _describe_list(hints: tuple[Any, ...]) -> str:
    if len(hints) == 2 and hints[1] is ...:
        return f"a list, each item {_describe(alternatives(hints[0]))}"
    return f"a list of {', '.join(_describe(alternatives(hint)) for hint in hints)}"


def _result_type(wanted: tuple[Any, ...]) -> str:
    texts = {
        RegisterTensor: "float32[...]",
        SharedTensor: "shared float32[...]",
        GlobalTensor: "global float32[...]",
    }
    return next((texts[member] for member in wanted if member in texts), "scalar int32")


def _signature(cls: type[Instruction], known: Mapping[str, Field[Any]]) -> str:
    texts = [f"{name}=..." if has_default(field) else name for name, field in known.items()]
    return f"{cls.name}({', '.join(texts)})"
