typedef signed char int8_t;
typedef short int16_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

__device__ __forceinline__ float infinity() {
    return __uint_as_float(0x7F800000u);
}

__device__ __forceinline__ float max_f32(float a, float b) {
    float result;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}

extern "C" __global__ void __launch_bounds__(128, 1) softmax(int m, uint8_t* x_ptr, uint8_t* out_ptr) {
    const int tid = (int)threadIdx.x;
    __builtin_assume(tid >= 0 && tid < 128);
    // g_x: global float32[m, 100] = global_view(x_ptr)
    uint8_t* const g_x = (uint8_t*)(x_ptr);
    // g_out: global float32[m, 100] = global_view(out_ptr)
    uint8_t* const g_out = (uint8_t*)(out_ptr);
    int row = int(blockIdx.x) * 4;
    // x: float32[4, 128] @ register_layout([4, 128], [4, 32, 4], [0, 1], [2]) = load_global(g_x, offsets=[row, 0], dims=[0, 1])
    alignas(16) float x[4];
    const int64_t at_1 = ((int64_t)(row + tid / 32) * 100ll + (int64_t)(tid % 32 * 4)) * 4ll;
    {
        reinterpret_cast<uint4*>(x)[0] = row + tid / 32 < m && tid % 32 * 4 < 100 ? *reinterpret_cast<const uint4*>(g_x + at_1) : uint4();
    }
    // inside: boolean[4, 128] @ register_layout([4, 128], [4, 32, 4], [0, 1], [2]) = register_tensor(axes=[i0, i1], init=i1 < 100)
    alignas(16) bool inside[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        inside[i] = tid % 32 * 4 + i < 100;
    }
    // t: float32[4, 128] @ register_layout([4, 128], [4, 32, 4], [0, 1], [2]) = elementwise("where", [inside, x, -inf])
    alignas(16) float t[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        t[i] = inside[i] ? x[i] : (-infinity());
    }
    // x: float32[4, 128] @ register_layout([4, 128], [4, 32, 4], [0, 1], [2]) = assign(t)
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        x[i] = t[i];
    }
    // t_1: float32[4, 1] @ register_layout([4, 1], [4], [0, -32], []) = max(x, dims=[1], keepdim=True)
    alignas(16) float t_1[1];
    {
        float total_2[1];
        {
            total_2[0] = x[0];
        }
        #pragma unroll
        for (int i = 0; i < 3; i++) {
            total_2[0] = max_f32(total_2[0], x[(i + 1)]);
        }
        {
            total_2[0] = max_f32(total_2[0], __shfl_xor_sync(0xffffffffu, total_2[0], 1));
        }
        {
            total_2[0] = max_f32(total_2[0], __shfl_xor_sync(0xffffffffu, total_2[0], 2));
        }
        {
            total_2[0] = max_f32(total_2[0], __shfl_xor_sync(0xffffffffu, total_2[0], 4));
        }
        {
            total_2[0] = max_f32(total_2[0], __shfl_xor_sync(0xffffffffu, total_2[0], 8));
        }
        {
            total_2[0] = max_f32(total_2[0], __shfl_xor_sync(0xffffffffu, total_2[0], 16));
        }
        {
            t_1[0] = total_2[0];
        }
    }
    // t_2: float32[4, 128] @ register_layout([4, 128], [4, 32, 4], [0, 1], [2]) = elementwise("sub", [x, t_1])
    alignas(16) float t_2[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        t_2[i] = x[i] - t_1[0];
    }
    // e: float32[4, 128] @ register_layout([4, 128], [4, 32, 4], [0, 1], [2]) = elementwise("exp", [t_2])
    alignas(16) float e[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        e[i] = expf(t_2[i]);
    }
    // t_3: float32[4, 1] @ register_layout([4, 1], [4], [0, -32], []) = sum(e, dims=[1], keepdim=True)
    alignas(16) float t_3[1];
    {
        float total_3[1];
        {
            total_3[0] = e[0];
        }
        #pragma unroll
        for (int i = 0; i < 3; i++) {
            total_3[0] = total_3[0] + e[(i + 1)];
        }
        {
            total_3[0] = total_3[0] + __shfl_xor_sync(0xffffffffu, total_3[0], 1);
        }
        {
            total_3[0] = total_3[0] + __shfl_xor_sync(0xffffffffu, total_3[0], 2);
        }
        {
            total_3[0] = total_3[0] + __shfl_xor_sync(0xffffffffu, total_3[0], 4);
        }
        {
            total_3[0] = total_3[0] + __shfl_xor_sync(0xffffffffu, total_3[0], 8);
        }
        {
            total_3[0] = total_3[0] + __shfl_xor_sync(0xffffffffu, total_3[0], 16);
        }
        {
            t_3[0] = total_3[0];
        }
    }
    // t_4: float32[4, 128] @ register_layout([4, 128], [4, 32, 4], [0, 1], [2]) = elementwise("truediv", [e, t_3])
    alignas(16) float t_4[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        t_4[i] = e[i] / t_3[0];
    }
    // store_global(g_out, t_4, offsets=[row, 0], dims=[0, 1])
    const int64_t at_4 = ((int64_t)(row + tid / 32) * 100ll + (int64_t)(tid % 32 * 4)) * 4ll;
    {
        if (row + tid / 32 < m && tid % 32 * 4 < 100) *reinterpret_cast<uint4*>(g_out + at_4) = reinterpret_cast<uint4*>(t_4)[0];
    }
}
