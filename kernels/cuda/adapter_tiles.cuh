// The thin products of a tile (up to 32 lines of one slot) on tensor cores, for adapters of the activations' own 16-bit dtype.
#pragma once

#include "adapters.cuh"
#include "tile.cuh"

namespace products {

template <typename T> constexpr uint32_t dtype_of = F32;
template <> constexpr uint32_t dtype_of<f16> = F16;
template <> constexpr uint32_t dtype_of<bf16> = BF16;

// The most lines of a tile.
constexpr int TILE_LINES = 32;

// Whether a slot's lines are shrunk and expanded here.
template <typename T> __device__ __forceinline__ bool in_tiles(const Near& near) {
    return near.rank == 0 || (near.dtype == dtype_of<T> && near.rank % 4 == 0);
}

// h [lines, pitch] = alpha · x [lines, inputs] · aᵀ, of the inputs from..to alone. Shared memory is the Tile's.
template <typename T>
__device__ __forceinline__ void
shrink_tile(const Entry& entry, const T* x, float* h, int lines, int inputs, int from, int to, int pitch, char* shared) {
    using Ranks = Tile<T, TILE_LINES / 8, 1, 2>;
    const int rank = entry.rank;
    float* met = reinterpret_cast<float*>(shared);
    for (int first = blockIdx.x * Ranks::ROWS; first < rank; first += gridDim.x * Ranks::ROWS) {
        typename Ranks::Sums sums;
        Ranks::template accumulate<false>(x, static_cast<const T*>(entry.a), lines, inputs, rank, first, from, to, shared, sums, nullptr, 0, [] {});
        Ranks::share(met, sums);
        constexpr int FOURS = Ranks::ROWS / 4;
        for (int i = threadIdx.x; i < lines * FOURS; i += Ranks::THREADS) {
            const int line = i / FOURS, row = i % FOURS * 4;
            const float4 four = Ranks::four_at(met, nullptr, line, row);
            const float numbers[4] = {four.x, four.y, four.z, four.w};
            float* own = h + static_cast<size_t>(line) * pitch + first + row;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (first + row + j < rank) own[j] = entry.alpha * numbers[j];
            }
        }
        __syncthreads();
    }
}

// A line's four neighbouring numbers of h as the sum of two of 16 bits, so that it loses nothing that matters.
template <typename T> __device__ __forceinline__ void halve(const float4& h, uint2& high, uint2& low) {
    high = make_uint2(pack<T>(h.x, h.y), pack<T>(h.z, h.w));
    const float2 first = unpack<T>(high.x), second = unpack<T>(high.y);
    low = make_uint2(pack<T>(h.x - first.x, h.y - first.y), pack<T>(h.z - second.x, h.w - second.y));
}

// What a slot's rows make of the sums of some of eight neighbouring columns. Apart, as it takes registers that most slots spare.
template <typename T>
__device__ __noinline__ Eight finish_eight(const Entry* entry, const T* bias, Eight sums, int column, int there) {
#pragma unroll
    for (int j = 0; j < 8; j++) {
        if (j < there) sums.x[j] = Finish<T>(*entry, bias, column + j)(sums.x[j]);
    }
    return sums;
}

