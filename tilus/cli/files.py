"""The files of the command line: texts, and tensors as .npy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tilus.dtypes import DataType, dtype_from_name
from tilus.errors import TilusError
from tilus.tensor import Tensor, dtype_to_torch, from_torch


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
