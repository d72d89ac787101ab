// Products with all adapters of a step, in one launch: y = rescale ⊙ (scale ⊙ (x·wᵀ + b·(a·x)) + bias) for up to 64 lines.
//
// Lines were shrunk to a·x before, or by this launch: then blocks have two warps more than the product's, and those of the first
// blocks leave a·x in `shrunk` and count themselves in `meeting`, while the others read w, who wait for them at their end. Blocks
// begin in order, and those that shrink all have a place at once: so nobody waits for one that has none.
// Nothing about a launch depends on what is in the tables, so that one captured in a graph goes on working when they change.
#include "patches.cuh"

using namespace products;

// The work of a warp beside those of the product.
template <typename Tile>
__device__ __forceinline__ void
shrink_beside(const Work<typename Tile::T>& work, const Patches<typename Tile::T>& patches, const Share& share) {
    const int block = share.split * share.row_blocks + share.rows, warp = threadIdx.x / 32 - Tile::THREADS / 32;
    if (block < patches.shrinkers) {
        patches.shrink(warp * patches.shrinkers + block, work.lines, work.inputs);
    }
}

template <typename Tile>
__device__ __forceinline__ void adapted_product(
    const Work<typename Tile::T>& work, const Patches<typename Tile::T>& patches, const typename Tile::T* bias, void* y,
    int pitch, uint32_t mode) {
    using T = typename Tile::T;
    const Share share = share_of_block();
    const int begin = share.rows * Tile::COLUMNS, last = min(begin + Tile::COLUMNS, work.columns) - 1;
    if (threadIdx.x >= Tile::THREADS) return shrink_beside<Tile>(work, patches, share);
    const Patched<Tile> patched(patches, share, work.lines, work.columns, patches.site_of(begin), patches.site_of(last));
    const auto finish = [&](int line, int column, const float4(&sums)[1]) {
        float numbers[4] = {sums[0].x, sums[0].y, sums[0].z, sums[0].w};
        if (column >= work.columns) return;
        const int site = patches.site_of(column);
        patches.finish(numbers, patched.at(line, site), bias, line, site, column);
        put_four_at<T>(y, line, column, numbers, work.columns, pitch, mode);
    };
    product<Tile>(work, share, patched, finish);
}

// Of two sites: y [lines, outputs] = activation(first) ⊙ second, each with its adapters, rounded only at the end.
template <typename Tile>
__device__ __forceinline__ void adapted_gated_product(
    const Work<typename Tile::T>& work, const Patches<typename Tile::T>& patches, const typename Tile::T* bias,
    typename Tile::T* y, uint32_t activation) {
    using T = typename Tile::T;
    const int outputs = work.columns;
    const Share share = share_of_block();
    if (threadIdx.x >= Tile::THREADS) return shrink_beside<Tile>(work, patches, share);
    const Patched<Tile> patched(patches, share, work.lines, outputs, 0, 1);
    const auto finish = [&](int line, int column, const float4(&sums)[2]) {
        float gate[4] = {sums[0].x, sums[0].y, sums[0].z, sums[0].w};
        float up[4] = {sums[1].x, sums[1].y, sums[1].z, sums[1].w};
        if (column >= outputs) return;
        patches.finish(gate, patched.at(line, 0), bias, line, 0, column);
        patches.finish(up, patched.at(line, 1), bias, line, 1, outputs + column);
        activate(gate, activation);
#pragma unroll
        for (int j = 0; j < 4; j++) gate[j] *= up[j];
        put_four_at<T>(y, line, column, gate, outputs, outputs, WRITE);
    };
    product<Tile>(work, share, patched, finish);
}

// What all of them are given after their own arguments.
#define PATCHES(T)                                                                                                            \
    const T *adapted_x, const uint32_t *slots_of_lines, const Entry *table0, const Entry *table1, const Entry *table2,        \
        const Entry *table3, int end0, int end1, int end2, int end3, uint32_t slots, float *shrunk, int shrunk_pitch,         \
        uint32_t *meeting, int shrinkers, int sites
#define PATCHES_OF(T)                                                                                                         \
    Patches<T> {                                                                                                              \
        adapted_x, slots_of_lines, {table0, table1, table2, table3}, {end0, end1, end2, end3}, slots, shrunk, shrunk_pitch,   \
            meeting, shrinkers, sites                                                                                         \
    }

// Shrinking and expanding take more registers than blocks of few lines otherwise need. Of the largest tile one block has room.
#define BOUNDS(line_tiles, row_tiles, row_warps)                                                                              \
    __launch_bounds__(128 * row_warps + 32 * SHRINKING_WARPS, line_tiles * row_tiles == 16 ? 1 : 2)

#define ADAPTED(name, T, line_tiles, row_tiles, row_warps, _)                                                                 \
    extern "C" __global__ void BOUNDS(line_tiles, row_tiles, row_warps) name(                                                 \
        const T* x, const T* w, const T* bias, void* y, float* partials, uint32_t* counters, int lines, int inputs, int span, \
        int outputs, const char* ahead, uint32_t ahead_bytes, int pitch, uint32_t mode, PATCHES(T)) {                         \
        const Work<T> work{x, w, partials, counters, lines, inputs, span, outputs, ahead, ahead_bytes};                       \
        adapted_product<Tile<T, line_tiles, row_tiles, row_warps, false, true>>(work, PATCHES_OF(T), bias, y, pitch, mode);   \
    }

#define ADAPTED_GATED(name, T, line_tiles, row_tiles, row_warps, _)                                                           \
    extern "C" __global__ void BOUNDS(line_tiles, row_tiles, row_warps) name(                                                 \
        const T* x, const T* w, const T* bias, T* y, float* partials, uint32_t* counters, int lines, int inputs, int span,    \
        int outputs, const char* ahead, uint32_t ahead_bytes, uint32_t activation, PATCHES(T)) {                              \
        const Work<T> work{x, w, partials, counters, lines, inputs, span, outputs, ahead, ahead_bytes};                       \
        adapted_gated_product<Tile<T, line_tiles, row_tiles, row_warps, true, true>>(work, PATCHES_OF(T), bias, y, activation); \
    }

EACH_TILE(ADAPTED, adapted, f16, f16)
EACH_TILE(ADAPTED, adapted, bf16, bf16)
EACH_GATED_TILE(ADAPTED_GATED, adapted_gated, f16, f16)
EACH_GATED_TILE(ADAPTED_GATED, adapted_gated, bf16, bf16)
