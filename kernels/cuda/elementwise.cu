// Activations, gates and biases: element by element, eight to a thread.

#include "numbers.cuh"

// Codes of activations.
enum : unsigned { GELU, GELU_TANH, RELU, SILU, TANH };

struct Gelu {
    __device__ float operator()(float x) const { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
};
struct GeluTanh {
    __device__ float operator()(float x) const {
        return 0.5f * x * (1.0f + tanhf(0.7978846f * (x + 0.044715f * x * x * x)));
    }
};
struct Relu {
    __device__ float operator()(float x) const { return fmaxf(x, 0.0f); }
};
struct Silu {
    __device__ float operator()(float x) const { return x / (1.0f + expf(-x)); }
};
struct Tanh {
    __device__ float operator()(float x) const { return tanhf(x); }
};

template <typename F> __device__ inline void each(Eight& eight, F f) {
#pragma unroll
    for (unsigned j = 0; j < 8; j++) eight.x[j] = f(eight.x[j]);
}

__device__ inline void activate(Eight& x, unsigned activation) {
    switch (activation) {
    case GELU: return each(x, Gelu());
    case GELU_TANH: return each(x, GeluTanh());
    case RELU: return each(x, Relu());
    case SILU: return each(x, Silu());
    case TANH: return each(x, Tanh());
    }
}

// The eight of a matrix [lines, n] that belongs to this thread; false: there is none.
struct Place {
    size_t line;
    unsigned column, count;

    __device__ bool find(unsigned lines, unsigned n) {
        const unsigned pieces = (n + 7) / 8;
        const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
        line = index / pieces;
        column = index % pieces * 8;
        count = n - column;
        return line < lines;
    }
};

// out = activation(gate) ⊙ up, each [lines, n] with a stride. out may be gate or up.
template <typename T>
__device__ void gate_up(const T* gate, unsigned gate_stride, const T* up, unsigned up_stride, T* out, unsigned out_stride,
                        unsigned lines, unsigned n, unsigned activation) {
    Place place;
    if (!place.find(lines, n)) return;
    gate += place.line * gate_stride + place.column;
    up += place.line * up_stride + place.column;
    out += place.line * out_stride + place.column;
    const bool wide = place.count >= 8 && aligned(gate) && aligned(up) && aligned(out);
    Eight x = load_some(gate, place.count, wide);
    const Eight y = load_some(up, place.count, wide);
    activate(x, activation);
#pragma unroll
    for (unsigned j = 0; j < 8; j++) x.x[j] *= y.x[j];
    store_some(out, x, place.count, wide);
}

// x [lines, n] = activation(x), in place.
template <typename T>
__device__ void activate_all(T* x, unsigned stride, unsigned lines, unsigned n, unsigned activation) {
    Place place;
    if (!place.find(lines, n)) return;
    x += place.line * stride + place.column;
    const bool wide = place.count >= 8 && aligned(x);
    Eight eight = load_some(x, place.count, wide);
    activate(eight, activation);
    store_some(x, eight, place.count, wide);
}

// x [lines, n] += row [n], in place.
template <typename T> __device__ void add_to_lines(T* x, unsigned stride, const T* row, unsigned lines, unsigned n) {
    Place place;
    if (!place.find(lines, n)) return;
    x += place.line * stride + place.column;
    row += place.column;
    const bool wide = place.count >= 8 && aligned(x) && aligned(row);
    Eight eight = load_some(x, place.count, wide);
    const Eight more = load_some(row, place.count, wide);
#pragma unroll
    for (unsigned j = 0; j < 8; j++) eight.x[j] += more.x[j];
    store_some(x, eight, place.count, wide);
}

#define KERNELS(dtype, T)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
    gate_##dtype(const T* gate, unsigned gate_stride, const T* up, unsigned up_stride, T* out, unsigned out_stride,        \
                 unsigned lines, unsigned n, unsigned activation) {                                                        \
        begin();                                                                                                          \
        gate_up<T>(gate, gate_stride, up, up_stride, out, out_stride, lines, n, activation);                               \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
    activate_##dtype(T* x, unsigned stride, unsigned lines, unsigned n, unsigned activation) {                             \
        begin();                                                                                                          \
        activate_all<T>(x, stride, lines, n, activation);                                                                  \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
    add_row_##dtype(T* x, unsigned stride, const T* row, unsigned lines, unsigned n) {                                     \
        begin();                                                                                                          \
        add_to_lines<T>(x, stride, row, lines, n);                                                                         \
    }
EACH_DTYPE(KERNELS)
