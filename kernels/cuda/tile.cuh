// The heart of a product: x [lines, inputs] times some rows of w, on tensor cores, for 16-bit numbers.
//
// The weights are the bigger operand of the tensor core (16 rows), the lines the smaller (8 columns). Which k of a contraction
// is which does not matter as long as both operands agree. So a thread takes the 8 neighbouring k that 16 bytes hold for two
// rows of w, straight from memory into registers, and the same 8 k for its line of x: no shuffling, no shared memory for w.
#pragma once

#include "products.cuh"

namespace products {

// k that are shared out among the warps of a row at a time: 64 each, a whole line of the cache.
constexpr int UNIT = 256;

struct Nothing {
    __device__ __forceinline__ void operator()() const {}
};

// GATED: w is [2 · columns, inputs], and a column of y is made of two of its rows, `columns` apart. 16 rows of the tensor core
// are then 8 of the first half and the 8 that belong to them.
template <typename Number, int LINE_TILES_, int ROW_TILES_, int ROW_WARPS_, bool GATED_ = false> struct Tile {
    using T = Number;
    static constexpr int LINE_TILES = LINE_TILES_;
    static constexpr int ROW_TILES = ROW_TILES_;
    static constexpr int ROW_WARPS = ROW_WARPS_;
    static constexpr bool GATED = GATED_;
    // Warps that share the k of the same rows. It decides the order of summation: the same for all tiles.
    static constexpr int K_WARPS = 4;
    static constexpr int THREADS = 32 * K_WARPS * ROW_WARPS;
    static constexpr int LINES = 8 * LINE_TILES;
    static constexpr int ROWS = 16 * ROW_TILES * ROW_WARPS;
    // Columns of y that become of a block's rows.
    static constexpr int COLUMNS = GATED ? ROWS / 2 : ROWS;
    // Chunks of 32 k whose weights are under way in registers.
    static constexpr int DEPTH = LINE_TILES == 8 || ROW_TILES == 2 ? 2 : 4;
    // k of x in one stage of shared memory.
    static constexpr int STEP = UNIT / 2 * DEPTH;
    static constexpr int STAGES = 3;
    // Bytes of a line in a stage. The last 64 keep neighbouring lines in different banks.
    static constexpr int PITCH = STEP * 2 + 64;
    static constexpr int STAGE = LINES * PITCH;
    // Where the warps' sums meet: [K_WARPS, LINES, SUM_PITCH]; 4 more keep them in different banks.
    static constexpr int SUM_PITCH = ROWS + 4;

    // The sums over k in from..to of one warp's rows, `sums[i][j]` as the tensor core spreads [16 rows, 8 lines]. `begun()` is called
    // by all threads when the first loads are under way; what it copies to shared memory is there in the end.
    template <typename Begun = Nothing>
    static __device__ __forceinline__ void accumulate(
        const T* __restrict__ x,
        const T* __restrict__ w,
        int lines,
        int inputs,
        int columns,
        int first_column,
        int from,
        int to,
        char* stages,
        float (&sums)[ROW_TILES][LINE_TILES][4],
        Begun begun = {}) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int k_warp = warp % K_WARPS, row_warp = warp / K_WARPS;
        const int quad = lane / 4, part = lane % 4;

        // Columns past the end are the last one's again; nobody keeps what comes of them. Of gated rows only the first half's
        // are kept: the distance to the other's is the same for all threads, and registers are few.
        constexpr int KEPT = GATED ? 1 : 2;
        const size_t apart = static_cast<size_t>(columns) * inputs;
        const T* rows[ROW_TILES][KEPT];
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
            for (int half = 0; half < KEPT; half++) {
                const int column = first_column + (row_warp * ROW_TILES + i) * 8 * KEPT + half * 8 + quad;
                rows[i][half] = w + static_cast<size_t>(min(column, columns - 1)) * inputs;
            }
        }
        // Where this thread's part of a chunk is, counted from `from`.
        const auto place = [&](int chunk) { return chunk / 2 * UNIT + k_warp * 64 + chunk % 2 * 32 + part * 8; };
        const auto fetch = [&](int chunk, uint4(&into)[ROW_TILES][2]) {
            const int k = from + place(chunk);
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const T* row = GATED ? rows[i][0] + half * apart : rows[i][half];
                    into[i][half] = load_once_if(row + k, k < to);
                }
            }
        };
        // Threads side by side copy a line's pieces, so that all addresses of a thread are one and a multiple of the same step.
        constexpr int PIECES = STEP / 8, AT_ONCE = THREADS / PIECES;
        static_assert(THREADS % PIECES == 0 && LINES % AT_ONCE == 0, "threads share out a stage evenly");
        const int copied_line = threadIdx.x / PIECES, copied_piece = threadIdx.x % PIECES;
        const auto stage = [&](int step) {
            char* into = stages + step % STAGES * STAGE + copied_line * PITCH + copied_piece * 16;
            const int k = from + step * STEP + copied_piece * 8;
            const T* source = x + static_cast<size_t>(copied_line) * inputs + k;
#pragma unroll 1
            for (int line = copied_line; line < LINES; line += AT_ONCE) {
                const bool there = line < lines && k < to;
                copy_later(into, there ? source : x, there);
                into += AT_ONCE * PITCH;
                source += static_cast<size_t>(AT_ONCE) * inputs;
            }
        };

        uint4 weights[DEPTH][ROW_TILES][2];
