"""Every instruction family; importing this package fills the registry."""

from tilus.instructions import (
    async_copy,
    atomic,
    cast,
    debug,
    elementwise,
    global_memory,
    mma,
    reduce,
    shape,
    shared_memory,
    slicing,
    sync,
)

__all__ = [
    "async_copy",
    "atomic",
    "cast",
    "debug",
    "elementwise",
    "global_memory",
    "mma",
    "reduce",
    "shape",
    "shared_memory",
    "slicing",
    "sync",
]
