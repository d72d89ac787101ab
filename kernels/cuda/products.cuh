// What the products share: numbers as they lie in memory, loads, copies into shared memory, and tensor cores.
#pragma once

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace products {

// Dtypes, as the host numbers them.
enum : uint32_t { F32 = 0, F16 = 1, BF16 = 2 };

// What happens to a finished number of y.
enum : uint32_t { WRITE = 0, WRITE_F32 = 1, ADD_F32 = 2 };

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T> __device__ __forceinline__ T from_float(float value);
template <> __device__ __forceinline__ float from_float<float>(float value) { return value; }
template <> __device__ __forceinline__ __half from_float<__half>(float value) { return __float2half_rn(value); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
    return __float2bfloat16_rn(value);
}

// One number of a row whose dtype is known only now.
__device__ __forceinline__ float number_at(const void* row, uint32_t dtype, size_t at) {
    if (dtype == F32) return static_cast<const float*>(row)[at];
    if (dtype == F16) return to_float(static_cast<const __half*>(row)[at]);
    return to_float(static_cast<const __nv_bfloat16*>(row)[at]);
}

template <typename T> __device__ __forceinline__ void put(void* y, size_t at, float value, uint32_t mode) {
    if (mode == WRITE) {
        static_cast<T*>(y)[at] = from_float<T>(value);
    } else if (mode == WRITE_F32) {
        static_cast<float*>(y)[at] = value;
    } else {
        static_cast<float*>(y)[at] += value;
    }
}

// Puts up to four neighbours, of which `there` are there; `aligned` if four of any dtype can be written at once.
template <typename T>
__device__ __forceinline__ void
put_four(void* y, size_t at, const float (&numbers)[4], int there, bool aligned, uint32_t mode) {
    if (!aligned || there < 4) {
        for (int i = 0; i < 4 && i < there; i++) put<T>(y, at + i, numbers[i], mode);
        return;
    }
    if (mode == WRITE && sizeof(T) == 2) {
        T rounded[4];
        for (int i = 0; i < 4; i++) rounded[i] = from_float<T>(numbers[i]);
        uint2 words;
        memcpy(&words, rounded, 8);
        *reinterpret_cast<uint2*>(static_cast<T*>(y) + at) = words;
        return;
    }
    float4* to = reinterpret_cast<float4*>(static_cast<float*>(y) + at);
    float4 sum = make_float4(numbers[0], numbers[1], numbers[2], numbers[3]);
    if (mode == ADD_F32) {
        const float4 old = *to;
        sum = make_float4(old.x + sum.x, old.y + sum.y, old.z + sum.z, old.w + sum.w);
    }
    *to = sum;
}

// 16 bytes that are read once, so that they shall not push x out of L1; zeros if not `there`. Without a branch: loads that
// follow each other shall all be under way at once.
__device__ __forceinline__ uint4 load_once_if(const void* from, bool there) {
    uint4 words = make_uint4(0, 0, 0, 0);
    asm volatile("{\n"
                 ".reg .pred there;\n"
                 "setp.ne.u32 there, %5, 0;\n"
                 "@there ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n"
                 "}"
                 : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w)
                 : "l"(from), "r"(static_cast<uint32_t>(there)));
    return words;
}

// Eight neighbouring numbers, as they lie in memory: aligned to 16 bytes.
template <typename T> struct Eight {
    uint4 words[sizeof(T) / 2];
};

template <typename T> __device__ __forceinline__ Eight<T> load_eight_once_if(const T* from, bool there) {
    Eight<T> eight;
    eight.words[0] = load_once_if(from, there);
    if constexpr (sizeof(T) == 4) eight.words[1] = load_once_if(from + 4, there);
    return eight;
}

template <typename T> __device__ __forceinline__ Eight<T> load_eight(const T* from) {
    Eight<T> eight;
    const uint4* words = reinterpret_cast<const uint4*>(from);
    eight.words[0] = words[0];
    if constexpr (sizeof(T) == 4) eight.words[1] = words[1];
    return eight;
}

template <typename T> __device__ __forceinline__ void floats_of_word(uint32_t word, float& low, float& high);
template <> __device__ __forceinline__ void floats_of_word<__half>(uint32_t word, float& low, float& high) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&word));
    low = pair.x;
    high = pair.y;
}
template <> __device__ __forceinline__ void floats_of_word<__nv_bfloat16>(uint32_t word, float& low, float& high) {
    low = __uint_as_float(word << 16);
    high = __uint_as_float(word & 0xffff0000u);
}

template <typename T> __device__ __forceinline__ void floats_of(const Eight<T>& eight, float (&floats)[8]) {
    if constexpr (sizeof(T) == 4) {
        floats[0] = __uint_as_float(eight.words[0].x);
        floats[1] = __uint_as_float(eight.words[0].y);
        floats[2] = __uint_as_float(eight.words[0].z);
        floats[3] = __uint_as_float(eight.words[0].w);
        floats[4] = __uint_as_float(eight.words[1].x);
        floats[5] = __uint_as_float(eight.words[1].y);
        floats[6] = __uint_as_float(eight.words[1].z);
        floats[7] = __uint_as_float(eight.words[1].w);
    } else {
        floats_of_word<T>(eight.words[0].x, floats[0], floats[1]);
        floats_of_word<T>(eight.words[0].y, floats[2], floats[3]);
        floats_of_word<T>(eight.words[0].z, floats[4], floats[5]);
        floats_of_word<T>(eight.words[0].w, floats[6], floats[7]);
    }
}

// Copies 16 bytes into shared memory while the thread goes on; zeros if they are not there.
__device__ __forceinline__ void copy_async(void* into, const void* from, bool there) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(into));
    const uint32_t bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `NEWEST` groups of this thread's copies are still under way.
template <int NEWEST> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(NEWEST) : "memory");
}

// sums [16, 8] += a [16, 16] · b [16, 8], spread over a warp as the PTX manual says.
template <typename T>
__device__ __forceinline__ void
multiply(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void multiply<__half>(
    float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void multiply<__nv_bfloat16>(
    float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The sum over a warp, in an order that never changes; every lane gets it.
__device__ __forceinline__ float sum_of_warp(float value) {
    for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(~0u, value, apart);
    return value;
}

}  // namespace products
