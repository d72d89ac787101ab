// How the blocks of a product share out its weights, and how their sums meet; used by the plain products and by those with
// adapters.
//
// The k of a row are split over blocks and over four warps of a block by the shape of w alone, and added up in a fixed order:
// a line's numbers are the same to the bit however many lines there are.
#pragma once

#include "activation.cuh"
#include "ahead.cuh"
#include "tile.cuh"

namespace products {

// What a launch reads and what it leaves to others.
template <typename T> struct Work {
    const T* x;                // [lines, inputs]
    const T* w;                // [rows, inputs]
    float* partials;           // [row blocks, splits, lines, ROWS]
    uint32_t* counters;        // [row blocks], 0 between launches
    int lines, inputs;
    int columns;               // of y
    const char* ahead;         // what a later launch reads
    uint32_t ahead_bytes;
};

// Which block of rows this is, and which part of their k it takes.
struct Share {
    int rows, row_blocks, split, splits;
};

// `begun()` is called by all threads when a block's first loads are under way, and `ready()` before sums are finished. `finish(line, column, sums)` gets the sums of four neighbouring
// columns: of one row each, or where they are gated of two.
//
// The block that finds in `counters` that it is the last of its rows adds all splits' sums up, and leaves the counter at 0.
template <typename Tile, typename Begun, typename Ready, typename Finish>
__device__ __forceinline__ void
product(const Work<typename Tile::T>& work, const Share& share, Begun begun, Ready ready, Finish finish) {
    extern __shared__ __align__(128) char shared[];
    __shared__ bool is_last;
    const int lines = work.lines, inputs = work.inputs, splits = share.splits;
    const int first_column = share.rows * Tile::COLUMNS;
    const int units = (inputs + UNIT - 1) / UNIT;
    const int from = units * share.split / splits * UNIT;
    const int to = min(units * (share.split + 1) / splits * UNIT, inputs);

    float sums[Tile::ROW_TILES][Tile::LINE_TILES][4];
    Tile::accumulate(work.x, work.w, lines, inputs, work.columns, first_column, from, to, shared, sums, begun);
    touch(work.ahead, work.ahead_bytes, share.split * share.row_blocks + share.rows, share.row_blocks * splits);
    float* met = reinterpret_cast<float*>(shared);
    Tile::share(met, sums);

    // From here on a thread has four neighbouring columns of some lines: a place, of one four of rows or of two.
    constexpr int PARTS = Tile::GATED ? 2 : 1;
    constexpr int FOURS = Tile::ROWS / 4, PLACES = FOURS / PARTS;
    constexpr int EACH = (Tile::LINES * PLACES + Tile::THREADS - 1) / Tile::THREADS;
    const int fours = lines * FOURS, places = lines * PLACES;
    // Of 16 rows the first two fours belong to the last two.
    const auto four = [&](int place, int part) { return Tile::GATED ? place / 2 * 4 + part * 2 + place % 2 : place; };
    const auto met_at = [&](int i) { return Tile::four_at(met, i / FOURS, i % FOURS * 4); };
    const auto finish_at = [&](int place, const float4(&totals)[PARTS]) {
        finish(place / PLACES, first_column + place % PLACES * 4, totals);
    };
    if (splits == 1) {
        ready();
#pragma unroll 1
        for (int place = threadIdx.x; place < places; place += Tile::THREADS) {
            float4 totals[PARTS];
#pragma unroll
            for (int part = 0; part < PARTS; part++) totals[part] = met_at(four(place, part));
            finish_at(place, totals);
        }
        return;
    }
    float4* first = reinterpret_cast<float4*>(work.partials) + static_cast<size_t>(share.rows) * splits * fours;
#pragma unroll 1
    for (int i = threadIdx.x; i < fours; i += Tile::THREADS) __stcg(first + share.split * fours + i, met_at(i));
    // One thread's fence stands for all: the barrier puts their writes before it.
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        is_last = atomicAdd(work.counters + share.rows, 1) == splits - 1;
        if (is_last) work.counters[share.rows] = 0;
        __threadfence();
    }
    __syncthreads();
    if (!is_last) return;
    float4 totals[EACH][PARTS];
#pragma unroll
    for (int each = 0; each < EACH; each++) {
#pragma unroll
        for (int part = 0; part < PARTS; part++) totals[each][part] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
#pragma unroll 2
    for (int other = 0; other < splits; other++) {
#pragma unroll
        for (int each = 0; each < EACH; each++) {
            // Threads without lines of their own read the last place again: no branch keeps loads apart.
            const int place = min(static_cast<int>(threadIdx.x) + each * Tile::THREADS, places - 1);
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                const float4 more = __ldcg(first + other * fours + four(place, part));
                totals[each][part].x += more.x;
                totals[each][part].y += more.y;
                totals[each][part].z += more.z;
                totals[each][part].w += more.w;
            }
        }
    }
    ready();
#pragma unroll
    for (int each = 0; each < EACH; each++) {
        const int place = threadIdx.x + each * Tile::THREADS;
        if (place < places) finish_at(place, totals[each]);
    }
}

// Adds the bias of a matrix's rows to four sums; rows past the end have none.
template <typename T>
__device__ __forceinline__ void add_bias_to(float (&numbers)[4], const T* bias, int row, int rows) {
    if (!bias) return;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (row + j < rows) numbers[j] += widen(bias[row + j]);
    }
}

// Four finished neighbours of y [lines, columns], `pitch` apart.
template <typename T>
__device__ __forceinline__ void
put_four_at(void* y, int line, int column, const float (&numbers)[4], int columns, int pitch, uint32_t mode) {
    const bool aligned = pitch % 4 == 0 && reinterpret_cast<uint64_t>(y) % 16 == 0;
    put_four<T>(y, static_cast<size_t>(line) * pitch + column, numbers, columns - column, aligned, mode);
}

}  // namespace products

// Makes INSTANCE(name, type, line tiles, row tiles, row warps, blocks of a multiprocessor) for every tile there is; names end
// with dtype, lines and rows of a block.
#define EACH_TILE(INSTANCE, name, dtype, T)          \
    INSTANCE(name##_##dtype##_8_16, T, 1, 1, 1, 4)  \
    INSTANCE(name##_##dtype##_8_32, T, 1, 1, 2, 3)  \
    INSTANCE(name##_##dtype##_16_16, T, 2, 1, 1, 4) \
    INSTANCE(name##_##dtype##_16_32, T, 2, 1, 2, 2) \
    INSTANCE(name##_##dtype##_16_64, T, 2, 2, 2, 2) \
    INSTANCE(name##_##dtype##_32_16, T, 4, 1, 1, 2) \
    INSTANCE(name##_##dtype##_32_32, T, 4, 1, 2, 2) \
    INSTANCE(name##_##dtype##_32_64, T, 4, 2, 2, 2) \
    INSTANCE(name##_##dtype##_64_16, T, 8, 1, 1, 2) \
    INSTANCE(name##_##dtype##_64_32, T, 8, 1, 2, 2) \
    INSTANCE(name##_##dtype##_64_64, T, 8, 2, 2, 1)

// The same for gated tiles. Feed-forwards are wide: blocks of the most rows are enough of them.
#define EACH_GATED_TILE(INSTANCE, name, dtype, T)  \
    INSTANCE(name##_##dtype##_8, T, 1, 1, 2, 3)   \
    INSTANCE(name##_##dtype##_16, T, 2, 2, 2, 2)  \
    INSTANCE(name##_##dtype##_32, T, 4, 2, 2, 2)  \
    INSTANCE(name##_##dtype##_64, T, 8, 2, 2, 1)
