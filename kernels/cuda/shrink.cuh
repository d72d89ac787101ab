// What adapters' first matrices make of a line, warp by warp, beside a product.
#pragma once

#include "adapters.cuh"
#include "ahead.cuh"

namespace products {

// Ranks that a warp takes at once: they share the reading of x.
constexpr int SHRINKING_RANKS = 2;

// h [rank] = alpha · a [rank, inputs] · x [inputs] for SHRINKING_RANKS ranks from `first` on, by a warp, for a's dtype.
template <typename A, typename T>
__device__ __forceinline__ void shrink_ranks_of(const Entry& entry, int first, const T* x, float* h, int inputs) {
    // Loads of a lane that are under way together.
    constexpr int BATCH = sizeof(A) == 4 ? 2 : 4, RANKS = SHRINKING_RANKS;
    const int lane = threadIdx.x % 32, rank = entry.rank, pieces = inputs / 8;
    // Ranks past the end are the last one's again; nobody keeps what comes of them.
    const A* rows[RANKS];
#pragma unroll
    for (int r = 0; r < RANKS; r++) {
        rows[r] = static_cast<const A*>(entry.a) + static_cast<size_t>(min(first + r, rank - 1)) * inputs;
    }
    float sums[RANKS] = {};
#pragma unroll 1
    for (int from = lane; from < pieces; from += 32 * BATCH) {
        Stored<A> stored[BATCH][RANKS];
        Stored<T> numbers[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int piece = from + i * 32, at = min(piece, pieces - 1) * 8;
#pragma unroll
            for (int r = 0; r < RANKS; r++) stored[i][r] = load_eight_once_if(rows[r] + at, piece < pieces);
            numbers[i] = load_stored(x + at);
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const Eight eight = widen(numbers[i]);
#pragma unroll
            for (int r = 0; r < RANKS; r++) {
                const Eight row = widen(stored[i][r]);
#pragma unroll
                for (int j = 0; j < 8; j++) sums[r] = fmaf(row.x[j], eight.x[j], sums[r]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < RANKS; r++) {
        const float sum = lanes_sum<WARP>(sums[r]);
        if (lane == 0 && first + r < rank) h[first + r] = entry.alpha * sum;
    }
}

// The same for any dtype of a; a function of its own, so that kernels stay short.
template <typename T>
__device__ __noinline__ void shrink_ranks(const Entry* entry, int first, const T* x, float* h, int inputs) {
    if (entry->dtype == F32) return shrink_ranks_of<float>(*entry, first, x, h, inputs);
    if (entry->dtype == F16) return shrink_ranks_of<f16>(*entry, first, x, h, inputs);
    shrink_ranks_of<bf16>(*entry, first, x, h, inputs);
}

}  // namespace products
