// y [lines, outputs] = x [lines, inputs] · wᵀ + bias for up to 64 lines, bound by reading w [outputs, inputs] once.
//
// The k of a row are split over blocks and over four warps of a block by the shape of w alone, and added up in a fixed order:
// a line's numbers are the same to the bit however many lines there are.
#include "activation.cuh"
#include "tile.cuh"

using namespace products;

// `finish(line, column, sums)` gets the sums of four neighbouring columns: of one row each, or where they are gated of two.
//
// Every split's sums lie in `partials` [row blocks, splits, lines, ROWS]; the block that finds in `counters` that it is the last
// of its rows adds them up, and leaves the counter at 0.
template <typename Tile, typename Finish>
__device__ __forceinline__ void product(
    const typename Tile::T* x,
    const typename Tile::T* w,
    float* partials,
    uint32_t* counters,
    int lines,
    int inputs,
    int columns,
    Finish finish) {
    extern __shared__ __align__(128) char shared[];
    __shared__ bool is_last;
    const int first_column = blockIdx.x * Tile::COLUMNS;
    const int split = blockIdx.y, splits = gridDim.y;
    const int units = (inputs + UNIT - 1) / UNIT;
    const int from = units * split / splits * UNIT;
    const int to = min(units * (split + 1) / splits * UNIT, inputs);

    float sums[Tile::ROW_TILES][Tile::LINE_TILES][4];
    Tile::accumulate(x, w, lines, inputs, columns, first_column, from, to, shared, sums);
    float* met = reinterpret_cast<float*>(shared);
    Tile::share(met, sums);

    // From here on a thread has four neighbouring columns of some lines: a place, of one four of rows or of two.
    constexpr int PARTS = Tile::GATED ? 2 : 1;
    constexpr int FOURS = Tile::ROWS / 4, PLACES = FOURS / PARTS;
    constexpr int EACH = (Tile::LINES * PLACES + Tile::THREADS - 1) / Tile::THREADS;
    const int fours = lines * FOURS, places = lines * PLACES;
    // Of 16 rows the first two fours belong to the last two.
    const auto four = [&](int place, int part) { return Tile::GATED ? place / 2 * 4 + part * 2 + place % 2 : place; };
    const auto met_at = [&](int i) { return Tile::four_at(met, i / FOURS, i % FOURS * 4); };
    const auto finish_at = [&](int place, const float4(&totals)[PARTS]) {
        finish(place / PLACES, first_column + place % PLACES * 4, totals);
    };
    if (splits == 1) {
#pragma unroll 1
        for (int place = threadIdx.x; place < places; place += Tile::THREADS) {
            float4 totals[PARTS];
#pragma unroll
            for (int part = 0; part < PARTS; part++) totals[part] = met_at(four(place, part));
            finish_at(place, totals);
        }
        return;
    }
    float4* first = reinterpret_cast<float4*>(partials) + static_cast<size_t>(blockIdx.x) * splits * fours;
#pragma unroll 1
    for (int i = threadIdx.x; i < fours; i += Tile::THREADS) __stcg(first + split * fours + i, met_at(i));
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
    float4 totals[EACH][PARTS];
#pragma unroll
    for (int each = 0; each < EACH; each++) {
#pragma unroll
        for (int part = 0; part < PARTS; part++) totals[each][part] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
#pragma unroll 2
    for (int other = 0; other < splits; other++) {
#pragma unroll
        for (int each = 0; each < EACH; each++) {
            // Threads without lines of their own read the last place again: no branch keeps loads apart.
            const int place = min(static_cast<int>(threadIdx.x) + each * Tile::THREADS, places - 1);
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                const float4 more = __ldcg(first + other * fours + four(place, part));
                totals[each][part].x += more.x;
                totals[each][part].y += more.y;
                totals[each][part].z += more.z;
                totals[each][part].w += more.w;
            }
        }
    }
#pragma unroll
    for (int each = 0; each < EACH; each++) {
        const int place = threadIdx.x + each * Tile::THREADS;
        if (place < places) finish_at(place, totals[each]);
    }
}

