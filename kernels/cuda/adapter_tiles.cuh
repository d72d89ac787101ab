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

// What was shrunk of a tile's lines: the sum of `count` parts, `apart` numbers from each other.
struct Parts {
    int count;
    size_t apart;
};

// Where a lane works. A warp has 32 of a block's 256 columns, which are dealt out to the tensor core's tiles so that a lane has 8
// neighbours of a line: base is read and y written 16 bytes or more at once.
struct Lane {
    int quad, part;
    int begin;  // the warp's first column
    int own;    // the lane's
    int there;  // columns of the lane's eight

    __device__ __forceinline__ explicit Lane(int outputs)
        : quad(threadIdx.x % 32 / 4), part(threadIdx.x % 4), begin(blockIdx.x * EXPAND_COLUMNS + threadIdx.x / 32 * 32),
          own(begin + part * 8), there(min(max(outputs - own, 0), 8)) {}

    // The line of some half of 16.
    __device__ __forceinline__ int line(int half) const { return half * 8 + quad; }

    __device__ __forceinline__ bool wide(const void* first, int pitch) const {
        return there == 8 && pitch % 8 == 0 && aligned(first);
    }
};

// base and b·h of up to 8 · HALVES lines of one slot and a block's columns, for ranks that are a multiple of 4. What is loaded is
// looked at only when all loads are under way.
template <typename T, int HALVES> struct TileSums {
    static constexpr int TILES = 4;
    // The base's, as they are stored; of 16 bits they are in the first words.
    Stored<float> base[HALVES];
    // By tile of 8 columns and half of 16 lines: two columns of a line.
    float sums[TILES][HALVES][2];

    __device__ __forceinline__ void load(const Expansion<T>& of, const Lane& lane, int lines) {
        if (of.mode == WRITE) {
            load_as(static_cast<const T*>(of.base), of.pitch, lane, lines);
        } else {
            load_as(static_cast<const float*>(of.base), of.pitch, lane, lines);
        }
    }

    template <typename B> __device__ __forceinline__ void load_as(const B* from, int pitch, const Lane& lane, int lines) {
        if (lane.wide(from, pitch)) {
#pragma unroll
            for (int half = 0; half < HALVES; half++) {
                const B* at = from + static_cast<size_t>(lane.line(half)) * pitch + lane.own;
                const bool there = lane.line(half) < lines;
                base[half].words[0] = load_if(at, there);
                if constexpr (sizeof(B) == 4) base[half].words[1] = load_if(at + 4, there);
            }
            return;
        }
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            const B* at = from + static_cast<size_t>(lane.line(half)) * pitch + lane.own;
            const Eight eight = load_some(at, lane.line(half) < lines ? lane.there : 0, false);
            store_eight(reinterpret_cast<B*>(base[half].words), eight);
        }
    }

    __device__ __forceinline__ void
    multiply_all(const Near& near, const Expansion<T>& of, const Parts& parts, const Lane& lane, int lines) {
        const int rank = near.rank;
#pragma unroll
        for (int t = 0; t < TILES; t++) {
#pragma unroll
            for (int half = 0; half < HALVES; half++) sums[t][half][0] = sums[t][half][1] = 0.0f;
        }
#pragma unroll 1
        for (int chunk = 0; chunk < rank; chunk += 16) {
            const int at = chunk + lane.part * 4;
            uint2 columns[TILES];
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                const int column = lane.begin + lane.quad / 2 * 8 + t * 2 + lane.quad % 2;
                const T* row = static_cast<const T*>(near.b) + static_cast<size_t>(column) * rank + at;
                columns[t] = load_half_if(row, column < of.outputs && at < rank);
            }
            float4 numbers[HALVES];
#pragma unroll
            for (int half = 0; half < HALVES; half++) numbers[half] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 2
            for (int p = 0; p < parts.count; p++) {
                uint4 more[HALVES];
#pragma unroll
                for (int half = 0; half < HALVES; half++) {
                    const int line = lane.line(half);
                    const float* from = of.h + p * parts.apart + static_cast<size_t>(line) * of.h_pitch + at;
                    more[half] = load_if(from, line < lines && at < rank);
                }
#pragma unroll
                for (int half = 0; half < HALVES; half++) {
                    numbers[half].x += __uint_as_float(more[half].x), numbers[half].y += __uint_as_float(more[half].y);
                    numbers[half].z += __uint_as_float(more[half].z), numbers[half].w += __uint_as_float(more[half].w);
                }
            }
            uint2 high[HALVES], low[HALVES];
#pragma unroll
            for (int half = 0; half < HALVES; half++) halve<T>(numbers[half], high[half], low[half]);
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
    }

    // The base's bias of a lane's columns, where no slot's rows say otherwise.
    static __device__ __forceinline__ Eight bias(const Near& near, const Expansion<T>& of, const Lane& lane) {
        if (!of.bias || near.has_rows) return Eight{};
        return load_some(of.bias + lane.own, lane.there, lane.there == 8 && aligned(of.bias));
    }

    // What becomes of some half of a lane's sums; `entry` is what `near` was read of.
    __device__ __forceinline__ Eight
    finished(int half, const Near& near, const Entry* entry, const Expansion<T>& of, const Lane& lane, const Eight& bias) const {
        Eight numbers;
        if (of.mode == WRITE) {
            Stored<T> stored;
#pragma unroll
            for (unsigned i = 0; i < sizeof(stored.words) / sizeof(uint4); i++) stored.words[i] = base[half].words[i];
            numbers = widen(stored);
        } else {
            numbers = widen(base[half]);
        }
#pragma unroll
        for (int j = 0; j < 8; j++) numbers.x[j] = numbers.x[j] + sums[j / 2][half][j % 2] + bias.x[j];
        return near.has_rows ? finish_eight(entry, of.bias, numbers, lane.own, lane.there) : numbers;
    }
};

