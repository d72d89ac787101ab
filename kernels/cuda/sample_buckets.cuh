// What all threads of a block find together: sums, the lowest of them, and the bucket of a row at which there is enough.
#pragma once

#include "sample_row.cuh"

// The sum of x over the threads up to this one, and over all.
struct Sums {
    u64 through;
    u64 all;
};

__device__ __forceinline__ Sums block_sums(u64 x) {
    __shared__ u64 warps[THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int apart = 1; apart < 32; apart *= 2) {
        const u64 before = __shfl_up_sync(ALL_LANES, x, apart);
        if (lane >= apart) x += before;
    }
    // Whoever still reads the sums of a call before.
    __syncthreads();
    if (lane == 31) warps[warp] = x;
    __syncthreads();
    Sums sums = {x, 0};
    for (int i = 0; i < THREADS / 32; i++) {
        if (i < warp) sums.through += warps[i];
        sums.all += warps[i];
    }
    return sums;
}

// The lowest x of all threads.
__device__ __forceinline__ uint32_t block_lowest(uint32_t x) {
    __shared__ uint32_t lowest;
    __syncthreads();
    if (threadIdx.x == 0) lowest = NONE;
    __syncthreads();
    x = __reduce_min_sync(ALL_LANES, x);
    if (threadIdx.x % 32 == 0) atomicMin(&lowest, x);
    __syncthreads();
    return lowest;
}

// Whether this block is the last of its row to come here. It then sees what the others have written, if it reads past its own
// cache.
__device__ __forceinline__ bool comes_last(uint32_t* arrived) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(arrived, 1u) == gridDim.x - 1;
    __syncthreads();
    __threadfence();
    return last;
}

// A thread's share of what is in a row's buckets.
struct Share {
    u64 before;
    u64 each[OWN_BUCKETS];
    // In all buckets.
    u64 all;
};

template <typename T> __device__ __forceinline__ Share share_of(const T* buckets) {
    Share share;
    u64 sum = 0;
#pragma unroll
    for (int i = 0; i < OWN_BUCKETS; i++) {
        share.each[i] = __ldcg(buckets + threadIdx.x * OWN_BUCKETS + i);
        sum += share.each[i];
    }
    const Sums sums = block_sums(sum);
    share.before = sums.through - sum;
    share.all = sums.all;
    return share;
}

// A bucket, and what is in those before it, and with it.
struct Found {
    uint32_t bucket;
    u64 before;
    u64 through;
};

// The first bucket of which `is(bucket, what is in it and those before)`.
template <typename Is> __device__ __forceinline__ Found first_bucket(const Share& share, Is is) {
    __shared__ Found first;
    Found found = {NONE, 0, 0};
    u64 before = share.before;
#pragma unroll
    for (int i = 0; i < OWN_BUCKETS; i++) {
        const uint32_t bucket = threadIdx.x * OWN_BUCKETS + i;
        const u64 through = before + share.each[i];
        if (found.bucket == NONE && is(bucket, through)) found = Found{bucket, before, through};
        before = through;
    }
    const uint32_t lowest = block_lowest(found.bucket);
    if (lowest == NONE) return Found{NONE, 0, 0};
    if (found.bucket == lowest) first = found;
    __syncthreads();
    return first;
}
