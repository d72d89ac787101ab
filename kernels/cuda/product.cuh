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
    int span;                  // k of a split, the last of which may have fewer
    int columns;               // of y
    const char* ahead;         // what a later launch reads
    uint32_t ahead_bytes;
};

// Which block of rows this is, and which part of their k it takes.
struct Share {
    int rows, row_blocks, split, splits;
};

// The grid is of blocks of rows, and splits of their k.
__device__ __forceinline__ Share share_of_block() {
    return {static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x), static_cast<int>(blockIdx.y),
            static_cast<int>(gridDim.y)};
}

// What adds nothing to sums, and x is in global memory.
struct Unpatched {
    static constexpr bool RESIDENT = false;
    static constexpr const float* sums = nullptr;
    static constexpr const void* resident = nullptr;
    static constexpr int pitch = 0;
    __device__ __forceinline__ void early() const {}
    __device__ __forceinline__ void late() const {}
};

// `finish(line, column, sums)` gets the sums of four neighbouring columns: of one row each, or where they are gated of two. Where
// the tile is PATCHED, `patched.sums` [lines, SUM_PITCH] are added to them, which are there after `early()`, when the first loads
// are under way, or after `late()`, when all is read. Where it is RESIDENT, `early()` leaves x in shared memory.
//
// The block that finds in `counters` that it is the last of its rows adds all splits' sums up, and leaves the counter at 0.
template <typename Tile, typename Patched, typename Finish>
__device__ __forceinline__ void
product(const Work<typename Tile::T>& work, const Share& share, const Patched& patched, Finish finish) {
    extern __shared__ __align__(128) char shared[];
    __shared__ bool is_last;
    const int lines = work.lines, inputs = work.inputs, splits = share.splits;
    const int first_column = share.rows * Tile::COLUMNS;
    const int from = work.span * share.split, to = min(from + work.span, inputs);

    typename Tile::Sums sums;
    Tile::template accumulate<Patched::RESIDENT>(
        work.x, work.w, lines, inputs, work.columns, first_column, from, to, shared, sums,
        static_cast<const typename Tile::T*>(patched.resident), patched.pitch, [&] { patched.early(); });
    const int block = share.split * share.row_blocks + share.rows;
    touch(work.ahead, work.ahead_bytes, block * Tile::THREADS + threadIdx.x, share.row_blocks * splits * Tile::THREADS);
    float* met = reinterpret_cast<float*>(shared);
    Tile::share(met, sums);
    patched.late();

    // From here on a thread has four neighbouring columns of some lines: a place, of one four of rows or of two.
    constexpr int PARTS = Tile::GATED ? 2 : 1;
    constexpr int FOURS = Tile::ROWS / 4, PLACES = FOURS / PARTS;
    constexpr int EACH = (Tile::LINES * PLACES + Tile::THREADS - 1) / Tile::THREADS;
    const int fours = lines * FOURS, places = lines * PLACES;
    // Of 16 rows the first two fours belong to the last two.
    const auto four = [&](int place, int part) { return Tile::GATED ? place / 2 * 4 + part * 2 + place % 2 : place; };
    const auto met_at = [&](int i) { return Tile::four_at(met, patched.sums, i / FOURS, i % FOURS * 4); };
    if (splits > 1) {
        float4* first = reinterpret_cast<float4*>(work.partials) + static_cast<size_t>(share.rows) * splits * fours;
#pragma unroll 1
        for (int i = threadIdx.x; i < fours; i += Tile::THREADS) __stcg(first + share.split * fours + i, met_at(i));
        // One thread's release and acquire stand for all: barriers order the others' writes and reads.
        Tile::meet();
        if (threadIdx.x == 0) {
            uint32_t before;
            asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
                         : "=r"(before)
                         : "l"(work.counters + share.rows)
                         : "memory");
            is_last = before == splits - 1;
            if (is_last) work.counters[share.rows] = 0;
        }
        Tile::meet();
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
        // Nobody reads the warps' sums any more. A thread meets its own totals here again.
#pragma unroll
        for (int each = 0; each < EACH; each++) {
            const int place = threadIdx.x + each * Tile::THREADS;
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                if (place < places) reinterpret_cast<float4*>(met)[four(place, part)] = totals[each][part];
            }
        }
    }
#pragma unroll 1
    for (int place = threadIdx.x; place < places; place += Tile::THREADS) {
        float4 totals[PARTS];
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            const int at = four(place, part);
            totals[part] = splits > 1 ? reinterpret_cast<const float4*>(met)[at] : met_at(at);
        }
        finish(place / PLACES, first_column + place % PLACES * 4, totals);
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

// What a block does of a product without adapters.
template <typename Tile, typename Patched>
__device__ __forceinline__ void plain_product(
    const Work<typename Tile::T>& work, const Patched& patched, const typename Tile::T* bias, void* y, int pitch, uint32_t mode) {
    using T = typename Tile::T;
    const auto finish = [&](int line, int column, const float4(&sums)[1]) {
        float numbers[4] = {sums[0].x, sums[0].y, sums[0].z, sums[0].w};
        add_bias_to(numbers, bias, column, work.columns);
        put_four_at<T>(y, line, column, numbers, work.columns, pitch, mode);
    };
    product<Tile>(work, share_of_block(), patched, finish);
}

// y [lines, outputs] = activation(x · gateᵀ) ⊙ (x · upᵀ), rounded only at the end; w and bias are those of gate, then of up.
template <typename Tile, typename Patched>
__device__ __forceinline__ void gated_product(
    const Work<typename Tile::T>& work, const Patched& patched, const typename Tile::T* bias, typename Tile::T* y, uint32_t activation) {
    using T = typename Tile::T;
    const int outputs = work.columns;
    const auto finish = [&](int line, int column, const float4(&sums)[2]) {
        float gate[4] = {sums[0].x, sums[0].y, sums[0].z, sums[0].w};
        float up[4] = {sums[1].x, sums[1].y, sums[1].z, sums[1].w};
        add_bias_to(gate, bias, column, outputs);
        add_bias_to(up, bias ? bias + outputs : nullptr, column, outputs);
        activate(gate, activation);
#pragma unroll
        for (int j = 0; j < 4; j++) gate[j] *= up[j];
        put_four_at<T>(y, line, column, gate, outputs, outputs, WRITE);
    };
    product<Tile>(work, share_of_block(), patched, finish);
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
    INSTANCE(name##_##dtype##_64_64, T, 8, 2, 2, 2)

// The same for gated tiles. Feed-forwards are wide: blocks of the most rows are enough of them.
#define EACH_GATED_TILE(INSTANCE, name, dtype, T)  \
    INSTANCE(name##_##dtype##_8, T, 1, 1, 2, 3)   \
    INSTANCE(name##_##dtype##_16, T, 2, 2, 2, 2)  \
    INSTANCE(name##_##dtype##_32, T, 4, 2, 2, 2)  \
    INSTANCE(name##_##dtype##_64, T, 8, 2, 2, 2)
