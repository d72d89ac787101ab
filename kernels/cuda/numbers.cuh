// Numbers of all dtypes: read and written eight at a time, computed with as f32.

#pragma once

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

using f16 = __half;
using bf16 = __nv_bfloat16;

constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffff;
constexpr float LOG2_E = 1.44269504f;

// Makes INSTANCE(name, type) for every dtype of weights and activations.
#define EACH_DTYPE(INSTANCE) INSTANCE(f32, float) INSTANCE(f16, f16) INSTANCE(bf16, bf16)

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(f16 x) { return __half2float(x); }
__device__ inline float widen(bf16 x) { return __bfloat162float(x); }

template <typename T> __device__ inline T narrow(float x);
template <> __device__ inline float narrow<float>(float x) { return x; }
template <> __device__ inline f16 narrow<f16>(float x) { return __float2half_rn(x); }
template <> __device__ inline bf16 narrow<bf16>(float x) { return __float2bfloat16_rn(x); }

// Two numbers of 16 bits in a word; the first is in its lower half.
template <typename T> __device__ inline float2 unpack(uint32_t word);
template <> __device__ inline float2 unpack<f16>(uint32_t word) {
    return __half22float2(*reinterpret_cast<const __half2*>(&word));
}
template <> __device__ inline float2 unpack<bf16>(uint32_t word) {
    return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}

template <typename T> __device__ inline uint32_t pack(float first, float second);
template <> __device__ inline uint32_t pack<f16>(float first, float second) {
    const __half2 both = __floats2half2_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&both);
}
template <> __device__ inline uint32_t pack<bf16>(float first, float second) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&both);
}

// Eight neighbouring numbers.
struct Eight {
    float x[8];
};

// The same as they are stored: one load of 16 bytes, or two for f32.
template <typename T> struct Stored {
    uint4 words[sizeof(T) / 2];
};

template <typename T> __device__ inline Stored<T> no_numbers() {
    Stored<T> stored;
#pragma unroll
    for (unsigned i = 0; i < sizeof(stored.words) / sizeof(uint4); i++) stored.words[i] = make_uint4(0, 0, 0, 0);
    return stored;
}

// `at` is aligned to 16 bytes.
template <typename T> __device__ inline Stored<T> load_stored(const T* at) {
    Stored<T> stored;
    const uint4* words = reinterpret_cast<const uint4*>(at);
#pragma unroll
    for (unsigned i = 0; i < sizeof(stored.words) / sizeof(uint4); i++) stored.words[i] = words[i];
    return stored;
}

template <typename T> __device__ inline Eight widen(const Stored<T>& stored) {
    const uint4 w = stored.words[0];
    const float2 a = unpack<T>(w.x), b = unpack<T>(w.y), c = unpack<T>(w.z), d = unpack<T>(w.w);
    return Eight{{a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y}};
}
template <> __device__ inline Eight widen<float>(const Stored<float>& stored) {
    const uint4 a = stored.words[0], b = stored.words[1];
    return Eight{{__uint_as_float(a.x), __uint_as_float(a.y), __uint_as_float(a.z), __uint_as_float(a.w),
                  __uint_as_float(b.x), __uint_as_float(b.y), __uint_as_float(b.z), __uint_as_float(b.w)}};
}

// `at` is aligned to 16 bytes.
template <typename T> __device__ inline void store_eight(T* at, const Eight& eight) {
    const float* x = eight.x;
    *reinterpret_cast<uint4*>(at) =
        make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]), pack<T>(x[6], x[7]));
}
template <> __device__ inline void store_eight<float>(float* at, const Eight& eight) {
    const float* x = eight.x;
    reinterpret_cast<float4*>(at)[0] = make_float4(x[0], x[1], x[2], x[3]);
    reinterpret_cast<float4*>(at)[1] = make_float4(x[4], x[5], x[6], x[7]);
}

// 2ˣ to two units in the last place; 0 for -infinity.
__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Whether an address is good for loads of 16 bytes. No address is.
__device__ inline bool aligned(const void* at) { return (reinterpret_cast<uintptr_t>(at) & 15) == 0; }

// The first `count` numbers from `at` on, of eight at most; the others are 0. `wide`: there are eight, and they are aligned.
template <typename T> __device__ inline Eight load_some(const T* at, unsigned count, bool wide) {
    if (wide) return widen(load_stored(at));
    Eight eight;
#pragma unroll
    for (unsigned i = 0; i < 8; i++) eight.x[i] = i < count ? widen(at[i]) : 0.0f;
    return eight;
}

// Writes the first `count` of eight numbers.
template <typename T> __device__ inline void store_some(T* at, const Eight& eight, unsigned count, bool wide) {
    if (wide) return store_eight(at, eight);
#pragma unroll
    for (unsigned i = 0; i < 8; i++) {
        if (i < count) at[i] = narrow<T>(eight.x[i]);
    }
}

// The sum of x over neighbouring lanes; each of them gets it.
template <unsigned LANES> __device__ inline float lanes_sum(float x) {
#pragma unroll
    for (unsigned offset = LANES / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

// The largest x of neighbouring lanes; each of them gets it.
template <unsigned LANES> __device__ inline float lanes_most(float x) {
#pragma unroll
    for (unsigned offset = LANES / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

// The sum of x over all threads of the block, which are whole warps; each thread gets it.
__device__ inline float block_sum(float x) {
    __shared__ float sums[WARP];
    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    x = lanes_sum<WARP>(x);
    // Whoever still reads the sums of a call before.
    __syncthreads();
    if (lane == 0) sums[warp] = x;
    __syncthreads();
    return lanes_sum<WARP>(lane < warps ? sums[lane] : 0.0f);
}
