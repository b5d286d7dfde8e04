"""The algebraic layout system: which thread, register, address or bit holds an element.

>>> from tilus.ir.layout import local, spatial, visualize_layout
>>> local(2, 1).spatial(8, 4).local(1, 2)          # the accumulator of a tensor core
register_layout([16, 8], [2, 8, 4, 2], [1, 2], [0, 3])
"""

from tilus.ir.layout.atoms import (
    ATOMIC_MMAS,
    AtomicMma,
    MmaDotConfig,
    atomic_mma_configs,
    find_atomic_mma,
    mma_dot_config,
    placements,
    resolve_dot_config,
)
from tilus.ir.layout.banks import BankConflicts, bank_conflicts
from tilus.ir.layout.bit_machine import UnpackPlan
from tilus.ir.layout.bit_search import NF4, plan_unpack
from tilus.ir.layout.bits import BitLayout, bit_layout
from tilus.ir.layout.draw import contents_table, draw_svg, visualize_layout
from tilus.ir.layout.global_ import (
    GlobalLayout,
    global_column_major,
    global_compose,
    global_layout,
    global_row_major,
    global_slice,
    global_strides,
)
from tilus.ir.layout.modes import LayoutError
from tilus.ir.layout.operands import holds_operands, operand_locals
from tilus.ir.layout.register import (
    RegisterLayout,
    auto_local_spatial,
    column_local,
    column_spatial,
    compose,
    concat,
    divide,
    flatten,
    left_divide,
    local,
    permute,
    reduce,
    reduce_to,
    register_layout,
    replicated,
    reshape,
    spatial,
    squeeze,
    unsqueeze,
)
from tilus.ir.layout.shared import SharedLayout, shared_permute, shared_reshape
from tilus.ir.layout.shared_constructors import (
    shared_column_major,
    shared_compose,
    shared_layout,
    shared_row_major,
    shared_row_major_swizzle,
)
from tilus.ir.layout.swizzle import Swizzle
from tilus.ir.layout.text import Layout, parse_layout

__all__ = [
    "ATOMIC_MMAS",
    "NF4",
    "AtomicMma",
    "BankConflicts",
    "BitLayout",
    "GlobalLayout",
    "Layout",
    "LayoutError",
    "MmaDotConfig",
    "RegisterLayout",
    "SharedLayout",
    "Swizzle",
    "UnpackPlan",
    "atomic_mma_configs",
    "auto_local_spatial",
    "bank_conflicts",
    "bit_layout",
    "column_local",
    "column_spatial",
    "compose",
    "concat",
    "contents_table",
    "divide",
    "draw_svg",
    "find_atomic_mma",
    "flatten",
    "global_column_major",
    "global_compose",
    "global_layout",
    "global_row_major",
    "global_slice",
    "global_strides",
    "holds_operands",
    "left_divide",
    "local",
    "mma_dot_config",
    "operand_locals",
    "parse_layout",
    "permute",
    "placements",
    "plan_unpack",
    "reduce",
    "reduce_to",
    "register_layout",
    "replicated",
    "reshape",
    "resolve_dot_config",
    "shared_column_major",
    "shared_compose",
    "shared_layout",
    "shared_permute",
    "shared_reshape",
    "shared_row_major",
    "shared_row_major_swizzle",
    "spatial",
    "squeeze",
    "unsqueeze",
    "visualize_layout",
]
