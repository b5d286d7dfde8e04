"""Kernels compiled ahead of time: files that are launched without the program, or NVRTC.

    save(binary, program, Path("kernels"))              # add.json  add.cubin  add.ptx  add.cu
    load(Path("kernels/add.json")).launch([n, x, y])

`add.json` says what the kernel takes and how it is launched; its expressions are those of the text
form of programs. `add.cu` is there to be read. The surprise: the JSON is written last and holds the
checksum of the machine code, so files of two kernels never pass for one.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tilus.codegen.source import CudaSource, Workspace
from tilus.errors import TilusError
from tilus.ir.expr import format_expr
from tilus.ir.parser import parse_program
from tilus.ir.printer import Names
from tilus.ir.program import WARP_SIZE, Program
from tilus.ir.stmt import Declare
from tilus.runtime.build import Binary, Code, Resources
from tilus.runtime.cuda import Cuda, CudaKernel
from tilus.target import target_from_name

FORMAT = 1


def save(binary: Binary, program: Program, directory: Path) -> Path:
    """Write the files of a kernel into `directory`, which is made; returns the path of the JSON.

    Files of a kernel of the same name are replaced, each at once and whole.

    Raises: TilusError if they cannot be written, or NVRTC is missing.
    """
    header = json.dumps(_header(binary, program), indent=1) + "\n"
    files = {
        ".cu": binary.source.text.encode(),
        ".ptx": binary.ptx.encode(),
        ".cubin": binary.cubin,
        ".json": header.encode(),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for suffix, data in files.items():
            _write(directory / f"{binary.source.name}{suffix}", data)
    except OSError as error:
        raise TilusError(
            f"the files of {binary.source.name} cannot be written", found=str(error)
        ) from None
    return directory / f"{binary.source.name}.json"


def load(path: Path, cuda: Cuda | None = None) -> CudaKernel:
    """The kernel of a JSON file that `save` wrote; its .cubin lies beside it.

    `cuda` is the driver (None: that of this machine, from the first launch on).

    Raises: TilusError for files that are missing, damaged, or of another version of the format.
    """
    header = _Fields(path, _read_header(path))
    name = header.text("name")
    cubin = _read(path.with_suffix(".cubin"))
    if hashlib.sha256(cubin).hexdigest() != header.text("sha256"):
        raise TilusError(
            "the machine code is not what the kernel was saved with",
            found=f"another checksum of {path.with_suffix('.cubin')}",
            hint="save the kernel again",
        )
    program = _program(header)
    sizes = [stmt.value for stmt in program.body if isinstance(stmt, Declare)]
    clean = [bool(_Fields(path, each).get("clean", bool)) for each in header.list("workspaces")]
    text_file = path.with_suffix(".cu")
    source = CudaSource(
        name,
        _read(text_file).decode() if text_file.exists() else "",
        header.number("threads"),
        header.number("shared_bytes"),
        tuple(map(Workspace, sizes, clean)),
    )
    nvrtc = str(_Fields(path, header.get("versions", dict)).text("nvrtc"))
    code = Code(header.text("sha256"), cubin, header.resources(), nvrtc, log="")
    return CudaKernel(Binary(source, target_from_name(header.text("target")), code), program, cuda)


# ---- the header ----------------------------------------------------------------------------------


def _header(binary: Binary, program: Program) -> dict[str, Any]:
    source, names = binary.source, Names()
    resources = binary.resources
    return {
        "format": FORMAT,
        "name": source.name,
        "target": binary.target.arch,
        "parameters": [
            {
                "name": names(param.var),
                "dtype": str(param.var.dtype),
                "divisible_by": param.divisible_by,
            }
            for param in program.params
        ],
        "grid": [format_expr(extent, 0, names) for extent in program.blocks],
        "threads": source.threads,
        "shared_bytes": source.shared_bytes,
        "workspaces": [
            {"nbytes": format_expr(nbytes, 0, names), "clean": clean}
            for nbytes, clean in source.workspaces
        ],
        "resources": None if resources is None else asdict(resources),
        "versions": {
            "tilus": _own_version(),
            "nvrtc": binary.code.nvrtc,
        },
        "sha256": hashlib.sha256(binary.cubin).hexdigest(),
    }


def _own_version() -> str:
    try:
        return importlib.metadata.version("tilus-vm")
    except importlib.metadata.PackageNotFoundError:  # used from a source tree, not installed
        return "unknown"


def _program(header: _Fields) -> Program:
    """The program that has these parameters and this grid, and declares the workspaces' sizes.

    It is read as text, so that the parser checks names, types and expressions.
    """
    params = [_param(_Fields(header.path, each)) for each in header.list("parameters")]
    grid = ", ".join(str(extent) for extent in header.list("grid"))
    sizes = [_Fields(header.path, each).text("nbytes") for each in header.list("workspaces")]
    warps = -(-header.number("threads") // WARP_SIZE)
    lines = [
        f"kernel {json.dumps(header.text('name'))}({', '.join(params)}) "
        f"blocks=[{grid}] warps={warps}:",
        *(f"    var nbytes_of_workspace_{i}: int64 = {size}" for i, size in enumerate(sizes)),
        "    pass",
    ]
    return parse_program("\n".join(lines), str(header.path))


def _param(fields: _Fields) -> str:
    return f"{fields.text('name')}: {fields.text('dtype')} % {fields.number('divisible_by')}"


class _Fields:
    """The fields of a JSON object in the file `path`, each of the type that is asked for."""

    def __init__(self, path: Path, fields: Any):
        self.path = path
        self._fields = fields

    def get(self, name: str, kind: type) -> Any:
        value = self._fields.get(name) if isinstance(self._fields, dict) else None
        if not isinstance(value, kind):
            raise TilusError(
                f"{self.path} is not the description of a kernel",
                found=f"the field {name} is {value!r:.60}",
                expected=f"a value of type {kind.__name__}",
            )
        return value

    def text(self, name: str) -> str:
        return str(self.get(name, str))

    def number(self, name: str) -> int:
        return int(self.get(name, int))

    def list(self, name: str) -> list[Any]:
        return list(self.get(name, list))

    def resources(self) -> Resources | None:
        if self._fields.get("resources") is None:
            return None
        report = _Fields(self.path, self.get("resources", dict))
        return Resources(**{name: report.number(name) for name in Resources.__annotations__})


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(_read(path))
    except ValueError as error:
        raise TilusError(f"{path} is no JSON", found=str(error)) from None
    found = header.get("format") if isinstance(header, dict) else None
    if found != FORMAT:
        raise TilusError(
            f"{path} is not the description of a kernel",
            found=f"format {found!r}",
            expected=f"format {FORMAT}",
            hint="save the kernel again with this version",
        )
    return header


# ---- files ---------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TilusError("a file of the kernel cannot be read", found=str(error)) from None


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
