// The heart of a product: x [lines, inputs] times some rows of w, on tensor cores, for 16-bit numbers.
//
// Both go through shared memory, several steps ahead, as what is under way must cover the way to memory. A warp copies the
// weights that it reads itself. Pieces of 16 bytes change places within lines of 128 bytes, and never between them: so no two
// lanes that read a matrix of 8 x 8 meet in a bank, and copies of neighbours are one request.
#pragma once

#include "products.cuh"

namespace products {

// GATED: w is [2 · columns, inputs], and a column of y is made of two of its rows, `columns` apart. 16 rows of a tile are then 8
// of the first half and the 8 that belong to them.
// PATCHED: as much as its lines' sums take lies behind a block's shared memory, to be added to them.
template <typename Number, int LINE_TILES_, int ROW_TILES_, int ROW_WARPS_, bool GATED_ = false, bool PATCHED_ = false>
struct Tile {
    using T = Number;
    static constexpr int LINE_TILES = LINE_TILES_;
    static constexpr int ROW_TILES = ROW_TILES_;
    static constexpr int ROW_WARPS = ROW_WARPS_;
    static constexpr bool GATED = GATED_, PATCHED = PATCHED_;
    // Warps that share the k of the same rows. It decides the order of summation: the same for all tiles.
    static constexpr int K_WARPS = 4;
    static constexpr int THREADS = 32 * K_WARPS * ROW_WARPS;
    static constexpr int LINES = 8 * LINE_TILES;
    static constexpr int ROWS = 16 * ROW_TILES * ROW_WARPS;
    // Columns of y that become of a block's rows.
    static constexpr int COLUMNS = GATED ? ROWS / 2 : ROWS;

    // k of a step: 32 for each of the warps that share them.
    static constexpr int STEP = 32 * K_WARPS;
    // Bytes of a line of x in a step, of 8 rows of a warp's weights, and of all of these.
    static constexpr int PITCH = STEP * 2, EIGHT_ROWS = 8 * 64, WARP_ROWS = 2 * ROW_TILES * EIGHT_ROWS;
    // Bytes of a step: weights, then x.
    static constexpr int WEIGHTS = K_WARPS * ROW_WARPS * WARP_ROWS, STAGE = WEIGHTS + LINES * PITCH;
    // Where the warps' sums meet: [K_WARPS, LINES, SUM_PITCH]; 8 more keep them in different banks.
    static constexpr int SUM_PITCH = ROWS + 8;
    static constexpr int SUMS = K_WARPS * LINES * SUM_PITCH * 4;
    // Steps that there is room for: two blocks shall fit into a multiprocessor, or one where three steps and patches leave too
    // little. Before Hopper a multiprocessor has 164 KB, or 100 KB.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
    static constexpr int ROOM = (LINES == 64 && ROWS == 64 ? 96 : 76) * 1024;
#else
    static constexpr int ROOM = (PATCHED && LINES == 64 && ROWS == 64 ? 140 : 106) * 1024;
#endif
    static constexpr int STAGES = ROOM / STAGE < 6 ? ROOM / STAGE : 6;
    static_assert(STAGES >= 3, "copies run ahead of two steps");
    // Bytes of shared memory that a block needs.
    static constexpr int SHARED = STAGES * STAGE > SUMS ? STAGES * STAGE : SUMS;

    // The sums of a warp's rows, as the tensor core spreads them: [16 lines, 8 rows] each. Of 8 lines the second half is nothing.
    static constexpr int LINES_16 = (LINE_TILES + 1) / 2;
    using Sums = float[2 * ROW_TILES][LINES_16][4];

    // A barrier of the threads that make the product; a block may have others.
    static __device__ __forceinline__ void meet() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }

    // Where the 16 bytes of 8 k are: of one of 8 rows of w, which are two lines of 128 bytes for each four of them; and of a line of x.
    static __device__ __forceinline__ int place_of_w(int row, int piece) {
        return row / 2 * 128 + (row % 2 * 4 + (piece ^ (row / 2))) * 16;
    }
    static __device__ __forceinline__ int place_of_x(int line, int piece) {
        return line * PITCH + (piece / 8 * 8 + (piece % 8 ^ line % 8)) * 16;
    }

