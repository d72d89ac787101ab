// What sample.cu knows of a row while its launches follow each other: how it draws, its scores and their weights.
#pragma once

#include "choose.cuh"

using u64 = unsigned long long;

constexpr int THREADS = 512;
constexpr int EACH = PART / THREADS;

constexpr int BUCKETS = 2048;
constexpr int OWN_BUCKETS = BUCKETS / THREADS;
// Places that are listed; of a row with more in its buckets of edges, all logits are read again.
constexpr uint32_t LISTED = 4096;
constexpr int BINS = 256;

// This much below the highest score, in nats, is nothing: it weighs less than one of 2³⁶.
constexpr float FAR = 25.0f;

// How a row draws, as Draw::write packs it.
struct Draw {
    // 0: the highest logit, and nothing else counts.
    float temperature;
    // 0: all.
    uint32_t top_k;
    // 1 - top_p, which the last ones may weigh together; 0: they stay.
    float dropped;
    float min_p;
    // From 0 to 1, in 2³² steps.
    uint32_t uniform;

    __device__ bool draws() const { return temperature > 0.0f; }
    __device__ bool has_edges() const { return top_k > 0 || dropped > 0.0f; }
};

// What is known of a row so far.
struct State {
    // The highest logit, where it is, and the logarithm of the sum of exp(logit - highest).
    float highest;
    float log;
    uint32_t at;
    // Whether its token is still to be drawn.
    uint32_t draws;
    // The highest score, and buckets per nat below it.
    float top;
    float fine;
    // Whether an edge is still to be found.
    uint32_t searches;
    // The bucket with the edge of top-k, if there is one; the edge is the rank-th in it, and what is before it weighs this.
    uint32_t k_bucket;
    u64 k_before;
    uint32_t k_rank;
    // Buckets of which one has the edge of top-p.
    uint32_t p_first;
    uint32_t p_last;
    // How many places are in those buckets.
    uint32_t listed;
    // How many blocks have come to the end of each launch but the first.
    uint32_t arrived[3];
    uint32_t nothing;
    // The last place that is kept by top-k and top-p.
    u64 edge;
};

struct Row {
    State state;
    u64 weights[BUCKETS];
    u64 places[LISTED];
    uint32_t counts[BUCKETS];
};
// The host counts on it; what follows the rows is aligned.
static_assert(sizeof(Row) == 57424 && sizeof(Row) % 16 == 0, "the size of a row");

// [rows], then [rows, parts] of highest, bits of where, sum, lowest; then [rows, parts] of weights.
struct Scratch {
    Row* rows;
    float4* parts;
    u64* weights;
};

__device__ __forceinline__ Scratch scratch_at(void* memory) {
    const size_t rows = gridDim.y, parts = gridDim.x;
    Scratch scratch;
    scratch.rows = static_cast<Row*>(memory);
    scratch.parts = reinterpret_cast<float4*>(scratch.rows + rows);
    scratch.weights = reinterpret_cast<u64*>(scratch.parts + rows * parts);
    return scratch;
}

__device__ __forceinline__ size_t in_parts() { return static_cast<size_t>(blockIdx.y) * gridDim.x; }

// Where a row's results go.
struct Results {
    uint32_t* tokens;
    float* logprobs;
    float* logsumexps;

    __device__ void put(uint32_t token, float logprob, float logsumexp) const {
        tokens[blockIdx.y] = token;
        logprobs[blockIdx.y] = logprob;
        logsumexps[blockIdx.y] = logsumexp;
    }
};

// A place in the order of a row: the higher score first, the lower id first of equals.
__device__ __forceinline__ u64 place_of(float score, uint32_t id) {
    // Adding zero turns -0 into 0: the two are equal scores.
    const uint32_t bits = __float_as_uint(score + 0.0f);
    const uint32_t up = bits >> 31 ? ~bits : bits | 0x80000000u;
    return static_cast<u64>(~up) << 32 | id;
}

__device__ __forceinline__ float score_at(u64 place) {
    const uint32_t up = ~static_cast<uint32_t>(place >> 32);
    return __uint_as_float(up >> 31 ? up & 0x7fffffffu : ~up);
}

// A weight from 0 to 1 in two parts, of which a part of a row can be summed in 32 bits: high steps of 2⁻¹⁸, low ones of 2⁻³⁶,
// or 2⁻³³ where a whole row of the former would not fit in 64.
struct Weight {
    uint32_t high;
    uint32_t low;
};

constexpr int HIGH_BITS = 18;
__device__ __forceinline__ int low_bits(int vocabulary) { return vocabulary < 1 << 27 ? 18 : 15; }

__device__ __forceinline__ Weight split(float weight, int low_bits) {
    const float steps = weight * (1 << HIGH_BITS);
    const uint32_t high = __float2uint_rz(steps);
    return Weight{high, __float2uint_rn((steps - static_cast<float>(high)) * static_cast<float>(1 << low_bits))};
}

__device__ __forceinline__ u64 joined(u64 high, u64 low, int low_bits) { return (high << low_bits) + low; }

// How scores are made of a row's logits, and what they weigh.
struct Scores {
    float temperature;
    float top;
    float fine;
    int low_bits;

    __device__ float score(float logit) const { return logit / temperature; }
    // How far below the highest score, in nats.
    __device__ float below(float score) const { return top - score; }
    __device__ static bool counts(float below) { return below <= FAR; }
    // Of two scores, the higher one is in the same bucket or one before.
    __device__ uint32_t bucket(float below) const {
        return min(__float2uint_rz(below * fine), static_cast<uint32_t>(BUCKETS - 1));
    }
    __device__ uint32_t bucket_at(u64 place) const { return bucket(below(score_at(place))); }
    __device__ u64 weight(float weight) const {
        const Weight parts = split(weight, low_bits);
        return joined(parts.high, parts.low, low_bits);
    }
    __device__ u64 weight_at(u64 place) const { return weight(expf(-below(score_at(place)))); }
};
