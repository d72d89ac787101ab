// Products with all adapters of a step, in one launch: y = rescale ⊙ (scale ⊙ (x·wᵀ + b·(a·x)) + bias) for up to 64 lines.
//
// The first blocks shrink: they leave a·x of the lines in `shrunk` and count themselves in `meeting`. The others read w
// meanwhile, and wait for them before they finish their sums; blocks begin in order, so nobody waits for one that has no place.
// Where nothing is left to shrink there are none of them.
// Nothing about a launch depends on what is in the tables, so that one captured in a graph goes on working when they change.
#include "adapters.cuh"
#include "product.cuh"

using namespace products;

// b · h of four neighbouring columns; of those past the end nobody keeps anything.
template <typename B> __device__ __forceinline__ float4 expand_four(const B* b, int rank, const float* h, int first, int columns) {
    constexpr int PIECE = 8;
    float sums[4] = {};
    if (rank % PIECE != 0) {
        for (int r = 0; r < rank; r++) {
            const float number = __ldcg(h + r);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const size_t row = min(first + j, columns - 1);
                sums[j] = fmaf(widen(b[row * rank + r]), number, sums[j]);
            }
        }
        return make_float4(sums[0], sums[1], sums[2], sums[3]);
    }
#pragma unroll 2
    for (int piece = 0; piece < rank; piece += PIECE) {
        Stored<B> stored[4];
#pragma unroll
        for (int j = 0; j < 4; j++) stored[j] = load_stored(b + static_cast<size_t>(min(first + j, columns - 1)) * rank + piece);
        const float4 low = __ldcg(reinterpret_cast<const float4*>(h + piece));
        const float4 high = __ldcg(reinterpret_cast<const float4*>(h + piece + 4));
        const float eight[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const Eight row = widen(stored[j]);
#pragma unroll
            for (int k = 0; k < 8; k++) sums[j] = fmaf(row.x[k], eight[k], sums[j]);
        }
    }
    return make_float4(sums[0], sums[1], sums[2], sums[3]);
}

// The same of a slot; a function of its own, as all kernels here are compiled with three dtypes of it.
__device__ __noinline__ float4 expanded(const Entry* entry, const float* h, int first, int columns) {
    const int rank = entry->rank;
    const uint32_t dtype = entry->dtype;
    if (dtype == F32) return expand_four(static_cast<const float*>(entry->b), rank, h, first, columns);
    if (dtype == F16) return expand_four(static_cast<const f16*>(entry->b), rank, h, first, columns);
    return expand_four(static_cast<const bf16*>(entry->b), rank, h, first, columns);
}

// The shrinking of a run, likewise.
template <int THREADS, typename T>
__device__ __noinline__ void
shrink_apart(const Entry* entry, const T* x, float* h, int lines, int inputs, int pitch, int chunk, int chunks) {
    shrink<THREADS>(*entry, x, h, lines, inputs, pitch, Chunk{chunk, chunks});
}

