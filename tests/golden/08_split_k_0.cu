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

// Spin until the int at `semaphore` is `value`; what its releaser wrote is then visible.
__device__ __forceinline__ void wait_semaphore(const void* semaphore, int value) {
    int found;
    do {
        asm volatile("ld.acquire.gpu.global.s32 %0, [%1];"
            : "=r"(found) : "l"(semaphore) : "memory");
    } while (found != value);
}

// Publish all that the block wrote before the last barrier, then set the int at `semaphore`.
__device__ __forceinline__ void release_semaphore(void* semaphore, int value) {
    __threadfence();
    asm volatile("st.release.gpu.global.s32 [%0], %1;" :: "l"(semaphore), "r"(value) : "memory");
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

extern "C" __global__ void __launch_bounds__(128, 1) split_k_matmul(int m, uint8_t* a_ptr, uint8_t* b_ptr, uint8_t* c_ptr, uint8_t* workspace0, uint8_t* workspace1) {
    const int tid = (int)threadIdx.x;
    __builtin_assume(tid >= 0 && tid < 128);
    int tiles_m = floordiv((m + 15), 16);
    // g_a: global float16[m, 300] = global_view(a_ptr)
    uint8_t* const g_a = (uint8_t*)(a_ptr);
    // g_b: global float16[300, 200] = global_view(b_ptr)
    uint8_t* const g_b = (uint8_t*)(b_ptr);
    // g_c: global float16[m, 200] = global_view(c_ptr)
    uint8_t* const g_c = (uint8_t*)(c_ptr);
    // partial: global float32[m, 200] = global_tensor(requires_clean=True)
    uint8_t* const partial = workspace0;
    // turns: global int32[tiles_m, 4] = global_tensor(requires_clean=True)
    uint8_t* const turns = workspace1;
    int turn = int(blockIdx.x);
    int i_ = int(blockIdx.y) * 16;
    int j_ = int(blockIdx.z) * 64;
    // acc: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = register_tensor(init=0.0)
    alignas(16) float acc[8];
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        acc[i] = 0.0f;
    }
    for (int step = 0; step < 3; step += 1) {
        int p = (turn * 3 + step) * 32;
        // a: float16[16, 32] @ register_layout([16, 32], [2, 8, 2, 2, 4, 2], [-4, 1, 4], [2, 3, 0, 5]) = load_global(g_a, offsets=[i_, p], dims=[0, 1])
        alignas(16) uint32_t a[8];
        const int64_t at_1 = ((int64_t)(i_ + tid / 4 % 8) * 300ll + (int64_t)(p + tid % 4 * 2)) * 2ll;
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            reinterpret_cast<uint32_t*>(a)[i] = i_ + tid / 4 % 8 + i % 2 * 8 < m && p + tid % 4 * 2 + i * 2 / 4 * 8 < 300 ? *reinterpret_cast<const uint32_t*>(g_a + at_1 + (i % 2 * 2400 + i * 2 / 4 * 8) * 2) : uint32_t();
        }
        // b: float16[32, 64] @ register_layout([32, 64], [2, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = load_global(g_b, offsets=[p, j_], dims=[0, 1])
        alignas(16) uint32_t b[8];
        const int64_t at_2 = ((p + tid % 4 * 2) * 200 + (j_ + (tid / 32 * 16 + tid / 4 % 8))) * 2;
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            reinterpret_cast<uint16_t*>(b)[i] = p + tid % 4 * 2 + (i / 8 * 16 + i / 2 % 2 * 8 + i % 2) < 300 && j_ + (tid / 32 * 16 + tid / 4 % 8) + i / 4 % 2 * 8 < 200 ? *reinterpret_cast<const uint16_t*>(g_b + at_2 + ((i / 8 * 16 + i / 2 % 2 * 8 + i % 2) * 200 + i / 4 % 2 * 8) * 2) : uint16_t();
        }
        // t: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = dot(a, b, c=acc)
        alignas(16) float t[8];
        #pragma unroll
        for (int ni = 0; ni < 2; ni++) {
            m16n8k16_f16_f32(&t[ni * 4], &a[0], &b[ni * 2], &acc[ni * 4]);
        }
        #pragma unroll
        for (int ni = 0; ni < 2; ni++) {
            m16n8k16_f16_f32(&t[ni * 4], &a[1 * 4], &b[(1 * 2 + ni) * 2], &t[ni * 4]);
        }
        // acc: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = assign(t)
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            acc[i] = t[i];
        }
    }
    // t_1: global int32[] = global_slice(turns, offsets=[blockIdx.y, blockIdx.z], dims=[])
    uint8_t* const t_1 = turns + (((int64_t)0) + (int64_t)int(blockIdx.y) * 4ll + (int64_t)int(blockIdx.z)) * 4ll;
    // pointer: scalar ~int32 = item_ptr(t_1)
    uint8_t* pointer = t_1;
    uint8_t* semaphore = pointer;
    // lock_semaphore(semaphore, turn)
    if (tid == 0) wait_semaphore(semaphore, turn);
    __syncthreads();
    // t_2: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = load_global(partial, offsets=[i_, j_], dims=[0, 1])
    alignas(16) float t_2[8];
    const int64_t at_3 = ((int64_t)(i_ + tid / 4 % 8) * 200ll + (int64_t)(j_ + (tid / 32 * 16 + tid % 4 * 2))) * 4ll;
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        reinterpret_cast<uint2*>(t_2)[i] = i_ + tid / 4 % 8 + i % 2 * 8 < m && j_ + (tid / 32 * 16 + tid % 4 * 2) + i * 2 / 4 * 8 < 200 ? *reinterpret_cast<const uint2*>(partial + at_3 + (i % 2 * 1600 + i * 2 / 4 * 8) * 4) : uint2();
    }
    // t_3: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = elementwise("add", [acc, t_2])
    alignas(16) float t_3[8];
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        t_3[i] = acc[i] + t_2[i];
    }
    // acc: float32[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = assign(t_3)
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        acc[i] = t_3[i];
    }
    if (turn < 3) {
        // store_global(partial, acc, offsets=[i_, j_], dims=[0, 1])
        const int64_t at_4 = ((int64_t)(i_ + tid / 4 % 8) * 200ll + (int64_t)(j_ + (tid / 32 * 16 + tid % 4 * 2))) * 4ll;
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i_ + tid / 4 % 8 + i % 2 * 8 < m && j_ + (tid / 32 * 16 + tid % 4 * 2) + i * 2 / 4 * 8 < 200) *reinterpret_cast<uint2*>(partial + at_4 + (i % 2 * 1600 + i * 2 / 4 * 8) * 4) = reinterpret_cast<uint2*>(acc)[i];
        }
        // release_semaphore(semaphore, turn + 1)
        __syncthreads();
        if (tid == 0) release_semaphore(semaphore, turn + 1);
    }
    else {
        // t_4: float16[16, 64] @ register_layout([16, 64], [2, 8, 4, 2, 4, 2], [2, 1, 4], [3, 0, 5]) = cast(acc)
        alignas(16) uint32_t t_4[4];
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            t_4[i * 1 + 0] = f16x2_of_f32(reinterpret_cast<uint32_t*>(acc)[i * 2 + 0], reinterpret_cast<uint32_t*>(acc)[i * 2 + 1]);
        }
        // store_global(g_c, t_4, offsets=[i_, j_], dims=[0, 1])
        const int64_t at_5 = ((int64_t)(i_ + tid / 4 % 8) * 200ll + (int64_t)(j_ + (tid / 32 * 16 + tid % 4 * 2))) * 2ll;
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i_ + tid / 4 % 8 + i % 2 * 8 < m && j_ + (tid / 32 * 16 + tid % 4 * 2) + i * 2 / 4 * 8 < 200) *reinterpret_cast<uint32_t*>(g_c + at_5 + (i % 2 * 1600 + i * 2 / 4 * 8) * 2) = reinterpret_cast<uint32_t*>(t_4)[i];
        }
        // zeros: float32[16, 64] @ register_layout([16, 64], [2, 8, 16, 4], [1, 2], [0, 3]) = register_tensor(init=0.0)
        alignas(16) float zeros[8];
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            zeros[i] = 0.0f;
        }
        // store_global(partial, zeros, offsets=[i_, j_], dims=[0, 1])
        const int64_t at_6 = ((int64_t)(i_ + tid / 16) * 200ll + (int64_t)(j_ + tid % 16 * 4)) * 4ll;
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            if (i_ + tid / 16 + i * 8 < m && j_ + tid % 16 * 4 < 200) *reinterpret_cast<uint4*>(partial + at_6 + i * 6400) = reinterpret_cast<uint4*>(zeros)[i];
        }
        // release_semaphore(semaphore, 0)
        __syncthreads();
        if (tid == 0) release_semaphore(semaphore, 0);
    }
}
