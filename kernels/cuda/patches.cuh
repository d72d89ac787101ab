// What adapters change about a product: which sites and lines there are, what shrinks them, and what is added to its sums.
#pragma once

#include "expand.cuh"
#include "product.cuh"
#include "shrink.cuh"

namespace products {

// Warps of a block beside those of the product.
constexpr int SHRINKING_WARPS = 2;

// The sites that read x, side by side in w and y, and whose lines are whose.
template <typename T> struct Patches {
    const T* x;              // [lines, inputs], as adapters see it
    const uint32_t* slots_of_lines;
    const Entry* tables[4];
    int ends[4];             // columns up to the end of each site
    uint32_t slots;
    float* shrunk;           // [sites, lines, pitch]
    int pitch;
    uint32_t* meeting;       // shrinking warps that are done, and blocks that have seen it; 0 between launches
    int shrinkers;           // the first blocks, some of whose warps shrink; none where lines were shrunk before
    int sites;

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

    // The slot of a line; 0 stands for those that are not there.
    __device__ __forceinline__ uint32_t slot_of(int line) const {
        const uint32_t slot = slots_of_lines[line];
        return slot < slots ? slot : 0;
    }

    // What one of all shrinking warps does: SHRINKING_RANKS ranks of a line, and then the next that no warp has. Where a slot's lines
    // begin it also brings its part of b nearer, which others will need.
    __device__ __forceinline__ void shrink(int warp, int lines, int inputs) const {
        const int parts = (pitch + SHRINKING_RANKS - 1) / SHRINKING_RANKS, count = parts * lines * sites;
#pragma unroll 1
        for (int i = warp; i < count; i += shrinkers * SHRINKING_WARPS) {
            const int part = i % parts, line = i / parts % lines, site = i / parts / lines;
            const uint32_t slot = slot_of(line);
            if (slot == 0) continue;
            const Entry* entry = table(site) + slot;
            const int rank = entry->rank, first = part * SHRINKING_RANKS;
            if (first >= rank) continue;
            const int all = (rank + SHRINKING_RANKS - 1) / SHRINKING_RANKS;
            if (line == 0 || slots_of_lines[line - 1] != slot) {
                const size_t size = static_cast<size_t>(end(site) - begin(site)) * rank * (entry->dtype == F32 ? 4 : 2);
                touch(entry->b, size, part * 32 + threadIdx.x % 32, all * 32);
            }
            float* h = shrunk + (static_cast<size_t>(site) * lines + line) * pitch;
            shrink_ranks(entry, first, x + static_cast<size_t>(line) * inputs, h, inputs);
        }
        // The lane that wrote says so.
        if (threadIdx.x % 32 == 0) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(meeting) : "memory");
    }

    // A warp waits until all lines are shrunk.
    __device__ __forceinline__ void wait() const {
        if (threadIdx.x % 32 == 0) {
            uint32_t done;
            do {
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(done) : "l"(meeting) : "memory");
            } while (done < shrinkers * SHRINKING_WARPS);
        }
        __syncwarp();
    }

    // The last of so many blocks that waited leaves the meeting as it was.
    __device__ __forceinline__ void leave(int blocks) const {
        if (atomicAdd(meeting + 1, 1) == blocks - 1) meeting[0] = meeting[1] = 0;
    }

    // What becomes of four neighbouring sums of a line; all four are of one site, or past the last one's end.
    __device__ __forceinline__ void
    finish(float (&numbers)[4], const Near& near, const T* bias, int line, int site, int column) const {
        const int first = column - begin(site), columns = end(site) - begin(site);
        const T* of_site = bias ? bias + begin(site) : nullptr;
        if (!near.has_rows) return add_bias_to(numbers, of_site, first, columns);
        const float4 sums = make_float4(numbers[0], numbers[1], numbers[2], numbers[3]);
        const float4 finished = finish_apart(table(site) + slots_of_lines[line], of_site, sums, first, columns);
        numbers[0] = finished.x, numbers[1] = finished.y, numbers[2] = finished.z, numbers[3] = finished.w;
    }

    // The same of those that have rows; a function of its own, as few adapters have.
    static __device__ __noinline__ float4 finish_apart(const Entry* entry, const T* bias, float4 sums, int first, int columns) {
        // Past the end the last column's again: all rows' numbers are on their way before one of them is waited for.
        const int last = columns - 1;
        const Finish<T> finishes[4] = {
            {*entry, bias, min(first, last)},
            {*entry, bias, min(first + 1, last)},
            {*entry, bias, min(first + 2, last)},
            {*entry, bias, min(first + 3, last)},
        };
        return make_float4(finishes[0](sums.x), finishes[1](sums.y), finishes[2](sums.z), finishes[3](sums.w));
    }
};

