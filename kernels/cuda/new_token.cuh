// A row's new token, as a block of decode attention sees it: with some query heads, and the key-value head that they share.

#pragma once

#include "numbers.cuh"
#include "rotation.cuh"

// Where the token's heads come from, `dim` numbers each, and by what they are turned.
template <typename T> struct NewHeads {
    // The first query head.
    const T *query, *key, *value;
    // Query heads.
    unsigned count;
    unsigned dim;
    unsigned position;
    // [dim / 2]; null where nothing is turned.
    const float* inverse;
};

// In shared memory: heads of up to WIDEST numbers, turned and rounded as they are stored.
template <typename T, unsigned GROUP, unsigned WIDEST> struct alignas(16) NewToken {
    // Times a factor. Heads that are not there, and numbers after the last, are 0.
    float queries[GROUP][WIDEST];
    T key[WIDEST], value[WIDEST];

    // Each thread takes the same pair of some heads: of queries, then of the key, then of the value. The last two are copied to
    // `stored_key` and `stored_value` where these are not null. All threads of the block come here; a barrier has to follow.
    template <unsigned THREADS>
    __device__ void take(const NewHeads<T>& from, float factor, T* stored_key, T* stored_value) {
        constexpr unsigned PAIRS = WIDEST / 2, AT_ONCE = THREADS / PAIRS, EACH = (GROUP + 2 + AT_ONCE - 1) / AT_ONCE;
        static_assert(THREADS % PAIRS == 0, "whole heads at once");
        const unsigned pair = threadIdx.x % PAIRS, first = threadIdx.x / PAIRS, half = from.dim / 2;
        const bool has_pair = pair < half, turns = has_pair && from.inverse;
        const float inverse = turns ? from.inverse[pair] : 0.0f;
        float x[EACH], y[EACH];
#pragma unroll
        for (unsigned each = 0; each < EACH; each++) {
            const unsigned head = first + each * AT_ONCE;
            const T* at = head < GROUP ? from.query + head * from.dim : head == GROUP ? from.key : from.value;
            const bool there = has_pair && (head < GROUP ? head < from.count : head < GROUP + 2);
            x[each] = there ? widen(at[pair]) : 0.0f;
            y[each] = there ? widen(at[pair + half]) : 0.0f;
        }
        const Turn turn = turns ? Turn::by(from.position, inverse) : Turn{0.0f, 1.0f};
        // Threads without a pair have two of the places after the last number.
        const unsigned i = has_pair ? pair : pair * 2, j = has_pair ? pair + half : pair * 2 + 1;
#pragma unroll
        for (unsigned each = 0; each < EACH; each++) {
            const unsigned head = first + each * AT_ONCE;
            if (turns && head <= GROUP) turn.apply(x[each], y[each]);
            const T a = narrow<T>(x[each]), b = narrow<T>(y[each]);
            if (head < GROUP) {
                queries[head][i] = widen(a) * factor;
                queries[head][j] = widen(b) * factor;
            } else if (head < GROUP + 2) {
                T* own = head == GROUP ? key : value;
                T* stored = head == GROUP ? stored_key : stored_value;
                own[i] = a;
                own[j] = b;
                if (stored && has_pair) {
                    stored[i] = a;
                    stored[j] = b;
                }
            }
        }
    }
};
