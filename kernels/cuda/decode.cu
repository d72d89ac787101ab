// Attention of one new token per row over the paged store, from its rotary embedding to the sum of all splits: one launch.

#include "ahead.cuh"
#include "new_token.cuh"
#include "numbers.cuh"
#include "store.cuh"

constexpr unsigned WARPS = 4, THREADS = WARPS * WARP;

// Tokens of a split, at least: less is not worth a block.
constexpr unsigned SPLIT_TOKENS = WARPS * BLOCK_TOKENS;

// What exponents are taken relative to: the largest score, or anything where there is none.
__device__ inline float base_of(float largest) { return largest == -INFINITY ? 0.0f : largest; }

// Blocks that a multiprocessor shall have room for at once: registers are what there is least of. With four, 64 rows of 8 key-value
// heads are one round.
constexpr unsigned at_once(unsigned group, unsigned lanes) { return group > 4 || group * lanes > 64 ? 2 : 4; }

// Four sums of a head, over their weights' total.
template <typename T> __device__ inline void put_four(T* out, float4 sums, float total) {
    const float each[4] = {sums.x, sums.y, sums.z, sums.w};
#pragma unroll
    for (unsigned j = 0; j < 4; j++) out[j] = narrow<T>(total > 0.0f ? each[j] / total : 0.0f);
}

// Whether this block is the last of `count` that come here. What the others wrote before is then there; the counter is 0 again.
__device__ inline bool comes_last(unsigned* counter, unsigned count) {
    __shared__ bool is_last;
    // One thread's fence stands for all: the barrier puts their writes before it.
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        is_last = atomicAdd(counter, 1) == count - 1;
        if (is_last) *counter = 0;
        __threadfence();
    }
    __syncthreads();
    return is_last;
}

// Puts `count` splits of `own_heads` heads together, in their order: sums [splits, heads, dim], and the largest score and the
// weights' total of each [splits, heads]. Pointers lead to the first head.
template <typename T, unsigned GROUP>
__device__ void combine(const float* sums, const float2* weights, T* out, unsigned count, unsigned own_heads, unsigned heads,
                        unsigned dim) {
    __shared__ float factors[GROUP][WARP], totals[GROUP];
    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    for (unsigned g = warp; g < own_heads; g += WARPS) {
        const float2 weight = lane < count ? __ldcg(weights + lane * heads + g) : make_float2(-INFINITY, 0.0f);
        const float factor = exp2_fast(weight.x - base_of(lanes_most<WARP>(weight.x)));
        const float total = lanes_sum<WARP>(weight.y * factor);
        factors[g][lane] = factor;
        if (lane == 0) totals[g] = total;
    }
    __syncthreads();
    const unsigned fours = dim / 4;
    for (unsigned i = threadIdx.x; i < own_heads * fours; i += THREADS) {
        const unsigned g = i / fours;
        const float4* at = reinterpret_cast<const float4*>(sums) + i;
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 8
        for (unsigned split = 0; split < count; split++) {
            const float4 more = __ldcg(at + static_cast<size_t>(split) * heads * fours);
            const float factor = factors[g][split];
            sum = make_float4(sum.x + more.x * factor, sum.y + more.y * factor, sum.z + more.z * factor,
                              sum.w + more.w * factor);
        }
        put_four(out + i * 4, sum, totals[g]);
    }
}

