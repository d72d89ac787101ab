// The greedy choice of each row of logits [rows, vocabulary]: the highest (the first of equals), and how probable it was.
//
// Two launches: parts of a row, then the parts of all rows. Everything is added up in an order that depends on the vocabulary
// alone.
#include "choose.cuh"

// Grid [parts, rows]. `parts` is [rows, parts, 3]: the highest, the bits of where it is, the sum.
template <typename T> __device__ __forceinline__ void choose_parts(const T* logits, float* parts, int vocabulary) {
    float numbers[PART_EACH];
    const Seen seen = look_at_part(logits + static_cast<size_t>(blockIdx.y) * vocabulary, vocabulary, numbers);
    if (threadIdx.x != 0) return;
    float* part = parts + (static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x) * 3;
    part[0] = seen.best.highest;
    part[1] = __uint_as_float(seen.best.at);
    part[2] = seen.sum;
}

extern "C" __global__ void __launch_bounds__(PART_THREADS) choose_parts_f32(const float* logits, float* parts, int vocabulary) {
    choose_parts(logits, parts, vocabulary);
}

extern "C" __global__ void __launch_bounds__(PART_THREADS) choose_parts_f16(const f16* logits, float* parts, int vocabulary) {
    choose_parts(logits, parts, vocabulary);
}

extern "C" __global__ void __launch_bounds__(PART_THREADS)
    choose_parts_bf16(const bf16* logits, float* parts, int vocabulary) {
    choose_parts(logits, parts, vocabulary);
}

// A warp for each row: grid [rows].
extern "C" __global__ void __launch_bounds__(32)
    choose_rows(const float* parts, uint32_t* tokens, float* logprobs, float* logsumexps, int count) {
    const float* row = parts + static_cast<size_t>(blockIdx.x) * count * 3;
    const int lane = threadIdx.x;
    Best best = {-INFINITY, NONE};
    for (int i = lane; i < count; i += 32) {
        const float highest = row[i * 3];
        const uint32_t at = __float_as_uint(row[i * 3 + 1]);
        if (beats(highest, at, best)) best = Best{highest, at};
    }
    best = best_of_warp(best);
    float sum = 0.0f;
    for (int i = lane; i < count; i += 32) sum += row[i * 3 + 2] * fade(row[i * 3], best.highest);
    sum = lanes_sum<WARP>(sum);
    if (lane != 0) return;
    const float log = logf(sum);
    // Where nothing is higher than anything, as with NaN, the choice is still a token.
    tokens[blockIdx.x] = best.at == NONE ? 0 : best.at;
    // An infinite logit, or none above minus infinity, leaves no probabilities.
    const bool sound = isfinite(best.highest);
    logprobs[blockIdx.x] = sound ? -log : NAN;
    logsumexps[blockIdx.x] = sound ? best.highest + log : NAN;
}
