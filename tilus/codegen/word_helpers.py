"""CUDA functions on 32-bit words and narrow numbers: a part of the prelude.

The functions that the rows of `words.OPS` name take and give uint32 words, floats too, as tiles of
narrow types are kept in such words. Half-precision arithmetic is inline PTX with `.rn`, so that the
compiler never fuses a product with a sum that the sequence rounds apart.
"""

from __future__ import annotations

Entry = tuple[str, tuple[str, ...]]  # the text, and the helpers it calls


def _function(result: str, name: str, parameters: str, *body: str) -> str:
    lines = "".join(f"    {line}\n" for line in body)
    return f"\n__device__ __forceinline__ {result} {name}({parameters}) {{\n{lines}}}\n"


def _ptx(name: str, operands: int, instruction: str) -> str:
    """A function of words that is one PTX instruction; `instruction` is without operands."""
    names = "abc"[:operands]
    places = ", ".join(f"%{i}" for i in range(operands + 1))
    inputs = ", ".join(f'"r"({letter})' for letter in names)
    return _function(
        "uint32_t",
        name,
        ", ".join(f"uint32_t {letter}" for letter in names),
        "uint32_t d;",
        f'asm("{instruction} {places};" : "=r"(d) : {inputs});',
        "return d;",
    )


def _word(name: str, parameters: str, expression: str) -> str:
    words = ", ".join(f"uint32_t {letter}" for letter in parameters)
    return _function("uint32_t", name, words, f"return {expression};")


# ---- words ----

_AND_OR = """
// (a & b) | c in one LOP3, whatever the compiler knows about the bits. PTX ISA, "lop3".
__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
"""

_IN_REGISTER = """
// A constant that stays in a register of each thread, as an instruction holds only one: the
// compiler cannot know that no multiprocessor has a number of nearly 2^31.
__device__ __forceinline__ uint32_t in_register(uint32_t constant) {
    uint32_t number, lane;
    asm("mov.u32 %0, %%smid;" : "=r"(number));
    asm("mov.u32 %0, %%laneid;" : "=r"(lane));
    return constant ^ ((number + lane) >> 31);
}
"""

_AND_XOR = """
// (a & b) ^ c in one LOP3.
__device__ __forceinline__ uint32_t and_xor(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
"""

_ADD_REACHED = """
// Adds `step` where the float x is not below `bound`, as a nan is not.
__device__ __forceinline__ uint32_t add_reached(
    uint32_t sum, uint32_t x, uint32_t bound, uint32_t step) {
    return __uint_as_float(x) < __uint_as_float(bound) ? sum : sum + step;
}
"""

_TAKE = """
// Element k of a little-endian stream of N-bit elements in a thread's words.
template <int N> __device__ __forceinline__ uint32_t take(const uint32_t* words, int k) {
    const int word = k * N / 32, shift = k * N % 32;
    uint32_t value = words[word] >> shift;
    if (shift + N > 32) value |= words[word + 1] << (32 - shift);
    return value & (0xFFFFFFFFu >> (32 - N));
}
"""

_PUT = """
// Replace element k; bits of `value` above N are dropped.
template <int N> __device__ __forceinline__ void put(uint32_t* words, int k, uint32_t value) {
    const int word = k * N / 32, shift = k * N % 32;
    const uint32_t mask = 0xFFFFFFFFu >> (32 - N);
    words[word] = (words[word] & ~(mask << shift)) | (value & mask) << shift;
    if (shift + N > 32) {
        const int rest = 32 - shift;
        words[word + 1] = (words[word + 1] & ~(mask >> rest)) | (value & mask) >> rest;
    }
}
"""

