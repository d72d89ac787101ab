// Memory that a later launch will read, brought to the L2 cache while nobody else reads much.

#pragma once

#include <cstddef>
#include <cstdint>

// What one of so many threads asks for, line of the cache by line; nothing waits for it. `memory` may be null. (The bulk copies of
// later GPUs do the same, but begin later: measured.)
__device__ __forceinline__ void touch(const void* memory, size_t bytes, uint32_t thread, uint32_t threads) {
    constexpr size_t LINE = 128;
    if (!memory) return;
    for (size_t at = thread * LINE; at < bytes; at += LINE * threads) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(memory) + at));
    }
}
