"""`Script`: the class a kernel is written as, and what happens when it is called.

    class Add(tilus.Script):
        def __init__(self, block: int):                 # host, free Python
            super().__init__()
            self.block = block

        def __call__(self, n: int32, x_ptr: ~float32, y_ptr: ~float32):  # the kernel: compiled
            self.attrs.blocks = tilus.utils.cdiv(n, self.block)
            self.attrs.warps = 4
            ...

    add = Add(block=256)
    add(n, x, y)                                        # runs where the tensors live

A call is specialised: on compile-time arguments (int, float, bool, str), and on which integers and
addresses are multiples of 16, so that wide accesses stay possible.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from tilus.errors import TilusError
from tilus.ir.instruction import REGISTRY
from tilus.ir.program import Param, Program
from tilus.lang.signature import Argument, Signature, read_signature
from tilus.lang.source import read_source
from tilus.lang.transpile import transpile
from tilus.lang.values import LANGUAGE, OPERATOR_METHODS
from tilus.passes import compile_program


@dataclass(eq=False)
class Specialisation:
    """A kernel for one kind of arguments: as written, and after the passes where asked for."""

    source: Program

    @cached_property
    def program(self) -> Program:
        """After every pass; an engine that has the kernel already does not ask for it."""
        return compile_program(self.source)


Launcher = Callable[[Specialisation, Sequence[Any]], None]


def _no_launcher(kernel: Specialisation, values: Sequence[Any]) -> None:
    raise TilusError("no engine is loaded", hint="import tilus before calling kernels")


_launcher: Launcher = _no_launcher


def set_launcher(launcher: Launcher) -> None:
    """Make calls of kernels run by `launcher`; the runtime, a layer above, installs itself here."""
    global _launcher
    _launcher = launcher


@dataclass(frozen=True, eq=False)
class TunedCall:
    """A call of a kernel that has several tuning points.

    Attributes:
        candidates: the points, and the kernel of each.
        arguments: of the call.
        specialise: makes a candidate's kernel for them.
        chosen: for calls like earlier ones, what was chosen; kept until an attribute is set.
    """

    candidates: tuple[tuple[dict[str, Any], Script], ...]
    arguments: Sequence[Argument]
    specialise: Callable[[Script], Specialisation]
    chosen: dict[Any, Script]


Chooser = Callable[[TunedCall], "Script"]


def _first_point(call: TunedCall) -> Script:
    return call.candidates[0][1]


_chooser: Chooser = _first_point


def set_chooser(chooser: Chooser) -> None:
    """Let `chooser` say which point a call of an autotuned kernel takes, as `set_launcher`."""
    global _chooser
    _chooser = chooser


_PROTECTED = ("attrs", "assume", "static_assert", *LANGUAGE)


class HostUseError(TilusError, AttributeError):
    """A name of the language was looked up on a kernel object; `hasattr` still answers False."""


class ScriptMeta(type):
    """Makes one instance per point of an autotuned class's space, and returns the first.

    It stands for all of them: an attribute that is set on it is set on each.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        points = _points(cls, kwargs)
        instances = [_instance(cls, args, {**kwargs, **point}) for point in points]
        first = instances[0]
        object.__setattr__(first, "_candidates", tuple(zip(points, instances, strict=True)))
        return first