_PUT_PLACED = """
// Replace an element whose bits lie at `positions` of a thread's words.
template <int N> __device__ __forceinline__ void put_placed(
    uint32_t* words, const int* positions, uint32_t value) {
    #pragma unroll
    for (int bit = 0; bit < N; bit++) {
        uint32_t& word = words[positions[bit] / 32];
        const int shift = positions[bit] % 32;
        word = (word & ~(1u << shift)) | ((value >> bit) & 1u) << shift;
    }
}
"""

_WORDS: dict[str, Entry] = {
    "prmt": (_ptx("prmt", 3, "prmt.b32"), ()),
    "funnel": (_ptx("funnel", 3, "shf.r.wrap.b32"), ()),
    "and_or": (_AND_OR, ()),
    "in_register": (_IN_REGISTER, ()),
    "and_xor": (_AND_XOR, ()),
    "min_u32": (_word("min_u32", "ab", "a < b ? a : b"), ()),
    "max_u32": (_word("max_u32", "ab", "a < b ? b : a"), ()),
    "min_s32": (_word("min_s32", "ab", "(int)a < (int)b ? a : b"), ()),
    "max_s32": (_word("max_s32", "ab", "(int)a < (int)b ? b : a"), ()),
    "add_reached": (_ADD_REACHED, ()),
    "take": (_TAKE, ()),
    "put": (_PUT, ()),
    "put_placed": (_PUT_PLACED, ()),
}

# ---- pairs of half-precision numbers, and float32 as words ----


def _since_hopper(name: str, instruction: str, otherwise: str) -> str:
    """bfloat16 has but fma, min and max before sm_90. PTX ISA, "add.bf16x2"."""
    return (
        f"\n__device__ __forceinline__ uint32_t {name}(uint32_t a, uint32_t b) {{\n"
        "    uint32_t d;\n"
        "#if __CUDA_ARCH__ >= 900\n"
        f'    asm("{instruction} %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));\n'
        "#else\n"
        f"    {otherwise}\n"
        "#endif\n"
        "    return d;\n"
        "}\n"
    )


def _by_fma(a: str, b: str, c: str) -> str:
    inputs = ", ".join(f'"r"({x})' for x in (a, b, c))
    return f'asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : {inputs});'


def _half_to_f32(which: str) -> str:
    return (
        f"\n__device__ __forceinline__ uint32_t f32_of_{which}_f16(uint32_t a) {{\n"
        "    float d;\n"
        '    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, '
        f'{which}; }}" : "=f"(d) : "r"(a));\n'
        "    return __float_as_uint(d);\n"
        "}\n"
    )


def _pair_of_f32(kind: str) -> str:
    # PTX ISA, "cvt": of the two sources the first becomes the upper half
    return (
        f"\n__device__ __forceinline__ uint32_t {kind}x2_of_f32(uint32_t low, uint32_t high) {{\n"
        "    uint32_t d;\n"
        f'    asm("cvt.rn.{kind}x2.f32 %0, %1, %2;"\n'
        '        : "=r"(d) : "f"(__uint_as_float(high)), "f"(__uint_as_float(low)));\n'
        "    return d;\n"
        "}\n"
    )


def _single(name: str, intrinsic: str) -> str:
    """float32 arithmetic on words; the intrinsic is never fused with another."""
    result = f"{intrinsic}(__uint_as_float(a), __uint_as_float(b))"
    return _word(name, "ab", f"__float_as_uint({result})")


_S32_OF_F32 = """
// Toward zero, clamped to the range; nan becomes 0. PTX ISA, "cvt".
__device__ __forceinline__ uint32_t s32_of_f32(uint32_t a) {
    int d;
    asm("cvt.rzi.s32.f32 %0, %1;" : "=r"(d) : "f"(__uint_as_float(a)));
    return (uint32_t)d;
}
"""

