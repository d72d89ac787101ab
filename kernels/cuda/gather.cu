// Lines of a matrix, by index.

#include "numbers.cuh"

// Line `blockIdx.x` of `to` is line `lines[blockIdx.x]` of `from`, both `words` words long; it is left alone where `from` has no such line.
template <typename Word>
__device__ void gather(const Word* from, const unsigned* lines, Word* to, unsigned words, unsigned count) {
    const unsigned line = lines[blockIdx.x];
    if (line >= count) return;
    from += static_cast<size_t>(line) * words;
    to += static_cast<size_t>(blockIdx.x) * words;
    for (unsigned i = threadIdx.x; i < words; i += blockDim.x) to[i] = from[i];
}

#define KERNEL(name, Word)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
    name(const Word* from, const unsigned* lines, Word* to, unsigned words, unsigned count) {                              \
        gather<Word>(from, lines, to, words, count);                                                                       \
    }
KERNEL(gather_16_bytes, uint4)
KERNEL(gather_2_bytes, unsigned short)
