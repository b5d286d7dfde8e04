"""What the command line says for the arguments of a kernel.

    16  0.5  true  relu                     numbers, booleans, text
    float16[16, 512]                        a tensor of zeros
    randn:float16[16, 512]                  or of ones, arange, rand (uniform in [0, 1)), randn
    weight.npy  weight.npy:int4b            a file, converted to a dtype

What is none of these is text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType

import numpy as np

from tilus.cli.files import load_array
from tilus.dtypes import DataType, dtype_from_name
from tilus.errors import Location, TilusError, locate
from tilus.tensor import Tensor, from_carrier, ones, rand, randint, randn, zeros

Value = int | float | bool | str | None | DataType | Tensor


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