    // The sums over k in from..to of one warp's rows. `begun()` is called by all threads when the first loads are under way. RESIDENT:
    // x is in shared memory afterwards, all of it, as [lines, pitch] and then 16 bytes of zeros; behind its end are zeros too.
    template <bool RESIDENT, typename Begun>
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
        Sums& sums,
        const T* resident,
        int pitch,
        Begun begun) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int k_warp = warp % K_WARPS, row_warp = warp / K_WARPS;
        const int quad = lane / 4, part = lane % 4;

        // A lane copies 16 bytes of a row: columns past the end are the last one's again; nobody keeps what comes of them. Of
        // gated rows only the first half's are kept: the distance to the other's is the same for all threads.
        constexpr int KEPT = GATED ? 1 : 2;
        const size_t apart = static_cast<size_t>(columns) * inputs;
        const int own_k = from + k_warp * 32 + part * 8;
        const T* rows[ROW_TILES][KEPT];
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
            for (int half = 0; half < KEPT; half++) {
                const int column = first_column + (row_warp * ROW_TILES + i) * 8 * KEPT + half * 8 + quad;
                rows[i][half] = w + static_cast<size_t>(min(column, columns - 1)) * inputs;
            }
        }
        char* own = stages + warp * WARP_ROWS + place_of_w(quad, part);
        // Threads side by side copy a line's pieces, so that all addresses of a thread are one and a multiple of the same step.
        constexpr int PIECES = STEP / 8, AT_ONCE = THREADS / PIECES;
        static_assert(THREADS % PIECES == 0 && (LINES % AT_ONCE == 0 || LINES < AT_ONCE), "threads share out a step evenly");
        const int copied_line = threadIdx.x / PIECES, copied_k = from + threadIdx.x % PIECES * 8;
        // Lines that are a multiple of 8 apart have the same places.
        static_assert(AT_ONCE % 8 == 0, "a thread's pieces have the same place in their lines");
        char* copied = stages + WEIGHTS + place_of_x(copied_line, threadIdx.x % PIECES);
        const auto load = [&](int step, int stage) {
            const int k = own_k + step * STEP;
            const bool inside = k < to;
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const T* row = GATED ? rows[i][0] + half * apart : rows[i][half];
                    copy_stream_later(own + stage * STAGE + (2 * i + half) * EIGHT_ROWS, row + (inside ? k : 0), inside);
                }
            }
            if constexpr (RESIDENT) return;
            const int of_x = copied_k + step * STEP;
            if (LINES < AT_ONCE && copied_line >= LINES) return;
#pragma unroll
            for (int line = 0; line < LINES; line += AT_ONCE) {
                const bool there = copied_line + line < lines && of_x < to;
                const T* source = there ? x + static_cast<size_t>(copied_line + line) * inputs + of_x : x;
                copy_later(copied + stage * STAGE + line * PITCH, source, there);
            }
        };

        const int steps = (to - from + STEP - 1) / STEP;
#pragma unroll 1
        for (int step = 0; step < STAGES - 1; step++) {
            if (step < steps) load(step, step);
            end_copies();
        }
        begun();
#pragma unroll
        for (int i = 0; i < 2 * ROW_TILES; i++) {
#pragma unroll
            for (int j = 0; j < LINES_16; j++) sums[i][j][0] = sums[i][j][1] = sums[i][j][2] = sums[i][j][3] = 0.0f;
        }
        // Where a lane's rows of matrices are, for both halves of a step's k: matrices of x go by lines and then by k, or by k where
        // there are 8 lines; those of w by k and then by rows.
        const int row = lane % 8, matrix = lane / 8;
        const char *of_x[2], *of_w[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int line = LINE_TILES == 1 ? row : matrix % 2 * 8 + row;
            const int piece = k_warp * 4 + half * 2 + (LINE_TILES == 1 ? matrix % 2 : matrix / 2);
            if constexpr (RESIDENT) {
                const T* there = line < lines ? resident + line * pitch + from + piece * 8 : resident + lines * pitch;
                of_x[half] = reinterpret_cast<const char*>(there);
            } else {
                of_x[half] = stages + WEIGHTS + place_of_x(line, piece);
            }
            of_w[half] = stages + warp * WARP_ROWS + matrix / 2 * EIGHT_ROWS + place_of_w(row, half * 2 + matrix % 2);
        }
        static_assert(!RESIDENT || LINE_TILES == 1, "few lines are resident");
        const int further = lane % 8 < lines ? STEP * 2 : 0;
        int stage = 0, next = STAGES - 1;