// What adapters add to a block's sums, in shared memory behind what the product needs.
template <typename Tile> struct Patched {
    using T = typename Tile::T;
    static constexpr int WARPS = Tile::THREADS / 32;
    static constexpr bool RESIDENT = false;
    static constexpr const void* resident = nullptr;
    static constexpr int pitch = 0;
    const Patches<T>& patches;
    const Share& share;
    int lines, columns;
    // [lines, SUM_PITCH].
    float* sums;
    // What lines' slots are, at the block's sites: [lines, sites].
    Near* near;
    int first, sites;
    // Of this thread's line.
    uint32_t slot;

    __device__ __forceinline__ Patched(const Patches<T>& patches, const Share& share, int lines, int columns, int first, int last)
        : patches(patches), share(share), lines(lines), columns(columns), first(first), sites(last - first + 1), slot(0) {
        static_assert(Tile::LINES <= Tile::THREADS, "a thread reads a line's slots");
        if (threadIdx.x < lines) slot = patches.slot_of(threadIdx.x);
        extern __shared__ __align__(128) char shared[];
        sums = reinterpret_cast<float*>(shared + Tile::SHARED);
        near = reinterpret_cast<Near*>(shared + Tile::SHARED + Tile::LINES * Tile::SUM_PITCH * 4);
    }

    __device__ __forceinline__ const Near& at(int line, int site) const { return near[line * sites + site - first]; }

    // While the first weights are on their way: finds out what slots are, which is there with the copies of the product, or at once
    // where lines were shrunk before, and these are expanded. All blocks read the same few slots: the L1 cache spares the L2.
    __device__ __forceinline__ void early() const {
        const bool shrunk_before = patches.shrinkers == 0;
        if (threadIdx.x < lines) {
#pragma unroll 1
            for (int i = 0; i < sites; i++) {
                const Near* from = patches.table(first + i) + slot;
                Near* to = near + threadIdx.x * sites + i;
                if (shrunk_before) {
                    *to = slot != 0 ? *from : Near{};
                } else {
                    copy_near_later(to, from, slot != 0);
                }
            }
        }
        if (!shrunk_before) return;
        Tile::meet();
        expand_all();
    }

    // When sums are there: expands those that were shrunk meanwhile.
    __device__ __forceinline__ void late() const {
        if (patches.shrinkers == 0) return;
        patches.wait();
        expand_all();
        Tile::meet();
        if (threadIdx.x == 0) patches.leave(share.row_blocks * share.splits);
    }

    __device__ __forceinline__ void expand_all() const {
#pragma unroll 1
        for (int i = threadIdx.x / 32; i < Tile::ROWS / 16 * Tile::LINE_TILES; i += WARPS) {
            expand(i / Tile::LINE_TILES, i % Tile::LINE_TILES * EIGHT);
        }
    }

    // Leaves b · h of 16 rows and eight lines in the sums, or zeros where another split of k adds it: which one it is depends on where
    // the rows lie among 64, as the order of sums must not depend on how many rows a block has.
    __device__ __forceinline__ void expand(int tile, int line) const {
        constexpr int OF_TILE = Tile::GATED ? 8 : 16, TILES = Tile::COLUMNS / OF_TILE;
        const int lane = threadIdx.x % 32;
        const int place = share.rows * TILES + tile, begin = place * OF_TILE;
        const bool own = begin < columns && line < lines && place % 4 * share.splits / 4 == share.split;
        const int first_site = Tile::GATED ? 0 : patches.site_of(begin);
        const int last_site = Tile::GATED ? 1 : patches.site_of(min(begin + OF_TILE, columns) - 1);
        // The row of b that belongs to a row of the tile; -1: it is another site's.
        const auto row_at = [&](int site, int row) {
            if (Tile::GATED && row / 8 != site) return -1;
            const int column = Tile::GATED ? begin + row % 8 : begin + row - patches.begin(site);
            return column >= 0 && column < (Tile::GATED ? columns : patches.end(site) - patches.begin(site)) ? column : -1;
        };
        const auto lines_at = [&](int site) {
            const float* h = patches.shrunk + (static_cast<size_t>(site) * lines + line) * patches.pitch;
            return EightLines{&at(line, site), sites, h, patches.pitch, min(lines - line, EIGHT)};
        };
        float added[4] = {};
        if (own && Tile::GATED) {
            const int rows[2] = {row_at(0, lane / 4), row_at(1, 8 + lane / 4)};
            expand_on_tensor_cores<T, true>(added, {lines_at(0), lines_at(1)}, rows);
        } else if (own) {
#pragma unroll 1
            for (int site = first_site; site <= last_site; site++) {
                const int rows[2] = {row_at(site, lane / 4), row_at(site, 8 + lane / 4)};
                const EightLines eight = lines_at(site);
                expand_on_tensor_cores<T, false>(added, {eight, eight}, rows);
            }
        }
        float* to = sums + line * Tile::SUM_PITCH + tile * 16;
        Tile::put_tile(to, added);
        if (!own) return;
        __syncwarp();
#pragma unroll 1
        for (int site = first_site; site <= last_site; site++) {
            const auto add = [&](int i, float sum) { to[i * Tile::SUM_PITCH + lane] += sum; };
            expand_others<T>(lines_at(site), row_at(site, lane % 16), add);
        }
    }
};

}  // namespace products
