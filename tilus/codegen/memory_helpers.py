"""CUDA functions that generated kernels call for memory and order: a part of the prelude.

Each is one short function; the PTX manual's section is named where one is wrapped.
"""

from __future__ import annotations

# PTX ISA, "createpolicy": the priorities that a copy can give its lines in the L2 cache.
EVICTION_PRIORITIES = ("evict_first", "evict_last", "evict_normal", "evict_unchanged")

_LOAD_BITS = """
// The N bits at bit `position` of packed memory; they lie in one byte or two.
template <int N> __device__ __forceinline__ uint32_t load_bits(
    const uint8_t* memory, int64_t position) {
    const uint8_t* byte = memory + (position >> 3);
    const int shift = (int)(position & 7);
    uint32_t value = byte[0] >> shift;
    if (shift + N > 8) value |= (uint32_t)byte[1] << (8 - shift);
    return value & ((1u << N) - 1u);
}
"""

_STORE_BITS = """
// Replace the N bits at bit `position` of packed memory. Neighbours in the same word may be written
// by other threads at the same time, so the word is changed by atomic operations. The word of the
// last bytes may end behind the tensor, in memory that device allocations always have.
__device__ __forceinline__ void replace_bits(uint8_t* byte, uint32_t keep, uint32_t value) {
    const uint64_t address = reinterpret_cast<uint64_t>(byte);
    uint32_t* word = reinterpret_cast<uint32_t*>(address & ~3ull);
    const int shift = 8 * (int)(address & 3);
    atomicAnd(word, ~(~keep << shift));
    atomicOr(word, value << shift);
}
template <int N> __device__ __forceinline__ void store_bits(
    uint8_t* memory, int64_t position, uint32_t value) {
    const int shift = (int)(position & 7);
    const uint32_t mask = ((1u << N) - 1u) << shift;
    uint8_t* byte = memory + (position >> 3);
    replace_bits(byte, ~(mask & 255u), (value << shift) & 255u);
    if (mask > 255u) replace_bits(byte + 1, ~(mask >> 8), (value << shift) >> 8);
}
"""

_TAKE_PLACED = """
// An element whose bits lie at `positions` of a thread's words.
template <int N> __device__ __forceinline__ uint32_t take_placed(
    const uint32_t* words, const int* positions) {
    uint32_t value = 0;
    #pragma unroll
    for (int bit = 0; bit < N; bit++) {
        value |= ((words[positions[bit] / 32] >> (positions[bit] % 32)) & 1u) << bit;
    }
    return value;
}
"""

_SHARED_ADDRESS = """
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return (uint32_t)__cvta_generic_to_shared(pointer);
}
"""

# PTX ISA, "Non-bulk copy: cp.async". Zero bytes are read where `inside` is false, and all are
# filled with zeros; the address is then not looked at, so it may lie outside of the tensor.
_COPY_ASYNC = """
// From `offset` bytes behind `global`, a part of the instruction; zeros where not inside.
template <int offset = 0> __device__ __forceinline__ void copy_async_{size}(
    void* shared, const void* global, bool inside) {{
    asm volatile("cp.async.{cache}.shared.global [%0], [%1 + %3], {size}, %2;"
        :: "r"(shared_address(shared)), "l"(global), "r"(inside ? {size} : 0), "n"(offset)
        : "memory");
}}
"""

# PTX ISA, "ld". NVRTC takes C++'s loads of 16 bytes apart and puts them together anew, not always
# as they were: halves of 8 bytes take twice the time where rows are apart.
_LOAD_SHARED_16 = """
__device__ __forceinline__ uint4 load_shared_16(const void* from) {
    uint4 words;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
        : "r"(shared_address(from)) : "memory");
    return words;
}
"""

# The same, with a cache policy: what becomes of the lines in the L2 cache.
_COPY_ASYNC_HINTED = """
// As copy_async_{size}; `policy` says which lines the L2 cache evicts first.
template <int offset = 0> __device__ __forceinline__ void copy_async_{size}_hinted(
    void* shared, const void* global, bool inside, uint64_t policy) {{
    asm volatile("cp.async.{cache}.shared.global.L2::cache_hint [%0], [%1 + %3], {size}, %2, %4;"
        :: "r"(shared_address(shared)), "l"(global), "r"(inside ? {size} : 0), "n"(offset),
           "l"(policy)
        : "memory");
}}
"""

