// RMS norm and layer norm of lines; the residual is added to first where asked. One block per line, which it keeps in registers.

#include "norm.cuh"

// What is written back to x.
constexpr unsigned SUM = 1;
constexpr unsigned NORMED = 2;

// Line l of the grid is part `l % parts`, of width n, of line `l / parts` of x, of `added` (may be null) and of out. Without
// bias: RMS norm. x and out may be the same memory.
template <typename X, typename Added, typename T>
__device__ void norm(X* x, unsigned x_stride, const Added* added, unsigned added_stride, const T* weight, const T* bias,
                     T* out, unsigned out_stride, unsigned n, unsigned parts, float eps, unsigned back) {
    const size_t line = blockIdx.x / parts;
    const unsigned column = blockIdx.x % parts * n;
    x += line * x_stride + column;
    out += line * out_stride + column;
    if (added) added += line * added_stride + column;
    const bool wide =
        n % 8 == 0 && aligned(x) && aligned(added) && aligned(weight) && aligned(bias) && aligned(out);

    Eight kept[PIECES];
#pragma unroll
    for (unsigned p = 0; p < PIECES; p++) {
        const unsigned i = place_of(p);
        if (i >= n) continue;
        kept[p] = load_some(x + i, n - i, wide);
        if (added) {
            const Eight more = load_some(added + i, n - i, wide);
#pragma unroll
            for (unsigned j = 0; j < 8; j++) kept[p].x[j] += more.x[j];
        }
        if (back == SUM) store_some(x + i, kept[p], n - i, wide);
    }
    normalise(kept, weight, bias, n, eps, wide);
#pragma unroll
    for (unsigned p = 0; p < PIECES; p++) {
        const unsigned i = place_of(p);
        if (i >= n) continue;
        store_some(out + i, kept[p], n - i, wide);
        if (back == NORMED) store_some(x + i, kept[p], n - i, wide);
    }
}

#define KERNEL(name, X, Added, T)                                                                                          \
    extern "C" __global__ void __launch_bounds__(1024)                                                                     \
    name(X* x, unsigned x_stride, const Added* added, unsigned added_stride, const T* weight, const T* bias, T* out,       \
         unsigned out_stride, unsigned n, unsigned parts, float eps, unsigned back) {                                      \
        norm<X, Added, T>(x, x_stride, added, added_stride, weight, bias, out, out_stride, n, parts, eps, back);           \
    }

// The residual in f32, with or without something of dtype T to add.
#define RESIDUAL(dtype, T) KERNEL(norm_##dtype, float, T, T)
// The same, with something of f32 to add.
#define RESIDUAL_WIDE(dtype, T) KERNEL(norm_wide_##dtype, float, float, T)
// Activations.
#define ACTIVATIONS(dtype, T) KERNEL(norm_same_##dtype, T, T, T)
EACH_DTYPE(RESIDUAL)
// In f32, all three are the same.
RESIDUAL_WIDE(f16, f16)
RESIDUAL_WIDE(bf16, bf16)
ACTIVATIONS(f16, f16)
ACTIVATIONS(bf16, bf16)
