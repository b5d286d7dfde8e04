"""CUDA functions that generated kernels call for numbers: a part of the prelude.

Extremes in which nan wins, as in NumPy, and the random numbers of Philox.
"""

from __future__ import annotations

# PTX ISA, "Floating Point Instructions: min": `.NaN` gives nan where an operand is nan.
_EXTREME_F32 = """
__device__ __forceinline__ float {op}_f32(float a, float b) {{
    float result;
    asm("{op}.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}}
"""

_EXTREME_F64 = """
__device__ __forceinline__ double {op}_f64(double a, double b) {{
    return a {sign} b || a != a ? a : b;
}}
"""

# J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): Philox 4x32-10.
_PHILOX = """
// Four random words for a key and a counter.
__device__ __forceinline__ uint4 philox(uint64_t key, uint64_t counter) {
    uint4 words = {(uint32_t)counter, (uint32_t)(counter >> 32), 0u, 0u};
    uint32_t key0 = (uint32_t)key, key1 = (uint32_t)(key >> 32);
    #pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint64_t first = (uint64_t)words.x * 0xD2511F53u;
        const uint64_t second = (uint64_t)words.z * 0xCD9E8D57u;
        words.x = (uint32_t)(second >> 32) ^ words.y ^ key0;
        words.y = (uint32_t)second;
        words.z = (uint32_t)(first >> 32) ^ words.w ^ key1;
        words.w = (uint32_t)first;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return words;
}
"""

_LONG_WORDS = """
__device__ __forceinline__ uint64_t low_words(uint4 words) {
    return words.x | (uint64_t)words.y << 32;
}
__device__ __forceinline__ uint64_t high_words(uint4 words) {
    return words.z | (uint64_t)words.w << 32;
}
"""

# 2^-BITS: every multiple of it in [0, 1) is a number of the type, so that none is rounded to 1.
_UNIFORM_F32 = """
template <int BITS> __device__ __forceinline__ float uniform_f32(uint4 words) {
    return (float)(words.x >> (32 - BITS)) * (1.0f / (float)(1u << BITS));
}
"""

_UNIFORM_F64 = """
__device__ __forceinline__ double uniform_f64(uint4 words) {
    return (double)(low_words(words) >> 11) * (1.0 / 9007199254740992.0);
}
"""

# G. Box and M. Muller, "A note on the generation of random normal deviates" (1958).
_NORMAL_F32 = """
__device__ __forceinline__ float normal_f32(uint4 words) {
    const float radius = ((float)words.x + 0.5f) * (1.0f / 4294967296.0f);
    const float angle = (float)(words.y >> 8) * (1.0f / 8388608.0f);
    return sqrtf(-2.0f * logf(radius)) * cospif(angle);
}
"""

_NORMAL_F64 = """
__device__ __forceinline__ double normal_f64(uint4 words) {
    const double radius = ((double)(low_words(words) >> 11) + 0.5) * (1.0 / 9007199254740992.0);
    const double angle = (double)(high_words(words) >> 11) * (1.0 / 4503599627370496.0);
    return sqrt(-2.0 * log(radius)) * cospi(angle);
}
"""

# name: (text, the helpers it calls)
NUMBER_HELPERS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{f"{op}_f32": (_EXTREME_F32.format(op=op), ()) for op in ("min", "max")},
    "min_f64": (_EXTREME_F64.format(op="min", sign="<"), ()),
    "max_f64": (_EXTREME_F64.format(op="max", sign=">"), ()),
    "philox": (_PHILOX, ()),
    "long_words": (_LONG_WORDS, ()),
    "uniform_f32": (_UNIFORM_F32, ()),
    "uniform_f64": (_UNIFORM_F64, ("long_words",)),
    "normal_f32": (_NORMAL_F32, ()),
    "normal_f64": (_NORMAL_F64, ("long_words",)),
}