#pragma unroll
        for (int chunk = 0; chunk < DEPTH; chunk++) fetch(chunk, weights[chunk]);
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
            for (int j = 0; j < LINE_TILES; j++) sums[i][j][0] = sums[i][j][1] = sums[i][j][2] = sums[i][j][3] = 0.0f;
        }
        const int steps = (to - from + STEP - 1) / STEP;
#pragma unroll
        for (int step = 0; step < STAGES - 1; step++) {
            if (step < steps) stage(step);
            end_copies();
        }
        begun();
#pragma unroll 1
        for (int step = 0; step < steps; step++) {
            // This step's copies are there, and nobody reads the stage before it any more.
            wait_for_copies<STAGES - 2>();
            __syncthreads();
            if (step + STAGES - 1 < steps) stage(step + STAGES - 1);
            end_copies();
            const char* here = stages + step % STAGES * STAGE + quad * PITCH;
#pragma unroll
            for (int chunk = 0; chunk < DEPTH; chunk++) {
#pragma unroll
                for (int j = 0; j < LINE_TILES; j++) {
                    const uint4 b = *reinterpret_cast<const uint4*>(here + j * 8 * PITCH + place(chunk) * 2);
#pragma unroll
                    for (int i = 0; i < ROW_TILES; i++) {
                        const uint4 upper = weights[chunk][i][0], lower = weights[chunk][i][1];
                        multiply<T>(sums[i][j], {upper.x, lower.x, upper.y, lower.y}, b.x, b.y);
                        multiply<T>(sums[i][j], {upper.z, lower.z, upper.w, lower.w}, b.z, b.w);
                    }
                }
                fetch((step + 1) * DEPTH + chunk, weights[chunk]);
            }
        }
        wait_for_copies<0>();
        __syncthreads();
    }

    // Puts all warps' sums into shared memory, where `four_at` adds them up.
    static __device__ __forceinline__ void share(float* shared, const float (&sums)[ROW_TILES][LINE_TILES][4]) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int k_warp = warp % K_WARPS, row_warp = warp / K_WARPS;
        const int quad = lane / 4, part = lane % 4;
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
            for (int j = 0; j < LINE_TILES; j++) {
                float* at = shared + (k_warp * LINES + j * 8 + part * 2) * SUM_PITCH + (row_warp * ROW_TILES + i) * 16 + quad;
                at[0] = sums[i][j][0];
                at[SUM_PITCH] = sums[i][j][1];
                at[8] = sums[i][j][2];
                at[SUM_PITCH + 8] = sums[i][j][3];
            }
        }
        __syncthreads();
    }

    // All warps' sums of a line and four rows.
    static __device__ __forceinline__ float4 four_at(const float* shared, int line, int row) {
        float4 sum = *reinterpret_cast<const float4*>(shared + line * SUM_PITCH + row);
#pragma unroll
        for (int k_warp = 1; k_warp < K_WARPS; k_warp++) {
            const float4 other = *reinterpret_cast<const float4*>(shared + (k_warp * LINES + line) * SUM_PITCH + row);
            sum = make_float4(sum.x + other.x, sum.y + other.y, sum.z + other.z, sum.w + other.w);
        }
        return sum;
    }
};

}  // namespace products
