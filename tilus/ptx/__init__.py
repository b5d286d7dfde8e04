"""The PTX emulator: runs on the CPU what NVRTC made of a generated kernel, and checks every access.

An independent reading of NVIDIA's PTX manual: nothing here is shared with the code generator, so a
wrong fragment, a missing barrier or an address beyond a tensor shows.
"""

# Modules of opcodes, each of which fills its part of the table.
FAMILIES = (
    "arith", "integers", "bits", "compare", "convert", "transfer", "atomics", "control", "mbarrier",
    "calls", "warp", "matrix",
)  # fmt: skip
