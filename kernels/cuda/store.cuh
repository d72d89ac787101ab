// The paged store of one layer: [blocks, kv_heads, BLOCK_TOKENS, dim], keys and values alike.

#pragma once

#include <cstddef>

constexpr unsigned BLOCK_TOKENS = 16;

// A slot that no store has.
constexpr unsigned NOWHERE = 0xffffffff;

// Where a head of the token at `slot` (block · BLOCK_TOKENS + place) begins.
__device__ inline size_t in_store(unsigned slot, unsigned head, unsigned kv_heads, unsigned dim) {
    const size_t block = slot / BLOCK_TOKENS;
    return ((block * kv_heads + head) * BLOCK_TOKENS + slot % BLOCK_TOKENS) * dim;
}
