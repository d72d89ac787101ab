// y [lines, outputs] = x [lines, inputs] · wᵀ + bias for up to 64 lines, bound by reading w [outputs, inputs] once.
#include "product.cuh"

using namespace products;

// The grid is of blocks of rows, and splits of their k.
__device__ __forceinline__ Share share_of_block() {
    return {static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x), static_cast<int>(blockIdx.y),
            static_cast<int>(gridDim.y)};
}

template <typename Tile>
__device__ __forceinline__ void plain_product(
    const Work<typename Tile::T>& work, const typename Tile::T* bias, void* y, int pitch, uint32_t mode) {
    using T = typename Tile::T;
    const auto finish = [&](int line, int column, const float4(&sums)[1]) {
        float numbers[4] = {sums[0].x, sums[0].y, sums[0].z, sums[0].w};
        add_bias_to(numbers, bias, column, work.columns);
        put_four_at<T>(y, line, column, numbers, work.columns, pitch, mode);
    };
    product<Tile>(work, share_of_block(), Nothing(), Nothing(), finish);
}

// y [lines, outputs] = activation(x · gateᵀ) ⊙ (x · upᵀ), rounded only at the end; w and bias are those of gate, then of up.
template <typename Tile>
__device__ __forceinline__ void gated_product(
    const Work<typename Tile::T>& work, const typename Tile::T* bias, typename Tile::T* y, uint32_t activation) {
    using T = typename Tile::T;
    const int outputs = work.columns;
    const auto finish = [&](int line, int column, const float4(&sums)[2]) {
        float gate[4] = {sums[0].x, sums[0].y, sums[0].z, sums[0].w};
        float up[4] = {sums[1].x, sums[1].y, sums[1].z, sums[1].w};
        add_bias_to(gate, bias, column, outputs);
        add_bias_to(up, bias ? bias + outputs : nullptr, column, outputs);
        activate(gate, activation);
#pragma unroll
        for (int j = 0; j < 4; j++) gate[j] *= up[j];
        put_four_at<T>(y, line, column, gate, outputs, outputs, WRITE);
    };
    product<Tile>(work, share_of_block(), Nothing(), Nothing(), finish);
}

#define PRODUCT(name, T, line_tiles, row_tiles, row_warps, blocks)                                                               \
    extern "C" __global__ void __launch_bounds__(128 * row_warps, blocks) name(                                                 \
        const T* x, const T* w, const T* bias, void* y, float* partials, uint32_t* counters, int lines, int inputs, int outputs, \
        const char* ahead, uint32_t ahead_bytes, int pitch, uint32_t mode) {                                                     \
        const Work<T> work{x, w, partials, counters, lines, inputs, outputs, ahead, ahead_bytes};                                \
        plain_product<Tile<T, line_tiles, row_tiles, row_warps>>(work, bias, y, pitch, mode);                                    \
    }

#define GATED_PRODUCT(name, T, line_tiles, row_tiles, row_warps, blocks)                                                      \
    extern "C" __global__ void __launch_bounds__(128 * row_warps, blocks) name(                                              \
        const T* x, const T* w, const T* bias, T* y, float* partials, uint32_t* counters, int lines, int inputs, int outputs, \
        const char* ahead, uint32_t ahead_bytes, uint32_t activation) {                                                       \
        const Work<T> work{x, w, partials, counters, lines, inputs, outputs, ahead, ahead_bytes};                             \
        gated_product<Tile<T, line_tiles, row_tiles, row_warps, true>>(work, bias, y, activation);                            \
    }

// Named by dtype, lines and rows of a block.
EACH_TILE(PRODUCT, product, f16, f16)
EACH_TILE(PRODUCT, product, bf16, bf16)
EACH_GATED_TILE(GATED_PRODUCT, gated_product, f16, f16)
EACH_GATED_TILE(GATED_PRODUCT, gated_product, bf16, bf16)

// For checking: a warp for every number of y.
extern "C" __global__ void __launch_bounds__(128) product_f32(
    const float* x, const float* w, const float* bias, float* y, int inputs, int outputs, int pitch, uint32_t mode) {
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
        add_bias(y, bias, outputs, pitch);                                                                           \
    }

ADD_BIAS(add_bias_f32, float, float)
ADD_BIAS(add_bias_f16, f16, f16)
ADD_BIAS(add_bias_f16_to_f32, f16, float)
ADD_BIAS(add_bias_bf16, bf16, bf16)
ADD_BIAS(add_bias_bf16_to_f32, bf16, float)
