// Adapters of a batch: a table per site with an entry per slot, and each line's slot. Nothing about a launch depends on
// what is in them, so that one captured in a graph goes on working when they change.
#include "adapter_tiles.cuh"

using namespace products;

// k of a step of what shrinks a tile.
constexpr int STEP = Tile<bf16, 1, 1, 1>::STEP;

// How the sites' inputs and a list of tiles are shared out.
struct Shares {
    uint32_t tiles;  // of the list; those without lines come last
    uint32_t sites;
    uint32_t parts;  // of a site's inputs, each with an h of its own: [parts, sites, lines, pitch]

    __device__ __forceinline__ int site() const { return blockIdx.z % sites; }
    __device__ __forceinline__ int part() const { return blockIdx.z / sites; }
};

__device__ __forceinline__ const Entry* table_at(
    const Entry* first, const Entry* second, const Entry* third, const Entry* fourth, int site) {
    return site == 0 ? first : site == 1 ? second : site == 2 ? third : fourth;
}

__device__ __forceinline__ Chunk chunk_of_block() {
    return {static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x)};
}

// Up to 64 lines: grid [chunks of ranks, lines, sites]. `h` is [sites, lines, pitch].
template <typename T>
__device__ __forceinline__ void shrink_slots(
    const T* x, const uint32_t* lines_of, const Entry* table, uint32_t slots, float* h, int lines, int inputs, int pitch,
    const Shares&) {
    const Run run = run_at(lines_of, blockIdx.y, lines);
    if (run.lines == 0) return;
    const Entry entry = entry_of(table, slots, run.slot);
    h += (static_cast<size_t>(blockIdx.z) * lines + run.first) * pitch;
    shrink<THREADS>(entry, x + static_cast<size_t>(run.first) * inputs, h, run.lines, inputs, pitch, chunk_of_block());
}

// One of them.
template <typename T>
__device__ __forceinline__ void shrink_lines_of(
    const Run& tile, const Entry& entry, const T* x, float* h, int inputs, int pitch, const Shares& shares) {
    if constexpr (sizeof(T) == 2) {
        if (in_tiles<T>(entry)) {
            extern __shared__ __align__(128) char shared[];
            const int span = (inputs / shares.parts + STEP - 1) / STEP * STEP, from = min(span * shares.part(), inputs);
            const int to = shares.part() + 1 < shares.parts ? min(from + span, inputs) : inputs;
            const T* lines = x + static_cast<size_t>(tile.first) * inputs;
            shrink_tile(entry, lines, h + static_cast<size_t>(tile.first) * pitch, tile.lines, inputs, from, to, pitch, shared);
            return;
        }
    }
    if (shares.part() > 0) return;
    for (int line = tile.first; line < tile.first + tile.lines; line += RUN) {
        const T* from = x + static_cast<size_t>(line) * inputs;
        float* to = h + static_cast<size_t>(line) * pitch;
        shrink<THREADS>(entry, from, to, min(tile.first + tile.lines - line, RUN), inputs, pitch, chunk_of_block());
    }
}

// Any number of lines: grid [chunks of ranks, tiles, sites · parts]; `tiles` is of (slot, first line, lines).
template <typename T>
__device__ __forceinline__ void shrink_tiles(
    const T* x, const uint32_t* tiles, const Entry* table, uint32_t slots, float* h, int lines, int inputs, int pitch,
    const Shares& shares) {
    h += static_cast<size_t>(blockIdx.z) * lines * pitch;
#pragma unroll 1
    for (uint32_t index = blockIdx.y; index < shares.tiles; index += gridDim.y) {
        const Run tile = tile_at(tiles, index, lines);
        if (tile.lines == 0) return;
        shrink_lines_of(tile, entry_of(table, slots, tile.slot), x, h, inputs, pitch, shares);
    }
}

#define SHRINK(name, kind, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256, 2) name(                                                             \
        const T* x, const uint32_t* lines_of, const Entry* table0, const Entry* table1, const Entry* table2,               \
        const Entry* table3, uint32_t slots, float* h, int lines, int inputs, int pitch, uint32_t tiles, uint32_t sites,   \
        uint32_t parts) {                                                                                                  \
        const Shares shares = {tiles, sites, parts};                                                                       \
        const Entry* table = table_at(table0, table1, table2, table3, shares.site());                                      \
        kind(x, lines_of, table, slots, h, lines, inputs, pitch, shares);                                                  \
    }

SHRINK(shrink_slots_f32, shrink_slots, float)
SHRINK(shrink_slots_f16, shrink_slots, f16)
SHRINK(shrink_slots_bf16, shrink_slots, bf16)
SHRINK(shrink_tiles_f32, shrink_tiles, float)
SHRINK(shrink_tiles_f16, shrink_tiles, f16)
SHRINK(shrink_tiles_bf16, shrink_tiles, bf16)

// Up to 64 lines: grid [chunks of columns, lines, sites].
template <typename T>
__device__ __forceinline__ void
expand_slots(const Expansion<T>& of, const uint32_t* lines_of, const Entry* table, uint32_t slots, int lines, const Shares&) {
    const Run run = run_at(lines_of, blockIdx.y, lines);
    if (run.lines == 0) return;
    expand(entry_of(table, slots, run.slot), of.from_line(run.first), run.lines);
}

