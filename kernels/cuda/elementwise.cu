// Activations, gates and biases: element by element, eight to a thread.

#include "activation.cuh"
#include "numbers.cuh"

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
    activate(x.x, activation);
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
    activate(eight.x, activation);
    store_some(x, eight, place.count, wide);
}

// x [lines, n] += row [n], in place.
template <typename T, typename Row>
__device__ void add_to_lines(T* x, unsigned stride, const Row* row, unsigned lines, unsigned n) {
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
        gate_up<T>(gate, gate_stride, up, up_stride, out, out_stride, lines, n, activation);                               \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
    activate_##dtype(T* x, unsigned stride, unsigned lines, unsigned n, unsigned activation) {                             \
        activate_all<T>(x, stride, lines, n, activation);                                                                  \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
    add_row_##dtype(T* x, unsigned stride, const T* row, unsigned lines, unsigned n) {                                     \
        add_to_lines(x, stride, row, lines, n);                                                                         \
    }
EACH_DTYPE(KERNELS)

#define ADD_ROW(dtype, T)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
    add_row_##dtype##_to_f32(float* x, unsigned stride, const T* row, unsigned lines, unsigned n) {                        \
        add_to_lines(x, stride, row, lines, n);                                                                            \
    }
ADD_ROW(f16, f16)
ADD_ROW(bf16, bf16)
