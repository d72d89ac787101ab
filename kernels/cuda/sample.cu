// A token drawn from each row of logits [rows, vocabulary]: temperature, top-k, top-p, min-p, then a walk over the ids.
//
// Four launches, each with a block for every part of every row; what a row asks for decides only how early its blocks leave.
//   sample_parts    the highest logit and the sum of exp of each part, as choose.cu finds them
//   sample_buckets  a row that takes its highest logit is done; else counts and weights by score, in buckets, of which those
//                   are found that hold the edges of top-k and top-p
//   sample_edges    what is in these buckets, and there the edges themselves
//   sample_draw     the weight of what is kept, part by part, then the token
//
// What blocks add to each other's numbers is integers, weights too: the order in which they come never matters. The last of a
// row to come goes on with what all have written.
#include "sample_buckets.cuh"

__device__ __forceinline__ float lowest_of_warp(float lowest) {
    for (int apart = 16; apart > 0; apart /= 2) lowest = fminf(lowest, __shfl_xor_sync(ALL_LANES, lowest, apart));
    return lowest;
}

// Grid [parts, rows]. Also clears what the launches after it add to.
extern "C" __global__ void __launch_bounds__(PART_THREADS)
    sample_parts(const float* logits, const Draw* draws, void* memory, int vocabulary) {
    __shared__ float lows[PART_THREADS / 32];
    const Scratch scratch = scratch_at(memory);
    const Draw draw = draws[blockIdx.y];
    Row& known = scratch.rows[blockIdx.y];
    if (draw.draws()) {
        const int self = blockIdx.x * PART_THREADS + threadIdx.x;
        if (self == 0) {
            known.state.listed = 0;
            for (uint32_t& arrived : known.state.arrived) arrived = 0;
        }
        for (int i = self; draw.has_edges() && i < BUCKETS; i += gridDim.x * PART_THREADS) {
            known.counts[i] = 0;
            known.weights[i] = 0;
        }
    }
    float numbers[PART_EACH];
    const Seen seen = look_at_part(logits + static_cast<size_t>(blockIdx.y) * vocabulary, vocabulary, numbers);
    // What is banned says nothing of how far the others are apart.
    float lowest = INFINITY;
#pragma unroll
    for (int i = 0; i < PART_EACH; i++) {
        if (numbers[i] > -INFINITY) lowest = fminf(lowest, numbers[i]);
    }
    lowest = lowest_of_warp(lowest);
    if (threadIdx.x % 32 == 0) lows[threadIdx.x / 32] = lowest;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int i = 1; i < PART_THREADS / 32; i++) lowest = fminf(lowest, lows[i]);
    scratch.parts[in_parts() + blockIdx.x] =
        make_float4(seen.best.highest, __uint_as_float(seen.best.at), seen.sum, lowest);
}

// All parts of a row together.
struct Whole {
    float highest;
    uint32_t at;
    float log;
    float lowest;
};

// For every thread of a whole warp, in the order of choose_rows.
__device__ __forceinline__ Whole whole_of(const float4* parts, int count) {
    const int lane = threadIdx.x % 32;
    Best best = {-INFINITY, NONE};
    float lowest = INFINITY;
    for (int i = lane; i < count; i += 32) {
        const float4 part = parts[i];
        const uint32_t at = __float_as_uint(part.y);
        if (beats(part.x, at, best)) best = Best{part.x, at};
        lowest = fminf(lowest, part.w);
    }
    best = best_of_warp(best);
    float sum = 0.0f;
    for (int i = lane; i < count; i += 32) sum += parts[i].z * fade(parts[i].x, best.highest);
    sum = lanes_sum<WARP>(sum);
    return Whole{best.highest, best.at == NONE ? 0 : best.at, logf(sum), lowest_of_warp(lowest)};
}

// Whether the best hold enough for top-p, so that what follows them is dropped. Share::is_held in nucleus.rs is the same.
__device__ __forceinline__ bool suffice(u64 weights, u64 total, float dropped) {
    if (weights >= total) return true;
    return static_cast<float>(static_cast<double>(total - weights) / static_cast<double>(total)) <= dropped;
}

