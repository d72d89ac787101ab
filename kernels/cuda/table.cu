// What slots are, written into the tables of many sites at once.

#include <cstdint>

// An entry of adapters.cuh, and where it goes.
struct Written {
    uint4 pieces[4];
    uint4* to;
    uint64_t unused;
};

// A thread for each piece of `count` entries.
extern "C" __global__ void __launch_bounds__(128) set_entries(const Written* entries, unsigned count) {
    const unsigned entry = (blockIdx.x * blockDim.x + threadIdx.x) / 4, piece = threadIdx.x % 4;
    if (entry < count) entries[entry].to[piece] = entries[entry].pieces[piece];
}
