typedef signed char int8_t;
typedef short int16_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

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

extern "C" __global__ void __launch_bounds__(128, 1) naive_matmul(int m, uint8_t* a_ptr, uint8_t* b_ptr, uint8_t* c_ptr) {
    const int tid = (int)threadIdx.x;
    __builtin_assume(tid >= 0 && tid < 128);
    // g_a: global float16[m, 104] = global_view(a_ptr)
    uint8_t* const g_a = (uint8_t*)(a_ptr);
    // g_b: global float16[104, 136] = global_view(b_ptr)
    uint8_t* const g_b = (uint8_t*)(b_ptr);
    // g_c: global float16[m, 136] = global_view(c_ptr)
    uint8_t* const g_c = (uint8_t*)(c_ptr);
    int i_ = int(blockIdx.x) * 32;
    int j_ = int(blockIdx.y) * 64;
    // acc: float32[32, 64] @ register_layout([32, 64], [2, 2, 8, 4, 2, 4, 2], [3, 2, 5], [0, 4, 1, 6]) = register_tensor(init=0.0)
    alignas(16) float acc[16];
    #pragma unroll
    for (int i = 0; i < 16; i++) {
        acc[i] = 0.0f;
    }
    for (int p = 0; p < 104; p += 32) {
        // a: float16[32, 32] @ register_layout([32, 32], [2, 2, 8, 2, 2, 4, 2], [-4, 2, 5], [0, 3, 4, 1, 6]) = load_global(g_a, offsets=[i_, p], dims=[0, 1])
        alignas(16) uint32_t a[16];
        const int64_t at_1 = ((int64_t)(i_ + tid / 4 % 8) * 104ll + (int64_t)(p + tid % 4 * 2)) * 2ll;
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            reinterpret_cast<uint32_t*>(a)[i] = i_ + tid / 4 % 8 + (i * 2 / 16 * 16 + i % 2 * 8) < m && p + tid % 4 * 2 + i * 2 / 4 % 4 * 8 < 104 ? *reinterpret_cast<const uint32_t*>(g_a + at_1 + ((i * 2 / 16 * 16 + i % 2 * 8) * 104 + i * 2 / 4 % 4 * 8) * 2) : uint32_t();
        }
        // b: float16[32, 64] @ register_layout([32, 64], [2, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = load_global(g_b, offsets=[p, j_], dims=[0, 1])
        alignas(16) uint32_t b[8];
        const int64_t at_2 = ((p + tid % 4 * 2) * 136 + (j_ + (tid / 32 * 16 + tid / 4 % 8))) * 2;
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            reinterpret_cast<uint16_t*>(b)[i] = p + tid % 4 * 2 + (i / 8 * 16 + i / 2 % 2 * 8 + i % 2) < 104 && j_ + (tid / 32 * 16 + tid / 4 % 8) + i / 4 % 2 * 8 < 136 ? *reinterpret_cast<const uint16_t*>(g_b + at_2 + ((i / 8 * 16 + i / 2 % 2 * 8 + i % 2) * 136 + i / 4 % 2 * 8) * 2) : uint16_t();
        }
        // t: float32[32, 64] @ register_layout([32, 64], [2, 2, 8, 4, 2, 4, 2], [3, 2, 5], [0, 4, 1, 6]) = dot(a, b, c=acc)
        alignas(16) float t[16];
        #pragma unroll
        for (int mi = 0; mi < 2; mi++) {
            #pragma unroll
            for (int ni = 0; ni < 2; ni++) {
                m16n8k16_f16_f32(&t[(mi * 2 + ni) * 4], &a[mi * 2 * 4], &b[ni * 2], &acc[(mi * 2 + ni) * 4]);
            }
        }
        #pragma unroll
        for (int mi = 0; mi < 2; mi++) {
            #pragma unroll
            for (int ni = 0; ni < 2; ni++) {
                m16n8k16_f16_f32(&t[(mi * 2 + ni) * 4], &a[(mi * 2 + 1) * 4], &b[(1 * 2 + ni) * 2], &t[(mi * 2 + ni) * 4]);
            }
        }
        // acc: float32[32, 64] @ register_layout([32, 64], [2, 2, 8, 4, 2, 4, 2], [3, 2, 5], [0, 4, 1, 6]) = assign(t)
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            acc[i] = t[i];
        }
    }
    // t_1: float16[32, 64] @ register_layout([32, 64], [2, 2, 8, 4, 2, 4, 2], [3, 2, 5], [0, 4, 1, 6]) = cast(acc)
    alignas(16) uint32_t t_1[8];
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        t_1[i * 1 + 0] = f16x2_of_f32(reinterpret_cast<uint32_t*>(acc)[i * 2 + 0], reinterpret_cast<uint32_t*>(acc)[i * 2 + 1]);
    }
    // store_global(g_c, t_1, offsets=[i_, j_], dims=[0, 1])
    const int64_t at_3 = ((int64_t)(i_ + tid / 4 % 8) * 136ll + (int64_t)(j_ + (tid / 32 * 16 + tid % 4 * 2))) * 2ll;
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        if (i_ + tid / 4 % 8 + (i * 2 / 8 * 16 + i % 2 * 8) < m && j_ + (tid / 32 * 16 + tid % 4 * 2) + i * 2 / 4 % 2 * 8 < 136) *reinterpret_cast<uint32_t*>(g_c + at_3 + ((i * 2 / 8 * 16 + i % 2 * 8) * 136 + i * 2 / 4 % 2 * 8) * 2) = reinterpret_cast<uint32_t*>(t_1)[i];
    }
}
