// RMS norm and layer norm of a line, and at once what adapters' first matrices make of it, where all sites of an input have
// adapters: the line is in shared memory anyway, and while it is normalised the matrices come nearer.
#include "norm.cuh"
#include "shrink.cuh"

using namespace products;

// h [rank] = alpha · a [rank, n] · x [n] by the warps of a block, for a's dtype; x is in shared memory.
template <typename A, typename T>
__device__ __forceinline__ void shrink_line(const Entry& entry, const T* x, float* h, int n) {
    const int warp = threadIdx.x / WARP, warps = THREADS / WARP;
    for (int first = warp * SHRINKING_RANKS; first < entry.rank; first += warps * SHRINKING_RANKS) {
        shrink_ranks_of<A>(entry, first, x, h, n);
    }
}

// Block (site, line) of the grid: all normalise the line, the first site's block writes it to `out` [lines, n], and each leaves
// in `shrunk` [sites, lines, pitch] what its site's adapter makes of it. Without bias: RMS norm. n is a multiple of 8.
template <typename T>
__device__ __forceinline__ void norm_shrink(
    const float* x, const T* weight, const T* bias, T* out, int n, float eps, const uint32_t* slots_of_lines,
    const Entry* table, uint32_t slots, const uint32_t columns, float* shrunk, int pitch) {
    extern __shared__ __align__(16) char shared[];
    T* line = reinterpret_cast<T*>(shared);
    const int at = blockIdx.y, lines = gridDim.y;
    const uint32_t slot = slots_of_lines[at];
    x += static_cast<size_t>(at) * n;

    Eight kept[PIECES];
#pragma unroll
    for (unsigned p = 0; p < PIECES; p++) {
        const unsigned i = place_of(p);
        if (i < n) kept[p] = widen(load_stored(x + i));
    }
    const Entry entry = entry_of(table, slots, slot);
    const size_t bytes = entry.dtype == F32 ? 4 : 2;
    touch(entry.a, bytes * entry.rank * n, threadIdx.x, blockDim.x);
    touch(entry.b, bytes * entry.rank * columns, threadIdx.x, blockDim.x);

    normalise(kept, weight, bias, n, eps, true);
#pragma unroll
    for (unsigned p = 0; p < PIECES; p++) {
        const unsigned i = place_of(p);
        if (i >= n) continue;
        store_eight(line + i, kept[p]);
        if (blockIdx.x == 0) store_eight(out + static_cast<size_t>(at) * n + i, kept[p]);
    }
    __syncthreads();
    if (entry.rank == 0) return;
    float* h = shrunk + (static_cast<size_t>(blockIdx.x) * lines + at) * pitch;
    if (entry.dtype == F32) return shrink_line<float>(entry, line, h, n);
    if (entry.dtype == F16) return shrink_line<f16>(entry, line, h, n);
    shrink_line<bf16>(entry, line, h, n);
}

#define KERNEL(dtype, T)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS) norm_shrink_##dtype(                                             \
        const float* x, const T* weight, const T* bias, T* out, int n, float eps, const uint32_t* slots_of_lines,          \
        const Entry* table0, const Entry* table1, const Entry* table2, const Entry* table3, uint32_t columns0,             \
        uint32_t columns1, uint32_t columns2, uint32_t columns3, uint32_t slots, float* shrunk, int pitch) {               \
        const int site = blockIdx.x;                                                                                       \
        const Entry* table = site == 0 ? table0 : site == 1 ? table1 : site == 2 ? table2 : table3;                        \
        const uint32_t columns = site == 0 ? columns0 : site == 1 ? columns1 : site == 2 ? columns2 : columns3;            \
        norm_shrink(x, weight, bias, out, n, eps, slots_of_lines, table, slots, columns, shrunk, pitch);                   \
    }
KERNEL(f16, f16)
KERNEL(bf16, bf16)
