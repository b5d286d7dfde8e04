"""Names of a program's tiles and variables in its CUDA text: the user's, where C++ lets them be.

i: float32[16]  ->  i_          as the generated loops over registers count with i
"""

from __future__ import annotations

import re

from tilus.codegen.prelude import HELPERS
from tilus.codegen.scalar import FLOAT_FUNCTIONS
from tilus.ir.printer import Names

# ISO C++17, [lex.key]; words of the CUDA language, and functions that generated code calls.
_WORDS = frozenset(
    (
        "alignas", "alignof", "and", "and_eq", "asm", "auto", "bitand", "bitor", "bool", "break",
        "case", "catch", "char", "char16_t", "char32_t", "class", "compl", "const", "constexpr",
        "const_cast", "continue", "decltype", "default", "delete", "do", "double", "dynamic_cast",
        "else", "enum", "explicit", "export", "extern", "false", "float", "for", "friend", "goto",
        "if", "inline", "int", "long", "mutable", "namespace", "new", "noexcept", "not", "not_eq",
        "nullptr", "operator", "or", "or_eq", "private", "protected", "public", "register",
        "reinterpret_cast", "return", "short", "signed", "sizeof", "static", "static_assert",
        "static_cast", "struct", "switch", "template", "this", "thread_local", "throw", "true",
        "try", "typedef", "typeid", "typename", "union", "unsigned", "using", "virtual", "void",
        "volatile", "wchar_t", "while", "xor", "xor_eq", "blockIdx", "blockDim", "gridDim",
        "threadIdx", "warpSize", "dim3", "printf", "assert", "clock", "main", "uint2", "uint4",
        "int2", "int4", "float2", "float4",
    )
)  # fmt: skip
# Names of the generated text's own: loops over registers, and over the batch, k, m and n of a
# product; the thread; shared memory; what is combined across threads.
_LOOPS = ("i", "j", "bi", "ki", "mi", "ni", "reach")
_OWN = frozenset((*_LOOPS, "tid", "thread", "arena", "folded", "below"))
_PATTERNS = re.compile(r"t\d+|workspace\d+|u?int\d+_t|_.*")


def is_taken(name: str) -> bool:
    """Whether `name` may mean something else in a generated text.

    >>> is_taken("i"), is_taken("double"), is_taken("scale")
    (True, True, False)
    """
    words = (_WORDS, _OWN, HELPERS, FLOAT_FUNCTIONS.values())
    return any(name in known for known in words) or _PATTERNS.fullmatch(name) is not None


class CudaNames(Names):
    """Unique names that mean nothing else in a generated text.

    >>> from tilus import dtypes
    >>> from tilus.ir.expr import Var
    >>> CudaNames()(Var(dtypes.int32, "double"))
    'double_'
    """

    def _free(self, base: str) -> str:
        return super()._free(f"{base}_" if is_taken(base) else base)
