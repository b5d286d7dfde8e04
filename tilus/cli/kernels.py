"""The kernels that the command line names, each in a file.

add.tir                     a program in the text form
add.py, add.py:VectorAdd    a Script in a Python file
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tilus.cli.files import read_text
from tilus.cli.values import TENSOR_FORMS, Value
from tilus.errors import Location, TilusError
from tilus.ir.parser import parse_program
from tilus.ir.program import Param, Program
from tilus.lang.script import Script
from tilus.tensor import Tensor


@dataclass(frozen=True)
class Kernel:
    """A kernel of a file: `build(**arguments)` is its program, before any pass.

    `text` is the program of a text file, which is the same for all arguments; None for a Script.
    """

    name: str
    signature: inspect.Signature
    build: Callable[..., Program]
    text: Program | None = None

    def arguments(self, values: Mapping[str, Value]) -> dict[str, Any]:
        """`values` and the defaults of the others.

        Raises: TilusError naming every parameter without a value, or every value without one.
        """
        parameters = self.signature.parameters
        unknown = [name for name in values if name not in parameters]
        missing = [
            _described(parameter)
            for name, parameter in parameters.items()
            if name not in values and parameter.default is parameter.empty
        ]
        if unknown:
            raise TilusError(
                f"{self.name} has no parameter {', '.join(unknown)}",
                expected=", ".join(map(_described, parameters.values())) or "no arguments",
            )
        if missing:
            raise TilusError(
                f"{self.name} needs more arguments",
                found=", ".join(values) or "none",
                expected=", ".join(missing),
                hint=f"--set NAME=VALUE for each; a tensor (~dtype, void_p) is {TENSOR_FORMS}",
            )
        bound = self.signature.bind(**values)
        bound.apply_defaults()
        return bound.arguments


def load_kernel(file: str, init: Mapping[str, Value]) -> Kernel:
    """The kernel that FILE.tir, FILE.py or FILE.py:Class names; `init` constructs the class.

    Raises: TilusError if there is no such file or class, or it cannot be loaded.
    """
    name, _, class_name = file.partition(".py:")
    path = Path(f"{name}.py" if class_name else file)
    if path.suffix not in (".py", ".tir"):
        raise TilusError(
            f"{file} is no kernel", expected="a file FILE.tir, FILE.py or FILE.py:Class"
        )
    text = read_text(path)
    if path.suffix == ".py":
        return _from_script(_find_class(_import_file(path), path, class_name), init)
    if init:
        raise TilusError("a text program has no constructor", hint="use --set instead of --init")
    return _from_program(parse_program(text, str(path)))


def _described(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    named = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return f"{parameter.name}: {named}"


def _from_program(program: Program) -> Kernel:
    def build(**arguments: Value) -> Program:
        for param in program.params:
            _check(param, arguments[param.var.name])
        return program

    parameters = [
        inspect.Parameter(
            param.var.name, inspect.Parameter.KEYWORD_ONLY, annotation=str(param.var.dtype)
        )
        for param in program.params
    ]
    return Kernel(program.name, inspect.Signature(parameters), build, program)


def _check(param: Param, value: Value) -> None:
    """What the front end checks for a Script: the dtype of a tensor, the range of a number."""
    dtype = param.var.dtype
    if not dtype.is_pointer():
        if isinstance(value, bool) == (dtype.kind == "bool") and isinstance(value, (int, float)):
            dtype.constant(value)
            return
        expected = f"a value of {dtype}"
    else:
        if isinstance(value, Tensor) and dtype.pointee in (None, value.dtype):
            return
        expected = f"a tensor of {dtype.pointee}" if dtype.pointee else "a tensor"
    raise TilusError(
        f"the argument {param.var.name} is of the wrong kind",
        found=str(value),
        expected=expected,
        hint=f"a tensor is {TENSOR_FORMS}" if dtype.is_pointer() else None,
    )


def _from_script(cls: type[Script], init: Mapping[str, Value]) -> Kernel:
    script = _construct(cls, init)
    kernel: Any = cls._kernel  # pyright: ignore[reportPrivateUsage]: as written by the user
    if kernel is None:
        raise TilusError(f"{cls.__name__} has no kernel", hint="define __call__(self, ...)")
    signature = inspect.signature(kernel)
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in list(signature.parameters.values())[1:]]
    return Kernel(cls.__name__, inspect.Signature(parameters), script.source_program)


def _construct(cls: type[Script], init: Mapping[str, Value]) -> Script:
    try:
        return cls(**init)
    except TilusError:
        raise
    except Exception as error:
        raise TilusError(
            f"{cls.__name__} cannot be constructed: {type(error).__name__}: {error}",
            found=", ".join(f"{name}={value}" for name, value in init.items()) or "no --init",
            location=_raised_in(inspect.getfile(cls), error),
        ) from error


def _import_file(path: Path) -> ModuleType:
    """Run a Python file as a module of its own; what it does wrong is reported at its line."""
    name = f"tilus_kernels_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look modules up by name
    sys.path.insert(0, str(path.resolve().parent))  # it imports its neighbours, as a script does
    try:
        spec.loader.exec_module(module)
    except TilusError:
        raise
    except SyntaxError as error:
        column = max((error.offset or 1) - 1, 0)
        raise TilusError(
            f"{path} is not Python: {error.msg}",
            location=Location(
                error.filename or str(path), error.lineno or 1, column, text=error.text
            ),
        ) from None
    except Exception as error:
        raise TilusError(
            f"{path} cannot be imported: {type(error).__name__}: {error}",
            location=_raised_in(str(path), error),
        ) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _raised_in(file: str, error: Exception) -> Location | None:
    """The last line of the file itself that led to the error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file and frame.lineno]
    if not lines:
        return None
    source = Location(file, lines[-1]).source_line()
    return Location(file, lines[-1], len(source) - len(source.lstrip()), len(source))


def _find_class(module: ModuleType, path: Path, name: str) -> type[Script]:
    classes: dict[str, type[Script]] = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Script) and value is not Script
    }
    if not name:
        own = {key: cls for key, cls in classes.items() if cls.__module__ == module.__name__}
        if len(own) == 1:
            return next(iter(own.values()))
        raise TilusError(
            f"{path} defines {'several' if own else 'no'} kernels",
            found=", ".join(own) or None,
            expected="one subclass of tilus.Script",
            hint=f"name one: {path}:{next(iter(own))}" if own else None,
        )
    if name not in classes:
        raise TilusError(
            f"{path} has no kernel {name}", expected=", ".join(classes) or "a subclass of Script"
        )
    return classes[name]