// y = rescale ⊙ (scale ⊙ (base + b·h) + bias) of them. `near` is the entry's, or that of nothing; then it may lie anywhere.
template <typename T, int HALVES>
__device__ __forceinline__ void
expand_tile(const Near& near, const Entry* entry, const Expansion<T>& of, const Parts& parts, int lines) {
    const Lane lane(of.outputs);
    if (lane.begin >= of.outputs) return;
    TileSums<T, HALVES> sums;
    sums.load(of, lane, lines);
    sums.multiply_all(near, of, parts, lane, lines);
    const Eight bias = sums.bias(near, of, lane);
    const bool wide = lane.wide(of.y, of.pitch);
#pragma unroll
    for (int half = 0; half < HALVES; half++) {
        const int line = lane.line(half);
        if (line >= lines) continue;
        Eight numbers = sums.finished(half, near, entry, of, lane, bias);
        const size_t at = static_cast<size_t>(line) * of.pitch + lane.own;
        if (of.mode == WRITE) {
            store_some(static_cast<T*>(of.y) + at, numbers, lane.there, wide);
            continue;
        }
        float* to = static_cast<float*>(of.y) + at;
        if (of.mode == ADD_F32) {
            const Eight old = load_some(to, lane.there, wide);
#pragma unroll
            for (int j = 0; j < 8; j++) numbers.x[j] += old.x[j];
        }
        store_some(to, numbers, lane.there, wide);
    }
}

// A tile whose lines are not expanded on tensor cores. Apart, as it takes more registers than all else.
template <typename T>
__device__ __noinline__ void expand_runs(const Entry* table, uint32_t slots, Run tile, Expansion<T> of) {
    const Entry entry = entry_of(table, slots, tile.slot);
    for (int line = 0; line < tile.lines; line += RUN) {
        expand(entry, of.from_line(tile.first + line), min(tile.lines - line, RUN));
    }
}

// A tile of the host's list, cut where the lines end.
__device__ __forceinline__ Run tile_at(const uint32_t* tiles, uint32_t index, int lines) {
    const uint32_t* tile = tiles + index * 3;
    const int first = min(tile[1], lines);
    return {tile[0], first, static_cast<int>(min(min(tile[2], static_cast<uint32_t>(TILE_LINES)), lines - first))};
}

}  // namespace products
