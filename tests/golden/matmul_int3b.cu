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

extern "C" __global__ void __launch_bounds__(128, 1) quantized_matmul(int m, uint8_t* x_ptr, uint8_t* tiles_ptr, uint8_t* scales_ptr, uint8_t* zeros_ptr, uint8_t* y_ptr) {
    const int tid = (int)threadIdx.x;
    __builtin_assume(tid >= 0 && tid < 128);
    // g_x: global float16[m, 4096] = global_view(x_ptr)
    uint8_t* const g_x = (uint8_t*)(x_ptr);
    // g_y: global float16[m, 4096] = global_view(y_ptr)
    uint8_t* const g_y = (uint8_t*)(y_ptr);
    // g_tiles: global uint8[64, 64, 1536] = global_view(tiles_ptr)
    uint8_t* const g_tiles = (uint8_t*)(tiles_ptr);
    // g_scales: global float16[32, 4096] = global_view(scales_ptr)
    uint8_t* const g_scales = (uint8_t*)(scales_ptr);
    int row = int(blockIdx.x) * 16;
    int nt = int(blockIdx.y);
    // acc: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = register_tensor(init=0.0)
    alignas(16) float acc[8];
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        acc[i] = 0.0f;
    }
    for (int kt = 0; kt < 64; kt += 1) {
        // x: float16[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [-4, 1, 4], [2, 3, 0, 5]) = load_global(g_x, offsets=[row, kt * 64], dims=[0, 1])
        alignas(16) uint32_t x[16];
        const int64_t at_1 = ((int64_t)(row + tid / 4 % 8) * 4096ll + (int64_t)(kt * 64 + tid % 4 * 2)) * 2ll;
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            reinterpret_cast<uint32_t*>(x)[i] = row + tid / 4 % 8 + i % 2 * 8 < m ? *reinterpret_cast<const uint32_t*>(g_x + at_1 + (i % 2 * 32768 + i * 2 / 4 * 8) * 2) : uint32_t();
        }
        // packed: uint8[1536] @ register_layout([1536], [128, 12], [0], [1]) = load_global(g_tiles, offsets=[kt, nt, 0], dims=[2])
        alignas(16) uint32_t packed[3];
        const int64_t at_2 = kt * 98304 + nt * 1536 + tid * 12;
        #pragma unroll
        for (int i = 0; i < 3; i++) {
            reinterpret_cast<uint32_t*>(packed)[i] = *reinterpret_cast<const uint32_t*>(g_tiles + at_2 + i * 4);
        }
        // codes: int3b[64, 64] @ register_layout([64, 64], [4, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = view(packed)
        auto& codes = packed;
        // w: float16[64, 64] @ register_layout([64, 64], [4, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = cast(codes)
        alignas(16) uint32_t w[16];
        {
            const uint32_t t0 = prmt(codes[0], 0x0u, 0x1010u);
            const uint32_t t1 = and_xor(t0, 0x380007u, 0x58206404u);
            w[0] = sub_f16x2(t1, 0x58206404u);
            const uint32_t t3 = prmt(codes[0], 0x0u, 0x2110u);
            const uint32_t t4 = and_xor(t3, 0xe01c0u, 0x60084d00u);
            w[1] = sub_f16x2(t4, 0x60084d00u);
            const uint32_t t6 = prmt(codes[0], 0x0u, 0x2121u);
            const uint32_t t7 = and_xor(t6, 0x3800070u, 0x4a005440u);
            w[2] = sub_f16x2(t7, 0x4a005440u);
            const uint32_t t9 = prmt(codes[0], 0x0u, 0x3232u);
            const uint32_t t10 = and_xor(t9, 0xe0001cu, 0x50805c10u);
            w[3] = sub_f16x2(t10, 0x50805c10u);
            const uint32_t t12 = prmt(codes[0], 0x0u, 0x303u);
            const uint32_t t13 = and_xor(t12, 0x380007u, 0x58206404u);
            w[4] = sub_f16x2(t13, 0x58206404u);
            const uint32_t t15 = prmt(codes[0], codes[1], 0x1443u);
            const uint32_t t16 = and_xor(t15, 0xe01c0u, 0x60084d00u);
            w[5] = sub_f16x2(t16, 0x60084d00u);
            const uint32_t t18 = prmt(codes[1], 0x0u, 0x1010u);
            const uint32_t t19 = and_xor(t18, 0x3800070u, 0x4a005440u);
            w[6] = sub_f16x2(t19, 0x4a005440u);
            const uint32_t t21 = prmt(codes[1], 0x0u, 0x2121u);
            const uint32_t t22 = and_xor(t21, 0xe0001cu, 0x50805c10u);
            w[7] = sub_f16x2(t22, 0x50805c10u);
            const uint32_t t24 = prmt(codes[1], 0x0u, 0x3232u);
            const uint32_t t25 = and_xor(t24, 0x380007u, 0x58206404u);
            w[8] = sub_f16x2(t25, 0x58206404u);
            const uint32_t t27 = prmt(codes[1], 0x0u, 0x332u);
            const uint32_t t28 = and_xor(t27, 0xe01c0u, 0x60084d00u);
            w[9] = sub_f16x2(t28, 0x60084d00u);
            const uint32_t t30 = prmt(codes[1], codes[2], 0x4303u);
            const uint32_t t31 = and_xor(t30, 0x3800070u, 0x4a005440u);
            w[10] = sub_f16x2(t31, 0x4a005440u);
            const uint32_t t33 = prmt(codes[2], 0x0u, 0x1010u);
            const uint32_t t34 = and_xor(t33, 0xe0001cu, 0x50805c10u);
            w[11] = sub_f16x2(t34, 0x50805c10u);
            const uint32_t t36 = prmt(codes[2], 0x0u, 0x2121u);
            const uint32_t t37 = and_xor(t36, 0x380007u, 0x58206404u);
            w[12] = sub_f16x2(t37, 0x58206404u);
            const uint32_t t39 = prmt(codes[2], 0x0u, 0x3221u);
            const uint32_t t40 = and_xor(t39, 0xe01c0u, 0x60084d00u);
            w[13] = sub_f16x2(t40, 0x60084d00u);
            const uint32_t t42 = prmt(codes[2], 0x0u, 0x3232u);
            const uint32_t t43 = and_xor(t42, 0x3800070u, 0x4a005440u);
            w[14] = sub_f16x2(t43, 0x4a005440u);
            const uint32_t t45 = prmt(codes[2], 0x0u, 0x303u);
            const uint32_t t46 = and_xor(t45, 0xe0001cu, 0x50805c10u);
            w[15] = sub_f16x2(t46, 0x50805c10u);
        }
        int group = kt * 64 / 128;
        // scales: float16[1, 64] @ register_layout([1, 64], [4, 2, 8], [0, 2, -4], [1]) = load_global(g_scales, offsets=[group, nt * 64], dims=[0, 1])
        alignas(16) uint32_t scales[1];
        const int64_t at_3 = (group * 4096 + (nt * 64 + (tid / 32 * 16 + tid / 4 % 8))) * 2;
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            reinterpret_cast<uint16_t*>(scales)[i] = *reinterpret_cast<const uint16_t*>(g_scales + at_3 + i * 16);
        }
        // t: float16[1, 64] @ register_layout([1, 64], [4, 2, 8], [0, 2, -4], [1]) = cast(scales)
        alignas(16) uint32_t t[1];
        {
            t[0] = scales[0];
        }
        // t_1: float16[64, 64] @ register_layout([64, 64], [4, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = elementwise("mul", [w, t])
        alignas(16) uint32_t t_1[16];
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            constexpr int halves_4[] = {21520, 21520, 30258, 30258, 21520, 21520, 30258, 30258, 21520, 21520, 30258, 30258, 21520, 21520, 30258, 30258};
            t_1[i] = mul_f16x2(w[i], prmt(t[0], t[0], halves_4[i]));
        }
        // w: float16[64, 64] @ register_layout([64, 64], [4, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = assign(t_1)
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            w[i] = t_1[i];
        }
        // t_2: float16[64, 64] @ register_layout([64, 64], [4, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = cast(w)
        alignas(16) uint32_t t_2[16];
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            t_2[i * 1 + 0] = w[i * 1 + 0];
        }
        // t_3: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = dot(x, t_2, c=acc)
        alignas(16) float t_3[8];
        #pragma unroll
        for (int n = 0; n < 2; n++) {
            m16n8k16_f16_f32(&t_3[n * 4], &x[0], &t_2[n * 2], &acc[n * 4]);
        }
        #pragma unroll
        for (int k = 0; k < 3; k++) {
            #pragma unroll
            for (int n = 0; n < 2; n++) {
                m16n8k16_f16_f32(&t_3[n * 4], &x[(k + 1) * 4], &t_2[((k + 1) * 2 + n) * 2], &t_3[n * 4]);
            }
        }
        // acc: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = assign(t_3)
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            acc[i] = t_3[i];
        }
    }
    // t_4: float16[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = cast(acc)
    alignas(16) uint32_t t_4[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        t_4[i * 1 + 0] = f16x2_of_f32(reinterpret_cast<uint32_t*>(acc)[i * 2 + 0], reinterpret_cast<uint32_t*>(acc)[i * 2 + 1]);
    }
    // store_global(g_y, t_4, offsets=[row, nt * 64], dims=[0, 1])
    const int64_t at_5 = ((int64_t)(row + tid / 4 % 8) * 4096ll + (int64_t)(nt * 64 + (tid / 32 * 16 + tid % 4 * 2))) * 2ll;
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        if (row + tid / 4 % 8 + i % 2 * 8 < m) *reinterpret_cast<uint32_t*>(g_y + at_5 + (i % 2 * 32768 + i * 2 / 4 * 8) * 2) = reinterpret_cast<uint32_t*>(t_4)[i];
    }
}