_PAIRS: dict[str, Entry] = {
    **{
        f"{op}_f16x2": (_ptx(f"{op}_f16x2", 2, f"{op}.rn.f16x2"), ())
        for op in ("add", "sub", "mul")
    },
    "fma_f16x2": (_ptx("fma_f16x2", 3, "fma.rn.f16x2"), ()),
    "fma_bf16x2": (_ptx("fma_bf16x2", 3, "fma.rn.bf16x2"), ()),
    # a * 1 + b, b * -1 + a and a * b + -0: the one rounding is that of the sum or product
    "add_bf16x2": (
        _since_hopper("add_bf16x2", "add.rn.bf16x2", _by_fma("a", "0x3F803F80u", "b")), ()
    ),
    "sub_bf16x2": (
        _since_hopper("sub_bf16x2", "sub.rn.bf16x2", _by_fma("b", "0xBF80BF80u", "a")), ()
    ),
    "mul_bf16x2": (
        _since_hopper("mul_bf16x2", "mul.rn.bf16x2", _by_fma("a", "b", "0x80008000u")), ()
    ),
    # nan wins, as in NumPy
    **{
        f"{op}_{kind}x2": (_ptx(f"{op}_{kind}x2", 2, f"{op}.NaN.{kind}x2"), ())
        for op in ("min", "max")
        for kind in ("f16", "bf16")
    },
    **{
        f"{op}_{kind}x2": (_word(f"{op}_{kind}x2", "a", expression), ())
        for op, expression in (("neg", "a ^ 0x80008000u"), ("abs", "a & 0x7FFF7FFFu"))
        for kind in ("f16", "bf16")
    },
    "add_f32": (_single("add_f32", "__fadd_rn"), ()),
    "mul_f32": (_single("mul_f32", "__fmul_rn"), ()),
    "f32_of_low_f16": (_half_to_f32("low"), ()),
    "f32_of_high_f16": (_half_to_f32("high"), ()),
    "f16x2_of_f32": (_pair_of_f32("f16"), ()),
    "bf16x2_of_f32": (_pair_of_f32("bf16"), ()),
    "s32_of_f32": (_S32_OF_F32, ()),
    "pair_f16": (
        _function("uint32_t", "pair_f16", "float x", "return f32_to_f16(x) * 0x10001u;"),
        ("f32_to_f16",),
    ),
    "pair_bf16": (
        _function("uint32_t", "pair_bf16", "float x", "return f32_to_bf16(x) * 0x10001u;"),
        ("f32_to_bf16",),
    ),
}  # fmt: skip

# ---- scalars ----

_F16_TO_F32 = """
__device__ __forceinline__ float f16_to_f32(uint16_t bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
"""

_BF16_TO_F32 = """
__device__ __forceinline__ float bf16_to_f32(uint16_t bits) {
    return __uint_as_float((uint32_t)bits << 16);
}
"""


def _f32_to(kind: str) -> str:
    return (
        f"\n__device__ __forceinline__ uint16_t f32_to_{kind}(float x) {{\n"
        "    uint16_t bits;\n"
        f'    asm("cvt.rn.{kind}.f32 %0, %1;" : "=h"(bits) : "f"(x));\n'
        "    return bits;\n"
        "}\n"
    )


_ROUND_TF32 = """
// To 10 mantissa bits, to nearest even; PTX has that rounding from sm_90 on only.
__device__ __forceinline__ float round_tf32(float x) {
    const uint32_t bits = __float_as_uint(x);
    const uint32_t rounded = bits + 0xFFFu + ((bits >> 13) & 1u);
    return __uint_as_float((x != x ? bits | 0x400000u : rounded) & 0xFFFFE000u);
}
"""

_F64_TO_F32_ODD = """
// The float toward zero, its last bit set where that is inexact: the next rounding then sees what
// was cut off (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
__device__ __forceinline__ float f64_to_f32_odd(double x) {
    const float cut = __double2float_rz(x);
    if ((double)cut == x || x != x) return cut;
    return __uint_as_float(__float_as_uint(cut) | 1u);
}
"""