def _instance(cls: ScriptMeta, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        inspect.signature(cls.__init__).bind(None, *args, **kwargs)
    except TypeError as error:
        raise TilusError(
            f"{cls.__name__}: {error}", expected=f"{cls.__name__}{inspect.signature(cls.__init__)}"
        ) from None
    return type.__call__(cls, *args, **kwargs)


def _points(cls: type, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The schedules to try: the product of the autotune axes, or the one that `debug_schedule`
    pins.
    """
    axes: list[list[dict[str, Any]]] = getattr(cls, "_autotune_axes", [])
    names = [name for axis in axes for name in axis[0]]
    twice = sorted(set(names) & set(given))
    if twice:
        raise TilusError(
            f"{cls.__name__}: {', '.join(twice)} is both tuned and given",
            hint="leave the argument out, or remove it from the autotune decorator",
        )
    pinned: dict[str, Any] | None = getattr(cls, "debug_schedule", None)
    if pinned is not None and axes:
        if not isinstance(pinned, dict) or set(pinned) != set(names):
            raise TilusError(
                f"{cls.__name__}: debug_schedule must give every tuned argument",
                found=repr(pinned),
                expected=", ".join(sorted(names)),
            )
        return [dict(pinned)]
    return [
        {k: v for part in combination for k, v in part.items()}
        for combination in itertools.product(*axes)
    ]


def autotune(names: str, choices: Sequence[Any]) -> Callable[[type], type]:
    """Class decorator: `names` ("a" or "a, b") of __init__ are chosen from `choices` by tuning;
    stackable.

    >>> @autotune("block_m, block_n", [(16, 64), (32, 128)])
    ... class Matmul(Script):
    ...     def __init__(self, block_m: int, block_n: int):
    ...         super().__init__()
    """
    keys = [n.strip() for n in names.split(",") if n.strip()] if isinstance(names, str) else []
    if not keys or not isinstance(choices, Sequence) or isinstance(choices, str) or not choices:
        raise TilusError(
            "autotune needs names and choices",
            found=f"{names!r}, {choices!r:.60}",
            expected='for example autotune("a, b", [(1, 2), (3, 4)])',
        )
    axis = [_point(keys, choice) for choice in choices]

    def decorate(cls: type) -> type:
        known = list(inspect.signature(cls.__init__).parameters)[1:]
        for key in keys:
            if key not in known:
                raise TilusError(
                    f"autotune: {cls.__name__}.__init__ has no argument {key}",
                    expected=", ".join(known),
                )
        existing = getattr(cls, "_autotune_axes", [])
        taken = {name for other in existing for name in other[0]} & set(keys)
        if taken:
            raise TilusError(
                f"autotune: {', '.join(sorted(taken))} is tuned twice",
                hint="list all its choices in one decorator",
            )
        cls._autotune_axes = [axis, *existing]  # type: ignore[attr-defined]
        return cls

    return decorate


def _point(keys: list[str], choice: Any) -> dict[str, Any]:
    items = tuple(choice) if len(keys) > 1 and isinstance(choice, (tuple, list)) else (choice,)
    if len(items) != len(keys):
        raise TilusError(
            "autotune: a choice has another number of values than names",
            found=repr(choice),
            expected=str(keys),
        )
    return dict(zip(keys, items, strict=True))


class Script(metaclass=ScriptMeta):
    """Base class of kernels; see the module's docstring and docs/language.md.

    Subclasses define `__init__` (host code, calling `super().__init__()`) and `__call__` (the
    kernel).
    """

    _kernel: ClassVar[Callable[..., Any] | None] = None
    _candidates: tuple[tuple[dict[str, Any], Script], ...] = ()
    _specialisations: dict[Any, Specialisation] | None = None
    _chosen: dict[Any, Script] | None = None

    def __init__(self) -> None:
        self._specialisations = {}
        self._chosen = {}

    def __getattr__(self, name: str) -> Any:
        """Operators and the like exist in the source of a kernel only."""
        if name in _PROTECTED or name in OPERATOR_METHODS:
            raise HostUseError(
                f"self.{name} is part of the language of kernels and has no meaning on the host",
                hint="use it inside __call__",
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in _PROTECTED:
            if name in cls.__dict__:
                raise _reserved(name)
        kernel = cls.__dict__.get("__call__")
        if kernel is not None:
            cls._kernel = kernel
            cls.__call__ = Script._launch  # type: ignore[method-assign, assignment]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PROTECTED or (name in REGISTRY and not name.startswith("_")):
            raise _reserved(name)
        object.__setattr__(self, name, value)
        for made in (self._specialisations, self._chosen):
            if made:
                made.clear()  # for the old value
        for _, other in self._candidates[1:]:
            setattr(other, name, value)

    @property
    def schedules(self) -> tuple[dict[str, Any], ...]:
        """The tuning points of this kernel. On a GPU the first call of a kind finds the fastest;
        elsewhere the first one is used.
        """
        return tuple(point for point, _ in self._candidates)

    def program(self, *args: Any, **kwargs: Any) -> Program:
        """The compiled program (after every pass) for these call arguments; nothing runs."""
        return self.specialise(*args, **kwargs).program

    def specialise(self, *args: Any, **kwargs: Any) -> Specialisation:
        """The kernel for call arguments like these, made once; nothing is compiled or run.

        An address may stand for a tensor where the parameter is a `void_p`.
        """
        signature = self._signature()
        return self._specialised(signature, signature.bind(args, kwargs))

    def source_program(self, *args: Any, **kwargs: Any) -> Program:
        """The program as written, before any pass."""
        signature = self._signature()
        return self._transpiled(signature, signature.bind(args, kwargs))

    def compile(self, *args: Any, **kwargs: Any) -> Program:
        """Build the kernel for these call arguments without running it; returns its program."""
        return self.program(*args, **kwargs)

    def _launch(self, *args: Any, **kwargs: Any) -> None:
        """Run the kernel; `__call__` of every subclass."""
        signature = self._signature()
        arguments = signature.bind(args, kwargs)
        kernel = self._scheduled(signature, arguments)
        _launcher(kernel, [a.value for a in arguments if not a.is_constant])

    __call__ = _launch

    def _scheduled(self, signature: Signature, arguments: Sequence[Argument]) -> Specialisation:
        """The kernel for these arguments, of the point that is best for them."""

        def specialise(script: Script) -> Specialisation:
            return script._specialised(signature, arguments)

        if len(self._candidates) < 2:
            return specialise(self)
        assert self._chosen is not None
        call = TunedCall(self._candidates, arguments, specialise, self._chosen)
        return specialise(_chooser(call))

    def _signature(self) -> Signature:
        kernel = type(self)._kernel
        if kernel is None:
            raise TilusError(
                f"{type(self).__name__} has no kernel", hint="define __call__(self, ...)"
            )
        if self._specialisations is None:
            raise TilusError(
                f"{type(self).__name__}.__init__ does not call super().__init__()",
                hint="make it the first line of __init__",
            )
        return read_signature(kernel, read_source(kernel))

    def _specialised(self, signature: Signature, arguments: Sequence[Argument]) -> Specialisation:
        assert self._specialisations is not None
        key = tuple(argument.key for argument in arguments)
        if key not in self._specialisations:
            source = self._transpiled(signature, arguments)
            self._specialisations[key] = Specialisation(source)
        return self._specialisations[key]

    def _transpiled(self, signature: Signature, arguments: Sequence[Argument]) -> Program:
        assert type(self)._kernel is not None
        params = {
            a.name: Param(a.variable(), a.divisible_by) for a in arguments if not a.is_constant
        }
        constants = {a.name: a.value for a in arguments if a.is_constant}
        return transpile(
            self, signature.function, params, constants, _snake_case(type(self).__name__)
        )


def _reserved(name: str) -> TilusError:
    return TilusError(
        f"self.{name} is part of the language and cannot be set",
        hint="give the attribute another name",
    )


def _snake_case(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


def _language_method(name: str) -> Callable[..., Any]:
    """What `Script.load_global` is outside a kernel: documentation, and an error when called."""
    cls = REGISTRY[name]

    def method(self: Script, *args: Any, **kwargs: Any) -> Any:
        raise TilusError(
            f"self.{name} is an instruction of kernels and cannot run on the host",
            hint="use it inside __call__",
        )

    method.__name__ = name
    method.__doc__ = cls.build.__doc__
    method.__signature__ = inspect.signature(cls.build)  # type: ignore[attr-defined]
    method.tilus_language = True  # type: ignore[attr-defined]
    return method


for _name in REGISTRY:
    if _name.isidentifier() and not hasattr(Script, _name):
        setattr(Script, _name, _language_method(_name))
