"""Files of quantised weights: safetensors, with what the tensors mean in the metadata."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tilus.errors import TilusError

FORMAT = "tilus.quantized"
VERSION = "1"


def write_file(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a file that appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise TilusError(f"{path} cannot be written", found=str(error)) from None


def read_file(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """(metadata, tensors) of a file in this format and version."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            _check_metadata(path, metadata)
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise TilusError(
            f"{path} cannot be read as a quantised weight",
            found=str(error) or type(error).__name__,
            expected="a safetensors file written by QuantizedTensor.save",
            hint="check the path, or save the weight again",
        ) from None


def _check_metadata(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise TilusError(
            f"{path} is a safetensors file, but no quantised weight",
            found=f"format {metadata.get('format')!r} in its metadata",
            expected=repr(FORMAT),
            hint="QuantizedTensor.load reads what QuantizedTensor.save wrote",
        )
    if metadata.get("version") != VERSION:
        raise TilusError(
            f"{path} is of a version of the format that is not known here",
            found=f"version {metadata.get('version')!r}",
            expected=repr(VERSION),
            hint="update tilus, or save the weight again with this version",
        )
