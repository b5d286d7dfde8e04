typedef signed char int8_t;
typedef short int16_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

// Rounded toward minus infinity.
template <typename T> __device__ __forceinline__ T floordiv(T a, T b) {
    const T quotient = a / b;
    return quotient * b != a && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

// The remainder with the sign of the divisor.
template <typename T> __device__ __forceinline__ T mod(T a, T b) {
    const T rest = a % b;
    return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

// From `offset` bytes behind `global`, a part of the instruction; zeros where not inside.
template <int offset = 0> __device__ __forceinline__ void copy_async_16(
    void* shared, const void* global, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1 + %3], 16, %2;"
        :: "r"(shared_address(shared)), "l"(global), "r"(inside ? 16 : 0), "n"(offset)
        : "memory");
}

// The place of an element: bits [base, base + bits) xor those `shift` above them.
template <int base, int bits, int shift> __device__ __forceinline__ int swizzle(int offset) {
    return offset ^ ((offset & (((1 << bits) - 1) << (base + shift))) >> shift);
}

__device__ __forceinline__ uint4 load_shared_16(const void* from) {
    uint4 words;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
        : "r"(shared_address(from)) : "memory");
    return words;
}

// A constant that stays in a register of each thread, as an instruction holds only one: the
// compiler cannot know that no multiprocessor has a number of nearly 2^31.
__device__ __forceinline__ uint32_t in_register(uint32_t constant) {
    uint32_t number, lane;
    asm("mov.u32 %0, %%smid;" : "=r"(number));
    asm("mov.u32 %0, %%laneid;" : "=r"(lane));
    return constant ^ ((number + lane) >> 31);
}

__device__ __forceinline__ uint16_t f32_to_f16(float x) {
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

__device__ __forceinline__ float f16_to_f32(uint16_t bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

__device__ __forceinline__ float round_f16(float x) {
    return f16_to_f32(f32_to_f16(x));
}

__device__ __forceinline__ uint32_t sub_f16x2(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

__device__ __forceinline__ uint32_t f32_of_high_f16(uint32_t a) {
    float d;
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, high; }" : "=f"(d) : "r"(a));
    return __float_as_uint(d);
}

__device__ __forceinline__ uint32_t f32_of_low_f16(uint32_t a) {
    float d;
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low; }" : "=f"(d) : "r"(a));
    return __float_as_uint(d);
}

// 1 / x to one unit in the last place (PTX ISA, "rcp").
__device__ __forceinline__ float reciprocal(float x) {
    float result;
    asm("rcp.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}
__device__ __forceinline__ double reciprocal(double x) { return 1.0 / x; }

__device__ __forceinline__ uint32_t f16x2_of_f32(uint32_t low, uint32_t high) {
    uint32_t d;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;"
        : "=r"(d) : "f"(__uint_as_float(high)), "f"(__uint_as_float(low)));
    return d;
}

__device__ __forceinline__ void stmatrix_x2_trans(const uint32_t* words, void* row) {
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};"
        :: "r"(shared_address(row)), "r"(words[0]), "r"(words[1]) : "memory");
}

__device__ __forceinline__ void ldmatrix_x1(uint32_t* words, const void* row) {
    asm volatile(
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
        : "=r"(words[0]) : "r"(shared_address(row)) : "memory");
}

// Each part of y: 1 * value + 16, 16, 256, 256
__device__ __forceinline__ void unpack_u4_f16(const uint32_t* x, uint32_t* y, uint32_t c0, uint32_t c1) {
    uint32_t r1;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(r1) : "r"(x[0]), "r"(0x003c003cu), "r"(c0));
    uint32_t r2;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(r2) : "r"(x[0]), "r"(0x03c003c0u), "r"(c1));
    const uint32_t r3 = __funnelshift_l(x[0], x[0], 8);
    uint32_t r4;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(r4) : "r"(r3), "r"(0x003c003cu), "r"(c0));
    uint32_t r5;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(r5) : "r"(r3), "r"(0x03c003c0u), "r"(c1));
    y[0] = r2;
    y[1] = r5;
    y[2] = r1;
    y[3] = r4;
}

__device__ __forceinline__ void m16n8k16_f16_f32(
    float* d, const uint32_t* a, const uint32_t* b, const float* c) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

