typedef signed char int8_t;
typedef short int16_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

extern "C" __global__ void __launch_bounds__(128, 1) vector_add(int n, uint8_t* x_ptr, uint8_t* y_ptr, uint8_t* out_ptr) {
    const int tid = (int)threadIdx.x;
    __builtin_assume(tid >= 0 && tid < 128);
    // g_x: global float32[n] = global_view(x_ptr)
    uint8_t* const g_x = (uint8_t*)(x_ptr);
    // g_y: global float32[n] = global_view(y_ptr)
    uint8_t* const g_y = (uint8_t*)(y_ptr);
    // g_out: global float32[n] = global_view(out_ptr)
    uint8_t* const g_out = (uint8_t*)(out_ptr);
    int start = int(blockIdx.x) * 256;
    // x: float32[256] @ register_layout([256], [2, 128], [1], [0]) = load_global(g_x, offsets=[start], dims=[0])
    alignas(16) float x[2];
    const int64_t at_1 = (int64_t)(start + tid) * 4ll;
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        reinterpret_cast<uint32_t*>(x)[i] = start + tid + i * 128 < n ? *reinterpret_cast<const uint32_t*>(g_x + at_1 + i * 512) : uint32_t();
    }
    // y: float32[256] @ register_layout([256], [2, 128], [1], [0]) = load_global(g_y, offsets=[start], dims=[0])
    alignas(16) float y[2];
    const int64_t at_2 = (int64_t)(start + tid) * 4ll;
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        reinterpret_cast<uint32_t*>(y)[i] = start + tid + i * 128 < n ? *reinterpret_cast<const uint32_t*>(g_y + at_2 + i * 512) : uint32_t();
    }
    // t: float32[256] @ register_layout([256], [2, 128], [1], [0]) = elementwise("add", [x, y])
    alignas(16) float t[2];
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        t[i] = x[i] + y[i];
    }
    // store_global(g_out, t, offsets=[start], dims=[0])
    const int64_t at_3 = (int64_t)(start + tid) * 4ll;
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        if (start + tid + i * 128 < n) *reinterpret_cast<uint32_t*>(g_out + at_3 + i * 512) = reinterpret_cast<uint32_t*>(t)[i];
    }
}
