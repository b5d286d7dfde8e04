"""CUDA C++ to machine code through NVRTC, the compiler library that comes as a wheel.

    compiled = compile_cuda(source.text, source.name, "sm_90a")
    compiled.cubin          # an ELF image for that architecture
    compiled.ptx            # its PTX, where `want_ptx` asked for it

No driver, toolkit or host compiler is needed. NVRTC is imported by the first compilation, not by
`import tilus`. The surprise: for a real architecture (`sm_90a`) NVRTC keeps the PTX beside the
cubin, so that both come from one compilation.

Source: NVRTC documentation, "Supported Compile Options" and "Basic Usage".
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from tilus.errors import Location, TilusError

INSTALL_HINT = 'pip install "tilus-vm[cu13]" (or "tilus-vm[cu12]" for a CUDA 12 driver)'
_WHEELS = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")

# kernel.py(12): error: identifier "y" is undefined
_ERROR = re.compile(
    r"^(?P<file>.+)\((?P<line>\d+)\): (?:catastrophic )?error(?: #[\w-]+)?: (?P<message>.*)$", re.M
)
# ptxas fatal   : Unresolved extern function 'f'
_ASSEMBLER_ERROR = re.compile(
    r"^(?:ptxas|nvrtc)\b.*?\b(?:error|fatal)\s*:\s*(?P<message>.*)$", re.M
)


@dataclass(frozen=True)
class Compiled:
    """What one compilation gave: the ELF image, its PTX where asked for, and NVRTC's remarks."""

    cubin: bytes
    ptx: str | None
    log: str


class CudaCompileError(TilusError):
    """NVRTC refused a generated text; `log` is all it said. The place is in the user's program."""

    def __init__(self, message: str, *, log: str, **details: Any):
        super().__init__(message, **details)
        self.log = log


def compile_cuda(
    text: str, name: str, arch: str, *, want_ptx: bool = False, line_info: bool = True
) -> Compiled:
    """Machine code of the CUDA C++ `text` for `arch`, as in "sm_90a".

    `name` is what messages call the text where it has no `#line` directive. `line_info` lets
    profilers show the user's lines; it does not change the instructions. May be called by several
    threads at once; they compile in parallel.

    Raises: CudaCompileError, at the line of the user's program, for a text that is no CUDA C++;
    TilusError if NVRTC is missing or does not know the architecture.

    >>> cubin = compile_cuda('extern "C" __global__ void f() {}', "f", "sm_80").cubin
    >>> cubin[1:4]
    b'ELF'
    """
    with _Program(text, name) as program:
        log = program.compile(compile_options(arch, line_info=line_info), arch)
        cubin = program.output("CUBIN")
        ptx = _as_text(program.output("PTX")) if want_ptx else ""
    if want_ptx and not ptx:
        ptx = compile_ptx(text, name, arch, line_info=line_info)
    return Compiled(cubin, ptx or None, log)


def compile_ptx(text: str, name: str, arch: str, *, line_info: bool = True) -> str:
    """The PTX of `text` for `arch` alone, without assembling it; see `compile_cuda`.

    >>> print(compile_ptx('extern "C" __global__ void f() {}', "f", "sm_90a"))  # doctest: +ELLIPSIS
    //
    ...
    .target sm_90a
    ...
    """
    virtual = arch.replace("sm_", "compute_")
    with _Program(text, name) as program:
        program.compile(compile_options(virtual, line_info=line_info), arch)
        return _as_text(program.output("PTX"))


def compile_options(arch: str, *, line_info: bool = True) -> tuple[str, ...]:
    """The options every kernel is compiled with; a part of what names it in the cache."""
    options = (
        f"--gpu-architecture={arch}",
        "--std=c++17",
        "--device-as-default-execution-space",
        "--ptxas-options=-v",  # registers and spills, into the log
    )
    return (*options, "--generate-line-info") if line_info else options


