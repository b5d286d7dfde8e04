typedef signed char int8_t;
typedef short int16_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

// (a & b) | c in one LOP3, whatever the compiler knows about the bits. PTX ISA, "lop3".
__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
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

__device__ __forceinline__ uint32_t mul_f16x2(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

__device__ __forceinline__ uint32_t prmt(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
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
    // g_tiles: global uint8[64, 64, 3072] = global_view(tiles_ptr)
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
        // packed: uint8[3072] @ register_layout([3072], [128, 24], [0], [1]) = load_global(g_tiles, offsets=[kt, nt, 0], dims=[2])
        alignas(16) uint32_t packed[6];
        const int64_t at_2 = kt * 196608 + nt * 3072 + tid * 24;
        #pragma unroll
        for (int i = 0; i < 3; i++) {
            reinterpret_cast<uint2*>(packed)[i] = *reinterpret_cast<const uint2*>(g_tiles + at_2 + i * 8);
        }
        // codes: float6_e3m2[64, 64] @ register_layout([64, 64], [4, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = view(packed)
        auto& codes = packed;
        // w: float32[64, 64] @ register_layout([64, 64], [4, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = cast(codes)
        alignas(16) float w[32];
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t t0 = prmt(codes[i * 3 + 0], 0x0u, 0x1000u);
            const uint32_t t1 = t0 << 0x2u;
            const uint32_t t2 = t1 & 0x1f008000u;
            const uint32_t t3 = codes[i * 3 + 0] >> 0x4u;
            const uint32_t t4 = prmt(codes[i * 3 + 0], t3, 0x4100u);
            const uint32_t t5 = and_or(t4, 0x80001f00u, t2);
            const uint32_t t6 = mul_f16x2(t5, 0x6c006c00u);
            const uint32_t t7 = prmt(codes[i * 3 + 0], 0x0u, 0x2210u);
            const uint32_t t8 = t7 >> 0x2u;
            const uint32_t t9 = t8 & 0x1f008000u;
            const uint32_t t10 = prmt(t3, codes[i * 3 + 0], 0x6210u);
            const uint32_t t11 = and_or(t10, 0x80001f00u, t9);
            const uint32_t t12 = mul_f16x2(t11, 0x6c006c00u);
            const uint32_t t13 = prmt(codes[i * 3 + 0], codes[i * 3 + 1], 0x4330u);
            const uint32_t t14 = t13 << 0x2u;
            const uint32_t t15 = t14 & 0x1f008000u;
            const uint32_t t16 = codes[i * 3 + 1] << 0x1cu;
            const uint32_t t17 = prmt(codes[i * 3 + 0], t16, 0x7030u);
            const uint32_t t18 = and_or(t17, 0x80001f00u, t15);
            const uint32_t t19 = mul_f16x2(t18, 0x6c006c00u);
            const uint32_t t20 = prmt(codes[i * 3 + 1], 0x0u, 0x1110u);
            const uint32_t t21 = t20 >> 0x2u;
            const uint32_t t22 = t21 & 0x1f008000u;
            const uint32_t t23 = codes[i * 3 + 1] >> 0x4u;
            const uint32_t t24 = prmt(t23, codes[i * 3 + 1], 0x5100u);
            const uint32_t t25 = and_or(t24, 0x80001f00u, t22);
            const uint32_t t26 = mul_f16x2(t25, 0x6c006c00u);
            const uint32_t t27 = prmt(codes[i * 3 + 1], 0x0u, 0x3220u);
            const uint32_t t28 = t27 << 0x2u;
            const uint32_t t29 = t28 & 0x1f008000u;
            const uint32_t t30 = prmt(codes[i * 3 + 1], t23, 0x6320u);
            const uint32_t t31 = and_or(t30, 0x80001f00u, t29);
            const uint32_t t32 = mul_f16x2(t31, 0x6c006c00u);
            const uint32_t t33 = codes[i * 3 + 2] >> 0x2u;
            const uint32_t t34 = prmt(t23, t33, 0x4030u);
            const uint32_t t35 = t34 & 0x1f000f00u;
            const uint32_t t36 = codes[i * 3 + 2] << 0x1cu;
            const uint32_t t37 = prmt(t36, codes[i * 3 + 2], 0x4030u);
            const uint32_t t38 = and_or(t37, 0x80001000u, t35);
            const uint32_t t39 = codes[i * 3 + 2] << 0xeu;
            const uint32_t t40 = and_or(t39, 0x8000u, t38);
            const uint32_t t41 = mul_f16x2(t40, 0x6c006c00u);
            const uint32_t t42 = prmt(codes[i * 3 + 2], 0x0u, 0x2110u);
            const uint32_t t43 = t42 << 0x2u;
            const uint32_t t44 = t43 & 0x1f008000u;
            const uint32_t t45 = codes[i * 3 + 2] >> 0x4u;
            const uint32_t t46 = prmt(codes[i * 3 + 2], t45, 0x5210u);
            const uint32_t t47 = and_or(t46, 0x80001f00u, t44);
            const uint32_t t48 = mul_f16x2(t47, 0x6c006c00u);
            const uint32_t t49 = prmt(t33, 0x0u, 0x3320u);
            const uint32_t t50 = t49 & 0x1f008000u;
            const uint32_t t51 = prmt(t45, codes[i * 3 + 2], 0x7320u);
            const uint32_t t52 = and_or(t51, 0x80001f00u, t50);
            const uint32_t t53 = mul_f16x2(t52, 0x6c006c00u);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 0] = f32_of_low_f16(t6);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 1] = f32_of_high_f16(t6);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 2] = f32_of_low_f16(t12);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 3] = f32_of_high_f16(t12);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 4] = f32_of_low_f16(t19);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 5] = f32_of_high_f16(t19);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 6] = f32_of_low_f16(t26);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 7] = f32_of_high_f16(t26);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 8] = f32_of_low_f16(t32);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 9] = f32_of_high_f16(t32);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 10] = f32_of_low_f16(t41);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 11] = f32_of_high_f16(t41);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 12] = f32_of_low_f16(t48);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 13] = f32_of_high_f16(t48);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 14] = f32_of_low_f16(t53);
            reinterpret_cast<uint32_t*>(w)[i * 16 + 15] = f32_of_high_f16(t53);
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
