typedef signed char int8_t;
typedef short int16_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

__device__ __forceinline__ uint32_t add_f32(uint32_t a, uint32_t b) {
    return __float_as_uint(__fadd_rn(__uint_as_float(a), __uint_as_float(b)));
}

// (a & b) ^ c in one LOP3.
__device__ __forceinline__ uint32_t and_xor(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

__device__ __forceinline__ uint32_t funnel(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("shf.r.wrap.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
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

__device__ __forceinline__ uint32_t bf16x2_of_f32(uint32_t low, uint32_t high) {
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;"
        : "=r"(d) : "f"(__uint_as_float(high)), "f"(__uint_as_float(low)));
    return d;
}

__device__ __forceinline__ uint32_t f16x2_of_f32(uint32_t low, uint32_t high) {
    uint32_t d;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;"
        : "=r"(d) : "f"(__uint_as_float(high)), "f"(__uint_as_float(low)));
    return d;
}

__device__ __forceinline__ void m16n8k16_bf16_f32(
    float* d, const uint32_t* a, const uint32_t* b, const float* c) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
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
        // w: float32[64, 64] @ register_layout([64, 64], [4, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = cast(codes)
        alignas(16) float w[32];
        {
            const uint32_t t0 = and_xor(codes[0], 0x7u, 0x4b000004u);
            reinterpret_cast<uint32_t*>(w)[0] = add_f32(t0, 0xcb000004u);
            const uint32_t t2 = and_xor(codes[0], 0x38u, 0x49800020u);
            reinterpret_cast<uint32_t*>(w)[1] = add_f32(t2, 0xc9800020u);
            const uint32_t t4 = and_xor(codes[0], 0x1c0u, 0x48000100u);
            reinterpret_cast<uint32_t*>(w)[2] = add_f32(t4, 0xc8000100u);
            const uint32_t t6 = and_xor(codes[0], 0xe00u, 0x46800800u);
            reinterpret_cast<uint32_t*>(w)[3] = add_f32(t6, 0xc6800800u);
            const uint32_t t8 = and_xor(codes[0], 0x7000u, 0x45004000u);
            reinterpret_cast<uint32_t*>(w)[4] = add_f32(t8, 0xc5004000u);
            const uint32_t t10 = and_xor(codes[0], 0x38000u, 0x43820000u);
            reinterpret_cast<uint32_t*>(w)[5] = add_f32(t10, 0xc3820000u);
            const uint32_t t12 = and_xor(codes[0], 0x1c0000u, 0x42100000u);
            reinterpret_cast<uint32_t*>(w)[6] = add_f32(t12, 0xc2100000u);
            const uint32_t t14 = codes[0] >> 0x10u;
            const uint32_t t15 = and_xor(t14, 0xe0u, 0x48800080u);
            reinterpret_cast<uint32_t*>(w)[7] = add_f32(t15, 0xc8800080u);
            const uint32_t t17 = and_xor(t14, 0x700u, 0x47000400u);
            reinterpret_cast<uint32_t*>(w)[8] = add_f32(t17, 0xc7000400u);
            const uint32_t t19 = and_xor(t14, 0x3800u, 0x45802000u);
            reinterpret_cast<uint32_t*>(w)[9] = add_f32(t19, 0xc5802000u);
            const uint32_t t21 = funnel(codes[0], codes[1], 0x10u);
            const uint32_t t22 = and_xor(t21, 0x1c000u, 0x44010000u);
            reinterpret_cast<uint32_t*>(w)[10] = add_f32(t22, 0xc4010000u);
            const uint32_t t24 = and_xor(codes[1], 0xeu, 0x4a800008u);
            reinterpret_cast<uint32_t*>(w)[11] = add_f32(t24, 0xca800008u);
            const uint32_t t26 = and_xor(codes[1], 0x70u, 0x49000040u);
            reinterpret_cast<uint32_t*>(w)[12] = add_f32(t26, 0xc9000040u);
            const uint32_t t28 = and_xor(codes[1], 0x380u, 0x47800200u);
            reinterpret_cast<uint32_t*>(w)[13] = add_f32(t28, 0xc7800200u);
            const uint32_t t30 = and_xor(codes[1], 0x1c00u, 0x46001000u);
            reinterpret_cast<uint32_t*>(w)[14] = add_f32(t30, 0xc6001000u);
            const uint32_t t32 = and_xor(codes[1], 0xe000u, 0x44808000u);
            reinterpret_cast<uint32_t*>(w)[15] = add_f32(t32, 0xc4808000u);
            const uint32_t t34 = and_xor(codes[1], 0x70000u, 0x43040000u);
            reinterpret_cast<uint32_t*>(w)[16] = add_f32(t34, 0xc3040000u);
            const uint32_t t36 = and_xor(codes[1], 0x380000u, 0x41a00000u);
            reinterpret_cast<uint32_t*>(w)[17] = add_f32(t36, 0xc1a00000u);
            const uint32_t t38 = codes[1] >> 0x10u;
            const uint32_t t39 = and_xor(t38, 0x1c0u, 0x48000100u);
            reinterpret_cast<uint32_t*>(w)[18] = add_f32(t39, 0xc8000100u);
            const uint32_t t41 = and_xor(t38, 0xe00u, 0x46800800u);
            reinterpret_cast<uint32_t*>(w)[19] = add_f32(t41, 0xc6800800u);
            const uint32_t t43 = and_xor(t38, 0x7000u, 0x45004000u);
            reinterpret_cast<uint32_t*>(w)[20] = add_f32(t43, 0xc5004000u);
            const uint32_t t45 = funnel(codes[1], codes[2], 0x10u);
            const uint32_t t46 = and_xor(t45, 0x38000u, 0x43820000u);
            reinterpret_cast<uint32_t*>(w)[21] = add_f32(t46, 0xc3820000u);
            const uint32_t t48 = and_xor(codes[2], 0x1cu, 0x4a000010u);
            reinterpret_cast<uint32_t*>(w)[22] = add_f32(t48, 0xca000010u);
            const uint32_t t50 = and_xor(codes[2], 0xe0u, 0x48800080u);
            reinterpret_cast<uint32_t*>(w)[23] = add_f32(t50, 0xc8800080u);
            const uint32_t t52 = and_xor(codes[2], 0x700u, 0x47000400u);
            reinterpret_cast<uint32_t*>(w)[24] = add_f32(t52, 0xc7000400u);
            const uint32_t t54 = and_xor(codes[2], 0x3800u, 0x45802000u);
            reinterpret_cast<uint32_t*>(w)[25] = add_f32(t54, 0xc5802000u);
            const uint32_t t56 = and_xor(codes[2], 0x1c000u, 0x44010000u);
            reinterpret_cast<uint32_t*>(w)[26] = add_f32(t56, 0xc4010000u);
            const uint32_t t58 = and_xor(codes[2], 0xe0000u, 0x42880000u);
            reinterpret_cast<uint32_t*>(w)[27] = add_f32(t58, 0xc2880000u);
            const uint32_t t60 = and_xor(codes[2], 0x700000u, 0x41400000u);
            reinterpret_cast<uint32_t*>(w)[28] = add_f32(t60, 0xc1400000u);
            const uint32_t t62 = codes[2] >> 0x10u;
            const uint32_t t63 = and_xor(t62, 0x380u, 0x47800200u);
            reinterpret_cast<uint32_t*>(w)[29] = add_f32(t63, 0xc7800200u);
            const uint32_t t65 = and_xor(t62, 0x1c00u, 0x46001000u);
            reinterpret_cast<uint32_t*>(w)[30] = add_f32(t65, 0xc6001000u);
            const uint32_t t67 = and_xor(t62, 0xe000u, 0x44808000u);
            reinterpret_cast<uint32_t*>(w)[31] = add_f32(t67, 0xc4808000u);
        }
        int group = kt * 64 / 128;
        // scales: float16[1, 64] @ register_layout([1, 64], [4, 2, 8], [0, 2, -4], [1]) = load_global(g_scales, offsets=[group, nt * 64], dims=[0, 1])
        alignas(16) uint32_t scales[1];
        const int64_t at_3 = (group * 4096 + (nt * 64 + (tid / 32 * 16 + tid / 4 % 8))) * 2;
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            reinterpret_cast<uint16_t*>(scales)[i] = *reinterpret_cast<const uint16_t*>(g_scales + at_3 + i * 16);
        }
        // t: float32[1, 64] @ register_layout([1, 64], [4, 2, 8], [0, 2, -4], [1]) = cast(scales)
        alignas(16) float t[2];
        {
            reinterpret_cast<uint32_t*>(t)[0] = f32_of_low_f16(scales[0]);
            reinterpret_cast<uint32_t*>(t)[1] = f32_of_high_f16(scales[0]);
        }
        // t_1: float32[64, 64] @ register_layout([64, 64], [4, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = elementwise("mul", [w, t])
        alignas(16) float t_1[32];
        #pragma unroll
        for (int i = 0; i < 32; i++) {
            constexpr int at_4[] = {0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1};
            t_1[i] = w[i] * t[at_4[i]];
        }
        // w: float32[64, 64] @ register_layout([64, 64], [4, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = assign(t_1)
        #pragma unroll
        for (int i = 0; i < 32; i++) {
            w[i] = t_1[i];
        }
        // t_2: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [-4, 1, 4], [2, 3, 0, 5]) = cast(x)
        alignas(16) float t_2[32];
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            reinterpret_cast<uint32_t*>(t_2)[i * 2 + 0] = f32_of_low_f16(x[i * 1 + 0]);
            reinterpret_cast<uint32_t*>(t_2)[i * 2 + 1] = f32_of_high_f16(x[i * 1 + 0]);
        }
        // upper: bfloat16[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [-4, 1, 4], [2, 3, 0, 5]) = cast(t_2)
        alignas(16) uint32_t upper[16];
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            upper[i * 1 + 0] = bf16x2_of_f32(reinterpret_cast<uint32_t*>(t_2)[i * 2 + 0], reinterpret_cast<uint32_t*>(t_2)[i * 2 + 1]);
        }
        // t_3: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [-4, 1, 4], [2, 3, 0, 5]) = cast(upper)
        alignas(16) float t_3[32];
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            reinterpret_cast<uint32_t*>(t_3)[i * 2 + 0] = upper[i * 1 + 0] << 0x10u;
            reinterpret_cast<uint32_t*>(t_3)[i * 2 + 1] = upper[i * 1 + 0] & 0xffff0000u;
        }
        // t_4: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [-4, 1, 4], [2, 3, 0, 5]) = elementwise("sub", [t_2, t_3])
        alignas(16) float t_4[32];
        #pragma unroll
        for (int i = 0; i < 32; i++) {
            t_4[i] = t_2[i] - t_3[i];
        }
        // t_5: bfloat16[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [-4, 1, 4], [2, 3, 0, 5]) = cast(t_4)
        alignas(16) uint32_t t_5[16];
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            t_5[i * 1 + 0] = bf16x2_of_f32(reinterpret_cast<uint32_t*>(t_4)[i * 2 + 0], reinterpret_cast<uint32_t*>(t_4)[i * 2 + 1]);
        }
        // upper_1: bfloat16[64, 64] @ register_layout([64, 64], [4, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = cast(w)
        alignas(16) uint32_t upper_1[16];
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            upper_1[i * 1 + 0] = bf16x2_of_f32(reinterpret_cast<uint32_t*>(w)[i * 2 + 0], reinterpret_cast<uint32_t*>(w)[i * 2 + 1]);
        }
        // t_6: float32[64, 64] @ register_layout([64, 64], [4, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = cast(upper_1)
        alignas(16) float t_6[32];
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            reinterpret_cast<uint32_t*>(t_6)[i * 2 + 0] = upper_1[i * 1 + 0] << 0x10u;
            reinterpret_cast<uint32_t*>(t_6)[i * 2 + 1] = upper_1[i * 1 + 0] & 0xffff0000u;
        }
        // t_7: float32[64, 64] @ register_layout([64, 64], [4, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = elementwise("sub", [w, t_6])
        alignas(16) float t_7[32];
        #pragma unroll
        for (int i = 0; i < 32; i++) {
            t_7[i] = w[i] - t_6[i];
        }
        // t_8: bfloat16[64, 64] @ register_layout([64, 64], [4, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = cast(t_7)
        alignas(16) uint32_t t_8[16];
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            t_8[i * 1 + 0] = bf16x2_of_f32(reinterpret_cast<uint32_t*>(t_7)[i * 2 + 0], reinterpret_cast<uint32_t*>(t_7)[i * 2 + 1]);
        }
        // t_9: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = dot(upper, upper_1, c=acc)
        alignas(16) float t_9[8];
        #pragma unroll
        for (int ni = 0; ni < 2; ni++) {
            m16n8k16_bf16_f32(&t_9[ni * 4], &upper[0], &upper_1[ni * 2], &acc[ni * 4]);
        }
        #pragma unroll
        for (int ki = 0; ki < 3; ki++) {
            #pragma unroll
            for (int ni = 0; ni < 2; ni++) {
                m16n8k16_bf16_f32(&t_9[ni * 4], &upper[(ki + 1) * 4], &upper_1[((ki + 1) * 2 + ni) * 2], &t_9[ni * 4]);
            }
        }
        // acc: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = assign(t_9)
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            acc[i] = t_9[i];
        }
        // t_10: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = dot(t_5, upper_1, c=acc)
        alignas(16) float t_10[8];
        #pragma unroll
        for (int ni = 0; ni < 2; ni++) {
            m16n8k16_bf16_f32(&t_10[ni * 4], &t_5[0], &upper_1[ni * 2], &acc[ni * 4]);
        }
        #pragma unroll
        for (int ki = 0; ki < 3; ki++) {
            #pragma unroll
            for (int ni = 0; ni < 2; ni++) {
                m16n8k16_bf16_f32(&t_10[ni * 4], &t_5[(ki + 1) * 4], &upper_1[((ki + 1) * 2 + ni) * 2], &t_10[ni * 4]);
            }
        }
        // acc: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = assign(t_10)
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            acc[i] = t_10[i];
        }
        // t_11: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = dot(upper, t_8, c=acc)
        alignas(16) float t_11[8];
        #pragma unroll
        for (int ni = 0; ni < 2; ni++) {
            m16n8k16_bf16_f32(&t_11[ni * 4], &upper[0], &t_8[ni * 2], &acc[ni * 4]);
        }
        #pragma unroll
        for (int ki = 0; ki < 3; ki++) {
            #pragma unroll
            for (int ni = 0; ni < 2; ni++) {
                m16n8k16_bf16_f32(&t_11[ni * 4], &upper[(ki + 1) * 4], &t_8[((ki + 1) * 2 + ni) * 2], &t_11[ni * 4]);
            }
        }
        // acc: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = assign(t_11)
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            acc[i] = t_11[i];
        }
        // t_12: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = dot(t_5, t_8, c=acc)
        alignas(16) float t_12[8];
        #pragma unroll
        for (int ni = 0; ni < 2; ni++) {
            m16n8k16_bf16_f32(&t_12[ni * 4], &t_5[0], &t_8[ni * 2], &acc[ni * 4]);
        }
        #pragma unroll
        for (int ki = 0; ki < 3; ki++) {
            #pragma unroll
            for (int ni = 0; ni < 2; ni++) {
                m16n8k16_bf16_f32(&t_12[ni * 4], &t_5[(ki + 1) * 4], &t_8[((ki + 1) * 2 + ni) * 2], &t_12[ni * 4]);
            }
        }
        // acc: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = assign(t_12)
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            acc[i] = t_12[i];
        }
    }
    // t_13: float16[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = cast(acc)
    alignas(16) uint32_t t_13[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        t_13[i * 1 + 0] = f16x2_of_f32(reinterpret_cast<uint32_t*>(acc)[i * 2 + 0], reinterpret_cast<uint32_t*>(acc)[i * 2 + 1]);
    }
    // store_global(g_y, t_13, offsets=[row, nt * 64], dims=[0, 1])
    const int64_t at_5 = ((int64_t)(row + tid / 4 % 8) * 4096ll + (int64_t)(nt * 64 + (tid / 32 * 16 + tid % 4 * 2))) * 2ll;
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        if (row + tid / 4 % 8 + i % 2 * 8 < m) *reinterpret_cast<uint32_t*>(g_y + at_5 + (i % 2 * 32768 + i * 2 / 4 * 8) * 2) = reinterpret_cast<uint32_t*>(t_13)[i];
    }
}