// Grid [parts, rows].
extern "C" __global__ void __launch_bounds__(THREADS)
    sample_buckets(const float* logits, const Draw* draws, void* memory, uint32_t* tokens, float* logprobs,
                   float* logsumexps, int vocabulary) {
    __shared__ uint32_t counts[BUCKETS], highs[BUCKETS], lows[BUCKETS];
    const Scratch scratch = scratch_at(memory);
    const Draw draw = draws[blockIdx.y];
    Row& known = scratch.rows[blockIdx.y];
    State& state = known.state;
    const bool edges = draw.has_edges();
    // The others of a row would have nothing to do.
    if (blockIdx.x > 0 && !(draw.draws() && edges)) return;

    const Whole whole = whole_of(scratch.parts + in_parts(), gridDim.x);
    const float top = whole.highest / draw.temperature;
    // Without a highest logit, or with NaN among them, there is nothing to choose from.
    bool broken = !isfinite(whole.highest) || !isfinite(whole.log);
    if (draw.draws()) broken = broken || !isfinite(top);
    const bool done = broken || !draw.draws();
    const float range = fminf(top - whole.lowest / draw.temperature, FAR);
    const float fine = BUCKETS / fmaxf(range, 1e-30f);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        state.draws = !done;
        if (done) {
            const Results results = {tokens, logprobs, logsumexps};
            const float nan = __uint_as_float(0x7fc00000u);
            results.put(whole.at, broken ? nan : -whole.log, broken ? nan : whole.highest + whole.log);
        } else {
            state.highest = whole.highest;
            state.log = whole.log;
            state.at = whole.at;
            state.top = top;
            state.fine = fine;
            if (!edges) {
                state.searches = 0;
                state.edge = ~0ull;
            }
        }
    }
    if (done || !edges) return;

    const Scores scores = {draw.temperature, top, fine, low_bits(vocabulary)};
    const bool counted = draw.top_k > 0, weighed = draw.dropped > 0.0f;
    const float* row = logits + static_cast<size_t>(blockIdx.y) * vocabulary;
    const int first = blockIdx.x * PART + threadIdx.x;
    float numbers[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int at = first + i * THREADS;
        numbers[i] = at < vocabulary ? row[at] : -INFINITY;
    }
    for (int i = threadIdx.x; i < BUCKETS; i += THREADS) {
        counts[i] = 0;
        highs[i] = 0;
        lows[i] = 0;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const float below = scores.below(scores.score(numbers[i]));
        if (!Scores::counts(below)) continue;
        const uint32_t bucket = scores.bucket(below);
        if (counted) atomicAdd(&counts[bucket], 1u);
        if (weighed) {
            const Weight weight = split(expf(-below), scores.low_bits);
            if (weight.high > 0) atomicAdd(&highs[bucket], weight.high);
            if (weight.low > 0) atomicAdd(&lows[bucket], weight.low);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < BUCKETS; i += THREADS) {
        const u64 weight = joined(highs[i], lows[i], scores.low_bits);
        if (counts[i] > 0) atomicAdd(&known.counts[i], counts[i]);
        if (weight > 0) atomicAdd(&known.weights[i], weight);
    }
    if (!comes_last(&state.arrived[0])) return;

    uint32_t k_bucket = NONE, k_rank = 0, p_first = NONE, p_last = 0;
    u64 k_before = 0;
    if (counted) {
        const Share share = share_of(known.counts);
        if (share.all > draw.top_k) {
            const Found found = first_bucket(share, [&](uint32_t, u64 through) { return through >= draw.top_k; });
            k_bucket = found.bucket;
            k_rank = draw.top_k - static_cast<uint32_t>(found.before);
        }
    }
    if (weighed) {
        const Share share = share_of(known.weights);
        // What top-k keeps weighs between these: the best, which weighs 1, in any case.
        u64 least = share.all, most = share.all;
        if (k_bucket != NONE) {
            const Found found = first_bucket(share, [&](uint32_t bucket, u64) { return bucket == k_bucket; });
            k_before = found.before;
            least = max(found.before, joined(1 << HIGH_BITS, 0, scores.low_bits));
            most = found.through;
        }
        // The more there is in all, the later is the edge.
        const auto edge_of = [&](u64 total) {
            return first_bucket(share, [&](uint32_t, u64 through) { return suffice(through, total, draw.dropped); }).bucket;
        };
        p_first = edge_of(least);
        p_last = k_bucket == NONE ? p_first : edge_of(most);
    }
    if (threadIdx.x == 0) {
        state.searches = k_bucket != NONE || weighed;
        state.k_bucket = k_bucket;
        state.k_before = k_before;
        state.k_rank = k_rank;
        state.p_first = p_first;
        state.p_last = p_last;
        state.edge = ~0ull;
    }
}

// Places of a row that are in buckets of edges: those that are listed, or found among all logits if there was no room.
struct Places {
    const u64* list;
    uint32_t listed;
    const float* row;
    int vocabulary;
    Scores scores;

