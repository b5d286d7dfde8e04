typedef signed char int8_t;
typedef short int16_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

// The N bits at bit `position` of packed memory; they lie in one byte or two.
template <int N> __device__ __forceinline__ uint32_t load_bits(
    const uint8_t* memory, int64_t position) {
    const uint8_t* byte = memory + (position >> 3);
    const int shift = (int)(position & 7);
    uint32_t value = byte[0] >> shift;
    if (shift + N > 8) value |= (uint32_t)byte[1] << (8 - shift);
    return value & ((1u << N) - 1u);
}

// Replace element k; bits of `value` above N are dropped.
template <int N> __device__ __forceinline__ void put(uint32_t* words, int k, uint32_t value) {
    const int word = k * N / 32, shift = k * N % 32;
    const uint32_t mask = 0xFFFFFFFFu >> (32 - N);
    words[word] = (words[word] & ~(mask << shift)) | (value & mask) << shift;
    if (shift + N > 32) {
        const int rest = 32 - shift;
        words[word + 1] = (words[word + 1] & ~(mask >> rest)) | (value & mask) >> rest;
    }
}

extern "C" __global__ void __launch_bounds__(128, 1) pack_tiles(uint8_t* codes_ptr, uint8_t* tiles_ptr) {
    const int tid = (int)threadIdx.x;
    __builtin_assume(tid >= 0 && tid < 128);
    // g_codes: global int4b[96, 128] = global_view(codes_ptr)
    uint8_t* const g_codes = (uint8_t*)(codes_ptr);
    // g_tiles: global uint8[3, 2, 1024] = global_view(tiles_ptr)
    uint8_t* const g_tiles = (uint8_t*)(tiles_ptr);
    // codes: int4b[32, 64] @ register_layout([32, 64], [2, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]) = load_global(g_codes, offsets=[blockIdx.x * 32, blockIdx.y * 64], dims=[0, 1])
    alignas(16) uint32_t codes[2] = {};
    const int64_t at_1 = (int(blockIdx.x) * 32 + tid % 4 * 2) * 128 + (int(blockIdx.y) * 64 + (tid / 32 * 16 + tid / 4 % 8));
    #pragma unroll
    for (int i = 0; i < 16; i++) {
        put<4>(codes, i, load_bits<4>(g_codes, (at_1 + (i / 8 * 16 + i / 2 % 2 * 8 + i % 2) * 128 + i / 4 % 2 * 8) * 4));
    }
    // annotate_layout(codes, layout=register_layout([32, 64], [2, 2, 4, 2, 4, 2, 8], [4, 6, 2], [0, 5, 1, 3]))
    // packed: uint8[1024] @ register_layout([1024], [128, 8], [0], [1]) = view(codes)
    auto& packed = codes;
    // store_global(g_tiles, packed, offsets=[blockIdx.x, blockIdx.y, 0], dims=[2])
    const int64_t at_2 = int(blockIdx.x) * 2048 + int(blockIdx.y) * 1024 + tid * 8;
    {
        *reinterpret_cast<uint2*>(g_tiles + at_2) = reinterpret_cast<uint2*>(packed)[0];
    }
}
