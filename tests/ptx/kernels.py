"""Small kernels in PTX around a few instructions, run by the emulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilus.ptx.counters import Counters
from tilus.ptx.launch import execute
from tilus.ptx.memory import GlobalMemory
from tilus.ptx.parse import parse_ptx

Array = np.ndarray[Any, Any]


def module(body: str, pointers: int, declarations: str = "") -> str:
    """A module with one kernel; %i is the number of the thread, %p0, %p1, ... are the pointers."""
    params = ",\n".join(f".param .u64 k_param_{n}" for n in range(pointers))
    loads = "\n".join(f"ld.param.u64 %p{n}, [k_param_{n}];" for n in range(pointers))
    return f"""
.version 8.4
.target sm_90
.address_size 64
.visible .entry k(
{params}
)
{{
.reg .pred %q<8>;
.reg .b16 %h<16>;
.reg .b32 %r<64>;
.reg .f32 %f<16>;
.reg .b64 %d<16>;
.reg .b64 %p<8>;
.reg .b32 %i;
{declarations}
{loads}
mov.u32 %i, %tid.x;
{body}
ret;
}}
"""


def launch(
    text: str, arrays: Sequence[Array], threads: int, counters: Counters | None = None
) -> None:
    """Run one block; every array is in global memory and changed in place."""
    memory = GlobalMemory()
    flat = [a.reshape(-1).view(np.uint8) for a in arrays]
    params = [("u64", memory.add(f"p{n}", part)) for n, part in enumerate(flat)]
    memory.load()
    execute(parse_ptx(text), params, memory, (1, 1, 1), threads, 0, counters)
    memory.store()


REGISTER = {1: "h", 2: "h", 4: "r", 8: "d"}


def apply(body: str, inputs: Sequence[Array], output: Any) -> Array:
    """What `body` makes of each element: inputs are {0}, {1}, ...; the result is {out}.

    `inputs` are arrays of one length; the result has that length and the dtype `output`.
    """
    count = len(inputs[0])
    result = np.zeros(count, output)
    arrays = [np.ascontiguousarray(a) for a in (*inputs, result)]
    lines: list[str] = []
    names: list[str] = []
    for number, array in enumerate(arrays):
        size = array.dtype.itemsize
        lines.append(f"mad.wide.u32 %p{number}, %i, {size}, %p{number};")
        names.append(f"%{REGISTER[size]}{number + 8}")
        if number < len(inputs):
            lines.append(f"ld.global.b{8 * size} {names[-1]}, [%p{number}];")
    lines.append(body.format(*names[:-1], out=names[-1]))
    last = len(inputs)
    lines.append(f"st.global.b{8 * result.dtype.itemsize} [%p{last}], {names[-1]};")
    launch(module("\n".join(lines), len(arrays)), arrays, count)
    return arrays[-1]


def pairs(values: Array) -> tuple[Array, Array]:
    """Every combination of two elements."""
    a, b = np.meshgrid(values, values, indexing="ij")
    return a.reshape(-1), b.reshape(-1)


def triples(values: Array) -> tuple[Array, Array, Array]:
    """Every combination of three elements."""
    a, b, c = np.meshgrid(values, values, values, indexing="ij")
    return a.reshape(-1), b.reshape(-1), c.reshape(-1)
