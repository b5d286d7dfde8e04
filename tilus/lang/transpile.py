"""From the source of a kernel method to a program.

Every expression evaluates to a *value*: a Python object known now (a host value), a scalar `Expr`,
or a tensor. Python runs the host values; statements about the others go into the program.

    x = self.load_global(g, offsets=[i], shape=[16])    emits an instruction, binds x to its result
    n = 4                                               binds a host value, emits nothing
    i = self.blockIdx.x * n                             declares a scalar variable

The surprise, fixed by the language: assigning again to a name bound to a register tile copies into
that tile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tilus.errors import Location, TilusError, locate
from tilus.ir.expr import Expr, as_expr
from tilus.ir.program import Param, Program
from tilus.lang.context import Frame, InlineMethod, InlineReturn
from tilus.lang.scope import Scope
from tilus.lang.source import Source, assigned_names, read_source, signature_of
from tilus.lang.statements import Statements


def transpile(
    script: Any,
    function: Callable[..., Any],
    params: Mapping[str, Param],
    constants: Mapping[str, Any],
    name: str,
) -> Program:
    """The program of `script`'s kernel `function`.

    `params` are its run-time parameters, `constants` the compile-time ones. Raises `TilusError` at
    the line in question.
    """
    return Transpiler(script, name).kernel(read_source(function), params, constants)


class Transpiler(Statements):
    """One kernel on its way to a program."""

    def kernel(
        self, source: Source, params: Mapping[str, Param], constants: Mapping[str, Any]
    ) -> Program:
        place = source.location(source.node)
        self.frames.append(Frame(source, Scope(None, "kernel"), 0, True))
        for key, param in params.items():
            self._bind_parameter(key, param.var, place)
        for key, value in constants.items():
            self.scope.bind(key, value, place)
        self.statements(source.node.body)
        with locate(place):
            return Program(
                self.name,
                tuple(params.values()),
                self._grid(),
                self._warps(),
                tuple(self.body),
                location=place,
            )

    def _grid(self) -> tuple[Expr, Expr, Expr]:
        if self.attrs.blocks is None:
            raise TilusError(
                "the kernel does not say how many blocks it has", hint="set self.attrs.blocks = ..."
            )
        x, y, z = (*self.attrs.blocks, as_expr(1), as_expr(1))[:3]
        return x, y, z

    def _warps(self) -> int:
        if self.attrs.warps is None:
            raise TilusError(
                "the kernel does not say how many warps a block has",
                hint="set self.attrs.warps = ...",
            )
        return self.attrs.warps

    def _bind_parameter(self, name: str, value: Any, place: Location) -> None:
        """Bind an argument; a name the body assigns to gets a copy, so that the caller's value
        stays as it is.
        """
        if name in assigned_names(self.frame.source.node):
            value = self._copy(name, value)
        self.scope.bind(name, value, place)

    def inline(self, method: InlineMethod, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Run a method of the user's class in place, with its own names."""
        if any(f.source.node.name == method.function.__name__ for f in self.frames[1:]):
            raise TilusError(
                f"{method.function.__name__} calls itself", hint="inlined methods cannot recurse"
            )
        signature = signature_of(method.function)
        try:
            bound = signature.bind(*([self.script] if method.bound else []), *args, **kwargs)
        except TypeError as error:
            raise TilusError(
                f"{method.function.__name__}: {error}",
                expected=f"{method.function.__name__}{signature}",
            ) from None
        bound.apply_defaults()
        source = read_source(method.function)
        place, caller = source.location(source.node), self.location
        self.frames.append(Frame(source, Scope(None, "method"), self.depth, False))
        try:
            for key, value in bound.arguments.items():
                self._bind_parameter(key, value, place)
            self.statements(source.node.body)
        except InlineReturn as result:
            return result.value
        finally:
            self.frames.pop()
            self.location = caller
        return None