// The sites that read x, side by side in w and y, and whose lines are whose.
template <typename T> struct Patches {
    const T* x;              // [lines, inputs], as adapters see it
    const uint32_t* slots_of_lines;
    const Entry* tables[4];
    int ends[4];             // columns up to the end of each site
    uint32_t slots;
    float* shrunk;           // [sites, lines, pitch]
    int pitch;
    uint32_t* meeting;       // shrinking blocks that are done, and blocks that have seen it; 0 between launches
    int shrinking;           // blocks, one for each of `chunks` parts of the ranks, line and site; or none
    int chunks, sites;

    __device__ __forceinline__ const Entry* table(int site) const {
        return site == 0 ? tables[0] : site == 1 ? tables[1] : site == 2 ? tables[2] : tables[3];
    }

    __device__ __forceinline__ int begin(int site) const {
        return site == 0 ? 0 : site == 1 ? ends[0] : site == 2 ? ends[1] : ends[2];
    }

    __device__ __forceinline__ int end(int site) const {
        return site == 0 ? ends[0] : site == 1 ? ends[1] : site == 2 ? ends[2] : ends[3];
    }

    // The site of a column.
    __device__ __forceinline__ int site_of(int column) const {
        return (column >= ends[0] && sites > 1) + (column >= ends[1] && sites > 2) + (column >= ends[2] && sites > 3);
    }

    // One of the first blocks. It also brings its part of b nearer, which others will need.
    template <int THREADS> __device__ __forceinline__ void shrink_block(int lines, int inputs) const {
        const int chunk = blockIdx.x % chunks, line = blockIdx.x / chunks % lines, site = blockIdx.x / chunks / lines;
        const Run run = run_at(slots_of_lines, line, lines);
        if (run.lines != 0 && run.slot != 0 && run.slot < slots) {
            const Entry* entry = table(site) + run.slot;
            const size_t size = static_cast<size_t>(end(site) - begin(site)) * entry->rank * (entry->dtype == F32 ? 4 : 2);
            touch(entry->b, size, chunk, chunks);
            float* h = shrunk + (static_cast<size_t>(site) * lines + run.first) * pitch;
            const T* from = x + static_cast<size_t>(run.first) * inputs;
            shrink_apart<THREADS>(entry, from, h, run.lines, inputs, pitch, chunk, chunks);
        }
        // One thread's release stands for all: the barrier puts their writes before it.
        __syncthreads();
        if (threadIdx.x == 0) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(meeting) : "memory");
    }

    // Waits for all of them. The last of `waiting` blocks leaves the counters at 0.
    __device__ __forceinline__ void wait(int waiting) const {
        if (shrinking == 0) return;
        if (threadIdx.x == 0) {
            uint32_t done;
            do {
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(done) : "l"(meeting) : "memory");
            } while (done < shrinking);
            if (atomicAdd(meeting + 1, 1) == waiting - 1) meeting[0] = meeting[1] = 0;
        }
        __syncthreads();
    }

    // What a table says of a line.
    __device__ __forceinline__ Entry entry(int site, uint32_t slot) const { return entry_of(table(site), slots, slot); }

    // What adapters make of four neighbouring sums of a line; all four are of one site, or past the last one's end.
    __device__ __forceinline__ void
    change(float (&numbers)[4], const Entry& entry, const T* bias, int line, int lines, int site, int column) const {
        const int first = column - begin(site), columns = end(site) - begin(site);
        const float* h = shrunk + (static_cast<size_t>(site) * lines + line) * pitch;
        if (entry.rank != 0) {
            const float4 sums = expanded(&entry, h, first, columns);
            numbers[0] += sums.x, numbers[1] += sums.y, numbers[2] += sums.z, numbers[3] += sums.w;
        }
        const T* of_site = bias ? bias + begin(site) : nullptr;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (first + j < columns) numbers[j] = Finish<T>(entry, of_site, first + j)(numbers[j]);
        }
    }
};

// The blocks after those that shrink: of rows, then of splits of their k.
__device__ __forceinline__ Share share_after(int shrinking, int splits) {
    const int row_blocks = (gridDim.x - shrinking) / splits, block = blockIdx.x - shrinking;
    return {block % row_blocks, row_blocks, block / row_blocks, splits};
}

// The entries of a block's lines at two sites: read while weights are still on their way, as they lie behind each other.
template <typename Tile> struct Near {
    Entry (&entries)[Tile::LINES][2];
    int sites[2];
    // Of this thread's line.
    uint32_t slot;

    template <typename T>
    __device__ __forceinline__ Near(Entry (&entries)[Tile::LINES][2], const Patches<T>& patches, int lines, int first, int last)
        : entries(entries), sites{first, last}, slot(0) {
        if (threadIdx.x / 2 < lines) slot = patches.slots_of_lines[threadIdx.x / 2];
    }

    // Asks for them; they come with the copies of the product.
    template <typename T> __device__ __forceinline__ void call(const Patches<T>& patches, int lines) const {
        static_assert(2 * Tile::LINES <= Tile::THREADS, "a thread has one entry");
        if (threadIdx.x / 2 >= lines) return;
        const Entry* table = patches.table(threadIdx.x % 2 == 0 ? sites[0] : sites[1]);
        const bool there = slot != 0 && slot < patches.slots;
        const char* from = reinterpret_cast<const char*>(there ? table + slot : table);
        char* to = reinterpret_cast<char*>(&entries[threadIdx.x / 2][threadIdx.x % 2]);
#pragma unroll
        for (int i = 0; i < sizeof(Entry); i += 16) copy_later(to + i, from + i, there);
    }

    // Which of the two, for a site that is one of them.
    __device__ __forceinline__ const Entry& at(int line, int site) const { return entries[line][site == sites[0] ? 0 : 1]; }

    __device__ __forceinline__ bool has(int site) const { return site == sites[0] || site == sites[1]; }
};

template <typename Tile>
__device__ __forceinline__ void adapted_product(
    const Work<typename Tile::T>& work, const Patches<typename Tile::T>& patches, const typename Tile::T* bias, void* y,
    int splits, int pitch, uint32_t mode) {
    using T = typename Tile::T;
    __shared__ __align__(16) Entry entries[Tile::LINES][2];
    const int lines = work.lines;
    if (blockIdx.x < patches.shrinking) return patches.template shrink_block<Tile::THREADS>(lines, work.inputs);
    const Share share = share_after(patches.shrinking, splits);
    const int begin = share.rows * Tile::COLUMNS, last = min(begin + Tile::COLUMNS, work.columns) - 1;
    const Near<Tile> near(entries, patches, lines, patches.site_of(begin), patches.site_of(last));
    const auto finish = [&](int line, int column, const float4(&sums)[1]) {
        float numbers[4] = {sums[0].x, sums[0].y, sums[0].z, sums[0].w};
        if (column >= work.columns) return;
        const int site = patches.site_of(column);
        // Sites between the first and the last are seldom.
        const Entry entry = near.has(site) ? near.at(line, site) : patches.entry(site, patches.slots_of_lines[line]);
        patches.change(numbers, entry, bias, line, lines, site, column);
        put_four_at<T>(y, line, column, numbers, work.columns, pitch, mode);
    };
    const auto begun = [&] { near.call(patches, lines); };
    product<Tile>(work, share, begun, [&] { patches.wait(share.row_blocks); }, finish);
}

