"""Atomic updates of one element of memory, as functions of a kernel's own.

    __device__ __forceinline__ float atomic_add_float32(uint8_t* place, float value) { ... }

Each gives the old value. Where CUDA has the operation the function calls it, else it compares and
swaps until nobody came in between. Source: CUDA C++ Programming Guide, "Atomic Functions".

The surprise: `atomicAdd` of float32 in global memory takes numbers below 2^-126 for zero (PTX ISA,
"atom").
"""

from __future__ import annotations

from dataclasses import dataclass

from tilus.codegen.collective import Fold, accumulation_dtype
from tilus.codegen.emitter import Emitter
from tilus.codegen.scalar import scalar_type
from tilus.dtypes import DataType

# The C type of a word that is compared and swapped, by its bits.
WORDS = {16: "unsigned short", 32: "unsigned int", 64: "unsigned long long"}
# By kind and bits: the types CUDA's own operations take for "add", "min" and "max", and "exch".
ADDED = {
    ("int", 32): "int", ("uint", 32): "unsigned int", ("int", 64): "unsigned long long",
    ("uint", 64): "unsigned long long", ("float", 32): "float", ("float", 64): "double",
}  # fmt: skip
COMPARED = {
    ("int", 32): "int", ("uint", 32): "unsigned int", ("int", 64): "long long",
    ("uint", 64): "unsigned long long",
}  # fmt: skip
EXCHANGED = {key: kind for key, kind in ADDED.items() if key != ("float", 64)}
NATIVE = {
    "add": ("atomicAdd", ADDED),
    "min": ("atomicMin", COMPARED),
    "max": ("atomicMax", COMPARED),
    "exch": ("atomicExch", EXCHANGED),
}
# A float as the word that holds its bits, and back.
AS_WORD = {
    "float16": ("f32_to_f16", "f16_to_f32"),
    "bfloat16": ("f32_to_bf16", "bf16_to_f32"),
    "float32": ("__float_as_uint", "__uint_as_float"),
    "tfloat32": ("__float_as_uint", "__uint_as_float"),
    "float64": ("__double_as_longlong", "__longlong_as_double"),
}
PRELUDE = ("f32_to_f16", "f16_to_f32", "f32_to_bf16", "bf16_to_f32")


@dataclass(frozen=True)
class _Words:
    """How values of a dtype are turned into words and back."""

    emitter: Emitter
    dtype: DataType

    @property
    def c_type(self) -> str:
        return WORDS[self.dtype.nbits]

    def of(self, value: str) -> str:
        """C of the word that holds a value."""
        if not self.dtype.is_float():
            return f"({self.c_type}){value}"
        return f"{self._function(0)}({value})"

    def value(self, word: str) -> str:
        """C of the value that a word holds."""
        if not self.dtype.is_float():
            return f"({scalar_type(self.dtype)}){word}"
        return f"{self._function(1)}({word})"

    def _function(self, direction: int) -> str:
        name = AS_WORD[self.dtype.name][direction]
        return self.emitter.use(name) if name in PRELUDE else name


def atomic_function(e: Emitter, op: str, dtype: DataType) -> str:
    """The name of a function (place, [compare,] value) that updates an element atomically.

    `op` is "add", "sub", "min", "max", "exch" or "cas"; `dtype` has 16, 32 or 64 bits.
    """
    name, kind = f"atomic_{op}_{dtype}", scalar_type(dtype)
    compare = f", {kind} compare" if op == "cas" else ""
    head = f"__device__ __forceinline__ {kind} {name}(uint8_t* place{compare}, {kind} value) {{"
    native = _native(op, dtype)
    body = native if native is not None else _loop(e, op, dtype)
    return e.define(name, "\n".join([head, *(f"    {line}" for line in body), "}", ""]))


def _native(op: str, dtype: DataType) -> list[str] | None:
    """CUDA's own operation, if there is one."""
    value = "value"
    if op == "sub":
        op, value = "add", "-value" if dtype.is_float() else "0 - value"
    if op == "cas" and dtype.is_integer():
        word, kind = WORDS[dtype.nbits], scalar_type(dtype)
        place = f"reinterpret_cast<{word}*>(place)"
        return [f"return ({kind})atomicCAS({place}, ({word})compare, ({word})value);"]
    function, types = NATIVE.get(op, ("", dict[tuple[str, int], str]()))
    word = types.get((dtype.kind, dtype.nbits))
    if word is None or dtype.name == "tfloat32":
        return None
    place = f"reinterpret_cast<{word}*>(place)"
    return [f"return ({scalar_type(dtype)}){function}({place}, ({word})({value}));"]


def _loop(e: Emitter, op: str, dtype: DataType) -> list[str]:
    words = _Words(e, dtype)
    give_up = ["    if (!(have == compare)) return have;"] if op == "cas" else []
    return [
        f"auto* const word = reinterpret_cast<{words.c_type}*>(place);",
        f"{words.c_type} seen = *const_cast<volatile {words.c_type}*>(word);",
        "while (true) {",
        f"    const {scalar_type(dtype)} have = {words.value('seen')};",
        *give_up,
        f"    const {words.c_type} found = atomicCAS(word, seen, {words.of(_new(e, op, dtype))});",
        "    if (found == seen) return have;",
        "    seen = found;",
        "}",
    ]


def _new(e: Emitter, op: str, dtype: DataType) -> str:
    """C of the new value, given `have` and `value`; half precision is rounded when it is stored."""
    if op in ("exch", "cas"):
        return "value"
    wide = accumulation_dtype(dtype)
    text = Fold(op, wide)(e, "have", "value")
    return f"({text})" if wide == dtype or dtype.is_any_float16() else e.scalar.wrapped(text, dtype)