// Block (kv_heads · parts, splits, rows) of the grid attends to a split of a row's tokens with GROUP query heads, `part` of those
// that share a key-value head. LANES lanes hold a token, eight numbers each; a warp takes blocks of the store by turns. Each
// lanes' tokens have a softmax of their own, in powers of two; all are put together at the end, in a fixed order.
//
// The row's new token, its last, is turned on the way in, as `rotate_store` would; whoever attends to it takes it from shared
// memory, and writes it to `slots[row]` of the store for later steps.
//
// `out` [rows, heads · dim] is written by the last block of a row's heads to be done, that of the only split, or the one that
// finds so in `counters` [rows, kv_heads · parts] (0 before and after). What splits found goes through `scratch`: sums
// [rows, splits, heads, dim], then of each the largest score and the weights' total.
template <typename T, unsigned GROUP, unsigned LANES>
__device__ void decode(const T* query, unsigned query_stride, const T* key, unsigned key_stride, const T* value,
                       unsigned value_stride, const unsigned* positions, const float* inverse, T* keys, T* values,
                       const unsigned* slots, const unsigned* lengths, const unsigned* table, unsigned max_blocks,
                       unsigned blocks, unsigned heads, unsigned kv_heads, unsigned dim, float scale, T* out, float* scratch,
                       unsigned* counters, const char* next, uint32_t next_bytes) {
    // Tokens that a warp looks at in a step, and steps whose loads are under way together.
    constexpr unsigned TOKENS = WARP / LANES;
    constexpr unsigned ALL_STEPS = BLOCK_TOKENS / TOKENS;
    constexpr unsigned MOST_STEPS = (GROUP * LANES > 32 ? 4 : 8) * 2 / sizeof(T);
    constexpr unsigned STEPS = ALL_STEPS < MOST_STEPS ? ALL_STEPS : MOST_STEPS;
    __shared__ NewToken<T, GROUP, LANES * 8> token;
    __shared__ __align__(16) float all_sums[WARPS][GROUP][LANES * 8];
    __shared__ float2 all_weights[WARPS][GROUP];

    const size_t row = blockIdx.z;
    const unsigned split = blockIdx.y, splits = gridDim.y;
    const unsigned group = heads / kv_heads, parts = (group + GROUP - 1) / GROUP;
    const unsigned kv_head = blockIdx.x / parts, part = blockIdx.x % parts;
    const unsigned first_head = kv_head * group + part * GROUP, own_heads = min(GROUP, group - part * GROUP);
    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const unsigned column = lane % LANES * 8, place = lane / LANES;
    const bool has_column = column < dim;
    const auto prefetch = [&] {
        const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        touch(next, next_bytes, block * blockDim.x + threadIdx.x, gridDim.x * gridDim.y * gridDim.z * blockDim.x);
    };

    const unsigned length = min(lengths[row], max_blocks * BLOCK_TOKENS);
    const unsigned even = (length + splits - 1) / splits;
    const unsigned share = max(SPLIT_TOKENS, (even + BLOCK_TOKENS - 1) / BLOCK_TOKENS * BLOCK_TOKENS);
    const unsigned used = (length + share - 1) / share;
    const unsigned begin = min(split * share, length), end = min(begin + share, length);
    // Whoever has the last token's split writes that token; blocks that share a key-value head leave it to the first.
    const unsigned slot = slots[row];
    const bool stores = split + 1 == used && part == 0 && slot / BLOCK_TOKENS < blocks;
    const size_t stored = stores ? in_store(slot, kv_head, kv_heads, dim) : 0;
    // In flight while the new token comes in.
    const unsigned* own_blocks = table + row * max_blocks;
    unsigned at = begin + warp * BLOCK_TOKENS;
    unsigned block = at < end ? own_blocks[at / BLOCK_TOKENS] : 0;

    const NewHeads<T> from = {query + row * query_stride + first_head * dim,
                              key + row * key_stride + kv_head * dim,
                              value + row * value_stride + kv_head * dim,
                              own_heads,
                              dim,
                              inverse ? positions[row] : 0,
                              inverse};
    token.template take<THREADS>(from, scale * LOG2_E, stores ? keys + stored : nullptr, stores ? values + stored : nullptr);
    __syncthreads();
    if (split >= max(used, 1u)) return prefetch();

    float q[GROUP][8];
    float largest[GROUP], total[GROUP], sums[GROUP][8];
#pragma unroll
    for (unsigned g = 0; g < GROUP; g++) {
#pragma unroll
        for (unsigned j = 0; j < 8; j++) {
            q[g][j] = token.queries[g][column + j];
            sums[g][j] = 0.0f;
        }
        largest[g] = -INFINITY;
        total[g] = 0.0f;
    }

    const unsigned stored_end = min(end, length - 1);
    for (; at < end; at += WARPS * BLOCK_TOKENS) {
        const size_t offset = in_store(min(block, blocks - 1) * BLOCK_TOKENS, kv_head, kv_heads, dim) + column;
        const unsigned following = at + WARPS * BLOCK_TOKENS;
        if (following < end) block = own_blocks[following / BLOCK_TOKENS];
#pragma unroll 1
        for (unsigned step = 0; step < ALL_STEPS; step += STEPS) {
            // Beyond the end there may be anything, even what is not a number; and the new token is not there yet for all.
            Stored<T> stored_keys[STEPS], stored_values[STEPS];
#pragma unroll
            for (unsigned s = 0; s < STEPS; s++) {
                const unsigned own = (step + s) * TOKENS + place;
                const bool there = has_column && at + own < stored_end;
                stored_keys[s] = there ? load_stored(keys + offset + own * dim) : no_numbers<T>();
                stored_values[s] = there ? load_stored(values + offset + own * dim) : no_numbers<T>();
            }
            if (at + BLOCK_TOKENS >= length) {
#pragma unroll
                for (unsigned s = 0; s < STEPS; s++) {
                    if (has_column && at + (step + s) * TOKENS + place == length - 1) {
                        stored_keys[s] = load_stored(token.key + column);
                        stored_values[s] = load_stored(token.value + column);
                    }
                }
            }
            float scores[GROUP][STEPS];
#pragma unroll
            for (unsigned s = 0; s < STEPS; s++) {
                const bool visible = at + (step + s) * TOKENS + place < end;
                const Eight key = widen(stored_keys[s]);
#pragma unroll
                for (unsigned g = 0; g < GROUP; g++) {
                    float dot = 0.0f;
#pragma unroll
                    for (unsigned j = 0; j < 8; j++) dot += q[g][j] * key.x[j];
                    dot = lanes_sum<LANES>(dot);
                    scores[g][s] = visible ? dot : -INFINITY;
                }
            }
#pragma unroll
            for (unsigned g = 0; g < GROUP; g++) {
                float most = largest[g];
#pragma unroll
                for (unsigned s = 0; s < STEPS; s++) most = fmaxf(most, scores[g][s]);
                const float base = base_of(most), factor = exp2_fast(largest[g] - base);
                largest[g] = most;
                total[g] *= factor;
#pragma unroll
                for (unsigned j = 0; j < 8; j++) sums[g][j] *= factor;
#pragma unroll
                for (unsigned s = 0; s < STEPS; s++) {
                    scores[g][s] = exp2_fast(scores[g][s] - base);
                    total[g] += scores[g][s];
                }
            }
#pragma unroll
            for (unsigned s = 0; s < STEPS; s++) {
                const Eight value = widen(stored_values[s]);
#pragma unroll
                for (unsigned g = 0; g < GROUP; g++) {
#pragma unroll
                    for (unsigned j = 0; j < 8; j++) sums[g][j] += scores[g][s] * value.x[j];
                }
            }
        }
    }
    prefetch();

    // The lanes that hold the same columns are put together, then the warps.
#pragma unroll
    for (unsigned offset = LANES; offset < WARP; offset *= 2) {
#pragma unroll
        for (unsigned g = 0; g < GROUP; g++) {
            const float other = __shfl_xor_sync(ALL_LANES, largest[g], offset);
            const float most = fmaxf(largest[g], other), base = base_of(most);
            const float mine = exp2_fast(largest[g] - base), theirs = exp2_fast(other - base);
            largest[g] = most;
            total[g] = total[g] * mine + __shfl_xor_sync(ALL_LANES, total[g], offset) * theirs;
#pragma unroll
            for (unsigned j = 0; j < 8; j++) {
                sums[g][j] = sums[g][j] * mine + __shfl_xor_sync(ALL_LANES, sums[g][j], offset) * theirs;
            }
        }
    }
    if (place == 0) {
#pragma unroll
        for (unsigned g = 0; g < GROUP; g++) {
#pragma unroll
            for (unsigned j = 0; j < 8; j++) all_sums[warp][g][column + j] = sums[g][j];
            if (lane == 0) all_weights[warp][g] = make_float2(largest[g], total[g]);
        }
    }
    __syncthreads();
    const unsigned fours = dim / 4;
    const size_t row_splits = row * splits, all_splits = static_cast<size_t>(gridDim.z) * splits;
    float2* weights = reinterpret_cast<float2*>(scratch + all_splits * heads * dim);
    T* own_out = out + (row * heads + first_head) * dim;
    for (unsigned i = threadIdx.x; i < own_heads * fours; i += THREADS) {
        const unsigned g = i / fours, c = i % fours * 4;
        float most = -INFINITY, all = 0.0f;
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (unsigned w = 0; w < WARPS; w++) most = fmaxf(most, all_weights[w][g].x);
#pragma unroll
        for (unsigned w = 0; w < WARPS; w++) {
            const float factor = exp2_fast(all_weights[w][g].x - base_of(most));
            const float4 more = *reinterpret_cast<const float4*>(&all_sums[w][g][c]);
            all += all_weights[w][g].y * factor;
            sum = make_float4(sum.x + more.x * factor, sum.y + more.y * factor, sum.z + more.z * factor,
                              sum.w + more.w * factor);
        }
        if (used <= 1) {
            put_four(own_out + i * 4, sum, all);
        } else {
            const size_t place = (row_splits + split) * heads + first_head;
            __stcg(reinterpret_cast<float4*>(scratch + place * dim) + i, sum);
            if (c == 0) __stcg(weights + place + g, make_float2(most, all));
        }
    }
    if (used <= 1 || !comes_last(counters + row * gridDim.x + blockIdx.x, used)) return;
    const size_t first = row_splits * heads + first_head;
    combine<T, GROUP>(scratch + first * dim, weights + first, own_out, used, own_heads, heads, dim);
}