#pragma unroll 1
        for (int step = 0; step < steps; step++) {
            // This step's copies are there, and nobody reads the one before it any more.
            wait_for_copies<STAGES - 2>();
            meet();
            if (step + STAGES - 1 < steps) load(step + STAGES - 1, next);
            end_copies();
            uint32_t a[2][LINES_16][4];
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int j = 0; j < LINES_16; j++) {
                    load_matrices(a[half][j], of_x[half] + (RESIDENT ? step * further : stage * STAGE + j * 16 * PITCH));
                    // The tensor core's upper lines, of which there are none.
                    if (LINE_TILES == 1) {
                        a[half][j][2] = a[half][j][1];
                        a[half][j][1] = a[half][j][3] = 0;
                    }
                }
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int i = 0; i < ROW_TILES; i++) {
                    uint32_t b[4];
                    load_matrices(b, of_w[half] + stage * STAGE + i * 2 * EIGHT_ROWS);
#pragma unroll
                    for (int j = 0; j < LINES_16; j++) {
                        multiply<T>(sums[2 * i][j], a[half][j], b[0], b[1]);
                        multiply<T>(sums[2 * i + 1][j], a[half][j], b[2], b[3]);
                    }
                }
            }
            stage = stage + 1 == STAGES ? 0 : stage + 1;
            next = next + 1 == STAGES ? 0 : next + 1;
        }
        wait_for_copies<0>();
        meet();
    }

    // 16 rows and 8 lines as the tensor core spreads them where rows are its larger operand, to [lines, SUM_PITCH].
    static __device__ __forceinline__ void put_tile(float* to, const float (&sums)[4]) {
        const int lane = threadIdx.x % 32;
        to += lane % 4 * 2 * SUM_PITCH + lane / 4;
        to[0] = sums[0];
        to[SUM_PITCH] = sums[1];
        to[8] = sums[2];
        to[SUM_PITCH + 8] = sums[3];
    }

    // Puts all warps' sums into shared memory, where `four_at` adds them up.
    static __device__ __forceinline__ void share(float* shared, const Sums& sums) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int k_warp = warp % K_WARPS, row_warp = warp / K_WARPS;
        float* to = shared + (k_warp * LINES + lane / 4) * SUM_PITCH + row_warp * ROW_TILES * 16 + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 2 * ROW_TILES; i++) {
#pragma unroll
            for (int j = 0; j < LINES_16; j++) {
                float* at = to + j * 16 * SUM_PITCH + i * 8;
                *reinterpret_cast<float2*>(at) = make_float2(sums[i][j][0], sums[i][j][1]);
                if (LINE_TILES == 1) continue;
                *reinterpret_cast<float2*>(at + 8 * SUM_PITCH) = make_float2(sums[i][j][2], sums[i][j][3]);
            }
        }
        meet();
    }

    // The sums of a line and four rows, of all warps and `patched` [lines, SUM_PITCH].
    static __device__ __forceinline__ float4 four_at(const float* shared, const float* patched, int line, int row) {
        const int at = line * SUM_PITCH + row;
        float4 sum = *reinterpret_cast<const float4*>(shared + at);
#pragma unroll
        for (int part = 1; part < K_WARPS + PATCHED; part++) {
            const float* from = part < K_WARPS ? shared + part * LINES * SUM_PITCH : patched;
            const float4 other = *reinterpret_cast<const float4*>(from + at);
            sum = make_float4(sum.x + other.x, sum.y + other.y, sum.z + other.z, sum.w + other.w);
        }
        return sum;
    }
};

}  // namespace products
