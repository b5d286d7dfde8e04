typedef signed char int8_t;
typedef short int16_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

// As copy_async_16; `policy` says which lines the L2 cache evicts first.
template <int offset = 0> __device__ __forceinline__ void copy_async_16_hinted(
    void* shared, const void* global, bool inside, uint64_t policy) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1 + %3], 16, %2, %4;"
        :: "r"(shared_address(shared)), "l"(global), "r"(inside ? 16 : 0), "n"(offset),
           "l"(policy)
        : "memory");
}

__device__ __forceinline__ uint64_t policy_evict_first() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
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

__device__ __forceinline__ uint32_t f16x2_of_f32(uint32_t low, uint32_t high) {
    uint32_t d;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;"
        : "=r"(d) : "f"(__uint_as_float(high)), "f"(__uint_as_float(low)));
    return d;
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

extern "C" __global__ void __launch_bounds__(160, 1) small_matmul(int m, uint8_t* x_ptr, uint8_t* blobs_ptr, uint8_t* bias_ptr, uint8_t* y_ptr) {
    extern __shared__ __align__(1024) uint8_t arena[];
    uint8_t* const scratch = arena + 42240;
    const uint64_t evict_first = policy_evict_first();
    const int tid = (int)threadIdx.x;
    __builtin_assume(tid >= 0 && tid < 160);
    // g_x: global float16[m, 2, 128] = global_view(x_ptr)
    uint8_t* const g_x = (uint8_t*)(x_ptr);
    // g_blobs: global uint8[1, 2, 4224] = global_view(blobs_ptr)
    uint8_t* const g_blobs = (uint8_t*)(blobs_ptr);
    // s_w: shared uint8[2, 5, 4224] @ shared_layout([2, 5, 4224], [2, 5, 4224], [21120, 4224, 1]) = shared_tensor(offset=0)
    uint8_t* const s_w = arena + 0;
    int row = int(blockIdx.z) * 8;
    // t: shared uint8[5, 4224] @ shared_layout([5, 4224], [5, 4224], [4224, 1]) = shared_slice(s_w, offsets=[0, 0, 0], dims=[1, 2])
    uint8_t* const t = s_w;
    // copy_async(t, g_blobs, offsets=[0, 0, 0], dims=[1, 2], evict="evict_first")
    {
        const int64_t at_1 = tid / 32 * 4224 + tid % 32 * 16;
        copy_async_16_hinted(t + tid / 32 * 4224 + tid % 32 * 16, g_blobs + at_1, tid / 32 < 2 && true, evict_first);
        copy_async_16_hinted<512>(t + tid / 32 * 4224 + tid % 32 * 16 + 512, g_blobs + at_1, tid / 32 < 2 && true, evict_first);
        copy_async_16_hinted<1024>(t + tid / 32 * 4224 + tid % 32 * 16 + 1024, g_blobs + at_1, tid / 32 < 2 && true, evict_first);
        copy_async_16_hinted<1536>(t + tid / 32 * 4224 + tid % 32 * 16 + 1536, g_blobs + at_1, tid / 32 < 2 && true, evict_first);
        copy_async_16_hinted<2048>(t + tid / 32 * 4224 + tid % 32 * 16 + 2048, g_blobs + at_1, tid / 32 < 2 && true, evict_first);
        copy_async_16_hinted<2560>(t + tid / 32 * 4224 + tid % 32 * 16 + 2560, g_blobs + at_1, tid / 32 < 2 && true, evict_first);
        copy_async_16_hinted<3072>(t + tid / 32 * 4224 + tid % 32 * 16 + 3072, g_blobs + at_1, tid / 32 < 2 && true, evict_first);
        copy_async_16_hinted<3584>(t + tid / 32 * 4224 + tid % 32 * 16 + 3584, g_blobs + at_1, tid / 32 < 2 && true, evict_first);
        if (tid % 32 < 8) copy_async_16_hinted<4096>(t + tid / 32 * 4224 + tid % 32 * 16 + 4096, g_blobs + at_1, tid / 32 < 2 && tid % 32 * 16 + 4096 < 4224, evict_first);
    }
    // copy_async_commit_group()
    asm volatile("cp.async.commit_group;" ::: "memory");
    // x: float16[8, 5, 64] @ register_layout([8, 5, 64], [8, 5, 2, 4, 8], [1, 0, 3], [2, 4]) = load_global(g_x, offsets=[row, 0, 0], dims=[0, 1, 2], padding="edge")
    alignas(16) uint32_t x[8];
    const int64_t at_2 = ((int64_t)max(min((row + tid / 4 % 8), (m - 1)), 0) * 256ll + (int64_t)(min((tid / 32), 1) * 128) + (int64_t)(tid % 4 * 8)) * 2ll;
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        reinterpret_cast<uint4*>(x)[i] = *reinterpret_cast<const uint4*>(g_x + at_2 + i * 64);
    }
    // annotate_layout(x, layout=register_layout([8, 5, 64], [8, 5, 2, 4, 8], [1, 0, 3], [2, 4]))
    // t_1: float16[5, 64, 8] @ register_layout([5, 64, 8], [5, 4, 2, 4, 2, 8], [0, 5, 3], [1, 2, 4]) = view(x)
    alignas(16) uint32_t t_1[8];
    static_assert(sizeof(t_1) == sizeof(x));
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        reinterpret_cast<uint32_t*>(t_1)[i] = reinterpret_cast<uint32_t*>(x)[i];
    }
    // x_1: float16[8, 5, 64] @ register_layout([8, 5, 64], [8, 5, 2, 4, 8], [1, 0, 3], [2, 4]) = load_global(g_x, offsets=[row, 0, 64], dims=[0, 1, 2], padding="edge")
    alignas(16) uint32_t x_1[8];
    const int64_t at_3 = ((int64_t)max(min((row + tid / 4 % 8), (m - 1)), 0) * 256ll + (int64_t)(min((tid / 32), 1) * 128) + (int64_t)(tid % 4 * 8 + 64)) * 2ll;
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        reinterpret_cast<uint4*>(x_1)[i] = *reinterpret_cast<const uint4*>(g_x + at_3 + i * 64);
    }
    // annotate_layout(x_1, layout=register_layout([8, 5, 64], [8, 5, 2, 4, 8], [1, 0, 3], [2, 4]))
    // t_2: float16[5, 64, 8] @ register_layout([5, 64, 8], [5, 4, 2, 4, 2, 8], [0, 5, 3], [1, 2, 4]) = view(x_1)
    alignas(16) uint32_t t_2[8];
    static_assert(sizeof(t_2) == sizeof(x_1));
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        reinterpret_cast<uint32_t*>(t_2)[i] = reinterpret_cast<uint32_t*>(x_1)[i];
    }
    // t_3: float16[5, 16, 16] @ register_layout([5, 16, 16], [5, 2, 8, 2, 4, 2], [0, 2, 4], [3, 1, 5]) = register_tensor(axes=[i0, i1, i2], init=cast(where(i2 < 8, where(i1 < 8, where(m < -1, 0.0, -24.0), where(m < -2, 0.0, -24.0)), where(i1 < 8, where(m < -3, 0.0, -264.0), where(m < -4, 0.0, -264.0))), float16))
    alignas(16) uint32_t t_3[4] = {};
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        reinterpret_cast<uint16_t*>(t_3)[i] = f32_to_f16(round_f16(((tid % 4 * 2 + i / 4 * 8 + i % 2 < 8) ? ((tid / 4 % 8 + i / 2 % 2 * 8 < 8) ? ((m < (-1)) ? 0.0f : (-24.0f)) : ((m < (-2)) ? 0.0f : (-24.0f))) : ((tid / 4 % 8 + i / 2 % 2 * 8 < 8) ? ((m < (-3)) ? 0.0f : (-264.0f)) : ((m < (-4)) ? 0.0f : (-264.0f))))));
    }
    // t_4: float16[5, 16, 16] @ register_layout([5, 16, 16], [5, 2, 8, 2, 4, 2], [0, 2, 4], [3, 1, 5]) = register_tensor(axes=[i0_1, i1_1, i2_1], init=cast(where(i2_1 < 8, where(i1_1 < 8, where(m < -1, 0.0, -24.0), where(m < -2, 0.0, -24.0)), where(i1_1 < 8, where(m < -3, 0.0, -264.0), where(m < -4, 0.0, -264.0))), float16))
    alignas(16) uint32_t t_4[4] = {};
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        reinterpret_cast<uint16_t*>(t_4)[i] = f32_to_f16(round_f16(((tid % 4 * 2 + i / 4 * 8 + i % 2 < 8) ? ((tid / 4 % 8 + i / 2 % 2 * 8 < 8) ? ((m < (-1)) ? 0.0f : (-24.0f)) : ((m < (-2)) ? 0.0f : (-24.0f))) : ((tid / 4 % 8 + i / 2 % 2 * 8 < 8) ? ((m < (-3)) ? 0.0f : (-264.0f)) : ((m < (-4)) ? 0.0f : (-264.0f))))));
    }
    // t_5: float16[5, 16, 16] @ register_layout([5, 16, 16], [5, 2, 8, 2, 4, 2], [0, 2, 4], [3, 1, 5]) = register_tensor(axes=[i0_2, i1_2, i2_2], init=cast(where(i2_2 < 8, where(i1_2 < 8, where(m < -1, 0.0, -24.0), where(m < -2, 0.0, -24.0)), where(i1_2 < 8, where(m < -3, 0.0, -264.0), where(m < -4, 0.0, -264.0))), float16))
    alignas(16) uint32_t t_5[4] = {};
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        reinterpret_cast<uint16_t*>(t_5)[i] = f32_to_f16(round_f16(((tid % 4 * 2 + i / 4 * 8 + i % 2 < 8) ? ((tid / 4 % 8 + i / 2 % 2 * 8 < 8) ? ((m < (-1)) ? 0.0f : (-24.0f)) : ((m < (-2)) ? 0.0f : (-24.0f))) : ((tid / 4 % 8 + i / 2 % 2 * 8 < 8) ? ((m < (-3)) ? 0.0f : (-264.0f)) : ((m < (-4)) ? 0.0f : (-264.0f))))));
    }
    // t_6: float16[5, 16, 16] @ register_layout([5, 16, 16], [5, 2, 8, 2, 4, 2], [0, 2, 4], [3, 1, 5]) = register_tensor(axes=[i0_3, i1_3, i2_3], init=cast(where(i2_3 < 8, where(i1_3 < 8, where(m < -1, 0.0, -24.0), where(m < -2, 0.0, -24.0)), where(i1_3 < 8, where(m < -3, 0.0, -264.0), where(m < -4, 0.0, -264.0))), float16))
    alignas(16) uint32_t t_6[4] = {};
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        reinterpret_cast<uint16_t*>(t_6)[i] = f32_to_f16(round_f16(((tid % 4 * 2 + i / 4 * 8 + i % 2 < 8) ? ((tid / 4 % 8 + i / 2 % 2 * 8 < 8) ? ((m < (-1)) ? 0.0f : (-24.0f)) : ((m < (-2)) ? 0.0f : (-24.0f))) : ((tid / 4 % 8 + i / 2 % 2 * 8 < 8) ? ((m < (-3)) ? 0.0f : (-264.0f)) : ((m < (-4)) ? 0.0f : (-264.0f))))));
    }
    // t_7: float32[5, 64, 8] @ register_layout([5, 64, 8], [5, 4, 2, 8, 4, 2], [0, 3, 4], [1, 2, 5]) = register_tensor(init=0.0)
    alignas(16) float t_7[16];
    #pragma unroll
    for (int i = 0; i < 16; i++) {
        t_7[i] = 0.0f;
    }
    // copy_async_wait_group(n=0)
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    // sync()
    __syncthreads();
    // copy_async_commit_group()
    asm volatile("cp.async.commit_group;" ::: "memory");
    // mine: shared uint8[5, 4224] @ shared_layout([5, 4224], [5, 4224], [4224, 1]) = shared_slice(s_w, offsets=[0, 0, 0], dims=[1, 2])
    uint8_t* const mine = s_w;
    // x_2: float16[8, 5, 64] @ register_layout([8, 5, 64], [8, 5, 2, 4, 8], [1, 0, 3], [2, 4]) = load_global(g_x, offsets=[row, 0, 0], dims=[0, 1, 2], padding="edge")
    alignas(16) uint32_t x_2[8];
    const int64_t at_4 = ((int64_t)max(min((row + tid / 4 % 8), (m - 1)), 0) * 256ll + (int64_t)(min((tid / 32), 1) * 128) + (int64_t)(tid % 4 * 8)) * 2ll;
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        reinterpret_cast<uint4*>(x_2)[i] = *reinterpret_cast<const uint4*>(g_x + at_4 + i * 64);
    }
    // annotate_layout(x_2, layout=register_layout([8, 5, 64], [8, 5, 2, 4, 8], [1, 0, 3], [2, 4]))
    // t_8: float16[5, 64, 8] @ register_layout([5, 64, 8], [5, 4, 2, 4, 2, 8], [0, 5, 3], [1, 2, 4]) = view(x_2)
    auto& t_8 = x_2;
    // x_3: float16[8, 5, 64] @ register_layout([8, 5, 64], [8, 5, 2, 4, 8], [1, 0, 3], [2, 4]) = load_global(g_x, offsets=[row, 0, 64], dims=[0, 1, 2], padding="edge")
    alignas(16) uint32_t x_3[8];
    const int64_t at_5 = ((int64_t)max(min((row + tid / 4 % 8), (m - 1)), 0) * 256ll + (int64_t)(min((tid / 32), 1) * 128) + (int64_t)(tid % 4 * 8 + 64)) * 2ll;
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        reinterpret_cast<uint4*>(x_3)[i] = *reinterpret_cast<const uint4*>(g_x + at_5 + i * 64);
    }
    // annotate_layout(x_3, layout=register_layout([8, 5, 64], [8, 5, 2, 4, 8], [1, 0, 3], [2, 4]))
    // t_9: float16[5, 64, 8] @ register_layout([5, 64, 8], [5, 4, 2, 4, 2, 8], [0, 5, 3], [1, 2, 4]) = view(x_3)
    auto& t_9 = x_3;
    // t_10: shared uint8[5, 2048] @ shared_layout([5, 2048], [5, 2048], [4224, 1]) = shared_slice(mine, offsets=[0, 0], dims=[0, 1])
    uint8_t* const t_10 = mine;
    // loaded: uint8[5, 2048] @ register_layout([5, 2048], [5, 4, 32, 16], [0, 2], [1, 3]) = load_shared(t_10)
    alignas(16) uint32_t loaded[16];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        reinterpret_cast<uint4*>(loaded)[i] = load_shared_16(t_10 + tid / 32 * 4224 + (tid % 32 * 16 + i * 512));
    }
    // annotate_layout(loaded, layout=register_layout([5, 2048], [5, 4, 32, 16], [0, 2], [1, 3]))
    // codes: uint4b[5, 64, 64] @ register_layout([5, 64, 64], [5, 4, 2, 8, 4, 2, 4, 2], [0, 3, 6], [1, 4, 5, 2, 7]) @ bit_layout(128, 4, table=[6, 7, 8, 9, 22, 23, 24, 25, 30, 31, 0, 1, 14, 15, 16, 17, 2, 3, 4, 5, 18, 19, 20, 21, 26, 27, 28, 29, 10, 11, 12, 13, 38, 39, 40, 41, 54, 55, 56, 57, 62, 63, 32, 33, 46, 47, 48, 49, 34, 35, 36, 37, 50, 51, 52, 53, 58, 59, 60, 61, 42, 43, 44, 45, 70, 71, 72, 73, 86, 87, 88, 89, 94, 95, 64, 65, 78, 79, 80, 81, 66, 67, 68, 69, 82, 83, 84, 85, 90, 91, 92, 93, 74, 75, 76, 77, 102, 103, 104, 105, 118, 119, 120, 121, 126, 127, 96, 97, 110, 111, 112, 113, 98, 99, 100, 101, 114, 115, 116, 117, 122, 123, 124, 125, 106, 107, 108, 109, 134, 135, 136, 137, 150, 151, 152, 153, 158, 159, 128, 129, 142, 143, 144, 145, 130, 131, 132, 133, 146, 147, 148, 149, 154, 155, 156, 157, 138, 139, 140, 141, 166, 167, 168, 169, 182, 183, 184, 185, 190, 191, 160, 161, 174, 175, 176, 177, 162, 163, 164, 165, 178, 179, 180, 181, 186, 187, 188, 189, 170, 171, 172, 173, 198, 199, 200, 201, 214, 215, 216, 217, 222, 223, 192, 193, 206, 207, 208, 209, 194, 195, 196, 197, 210, 211, 212, 213, 218, 219, 220, 221, 202, 203, 204, 205, 230, 231, 232, 233, 246, 247, 248, 249, 254, 255, 224, 225, 238, 239, 240, 241, 226, 227, 228, 229, 242, 243, 244, 245, 250, 251, 252, 253, 234, 235, 236, 237, 262, 263, 264, 265, 278, 279, 280, 281, 286, 287, 256, 257, 270, 271, 272, 273, 258, 259, 260, 261, 274, 275, 276, 277, 282, 283, 284, 285, 266, 267, 268, 269, 294, 295, 296, 297, 310, 311, 312, 313, 318, 319, 288, 289, 302, 303, 304, 305, 290, 291, 292, 293, 306, 307, 308, 309, 314, 315, 316, 317, 298, 299, 300, 301, 326, 327, 328, 329, 342, 343, 344, 345, 350, 351, 320, 321, 334, 335, 336, 337, 322, 323, 324, 325, 338, 339, 340, 341, 346, 347, 348, 349, 330, 331, 332, 333, 358, 359, 360, 361, 374, 375, 376, 377, 382, 383, 352, 353, 366, 367, 368, 369, 354, 355, 356, 357, 370, 371, 372, 373, 378, 379, 380, 381, 362, 363, 364, 365, 390, 391, 392, 393, 406, 407, 408, 409, 414, 415, 384, 385, 398, 399, 400, 401, 386, 387, 388, 389, 402, 403, 404, 405, 410, 411, 412, 413, 394, 395, 396, 397, 422, 423, 424, 425, 438, 439, 440, 441, 446, 447, 416, 417, 430, 431, 432, 433, 418, 419, 420, 421, 434, 435, 436, 437, 442, 443, 444, 445, 426, 427, 428, 429, 454, 455, 456, 457, 470, 471, 472, 473, 478, 479, 448, 449, 462, 463, 464, 465, 450, 451, 452, 453, 466, 467, 468, 469, 474, 475, 476, 477, 458, 459, 460, 461, 486, 487, 488, 489, 502, 503, 504, 505, 510, 511, 480, 481, 494, 495, 496, 497, 482, 483, 484, 485, 498, 499, 500, 501, 506, 507, 508, 509, 490, 491, 492, 493]) = view(loaded)
    auto& codes = loaded;
    // w: float16[5, 64, 64] @ register_layout([5, 64, 64], [5, 4, 2, 8, 4, 2, 4, 2], [0, 3, 6], [1, 4, 5, 2, 7]) = unpack(codes)
    alignas(16) uint32_t w[64];
    #pragma unroll
    for (int i = 0; i < 16; i++) {
        unpack_u4_f16(&codes[i * 1], reinterpret_cast<uint32_t*>(w) + i * 4, in_register(0x5c005c00u), in_register(0x4c004c00u));
    }
    // t_11: float16[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 4, 2, 8], [0, 4, 2], [1, 3]) = register_slice(t_1, starts=[0, 0, 0], dims=[0, 1, 2])
    alignas(16) uint32_t t_11[2];
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        reinterpret_cast<uint32_t*>(t_11)[i] = reinterpret_cast<uint32_t*>(t_1)[i];
    }
    // total: float32[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(t_3, t_11)
    alignas(16) float total[4] = {};
    m16n8k16_f16_f32(&total[0], &t_3[0], &t_11[0], &total[0]);
    // t_12: float16[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 4, 2, 8], [0, 4, 2], [1, 3]) = register_slice(t_1, starts=[0, 16, 0], dims=[0, 1, 2])
    alignas(16) uint32_t t_12[2];
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        reinterpret_cast<uint32_t*>(t_12)[i] = reinterpret_cast<uint32_t*>(t_1)[(i + 2)];
    }
    // total: float32[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(t_4, t_12, c=total)
    m16n8k16_f16_f32(&total[0], &t_4[0], &t_12[0], &total[0]);
    // t_13: float16[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 4, 2, 8], [0, 4, 2], [1, 3]) = register_slice(t_1, starts=[0, 32, 0], dims=[0, 1, 2])
    alignas(16) uint32_t t_13[2];
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        reinterpret_cast<uint32_t*>(t_13)[i] = reinterpret_cast<uint32_t*>(t_1)[(i + 4)];
    }
    // total: float32[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(t_5, t_13, c=total)
    m16n8k16_f16_f32(&total[0], &t_5[0], &t_13[0], &total[0]);
    // t_14: float16[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 4, 2, 8], [0, 4, 2], [1, 3]) = register_slice(t_1, starts=[0, 48, 0], dims=[0, 1, 2])
    alignas(16) uint32_t t_14[2];
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        reinterpret_cast<uint32_t*>(t_14)[i] = reinterpret_cast<uint32_t*>(t_1)[(i + 6)];
    }
    // total: float32[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(t_6, t_14, c=total)
    m16n8k16_f16_f32(&total[0], &t_6[0], &t_14[0], &total[0]);
    // t_15: float16[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 4, 2, 8], [0, 4, 2], [1, 3]) = register_slice(t_2, starts=[0, 0, 0], dims=[0, 1, 2])
    alignas(16) uint32_t t_15[2];
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        reinterpret_cast<uint32_t*>(t_15)[i] = reinterpret_cast<uint32_t*>(t_2)[i];
    }
    // total: float32[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(t_3, t_15, c=total)
    m16n8k16_f16_f32(&total[0], &t_3[0], &t_15[0], &total[0]);
    // t_16: float16[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 4, 2, 8], [0, 4, 2], [1, 3]) = register_slice(t_2, starts=[0, 16, 0], dims=[0, 1, 2])
    alignas(16) uint32_t t_16[2];
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        reinterpret_cast<uint32_t*>(t_16)[i] = reinterpret_cast<uint32_t*>(t_2)[(i + 2)];
    }
    // total: float32[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(t_4, t_16, c=total)
    m16n8k16_f16_f32(&total[0], &t_4[0], &t_16[0], &total[0]);
    // t_17: float16[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 4, 2, 8], [0, 4, 2], [1, 3]) = register_slice(t_2, starts=[0, 32, 0], dims=[0, 1, 2])
    alignas(16) uint32_t t_17[2];
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        reinterpret_cast<uint32_t*>(t_17)[i] = reinterpret_cast<uint32_t*>(t_2)[(i + 4)];
    }
    // total: float32[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(t_5, t_17, c=total)
    m16n8k16_f16_f32(&total[0], &t_5[0], &t_17[0], &total[0]);
    // t_18: float16[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 4, 2, 8], [0, 4, 2], [1, 3]) = register_slice(t_2, starts=[0, 48, 0], dims=[0, 1, 2])
    alignas(16) uint32_t t_18[2];
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        reinterpret_cast<uint32_t*>(t_18)[i] = reinterpret_cast<uint32_t*>(t_2)[(i + 6)];
    }
    // total: float32[5, 16, 8] @ register_layout([5, 16, 8], [5, 2, 8, 4, 2], [0, 2, 3], [1, 4]) = dot(t_6, t_18, c=total)
    m16n8k16_f16_f32(&total[0], &t_6[0], &t_18[0], &total[0]);
    // t_19: float32[5, 64, 8] @ register_layout([5, 64, 8], [5, 4, 2, 8, 4, 2], [0, 3, 4], [1, 2, 5]) = repeat(total, repeats=[1, 4, 1])
    alignas(16) float t_19[16];
    #pragma unroll
    for (int i = 0; i < 16; i++) {
        reinterpret_cast<uint32_t*>(t_19)[i] = reinterpret_cast<uint32_t*>(total)[i % 4];
    }
    // t_20: float32[5, 64, 8] @ register_layout([5, 64, 8], [5, 4, 2, 8, 4, 2], [0, 3, 4], [1, 2, 5]) = dot(w, t_1, c=t_19)
    alignas(16) float t_20[16];
    #pragma unroll
    for (int mi = 0; mi < 4; mi++) {
        m16n8k16_f16_f32(&t_20[mi * 4], &w[mi * 4 * 4], &t_1[0], &t_19[mi * 4]);
    }
    #pragma unroll
    for (int ki = 0; ki < 3; ki++) {
        #pragma unroll
        for (int mi = 0; mi < 4; mi++) {
            m16n8k16_f16_f32(&t_20[mi * 4], &w[(mi * 4 + (ki + 1)) * 4], &t_1[(ki + 1) * 2], &t_20[mi * 4]);
        }
    }
    // t_21: shared uint8[5, 2048] @ shared_layout([5, 2048], [5, 2048], [4224, 1]) = shared_slice(mine, offsets=[0, 2048], dims=[0, 1])
    uint8_t* const t_21 = mine;
    // loaded_1: uint8[5, 2048] @ register_layout([5, 2048], [5, 4, 32, 16], [0, 2], [1, 3]) = load_shared(t_21)
    alignas(16) uint32_t loaded_1[16];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        reinterpret_cast<uint4*>(loaded_1)[i] = load_shared_16(t_21 + tid / 32 * 4224 + tid % 32 * 16 + i * 512 + 2048);
    }
    // annotate_layout(loaded_1, layout=register_layout([5, 2048], [5, 4, 32, 16], [0, 2], [1, 3]))
    // codes_1: uint4b[5, 64, 64] @ register_layout([5, 64, 64], [5, 4, 2, 8, 4, 2, 4, 2], [0, 3, 6], [1, 4, 5, 2, 7]) @ bit_layout(128, 4, table=[6, 7, 8, 9, 22, 23, 24, 25, 30, 31, 0, 1, 14, 15, 16, 17, 2, 3, 4, 5, 18, 19, 20, 21, 26, 27, 28, 29, 10, 11, 12, 13, 38, 39, 40, 41, 54, 55, 56, 57, 62, 63, 32, 33, 46, 47, 48, 49, 34, 35, 36, 37, 50, 51, 52, 53, 58, 59, 60, 61, 42, 43, 44, 45, 70, 71, 72, 73, 86, 87, 88, 89, 94, 95, 64, 65, 78, 79, 80, 81, 66, 67, 68, 69, 82, 83, 84, 85, 90, 91, 92, 93, 74, 75, 76, 77, 102, 103, 104, 105, 118, 119, 120, 121, 126, 127, 96, 97, 110, 111, 112, 113, 98, 99, 100, 101, 114, 115, 116, 117, 122, 123, 124, 125, 106, 107, 108, 109, 134, 135, 136, 137, 150, 151, 152, 153, 158, 159, 128, 129, 142, 143, 144, 145, 130, 131, 132, 133, 146, 147, 148, 149, 154, 155, 156, 157, 138, 139, 140, 141, 166, 167, 168, 169, 182, 183, 184, 185, 190, 191, 160, 161, 174, 175, 176, 177, 162, 163, 164, 165, 178, 179, 180, 181, 186, 187, 188, 189, 170, 171, 172, 173, 198, 199, 200, 201, 214, 215, 216, 217, 222, 223, 192, 193, 206, 207, 208, 209, 194, 195, 196, 197, 210, 211, 212, 213, 218, 219, 220, 221, 202, 203, 204, 205, 230, 231, 232, 233, 246, 247, 248, 249, 254, 255, 224, 225, 238, 239, 240, 241, 226, 227, 228, 229, 242, 243, 244, 245, 250, 251, 252, 253, 234, 235, 236, 237, 262, 263, 264, 265, 278, 279, 280, 281, 286, 287, 256, 257, 270, 271, 272, 273, 258, 259, 260, 261, 274, 275, 276, 277, 282, 283, 284, 285, 266, 267, 268, 269, 294, 295, 296, 297, 310, 311, 312, 313, 318, 319, 288, 289, 302, 303, 304, 305, 290, 291, 292, 293, 306, 307, 308, 309, 314, 315, 316, 317, 298, 299, 300, 301, 326, 327, 328, 329, 342, 343, 344, 345, 350, 351, 320, 321, 334, 335, 336, 337, 322, 323, 324, 325, 338, 339, 340, 341, 346, 347, 348, 349, 330, 331, 332, 333, 358, 359, 360, 361, 374, 375, 376, 377, 382, 383, 352, 353, 366, 367, 368, 369, 354, 355, 356, 357, 370, 371, 372, 373, 378, 379, 380, 381, 362, 363, 364, 365, 390, 391, 392, 393, 406, 407, 408, 409, 414, 415, 384, 385, 398, 399, 400, 401, 386, 387, 388, 389, 402, 403, 404, 405, 410, 411, 412, 413, 394, 395, 396, 397, 422, 423, 424, 425, 438, 439, 440, 441, 446, 447, 416, 417, 430, 431, 432, 433, 418, 419, 420, 421, 434, 435, 436, 437, 442, 443, 444, 445, 426, 427, 428, 429, 454, 455, 456, 457, 470, 471, 472, 473, 478, 479, 448, 449, 462, 463, 464, 465, 450, 451, 452, 453, 466, 467, 468, 469, 474, 475, 476, 477, 458, 459, 460, 461, 486, 487, 488, 489, 502, 503, 504, 505, 510, 511, 480, 481, 494, 495, 496, 497, 482, 483, 484, 485, 498, 499, 500, 501, 506, 507, 508, 509, 490, 491, 492, 493]) = view(loaded_1)
    auto& codes_1 = loaded_1;
    // w_1: float16[5, 64, 64] @ register_layout([5, 64, 64], [5, 4, 2, 8, 4, 2, 4, 2], [0, 3, 6], [1, 4, 5, 2, 7]) = unpack(codes_1)
    alignas(16) uint32_t w_1[64];
    #pragma unroll
    for (int i = 0; i < 16; i++) {
        unpack_u4_f16(&codes_1[i * 1], reinterpret_cast<uint32_t*>(w_1) + i * 4, in_register(0x5c005c00u), in_register(0x4c004c00u));
    }
    // t_22: float32[5, 64, 8] @ register_layout([5, 64, 8], [5, 4, 2, 8, 4, 2], [0, 3, 4], [1, 2, 5]) = dot(w_1, t_2, c=t_20)
    alignas(16) float t_22[16];
    #pragma unroll
    for (int mi = 0; mi < 4; mi++) {
        m16n8k16_f16_f32(&t_22[mi * 4], &w_1[mi * 4 * 4], &t_2[0], &t_20[mi * 4]);
    }
    #pragma unroll
    for (int ki = 0; ki < 3; ki++) {
        #pragma unroll
        for (int mi = 0; mi < 4; mi++) {
            m16n8k16_f16_f32(&t_22[mi * 4], &w_1[(mi * 4 + (ki + 1)) * 4], &t_2[(ki + 1) * 2], &t_22[mi * 4]);
        }
    }
    // t_23: shared uint8[5, 128] @ shared_layout([5, 128], [5, 128], [4224, 1]) = shared_slice(mine, offsets=[0, 4096], dims=[0, 1])
    uint8_t* const t_23 = mine;
    // loaded_2: uint8[5, 128] @ register_layout([5, 128], [5, 8, 16], [0, 1, -4], [2]) = load_shared(t_23)
    alignas(16) uint32_t loaded_2[4];
    {
        reinterpret_cast<uint4*>(loaded_2)[0] = load_shared_16(t_23 + tid / 32 * 4224 + tid / 4 % 8 * 16 + 4096);
    }
    // annotate_layout(loaded_2, layout=register_layout([5, 128], [5, 8, 16], [0, 1, -4], [2]))
    // found: float16[5, 64, 1] @ register_layout([5, 64, 1], [5, 4, 2, 8], [0, 3, -4], [1, 2]) = view(loaded_2)
    auto& found = loaded_2;
    // scale: float32[5, 64, 1] @ register_layout([5, 64, 1], [5, 4, 2, 8], [0, 3, -4], [1, 2]) = cast(found)
    alignas(16) float scale[8];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        reinterpret_cast<uint32_t*>(scale)[i * 2 + 0] = f32_of_low_f16(found[i * 1 + 0]);
        reinterpret_cast<uint32_t*>(scale)[i * 2 + 1] = f32_of_high_f16(found[i * 1 + 0]);
    }
    // t_24: float32[5, 64, 8] @ register_layout([5, 64, 8], [5, 4, 2, 8, 4, 2], [0, 3, 4], [1, 2, 5]) = elementwise("mul", [scale, t_22])
    alignas(16) float t_24[16];
    #pragma unroll
    for (int i = 0; i < 16; i++) {
        t_24[i] = scale[i / 2] * t_22[i];
    }
    // t_25: float32[5, 64, 8] @ register_layout([5, 64, 8], [5, 4, 2, 8, 4, 2], [0, 3, 4], [1, 2, 5]) = elementwise("add", [t_7, t_24])
    alignas(16) float t_25[16];
    #pragma unroll
    for (int i = 0; i < 16; i++) {
        t_25[i] = t_7[i] + t_24[i];
    }
    // t_7: float32[5, 64, 8] @ register_layout([5, 64, 8], [5, 4, 2, 8, 4, 2], [0, 3, 4], [1, 2, 5]) = assign(t_25)
    #pragma unroll
    for (int i = 0; i < 16; i++) {
        t_7[i] = t_25[i];
    }
    // t_1: float16[5, 64, 8] @ register_layout([5, 64, 8], [5, 4, 2, 4, 2, 8], [0, 5, 3], [1, 2, 4]) = assign(t_8)
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        t_1[i] = t_8[i];
    }
    // t_2: float16[5, 64, 8] @ register_layout([5, 64, 8], [5, 4, 2, 4, 2, 8], [0, 5, 3], [1, 2, 4]) = assign(t_9)
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        t_2[i] = t_9[i];
    }
    // copy_async_wait_all()
    asm volatile("cp.async.wait_all;" ::: "memory");
    // total_1: float32[64, 8] @ register_layout([64, 8], [4, 2, 8, 4, 2], [-5, 2, 3], [0, 1, 4]) = sum(t_7, dims=[0], keepdim=False)
    alignas(16) float total_1[16];
    {
        float total_6[16];
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            total_6[i] = t_7[i];
        }
        float* const box_7 = reinterpret_cast<float*>(scratch);
        const int place_8 = tid / 4 % 8 * 4 + tid % 4;
        __syncthreads();
        {
            #pragma unroll
            for (int i = 0; i < 16; i++) {
                box_7[i * 160 + (tid / 32) * 32 + place_8] = total_6[i];
            }
        }
        __syncthreads();
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            float folded = box_7[i * 160 + place_8];
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                folded = folded + box_7[i * 160 + (j + 1) * 32 + place_8];
            }
            total_6[i] = folded;
        }
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            total_1[i] = total_6[i];
        }
    }
    // g_y: global float16[64, m] @ strides[1, 64] = global_view(y_ptr)
    uint8_t* const g_y = (uint8_t*)(y_ptr);
    // y: float32[64, 8] @ register_layout([64, 8], [4, 2, 8, 4, 2], [-5, 2, 3], [0, 1, 4]) = assign(total_1)
    alignas(16) float y[16];
    #pragma unroll
    for (int i = 0; i < 16; i++) {
        y[i] = total_1[i];
    }
    // t_26: float16[64, 8] @ register_layout([64, 8], [4, 2, 8, 4, 2], [-5, 2, 3], [0, 1, 4]) = cast(y)
    alignas(16) uint32_t t_26[8];
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        t_26[i * 1 + 0] = f16x2_of_f32(reinterpret_cast<uint32_t*>(y)[i * 2 + 0], reinterpret_cast<uint32_t*>(y)[i * 2 + 1]);
    }
    // store_global(g_y, t_26, offsets=[0, row], dims=[0, 1])
    const int64_t at_9 = ((int64_t)(tid / 4 % 8) + (int64_t)(row + tid % 4 * 2) * 64ll) * 2ll;
    #pragma unroll
    for (int i = 0; i < 16; i++) {
        if (row + tid % 4 * 2 + i % 2 < m) *reinterpret_cast<uint16_t*>(g_y + at_9 + (i / 2 * 8 + i % 2 * 64) * 2) = reinterpret_cast<uint16_t*>(t_26)[i];
    }
}