extern "C" __global__ void __launch_bounds__(256, 1) large_matmul(int m, uint8_t* x_ptr, uint8_t* blobs_ptr, uint8_t* bias_ptr, uint8_t* y_ptr) {
    extern __shared__ __align__(1024) uint8_t arena[];
    uint8_t* const scratch = arena + 33280;
    const int tid = (int)threadIdx.x;
    __builtin_assume(tid >= 0 && tid < 256);
    int tiles_m = floordiv((m + 15), 16);
    // g_x: global float16[m, 256] = global_view(x_ptr)
    uint8_t* const g_x = (uint8_t*)(x_ptr);
    // g_w: global uint8[1, 2, 4224] = global_view(blobs_ptr)
    uint8_t* const g_w = (uint8_t*)(blobs_ptr);
    // s_x: shared float16[2, 16, 256] @ shared_layout([2, 16, 256], [2, 16, 256], [4096, 256, 1], Swizzle(5, 1, 3)) = shared_tensor(offset=0)
    uint8_t* const s_x = arena + 0;
    // annotate_layout(s_x, layout=shared_layout([2, 16, 256], [2, 16, 256], [4096, 256, 1], Swizzle(5, 1, 3)))
    // s_w: shared uint8[2, 1, 8448] @ shared_layout([2, 1, 8448], [2, 1, 8448], [8448, 8448, 1]) = shared_tensor(offset=16384)
    uint8_t* const s_w = arena + 16384;
    // annotate_layout(s_w, layout=shared_layout([2, 1, 8448], [2, 1, 8448], [8448, 8448, 1]))
    int tile = int(blockIdx.x);
    int row = mod(tile, tiles_m) * 16;
    int nt = floordiv(tile, tiles_m);
    // t: shared float16[16, 256] @ shared_layout([16, 256], [16, 256], [256, 1], Swizzle(5, 1, 3)) = shared_slice(s_x, offsets=[0, 0, 0], dims=[1, 2])
    uint8_t* const t = s_x;
    // copy_async(t, g_x, offsets=[row, 0], dims=[0, 1])
    {
        const int64_t at_1 = ((int64_t)(row + tid / 32) * 256ll + (int64_t)(tid % 32 * 8)) * 2ll;
        copy_async_16(t + swizzle<5, 1, 3>(tid / 32 * 256 + tid % 32 * 8) * 2, g_x + at_1, row + tid / 32 >= 0 && row + tid / 32 < m);
        copy_async_16<4096>(t + swizzle<5, 1, 3>(tid / 32 * 256 + tid % 32 * 8) * 2 + 4096, g_x + at_1, row + tid / 32 + 8 >= 0 && row + tid / 32 + 8 < m);
    }
    // t_1: shared uint8[1, 8448] @ shared_layout([1, 8448], [8448], [1]) = shared_slice(s_w, offsets=[0, 0, 0], dims=[1, 2])
    uint8_t* const t_1 = s_w;
    // mine: shared uint8[1, 2, 4224] @ shared_layout([1, 2, 4224], [2, 4224], [4224, 1]) = reshape_shared(t_1)
    uint8_t* const mine = t_1;
    // t_2: shared uint8[1, 2, 4096] @ shared_layout([1, 2, 4096], [2, 4096], [4224, 1]) = shared_slice(mine, offsets=[0, 0, 0], dims=[0, 1, 2])
    uint8_t* const t_2 = mine;
    // copy_async(t_2, g_w, offsets=[nt, 0, 0], dims=[0, 1, 2], check_bounds=False)
    {
        const int64_t at_2 = (int64_t)nt * 8448ll + (int64_t)(tid / 128 * 4224) + (int64_t)(tid / 32 % 4 * 1024 + tid % 32 * 16);
        copy_async_16(t_2 + tid / 128 * 4224 + (tid / 32 % 4 * 1024 + tid % 32 * 16), g_w + at_2, true);
        copy_async_16<512>(t_2 + tid / 128 * 4224 + tid / 32 % 4 * 1024 + tid % 32 * 16 + 512, g_w + at_2, true);
    }
    // t_3: shared uint8[1, 2, 128] @ shared_layout([1, 2, 128], [2, 128], [4224, 1]) = shared_slice(mine, offsets=[0, 0, 4096], dims=[0, 1, 2])
    uint8_t* const t_3 = mine;
    // copy_async(t_3, g_w, offsets=[nt, 0, 4096], dims=[0, 1, 2], check_bounds=False)
    if (tid < 16) {
        const int64_t at_3 = (int64_t)nt * 8448ll + (int64_t)(tid / 8 % 2 * 4224) + (int64_t)(tid % 8 * 16 + 4096);
        copy_async_16(t_3 + tid / 8 % 2 * 4224 + tid % 8 * 16 + 4096, g_w + at_3, true);
    }
    // copy_async_commit_group()
    asm volatile("cp.async.commit_group;" ::: "memory");
    // unit: float32[8, 16, 1] @ register_layout([8, 16, 1], [8, 2, 8], [0, 2, -4], [1]) = register_tensor(init=1.0)
    alignas(16) float unit[2];
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        unit[i] = 1.0f;
    }
    // t_4: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = register_tensor(init=0.0)
    alignas(16) float t_4[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        t_4[i] = 0.0f;
    }
    // t_5: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = register_tensor(init=0.0)
    alignas(16) float t_5[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        t_5[i] = 0.0f;
    }
    int slot = 0;
    for (int step = 0; step < 1; step += 1) {
        // copy_async_wait_group(n=0)
        asm volatile("cp.async.wait_group 0;" ::: "memory");
        // sync()
        __syncthreads();
        // copy_async_commit_group()
        asm volatile("cp.async.commit_group;" ::: "memory");
        // t_6: shared float16[16, 256] @ shared_layout([16, 256], [16, 256], [256, 1], Swizzle(5, 1, 3)) = shared_slice(s_x, offsets=[slot, 0, 0], dims=[1, 2])
        uint8_t* const t_6 = s_x;
        const int part_base = slot * 4096;
        // t_7: shared uint8[1, 8448] @ shared_layout([1, 8448], [8448], [1]) = shared_slice(s_w, offsets=[slot, 0, 0], dims=[1, 2])
        uint8_t* const t_7 = s_w;
        const int part_base_1 = slot * 8448;
        // mine_1: shared uint8[1, 2, 4224] @ shared_layout([1, 2, 4224], [2, 4224], [4224, 1]) = reshape_shared(t_7)
        uint8_t* const mine_1 = t_7;
        // tokens: shared float16[2, 1, 8, 2, 128] @ shared_layout([2, 1, 8, 2, 128], [2, 8, 2, 128], [2048, 256, 128, 1], Swizzle(5, 1, 3)) = reshape_shared(t_6)
        uint8_t* const tokens = t_6;
        // t_8: shared uint8[1, 2, 2048] @ shared_layout([1, 2, 2048], [2, 2048], [4224, 1]) = shared_slice(mine_1, offsets=[0, 0, 0], dims=[0, 1, 2])
        uint8_t* const t_8 = mine_1;
        // t_9: shared uint8[1, 2, 4, 1, 32, 16] @ shared_layout([1, 2, 4, 1, 32, 16], [2, 4, 32, 16], [4224, 512, 16, 1]) = reshape_shared(t_8)
        uint8_t* const t_9 = t_8;
        // loaded: uint8[1, 2, 4, 1, 32, 16] @ register_layout([1, 2, 4, 1, 32, 16], [1, 2, 4, 1, 32, 16], [0, 2, -1, 1, -1, 4], [3, 5]) = load_shared(t_9)
        alignas(16) uint32_t loaded[4];
        {
            reinterpret_cast<uint4*>(loaded)[0] = load_shared_16(t_9 + part_base_1 + (tid / 32 % 2 * 4224 + tid / 64 * 512 + tid % 32 * 16));
        }
        // annotate_layout(loaded, layout=register_layout([1, 2, 4, 1, 32, 16], [1, 2, 4, 1, 32, 16], [0, 2, -1, 1, -1, 4], [3, 5]))
        // words: uint32[256, 4] @ register_layout([256, 4], [256, 4], [0], [1]) = view(loaded)
        auto& words = loaded;
        // codes: uint4b[8, 16, 64] @ register_layout([8, 16, 64], [8, 2, 8, 4, 2, 4, 2], [0, 2, 5], [3, 4, 1, 6]) @ bit_layout(32, 4, table=[6, 7, 8, 9, 22, 23, 24, 25, 30, 31, 0, 1, 14, 15, 16, 17, 2, 3, 4, 5, 18, 19, 20, 21, 26, 27, 28, 29, 10, 11, 12, 13, 38, 39, 40, 41, 54, 55, 56, 57, 62, 63, 32, 33, 46, 47, 48, 49, 34, 35, 36, 37, 50, 51, 52, 53, 58, 59, 60, 61, 42, 43, 44, 45, 70, 71, 72, 73, 86, 87, 88, 89, 94, 95, 64, 65, 78, 79, 80, 81, 66, 67, 68, 69, 82, 83, 84, 85, 90, 91, 92, 93, 74, 75, 76, 77, 102, 103, 104, 105, 118, 119, 120, 121, 126, 127, 96, 97, 110, 111, 112, 113, 98, 99, 100, 101, 114, 115, 116, 117, 122, 123, 124, 125, 106, 107, 108, 109]) = view(words)
        auto& codes = words;
        // w: float16[8, 16, 64] @ register_layout([8, 16, 64], [8, 2, 8, 4, 2, 4, 2], [0, 2, 5], [3, 4, 1, 6]) = unpack(codes)
        alignas(16) uint32_t w[16];
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            unpack_u4_f16(&codes[i * 1], reinterpret_cast<uint32_t*>(w) + i * 4, in_register(0x5c005c00u), in_register(0x4c004c00u));
        }
        // flat: float16[256, 32] @ register_layout([256, 32], [256, 32], [0], [1]) = view(w)
        auto& flat = w;
        // offset: float16[256, 32] @ register_layout([256, 32], [256, 32], [0], [1]) = register_tensor(axes=[i0, i1], init=cast(where(i1 % 8 == 7, 264.0, where(i1 % 8 == 6, 264.0, where(i1 % 8 == 5, 264.0, where(i1 % 8 == 4, 264.0, 24.0)))), float16))
        alignas(16) uint32_t offset[16] = {};
        #pragma unroll
        for (int i = 0; i < 32; i++) {
            reinterpret_cast<uint16_t*>(offset)[i] = f32_to_f16(round_f16(((i % 8 == 7) ? 264.0f : ((i % 8 == 6) ? 264.0f : ((i % 8 == 5) ? 264.0f : ((i % 8 == 4) ? 264.0f : 24.0f))))));
        }
        // annotate_layout(offset, layout=register_layout([256, 32], [256, 32], [0], [1]))
        // exact: float16[256, 32] @ register_layout([256, 32], [256, 32], [0], [1]) = elementwise("sub", [flat, offset])
        alignas(16) uint32_t exact[16];
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            exact[i] = sub_f16x2(flat[i], offset[i]);
        }
        // weights: float16[8, 16, 64] @ register_layout([8, 16, 64], [8, 2, 8, 4, 2, 4, 2], [0, 2, 5], [3, 4, 1, 6]) = view(exact)
        auto& weights = exact;
        // t_10: shared uint8[1, 2, 128] @ shared_layout([1, 2, 128], [2, 128], [4224, 1]) = shared_slice(mine_1, offsets=[0, 0, 4096], dims=[0, 1, 2])
        uint8_t* const t_10 = mine_1;
        // t_11: shared uint8[1, 2, 8, 4, 4] @ shared_layout([1, 2, 8, 4, 4], [2, 8, 4, 4], [4224, 16, 4, 1]) = reshape_shared(t_10)
        uint8_t* const t_11 = t_10;
        // loaded_1: uint8[1, 2, 8, 4, 4] @ register_layout([1, 2, 8, 4, 4], [1, 2, 8, 4, 4], [0, 3, 1, -1, 2, -4], [4]) = load_shared(t_11)
        alignas(16) uint32_t loaded_1[1];
        {
            reinterpret_cast<uint32_t*>(loaded_1)[0] = *reinterpret_cast<const uint32_t*>(t_11 + part_base_1 + tid / 32 % 2 * 4224 + tid / 4 % 8 * 16 + tid / 64 * 4 + 4096);
        }
        // annotate_layout(loaded_1, layout=register_layout([1, 2, 8, 4, 4], [1, 2, 8, 4, 4], [0, 3, 1, -1, 2, -4], [4]))
        // found: float16[8, 16, 1] @ register_layout([8, 16, 1], [8, 2, 8], [0, 2, -4], [1]) = view(loaded_1)
        auto& found = loaded_1;
        // scale: float32[8, 16, 1] @ register_layout([8, 16, 1], [8, 2, 8], [0, 2, -4], [1]) = cast(found)
        alignas(16) float scale[2];
        {
            reinterpret_cast<uint32_t*>(scale)[0] = f32_of_low_f16(found[0]);
            reinterpret_cast<uint32_t*>(scale)[1] = f32_of_high_f16(found[0]);
        }
        // t_12: boolean[8, 16, 1] @ register_layout([8, 16, 1], [8, 2, 8], [0, 2, -4], [1]) = elementwise("eq", [scale, 0.0])
        alignas(16) bool t_12[2];
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            t_12[i] = scale[i] == 0.0f;
        }
        // following: float32[8, 16, 1] @ register_layout([8, 16, 1], [8, 2, 8], [0, 2, -4], [1]) = elementwise("where", [t_12, unit, scale])
        alignas(16) float following[2];
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            following[i] = t_12[i] ? unit[i] : scale[i];
        }
        // t_13: float32[8, 16, 1] @ register_layout([8, 16, 1], [8, 2, 8], [0, 2, -4], [1]) = elementwise("reciprocal", [following])
        alignas(16) float t_13[2];
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            t_13[i] = reciprocal(following[i]);
        }
        // quotient: float32[8, 16, 1] @ register_layout([8, 16, 1], [8, 2, 8], [0, 2, -4], [1]) = elementwise("mul", [unit, t_13])
        alignas(16) float quotient[2];
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            quotient[i] = unit[i] * t_13[i];
        }
        // t_14: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = elementwise("mul", [t_4, quotient])
        alignas(16) float t_14[4];
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            t_14[i] = t_4[i] * quotient[i / 2];
        }
        // t_4: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = assign(t_14)
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            t_4[i] = t_14[i];
        }
        // t_15: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = elementwise("mul", [t_5, quotient])
        alignas(16) float t_15[4];
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            t_15[i] = t_5[i] * quotient[i / 2];
        }
        // t_5: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = assign(t_15)
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            t_5[i] = t_15[i];
        }
        // unit: float32[8, 16, 1] @ register_layout([8, 16, 1], [8, 2, 8], [0, 2, -4], [1]) = assign(following)
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            unit[i] = following[i];
        }
        // a: float16[8, 16, 32] @ register_layout([8, 16, 32], [8, 2, 8, 4, 4, 2], [0, 2, 4], [3, 1, 5]) = register_slice(weights, starts=[0, 0, 0], dims=[0, 1, 2])
        alignas(16) uint32_t a[8];
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            reinterpret_cast<uint32_t*>(a)[i] = reinterpret_cast<uint32_t*>(weights)[i];
        }
        // t_16: shared float16[1, 8, 2, 32] @ shared_layout([1, 8, 2, 32], [8, 2, 32], [256, 128, 1], Swizzle(5, 1, 3)) = shared_slice(tokens, offsets=[0, 0, 0, 0, 0], dims=[1, 2, 3, 4])
        uint8_t* const t_16 = tokens;
        // x: float16[1, 8, 2, 32] @ register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]) = load_shared(t_16)
        alignas(16) uint32_t x[4];
        {
            reinterpret_cast<uint4*>(x)[0] = load_shared_16(t_16 + (swizzle<5, 1, 3>(tid / 4 % 8 * 256 + tid / 32 % 2 * 128 + tid % 4 * 8) + part_base) * 2);
        }
        // annotate_layout(x, layout=register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]))
        // b: float16[8, 32, 8] @ register_layout([8, 32, 8], [8, 2, 2, 4, 2, 8], [0, 5, 3], [1, 2, 4]) = view(x)
        auto& b = x;
        // t_4: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(a, b, c=t_4)
        m16n8k16_f16_f32(&t_4[0], &a[0], &b[0], &t_4[0]);
        m16n8k16_f16_f32(&t_4[0], &a[1 * 4], &b[1 * 2], &t_4[0]);
        // t_17: shared float16[1, 8, 2, 32] @ shared_layout([1, 8, 2, 32], [8, 2, 32], [256, 128, 1], Swizzle(5, 1, 3)) = shared_slice(tokens, offsets=[1, 0, 0, 0, 0], dims=[1, 2, 3, 4])
        uint8_t* const t_17 = tokens;
        // x_1: float16[1, 8, 2, 32] @ register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]) = load_shared(t_17)
        alignas(16) uint32_t x_1[4];
        {
            reinterpret_cast<uint4*>(x_1)[0] = load_shared_16(t_17 + (swizzle<5, 1, 3>(tid / 4 % 8 * 256 + tid / 32 % 2 * 128 + tid % 4 * 8) + part_base) * 2 + 4096);
        }
        // annotate_layout(x_1, layout=register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]))
        // b_1: float16[8, 32, 8] @ register_layout([8, 32, 8], [8, 2, 2, 4, 2, 8], [0, 5, 3], [1, 2, 4]) = view(x_1)
        auto& b_1 = x_1;
        // t_5: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(a, b_1, c=t_5)
        m16n8k16_f16_f32(&t_5[0], &a[0], &b_1[0], &t_5[0]);
        m16n8k16_f16_f32(&t_5[0], &a[1 * 4], &b_1[1 * 2], &t_5[0]);
        // a_1: float16[8, 16, 32] @ register_layout([8, 16, 32], [8, 2, 8, 4, 4, 2], [0, 2, 4], [3, 1, 5]) = register_slice(weights, starts=[0, 0, 32], dims=[0, 1, 2])
        alignas(16) uint32_t a_1[8];
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            reinterpret_cast<uint32_t*>(a_1)[i] = reinterpret_cast<uint32_t*>(weights)[(i + 8)];
        }
        // t_18: shared float16[1, 8, 2, 32] @ shared_layout([1, 8, 2, 32], [8, 2, 32], [256, 128, 1], Swizzle(5, 1, 3)) = shared_slice(tokens, offsets=[0, 0, 0, 0, 32], dims=[1, 2, 3, 4])
        uint8_t* const t_18 = tokens;
        // x_2: float16[1, 8, 2, 32] @ register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]) = load_shared(t_18)
        alignas(16) uint32_t x_2[4];
        {
            reinterpret_cast<uint4*>(x_2)[0] = load_shared_16(t_18 + (swizzle<5, 1, 3>(tid / 4 % 8 * 256 + tid / 32 % 2 * 128 + tid % 4 * 8 + 32) + part_base) * 2);
        }
        // annotate_layout(x_2, layout=register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]))
        // b_2: float16[8, 32, 8] @ register_layout([8, 32, 8], [8, 2, 2, 4, 2, 8], [0, 5, 3], [1, 2, 4]) = view(x_2)
        auto& b_2 = x_2;
        // t_4: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(a_1, b_2, c=t_4)
        m16n8k16_f16_f32(&t_4[0], &a_1[0], &b_2[0], &t_4[0]);
        m16n8k16_f16_f32(&t_4[0], &a_1[1 * 4], &b_2[1 * 2], &t_4[0]);
        // t_19: shared float16[1, 8, 2, 32] @ shared_layout([1, 8, 2, 32], [8, 2, 32], [256, 128, 1], Swizzle(5, 1, 3)) = shared_slice(tokens, offsets=[1, 0, 0, 0, 32], dims=[1, 2, 3, 4])
        uint8_t* const t_19 = tokens;
        // x_3: float16[1, 8, 2, 32] @ register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]) = load_shared(t_19)
        alignas(16) uint32_t x_3[4];
        {
            reinterpret_cast<uint4*>(x_3)[0] = load_shared_16(t_19 + (swizzle<5, 1, 3>(tid / 4 % 8 * 256 + tid / 32 % 2 * 128 + tid % 4 * 8 + 32) + part_base) * 2 + 4096);
        }
        // annotate_layout(x_3, layout=register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]))
        // b_3: float16[8, 32, 8] @ register_layout([8, 32, 8], [8, 2, 2, 4, 2, 8], [0, 5, 3], [1, 2, 4]) = view(x_3)
        auto& b_3 = x_3;
        // t_5: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(a_1, b_3, c=t_5)
        m16n8k16_f16_f32(&t_5[0], &a_1[0], &b_3[0], &t_5[0]);
        m16n8k16_f16_f32(&t_5[0], &a_1[1 * 4], &b_3[1 * 2], &t_5[0]);
        // t_20: shared uint8[1, 2, 2048] @ shared_layout([1, 2, 2048], [2, 2048], [4224, 1]) = shared_slice(mine_1, offsets=[0, 0, 2048], dims=[0, 1, 2])
        uint8_t* const t_20 = mine_1;
        // t_21: shared uint8[1, 2, 4, 1, 32, 16] @ shared_layout([1, 2, 4, 1, 32, 16], [2, 4, 32, 16], [4224, 512, 16, 1]) = reshape_shared(t_20)
        uint8_t* const t_21 = t_20;
        // loaded_2: uint8[1, 2, 4, 1, 32, 16] @ register_layout([1, 2, 4, 1, 32, 16], [1, 2, 4, 1, 32, 16], [0, 2, -1, 1, -1, 4], [3, 5]) = load_shared(t_21)
        alignas(16) uint32_t loaded_2[4];
        {
            reinterpret_cast<uint4*>(loaded_2)[0] = load_shared_16(t_21 + part_base_1 + tid / 32 % 2 * 4224 + tid / 64 * 512 + tid % 32 * 16 + 2048);
        }
        // annotate_layout(loaded_2, layout=register_layout([1, 2, 4, 1, 32, 16], [1, 2, 4, 1, 32, 16], [0, 2, -1, 1, -1, 4], [3, 5]))
        // words_1: uint32[256, 4] @ register_layout([256, 4], [256, 4], [0], [1]) = view(loaded_2)
        auto& words_1 = loaded_2;
        // codes_1: uint4b[8, 16, 64] @ register_layout([8, 16, 64], [8, 2, 8, 4, 2, 4, 2], [0, 2, 5], [3, 4, 1, 6]) @ bit_layout(32, 4, table=[6, 7, 8, 9, 22, 23, 24, 25, 30, 31, 0, 1, 14, 15, 16, 17, 2, 3, 4, 5, 18, 19, 20, 21, 26, 27, 28, 29, 10, 11, 12, 13, 38, 39, 40, 41, 54, 55, 56, 57, 62, 63, 32, 33, 46, 47, 48, 49, 34, 35, 36, 37, 50, 51, 52, 53, 58, 59, 60, 61, 42, 43, 44, 45, 70, 71, 72, 73, 86, 87, 88, 89, 94, 95, 64, 65, 78, 79, 80, 81, 66, 67, 68, 69, 82, 83, 84, 85, 90, 91, 92, 93, 74, 75, 76, 77, 102, 103, 104, 105, 118, 119, 120, 121, 126, 127, 96, 97, 110, 111, 112, 113, 98, 99, 100, 101, 114, 115, 116, 117, 122, 123, 124, 125, 106, 107, 108, 109]) = view(words_1)
        auto& codes_1 = words_1;
        // w_1: float16[8, 16, 64] @ register_layout([8, 16, 64], [8, 2, 8, 4, 2, 4, 2], [0, 2, 5], [3, 4, 1, 6]) = unpack(codes_1)
        alignas(16) uint32_t w_1[16];
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            unpack_u4_f16(&codes_1[i * 1], reinterpret_cast<uint32_t*>(w_1) + i * 4, in_register(0x5c005c00u), in_register(0x4c004c00u));
        }
        // flat_1: float16[256, 32] @ register_layout([256, 32], [256, 32], [0], [1]) = view(w_1)
        auto& flat_1 = w_1;
        // offset_1: float16[256, 32] @ register_layout([256, 32], [256, 32], [0], [1]) = register_tensor(axes=[i0_1, i1_1], init=cast(where(i1_1 % 8 == 7, 264.0, where(i1_1 % 8 == 6, 264.0, where(i1_1 % 8 == 5, 264.0, where(i1_1 % 8 == 4, 264.0, 24.0)))), float16))
        alignas(16) uint32_t offset_1[16] = {};
        #pragma unroll
        for (int i = 0; i < 32; i++) {
            reinterpret_cast<uint16_t*>(offset_1)[i] = f32_to_f16(round_f16(((i % 8 == 7) ? 264.0f : ((i % 8 == 6) ? 264.0f : ((i % 8 == 5) ? 264.0f : ((i % 8 == 4) ? 264.0f : 24.0f))))));
        }
        // annotate_layout(offset_1, layout=register_layout([256, 32], [256, 32], [0], [1]))
        // exact_1: float16[256, 32] @ register_layout([256, 32], [256, 32], [0], [1]) = elementwise("sub", [flat_1, offset_1])
        alignas(16) uint32_t exact_1[16];
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            exact_1[i] = sub_f16x2(flat_1[i], offset_1[i]);
        }
        // weights_1: float16[8, 16, 64] @ register_layout([8, 16, 64], [8, 2, 8, 4, 2, 4, 2], [0, 2, 5], [3, 4, 1, 6]) = view(exact_1)
        auto& weights_1 = exact_1;
        // a_2: float16[8, 16, 32] @ register_layout([8, 16, 32], [8, 2, 8, 4, 4, 2], [0, 2, 4], [3, 1, 5]) = register_slice(weights_1, starts=[0, 0, 0], dims=[0, 1, 2])
        alignas(16) uint32_t a_2[8];
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            reinterpret_cast<uint32_t*>(a_2)[i] = reinterpret_cast<uint32_t*>(weights_1)[i];
        }
        // t_22: shared float16[1, 8, 2, 32] @ shared_layout([1, 8, 2, 32], [8, 2, 32], [256, 128, 1], Swizzle(5, 1, 3)) = shared_slice(tokens, offsets=[0, 0, 0, 0, 64], dims=[1, 2, 3, 4])
        uint8_t* const t_22 = tokens;
        // x_4: float16[1, 8, 2, 32] @ register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]) = load_shared(t_22)
        alignas(16) uint32_t x_4[4];
        {
            reinterpret_cast<uint4*>(x_4)[0] = load_shared_16(t_22 + (swizzle<5, 1, 3>(tid / 4 % 8 * 256 + tid / 32 % 2 * 128 + tid % 4 * 8) + part_base) * 2 + 128);
        }
        // annotate_layout(x_4, layout=register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]))
        // b_4: float16[8, 32, 8] @ register_layout([8, 32, 8], [8, 2, 2, 4, 2, 8], [0, 5, 3], [1, 2, 4]) = view(x_4)
        auto& b_4 = x_4;
        // t_4: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(a_2, b_4, c=t_4)
        m16n8k16_f16_f32(&t_4[0], &a_2[0], &b_4[0], &t_4[0]);
        m16n8k16_f16_f32(&t_4[0], &a_2[1 * 4], &b_4[1 * 2], &t_4[0]);
        // t_23: shared float16[1, 8, 2, 32] @ shared_layout([1, 8, 2, 32], [8, 2, 32], [256, 128, 1], Swizzle(5, 1, 3)) = shared_slice(tokens, offsets=[1, 0, 0, 0, 64], dims=[1, 2, 3, 4])
        uint8_t* const t_23 = tokens;
        // x_5: float16[1, 8, 2, 32] @ register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]) = load_shared(t_23)
        alignas(16) uint32_t x_5[4];
        {
            reinterpret_cast<uint4*>(x_5)[0] = load_shared_16(t_23 + (swizzle<5, 1, 3>(tid / 4 % 8 * 256 + tid / 32 % 2 * 128 + tid % 4 * 8) + part_base) * 2 + 4224);
        }
        // annotate_layout(x_5, layout=register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]))
        // b_5: float16[8, 32, 8] @ register_layout([8, 32, 8], [8, 2, 2, 4, 2, 8], [0, 5, 3], [1, 2, 4]) = view(x_5)
        auto& b_5 = x_5;
        // t_5: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(a_2, b_5, c=t_5)
        m16n8k16_f16_f32(&t_5[0], &a_2[0], &b_5[0], &t_5[0]);
        m16n8k16_f16_f32(&t_5[0], &a_2[1 * 4], &b_5[1 * 2], &t_5[0]);
        // a_3: float16[8, 16, 32] @ register_layout([8, 16, 32], [8, 2, 8, 4, 4, 2], [0, 2, 4], [3, 1, 5]) = register_slice(weights_1, starts=[0, 0, 32], dims=[0, 1, 2])
        alignas(16) uint32_t a_3[8];
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            reinterpret_cast<uint32_t*>(a_3)[i] = reinterpret_cast<uint32_t*>(weights_1)[(i + 8)];
        }
        // t_24: shared float16[1, 8, 2, 32] @ shared_layout([1, 8, 2, 32], [8, 2, 32], [256, 128, 1], Swizzle(5, 1, 3)) = shared_slice(tokens, offsets=[0, 0, 0, 0, 96], dims=[1, 2, 3, 4])
        uint8_t* const t_24 = tokens;
        // x_6: float16[1, 8, 2, 32] @ register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]) = load_shared(t_24)
        alignas(16) uint32_t x_6[4];
        {
            reinterpret_cast<uint4*>(x_6)[0] = load_shared_16(t_24 + (swizzle<5, 1, 3>(tid / 4 % 8 * 256 + tid / 32 % 2 * 128 + tid % 4 * 8 + 32) + part_base) * 2 + 128);
        }
        // annotate_layout(x_6, layout=register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]))
        // b_6: float16[8, 32, 8] @ register_layout([8, 32, 8], [8, 2, 2, 4, 2, 8], [0, 5, 3], [1, 2, 4]) = view(x_6)
        auto& b_6 = x_6;
        // t_4: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(a_3, b_6, c=t_4)
        m16n8k16_f16_f32(&t_4[0], &a_3[0], &b_6[0], &t_4[0]);
        m16n8k16_f16_f32(&t_4[0], &a_3[1 * 4], &b_6[1 * 2], &t_4[0]);
        // t_25: shared float16[1, 8, 2, 32] @ shared_layout([1, 8, 2, 32], [8, 2, 32], [256, 128, 1], Swizzle(5, 1, 3)) = shared_slice(tokens, offsets=[1, 0, 0, 0, 96], dims=[1, 2, 3, 4])
        uint8_t* const t_25 = tokens;
        // x_7: float16[1, 8, 2, 32] @ register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]) = load_shared(t_25)
        alignas(16) uint32_t x_7[4];
        {
            reinterpret_cast<uint4*>(x_7)[0] = load_shared_16(t_25 + (swizzle<5, 1, 3>(tid / 4 % 8 * 256 + tid / 32 % 2 * 128 + tid % 4 * 8 + 32) + part_base) * 2 + 4224);
        }
        // annotate_layout(x_7, layout=register_layout([1, 8, 2, 32], [1, 8, 2, 4, 8], [-4, 2, 0, 1, 3], [4]))
        // b_7: float16[8, 32, 8] @ register_layout([8, 32, 8], [8, 2, 2, 4, 2, 8], [0, 5, 3], [1, 2, 4]) = view(x_7)
        auto& b_7 = x_7;
        // t_5: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(a_3, b_7, c=t_5)
        m16n8k16_f16_f32(&t_5[0], &a_3[0], &b_7[0], &t_5[0]);
        m16n8k16_f16_f32(&t_5[0], &a_3[1 * 4], &b_7[1 * 2], &t_5[0]);
        slot = (slot == 1) ? 0 : (slot + 1);
    }
    // copy_async_wait_all()
    asm volatile("cp.async.wait_all;" ::: "memory");
    // sync()
    __syncthreads();
    // free_shared(s_x)
    // free_shared(s_w)
    // y: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = elementwise("mul", [t_4, unit])
    alignas(16) float y[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        y[i] = t_4[i] * unit[i / 2];
    }
    // split: float32[4, 2, 1, 16, 8] @ register_layout([4, 2, 1, 16, 8], [4, 2, 2, 8, 4, 2], [0, 1, 3, 4], [2, 5]) = reshape(y)
    auto& split = y;
    // t_26: float32[4, 1, 16, 8] @ register_layout([4, 1, 16, 8], [4, 2, 8, 4, 2], [0, -2, 2, 3], [1, 4]) = sum(split, dims=[1], keepdim=False)
    alignas(16) float t_26[4];
    {
        float total_4[4];
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            total_4[i] = split[i];
        }
        float* const box_5 = reinterpret_cast<float*>(scratch);
        const int place_6 = (tid / 64 * 8 + tid / 4 % 8) * 4 + tid % 4;
        __syncthreads();
        {
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                box_5[i * 256 + (tid / 32 % 2) * 128 + place_6] = total_4[i];
            }
        }
        __syncthreads();
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            float folded = box_5[i * 256 + place_6];
            {
                folded = folded + box_5[i * 256 + (0 + 1) * 128 + place_6];
            }
            total_4[i] = folded;
        }
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            t_26[i] = total_4[i];
        }
    }
    // y_1: float32[8, 16, 8] @ register_layout([8, 16, 8], [8, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = elementwise("mul", [t_5, unit])
    alignas(16) float y_1[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        y_1[i] = t_5[i] * unit[i / 2];
    }
    // split_1: float32[4, 2, 1, 16, 8] @ register_layout([4, 2, 1, 16, 8], [4, 2, 2, 8, 4, 2], [0, 1, 3, 4], [2, 5]) = reshape(y_1)
    auto& split_1 = y_1;
    // t_27: float32[4, 1, 16, 8] @ register_layout([4, 1, 16, 8], [4, 2, 8, 4, 2], [0, -2, 2, 3], [1, 4]) = sum(split_1, dims=[1], keepdim=False)
    alignas(16) float t_27[4];
    {
        float total_7[4];
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            total_7[i] = split_1[i];
        }
        float* const box_8 = reinterpret_cast<float*>(scratch);
        const int place_9 = (tid / 64 * 8 + tid / 4 % 8) * 4 + tid % 4;
        __syncthreads();
        {
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                box_8[i * 256 + (tid / 32 % 2) * 128 + place_9] = total_7[i];
            }
        }
        __syncthreads();
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            float folded = box_8[i * 256 + place_9];
            {
                folded = folded + box_8[i * 256 + (0 + 1) * 128 + place_9];
            }
            total_7[i] = folded;
        }
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            t_27[i] = total_7[i];
        }
    }
    // g_y: global float16[m, 64] = global_view(y_ptr)
    uint8_t* const g_y = (uint8_t*)(y_ptr);
    // s_y: shared float16[2, 8, 64] @ shared_layout([2, 8, 64], [2, 8, 64], [512, 64, 1], Swizzle(3, 3, 3)) = shared_tensor(offset=0)
    uint8_t* const s_y = arena + 0;
    // annotate_layout(s_y, layout=shared_layout([2, 8, 64], [2, 8, 64], [512, 64, 1], Swizzle(3, 3, 3)))
    // t_28: shared float16[8, 64] @ shared_layout([8, 64], [8, 64], [64, 1], Swizzle(3, 3, 3)) = shared_slice(s_y, offsets=[0, 0, 0], dims=[1, 2])
    uint8_t* const t_28 = s_y;
    // y_2: float32[4, 1, 16, 8] @ register_layout([4, 1, 16, 8], [4, 2, 8, 4, 2], [0, -2, 2, 3], [1, 4]) = assign(t_26)
    alignas(16) float y_2[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        y_2[i] = t_26[i];
    }
    int first = nt * 64;
    // place: shared float16[1, 8, 4, 16] @ shared_layout([1, 8, 4, 16], [8, 4, 16], [64, 16, 1], Swizzle(3, 3, 3)) = reshape_shared(t_28)
    uint8_t* const place = t_28;
    // t_29: shared float16[4, 1, 16, 8] @ shared_layout([4, 1, 16, 8], [4, 16, 8], [16, 1, 64], Swizzle(3, 3, 3)) = permute_shared(place, dims=[2, 0, 3, 1])
    uint8_t* const t_29 = place;
    // t_30: float16[4, 1, 16, 8] @ register_layout([4, 1, 16, 8], [4, 2, 8, 4, 2], [0, -2, 2, 3], [1, 4]) = cast(y_2)
    alignas(16) uint32_t t_30[2];
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        t_30[i * 1 + 0] = f16x2_of_f32(reinterpret_cast<uint32_t*>(y_2)[i * 2 + 0], reinterpret_cast<uint32_t*>(y_2)[i * 2 + 1]);
    }
    // store_shared(t_29, t_30)
    {
        stmatrix_x2_trans(&t_30[0 * 2], t_29 + swizzle<3, 3, 3>((tid / 32 * 32 + tid % 8 / 2) / 64 * 16 + tid % 32 / 8 % 2 * 8 + (tid % 8 / 2 * 2 + tid % 2) * 64) * 2);
    }
    // sync()
    __syncthreads();
    // t_31: float16[8, 64] @ register_layout([8, 64], [8, 32, 2], [0, 1], [2]) = load_shared(t_28)
    alignas(16) uint32_t t_31[1];
    {
        ldmatrix_x1(&t_31[0 * 1], t_28 + swizzle<3, 3, 3>(tid / 32 * 64 + tid % 8 * 8) * 2);
    }
    // store_global(g_y, t_31, offsets=[row, first], dims=[0, 1])
    const int64_t at_10 = ((int64_t)(row + tid / 32) * 64ll + (int64_t)(first + tid % 32 * 2)) * 2ll;
    {
        if (row + tid / 32 >= 0 && row + tid / 32 < m && first + tid % 32 * 2 >= 0 && first + tid % 32 * 2 < 64) *reinterpret_cast<uint32_t*>(g_y + at_10) = reinterpret_cast<uint32_t*>(t_31)[0];
    }
    // t_32: shared float16[8, 64] @ shared_layout([8, 64], [8, 64], [64, 1], Swizzle(3, 3, 3)) = shared_slice(s_y, offsets=[1, 0, 0], dims=[1, 2])
    uint8_t* const t_32 = s_y;
    // y_3: float32[4, 1, 16, 8] @ register_layout([4, 1, 16, 8], [4, 2, 8, 4, 2], [0, -2, 2, 3], [1, 4]) = assign(t_27)
    alignas(16) float y_3[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        y_3[i] = t_27[i];
    }
    int first_1 = nt * 64;
    // place_1: shared float16[1, 8, 4, 16] @ shared_layout([1, 8, 4, 16], [8, 4, 16], [64, 16, 1], Swizzle(3, 3, 3)) = reshape_shared(t_32)
    uint8_t* const place_1 = t_32;
    // t_33: shared float16[4, 1, 16, 8] @ shared_layout([4, 1, 16, 8], [4, 16, 8], [16, 1, 64], Swizzle(3, 3, 3)) = permute_shared(place_1, dims=[2, 0, 3, 1])
    uint8_t* const t_33 = place_1;
    // t_34: float16[4, 1, 16, 8] @ register_layout([4, 1, 16, 8], [4, 2, 8, 4, 2], [0, -2, 2, 3], [1, 4]) = cast(y_3)
    alignas(16) uint32_t t_34[2];
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        t_34[i * 1 + 0] = f16x2_of_f32(reinterpret_cast<uint32_t*>(y_3)[i * 2 + 0], reinterpret_cast<uint32_t*>(y_3)[i * 2 + 1]);
    }
    // store_shared(t_33, t_34)
    {
        stmatrix_x2_trans(&t_34[0 * 2], t_33 + swizzle<3, 3, 3>((tid / 32 * 32 + tid % 8 / 2) / 64 * 16 + tid % 32 / 8 % 2 * 8 + (tid % 8 / 2 * 2 + tid % 2) * 64) * 2 + 1024);
    }
    // sync()
    __syncthreads();
    // t_35: float16[8, 64] @ register_layout([8, 64], [8, 32, 2], [0, 1], [2]) = load_shared(t_32)
    alignas(16) uint32_t t_35[1];
    {
        ldmatrix_x1(&t_35[0 * 1], t_32 + swizzle<3, 3, 3>(tid / 32 * 64 + tid % 8 * 8) * 2 + 1024);
    }
    // store_global(g_y, t_35, offsets=[row + 8, first_1], dims=[0, 1])
    const int64_t at_11 = ((int64_t)(row + tid / 32 + 8) * 64ll + (int64_t)(first_1 + tid % 32 * 2)) * 2ll;
    {
        if (row + tid / 32 + 8 >= 0 && row + tid / 32 + 8 < m && first_1 + tid % 32 * 2 >= 0 && first_1 + tid % 32 * 2 < 64) *reinterpret_cast<uint32_t*>(g_y + at_11) = reinterpret_cast<uint32_t*>(t_35)[0];
    }
}
