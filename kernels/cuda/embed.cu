// Rows of tables for tokens: the base's, virtual tokens, learned positions.

#include "numbers.cuh"

constexpr unsigned PADDING = 0xffffffff;

// The virtual tokens that a token's adapter has: [count, hidden].
struct VirtualTokens {
    uint64_t rows;
    unsigned dtype, count;
};

// Codes of dtypes.
enum : unsigned { F32, F16, BF16 };

__device__ inline Eight load_any(const VirtualTokens& tokens, size_t at, unsigned count, unsigned hidden) {
    switch (tokens.dtype) {
    case F32: {
        const float* rows = reinterpret_cast<const float*>(tokens.rows);
        return load_some(rows + at, count, hidden % 8 == 0 && aligned(rows));
    }
    case F16: {
        const f16* rows = reinterpret_cast<const f16*>(tokens.rows);
        return load_some(rows + at, count, hidden % 8 == 0 && aligned(rows));
    }
    default: {
        const bf16* rows = reinterpret_cast<const bf16*>(tokens.rows);
        return load_some(rows + at, count, hidden % 8 == 0 && aligned(rows));
    }
    }
}

// What a token is that was chosen on the GPU: choice `which[token]` of those before, if there is one. Then the id and `which` are
// written, so that whoever runs the same step again, with other choices by then, finds the same token.
struct Chosen {
    unsigned* which;
    const unsigned* choices;
    unsigned count;
};

__device__ inline unsigned id_of(size_t token, unsigned* ids, const Chosen& chosen) {
    unsigned id = ids[token];
    if (!chosen.which) return id;
    const unsigned choice = chosen.which[token];
    const bool follows = choice < chosen.count;
    if (follows) id = chosen.choices[choice];
    // All of the block have read.
    __syncthreads();
    if (follows && threadIdx.x == 0) {
        ids[token] = id;
        chosen.which[token] = PADDING;
    }
    return id;
}

// One block per token; out [tokens, hidden]. An id below `vocab` is a row of the table, one above is a row of the token's virtual
// tokens, if it has any; else, as for padding, the line is zero. What is given of learned positions [context, hidden] and of a
// row for all tokens [hidden] is added.
template <typename T>
__device__ void embed(unsigned* ids, const Chosen& chosen, const T* table, unsigned vocab, const VirtualTokens* virtual_tokens,
                      const unsigned* positions, const T* position_table, unsigned context, const T* for_all, float* out,
                      unsigned hidden) {
    const size_t token = blockIdx.x;
    const unsigned id = id_of(token, ids, chosen);
    out += token * hidden;
    VirtualTokens own = {0, 0, 0};
    if (id >= vocab && id != PADDING && virtual_tokens) own = virtual_tokens[token];
    const bool is_virtual = own.rows && id - vocab < own.count;
    const T* position_row = nullptr;
    if (position_table && positions[token] < context) {
        position_row = position_table + static_cast<size_t>(positions[token]) * hidden;
    }
    const bool wide = hidden % 8 == 0 && aligned(table) && aligned(position_table) && aligned(for_all) && aligned(out);
    for (unsigned i = threadIdx.x * 8; i < hidden; i += blockDim.x * 8) {
        const unsigned count = hidden - i;
        Eight x = {};
        if (id < vocab) {
            x = load_some(table + static_cast<size_t>(id) * hidden + i, count, wide);
        } else if (is_virtual) {
            x = load_any(own, static_cast<size_t>(id - vocab) * hidden + i, count, hidden);
        }
        if (id != PADDING && position_row) {
            const Eight more = load_some(position_row + i, count, wide);
#pragma unroll
            for (unsigned j = 0; j < 8; j++) x.x[j] += more.x[j];
        }
        if (id != PADDING && for_all) {
            const Eight more = load_some(for_all + i, count, wide);
#pragma unroll
            for (unsigned j = 0; j < 8; j++) x.x[j] += more.x[j];
        }
        store_some(out + i, x, count, wide);
    }
}

#define KERNEL(dtype, T)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
    embed_##dtype(unsigned* ids, unsigned* which, const unsigned* choices, unsigned count, const T* table, unsigned vocab, \
                  const VirtualTokens* virtual_tokens, const unsigned* positions, const T* position_table,                 \
                  unsigned context, const T* for_all, float* out, unsigned hidden) {                                       \
        const Chosen chosen = {which, choices, count};                                                                     \
        embed<T>(ids, chosen, table, vocab, virtual_tokens, positions, position_table, context, for_all, out, hidden);     \
    }
EACH_DTYPE(KERNEL)
