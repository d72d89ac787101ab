// y [lines, outputs] = x [lines, inputs] · wᵀ + bias for up to 64 lines, bound by reading w [outputs, inputs] once.
//
// The k of a row are split over blocks and over four warps of a block by the shape of w alone, and added up in a fixed order:
// a line's numbers are the same to the bit however many lines there are.
#include "tile.cuh"

using namespace products;

// Every split's sums lie in `partials` [row blocks, splits, lines, ROWS]; the block that finds in `counters` that it is the last
// of its rows adds them up, and leaves the counter at 0.
template <typename Tile>
__device__ __forceinline__ void product(
    const typename Tile::T* x,
    const typename Tile::T* w,
    const typename Tile::T* bias,
    void* y,
    float* partials,
    uint32_t* counters,
    int lines,
    int inputs,
    int outputs,
    int pitch,
    uint32_t mode) {
    using T = typename Tile::T;
    extern __shared__ __align__(128) char shared[];
    __shared__ bool is_last;
    const int first_row = blockIdx.x * Tile::ROWS;
    const int split = blockIdx.y, splits = gridDim.y;
    const int units = (inputs + UNIT - 1) / UNIT;
    const int from = units * split / splits * UNIT;
    const int to = min(units * (split + 1) / splits * UNIT, inputs);

    let_next_begin();
    float sums[Tile::ROW_TILES][Tile::LINE_TILES][4];
    Tile::accumulate(x, w, lines, inputs, outputs, first_row, from, to, shared, sums);
    float* met = reinterpret_cast<float*>(shared);
    Tile::share(met, sums);

    // From here on a thread has four neighbouring columns of some lines.
    constexpr int FOURS = Tile::ROWS / 4, EACH = (Tile::LINES * FOURS + Tile::THREADS - 1) / Tile::THREADS;
    const int fours = lines * FOURS;
    const bool aligned = pitch % 4 == 0 && reinterpret_cast<uint64_t>(y) % 16 == 0;
    const auto finish = [&](int i, float4 sum) {
        const int column = first_row + i % FOURS * 4;
        float numbers[4] = {sum.x, sum.y, sum.z, sum.w};
        if (bias) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (column + j < outputs) numbers[j] += widen(bias[column + j]);
            }
        }
        put_four<T>(y, static_cast<size_t>(i / FOURS) * pitch + column, numbers, outputs - column, aligned, mode);
    };
    if (splits == 1) {
#pragma unroll 1
        for (int i = threadIdx.x; i < fours; i += Tile::THREADS) finish(i, Tile::four_at(met, i / FOURS, i % FOURS * 4));
        return;
    }
    float4* first = reinterpret_cast<float4*>(partials) + static_cast<size_t>(blockIdx.x) * splits * fours;
#pragma unroll 1
    for (int i = threadIdx.x; i < fours; i += Tile::THREADS) {
        __stcg(first + split * fours + i, Tile::four_at(met, i / FOURS, i % FOURS * 4));
    }
    // One thread's fence stands for all: the barrier puts their writes before it.
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        is_last = atomicAdd(counters + blockIdx.x, 1) == splits - 1;
        if (is_last) counters[blockIdx.x] = 0;
        __threadfence();
    }
    __syncthreads();
    if (!is_last) return;
    float4 totals[EACH];
#pragma unroll
    for (int each = 0; each < EACH; each++) totals[each] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 2
    for (int other = 0; other < splits; other++) {
#pragma unroll
        for (int each = 0; each < EACH; each++) {
            // Threads without lines of their own read the last four again: no branch keeps loads apart.
            const int i = min(static_cast<int>(threadIdx.x) + each * Tile::THREADS, fours - 1);
            const float4 part = __ldcg(first + other * fours + i);
            totals[each].x += part.x;
            totals[each].y += part.y;
            totals[each].z += part.z;
            totals[each].w += part.w;
        }
    }
#pragma unroll
    for (int each = 0; each < EACH; each++) {
        const int i = threadIdx.x + each * Tile::THREADS;
        if (i < fours) finish(i, totals[each]);
    }
}

#define PRODUCT(name, T, line_tiles, row_tiles, row_warps, blocks)                                                               \
    extern "C" __global__ void __launch_bounds__(128 * row_warps, blocks) name(                                                 \
        const T* x, const T* w, const T* bias, void* y, float* partials, uint32_t* counters, int lines, int inputs, int outputs, \
        int pitch, uint32_t mode) {                                                                                              \
        product<Tile<T, line_tiles, row_tiles, row_warps>>(                                                                      \
            x, w, bias, y, partials, counters, lines, inputs, outputs, pitch, mode);                                             \
    }

// Named by dtype, lines and rows of a block.
#define PRODUCTS(dtype, T)                          \
    PRODUCT(product_##dtype##_8_16, T, 1, 1, 1, 4)  \
    PRODUCT(product_##dtype##_8_32, T, 1, 1, 2, 3)  \
    PRODUCT(product_##dtype##_16_16, T, 2, 1, 1, 4) \
    PRODUCT(product_##dtype##_16_32, T, 2, 1, 2, 2) \
    PRODUCT(product_##dtype##_16_64, T, 2, 2, 2, 2) \
    PRODUCT(product_##dtype##_32_16, T, 4, 1, 1, 2) \
    PRODUCT(product_##dtype##_32_32, T, 4, 1, 2, 2) \
    PRODUCT(product_##dtype##_32_64, T, 4, 2, 2, 2) \
    PRODUCT(product_##dtype##_64_16, T, 8, 1, 1, 2) \
    PRODUCT(product_##dtype##_64_32, T, 8, 1, 2, 2) \
    PRODUCT(product_##dtype##_64_64, T, 8, 2, 2, 1)

PRODUCTS(f16, f16)
PRODUCTS(bf16, bf16)

// For checking: a warp for every number of y.
extern "C" __global__ void __launch_bounds__(128) product_f32(
    const float* x, const float* w, const float* bias, float* y, int inputs, int outputs, int pitch, uint32_t mode) {
    begin();
    const int column = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (column >= outputs) return;
    const float* line = x + static_cast<size_t>(blockIdx.y) * inputs;
    const float* row = w + static_cast<size_t>(column) * inputs;
    float sum = 0.0f;
    for (int k = lane; k < inputs; k += 32) sum = fmaf(line[k], row[k], sum);
    sum = lanes_sum<WARP>(sum);
    if (lane != 0) return;
    if (bias) sum += bias[column];
    put<float>(y, static_cast<size_t>(blockIdx.y) * pitch + column, sum, mode);
}

// y [lines, outputs] += bias, where a library made the product.
template <typename T, typename Y> __device__ __forceinline__ void add_bias(Y* y, const T* bias, int outputs, int pitch) {
    const int column = blockIdx.x * 256 + threadIdx.x;
    if (column >= outputs) return;
    Y* at = y + static_cast<size_t>(blockIdx.y) * pitch + column;
    *at = narrow<Y>(widen(*at) + widen(bias[column]));
}

#define ADD_BIAS(name, T, Y)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) name(Y* y, const T* bias, int outputs, int pitch) { \
        begin();                                                                                                     \
        add_bias(y, bias, outputs, pitch);                                                                           \
    }

ADD_BIAS(add_bias_f32, float, float)
ADD_BIAS(add_bias_f16, f16, f16)
ADD_BIAS(add_bias_f16_to_f32, f16, float)
ADD_BIAS(add_bias_bf16, bf16, bf16)
ADD_BIAS(add_bias_bf16_to_f32, bf16, float)
