"""The PTX emulator: runs on the CPU what NVRTC made of a generated kernel, and checks every access.

An independent reading of NVIDIA's PTX manual: nothing here is shared with the code generator, so a
wrong fragment, a missing barrier or an address beyond a tensor shows.
"""

from __future__ import annotations

import importlib

FAMILIES = ("arith", "transfer", "warp")


def load_opcodes() -> None:
    """Fill the table of opcodes: each family of them is a module."""
    for family in FAMILIES:
        importlib.import_module(f"tilus.ptx.{family}")
