// Adapters of a batch: a table per site with an entry per slot, and each line's slot. Nothing about a launch depends on
// what is in them, so that one captured in a graph goes on working when they change.
#include "adapter_tiles.cuh"

using namespace products;

// A tile of the host's list, cut where the lines end.
__device__ __forceinline__ Run tile_at(const uint32_t* tiles, int lines) {
    const uint32_t* tile = tiles + blockIdx.y * 3;
    const int first = min(tile[1], lines);
    return {tile[0], first, static_cast<int>(min(min(tile[2], static_cast<uint32_t>(TILE_LINES)), lines - first))};
}

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
    const T* x, const uint32_t* lines_of, const Entry* table, uint32_t slots, float* h, int lines, int inputs, int pitch) {
    const Run run = run_at(lines_of, blockIdx.y, lines);
    if (run.lines == 0) return;
    const Entry entry = entry_of(table, slots, run.slot);
    h += (static_cast<size_t>(blockIdx.z) * lines + run.first) * pitch;
    shrink<THREADS>(entry, x + static_cast<size_t>(run.first) * inputs, h, run.lines, inputs, pitch, chunk_of_block());
}

// Any number of lines: grid [chunks of ranks, tiles, sites]; `tiles` is of (slot, first line, lines).
template <typename T>
__device__ __forceinline__ void shrink_tiles(
    const T* x, const uint32_t* tiles, const Entry* table, uint32_t slots, float* h, int lines, int inputs, int pitch) {
    const Run tile = tile_at(tiles, lines);
    const Entry entry = entry_of(table, slots, tile.slot);
    const int end = tile.first + tile.lines;
    h += static_cast<size_t>(blockIdx.z) * lines * pitch;
    if constexpr (sizeof(T) == 2) {
        if (entry.dtype == dtype_of<T>) {
            extern __shared__ __align__(128) char shared[];
            const T* from = x + static_cast<size_t>(tile.first) * inputs;
            shrink_tile(entry, from, h + static_cast<size_t>(tile.first) * pitch, tile.lines, inputs, pitch, shared);
            return;
        }
    }
    for (int line = tile.first; line < end; line += RUN) {
        const T* from = x + static_cast<size_t>(line) * inputs;
        float* to = h + static_cast<size_t>(line) * pitch;
        shrink<THREADS>(entry, from, to, min(end - line, RUN), inputs, pitch, chunk_of_block());
    }
}

#define SHRINK(name, kind, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256, 2) name(                                                       \
        const T* x, const uint32_t* lines_of, const Entry* table0, const Entry* table1, const Entry* table2,         \
        const Entry* table3, uint32_t slots, float* h, int lines, int inputs, int pitch) {                           \
        kind(x, lines_of, table_at(table0, table1, table2, table3, blockIdx.z), slots, h, lines, inputs, pitch);     \
    }

SHRINK(shrink_slots_f32, shrink_slots, float)
SHRINK(shrink_slots_f16, shrink_slots, f16)
SHRINK(shrink_slots_bf16, shrink_slots, bf16)
SHRINK(shrink_tiles_f32, shrink_tiles, float)
SHRINK(shrink_tiles_f16, shrink_tiles, f16)
SHRINK(shrink_tiles_bf16, shrink_tiles, bf16)

// Up to 64 lines: grid [chunks of columns, lines, sites].
template <typename T>
__device__ __forceinline__ void expand_slots(
    const float* h, const uint32_t* lines_of, const Entry* table, uint32_t slots, const float* base, const T* bias, void* y, int lines,
    int h_pitch, int outputs, int pitch, uint32_t mode) {
    const Run run = run_at(lines_of, blockIdx.y, lines);
    if (run.lines == 0) return;
    const Entry entry = entry_of(table, slots, run.slot);
    h += (static_cast<size_t>(blockIdx.z) * lines + run.first) * h_pitch;
    const size_t skipped = static_cast<size_t>(run.first) * pitch;
    void* to = static_cast<char*>(y) + skipped * (mode == WRITE ? sizeof(T) : sizeof(float));
    expand<T>(entry, h, h_pitch, base + skipped, bias, to, run.lines, outputs, pitch, mode);
}

// Any number of lines: grid [chunks of columns, tiles, sites].
template <typename T>
__device__ __forceinline__ void expand_tiles(
    const float* h, const uint32_t* tiles, const Entry* table, uint32_t slots, const float* base, const T* bias, void* y, int lines,
    int h_pitch, int outputs, int pitch, uint32_t mode) {
    const Run tile = tile_at(tiles, lines);
    const Entry entry = entry_of(table, slots, tile.slot);
    const int end = tile.first + tile.lines;
    h += static_cast<size_t>(blockIdx.z) * lines * h_pitch;
    if constexpr (sizeof(T) == 2) {
        if (entry.rank == 0 || (entry.dtype == dtype_of<T> && entry.rank % 4 == 0)) {
            const size_t skipped = static_cast<size_t>(tile.first) * pitch;
            void* to = static_cast<char*>(y) + skipped * (mode == WRITE ? sizeof(T) : sizeof(float));
            const float* shrunk = h + static_cast<size_t>(tile.first) * h_pitch;
            expand_tile<T>(entry, shrunk, h_pitch, base + skipped, bias, to, tile.lines, outputs, pitch, mode);
            return;
        }
    }
    for (int line = tile.first; line < end; line += RUN) {
        const size_t skipped = static_cast<size_t>(line) * pitch;
        void* to = static_cast<char*>(y) + skipped * (mode == WRITE ? sizeof(T) : sizeof(float));
        const float* shrunk = h + static_cast<size_t>(line) * h_pitch;
        expand<T>(entry, shrunk, h_pitch, base + skipped, bias, to, min(end - line, RUN), outputs, pitch, mode);
    }
}

// Of four blocks on a multiprocessor, 32 adapters at a site of 4,096 columns need one round.
#define EXPAND(name, kind, T, blocks)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256, blocks) name(                                                          \
        const float* h, const uint32_t* lines_of, const Entry* table0, const Entry* table1, const Entry* table2,     \
        const Entry* table3, uint32_t slots, const float* base, const T* bias, void* y, int lines, int h_pitch, int outputs0,        \
        int outputs1, int outputs2, int outputs3, int pitch, uint32_t mode) {                                        \
        const int site = blockIdx.z;                                                                                 \
        const int outputs = site == 0 ? outputs0 : site == 1 ? outputs1 : site == 2 ? outputs2 : outputs3;           \
        const int skipped =                                                                                          \
            site == 0 ? 0 : site == 1 ? outputs0 : site == 2 ? outputs0 + outputs1 : outputs0 + outputs1 + outputs2; \
        void* to = static_cast<char*>(y) + skipped * (mode == WRITE ? sizeof(T) : sizeof(float));                    \
        kind<T>(                                                                                                     \
            h, lines_of, table_at(table0, table1, table2, table3, site), slots, base + skipped,                          \
            bias ? bias + skipped : bias, to, lines, h_pitch, outputs, pitch, mode);                                 \
    }

EXPAND(expand_slots_f32, expand_slots, float, 4)
EXPAND(expand_slots_f16, expand_slots, f16, 4)
EXPAND(expand_slots_bf16, expand_slots, bf16, 4)
EXPAND(expand_tiles_f32, expand_tiles, float, 1)
EXPAND(expand_tiles_f16, expand_tiles, f16, 2)
EXPAND(expand_tiles_bf16, expand_tiles, bf16, 2)

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
