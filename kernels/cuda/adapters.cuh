// What adapters change about a site, as the host lays it down, and the thin products.
#pragma once

#include "products.cuh"

namespace products {

// What sums need of a slot of a site first: 16 bytes, so that blocks can keep those of all their lines.
struct Near {
    const void* b;           // [outputs, rank]
    uint32_t rank;           // 0: no a, no b
    uint16_t dtype;          // of a and b
    uint16_t has_rows;       // whether there is a scale, a rescale or a bias
};

// One slot of a site. Pointers may be null; those to matrices are aligned to 16 bytes.
struct Entry : Near {
    const void* a;           // [rank, inputs]
    const void* scale;       // [outputs]
    const void* rescale;     // [outputs]
    const void* rescale_in;  // [inputs]
    const void* bias;        // [outputs], in place of the base's
    uint32_t row_dtype;      // of the rows
    float alpha;
};
static_assert(sizeof(Near) == 16 && sizeof(Entry) == 64, "entries are as the host lays them down");

// Slot 0 changes nothing, whatever lies there; nor does one that is not there.
__device__ __forceinline__ Entry entry_of(const Entry* table, uint32_t slots, uint32_t slot) {
    if (slot == 0 || slot >= slots) return {};
    return table[slot];
}

__device__ __forceinline__ Near near_of(const Entry* table, uint32_t slots, uint32_t slot) {
    if (slot == 0 || slot >= slots) return {};
    return table[slot];
}

// Lines that a block takes at once.
constexpr int RUN = 8;
// The highest rank.
constexpr int MOST_RANK = 256;

// Some neighbouring lines of one slot.
struct Run {
    uint32_t slot;
    int first;
    int lines;
};

// The run that starts at a line of at most 64, or one of no lines if an earlier block takes it.
__device__ __forceinline__ Run run_at(const uint32_t* slots, int line, int lines) {
    const int lane = threadIdx.x % 32;
    const uint32_t slot = slots[line];
    const uint32_t low = __ballot_sync(~0u, lane < lines && slots[lane] == slot);
    const uint32_t high = __ballot_sync(~0u, lane + 32 < lines && slots[lane + 32] == slot);
    const uint64_t same = static_cast<uint64_t>(high) << 32 | low;
    // The nearest line before this one that is another slot's.
    const uint64_t others = ~same & ((1ull << line) - 1);
    const int start = others ? 64 - __clzll(others) : 0;
    if ((line - start) % RUN != 0) return {slot, line, 0};
    const uint64_t after = ~(same >> line);
    const int alike = after ? __ffsll(after) - 1 : 64;
    return {slot, line, min(alike, RUN)};
}

// Threads of a block that does nothing else.
constexpr int THREADS = 256;
// Threads that share out the k of some ranks, so that every number of x is read once for all of these; a block may have more
// such teams, each with ranks of its own.
constexpr int TEAM = 128;
constexpr int TEAM_RANKS = 4;

// h [lines, pitch] = alpha · x [lines, inputs] · aᵀ for TEAM_RANKS ranks of each team, of up to LINES lines. All threads come
// here. The order of sums depends on nothing but the inputs.
template <int THREADS, int LINES, typename A, typename T>
__device__ __forceinline__ void
shrink_lines(const Entry& entry, const T* x, float* h, int lines, int inputs, int pitch, int first_rank) {
    // One line leaves registers for more loads under way.
    constexpr int BATCH = LINES == 1 ? 2 : 1, WARPS = TEAM / 32;
    __shared__ float met[THREADS / TEAM][WARPS][TEAM_RANKS][LINES];
    const int team = threadIdx.x / TEAM, thread = threadIdx.x % TEAM;
    const int lane = thread % 32, warp = thread / 32, rank = entry.rank;
    const int pieces = inputs / 8;
    first_rank += team * TEAM_RANKS;
    // Ranks and lines past the end are the last one's again; nobody keeps what comes of them.
    const A* rows[TEAM_RANKS];
#pragma unroll
    for (int r = 0; r < TEAM_RANKS; r++) {
        rows[r] = static_cast<const A*>(entry.a) + static_cast<size_t>(min(first_rank + r, rank - 1)) * inputs;
    }
    float sums[TEAM_RANKS][LINES] = {};
    for (int first = thread; first < pieces; first += TEAM * BATCH) {
        Stored<A> weights[BATCH][TEAM_RANKS];
        Stored<T> numbers[BATCH][LINES];
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int piece = first + i * TEAM;
            const size_t at = static_cast<size_t>(min(piece, pieces - 1)) * 8;
#pragma unroll
            for (int r = 0; r < TEAM_RANKS; r++) weights[i][r] = load_eight_once_if(rows[r] + at, piece < pieces);
#pragma unroll
            for (int line = 0; line < LINES; line++) {
                numbers[i][line] = load_stored(x + static_cast<size_t>(min(line, lines - 1)) * inputs + at);
            }
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            Eight row[TEAM_RANKS];
#pragma unroll
            for (int r = 0; r < TEAM_RANKS; r++) row[r] = widen(weights[i][r]);
#pragma unroll
            for (int line = 0; line < LINES; line++) {
                const Eight eight = widen(numbers[i][line]);
#pragma unroll
                for (int r = 0; r < TEAM_RANKS; r++) {
#pragma unroll
                    for (int j = 0; j < 8; j++) sums[r][line] = fmaf(row[r].x[j], eight.x[j], sums[r][line]);
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < TEAM_RANKS; r++) {
#pragma unroll
        for (int line = 0; line < LINES; line++) {
            const float sum = lanes_sum<WARP>(sums[r][line]);
            if (lane == 0) met[team][warp][r][line] = sum;
        }
    }
    __syncthreads();
    const int r = thread / LINES, line = thread % LINES;
    if (r < TEAM_RANKS && first_rank + r < rank && line < lines) {
        float sum = met[team][0][r][line];
#pragma unroll
        for (int other = 1; other < WARPS; other++) sum += met[team][other][r][line];
        h[static_cast<size_t>(line) * pitch + first_rank + r] = entry.alpha * sum;
    }
    __syncthreads();
}

// Which part of the ranks of a run is a block's, and of how many.
struct Chunk {
    int at, of;
};

template <int THREADS, typename A, typename T>
__device__ __forceinline__ void
shrink_run(const Entry& entry, const T* x, float* h, int lines, int inputs, int pitch, Chunk chunk) {
    constexpr int RANKS = THREADS / TEAM * TEAM_RANKS;
    for (int rank = chunk.at * RANKS; rank < entry.rank; rank += chunk.of * RANKS) {
        if (lines == 1) {
            shrink_lines<THREADS, 1, A>(entry, x, h, lines, inputs, pitch, rank);
        } else {
            shrink_lines<THREADS, RUN, A>(entry, x, h, lines, inputs, pitch, rank);
        }
    }
}

template <int THREADS, typename T>
__device__ __forceinline__ void
shrink(const Entry& entry, const T* x, float* h, int lines, int inputs, int pitch, Chunk chunk) {
    if (entry.dtype == F32) {
        shrink_run<THREADS, float>(entry, x, h, lines, inputs, pitch, chunk);
    } else if (entry.dtype == F16) {
        shrink_run<THREADS, f16>(entry, x, h, lines, inputs, pitch, chunk);
    } else {
        shrink_run<THREADS, bf16>(entry, x, h, lines, inputs, pitch, chunk);
    }
}

// Columns of y that a block expands: a thread each when they are finished.
constexpr int EXPAND_COLUMNS = 256;

// sums [line][column] = b [.., rank] · h [line] for the block's columns, of which `columns` are there. All threads come here.
template <int LINES, typename B>
__device__ __forceinline__ void expand_lines(
    const B* b, int rank, int columns, const float (&h)[RUN][MOST_RANK], float (&sums)[RUN][EXPAND_COLUMNS]) {
    constexpr int PIECE = 8;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (rank % PIECE != 0) {
        // Rows of b are not aligned, or end within a piece.
        if (threadIdx.x < columns) {
            float mine[LINES] = {};
            for (int r = 0; r < rank; r++) {
                const float weight = widen(b[static_cast<size_t>(threadIdx.x) * rank + r]);
#pragma unroll
                for (int line = 0; line < LINES; line++) mine[line] = fmaf(weight, h[line][r], mine[line]);
            }
#pragma unroll
            for (int line = 0; line < LINES; line++) sums[line][threadIdx.x] = mine[line];
        }
        return;
    }
    // So many lanes share a row that a warp reads whole lines of the cache.
    const int pieces = rank / PIECE;
    const int shares = pieces >= 8 ? 8 : pieces >= 4 ? 4 : pieces >= 2 ? 2 : 1;
    const int share = lane % shares, step = 32 / shares;
#pragma unroll 2
    for (int pass = 0; pass < shares; pass++) {
        const int column = warp * 32 + pass * step + lane / shares;
        float mine[LINES] = {};
        for (int piece = share; piece < pieces; piece += shares) {
            const B* at = b + static_cast<size_t>(column) * rank + piece * PIECE;
            const Eight row = widen(load_eight_once_if(at, column < columns));
#pragma unroll
            for (int line = 0; line < LINES; line++) {
                const float4 low = *reinterpret_cast<const float4*>(&h[line][piece * PIECE]);
                const float4 high = *reinterpret_cast<const float4*>(&h[line][piece * PIECE + 4]);
                const float numbers[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
                for (int j = 0; j < 8; j++) mine[line] = fmaf(row.x[j], numbers[j], mine[line]);
            }
        }
#pragma unroll
        for (int line = 0; line < LINES; line++) {
            for (int apart = shares / 2; apart > 0; apart /= 2) mine[line] += __shfl_xor_sync(~0u, mine[line], apart);
            if (share == 0) sums[line][column] = mine[line];
        }
    }
}

template <typename B>
__device__ __forceinline__ void expand_run(
    const Entry& entry, int first, int lines, int columns, const float (&h)[RUN][MOST_RANK],
    float (&sums)[RUN][EXPAND_COLUMNS]) {
    const B* b = static_cast<const B*>(entry.b) + static_cast<size_t>(first) * entry.rank;
    if (lines == 1) {
        expand_lines<1>(b, entry.rank, columns, h, sums);
    } else {
        expand_lines<RUN>(b, entry.rank, columns, h, sums);
    }
}

// What a column's sums become: rescale ⊙ (scale ⊙ sum + bias).
template <typename T> struct Finish {
    bool scaled, moved, rescaled;
    float scale, move, rescale;

    __device__ __forceinline__ Finish(const Entry& entry, const T* bias, int column)
        : scaled(entry.scale), moved(entry.bias || bias), rescaled(entry.rescale), scale(1.0f), move(0.0f), rescale(1.0f) {
        if (scaled) scale = number_at(entry.scale, entry.row_dtype, column);
        if (rescaled) rescale = number_at(entry.rescale, entry.row_dtype, column);
        if (entry.bias) {
            move = number_at(entry.bias, entry.row_dtype, column);
        } else if (bias) {
            move = widen(bias[column]);
        }
    }

    // Rounded one by one, so that a compiler's fused operations do not decide.
    __device__ __forceinline__ float operator()(float sum) const {
        if (scaled) sum = __fmul_rn(sum, scale);
        if (moved) sum = __fadd_rn(sum, move);
        if (rescaled) sum = __fmul_rn(sum, rescale);
        return sum;
    }
};

// What a site's lines are made of, and what they become, from some line and the site's first column on.
template <typename T> struct Expansion {
    const float* h;    // [lines, h_pitch]: what was shrunk
    int h_pitch;
    const void* base;  // [lines, pitch], of y's dtype, or f32 where y is added to; it may be y
    const T* bias;     // [outputs], or null
    void* y;           // [lines, pitch]
    int outputs, pitch;
    uint32_t mode;

    __device__ __forceinline__ Expansion from_line(int line) const {
        Expansion later = from_column(static_cast<size_t>(line) * pitch);
        later.h = h + static_cast<size_t>(line) * h_pitch, later.bias = bias;
        return later;
    }

    __device__ __forceinline__ Expansion from_column(size_t column) const {
        const size_t skipped = column * (mode == WRITE ? sizeof(T) : sizeof(float));
        Expansion later = *this;
        later.base = static_cast<const char*>(base) + skipped, later.y = static_cast<char*>(y) + skipped;
        if (bias) later.bias = bias + column;
        return later;
    }

    __device__ __forceinline__ float base_at(size_t at) const {
        return mode == WRITE ? widen(static_cast<const T*>(base)[at]) : static_cast<const float*>(base)[at];
    }
};

// y = rescale ⊙ (scale ⊙ (base + b·h) + bias) for up to RUN lines and the columns of a block. All threads come here.
template <typename T>
__device__ __forceinline__ void expand(const Entry& entry, const Expansion<T>& of, int lines) {
    __shared__ __align__(16) float shrunk[RUN][MOST_RANK];
    __shared__ float sums[RUN][EXPAND_COLUMNS];
    const int first = blockIdx.x * EXPAND_COLUMNS, column = first + threadIdx.x;
    if (first >= of.outputs) return;
    if (entry.rank != 0) {
        // Lines of a run that are not there are zeros.
        for (int i = threadIdx.x; i < (lines == 1 ? 1 : RUN) * MOST_RANK; i += EXPAND_COLUMNS) {
            const int line = i / MOST_RANK, r = i % MOST_RANK;
            const bool there = line < lines && r < entry.rank;
            shrunk[line][r] = there ? of.h[static_cast<size_t>(line) * of.h_pitch + r] : 0.0f;
        }
        __syncthreads();
        const int columns = min(of.outputs - first, EXPAND_COLUMNS);
        if (entry.dtype == F32) {
            expand_run<float>(entry, first, lines, columns, shrunk, sums);
        } else if (entry.dtype == F16) {
            expand_run<f16>(entry, first, lines, columns, shrunk, sums);
        } else {
            expand_run<bf16>(entry, first, lines, columns, shrunk, sums);
        }
        __syncthreads();
    }
    if (column < of.outputs) {
        const Finish<T> finish(entry, of.bias, column);
        // Four loads are under way before anything waits for one of them.
        constexpr int AT_ONCE = 4;
#pragma unroll 1
        for (int from = 0; from < lines; from += AT_ONCE) {
            float numbers[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                numbers[i] = from + i < lines ? of.base_at(static_cast<size_t>(from + i) * of.pitch + column) : 0.0f;
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                if (from + i < lines) {
                    const float number = entry.rank != 0 ? numbers[i] + sums[from + i][threadIdx.x] : numbers[i];
                    put<T>(of.y, static_cast<size_t>(from + i) * of.pitch + column, finish(number), of.mode);
                }
            }
        }
    }
    __syncthreads();
}

}  // namespace products