// Any number of lines: grid [chunks of columns, tiles, sites]. A tile is worked off by 8 · HALVES lines.
template <typename T, int HALVES>
__device__ __forceinline__ void expand_tiles(
    const Expansion<T>& of, const uint32_t* tiles, const Entry* table, uint32_t slots, int lines, const Shares& shares) {
    const Parts parts = {static_cast<int>(shares.parts), static_cast<size_t>(shares.sites) * lines * of.h_pitch};
#pragma unroll 1
    for (uint32_t index = blockIdx.y; index < shares.tiles; index += gridDim.y) {
        const Run tile = tile_at(tiles, index, lines);
        if (tile.lines == 0) return;
        if constexpr (sizeof(T) == 2) {
            const Near near = near_of(table, slots, tile.slot);
            // The base's lines, and they are where they shall be.
            if (near.rank == 0 && !near.has_rows && !of.bias && of.base == of.y) continue;
            if (in_tiles<T>(near)) {
#pragma unroll 1
                for (int line = 0; line < tile.lines; line += 8 * HALVES) {
                    expand_tile<T, HALVES>(near, table + tile.slot, of.from_line(tile.first + line), parts, tile.lines - line);
                }
                continue;
            }
        }
        expand_runs<T>(table, slots, tile, of);
    }
}

// Tiles of a step of prompts have many lines: all that is read of them is under way at once.
template <typename T>
__device__ __forceinline__ void expand_whole_tiles(
    const Expansion<T>& of, const uint32_t* tiles, const Entry* table, uint32_t slots, int lines, const Shares& shares) {
    expand_tiles<T, TILE_LINES / 8>(of, tiles, table, slots, lines, shares);
}

// Those of a step with few have few lines, and there are many blocks.
template <typename T>
__device__ __forceinline__ void expand_small_tiles(
    const Expansion<T>& of, const uint32_t* tiles, const Entry* table, uint32_t slots, int lines, const Shares& shares) {
    expand_tiles<T, 2>(of, tiles, table, slots, lines, shares);
}

// Of four blocks on a multiprocessor, 32 adapters at a site of 4,096 columns need one round.
#define EXPAND(name, kind, T, blocks)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256, blocks) name(                                                           \
        const float* h, const uint32_t* lines_of, const Entry* table0, const Entry* table1, const Entry* table2,              \
        const Entry* table3, uint32_t slots, const void* base, const T* bias, void* y, int lines, int h_pitch, int outputs0,  \
        int outputs1, int outputs2, int outputs3, int pitch, uint32_t mode, uint32_t tiles, uint32_t sites, uint32_t parts) { \
        const int site = blockIdx.z;                                                                                          \
        const int outputs = site == 0 ? outputs0 : site == 1 ? outputs1 : site == 2 ? outputs2 : outputs3;                    \
        const int skipped =                                                                                                   \
            site == 0 ? 0 : site == 1 ? outputs0 : site == 2 ? outputs0 + outputs1 : outputs0 + outputs1 + outputs2;          \
        h += static_cast<size_t>(site) * lines * h_pitch;                                                                     \
        const Expansion<T> all = {h, h_pitch, base, bias, y, outputs, pitch, mode};                                           \
        const Entry* table = table_at(table0, table1, table2, table3, site);                                                  \
        kind<T>(all.from_column(skipped), lines_of, table, slots, lines, {tiles, sites, parts});                              \
    }

EXPAND(expand_slots_f32, expand_slots, float, 4)
EXPAND(expand_slots_f16, expand_slots, f16, 4)
EXPAND(expand_slots_bf16, expand_slots, bf16, 4)
EXPAND(expand_tiles_f32, expand_whole_tiles, float, 1)
EXPAND(expand_tiles_f16, expand_whole_tiles, f16, 2)
EXPAND(expand_tiles_bf16, expand_whole_tiles, bf16, 2)
EXPAND(expand_small_tiles_f32, expand_small_tiles, float, 1)
EXPAND(expand_small_tiles_f16, expand_small_tiles, f16, 4)
EXPAND(expand_small_tiles_bf16, expand_small_tiles, bf16, 4)

// scaled [lines, inputs] = x ⊙ rescale_in of each line's slot, or x where it has none: grid [chunks of 256, lines].
template <typename T>
__device__ __forceinline__ void
rescale_inputs(const T* x, const uint32_t* lines_of, const Entry* table, uint32_t slots, T* scaled, int inputs) {
    const int column = blockIdx.x * 256 + threadIdx.x;
    if (column >= inputs) return;
    const Entry entry = entry_of(table, slots, lines_of[blockIdx.y]);
    const size_t at = static_cast<size_t>(blockIdx.y) * inputs + column;
    T number = x[at];
    if (entry.rescale_in) number = narrow<T>(widen(number) * number_at(entry.rescale_in, entry.row_dtype, column));
    scaled[at] = number;
}

#define RESCALE(name, T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) name(                                                          \
        const T* x, const uint32_t* lines_of, const Entry* table, uint32_t slots, T* scaled, int inputs) {           \
        rescale_inputs(x, lines_of, table, slots, scaled, inputs);                                                   \
    }

RESCALE(rescale_inputs_f32, float)
RESCALE(rescale_inputs_f16, f16)
RESCALE(rescale_inputs_bf16, bf16)
