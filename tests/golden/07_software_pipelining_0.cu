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

__device__ __forceinline__ void ldmatrix_x4(uint32_t* words, const void* row) {
    asm volatile(
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(shared_address(row)) : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t* words, const void* row) {
    asm volatile(
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(shared_address(row)) : "memory");
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

extern "C" __global__ void __launch_bounds__(128, 1) pipelined_matmul(int m, uint8_t* a_ptr, uint8_t* b_ptr, uint8_t* c_ptr) {
    extern __shared__ __align__(1024) uint8_t arena[];
    const int tid = (int)threadIdx.x;
    __builtin_assume(tid >= 0 && tid < 128);
    // g_a: global float16[m, 200] = global_view(a_ptr)
    uint8_t* const g_a = (uint8_t*)(a_ptr);
    // g_b: global float16[200, 136] = global_view(b_ptr)
    uint8_t* const g_b = (uint8_t*)(b_ptr);
    // g_c: global float16[m, 136] = global_view(c_ptr)
    uint8_t* const g_c = (uint8_t*)(c_ptr);
    int i_ = int(blockIdx.x) * 32;
    int j_ = int(blockIdx.y) * 64;
    // s_a: shared float16[3, 32, 32] @ shared_layout([3, 32, 32], [3, 32, 1, 32], [1024, 32, 1024, 1], Swizzle(3, 2, 3)) = shared_tensor(offset=0)
    uint8_t* const s_a = arena + 0;
    // s_b: shared float16[3, 32, 64] @ shared_layout([3, 32, 64], [3, 32, 1, 64], [2048, 64, 2048, 1], Swizzle(3, 3, 3)) = shared_tensor(offset=6144)
    uint8_t* const s_b = arena + 6144;
    for (int stage = 0; stage < 2; stage += 1) {
        // t: shared float16[32, 32] @ shared_layout([32, 32], [32, 32], [32, 1], Swizzle(3, 2, 3)) = shared_slice(s_a, offsets=[stage, 0, 0], dims=[1, 2])
        uint8_t* const t = s_a;
        const int part_base = stage * 1024;
        // copy_async(t, g_a, offsets=[i_, stage * 32], dims=[0, 1])
        {
            const int64_t at_1 = ((int64_t)(i_ + tid / 4) * 200ll + (int64_t)(stage * 32 + tid % 4 * 8)) * 2ll;
            copy_async_16(t + (swizzle<3, 2, 3>(tid / 4 * 32 + tid % 4 * 8) + part_base) * 2, g_a + at_1, i_ + tid / 4 < m);
        }
        // t_1: shared float16[32, 64] @ shared_layout([32, 64], [32, 64], [64, 1], Swizzle(3, 3, 3)) = shared_slice(s_b, offsets=[stage, 0, 0], dims=[1, 2])
        uint8_t* const t_1 = s_b;
        const int part_base_1 = stage * 2048;
        // copy_async(t_1, g_b, offsets=[stage * 32, j_], dims=[0, 1])
        {
            const int64_t at_2 = ((stage * 32 + tid / 8) * 136 + (j_ + tid % 8 * 8)) * 2;
            copy_async_16(t_1 + (swizzle<3, 3, 3>(tid / 8 * 64 + tid % 8 * 8) + part_base_1) * 2, g_b + at_2, j_ + tid % 8 * 8 < 136);
            copy_async_16<4352>(t_1 + (swizzle<3, 3, 3>(tid / 8 * 64 + tid % 8 * 8) + part_base_1) * 2 + 2048, g_b + at_2, j_ + tid % 8 * 8 < 136);
        }
        // copy_async_commit_group()
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    // acc: float32[32, 64] @ register_layout([32, 64], [2, 2, 8, 4, 2, 4, 2], [3, 2, 5], [0, 4, 1, 6]) = register_tensor(init=0.0)
    alignas(16) float acc[16];
    #pragma unroll
    for (int i = 0; i < 16; i++) {
        acc[i] = 0.0f;
    }
    for (int step = 0; step < 7; step += 1) {
        // copy_async_wait_group(n=1)
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        // sync()
        __syncthreads();
        int ahead = step + 2;
        // t_2: shared float16[32, 32] @ shared_layout([32, 32], [32, 32], [32, 1], Swizzle(3, 2, 3)) = shared_slice(s_a, offsets=[ahead % 3, 0, 0], dims=[1, 2])
        uint8_t* const t_2 = s_a;
        const int part_base_2 = ahead % 3 * 1024;
        // copy_async(t_2, g_a, offsets=[i_, ahead * 32], dims=[0, 1])
        {
            const int64_t at_3 = ((int64_t)(i_ + tid / 4) * 200ll + (int64_t)(ahead * 32 + tid % 4 * 8)) * 2ll;
            copy_async_16(t_2 + (swizzle<3, 2, 3>(tid / 4 * 32 + tid % 4 * 8) + part_base_2) * 2, g_a + at_3, i_ + tid / 4 < m && ahead * 32 + tid % 4 * 8 < 200);
        }
        // t_3: shared float16[32, 64] @ shared_layout([32, 64], [32, 64], [64, 1], Swizzle(3, 3, 3)) = shared_slice(s_b, offsets=[ahead % 3, 0, 0], dims=[1, 2])
        uint8_t* const t_3 = s_b;
        const int part_base_3 = ahead % 3 * 2048;
        // copy_async(t_3, g_b, offsets=[ahead * 32, j_], dims=[0, 1])
        {
            const int64_t at_4 = ((ahead * 32 + tid / 8) * 136 + (j_ + tid % 8 * 8)) * 2;
            copy_async_16(t_3 + (swizzle<3, 3, 3>(tid / 8 * 64 + tid % 8 * 8) + part_base_3) * 2, g_b + at_4, ahead * 32 + tid / 8 < 200 && j_ + tid % 8 * 8 < 136);
            copy_async_16<4352>(t_3 + (swizzle<3, 3, 3>(tid / 8 * 64 + tid % 8 * 8) + part_base_3) * 2 + 2048, g_b + at_4, ahead * 32 + tid / 8 + 16 < 200 && j_ + tid % 8 * 8 < 136);
        }
        // copy_async_commit_group()
        asm volatile("cp.async.commit_group;" ::: "memory");
        // t_4: shared float16[32, 32] @ shared_layout([32, 32], [32, 32], [32, 1], Swizzle(3, 2, 3)) = shared_slice(s_a, offsets=[step % 3, 0, 0], dims=[1, 2])
        uint8_t* const t_4 = s_a;
        const int part_base_4 = step % 3 * 1024;
        // a: float16[32, 32] @ register_layout([32, 32], [2, 2, 8, 2, 2, 4, 2], [-4, 2, 5], [0, 3, 4, 1, 6]) = load_shared(t_4)
        alignas(16) uint32_t a[16];
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            ldmatrix_x4(&a[i * 4], t_4 + (swizzle<3, 2, 3>((tid % 8 + (i * 4 + tid % 32 / 8) * 2 / 16 * 16 + tid % 32 / 8 % 2 * 8) * 32 + (i * 4 + tid % 32 / 8) * 2 / 4 % 4 * 8) + part_base_4) * 2);
        }
        // t_5: shared float16[32, 64] @ shared_layout([32, 64], [32, 64], [64, 1], Swizzle(3, 3, 3)) = shared_slice(s_b, offsets=[step % 3, 0, 0], dims=[1, 2])
        uint8_t* const t_5 = s_b;
        const int part_base_5 = step % 3 * 2048;
        // b: float16[32, 64] @ register_layout([32, 64], [2, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = load_shared(t_5)
        alignas(16) uint32_t b[8];
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            ldmatrix_x4_trans(&b[i * 4], t_5 + (swizzle<3, 3, 3>((tid % 8 / 2 * 2 + ((i * 4 + tid % 32 / 8) * 2 + tid % 2) / 8 * 16 + tid % 32 / 8 % 2 * 8 + tid % 2) * 64 + tid / 32 * 16 + ((i * 4 + tid % 32 / 8) * 2 + tid % 2) / 4 % 2 * 8) + part_base_5) * 2);
        }
        // t_6: float32[32, 64] @ register_layout([32, 64], [2, 2, 8, 4, 2, 4, 2], [3, 2, 5], [0, 4, 1, 6]) = dot(a, b, c=acc)
        alignas(16) float t_6[16];
        #pragma unroll
        for (int mi = 0; mi < 2; mi++) {
            #pragma unroll
            for (int ni = 0; ni < 2; ni++) {
                m16n8k16_f16_f32(&t_6[(mi * 2 + ni) * 4], &a[mi * 2 * 4], &b[ni * 2], &acc[(mi * 2 + ni) * 4]);
            }
        }
        #pragma unroll
        for (int mi = 0; mi < 2; mi++) {
            #pragma unroll
            for (int ni = 0; ni < 2; ni++) {
                m16n8k16_f16_f32(&t_6[(mi * 2 + ni) * 4], &a[(mi * 2 + 1) * 4], &b[(1 * 2 + ni) * 2], &t_6[(mi * 2 + ni) * 4]);
            }
        }
        // acc: float32[32, 64] @ register_layout([32, 64], [2, 2, 8, 4, 2, 4, 2], [3, 2, 5], [0, 4, 1, 6]) = assign(t_6)
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            acc[i] = t_6[i];
        }
    }
    // copy_async_wait_all()
    asm volatile("cp.async.wait_all;" ::: "memory");
    // t_7: float16[32, 64] @ register_layout([32, 64], [2, 2, 8, 4, 2, 4, 2], [3, 2, 5], [0, 4, 1, 6]) = cast(acc)
    alignas(16) uint32_t t_7[8];
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        t_7[i * 1 + 0] = f16x2_of_f32(reinterpret_cast<uint32_t*>(acc)[i * 2 + 0], reinterpret_cast<uint32_t*>(acc)[i * 2 + 1]);
    }
    // store_global(g_c, t_7, offsets=[i_, j_], dims=[0, 1])
    const int64_t at_5 = ((int64_t)(i_ + tid / 4 % 8) * 136ll + (int64_t)(j_ + (tid / 32 * 16 + tid % 4 * 2))) * 2ll;
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        if (i_ + tid / 4 % 8 + (i * 2 / 8 * 16 + i % 2 * 8) < m && j_ + (tid / 32 * 16 + tid % 4 * 2) + i * 2 / 4 % 2 * 8 < 136) *reinterpret_cast<uint32_t*>(g_c + at_5 + ((i * 2 / 8 * 16 + i % 2 * 8) * 136 + i * 2 / 4 % 2 * 8) * 2) = reinterpret_cast<uint32_t*>(t_7)[i];
    }
}