    // Calls each(place) for those in a bucket, up to `last`.
    template <typename Each> __device__ __forceinline__ void visit(uint32_t bucket, u64 last, Each each) const {
        if (listed <= LISTED) {
            for (uint32_t i = threadIdx.x; i < listed; i += THREADS) {
                const u64 place = __ldcg(list + i);
                if (place <= last && scores.bucket_at(place) == bucket) each(place);
            }
            return;
        }
        for (int at = threadIdx.x; at < vocabulary; at += THREADS) {
            const float score = scores.score(row[at]), below = scores.below(score);
            if (!Scores::counts(below) || scores.bucket(below) != bucket) continue;
            const u64 place = place_of(score, at);
            if (place <= last) each(place);
        }
    }
};

// The first place in a bucket up to which there is enough: what the place itself and those before it add up to, and `before`.
// If it never is, the last. `by_score`: any place with that place's score will do.
//
// Narrows down the places it can be by their bits, from the highest one that differs.
template <typename Value, typename Enough>
__device__ __forceinline__ u64 first_place(const Places& places, uint32_t bucket, u64 last, u64 before, bool by_score,
                                           Value value, Enough enough) {
    __shared__ u64 bins[BINS];
    __shared__ u64 lowest, highest, passed;
    u64 from = 0, to = last;
    while (true) {
        __syncthreads();
        if (threadIdx.x < BINS) bins[threadIdx.x] = 0;
        if (threadIdx.x == 0) {
            lowest = ~0ull;
            highest = 0;
        }
        __syncthreads();
        u64 low = ~0ull, high = 0;
        places.visit(bucket, to, [&](u64 place) {
            if (place < from) return;
            low = min(low, place);
            high = max(high, place);
        });
        for (int apart = 16; apart > 0; apart /= 2) {
            low = min(low, __shfl_xor_sync(ALL_LANES, low, apart));
            high = max(high, __shfl_xor_sync(ALL_LANES, high, apart));
        }
        if (threadIdx.x % 32 == 0) {
            atomicMin(&lowest, low);
            atomicMax(&highest, high);
        }
        __syncthreads();
        low = lowest;
        high = highest;
        if (low >= high || (by_score && low >> 32 == high >> 32)) return low;

        const int shift = max(64 - __clzll(low ^ high) - 8, 0);
        const u64 base = low >> shift;
        places.visit(bucket, to, [&](u64 place) {
            if (place >= from) atomicAdd(&bins[(place >> shift) - base], value(place));
        });
        __syncthreads();
        const uint32_t last_bin = static_cast<uint32_t>((high >> shift) - base);
        const u64 own = threadIdx.x < BINS ? bins[threadIdx.x] : 0;
        const u64 through = block_sums(own).through;
        const bool is = threadIdx.x <= last_bin && enough(before + through);
        const uint32_t bin = min(block_lowest(is ? threadIdx.x : NONE), last_bin);
        if (threadIdx.x == bin) passed = through - own;
        __syncthreads();
        before += passed;
        from = (base + bin) << shift;
        to = min(to, from + ((1ull << shift) - 1));
    }
}

// Grid [parts, rows].
extern "C" __global__ void __launch_bounds__(THREADS)
    sample_edges(const float* logits, const Draw* draws, void* memory, int vocabulary) {
    const Scratch scratch = scratch_at(memory);
    const Draw draw = draws[blockIdx.y];
    Row& known = scratch.rows[blockIdx.y];
    State& state = known.state;
    if (!draw.draws() || !draw.has_edges() || !state.draws || !state.searches) return;

    __shared__ uint32_t taken, start;
    const Scores scores = {draw.temperature, state.top, state.fine, low_bits(vocabulary)};
    const float* row = logits + static_cast<size_t>(blockIdx.y) * vocabulary;
    const uint32_t k_bucket = state.k_bucket, p_first = state.p_first, p_last = state.p_last;
    const int first = blockIdx.x * PART + threadIdx.x;
    if (threadIdx.x == 0) taken = 0;
    __syncthreads();
    float numbers[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int at = first + i * THREADS;
        numbers[i] = at < vocabulary ? row[at] : -INFINITY;
    }
    uint32_t mine = 0, count = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        numbers[i] = scores.score(numbers[i]);
        const float below = scores.below(numbers[i]);
        if (!Scores::counts(below)) continue;
        const uint32_t bucket = scores.bucket(below);
        if (bucket == k_bucket || (bucket >= p_first && bucket <= p_last)) {
            mine |= 1u << i;
            count++;
        }
    }
    const uint32_t offset = count > 0 ? atomicAdd(&taken, count) : 0;
    __syncthreads();
    if (threadIdx.x == 0) start = taken > 0 ? atomicAdd(&state.listed, taken) : 0;
    __syncthreads();
    uint32_t at = start + offset;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        if (!(mine >> i & 1)) continue;
        if (at < LISTED) known.places[at] = place_of(numbers[i], first + i * THREADS);
        at++;
    }
    if (!comes_last(&state.arrived[1])) return;

    const Places places = {known.places, __ldcg(&state.listed), row, vocabulary, scores};
    u64 edge = ~0ull;
    if (k_bucket != NONE) {
        const u64 rank = state.k_rank;
        edge = first_place(
            places, k_bucket, edge, 0, true, [](u64) { return 1ull; }, [&](u64 count) { return count >= rank; });
        // All that equal it stay.
        edge |= 0xffffffffull;
    }
    if (draw.dropped > 0.0f) {
        const auto weight = [&](u64 place) { return scores.weight_at(place); };
        const Share share = share_of(known.weights);
        u64 total = share.all;
        if (k_bucket != NONE) {
            u64 sum = 0;
            places.visit(k_bucket, edge, [&](u64 place) { sum += weight(place); });
            total = state.k_before + block_sums(sum).all;
        }
        const auto enough = [&](u64 weights) { return suffice(weights, total, draw.dropped); };
        // Only places of these buckets are listed; p_last is one, whatever rounding says.
        const Found found = first_bucket(share, [&](uint32_t bucket, u64 through) {
            return bucket == p_last || (bucket >= p_first && enough(through));
        });
        edge = first_place(places, found.bucket, edge, found.before, false, weight, enough);
    }
    if (threadIdx.x == 0) state.edge = edge;
}

