// The greedy choice of each row of logits [rows, vocabulary]: the highest (the first of equals), and how probable it was.
//
// Two launches: parts of a row, then the parts of all rows. Everything is added up in an order that depends on the vocabulary
// alone.
#include "products.cuh"

using namespace products;

constexpr int THREADS = 256;
// Numbers of a thread, all loaded at once.
constexpr int EACH = 32;
constexpr int PART = THREADS * EACH;

// The highest of some numbers, where it is, and the sum of exp(number - highest).
struct Best {
    float highest;
    uint32_t at;
    float sum;
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
        if (beats(highest, at, best)) {
            best.highest = highest;
            best.at = at;
        }
    }
    return best;
}

// Grid [parts, rows]. `parts` is [rows, parts, 3]: the highest, the bits of where it is, the sum.
template <typename T> __device__ __forceinline__ void choose_parts(const T* logits, float* parts, int vocabulary) {
    __shared__ Best warps[THREADS / 32];
    __shared__ float sums[THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const T* row = logits + static_cast<size_t>(blockIdx.y) * vocabulary;
    const int first = blockIdx.x * PART + threadIdx.x;
    const float nothing = -INFINITY;
    float numbers[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int at = first + i * THREADS;
        numbers[i] = at < vocabulary ? widen(row[at]) : nothing;
    }
    // Padding never wins: it lies behind numbers that are at least as high.
    Best best = {numbers[0], static_cast<uint32_t>(first), 0.0f};
#pragma unroll
    for (int i = 1; i < EACH; i++) {
        if (numbers[i] > best.highest) {
            best.highest = numbers[i];
            best.at = first + i * THREADS;
        }
    }
    best = best_of_warp(best);
    if (lane == 0) warps[warp] = best;
    __syncthreads();
    best = warps[0];
    for (int i = 1; i < THREADS / 32; i++) {
        if (beats(warps[i].highest, warps[i].at, best)) best = warps[i];
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        if (first + i * THREADS < vocabulary) sum += fade(numbers[i], best.highest);
    }
    sum = lanes_sum<WARP>(sum);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    sum = sums[0];
    for (int i = 1; i < THREADS / 32; i++) sum += sums[i];
    float* part = parts + (static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x) * 3;
    part[0] = best.highest;
    part[1] = __uint_as_float(best.at);
    part[2] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) choose_parts_f32(const float* logits, float* parts, int vocabulary) {
    choose_parts(logits, parts, vocabulary);
}

extern "C" __global__ void __launch_bounds__(THREADS) choose_parts_f16(const f16* logits, float* parts, int vocabulary) {
    choose_parts(logits, parts, vocabulary);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    choose_parts_bf16(const bf16* logits, float* parts, int vocabulary) {
    choose_parts(logits, parts, vocabulary);
}

// A warp for each row: grid [rows].
extern "C" __global__ void __launch_bounds__(32)
    choose_rows(const float* parts, uint32_t* tokens, float* logprobs, float* logsumexps, int count) {
    const float* row = parts + static_cast<size_t>(blockIdx.x) * count * 3;
    const int lane = threadIdx.x;
    Best best = {-INFINITY, 0xffffffffu, 0.0f};
    for (int i = lane; i < count; i += 32) {
        const float highest = row[i * 3];
        const uint32_t at = __float_as_uint(row[i * 3 + 1]);
        if (beats(highest, at, best)) {
            best.highest = highest;
            best.at = at;
        }
    }
    best = best_of_warp(best);
    float sum = 0.0f;
    for (int i = lane; i < count; i += 32) sum += row[i * 3 + 2] * fade(row[i * 3], best.highest);
    sum = lanes_sum<WARP>(sum);
    if (lane != 0) return;
    const float log = logf(sum);
    // Where nothing is higher than anything, as with NaN, the choice is still a token.
    tokens[blockIdx.x] = best.at == 0xffffffffu ? 0 : best.at;
    // An infinite logit, or none above minus infinity, leaves no probabilities.
    const bool sound = isfinite(best.highest);
    logprobs[blockIdx.x] = sound ? -log : NAN;
    logsumexps[blockIdx.x] = sound ? best.highest + log : NAN;
}