// y = rescale ⊙ (scale ⊙ (base + b·h) + bias) for up to 8 · HALVES lines and a block's 256 columns, for ranks that are a multiple
// of 4. A warp has 32 columns, which are dealt out to the tensor core's tiles so that a lane has 8 neighbours of a line: base is
// read and y written 16 bytes or more at once. h is the sum of `parts`, `apart` numbers from each other. `near` is the entry's, or
// that of nothing; then it may lie anywhere.
template <typename T, int HALVES>
__device__ __forceinline__ void expand_tile(
    const Near& near, const Entry* entry, const float* h, int h_pitch, int parts, size_t apart, const float* base, const T* bias, void* y, int lines, int outputs,
    int pitch, uint32_t mode) {
    constexpr int TILES = 4;
    const int rank = near.rank, lane = threadIdx.x % 32, quad = lane / 4, part = lane % 4;
    const int begin = blockIdx.x * EXPAND_COLUMNS + threadIdx.x / 32 * 32, own = begin + part * 8;
    if (begin >= outputs) return;
    const int there = min(max(outputs - own, 0), 8);
    const bool wide = there == 8 && pitch % 8 == 0 && aligned(base) && aligned(y);

    // By tile of 8 columns and half of 16 lines: two columns of a line. The base's numbers come first, all under way at once.
    float sums[TILES][HALVES][2];
#pragma unroll
    for (int half = 0; half < HALVES; half++) {
        const int line = half * 8 + quad;
        const Eight eight = load_some(base + static_cast<size_t>(line) * pitch + own, line < lines ? there : 0, wide && line < lines);
#pragma unroll
        for (int t = 0; t < TILES; t++) sums[t][half][0] = eight.x[2 * t], sums[t][half][1] = eight.x[2 * t + 1];
    }
#pragma unroll 1
    for (int chunk = 0; chunk < rank; chunk += 16) {
        const int at = chunk + part * 4;
        uint2 columns[TILES];
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            const int column = begin + quad / 2 * 8 + t * 2 + quad % 2;
            const T* row = static_cast<const T*>(near.b) + static_cast<size_t>(column) * rank + at;
            columns[t] = load_half_if(row, column < outputs && at < rank);
        }
        uint2 high[HALVES], low[HALVES];
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            const int line = half * 8 + quad;
            float4 numbers = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (line < lines && at < rank) {
                const float* from = h + static_cast<size_t>(line) * h_pitch + at;
#pragma unroll 4
                for (int p = 0; p < parts; p++) {
                    const float4 more = *reinterpret_cast<const float4*>(from + p * apart);
                    numbers = make_float4(numbers.x + more.x, numbers.y + more.y, numbers.z + more.z, numbers.w + more.w);
                }
            }
            halve<T>(numbers, high[half], low[half]);
        }
#pragma unroll
        for (int both = 0; both < HALVES; both += 2) {
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                float of_tile[4] = {sums[t][both][0], sums[t][both][1], sums[t][both + 1][0], sums[t][both + 1][1]};
                multiply<T>(of_tile, {high[both].x, high[both + 1].x, high[both].y, high[both + 1].y}, columns[t].x, columns[t].y);
                multiply<T>(of_tile, {low[both].x, low[both + 1].x, low[both].y, low[both + 1].y}, columns[t].x, columns[t].y);
                sums[t][both][0] = of_tile[0], sums[t][both][1] = of_tile[1];
                sums[t][both + 1][0] = of_tile[2], sums[t][both + 1][1] = of_tile[3];
            }
        }
    }
    Eight moved = {};
    if (bias && !near.has_rows) moved = load_some(bias + own, there, there == 8 && aligned(bias));
#pragma unroll
    for (int half = 0; half < HALVES; half++) {
        const int line = half * 8 + quad;
        if (line >= lines) continue;
        Eight numbers;
#pragma unroll
        for (int j = 0; j < 8; j++) numbers.x[j] = sums[j / 2][half][j % 2] + moved.x[j];
        if (near.has_rows) numbers = finish_eight(entry, bias, numbers, own, there);
        const size_t at = static_cast<size_t>(line) * pitch + own;
        if (mode == WRITE) {
            store_some(static_cast<T*>(y) + at, numbers, there, wide);
            continue;
        }
        float* to = static_cast<float*>(y) + at;
        if (mode == ADD_F32) {
            const Eight old = load_some(to, there, wide);
#pragma unroll
            for (int j = 0; j < 8; j++) numbers.x[j] += old.x[j];
        }
        store_some(to, numbers, there, wide);
    }
}

}  // namespace products