# PTX ISA, "cvt": out of range saturates; a nan becomes 0 only from float to 32 bits and fewer.
_TO_INT = """
// Toward zero, clamped to the range of the type; nan becomes 0.
__device__ __forceinline__ {type} float_to_{name}(float x) {{
    return x != x ? 0 : {single};
}}
__device__ __forceinline__ {type} float_to_{name}(double x) {{
    return x != x ? 0 : {double};
}}
"""


def _to_int(name: str) -> str:
    signed, nbits = name.startswith("int"), int(name.lstrip("uint"))
    kind = "int" if name == "int32" else f"{name}_t"
    if nbits >= 32:
        suffix = ("" if signed else "u") + ("int" if nbits == 32 else "ll")
        single, double = f"__float2{suffix}_rz(x)", f"__double2{suffix}_rz(x)"
    else:
        low = -(1 << (nbits - 1)) if signed else 0
        high = low + (1 << nbits) - 1
        single = f"({kind})(int)fminf(fmaxf(x, {low}.0f), {high}.0f)"
        double = f"({kind})(int)fmin(fmax(x, {low}.0), {high}.0)"
    return _TO_INT.format(type=kind, name=name, single=single, double=double)


_FLOORDIV = """
// Rounded toward minus infinity.
template <typename T> __device__ __forceinline__ T floordiv(T a, T b) {
    const T quotient = a / b;
    return quotient * b != a && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}
"""

_MOD = """
// The remainder with the sign of the divisor.
template <typename T> __device__ __forceinline__ T mod(T a, T b) {
    const T rest = a % b;
    return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}
"""

_MOD_FLOAT = """
// The remainder with the sign of the divisor, as NumPy's.
template <typename T> __device__ __forceinline__ T mod_float(T a, T b) {
    const T rest = fmod(a, b);
    if (rest == 0 && b != 0) return copysign((T)0, b);
    return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}
"""

_FLOORDIV_FLOAT = """
// The floor of the exact quotient as NumPy has it: the remainder goes first, so that it is whole.
template <typename T> __device__ __forceinline__ T floordiv_float(T a, T b) {
    if (b == 0) return a / b;
    const T rest = fmod(a, b);
    const T quotient = (a - rest) / b - (rest != 0 && (rest < 0) != (b < 0));
    if (quotient == 0) return copysign((T)0, a / b);
    const T whole = floor(quotient);
    return quotient - whole > (T)0.5 ? whole + 1 : whole;
}
"""

_SIGMOID = """
__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
"""
_RECIPROCAL = """
// 1 / x to one unit in the last place (PTX ISA, "rcp").
__device__ __forceinline__ float reciprocal(float x) {
    float result;
    asm("rcp.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}
__device__ __forceinline__ double reciprocal(double x) { return 1.0 / x; }
"""

_DECODE_MINIFLOAT = """
// The number of a code of E exponent and M mantissa bits below a sign. Specials: 0 none, 1 the
// magnitude of all ones is nan, 2 inf and nan as in IEEE 754.
template <int E, int M, int specials> __device__ __forceinline__ float decode_minifloat(
    uint32_t code) {
    const uint32_t magnitude = code & ((1u << (E + M)) - 1u), ones = (1u << (E + M)) - 1u;
    const int bias = (1 << (E - 1)) - 1;
    float x = __uint_as_float(magnitude << (23 - M)) * __uint_as_float((254u - bias) << 23);
    if (specials == 1 && magnitude == ones) x = __uint_as_float(0x7FFFFFFFu);
    if (specials == 2 && magnitude >> M == ones >> M) {
        x = __uint_as_float(0x7F800000u | magnitude << (23 - M));
    }
    return __uint_as_float(__float_as_uint(x) | (code >> (E + M)) << 31);
}
"""