#define KERNEL(dtype, T, GROUP, LANES)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, at_once(GROUP, LANES)) decode_##GROUP##_##LANES##_##dtype(     \
        const T* query, unsigned query_stride, const T* key, unsigned key_stride, const T* value, unsigned value_stride,   \
        const unsigned* positions, const float* inverse, T* keys, T* values, const unsigned* slots,                        \
        const unsigned* lengths, const unsigned* table, unsigned max_blocks, unsigned blocks, unsigned heads,              \
        unsigned kv_heads, unsigned dim, float scale, T* out, float* scratch, unsigned* counters, const char* next,        \
        uint32_t next_bytes) {                                                                                             \
        decode<T, GROUP, LANES>(query, query_stride, key, key_stride, value, value_stride, positions, inverse, keys,       \
                                values, slots, lengths, table, max_blocks, blocks, heads, kv_heads, dim, scale, out,       \
                                scratch, counters, next, next_bytes);                                                      \
    }
#define GROUPS(dtype, T, LANES)                                                                                            \
    KERNEL(dtype, T, 1, LANES) KERNEL(dtype, T, 2, LANES) KERNEL(dtype, T, 4, LANES) KERNEL(dtype, T, 8, LANES)
#define KERNELS(dtype, T)                                                                                                  \
    GROUPS(dtype, T, 8)                                                                                                    \
    GROUPS(dtype, T, 16)                                                                                                   \
    GROUPS(dtype, T, 32)
EACH_DTYPE(KERNELS)
