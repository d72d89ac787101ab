// Attention of many new tokens by tensor cores, after FlashAttention-2 (arXiv 2307.08691). Sums are f32; the softmax's weights are
// rounded to the dtype before they meet the values.

#include "tensor.cuh"
#include "tiles.cuh"

constexpr unsigned WARPS = QUERIES / 16;

// Block (tiles, heads) of the grid. A warp has 16 queries, and goes over the keys KEYS at a time. Values are on their way while
// scores are computed, and the next keys while values are added up. Addresses are aligned to 16 bytes.
template <typename T, unsigned DIM, typename Source>
__device__ void attend_tile(const Tile& tile, const Source source, const T* query, unsigned query_stride, T* out,
                            unsigned heads, unsigned, float scale) {
    constexpr unsigned KEYS = DIM > 128 ? 32 : 64;
    // Rows are eight numbers longer than they need be: so no two of eight neighbours lie in the same banks.
    constexpr unsigned STRIDE = DIM + 8;
    constexpr unsigned PIECES = DIM / 8;
    extern __shared__ uint4 memory[];
    T* const queries = reinterpret_cast<T*>(memory);
    T* const keys = queries + QUERIES * STRIDE;
    T* const values = keys + KEYS * STRIDE;

    const unsigned head = blockIdx.y, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const size_t first_line = tile.first_line + tile.query;
    const unsigned steps = (source.tokens + KEYS - 1) / KEYS;

    for (unsigned i = threadIdx.x; i < QUERIES * PIECES; i += WARPS * WARP) {
        const unsigned line = i / PIECES, column = i % PIECES * 8;
        const bool there = line < tile.queries;
        const T* from = query + (first_line + (there ? line : 0)) * query_stride + head * DIM + column;
        copy_later(queries + line * STRIDE + column, from, there);
    }
    const auto stage_keys = [&](unsigned step) {
        for (unsigned i = threadIdx.x; i < KEYS * PIECES; i += WARPS * WARP) {
            const unsigned line = i / PIECES, column = i % PIECES * 8, token = step * KEYS + line;
            const bool there = token < source.tokens;
            copy_later(keys + line * STRIDE + column, source.key(there ? token : 0) + column, there);
        }
    };
    const auto stage_values = [&](unsigned step) {
        for (unsigned i = threadIdx.x; i < KEYS * PIECES; i += WARPS * WARP) {
            const unsigned line = i / PIECES, column = i % PIECES * 8, token = step * KEYS + line;
            const bool there = token < source.tokens;
            copy_later(values + line * STRIDE + column, source.value(there ? token : 0) + column, there);
        }
    };
    stage_keys(0);
    end_copies();

    // This thread's numbers are of queries `row` and `row + 8`: of each eight columns, two beginning at `pair`.
    const unsigned row = warp * 16 + lane / 4, pair = lane % 4 * 2;
    // Where the rows of 8 × 8 matrices are that this lane tells of: of queries and values, and of keys.
    const unsigned across_row = lane % 16, across_column = lane / 16 * 8;
    const unsigned along_row = lane / 16 * 8 + lane % 8, along_column = lane / 8 % 2 * 8;

    float sums[DIM / 8][4] = {};
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
    for (unsigned step = 0; step < steps; step++) {
        // The keys are there, and nobody reads the values of before.
        wait_for_copies<0>();
        __syncthreads();
        stage_values(step);
        end_copies();

        float scores[KEYS / 8][4] = {};
#pragma unroll
        for (unsigned k = 0; k < DIM; k += 16) {
            uint32_t a[4];
            load_matrices(a, queries + (warp * 16 + across_row) * STRIDE + k + across_column);
#pragma unroll
            for (unsigned n = 0; n < KEYS; n += 16) {
                uint32_t b[4];
                load_matrices(b, keys + (n + along_row) * STRIDE + k + along_column);
                multiply<T>(scores[n / 8], a, b[0], b[1]);
                multiply<T>(scores[n / 8 + 1], a, b[2], b[3]);
            }
        }
        // Nobody reads the keys any more.
        __syncthreads();
        if (step + 1 < steps) stage_keys(step + 1);
        end_copies();

        const unsigned everyone_sees = Source::CAUSAL ? tile.position + warp * 16 + 1 : source.tokens;
        const bool masks = (step + 1) * KEYS > min(everyone_sees, source.tokens);
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const unsigned visible =
                Source::CAUSAL ? min(tile.position + row + half * 8 + 1, source.tokens) : source.tokens;
            float most = largest[half];
#pragma unroll
            for (unsigned n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (unsigned j = 0; j < 2; j++) {
                    float& score = scores[n][half * 2 + j];
                    score *= scale * LOG2_E;
                    if (masks && step * KEYS + n * 8 + pair + j >= visible) score = -INFINITY;
                    most = fmaxf(most, score);
                }
            }
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
            // Everyone sees the first token: `most` is a number.
            const float factor = exp2_fast(largest[half] - most);
            largest[half] = most;
            total[half] *= factor;
#pragma unroll
            for (unsigned n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (unsigned j = 0; j < 2; j++) {
                    float& score = scores[n][half * 2 + j];
                    score = exp2_fast(score - most);
                    total[half] += score;
                }
            }
#pragma unroll
            for (unsigned n = 0; n < DIM / 8; n++) {
                sums[n][half * 2] *= factor;
                sums[n][half * 2 + 1] *= factor;
            }
        }

        // The values are there.
        wait_for_copies<1>();
        __syncthreads();
#pragma unroll
        for (unsigned k = 0; k < KEYS; k += 16) {
            const float(&left)[4] = scores[k / 8], (&right)[4] = scores[k / 8 + 1];
            const uint32_t a[4] = {pack<T>(left[0], left[1]), pack<T>(left[2], left[3]), pack<T>(right[0], right[1]),
                                   pack<T>(right[2], right[3])};
#pragma unroll
            for (unsigned n = 0; n < DIM; n += 16) {
                uint32_t b[4];
                load_transposed(b, values + (k + across_row) * STRIDE + n + across_column);
                multiply<T>(sums[n / 8], a, b[0], b[1]);
                multiply<T>(sums[n / 8 + 1], a, b[2], b[3]);
            }
        }
    }

#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
        const float all = lanes_sum<4>(total[half]);
        const unsigned own = row + half * 8;
        if (own >= tile.queries) continue;
        T* to = out + ((first_line + own) * heads + head) * DIM + pair;
#pragma unroll
        for (unsigned n = 0; n < DIM / 8; n++) {
            *reinterpret_cast<uint32_t*>(to + n * 8) =
                pack<T>(sums[n][half * 2] / all, sums[n][half * 2 + 1] / all);
        }
    }
}

#define KERNELS(dtype, T)                                                                                                  \
    TILE_KERNELS(tile_32_##dtype, T, WARPS* WARP, (attend_tile<T, 32>))                                                    \
    TILE_KERNELS(tile_64_##dtype, T, WARPS* WARP, (attend_tile<T, 64>))                                                    \
    TILE_KERNELS(tile_80_##dtype, T, WARPS* WARP, (attend_tile<T, 80>))                                                    \
    TILE_KERNELS(tile_96_##dtype, T, WARPS* WARP, (attend_tile<T, 96>))                                                    \
    TILE_KERNELS(tile_128_##dtype, T, WARPS* WARP, (attend_tile<T, 128>))                                                  \
    TILE_KERNELS(tile_256_##dtype, T, WARPS* WARP, (attend_tile<T, 256>))
KERNELS(f16, f16)
KERNELS(bf16, bf16)
