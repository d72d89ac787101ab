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

// h [lines, pitch] = alpha · x [lines, inputs] · aᵀ. Shared memory is the Tile's.
template <typename T>
__device__ __forceinline__ void
shrink_tile(const Entry& entry, const T* x, float* h, int lines, int inputs, int pitch, char* shared) {
    using Ranks = Tile<T, TILE_LINES / 8, 1, 2>;
    const int rank = entry.rank;
    float* met = reinterpret_cast<float*>(shared);
    for (int first = blockIdx.x * Ranks::ROWS; first < rank; first += gridDim.x * Ranks::ROWS) {
        float sums[1][TILE_LINES / 8][4];
        Ranks::accumulate(x, static_cast<const T*>(entry.a), lines, inputs, rank, first, 0, inputs, shared, sums);
        Ranks::share(met, sums);
        constexpr int FOURS = Ranks::ROWS / 4;
        for (int i = threadIdx.x; i < lines * FOURS; i += Ranks::THREADS) {
            const int line = i / FOURS, row = i % FOURS * 4;
            const float4 four = Ranks::four_at(met, line, row);
            const float numbers[4] = {four.x, four.y, four.z, four.w};
            float* to = h + static_cast<size_t>(line) * pitch + first + row;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (first + row + j < rank) to[j] = entry.alpha * numbers[j];
            }
        }
        __syncthreads();
    }
}

// Bytes of a line of h in shared memory: neighbouring lines lie in different banks.
__device__ __forceinline__ int shrunk_pitch(int rank) {
    const int bytes = (rank + 31) / 32 * 64;
    return bytes % 128 == 0 ? bytes + 64 : bytes;
}

// y = rescale ⊙ (scale ⊙ (base + b·h) + bias) for up to TILE_LINES lines and a block's 256 columns, for ranks that are a multiple of 8.
// h [lines, h_pitch] goes in as the sum of two 16-bit numbers, so that it loses nothing that matters.
template <typename T>
__device__ __forceinline__ void expand_tile(
    const Entry& entry, const float* h, int h_pitch, const float* base, const T* bias, void* y, int lines, int outputs,
    int pitch, uint32_t mode, char* shared) {
    constexpr int LINES = TILE_LINES, COLUMN_TILES = 2;
    const int rank = entry.rank, chunks = (rank + 31) / 32;
    const int line_bytes = shrunk_pitch(rank);
    char* highs = shared;
    char* lows = shared + LINES * line_bytes;
    for (int i = threadIdx.x; i < LINES * chunks * 32; i += EXPAND_COLUMNS) {
        const int line = i / (chunks * 32), r = i % (chunks * 32);
        const float number = line < lines && r < rank ? h[static_cast<size_t>(line) * h_pitch + r] : 0.0f;
        const T high = narrow<T>(number);
        reinterpret_cast<T*>(highs + line * line_bytes)[r] = high;
        reinterpret_cast<T*>(lows + line * line_bytes)[r] = narrow<T>(number - widen(high));
    }
    __syncthreads();

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int quad = lane / 4, part = lane % 4;
    const int first = blockIdx.x * EXPAND_COLUMNS + warp * 16 * COLUMN_TILES + quad;
    const T* rows[COLUMN_TILES][2];
#pragma unroll
    for (int i = 0; i < COLUMN_TILES; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int column = min(first + i * 16 + half * 8, outputs - 1);
            rows[i][half] = static_cast<const T*>(entry.b) + static_cast<size_t>(column) * rank + part * 8;
        }
    }
    // The base's numbers come first, all under way at once.
    float sums[COLUMN_TILES][LINES / 8][4];
#pragma unroll
    for (int i = 0; i < COLUMN_TILES; i++) {
#pragma unroll
        for (int j = 0; j < LINES / 8; j++) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int column = first + i * 16 + k / 2 * 8, line = j * 8 + part * 2 + k % 2;
                const bool there = column < outputs && line < lines;
                sums[i][j][k] = there ? base[static_cast<size_t>(line) * pitch + column] : 0.0f;
            }
        }
    }
    for (int chunk = 0; chunk < chunks; chunk++) {
        uint4 weights[COLUMN_TILES][2];
#pragma unroll
        for (int i = 0; i < COLUMN_TILES; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                weights[i][half] = load_once_if(rows[i][half] + chunk * 32, chunk * 32 + part * 8 < rank);
            }
        }
#pragma unroll
        for (int j = 0; j < LINES / 8; j++) {
            const int at = (j * 8 + quad) * line_bytes + chunk * 64 + part * 16;
            const uint4 high = *reinterpret_cast<const uint4*>(highs + at);
            const uint4 low = *reinterpret_cast<const uint4*>(lows + at);
#pragma unroll
            for (int i = 0; i < COLUMN_TILES; i++) {
                const uint4 upper = weights[i][0], lower = weights[i][1];
                multiply<T>(sums[i][j], {upper.x, lower.x, upper.y, lower.y}, high.x, high.y);
                multiply<T>(sums[i][j], {upper.z, lower.z, upper.w, lower.w}, high.z, high.w);
                multiply<T>(sums[i][j], {upper.x, lower.x, upper.y, lower.y}, low.x, low.y);
                multiply<T>(sums[i][j], {upper.z, lower.z, upper.w, lower.w}, low.z, low.w);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < COLUMN_TILES; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int column = first + i * 16 + half * 8;
            if (column >= outputs) continue;
            const Finish<T> finish(entry, bias, column);
#pragma unroll
            for (int j = 0; j < LINES / 8; j++) {
#pragma unroll
                for (int neighbour = 0; neighbour < 2; neighbour++) {
                    const int line = j * 8 + part * 2 + neighbour;
                    if (line >= lines) continue;
                    const size_t at = static_cast<size_t>(line) * pitch + column;
                    put<T>(y, at, finish(sums[i][j][half * 2 + neighbour]), mode);
                }
            }
        }
    }
}

}  // namespace products