# PTX ISA, "createpolicy": every line is given this priority, the fraction of them being 1.0.
_POLICY = """
__device__ __forceinline__ uint64_t policy_{priority}() {{
    uint64_t policy;
    asm("createpolicy.fractional.L2::{priority}.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}}
"""

# PTX ISA, "Warp-level matrix load instruction: ldmatrix".
_LDMATRIX = """
__device__ __forceinline__ void ldmatrix_x{count}{suffix}(uint32_t* words, const void* row) {{
    asm volatile(
        "ldmatrix.sync.aligned.m8n8.x{count}{modifier}.shared.b16 {{{outputs}}}, [%{count}];"
        : {operands} : "r"(shared_address(row)) : "memory");
}}
"""

# PTX ISA, "Warp-level matrix store instruction: stmatrix".
_STMATRIX = """
__device__ __forceinline__ void stmatrix_x{count}{suffix}(const uint32_t* words, void* row) {{
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x{count}{modifier}.shared.b16 [%0], {{{inputs}}};"
        :: "r"(shared_address(row)), {operands} : "memory");
}}
"""

_SWIZZLE = """
// The place of an element: bits [base, base + bits) xor those `shift` above them.
template <int base, int bits, int shift> __device__ __forceinline__ int swizzle(int offset) {
    return offset ^ ((offset & (((1 << bits) - 1) << (base + shift))) >> shift);
}
"""

_WAIT_SEMAPHORE = """
// Spin until the int at `semaphore` is `value`; what its releaser wrote is then visible.
__device__ __forceinline__ void wait_semaphore(const void* semaphore, int value) {
    int found;
    do {
        asm volatile("ld.acquire.gpu.global.s32 %0, [%1];"
            : "=r"(found) : "l"(semaphore) : "memory");
    } while (found != value);
}
"""

_RELEASE_SEMAPHORE = """
// Publish all that the block wrote before the last barrier, then set the int at `semaphore`.
__device__ __forceinline__ void release_semaphore(void* semaphore, int value) {
    __threadfence();
    asm volatile("st.release.gpu.global.s32 [%0], %1;" :: "l"(semaphore), "r"(value) : "memory");
}
"""


_ARRIVE_SEMAPHORE = """
// Publish all that the block wrote before the last barrier, then count; what those wrote who came
// before is then visible.
__device__ __forceinline__ int arrive_semaphore(void* semaphore) {
    int before;
    __threadfence();
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;"
        : "=r"(before) : "l"(semaphore) : "memory");
    return before;
}
"""


def _ldmatrix(count: int, transposed: bool) -> str:
    return _LDMATRIX.format(
        count=count,
        suffix="_trans" if transposed else "",
        modifier=".trans" if transposed else "",
        outputs=", ".join(f"%{i}" for i in range(count)),
        operands=", ".join(f'"=r"(words[{i}])' for i in range(count)),
    )


def _stmatrix(count: int, transposed: bool) -> str:
    return _STMATRIX.format(
        count=count,
        suffix="_trans" if transposed else "",
        modifier=".trans" if transposed else "",
        inputs=", ".join(f"%{i + 1}" for i in range(count)),
        operands=", ".join(f'"r"(words[{i}])' for i in range(count)),
    )


# name: (text, the helpers it calls)
MEMORY_HELPERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "load_bits": (_LOAD_BITS, ()),
    "store_bits": (_STORE_BITS, ()),
    "take_placed": (_TAKE_PLACED, ()),
    "shared_address": (_SHARED_ADDRESS, ()),
    **{
        f"copy_async_{size}{suffix}": (text.format(size=size, cache=cache), ("shared_address",))
        for suffix, text in (("", _COPY_ASYNC), ("_hinted", _COPY_ASYNC_HINTED))
        for size, cache in ((4, "ca"), (8, "ca"), (16, "cg"))
    },
    **{
        f"policy_{priority}": (_POLICY.format(priority=priority), ())
        for priority in EVICTION_PRIORITIES
    },
    **{
        f"{name}_x{count}{suffix}": (text(count, bool(suffix)), ("shared_address",))
        for name, text in (("ldmatrix", _ldmatrix), ("stmatrix", _stmatrix))
        for count in (1, 2, 4)
        for suffix in ("", "_trans")
    },
    "load_shared_16": (_LOAD_SHARED_16, ("shared_address",)),
    "swizzle": (_SWIZZLE, ()),
    "wait_semaphore": (_WAIT_SEMAPHORE, ()),
    "release_semaphore": (_RELEASE_SEMAPHORE, ()),
    "arrive_semaphore": (_ARRIVE_SEMAPHORE, ()),
}
