// What a block of prefill attention works on: a tile of a row's new tokens, with one head; and where its keys and values are.

#pragma once

#include "numbers.cuh"
#include "store.cuh"

// Queries of a tile.
constexpr unsigned QUERIES = 64;

// Rows of a step, and its tiles: (row, first query).
struct Rows {
    const uint2* tiles;
    const unsigned* first_lines;
    const unsigned* counts;
    const unsigned* starts;
};

struct Tile {
    // The row, its first line, and how many lines it has.
    unsigned row, first_line, count;
    // First query of the tile, counted in the row, and how many there are.
    unsigned query, queries;
    // Position of that query.
    unsigned position;

    __device__ explicit Tile(const Rows& rows) {
        const uint2 tile = rows.tiles[blockIdx.x];
        row = tile.x;
        query = tile.y;
        first_line = rows.first_lines[row];
        count = rows.counts[row];
        queries = min(QUERIES, count - query);
        position = rows.starts[row] + query;
    }
};

// Causal: keys and values of a row in the paged store, those of this step included.
template <typename T> struct Paged {
    static constexpr bool CAUSAL = true;
    const T *keys, *values;
    const unsigned* table;
    unsigned blocks, kv_heads, dim, kv_head, tokens;

    __device__ size_t place(unsigned token) const {
        const unsigned block = min(table[token / BLOCK_TOKENS], blocks - 1);
        return in_store(block * BLOCK_TOKENS + token % BLOCK_TOKENS, kv_head, kv_heads, dim);
    }
    __device__ const T* key(unsigned token) const { return keys + place(token); }
    __device__ const T* value(unsigned token) const { return values + place(token); }
};

// A row's key-value prefix [count, kv_heads · dim]; none where count is 0.
struct Prefix {
    uint64_t keys, values, count;
};

// Both ways: a row's prefix, then its lines of this step. All pointers lead to the head's first column.
template <typename T> struct Ragged {
    static constexpr bool CAUSAL = false;
    const T *keys, *values, *prefix_keys, *prefix_values;
    unsigned key_stride, value_stride, prefix, prefix_stride, tokens;

    __device__ const T* key(unsigned token) const {
        if (token < prefix) return prefix_keys + static_cast<size_t>(token) * prefix_stride;
        return keys + static_cast<size_t>(token - prefix) * key_stride;
    }
    __device__ const T* value(unsigned token) const {
        if (token < prefix) return prefix_values + static_cast<size_t>(token) * prefix_stride;
        return values + static_cast<size_t>(token - prefix) * value_stride;
    }
};

template <typename T>
__device__ inline Paged<T> paged(const Tile& tile, const T* keys, const T* values, const unsigned* table, unsigned max_blocks,
                                 unsigned blocks, unsigned heads, unsigned kv_heads, unsigned dim) {
    const unsigned kv_head = blockIdx.y / (heads / kv_heads);
    const unsigned* own = table + static_cast<size_t>(tile.row) * max_blocks;
    return {keys, values, own, blocks, kv_heads, dim, kv_head, tile.position + tile.queries};
}

template <typename T>
__device__ inline Ragged<T> ragged(const Tile& tile, const T* keys, unsigned key_stride, const T* values, unsigned value_stride,
                                   const Prefix* prefixes, unsigned heads, unsigned kv_heads, unsigned dim) {
    const size_t column = blockIdx.y / (heads / kv_heads) * dim, line = tile.first_line;
    const Prefix prefix = prefixes ? prefixes[tile.row] : Prefix{0, 0, 0};
    const unsigned count = static_cast<unsigned>(prefix.count);
    return {keys + line * key_stride + column,
            values + line * value_stride + column,
            reinterpret_cast<const T*>(prefix.keys) + column,
            reinterpret_cast<const T*>(prefix.values) + column,
            key_stride,
            value_stride,
            count,
            kv_heads * dim,
            count + tile.count};
}

// Kernels paged_NAME and ragged_NAME of BODY(tile, source, query, query_stride, out, heads, dim, scale).
#define TILE_KERNELS(NAME, T, THREADS, BODY)                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                  \
    paged_##NAME(const uint2* tiles, const unsigned* first_lines, const unsigned* counts, const unsigned* starts,          \
                 const T* query, unsigned query_stride, T* out, unsigned heads, unsigned kv_heads, unsigned dim,           \
                 float scale, const T* keys, const T* values, const unsigned* table, unsigned max_blocks,                  \
                 unsigned blocks) {                                                                                        \
        const Tile tile(Rows{tiles, first_lines, counts, starts});                                                         \
        BODY(tile, paged(tile, keys, values, table, max_blocks, blocks, heads, kv_heads, dim), query, query_stride, out,   \
             heads, dim, scale);                                                                                           \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                  \
    ragged_##NAME(const uint2* tiles, const unsigned* first_lines, const unsigned* counts, const unsigned* starts,         \
                  const T* query, unsigned query_stride, T* out, unsigned heads, unsigned kv_heads, unsigned dim,          \
                  float scale, const T* keys, unsigned key_stride, const T* values, unsigned value_stride,                 \
                  const Prefix* prefixes) {                                                                                \
        const Tile tile(Rows{tiles, first_lines, counts, starts});                                                         \
        BODY(tile, ragged(tile, keys, key_stride, values, value_stride, prefixes, heads, kv_heads, dim), query,            \
             query_stride, out, heads, dim, scale);                                                                        \
    }
