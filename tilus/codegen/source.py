"""What code generation hands to the runtime: one self-contained CUDA text, and how to launch it.

    extern "C" __global__ void add(int n, float* x_ptr, void* workspace_0) { ... }

The kernel takes the program's parameters in order, then one pointer for each workspace. The
surprise: lines of the text carry `#line` directives, so the compiler's messages and a profiler's
source view speak of the user's Python file, not of this text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tilus.errors import TilusError
from tilus.ir.expr import Expr


class Workspace(NamedTuple):
    """Device memory that every launch of a kernel needs beside its arguments.

    `nbytes` is an expression of the program's parameters. A `clean` workspace holds zeros when the
    kernel starts, and the kernel leaves zeros behind; any other one holds anything.
    """

    nbytes: Expr
    clean: bool = False


@dataclass(frozen=True)
class CudaSource:
    """A kernel as CUDA C++: `text` defines `extern "C" __global__ void name(...)`.

    `threads` is the size of a block; `shared_bytes` the dynamic shared memory of a block.

    Raises: TilusError for a block that is no block.
    """

    name: str
    text: str
    threads: int
    shared_bytes: int = 0
    workspaces: tuple[Workspace, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= 1024:
            raise TilusError(
                f"a block of {self.name} cannot have this many threads",
                found=str(self.threads),
                expected="1..1024",
            )
        if self.shared_bytes < 0:
            raise TilusError(
                f"the shared memory of {self.name} is negative", found=f"{self.shared_bytes} bytes"
            )
