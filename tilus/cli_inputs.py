"""What the command line names: kernels in files, and values for their parameters.

add.tir                     a program in the text form
add.py, add.py:VectorAdd    a Script in a Python file

16  0.5  true  relu                     numbers, booleans, text
float16[16, 512]                        a tensor of zeros
randn:float16[16, 512]                  or of ones, arange, rand (uniform in [0, 1)), randn
weight.npy  weight.npy:int4b            a file, converted to a dtype
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import torch

from tilus.dtypes import DataType, dtype_from_name
from tilus.errors import Location, TilusError, locate
from tilus.ir.parser import parse_program
from tilus.ir.program import Param, Program
from tilus.lang.script import Script
from tilus.tensor import (
    Tensor,
    dtype_to_torch,
    from_carrier,
    from_torch,
    ones,
    rand,
    randint,
    randn,
    zeros,
)

Value = int | float | bool | str | None | DataType | Tensor


# ---- values --------------------------------------------------------------------------------------


def _arange(shape: Sequence[int], dtype: DataType) -> Tensor:
    """0, 1, 2, ... in row-major order; integers wrap around, low-precision floats saturate."""
    numbers = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    return from_carrier(dtype.encode(numbers), dtype)


def _randint(shape: Sequence[int], dtype: DataType) -> Tensor:
    """Every value of an integer dtype, equally likely."""
    if not dtype.is_integer():
        raise TilusError(f"randint makes integers, not {dtype}", hint="use rand or randn")
    return randint(int(dtype.min_value), int(dtype.max_value) + 1, shape, dtype)


SOURCES: Mapping[str, Callable[[Sequence[int], DataType], Tensor]] = MappingProxyType(
    {
        "zeros": zeros, "ones": ones, "arange": _arange,
        "rand": rand, "randn": randn, "randint": _randint,
    }
)  # fmt: skip
_WORDS: Mapping[str, bool | None] = MappingProxyType(
    {"true": True, "True": True, "false": False, "False": False, "None": None}
)
_TENSOR = re.compile(r"(?:(\w+):)?([^:]+)\[([\d\s,]*)\]")
_FILE = re.compile(r"(.+\.npy)(?::(.+))?")
TENSOR_FORMS = "float16[16,512], randn:float16[16,512] or FILE.npy"


def parse_assignments(
    pairs: Sequence[tuple[str, str]], parse: Callable[[str], Value] | None = None
) -> dict[str, Value]:
    """The values of `--set name=value` and their like, read by `parse` (None: `parse_value`).

    Raises: TilusError for a name given twice, or a value that cannot be made.

    >>> parse_assignments([("m", "16"), ("x", "ones:int4b[3]")])
    {'m': 16, 'x': Tensor(int4b[3], device=cpu)}
    """
    values: dict[str, Value] = {}
    for name, text in pairs:
        if name in values:
            raise TilusError(f"{name} is given twice", found=f"{name}={text}")
        with _for_argument(name, text):
            values[name] = (parse or parse_value)(text)
    return values


def _for_argument(name: str, text: str) -> AbstractContextManager[None]:
    """Errors inside point into `name=value`."""
    line = f"{name}={text}"
    return locate(Location("<command line>", 1, len(name) + 1, len(line), line))


def parse_value(text: str) -> Value:
    """A number, a boolean, None, a data type, a tensor, or, if nothing else, the text itself.

    >>> parse_value("16"), parse_value("1e-3"), parse_value("true"), parse_value("relu")
    (16, 0.001, True, 'relu')
    """
    if text in _WORDS:
        return _WORDS[text]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    if match := _TENSOR.fullmatch(text):
        return _make_tensor(match[1] or "zeros", match[2].strip(), match[3])
    if match := _FILE.fullmatch(text):
        return load_array(Path(match[1]), match[2])
    return text


def parse_constant(text: str) -> Value:
    """As `parse_value`, but the names of data types stand for them: `--init dtype=int4b`."""
    value = parse_value(text)
    try:
        return dtype_from_name(value) if isinstance(value, str) else value
    except TilusError:
        return value


def _make_tensor(source: str, dtype_name: str, extents: str) -> Tensor:
    if source not in SOURCES:
        raise TilusError(
            f"there is no tensor source {source!r}", found=source, expected=", ".join(SOURCES)
        )
    dtype = dtype_from_name(dtype_name)
    shape = [int(extent) for extent in extents.split(",") if extent.strip()]
    try:
        return SOURCES[source](shape, dtype)
    except (MemoryError, RuntimeError, ValueError) as error:  # torch's and NumPy's
        raise TilusError(
            "the tensor cannot be made", found=f"{dtype}{shape}: {str(error).splitlines()[0]}"
        ) from None


def load_array(path: Path, dtype_name: str | None = None) -> Tensor:
    """The array of a .npy file, cast to a dtype if one is named.

    Raises: TilusError if the file cannot be read, or holds no numbers.
    """
    try:
        array = np.load(path, allow_pickle=False)
        tensor = from_torch(torch.from_numpy(np.array(array, array.dtype.newbyteorder("="))))
    except (OSError, ValueError, TypeError) as error:
        raise TilusError(f"{path} cannot be read as a .npy file", found=str(error)) from None
    return tensor if dtype_name is None else tensor.to(dtype_from_name(dtype_name))


def save_array(path: Path, tensor: Tensor) -> None:
    """Write a tensor as a .npy file, its values in float32 or 64-bit integers where NumPy lacks
    the dtype.
    """
    try:
        array = tensor.storage.numpy() if _numpy_has(tensor.dtype) else numbers_of(tensor)
        np.save(path, array, allow_pickle=False)
    except OSError as error:
        raise TilusError(f"{path} cannot be written", found=str(error)) from None


def _numpy_has(dtype: DataType) -> bool:
    try:
        torch.empty(0, dtype=dtype_to_torch(dtype)).numpy()
    except (TilusError, TypeError):  # torch has no such dtype, or NumPy has not
        return False
    return True


def numbers_of(tensor: Tensor) -> Any:
    """The values of a tensor as a NumPy array in a dtype that NumPy computes with."""
    return tensor.dtype.decode(tensor.numpy_carrier())


# ---- kernels -------------------------------------------------------------------------------------


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


def read_text(path: Path) -> str:
    """The UTF-8 text of a file; a `TilusError` where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TilusError(f"{path} cannot be read", found=str(error)) from None


def write_text(path: Path, text: str) -> None:
    """Write a file as UTF-8; a `TilusError` where that fails."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TilusError(f"{path} cannot be written", found=str(error)) from None


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
