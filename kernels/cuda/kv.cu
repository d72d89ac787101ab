// Blocks of the paged store copied, and key-value prefixes written into it.

#include "numbers.cuh"
#include "store.cuh"

// Copies whole blocks of `bytes` bytes (a multiple of 16): block (copy, layer, keys or values) of the grid. No block is both read
// and written, or written twice.
extern "C" __global__ void __launch_bounds__(256)
copy_blocks(uint4* keys, uint4* values, const uint2* copies, unsigned blocks, unsigned bytes) {
    const uint2 copy = copies[blockIdx.x];
    const size_t words = bytes / 16;
    uint4* layer = (blockIdx.z ? values : keys) + blockIdx.y * blocks * words;
    const uint4* from = layer + copy.x * words;
    uint4* to = layer + copy.y * words;
    for (unsigned i = threadIdx.x; i < words; i += blockDim.x) to[i] = from[i];
}

// Writes tokens `first + block of the grid` of a prefix [count, kv_heads · dim] into the store, at the same places of a sequence
// whose first blocks are `table`.
template <typename From, typename T>
__device__ void write_prefix(const From* prefix_keys, const From* prefix_values, T* keys, T* values, const unsigned* table,
                             unsigned first, unsigned kv_heads, unsigned dim) {
    const unsigned token = first + blockIdx.x;
    const unsigned slot = table[token / BLOCK_TOKENS] * BLOCK_TOKENS + token % BLOCK_TOKENS;
    const From* from = (blockIdx.y ? prefix_values : prefix_keys) + static_cast<size_t>(token) * kv_heads * dim;
    T* to = blockIdx.y ? values : keys;
    for (unsigned i = threadIdx.x; i < kv_heads * dim; i += blockDim.x) {
        to[in_store(slot, i / dim, kv_heads, dim) + i % dim] = narrow<T>(widen(from[i]));
    }
}

#define KERNEL(name, From, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
    name(const From* prefix_keys, const From* prefix_values, T* keys, T* values, const unsigned* table, unsigned first,    \
         unsigned kv_heads, unsigned dim) {                                                                                \
        write_prefix<From, T>(prefix_keys, prefix_values, keys, values, table, first, kv_heads, dim);                      \
    }
#define FROM_F32(dtype, T) KERNEL(write_f32_##dtype, float, T)
#define FROM_F16(dtype, T) KERNEL(write_f16_##dtype, f16, T)
#define FROM_BF16(dtype, T) KERNEL(write_bf16_##dtype, bf16, T)
EACH_DTYPE(FROM_F32)
EACH_DTYPE(FROM_F16)
EACH_DTYPE(FROM_BF16)