// Adds the bias of a matrix's rows to four sums; rows past the end have none.
template <typename T>
__device__ __forceinline__ void add_bias_to(float (&numbers)[4], const T* bias, int row, int rows) {
    if (!bias) return;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (row + j < rows) numbers[j] += widen(bias[row + j]);
    }
}

template <typename Tile>
__device__ __forceinline__ void plain_product(
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
    product<Tile>(x, w, partials, counters, lines, inputs, outputs, [&](int line, int column, const float4(&sums)[1]) {
        float numbers[4] = {sums[0].x, sums[0].y, sums[0].z, sums[0].w};
        add_bias_to(numbers, bias, column, outputs);
        const bool aligned = pitch % 4 == 0 && reinterpret_cast<uint64_t>(y) % 16 == 0;
        put_four<T>(y, static_cast<size_t>(line) * pitch + column, numbers, outputs - column, aligned, mode);
    });
}

// y [lines, outputs] = activation(x · gateᵀ) ⊙ (x · upᵀ), rounded only at the end; w and bias are those of gate, then of up.
template <typename Tile>
__device__ __forceinline__ void gated_product(
    const typename Tile::T* x,
    const typename Tile::T* w,
    const typename Tile::T* bias,
    typename Tile::T* y,
    float* partials,
    uint32_t* counters,
    int lines,
    int inputs,
    int outputs,
    uint32_t activation) {
    using T = typename Tile::T;
    product<Tile>(x, w, partials, counters, lines, inputs, outputs, [&](int line, int column, const float4(&sums)[2]) {
        float gate[4] = {sums[0].x, sums[0].y, sums[0].z, sums[0].w};
        float up[4] = {sums[1].x, sums[1].y, sums[1].z, sums[1].w};
        add_bias_to(gate, bias, column, outputs);
        add_bias_to(up, bias ? bias + outputs : nullptr, column, outputs);
        activate(gate, activation);
#pragma unroll
        for (int j = 0; j < 4; j++) gate[j] *= up[j];
        const bool aligned = outputs % 4 == 0 && reinterpret_cast<uint64_t>(y) % 16 == 0;
        put_four<T>(y, static_cast<size_t>(line) * outputs + column, gate, outputs - column, aligned, WRITE);
    });
}

#define PRODUCT(name, T, line_tiles, row_tiles, row_warps, blocks)                                                               \
    extern "C" __global__ void __launch_bounds__(128 * row_warps, blocks) name(                                                 \
        const T* x, const T* w, const T* bias, void* y, float* partials, uint32_t* counters, int lines, int inputs, int outputs, \
        int pitch, uint32_t mode) {                                                                                              \
        plain_product<Tile<T, line_tiles, row_tiles, row_warps>>(                                                                \
            x, w, bias, y, partials, counters, lines, inputs, outputs, pitch, mode);                                             \
    }

#define GATED_PRODUCT(name, T, line_tiles, row_tiles, row_warps, blocks)                                                      \
    extern "C" __global__ void __launch_bounds__(128 * row_warps, blocks) name(                                              \
        const T* x, const T* w, const T* bias, T* y, float* partials, uint32_t* counters, int lines, int inputs, int outputs, \
        uint32_t activation) {                                                                                                \
        gated_product<Tile<T, line_tiles, row_tiles, row_warps, true>>(                                                       \
            x, w, bias, y, partials, counters, lines, inputs, outputs, activation);                                           \
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

// Feed-forwards are wide: blocks of the most rows are enough of them.
#define GATED_PRODUCTS(dtype, T)                             \
    GATED_PRODUCT(gated_product_##dtype##_8, T, 1, 1, 2, 3)  \
    GATED_PRODUCT(gated_product_##dtype##_16, T, 2, 2, 2, 2) \
    GATED_PRODUCT(gated_product_##dtype##_32, T, 4, 2, 2, 2) \
    GATED_PRODUCT(gated_product_##dtype##_64, T, 8, 2, 2, 1)

PRODUCTS(f16, f16)
PRODUCTS(bf16, bf16)
GATED_PRODUCTS(f16, f16)
GATED_PRODUCTS(bf16, bf16)

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
