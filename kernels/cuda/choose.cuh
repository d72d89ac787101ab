// The highest of a row's logits, the first of equals, and the sum of exp of all: what choose.cu and sample.cu find, to the bit.
#pragma once

#include "numbers.cuh"

// Threads that look at a part of a row, and logits of each, all loaded at once.
constexpr int PART_THREADS = 256;
constexpr int PART_EACH = 32;
constexpr int PART = PART_THREADS * PART_EACH;
// No place.
constexpr uint32_t NONE = 0xffffffffu;

// The highest of some numbers, and where it is.
struct Best {
    float highest;
    uint32_t at;
};

__device__ __forceinline__ bool beats(float number, uint32_t at, const Best& best) {
    return number > best.highest || (number == best.highest && at < best.at);
}

// exp(a - b) where b is the higher; 1 if they are equal, even if infinite.
__device__ __forceinline__ float fade(float a, float b) { return a == b ? 1.0f : expf(a - b); }

// The best of a warp's, for every lane.
__device__ __forceinline__ Best best_of_warp(Best best) {
    for (int apart = 16; apart > 0; apart /= 2) {
        const float highest = __shfl_xor_sync(~0u, best.highest, apart);
        const uint32_t at = __shfl_xor_sync(~0u, best.at, apart);
        if (beats(highest, at, best)) best = Best{highest, at};
    }
    return best;
}

// What is found in a part of a row: the highest, where it is, and the sum of exp(logit - highest).
struct Seen {
    Best best;
    float sum;
};

// Looks at the part of a row that is this block's; each thread gets what is found, and its own logits (-infinity behind the last).
template <typename T>
__device__ __forceinline__ Seen look_at_part(const T* row, int vocabulary, float (&numbers)[PART_EACH]) {
    __shared__ Best warps[PART_THREADS / 32];
    __shared__ float sums[PART_THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first = blockIdx.x * PART + threadIdx.x;
    const float nothing = -INFINITY;
#pragma unroll
    for (int i = 0; i < PART_EACH; i++) {
        const int at = first + i * PART_THREADS;
        numbers[i] = at < vocabulary ? widen(row[at]) : nothing;
    }
    // Padding never wins: it lies behind numbers that are at least as high.
    Best best = {numbers[0], static_cast<uint32_t>(first)};
#pragma unroll
    for (int i = 1; i < PART_EACH; i++) {
        if (numbers[i] > best.highest) best = Best{numbers[i], static_cast<uint32_t>(first + i * PART_THREADS)};
    }
    best = best_of_warp(best);
    if (lane == 0) warps[warp] = best;
    __syncthreads();
    best = warps[0];
    for (int i = 1; i < PART_THREADS / 32; i++) {
        if (beats(warps[i].highest, warps[i].at, best)) best = warps[i];
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PART_EACH; i++) {
        if (first + i * PART_THREADS < vocabulary) sum += fade(numbers[i], best.highest);
    }
    sum = lanes_sum<WARP>(sum);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    sum = sums[0];
    for (int i = 1; i < PART_THREADS / 32; i++) sum += sums[i];
    return Seen{best, sum};
}
