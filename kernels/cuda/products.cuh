// What the products share: numbers of a dtype that is known only now, what becomes of sums, and loads of what is read once.
#pragma once

#include "tensor.cuh"

namespace products {

// Dtypes, as the host numbers them.
enum : uint32_t { F32 = 0, F16 = 1, BF16 = 2 };

// What happens to a finished number of y.
enum : uint32_t { WRITE = 0, WRITE_F32 = 1, ADD_F32 = 2 };

// One number of a row whose dtype is known only now.
__device__ __forceinline__ float number_at(const void* row, uint32_t dtype, size_t at) {
    if (dtype == F32) return static_cast<const float*>(row)[at];
    if (dtype == F16) return widen(static_cast<const f16*>(row)[at]);
    return widen(static_cast<const bf16*>(row)[at]);
}

template <typename T> __device__ __forceinline__ void put(void* y, size_t at, float value, uint32_t mode) {
    if (mode == WRITE) {
        static_cast<T*>(y)[at] = narrow<T>(value);
    } else if (mode == WRITE_F32) {
        static_cast<float*>(y)[at] = value;
    } else {
        // Nobody else adds to this number, and nobody here waits for it.
        atomicAdd(static_cast<float*>(y) + at, value);
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
        for (int i = 0; i < 4; i++) rounded[i] = narrow<T>(numbers[i]);
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

// Eight neighbours that are read once; `from` is aligned to 16 bytes.
template <typename T> __device__ __forceinline__ Stored<T> load_eight_once_if(const T* from, bool there) {
    Stored<T> eight;
    eight.words[0] = load_once_if(from, there);
    if constexpr (sizeof(T) == 4) eight.words[1] = load_once_if(from + 4, there);
    return eight;
}

// 16 bytes that somebody writes, or zeros if not `there`. Without a branch, like the others.
__device__ __forceinline__ uint4 load_if(const void* from, bool there) {
    uint4 words = make_uint4(0, 0, 0, 0);
    asm volatile("{\n"
                 ".reg .pred there;\n"
                 "setp.ne.u32 there, %5, 0;\n"
                 "@there ld.global.v4.u32 {%0, %1, %2, %3}, [%4];\n"
                 "}"
                 : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w)
                 : "l"(from), "r"(static_cast<uint32_t>(there)));
    return words;
}

// Eight bytes, or zeros if not `there`. Without a branch: loads that follow each other shall all be under way at once.
__device__ __forceinline__ uint2 load_half_if(const void* from, bool there) {
    uint2 words = make_uint2(0, 0);
    asm volatile("{\n"
                 ".reg .pred there;\n"
                 "setp.ne.u32 there, %3, 0;\n"
                 "@there ld.global.v2.u32 {%0, %1}, [%2];\n"
                 "}"
                 : "+r"(words.x), "+r"(words.y)
                 : "l"(from), "r"(static_cast<uint32_t>(there)));
    return words;
}

}  // namespace products