// Of two sites: y [lines, outputs] = activation(first) ⊙ second, each with its adapters, rounded only at the end.
template <typename Tile>
__device__ __forceinline__ void adapted_gated_product(
    const Work<typename Tile::T>& work, const Patches<typename Tile::T>& patches, const typename Tile::T* bias,
    typename Tile::T* y, int splits, uint32_t activation) {
    using T = typename Tile::T;
    __shared__ __align__(16) Entry entries[Tile::LINES][2];
    const int lines = work.lines, outputs = work.columns;
    if (blockIdx.x < patches.shrinking) return patches.template shrink_block<Tile::THREADS>(lines, work.inputs);
    const Share share = share_after(patches.shrinking, splits);
    const Near<Tile> near(entries, patches, lines, 0, 1);
    const auto finish = [&](int line, int column, const float4(&sums)[2]) {
        float gate[4] = {sums[0].x, sums[0].y, sums[0].z, sums[0].w};
        float up[4] = {sums[1].x, sums[1].y, sums[1].z, sums[1].w};
        if (column >= outputs) return;
        patches.change(gate, near.at(line, 0), bias, line, lines, 0, column);
        patches.change(up, near.at(line, 1), bias, line, lines, 1, outputs + column);
        activate(gate, activation);
#pragma unroll
        for (int j = 0; j < 4; j++) gate[j] *= up[j];
        put_four_at<T>(y, line, column, gate, outputs, outputs, WRITE);
    };
    const auto begun = [&] { near.call(patches, lines); };
    product<Tile>(work, share, begun, [&] { patches.wait(share.row_blocks); }, finish);
}

// What all of them are given after their own arguments.
#define PATCHES(T)                                                                                                            \
    const T *adapted_x, const uint32_t *slots_of_lines, const Entry *table0, const Entry *table1, const Entry *table2,       \
        const Entry *table3, int end0, int end1, int end2, int end3, uint32_t slots, float *shrunk, int shrunk_pitch,         \
        uint32_t *meeting, int shrinking, int chunks, int sites, int splits
#define PATCHES_OF(T)                                                                                                         \
    Patches<T> {                                                                                                              \
        adapted_x, slots_of_lines, {table0, table1, table2, table3}, {end0, end1, end2, end3}, slots, shrunk, shrunk_pitch,   \
            meeting, shrinking, chunks, sites                                                                                            \
    }

// Shrinking takes more registers than blocks of few lines otherwise need.
#define ADAPTED(name, T, line_tiles, row_tiles, row_warps, blocks)                                                               \
    extern "C" __global__ void __launch_bounds__(128 * row_warps, blocks > 2 ? 2 : blocks) name(                                                 \
        const T* x, const T* w, const T* bias, void* y, float* partials, uint32_t* counters, int lines, int inputs, int outputs, \
        const char* ahead, uint32_t ahead_bytes, int pitch, uint32_t mode, PATCHES(T)) {                                         \
        const Work<T> work{x, w, partials, counters, lines, inputs, outputs, ahead, ahead_bytes};                                \
        adapted_product<Tile<T, line_tiles, row_tiles, row_warps>>(work, PATCHES_OF(T), bias, y, splits, pitch, mode);           \
    }

#define ADAPTED_GATED(name, T, line_tiles, row_tiles, row_warps, blocks)                                                        \
    extern "C" __global__ void __launch_bounds__(128 * row_warps, blocks > 2 ? 2 : blocks) name(                                                \
        const T* x, const T* w, const T* bias, T* y, float* partials, uint32_t* counters, int lines, int inputs, int outputs,   \
        const char* ahead, uint32_t ahead_bytes, uint32_t activation, PATCHES(T)) {                                             \
        const Work<T> work{x, w, partials, counters, lines, inputs, outputs, ahead, ahead_bytes};                               \
        adapted_gated_product<Tile<T, line_tiles, row_tiles, row_warps, true>>(work, PATCHES_OF(T), bias, y, splits, activation); \
    }

EACH_TILE(ADAPTED, adapted, f16, f16)
EACH_TILE(ADAPTED, adapted, bf16, bf16)
EACH_GATED_TILE(ADAPTED_GATED, adapted_gated, f16, f16)
EACH_GATED_TILE(ADAPTED_GATED, adapted_gated, bf16, bf16)
