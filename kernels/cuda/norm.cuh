// RMS norm and layer norm of a line that a block keeps in registers.

#pragma once

#include "numbers.cuh"

// Eights of a line that a thread keeps: neighbouring threads have neighbouring ones.
constexpr unsigned PIECES = 4;

// Where the p-th of this thread's eights begins.
__device__ __forceinline__ unsigned place_of(unsigned p) { return (p * blockDim.x + threadIdx.x) * 8; }

// Normalises the n numbers of a line. Without bias: RMS norm. `wide`: eights of the weights are there, and aligned.
template <typename T>
__device__ __forceinline__ void
normalise(Eight (&kept)[PIECES], const T* weight, const T* bias, unsigned n, float eps, bool wide) {
    float sum = 0.0f;
#pragma unroll
    for (unsigned p = 0; p < PIECES; p++) {
        if (place_of(p) >= n) continue;
#pragma unroll
        for (unsigned j = 0; j < 8; j++) sum = bias ? sum + kept[p].x[j] : fmaf(kept[p].x[j], kept[p].x[j], sum);
    }
    sum = block_sum(sum) / n;
    if (bias) {
        const float mean = sum;
        float squares = 0.0f;
#pragma unroll
        for (unsigned p = 0; p < PIECES; p++) {
            const unsigned i = place_of(p);
            if (i >= n) continue;
#pragma unroll
            for (unsigned j = 0; j < 8; j++) {
                // What is beyond the line's end stays 0.
                if (i + j < n) kept[p].x[j] -= mean;
                squares += kept[p].x[j] * kept[p].x[j];
            }
        }
        sum = block_sum(squares) / n;
    }
    const float scale = 1.0f / sqrtf(sum + eps);
#pragma unroll
    for (unsigned p = 0; p < PIECES; p++) {
        const unsigned i = place_of(p);
        if (i >= n) continue;
        const Eight w = load_some(weight + i, n - i, wide);
#pragma unroll
        for (unsigned j = 0; j < 8; j++) kept[p].x[j] = kept[p].x[j] * scale * w.x[j];
        if (bias) {
            const Eight b = load_some(bias + i, n - i, wide);
#pragma unroll
            for (unsigned j = 0; j < 8; j++) kept[p].x[j] += b.x[j];
        }
    }
}
