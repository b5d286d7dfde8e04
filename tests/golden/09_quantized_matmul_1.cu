typedef signed char int8_t;
typedef short int16_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

// (a & b) ^ c in one LOP3.
__device__ __forceinline__ uint32_t and_xor(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

__device__ __forceinline__ uint32_t prmt(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

__device__ __forceinline__ uint32_t sub_f16x2(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

__device__ __forceinline__ uint32_t mul_f16x2(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

__device__ __forceinline__ uint32_t f16x2_of_f32(uint32_t low, uint32_t high) {
    uint32_t d;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;"
        : "=r"(d) : "f"(__uint_as_float(high)), "f"(__uint_as_float(low)));
    return d;
}

__device__ __forceinline__ void m16n8k16_f16_f32(
    float* d, const uint32_t* a, const uint32_t* b, const float* c) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

extern "C" __global__ void __launch_bounds__(128, 1) quantized_matmul(int m, uint8_t* x_ptr, uint8_t* tiles_ptr, uint8_t* scales_ptr, uint8_t* y_ptr) {
    const int tid = (int)threadIdx.x;
    __builtin_assume(tid >= 0 && tid < 128);
    // g_x: global float16[m, 96] = global_view(x_ptr)
    uint8_t* const g_x = (uint8_t*)(x_ptr);
    // g_tiles: global uint8[3, 2, 1024] = global_view(tiles_ptr)
    uint8_t* const g_tiles = (uint8_t*)(tiles_ptr);
    // g_scales: global float16[3, 128] = global_view(scales_ptr)
    uint8_t* const g_scales = (uint8_t*)(scales_ptr);
    // g_y: global float16[m, 128] = global_view(y_ptr)
    uint8_t* const g_y = (uint8_t*)(y_ptr);
    int i_ = int(blockIdx.x) * 16;
    int j_ = int(blockIdx.y);
    // acc: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = register_tensor(init=0.0)
    alignas(16) float acc[8];
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        acc[i] = 0.0f;
    }
    for (int p = 0; p < 3; p += 1) {
        // x: float16[16, 32] @ register_layout([16, 32], [2, 8, 2, 2, 4, 2], [-4, 1, 4], [2, 3, 0, 5]) = load_global(g_x, offsets=[i_, p * 32], dims=[0, 1])
        alignas(16) uint32_t x[8];
        const int64_t at_1 = ((int64_t)(i_ + tid / 4 % 8) * 96ll + (int64_t)(p * 32 + tid % 4 * 2)) * 2ll;
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            reinterpret_cast<uint32_t*>(x)[i] = i_ + tid / 4 % 8 + i % 2 * 8 < m ? *reinterpret_cast<const uint32_t*>(g_x + at_1 + (i % 2 * 768 + i * 2 / 4 * 8) * 2) : uint32_t();
        }
        // packed: uint8[1024] @ register_layout([1024], [128, 8], [0], [1]) = load_global(g_tiles, offsets=[p, j_, 0], dims=[2])
        alignas(16) uint32_t packed[2];
        const int64_t at_2 = p * 2048 + j_ * 1024 + tid * 8;
        {
            reinterpret_cast<uint2*>(packed)[0] = *reinterpret_cast<const uint2*>(g_tiles + at_2);
        }
        // codes: int4b[32, 64] @ register_layout([32, 64], [2, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = view(packed)
        auto& codes = packed;
        // scales: float16[1, 64] @ register_layout([1, 64], [4, 2, 8], [0, 2, -4], [1]) = load_global(g_scales, offsets=[p, j_ * 64], dims=[0, 1])
        alignas(16) uint32_t scales[1];
        const int64_t at_3 = (p * 128 + (j_ * 64 + (tid / 32 * 16 + tid / 4 % 8))) * 2;
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            reinterpret_cast<uint16_t*>(scales)[i] = *reinterpret_cast<const uint16_t*>(g_scales + at_3 + i * 16);
        }
        // t: float16[32, 64] @ register_layout([32, 64], [2, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = cast(codes)
        alignas(16) uint32_t t[8];
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t t0 = prmt(codes[i * 1 + 0], 0x0u, 0x1010u);
            const uint32_t t1 = and_xor(t0, 0xf0000fu, 0x54806408u);
            t[i * 4 + 0] = sub_f16x2(t1, 0x54806408u);
            const uint32_t t3 = prmt(codes[i * 1 + 0], 0x0u, 0x2121u);
            const uint32_t t4 = and_xor(t3, 0xf0000fu, 0x54806408u);
            t[i * 4 + 1] = sub_f16x2(t4, 0x54806408u);
            const uint32_t t6 = prmt(codes[i * 1 + 0], 0x0u, 0x3232u);
            const uint32_t t7 = and_xor(t6, 0xf0000fu, 0x54806408u);
            t[i * 4 + 2] = sub_f16x2(t7, 0x54806408u);
            const uint32_t t9 = prmt(codes[i * 1 + 0], 0x0u, 0x303u);
            const uint32_t t10 = and_xor(t9, 0xf0000fu, 0x54806408u);
            t[i * 4 + 3] = sub_f16x2(t10, 0x54806408u);
        }
        // t_1: float16[32, 64] @ register_layout([32, 64], [2, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = elementwise("mul", [t, scales])
        alignas(16) uint32_t t_1[8];
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            constexpr int halves_4[] = {21520, 21520, 30258, 30258, 21520, 21520, 30258, 30258};
            t_1[i] = mul_f16x2(t[i], prmt(scales[0], scales[0], halves_4[i]));
        }
        // t_2: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = dot(x, t_1, c=acc)
        alignas(16) float t_2[8];
        #pragma unroll
        for (int ni = 0; ni < 2; ni++) {
            m16n8k16_f16_f32(&t_2[ni * 4], &x[0], &t_1[ni * 2], &acc[ni * 4]);
        }
        #pragma unroll
        for (int ni = 0; ni < 2; ni++) {
            m16n8k16_f16_f32(&t_2[ni * 4], &x[1 * 4], &t_1[(1 * 2 + ni) * 2], &t_2[ni * 4]);
        }
        // acc: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = assign(t_2)
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            acc[i] = t_2[i];
        }
    }
    // t_3: float16[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = cast(acc)
    alignas(16) uint32_t t_3[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        t_3[i * 1 + 0] = f16x2_of_f32(reinterpret_cast<uint32_t*>(acc)[i * 2 + 0], reinterpret_cast<uint32_t*>(acc)[i * 2 + 1]);
    }
    // store_global(g_y, t_3, offsets=[i_, j_ * 64], dims=[0, 1])
    const int64_t at_5 = ((int64_t)(i_ + tid / 4 % 8) * 128ll + (int64_t)(j_ * 64 + (tid / 32 * 16 + tid % 4 * 2))) * 2ll;
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        if (i_ + tid / 4 % 8 + i % 2 * 8 < m) *reinterpret_cast<uint32_t*>(g_y + at_5 + (i % 2 * 1024 + i * 2 / 4 * 8) * 2) = reinterpret_cast<uint32_t*>(t_3)[i];
    }
}
