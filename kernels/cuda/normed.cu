// Products of a few lines that are normalised first, each block for itself, while its first weights are on their way: a launch less.
// Sums of squares are added up as norm.cuh does, and x is rounded as there: results are the same to the bit.
#include "product.cuh"

using namespace products;

// RMS norm of a few lines. n is a multiple of 8, up to 4,096.
template <typename Tile> struct Normed {
    using T = typename Tile::T;
    static constexpr bool RESIDENT = true;
    static constexpr int EACH = 4096 / 8 / Tile::THREADS;
    static constexpr const float* sums = nullptr;

    const float* x;    // [lines, n]
    const T* weight;   // [n]
    float eps;
    int lines, n;
    T* resident;       // [lines, pitch], then 8 zeros
    int pitch;

    __device__ __forceinline__ Normed(const float* x, const T* weight, float eps, int lines, int n)
        : x(x), weight(weight), eps(eps), lines(lines), n(n), pitch((n + Tile::STEP - 1) / Tile::STEP * Tile::STEP) {
        extern __shared__ __align__(128) char shared[];
        resident = reinterpret_cast<T*>(shared + Tile::SHARED);
    }

    __device__ __forceinline__ void early() const {
        __shared__ float of_warps[2][16];
        const int lane = threadIdx.x % 32, pieces = n / 8, warps = (pieces + 31) / 32;
        if (threadIdx.x < 4) reinterpret_cast<uint32_t*>(resident + lines * pitch)[threadIdx.x] = 0;
#pragma unroll 1
        for (int line = 0; line < lines; line++) {
            Eight kept[EACH] = {};
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const int piece = i * Tile::THREADS + threadIdx.x;
                if (piece < pieces) kept[i] = widen(load_stored(x + static_cast<size_t>(line) * n + piece * 8));
            }
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                float sum = 0.0f;
#pragma unroll
                for (int j = 0; j < 8; j++) sum = fmaf(kept[i].x[j], kept[i].x[j], sum);
                sum = lanes_sum<WARP>(sum);
                const int warp = (i * Tile::THREADS + threadIdx.x) / 32;
                if (lane == 0 && warp < warps) of_warps[line % 2][warp] = sum;
            }
            Tile::meet();
            const float sum = lanes_sum<WARP>(lane < warps ? of_warps[line % 2][lane] : 0.0f) / n;
            const float scale = 1.0f / sqrtf(sum + eps);
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const int piece = i * Tile::THREADS + threadIdx.x;
                if (piece * 8 >= pitch) continue;
                if (piece < pieces) {
                    const Eight w = widen(load_stored(weight + piece * 8));
#pragma unroll
                    for (int j = 0; j < 8; j++) kept[i].x[j] = kept[i].x[j] * scale * w.x[j];
                }
                store_eight(resident + line * pitch + piece * 8, kept[i]);
            }
        }
        Tile::meet();
    }

    __device__ __forceinline__ void late() const {}
};

#define NORMED(name, T, row_warps, blocks)                                                                                      \
    extern "C" __global__ void __launch_bounds__(128 * row_warps, blocks) name(                                                 \
        const float* x, const T* norm_weight, float eps, const T* w, const T* bias, void* y, float* partials, uint32_t* counters,   \
        int lines, int inputs, int span, int outputs, const char* ahead, uint32_t ahead_bytes, int pitch, uint32_t mode) {      \
        using Of = Tile<T, 1, 1, row_warps>;                                                                                    \
        const Work<T> work{nullptr, w, partials, counters, lines, inputs, span, outputs, ahead, ahead_bytes};                   \
        plain_product<Of>(work, Normed<Of>(x, norm_weight, eps, lines, inputs), bias, y, pitch, mode);                          \
    }

#define NORMED_GATED(name, T)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256, 3) name(                                                                  \
        const float* x, const T* norm_weight, float eps, const T* w, const T* bias, T* y, float* partials, uint32_t* counters,      \
        int lines, int inputs, int span, int outputs, const char* ahead, uint32_t ahead_bytes, uint32_t activation) {           \
        using Of = Tile<T, 1, 1, 2, true>;                                                                                      \
        const Work<T> work{nullptr, w, partials, counters, lines, inputs, span, outputs, ahead, ahead_bytes};                   \
        gated_product<Of>(work, Normed<Of>(x, norm_weight, eps, lines, inputs), bias, y, activation);                           \
    }

NORMED(normed_f16_8_16, f16, 1, 4)
NORMED(normed_f16_8_32, f16, 2, 3)
NORMED(normed_bf16_8_16, bf16, 1, 4)
NORMED(normed_bf16_8_32, bf16, 2, 3)
NORMED_GATED(normed_gated_f16_8, f16)
NORMED_GATED(normed_gated_bf16_8, bf16)
