// What adapters' second matrices add to the sums of a product's block, on tensor cores.
//
// Eight lines are the columns of the tensor core's smaller operand, and each may have a b of its own: b · h goes in line by line,
// with h in the line's own column and zeros in the others.
#pragma once

#include "adapter_tiles.cuh"

namespace products {

// Lines that are the columns of one tile of the tensor core.
constexpr int EIGHT = 8;

// Whether b · h of a slot goes to tensor cores: b is of the activations' dtype, and lanes can read four ranks at once.
template <typename T> __device__ __forceinline__ bool on_tensor_cores(const Near& near) {
    return near.dtype == dtype_of<T> && near.rank % 4 == 0;
}

// Eight lines at a site.
struct EightLines {
    const Near* near;  // of a line, and `step` further that of the next
    int step;
    const float* h;    // [8, pitch]
    int pitch;
    int count;         // that are there

    __device__ __forceinline__ const Near& at(int line) const { return near[line * step]; }
};

// sums [16 rows, 8 lines] += b · h for b of on_tensor_cores. The upper and the lower eight rows are of one site each, and `rows`
// are those of b that are this lane's; -1: none. APART: they are of two sites. A whole warp comes here.
template <typename T, bool APART>
__device__ __forceinline__ void
expand_on_tensor_cores(float (&sums)[4], const EightLines (&lines)[2], const int (&rows)[2]) {
    constexpr int SITES = APART ? 2 : 1;
    const int quad = threadIdx.x % 32 / 4, part = threadIdx.x % 4;
    int rank[SITES], most = 0;
#pragma unroll
    for (int site = 0; site < SITES; site++) {
        rank[site] = 0;
        if (quad < lines[site].count && on_tensor_cores<T>(lines[site].at(quad))) rank[site] = lines[site].at(quad).rank;
        most = max(most, rank[site]);
    }
    most = __reduce_max_sync(~0u, most);
#pragma unroll 1
    for (int chunk = 0; chunk < most; chunk += 16) {
        const int at = chunk + part * 4;
        uint2 words[EIGHT][2];
#pragma unroll
        for (int i = 0; i < EIGHT; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int site = half % SITES, of_line = __shfl_sync(~0u, rank[site], i * 4);
                const T* b = static_cast<const T*>(lines[site].at(i).b);
                words[i][half] = load_half_if(b + (rows[half] * of_line + at), rows[half] >= 0 && at < of_line);
            }
        }
        uint2 high[SITES], low[SITES];
#pragma unroll
        for (int site = 0; site < SITES; site++) {
            float4 h = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (at < rank[site]) h = *reinterpret_cast<const float4*>(lines[site].h + quad * lines[site].pitch + at);
            halve<T>(h, high[site], low[site]);
        }
#pragma unroll
        for (int i = 0; i < EIGHT; i++) {
            const bool mine = quad == i;
            const uint2 upper = words[i][0], lower = words[i][1];
#pragma unroll
            for (int site = 0; site < SITES; site++) {
                uint32_t b[4] = {upper.x, lower.x, upper.y, lower.y};
                if (APART) b[1 - site] = b[3 - site] = 0;
                multiply<T>(sums, b, mine ? high[site].x : 0, mine ? high[site].y : 0);
                multiply<T>(sums, b, mine ? low[site].x : 0, mine ? low[site].y : 0);
            }
        }
    }
}

// A row of any b times h, by two lanes that each take every other four ranks: `part` is 0 or 1.
__device__ __noinline__ float expand_row(const void* b, uint32_t dtype, int rank, int row, const float* h, int part) {
    const size_t first = static_cast<size_t>(row) * rank;
    float sum = 0.0f;
    for (int r = part * 4; r < rank; r += 8) {
        if (dtype == F32 && rank % 4 == 0) {
            const float4 four = *reinterpret_cast<const float4*>(static_cast<const float*>(b) + first + r);
            const float4 of_h = *reinterpret_cast<const float4*>(h + r);
            sum = fmaf(four.w, of_h.w, fmaf(four.z, of_h.z, fmaf(four.y, of_h.y, fmaf(four.x, of_h.x, sum))));
            continue;
        }
        for (int i = r; i < min(r + 4, rank); i++) sum = fmaf(number_at(b, dtype, first + i), h[i], sum);
    }
    return sum;
}

// The same for all other b. Two lanes share a row of the tile: `row` is that of b, or -1. One of them calls `add(line, sum)`.
template <typename T, typename Add>
__device__ __forceinline__ void expand_others(const EightLines& lines, int row, Add add) {
    const int lane = threadIdx.x % 32;
    const bool other = lane < lines.count && lines.at(lane).rank != 0 && !on_tensor_cores<T>(lines.at(lane));
    for (uint32_t others = __ballot_sync(~0u, other); others != 0; others &= others - 1) {
        const int line = __ffs(others) - 1;
        const Near& near = lines.at(line);
        const float* h = lines.h + static_cast<size_t>(line) * lines.pitch;
        float sum = row < 0 ? 0.0f : expand_row(near.b, near.dtype, near.rank, row, h, lane / 16);
        sum += __shfl_xor_sync(~0u, sum, 16);
        if (lane < 16 && row >= 0) add(line, sum);
    }
}

}  // namespace products