def nvrtc_version() -> tuple[int, int]:
    """The version of the NVRTC in use, as in (13, 0). Raises TilusError where there is none."""
    result, major, minor = _nvrtc().nvrtcVersion()
    assert int(result) == 0
    return int(major), int(minor)


@cache
def nvrtc_release() -> str:
    """The NVRTC in use, exactly: its version, and the release of the wheels that may hold it.

    >>> nvrtc_release()  # doctest: +SKIP
    '13.0, nvidia-cuda-nvrtc 13.0.88'
    """
    installed = [f"{wheel} {_release(wheel)}" for wheel in _WHEELS if _release(wheel)]
    return ", ".join(["{}.{}".format(*nvrtc_version()), *installed])


def _release(wheel: str) -> str | None:
    try:
        return importlib.metadata.version(wheel)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def _nvrtc() -> Any:
    """The bindings, with the library behind them loaded."""
    try:
        bindings = importlib.import_module("cuda.bindings.nvrtc")
        bindings.nvrtcVersion()
    except (ImportError, RuntimeError, OSError) as error:
        raise TilusError(
            "NVRTC, the CUDA compiler, is not installed",
            found=str(error).partition("\n")[0],
            expected="the packages cuda-bindings and nvidia-cuda-nvrtc",
            hint=INSTALL_HINT,
        ) from None
    return bindings


class _Program:
    """One NVRTC program, destroyed when the `with` block ends."""

    def __init__(self, text: str, name: str):
        self.nvrtc = _nvrtc()
        self.text = text
        self.file = f"{name}.cu"

    def __enter__(self) -> _Program:
        result, self.handle = self.nvrtc.nvrtcCreateProgram(
            self.text.encode(), self.file.encode(), 0, [], []
        )
        self.check(result)
        return self

    def __exit__(self, *_: object) -> None:
        self.nvrtc.nvrtcDestroyProgram(self.handle)

    def compile(self, options: tuple[str, ...], arch: str) -> str:
        """Compile, and return the log; errors become ours."""
        (result,) = self.nvrtc.nvrtcCompileProgram(
            self.handle, len(options), [option.encode() for option in options]
        )
        log = _as_text(self.output("ProgramLog"))
        status = self.nvrtc.nvrtcResult
        if result == status.NVRTC_ERROR_INVALID_OPTION:
            raise TilusError(
                f"NVRTC {nvrtc_release()} cannot compile for {arch}",
                found=log.strip().partition("\n")[0] or result.name,
                hint="install a newer nvidia-cuda-nvrtc",
            )
        if result == status.NVRTC_ERROR_COMPILATION:
            raise _compile_error(log, self.file, self.text)
        self.check(result)
        return log

    def output(self, kind: str) -> bytes:
        """One of the program's results: CUBIN, PTX or ProgramLog; empty where there is none."""
        result, size = getattr(self.nvrtc, f"nvrtcGet{kind}Size")(self.handle)
        self.check(result)
        data = bytearray(size)
        if size:
            self.check(*getattr(self.nvrtc, f"nvrtcGet{kind}")(self.handle, data))
        return bytes(data)

    def check(self, result: Any) -> None:
        if int(result) != 0:
            raise TilusError(f"NVRTC failed on {self.file}", found=result.name)


def _as_text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _compile_error(log: str, file: str, text: str) -> CudaCompileError:
    match = _ERROR.search(log)
    message = match or _ASSEMBLER_ERROR.search(log)
    return CudaCompileError(
        "the generated CUDA text does not compile",
        log=log,
        found=message["message"] if message else log.strip().partition("\n")[0],
        hint="this is a bug of the code generator: please report it with what TILUS_DUMP=DIR wrote",
        location=_location(match, file, text) if match else None,
    )


def _location(match: re.Match[str], file: str, text: str) -> Location:
    """The place an error names; the line is ours where no `#line` gave it to the user's file."""
    line = int(match["line"])
    lines = text.split("\n")
    own = match["file"] == file and line <= len(lines)
    return Location(match["file"], line, text=lines[line - 1] if own else None)
