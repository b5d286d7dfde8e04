"""The CUDA functions that generated kernels call, put before a kernel as far as it uses them.

No toolkit header is included: types are declared here, half-precision arithmetic is inline PTX.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tilus.codegen.memory_helpers import MEMORY_HELPERS
from tilus.codegen.number_helpers import NUMBER_HELPERS
from tilus.codegen.word_helpers import WORD_HELPERS


@dataclass(frozen=True)
class Helper:
    """The text of a function and the helpers it calls."""

    text: str
    needs: tuple[str, ...] = ()


_TYPES = """\
typedef signed char int8_t;
typedef short int16_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
"""

HELPERS: dict[str, Helper] = {
    name: Helper(*entry)
    for name, entry in {**WORD_HELPERS, **MEMORY_HELPERS, **NUMBER_HELPERS}.items()
}


def prelude(names: Iterable[str]) -> str:
    """The text of these helpers and all they need, each once, callees first."""
    done: dict[str, None] = {}

    def add(name: str) -> None:
        if name not in done:
            for needed in HELPERS[name].needs:
                add(needed)
            done[name] = None

    for name in names:
        add(name)
    return _TYPES + "".join(HELPERS[name].text for name in done)
