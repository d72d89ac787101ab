// Activations, by codes that are known only now.

#pragma once

// As the host numbers them.
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

template <unsigned N, typename F> __device__ inline void each(float (&x)[N], F f) {
#pragma unroll
    for (unsigned j = 0; j < N; j++) x[j] = f(x[j]);
}

// One decision for all of them.
template <unsigned N> __device__ inline void activate(float (&x)[N], unsigned activation) {
    switch (activation) {
    case GELU: return each(x, Gelu());
    case GELU_TANH: return each(x, GeluTanh());
    case RELU: return each(x, Relu());
    case SILU: return each(x, Silu());
    case TANH: return each(x, Tanh());
    }
}
