typedef signed char int8_t;
typedef short int16_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

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

extern "C" __global__ void __launch_bounds__(128, 1) layer_norm(int m, float eps, uint8_t* x_ptr, uint8_t* weight_ptr, uint8_t* bias_ptr, uint8_t* out_ptr) {
    extern __shared__ __align__(1024) uint8_t arena[];
    uint8_t* const scratch = arena + 0;
    const int tid = (int)threadIdx.x;
    __builtin_assume(tid >= 0 && tid < 128);
    // g_x: global float16[m, 600] = global_view(x_ptr)
    uint8_t* const g_x = (uint8_t*)(x_ptr);
    // g_weight: global float16[600] = global_view(weight_ptr)
    uint8_t* const g_weight = (uint8_t*)(weight_ptr);
    // g_bias: global float16[600] = global_view(bias_ptr)
    uint8_t* const g_bias = (uint8_t*)(bias_ptr);
    // g_out: global float16[m, 600] = global_view(out_ptr)
    uint8_t* const g_out = (uint8_t*)(out_ptr);
    int row = int(blockIdx.x);
    // total: float32[256] @ register_layout([256], [128, 2], [0], [1]) = register_tensor(init=0.0)
    alignas(16) float total[2];
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        total[i] = 0.0f;
    }
    // squares: float32[256] @ register_layout([256], [128, 2], [0], [1]) = register_tensor(init=0.0)
    alignas(16) float squares[2];
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        squares[i] = 0.0f;
    }
    for (int j_ = 0; j_ < 600; j_ += 256) {
        // t: float16[256] @ register_layout([256], [128, 2], [0], [1]) = load_global(g_x, offsets=[row, j_], dims=[1])
        alignas(16) uint32_t t[1];
        const int64_t at_1 = ((int64_t)row * 600ll + (int64_t)(j_ + tid * 2)) * 2ll;
        {
            reinterpret_cast<uint32_t*>(t)[0] = row < m && j_ + tid * 2 < 600 ? *reinterpret_cast<const uint32_t*>(g_x + at_1) : uint32_t();
        }
        // x: float32[256] @ register_layout([256], [128, 2], [0], [1]) = cast(t)
        alignas(16) float x[2];
        {
            reinterpret_cast<uint32_t*>(x)[0] = f32_of_low_f16(t[0]);
            reinterpret_cast<uint32_t*>(x)[1] = f32_of_high_f16(t[0]);
        }
        // t_1: float32[256] @ register_layout([256], [128, 2], [0], [1]) = elementwise("add", [total, x])
        alignas(16) float t_1[2];
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            t_1[i] = total[i] + x[i];
        }
        // total: float32[256] @ register_layout([256], [128, 2], [0], [1]) = assign(t_1)
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            total[i] = t_1[i];
        }
        // t_2: float32[256] @ register_layout([256], [128, 2], [0], [1]) = elementwise("mul", [x, x])
        alignas(16) float t_2[2];
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            t_2[i] = x[i] * x[i];
        }
        // t_3: float32[256] @ register_layout([256], [128, 2], [0], [1]) = elementwise("add", [squares, t_2])
        alignas(16) float t_3[2];
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            t_3[i] = squares[i] + t_2[i];
        }
        // squares: float32[256] @ register_layout([256], [128, 2], [0], [1]) = assign(t_3)
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            squares[i] = t_3[i];
        }
    }
    // t_4: float32[1] @ register_layout([1], [], [-128], []) = sum(total, dims=[0], keepdim=True)
    alignas(16) float t_4[1];
    {
        float total_2[1];
        {
            total_2[0] = total[0];
        }
        {
            total_2[0] = total_2[0] + total[1];
        }
        {
            total_2[0] = total_2[0] + __shfl_xor_sync(0xffffffffu, total_2[0], 1);
        }
        {
            total_2[0] = total_2[0] + __shfl_xor_sync(0xffffffffu, total_2[0], 2);
        }
        {
            total_2[0] = total_2[0] + __shfl_xor_sync(0xffffffffu, total_2[0], 4);
        }
        {
            total_2[0] = total_2[0] + __shfl_xor_sync(0xffffffffu, total_2[0], 8);
        }
        {
            total_2[0] = total_2[0] + __shfl_xor_sync(0xffffffffu, total_2[0], 16);
        }
        float* const box_3 = reinterpret_cast<float*>(scratch);
        const int place_4 = 0;
        __syncthreads();
        if (tid % 32 == 0) {
            {
                box_3[(tid / 32) + place_4] = total_2[0];
            }
        }
        __syncthreads();
        {
            float folded = box_3[place_4];
            #pragma unroll
            for (int j = 0; j < 3; j++) {
                folded = folded + box_3[(j + 1) + place_4];
            }
            total_2[0] = folded;
        }
        {
            t_4[0] = total_2[0];
        }
    }
    // mean: float32[1] @ register_layout([1], [], [-128], []) = elementwise("truediv", [t_4, 600.0])
    alignas(16) float mean[1];
    {
        mean[0] = t_4[0] / 600.0f;
    }
    // t_5: float32[1] @ register_layout([1], [], [-128], []) = sum(squares, dims=[0], keepdim=True)
    alignas(16) float t_5[1];
    {
        float total_5[1];
        {
            total_5[0] = squares[0];
        }
        {
            total_5[0] = total_5[0] + squares[1];
        }
        {
            total_5[0] = total_5[0] + __shfl_xor_sync(0xffffffffu, total_5[0], 1);
        }
        {
            total_5[0] = total_5[0] + __shfl_xor_sync(0xffffffffu, total_5[0], 2);
        }
        {
            total_5[0] = total_5[0] + __shfl_xor_sync(0xffffffffu, total_5[0], 4);
        }
        {
            total_5[0] = total_5[0] + __shfl_xor_sync(0xffffffffu, total_5[0], 8);
        }
        {
            total_5[0] = total_5[0] + __shfl_xor_sync(0xffffffffu, total_5[0], 16);
        }
        float* const box_6 = reinterpret_cast<float*>(scratch);
        const int place_7 = 0;
        __syncthreads();
        if (tid % 32 == 0) {
            {
                box_6[(tid / 32) + place_7] = total_5[0];
            }
        }
        __syncthreads();
        {
            float folded = box_6[place_7];
            #pragma unroll
            for (int j = 0; j < 3; j++) {
                folded = folded + box_6[(j + 1) + place_7];
            }
            total_5[0] = folded;
        }
        {
            t_5[0] = total_5[0];
        }
    }
    // t_6: float32[1] @ register_layout([1], [], [-128], []) = elementwise("truediv", [t_5, 600.0])
    alignas(16) float t_6[1];
    {
        t_6[0] = t_5[0] / 600.0f;
    }
    // t_7: float32[1] @ register_layout([1], [], [-128], []) = elementwise("square", [mean])
    alignas(16) float t_7[1];
    {
        t_7[0] = mean[0] * mean[0];
    }
    // variance: float32[1] @ register_layout([1], [], [-128], []) = elementwise("sub", [t_6, t_7])
    alignas(16) float variance[1];
    {
        variance[0] = t_6[0] - t_7[0];
    }
    // t_8: float32[1] @ register_layout([1], [], [-128], []) = elementwise("add", [variance, eps])
    alignas(16) float t_8[1];
    {
        t_8[0] = variance[0] + eps;
    }
    // scale: float32[1] @ register_layout([1], [], [-128], []) = elementwise("rsqrt", [t_8])
    alignas(16) float scale[1];
    {
        scale[0] = rsqrtf(t_8[0]);
    }
    for (int j__1 = 0; j__1 < 600; j__1 += 256) {
        // t_9: float16[256] @ register_layout([256], [128, 2], [0], [1]) = load_global(g_x, offsets=[row, j__1], dims=[1])
        alignas(16) uint32_t t_9[1];
        const int64_t at_8 = ((int64_t)row * 600ll + (int64_t)(j__1 + tid * 2)) * 2ll;
        {
            reinterpret_cast<uint32_t*>(t_9)[0] = row < m && j__1 + tid * 2 < 600 ? *reinterpret_cast<const uint32_t*>(g_x + at_8) : uint32_t();
        }
        // x_1: float32[256] @ register_layout([256], [128, 2], [0], [1]) = cast(t_9)
        alignas(16) float x_1[2];
        {
            reinterpret_cast<uint32_t*>(x_1)[0] = f32_of_low_f16(t_9[0]);
            reinterpret_cast<uint32_t*>(x_1)[1] = f32_of_high_f16(t_9[0]);
        }
        // t_10: float16[256] @ register_layout([256], [128, 2], [0], [1]) = load_global(g_weight, offsets=[j__1], dims=[0])
        alignas(16) uint32_t t_10[1];
        const int64_t at_9 = (j__1 + tid * 2) * 2;
        {
            reinterpret_cast<uint32_t*>(t_10)[0] = j__1 + tid * 2 < 600 ? *reinterpret_cast<const uint32_t*>(g_weight + at_9) : uint32_t();
        }
        // weight: float32[256] @ register_layout([256], [128, 2], [0], [1]) = cast(t_10)
        alignas(16) float weight[2];
        {
            reinterpret_cast<uint32_t*>(weight)[0] = f32_of_low_f16(t_10[0]);
            reinterpret_cast<uint32_t*>(weight)[1] = f32_of_high_f16(t_10[0]);
        }
        // t_11: float16[256] @ register_layout([256], [128, 2], [0], [1]) = load_global(g_bias, offsets=[j__1], dims=[0])
        alignas(16) uint32_t t_11[1];
        const int64_t at_10 = (j__1 + tid * 2) * 2;
        {
            reinterpret_cast<uint32_t*>(t_11)[0] = j__1 + tid * 2 < 600 ? *reinterpret_cast<const uint32_t*>(g_bias + at_10) : uint32_t();
        }
        // bias: float32[256] @ register_layout([256], [128, 2], [0], [1]) = cast(t_11)
        alignas(16) float bias[2];
        {
            reinterpret_cast<uint32_t*>(bias)[0] = f32_of_low_f16(t_11[0]);
            reinterpret_cast<uint32_t*>(bias)[1] = f32_of_high_f16(t_11[0]);
        }
        // t_12: float32[256] @ register_layout([256], [128, 2], [0], [1]) = elementwise("sub", [x_1, mean])
        alignas(16) float t_12[2];
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            t_12[i] = x_1[i] - mean[0];
        }
        // t_13: float32[256] @ register_layout([256], [128, 2], [0], [1]) = elementwise("mul", [t_12, scale])
        alignas(16) float t_13[2];
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            t_13[i] = t_12[i] * scale[0];
        }
        // t_14: float32[256] @ register_layout([256], [128, 2], [0], [1]) = elementwise("mul", [t_13, weight])
        alignas(16) float t_14[2];
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            t_14[i] = t_13[i] * weight[i];
        }
        // y: float32[256] @ register_layout([256], [128, 2], [0], [1]) = elementwise("add", [t_14, bias])
        alignas(16) float y[2];
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            y[i] = t_14[i] + bias[i];
        }
        // t_15: float16[256] @ register_layout([256], [128, 2], [0], [1]) = cast(y)
        alignas(16) uint32_t t_15[1];
        {
            t_15[0] = f16x2_of_f32(reinterpret_cast<uint32_t*>(y)[0], reinterpret_cast<uint32_t*>(y)[1]);
        }
        // store_global(g_out, t_15, offsets=[row, j__1], dims=[1])
        const int64_t at_11 = ((int64_t)row * 600ll + (int64_t)(j__1 + tid * 2)) * 2ll;
        {
            if (row < m && j__1 + tid * 2 < 600) *reinterpret_cast<uint32_t*>(g_out + at_11) = reinterpret_cast<uint32_t*>(t_15)[0];
        }
    }
}
