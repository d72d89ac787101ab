// Rotary embedding of queries and keys, and keys and values on their way into the paged store: one launch for all.

#include "numbers.cuh"
#include "rotation.cuh"
#include "store.cuh"

// The longest half of a head.
constexpr unsigned LONGEST_HALF = 256;

// One block per token. Queries [tokens, heads · dim] and keys [tokens, kv_heads · dim] are turned in place by
// `position · inverse[i]` where `inverse` [dim / 2] is not null. Keys and values then go to `slots[token]` of the store where it
// is not null; slots outside the store are nowhere.
template <typename T>
__device__ void rotate_store(T* query, unsigned query_stride, T* key, unsigned key_stride, const T* value,
                             unsigned value_stride, const unsigned* positions, const float* inverse, T* keys, T* values,
                             const unsigned* slots, unsigned blocks, unsigned heads, unsigned kv_heads, unsigned dim) {
    __shared__ Turn turns[LONGEST_HALF];
    const size_t token = blockIdx.x;
    const unsigned half = dim / 2;
    query += token * query_stride;
    key += token * key_stride;
    value += token * value_stride;
    const unsigned slot = slots ? slots[token] : NOWHERE;
    const bool stores = keys && slot / BLOCK_TOKENS < blocks;
    const bool wide = half % 8 == 0 && aligned(query) && aligned(key) && aligned(value) && aligned(keys) && aligned(values);

    if (inverse) {
        for (unsigned i = threadIdx.x; i < half; i += blockDim.x) turns[i] = Turn::by(positions[token], inverse[i]);
        __syncthreads();
    }
    const unsigned pieces = (half + 7) / 8;
    // Without rotation, queries stay as they are.
    const unsigned first = inverse ? 0 : heads * pieces;
    for (unsigned item = first + threadIdx.x; item < (heads + kv_heads) * pieces; item += blockDim.x) {
        const unsigned head = item / pieces, i = item % pieces * 8, count = half - i;
        const bool is_query = head < heads;
        T* at = (is_query ? query + head * dim : key + (head - heads) * dim) + i;
        Eight a = load_some(at, count, wide), b = load_some(at + half, count, wide);
        if (inverse) {
#pragma unroll
            for (unsigned j = 0; j < 8; j++) {
                if (j < count) turns[i + j].apply(a.x[j], b.x[j]);
            }
            store_some(at, a, count, wide);
            store_some(at + half, b, count, wide);
        }
        if (!is_query && stores) {
            T* to = keys + in_store(slot, head - heads, kv_heads, dim) + i;
            store_some(to, a, count, wide);
            store_some(to + half, b, count, wide);
        }
    }
    if (!stores) return;
    const unsigned value_pieces = (dim + 7) / 8;
    for (unsigned item = threadIdx.x; item < kv_heads * value_pieces; item += blockDim.x) {
        const unsigned head = item / value_pieces, i = item % value_pieces * 8;
        const Eight x = load_some(value + head * dim + i, dim - i, wide);
        store_some(values + in_store(slot, head, kv_heads, dim) + i, x, dim - i, wide);
    }
}

#define KERNEL(dtype, T)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256) rotate_store_##dtype(                                                \
        T* query, unsigned query_stride, T* key, unsigned key_stride, const T* value, unsigned value_stride,               \
        const unsigned* positions, const float* inverse, T* keys, T* values, const unsigned* slots, unsigned blocks,       \
        unsigned heads, unsigned kv_heads, unsigned dim) {                                                                 \
        rotate_store<T>(query, query_stride, key, key_stride, value, value_stride, positions, inverse, keys, values,       \
                        slots, blocks, heads, kv_heads, dim);                                                              \
    }
EACH_DTYPE(KERNEL)
