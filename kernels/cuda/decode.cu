// Attention of one new token per row over the paged store.

#include "numbers.cuh"
#include "store.cuh"

constexpr unsigned WARPS = 4;

// What exponents are taken relative to: the largest score, or anything where there is none.
__device__ inline float base_of(float largest) { return largest == -INFINITY ? 0.0f : largest; }

// Block (kv_heads · parts, splits, rows) of the grid attends to a split of a row's tokens with GROUP query heads, `part` of those
// that share a key-value head. LANES lanes hold a token, eight numbers each; a warp takes blocks of the store by turns. Each
// lanes' tokens have a softmax of their own, in powers of two; all are put together at the end, in a fixed order. With one
// split, `out` [rows, heads · dim] is written; else `scratch`: sums [rows, splits, heads, dim], then of each the largest score
// and the weights' total.
template <typename T, unsigned GROUP, unsigned LANES>
__device__ void decode(const T* query, unsigned query_stride, const T* keys, const T* values, const unsigned* lengths,
                       const unsigned* table, unsigned max_blocks, unsigned blocks, unsigned heads, unsigned kv_heads,
                       unsigned dim, float scale, T* out, float* scratch) {
    // Tokens that a warp looks at in a step, and steps whose loads are under way together.
    constexpr unsigned TOKENS = WARP / LANES;
    constexpr unsigned ALL_STEPS = BLOCK_TOKENS / TOKENS;
    constexpr unsigned MOST_STEPS = (GROUP > 4 ? 4 : 8) * 2 / sizeof(T);
    constexpr unsigned STEPS = ALL_STEPS < MOST_STEPS ? ALL_STEPS : MOST_STEPS;
    __shared__ float all_sums[WARPS][GROUP][LANES * 8];
    __shared__ float2 all_weights[WARPS][GROUP];

    const unsigned row = blockIdx.z, split = blockIdx.y, splits = gridDim.y;
    const unsigned group = heads / kv_heads, parts = (group + GROUP - 1) / GROUP;
    const unsigned kv_head = blockIdx.x / parts, part = blockIdx.x % parts;
    const unsigned first_head = kv_head * group + part * GROUP, own_heads = min(GROUP, group - part * GROUP);

    const unsigned length = min(lengths[row], max_blocks * BLOCK_TOKENS);
    const unsigned share = ((length + splits - 1) / splits + BLOCK_TOKENS - 1) / BLOCK_TOKENS * BLOCK_TOKENS;
    const unsigned begin = min(split * share, length), end = min(begin + share, length);

    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const unsigned column = lane % LANES * 8, place = lane / LANES;
    const bool has_column = column < dim;

    float q[GROUP][8];
    float largest[GROUP], total[GROUP], sums[GROUP][8];
#pragma unroll
    for (unsigned g = 0; g < GROUP; g++) {
        const bool there = has_column && g < own_heads;
        const T* at = query + static_cast<size_t>(row) * query_stride + (there ? (first_head + g) * dim + column : 0);
        const Eight numbers = load_some(at, there ? 8 : 0, there && aligned(at));
#pragma unroll
        for (unsigned j = 0; j < 8; j++) {
            q[g][j] = numbers.x[j] * (scale * LOG2_E);
            sums[g][j] = 0.0f;
        }
        largest[g] = -INFINITY;
        total[g] = 0.0f;
    }

    for (unsigned at = begin + warp * BLOCK_TOKENS; at < end; at += WARPS * BLOCK_TOKENS) {
        const unsigned block = min(table[static_cast<size_t>(row) * max_blocks + at / BLOCK_TOKENS], blocks - 1);
        const size_t offset = in_store(block * BLOCK_TOKENS, kv_head, kv_heads, dim) + column;
#pragma unroll 1
        for (unsigned step = 0; step < ALL_STEPS; step += STEPS) {
            // Beyond the end there may be anything, even what is not a number.
            Stored<T> stored_keys[STEPS], stored_values[STEPS];
#pragma unroll
            for (unsigned s = 0; s < STEPS; s++) {
                const unsigned token = (step + s) * TOKENS + place;
                const bool there = has_column && at + token < end;
                stored_keys[s] = there ? load_stored(keys + offset + token * dim) : no_numbers<T>();
                stored_values[s] = there ? load_stored(values + offset + token * dim) : no_numbers<T>();
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
    float2* weights = reinterpret_cast<float2*>(scratch + static_cast<size_t>(gridDim.z) * splits * heads * dim);
    for (unsigned i = threadIdx.x; i < own_heads * dim; i += blockDim.x) {
        const unsigned g = i / dim, c = i % dim, head = first_head + g;
        float most = -INFINITY, all = 0.0f, sum = 0.0f;
#pragma unroll
        for (unsigned w = 0; w < WARPS; w++) most = fmaxf(most, all_weights[w][g].x);
#pragma unroll
        for (unsigned w = 0; w < WARPS; w++) {
            const float factor = exp2_fast(all_weights[w][g].x - base_of(most));
            all += all_weights[w][g].y * factor;
            sum += all_sums[w][g][c] * factor;
        }
        if (splits == 1) {
            out[(static_cast<size_t>(row) * heads + head) * dim + c] = narrow<T>(all > 0.0f ? sum / all : 0.0f);
        } else {
            const size_t place = (static_cast<size_t>(row) * splits + split) * heads + head;
            scratch[place * dim + c] = sum;
            if (c == 0) weights[place] = make_float2(most, all);
        }
    }
}

// Puts the splits of a row's head together: block (heads, rows) of the grid.
template <typename T>
__device__ void combine(const float* scratch, T* out, unsigned splits, unsigned dim) {
    const unsigned head = blockIdx.x, heads = gridDim.x;
    const size_t row = blockIdx.y;
    const float2* weights = reinterpret_cast<const float2*>(scratch + static_cast<size_t>(gridDim.y) * splits * heads * dim);
    float most = -INFINITY, all = 0.0f;
    for (unsigned s = 0; s < splits; s++) most = fmaxf(most, weights[(row * splits + s) * heads + head].x);
    const float base = base_of(most);
    for (unsigned s = 0; s < splits; s++) {
        const float2 weight = weights[(row * splits + s) * heads + head];
        all += weight.y * exp2_fast(weight.x - base);
    }
    for (unsigned c = threadIdx.x; c < dim; c += blockDim.x) {
        float sum = 0.0f;
        for (unsigned s = 0; s < splits; s++) {
            const size_t place = (row * splits + s) * heads + head;
            sum += scratch[place * dim + c] * exp2_fast(weights[place].x - base);
        }
        out[(row * heads + head) * dim + c] = narrow<T>(all > 0.0f ? sum / all : 0.0f);
    }
}

#define KERNEL(dtype, T, GROUP, LANES)                                                                                     \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP) decode_##GROUP##_##LANES##_##dtype(                          \
        const T* query, unsigned query_stride, const T* keys, const T* values, const unsigned* lengths,                    \
        const unsigned* table, unsigned max_blocks, unsigned blocks, unsigned heads, unsigned kv_heads, unsigned dim,      \
        float scale, T* out, float* scratch) {                                                                             \
        decode<T, GROUP, LANES>(query, query_stride, keys, values, lengths, table, max_blocks, blocks, heads, kv_heads,    \
                                dim, scale, out, scratch);                                                                 \
    }
#define GROUPS(dtype, T, LANES)                                                                                            \
    KERNEL(dtype, T, 1, LANES) KERNEL(dtype, T, 2, LANES) KERNEL(dtype, T, 4, LANES) KERNEL(dtype, T, 8, LANES)
#define KERNELS(dtype, T)                                                                                                  \
    GROUPS(dtype, T, 8)                                                                                                    \
    GROUPS(dtype, T, 16)                                                                                                   \
    GROUPS(dtype, T, 32)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
    combine_##dtype(const float* scratch, T* out, unsigned splits, unsigned dim) {                                         \
        combine<T>(scratch, out, splits, dim);                                                                             \
    }
EACH_DTYPE(KERNELS)
