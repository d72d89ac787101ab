// Attention of many new tokens in f32 arithmetic: for f32, and for widths that the tensor cores' kernel does not have.

#include "tiles.cuh"

// Threads of a query, and keys that are staged together.
constexpr unsigned SHARE = 4;
constexpr unsigned KEYS = 16;

// Block (tiles, heads) of the grid. A thread has every fourth group of four columns of its query; a head has at most
// CHUNKS · 16 columns, a multiple of 8.
template <typename T, unsigned CHUNKS, typename Source>
__device__ void attend_plain(const Tile& tile, const Source source, const T* query, unsigned query_stride, T* out,
                             unsigned heads, unsigned dim, float scale) {
    __shared__ float4 keys[KEYS][CHUNKS * SHARE], values[KEYS][CHUNKS * SHARE];
    const unsigned head = blockIdx.y, own = threadIdx.x / SHARE, part = threadIdx.x % SHARE;
    const bool has_query = own < tile.queries;
    const size_t line = tile.first_line + tile.query + (has_query ? own : 0);
    unsigned visible = 0;
    if (has_query) visible = Source::CAUSAL ? tile.position + own + 1 : source.tokens;

    float4 q[CHUNKS], sums[CHUNKS];
    float largest = -INFINITY, total = 0.0f;
#pragma unroll
    for (unsigned c = 0; c < CHUNKS; c++) {
        const unsigned column = (c * SHARE + part) * 4;
        const T* at = query + line * query_stride + head * dim + column;
        const float by = scale * LOG2_E;
        q[c] = sums[c] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (column < dim) {
            q[c] = make_float4(widen(at[0]) * by, widen(at[1]) * by, widen(at[2]) * by, widen(at[3]) * by);
        }
    }
    for (unsigned from = 0; from < source.tokens; from += KEYS) {
        __syncthreads();
        for (unsigned i = threadIdx.x; i < KEYS * (dim / 8); i += QUERIES * SHARE) {
            const unsigned token = i / (dim / 8), column = i % (dim / 8) * 8;
            const bool there = from + token < source.tokens;
            const T* key = there ? source.key(from + token) + column : nullptr;
            const T* value = there ? source.value(from + token) + column : nullptr;
            store_eight(reinterpret_cast<float*>(&keys[token][column / 4]),
                        load_some(key, there ? 8 : 0, there && aligned(key)));
            store_eight(reinterpret_cast<float*>(&values[token][column / 4]),
                        load_some(value, there ? 8 : 0, there && aligned(value)));
        }
        __syncthreads();
        float scores[KEYS], most = largest;
#pragma unroll
        for (unsigned k = 0; k < KEYS; k++) {
            float dot = 0.0f;
#pragma unroll
            for (unsigned c = 0; c < CHUNKS; c++) {
                if ((c * SHARE + part) * 4 < dim) {
                    const float4 key = keys[k][c * SHARE + part];
                    dot += q[c].x * key.x + q[c].y * key.y + q[c].z * key.z + q[c].w * key.w;
                }
            }
            dot = lanes_sum<SHARE>(dot);
            scores[k] = from + k < visible ? dot : -INFINITY;
            most = fmaxf(most, scores[k]);
        }
        const float base = most == -INFINITY ? 0.0f : most, factor = exp2_fast(largest - base);
        largest = most;
        total *= factor;
#pragma unroll
        for (unsigned c = 0; c < CHUNKS; c++) {
            sums[c] = make_float4(sums[c].x * factor, sums[c].y * factor, sums[c].z * factor, sums[c].w * factor);
        }
#pragma unroll
        for (unsigned k = 0; k < KEYS; k++) {
            const float weight = exp2_fast(scores[k] - base);
            total += weight;
#pragma unroll
            for (unsigned c = 0; c < CHUNKS; c++) {
                if ((c * SHARE + part) * 4 < dim) {
                    const float4 value = values[k][c * SHARE + part];
                    sums[c].x += weight * value.x;
                    sums[c].y += weight * value.y;
                    sums[c].z += weight * value.z;
                    sums[c].w += weight * value.w;
                }
            }
        }
    }
    if (!has_query) return;
    out += (line * heads + head) * dim;
#pragma unroll
    for (unsigned c = 0; c < CHUNKS; c++) {
        const unsigned column = (c * SHARE + part) * 4;
        if (column < dim) {
            out[column] = narrow<T>(sums[c].x / total);
            out[column + 1] = narrow<T>(sums[c].y / total);
            out[column + 2] = narrow<T>(sums[c].z / total);
            out[column + 3] = narrow<T>(sums[c].w / total);
        }
    }
}

#define KERNELS(dtype, T)                                                                                                  \
    TILE_KERNELS(plain_64_##dtype, T, QUERIES* SHARE, (attend_plain<T, 4>))                                                \
    TILE_KERNELS(plain_128_##dtype, T, QUERIES* SHARE, (attend_plain<T, 8>))                                               \
    TILE_KERNELS(plain_256_##dtype, T, QUERIES* SHARE, (attend_plain<T, 16>))
EACH_DTYPE(KERNELS)