// Which tokens of a row are kept.
struct Kept {
    Scores scores;
    float min_p;
    u64 edge;

    // What a token weighs; nothing if it is not kept.
    __device__ __forceinline__ u64 weight(float logit, uint32_t id) const {
        const float score = scores.score(logit), below = scores.below(score);
        if (!Scores::counts(below) || place_of(score, id) > edge) return 0;
        const float weight = expf(-below);
        return weight < min_p ? 0 : scores.weight(weight);
    }
};

// Grid [parts, rows].
extern "C" __global__ void __launch_bounds__(THREADS)
    sample_draw(const float* logits, const Draw* draws, void* memory, uint32_t* tokens, float* logprobs,
                float* logsumexps, int vocabulary) {
    const Scratch scratch = scratch_at(memory);
    const Draw draw = draws[blockIdx.y];
    State& state = scratch.rows[blockIdx.y].state;
    if (!draw.draws() || !state.draws) return;

    __shared__ int chosen;
    __shared__ u64 passed;
    const float* row = logits + static_cast<size_t>(blockIdx.y) * vocabulary;
    const Scores scores = {draw.temperature, state.top, state.fine, low_bits(vocabulary)};
    const Kept kept = {scores, draw.min_p, state.edge};
    const int first = blockIdx.x * PART + threadIdx.x, parts = gridDim.x;
    u64* weights = scratch.weights + in_parts();
    float numbers[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int at = first + i * THREADS;
        numbers[i] = at < vocabulary ? row[at] : -INFINITY;
    }
    u64 sum = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) sum += kept.weight(numbers[i], first + i * THREADS);
    sum = block_sums(sum).all;
    if (threadIdx.x == 0) {
        weights[blockIdx.x] = sum;
        chosen = 0;
        passed = 0;
    }
    if (!comes_last(&state.arrived[2])) return;

    u64 total = 0;
    for (int i = threadIdx.x; i < parts; i += THREADS) total += __ldcg(weights + i);
    total = block_sums(total).all;
    // Less than the total, so that some token passes it.
    const u64 target = __umul64hi(total, static_cast<u64>(draw.uniform) << 32);
    u64 before = 0;
    for (int i = threadIdx.x; before <= target && i - static_cast<int>(threadIdx.x) < parts; i += THREADS) {
        const u64 own = i < parts ? __ldcg(weights + i) : 0;
        const Sums sums = block_sums(own);
        const u64 through = before + sums.through;
        if (through > target && through - own <= target) {
            chosen = i;
            passed = through - own;
        }
        before += sums.all;
    }
    __syncthreads();

    // Neighbours, so that threads are in the order of ids.
    const int own = chosen * PART + threadIdx.x * EACH;
    u64 own_sum = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        numbers[i] = own + i < vocabulary ? row[own + i] : -INFINITY;
        own_sum += kept.weight(numbers[i], own + i);
    }
    u64 through = passed + block_sums(own_sum).through - own_sum;
    if (through > target || through + own_sum <= target) return;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const u64 weight = kept.weight(numbers[i], own + i);
        if (through <= target && through + weight > target) {
            const Results results = {tokens, logprobs, logsumexps};
            results.put(own + i, (numbers[i] - state.highest) - state.log, state.highest + state.log);
        }
        through += weight;
    }
}