_ENCODE_MINIFLOAT = """
// The code nearest to x, the even one of two, saturating; nan becomes the magnitude of all ones.
template <int E, int M, int specials> __device__ __forceinline__ uint32_t encode_minifloat(
    float x) {
    const uint32_t ones = (1u << (E + M)) - 1u, bias = (1u << (E - 1)) - 1u;
    const uint32_t greatest = specials == 0 ? ones : specials == 1 ? ones - 1u : ones - (1u << M);
    const uint32_t largest = (greatest << (23 - M)) + ((127u - bias) << 23);
    const uint32_t bits = __float_as_uint(x), given = bits & 0x7FFFFFFFu;
    if (given > 0x7F800000u) return ones;
    const uint32_t size = given < largest ? given : largest;
    uint32_t code;
    if (size < (128u - bias) << 23) {  // subnormal: the last bit of the sum is the least of them
        const float magic = __uint_as_float((151u - bias - M) << 23);
        code = __float_as_uint(__fadd_rn(__uint_as_float(size), magic)) - __float_as_uint(magic);
    } else {
        const uint32_t odd = (size >> (23 - M)) & 1u;
        const uint32_t rounded = size + (1u << (22 - M)) - 1u + odd;
        code = (rounded >> (23 - M)) - ((127u - bias) << M);
    }
    return code | (bits >> 31) << (E + M);
}
"""

_DECODE_E8M0 = """
__device__ __forceinline__ float decode_e8m0(uint32_t code) {
    if (code == 0) return __uint_as_float(0x400000u);
    return __uint_as_float(code == 255 ? 0x7FFFFFFFu : code << 23);
}
"""

_ENCODE_E8M0 = """
// The nearest power of two, the greater of two; 0 is the least one, a negative number is nan.
__device__ __forceinline__ uint32_t encode_e8m0(float x) {
    const uint32_t bits = __float_as_uint(x);
    if (x != x || x < 0.0f) return 255u;
    if (x < __uint_as_float(0x600000u)) return 0u;
    const uint32_t code = (bits + 0x400000u) >> 23;
    return code < 254u ? code : 254u;
}
"""


def _rounded(kind: str) -> Entry:
    names = (f"f32_to_{kind}", f"{kind}_to_f32")
    return _function(
        "float", f"round_{kind}", "float x", f"return {names[1]}({names[0]}(x));"
    ), names


_SCALARS: dict[str, Entry] = {
    "f16_to_f32": (_F16_TO_F32, ()),
    "bf16_to_f32": (_BF16_TO_F32, ()),
    "f32_to_f16": (_f32_to("f16"), ()),
    "f32_to_bf16": (_f32_to("bf16"), ()),
    "round_f16": _rounded("f16"),
    "round_bf16": _rounded("bf16"),
    "round_tf32": (_ROUND_TF32, ()),
    "f64_to_f32_odd": (_F64_TO_F32_ODD, ()),
    **{
        f"float_to_{kind}{nbits}": (_to_int(f"{kind}{nbits}"), ())
        for kind in ("int", "uint")
        for nbits in (8, 16, 32, 64)
    },
    "floordiv": (_FLOORDIV, ()),
    "mod": (_MOD, ()),
    "mod_float": (_MOD_FLOAT, ()),
    "floordiv_float": (_FLOORDIV_FLOAT, ()),
    "sigmoid": (_SIGMOID, ()),
    "reciprocal": (_RECIPROCAL, ()),
    "quiet_nan": (_function("float", "quiet_nan", "", "return __uint_as_float(0x7FC00000u);"), ()),
    "infinity": (_function("float", "infinity", "", "return __uint_as_float(0x7F800000u);"), ()),
    "decode_minifloat": (_DECODE_MINIFLOAT, ()),
    "encode_minifloat": (_ENCODE_MINIFLOAT, ()),
    "decode_e8m0": (_DECODE_E8M0, ()),
    "encode_e8m0": (_ENCODE_E8M0, ()),
}

WORD_HELPERS: dict[str, Entry] = {**_WORDS, **_PAIRS, **_SCALARS}
