// y [lines, outputs] = x [lines, inputs] · wᵀ + bias for up to 64 lines, bound by reading w [outputs, inputs] once.
#include "product.cuh"

using namespace products;

#define PRODUCT(name, T, line_tiles, row_tiles, row_warps, blocks)                                                               \
    extern "C" __global__ void __launch_bounds__(128 * row_warps, blocks) name(                                                 \
        const T* x, const T* w, const T* bias, void* y, float* partials, uint32_t* counters, int lines, int inputs, int span, int outputs, \
        const char* ahead, uint32_t ahead_bytes, int pitch, uint32_t mode) {                                                     \
        const Work<T> work{x, w, partials, counters, lines, inputs, span, outputs, ahead, ahead_bytes};                                \
        plain_product<Tile<T, line_tiles, row_tiles, row_warps>>(work, Unpatched(), bias, y, pitch, mode);                                    \
    }

#define GATED_PRODUCT(name, T, line_tiles, row_tiles, row_warps, blocks)                                                      \
    extern "C" __global__ void __launch_bounds__(128 * row_warps, blocks) name(                                              \
        const T* x, const T* w, const T* bias, T* y, float* partials, uint32_t* counters, int lines, int inputs, int span, int outputs, \
        const char* ahead, uint32_t ahead_bytes, uint32_t activation) {                                                       \
        const Work<T> work{x, w, partials, counters, lines, inputs, span, outputs, ahead, ahead_bytes};                             \
        gated_product<Tile<T, line_tiles, row_tiles, row_warps, true>>(work, Unpatched(), bias, y, activation);                            \
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
