// What adapters make of a gate and of what it lets through, in tiles of lines: y = activation(gate) ⊙ up, each with its adapters.
// The base's products are read once and the result written once, where expanding each apart would write and read them again.
#include "activation.cuh"
#include "adapter_tiles.cuh"

using namespace products;

// Lines that are worked off together: both sides' sums of more take too many registers.
constexpr int GATED_HALVES = 2;

// One of the two sites, for a tile's slot.
template <typename T> struct Side {
    const Entry* entry;
    Near near;
    Expansion<T> of;

    __device__ __forceinline__ Side(const Entry* table, uint32_t slots, uint32_t slot, const Expansion<T>& of)
        : entry(table + slot), near(near_of(table, slots, slot)), of(of) {}
};

// Up to 8 · GATED_HALVES lines from one on.
template <typename T>
__device__ __forceinline__ void
gate_tile(const Side<T>& gate, const Side<T>& up, const Parts& parts, T* y, int first, int lines, uint32_t activation) {
    const int outputs = gate.of.outputs;
    const Lane lane(outputs);
    if (lane.begin >= outputs) return;
    const Expansion<T> of_gate = gate.of.from_line(first), of_up = up.of.from_line(first);
    TileSums<T, GATED_HALVES> gates, ups;
    gates.load(of_gate, lane, lines);
    ups.load(of_up, lane, lines);
    gates.multiply_all(gate.near, of_gate, parts, lane, lines);
    ups.multiply_all(up.near, of_up, parts, lane, lines);
    const Eight gate_bias = gates.bias(gate.near, of_gate, lane), up_bias = ups.bias(up.near, of_up, lane);
#pragma unroll
    for (int half = 0; half < GATED_HALVES; half++) {
        const int line = lane.line(half);
        if (line >= lines) continue;
        Eight numbers = gates.finished(half, gate.near, gate.entry, of_gate, lane, gate_bias);
        const Eight let = ups.finished(half, up.near, up.entry, of_up, lane, up_bias);
        activate(numbers.x, activation);
#pragma unroll
        for (int j = 0; j < 8; j++) numbers.x[j] *= let.x[j];
        store_some(y + static_cast<size_t>(first + line) * outputs + lane.own, numbers, lane.there, lane.wide(y, outputs));
    }
}

// A side that is expanded where it is.
template <typename T>
__device__ __noinline__ void
expand_side(const Entry* table, uint32_t slots, Run tile, Expansion<T> of, Parts parts) {
    if constexpr (sizeof(T) == 2) {
        const Near near = near_of(table, slots, tile.slot);
        if (in_tiles<T>(near)) {
            for (int line = 0; line < tile.lines; line += 8 * GATED_HALVES) {
                const Expansion<T> from = of.from_line(tile.first + line);
                expand_tile<T, GATED_HALVES>(near, table + tile.slot, from, parts, tile.lines - line);
            }
            return;
        }
    }
    expand_runs(table, slots, tile, of);
}

// Lines of a block's columns, when both sides are expanded.
template <typename T>
__device__ __noinline__ void gate_lines(Expansion<T> gate, Expansion<T> up, Run tile, T* y, uint32_t activation) {
    const int column = blockIdx.x * EXPAND_COLUMNS + threadIdx.x;
    if (column >= gate.outputs) return;
    for (int line = tile.first; line < tile.first + tile.lines; line++) {
        const size_t at = static_cast<size_t>(line) * gate.pitch + column;
        float number[1] = {gate.base_at(at)};
        activate(number, activation);
        y[static_cast<size_t>(line) * gate.outputs + column] = narrow<T>(number[0] * up.base_at(at));
    }
}

// Grid [chunks of columns, tiles]. `base` [lines, 2 · outputs] is of gates, then of what they let through; it is written over
// where sides are expanded in place.
template <typename T>
__device__ __forceinline__ void gate_tiles(
    const float* h, const uint32_t* tiles, const Entry* table0, const Entry* table1, uint32_t slots, T* base, const T* bias, T* y,
    int lines, int h_pitch, int outputs, uint32_t activation, uint32_t count, uint32_t of_inputs) {
    const size_t of_site = static_cast<size_t>(lines) * h_pitch;
    const Parts parts = {static_cast<int>(of_inputs), 2 * of_site};
    const T *up_base = base + outputs, *up_bias = bias ? bias + outputs : bias;
    const Expansion<T> gate = {h, h_pitch, base, bias, base, outputs, 2 * outputs, WRITE};
    const Expansion<T> up = {h + of_site, h_pitch, up_base, up_bias, base + outputs, outputs, 2 * outputs, WRITE};
#pragma unroll 1
    for (uint32_t index = blockIdx.y; index < count; index += gridDim.y) {
        const Run tile = tile_at(tiles, index, lines);
        if (tile.lines == 0) return;
        if constexpr (sizeof(T) == 2) {
            const Side<T> of_gate(table0, slots, tile.slot, gate), of_up(table1, slots, tile.slot, up);
            if (in_tiles<T>(of_gate.near) && in_tiles<T>(of_up.near)) {
#pragma unroll 1
                for (int line = 0; line < tile.lines; line += 8 * GATED_HALVES) {
                    gate_tile(of_gate, of_up, parts, y, tile.first + line, tile.lines - line, activation);
                }
                continue;
            }
        }
        expand_side(table0, slots, tile, gate, parts);
        expand_side(table1, slots, tile, up, parts);
        __syncthreads();
        gate_lines(gate, up, tile, y, activation);
    }
}

#define GATE(dtype, T)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256, sizeof(T) == 2 ? 2 : 1) adapted_gate_##dtype(                           \
        const float* h, const uint32_t* tiles, const Entry* table0, const Entry* table1, uint32_t slots, T* base,             \
        const T* bias, T* y, int lines, int h_pitch, int outputs, uint32_t activation, uint32_t count, uint32_t parts) {      \
        gate_tiles(h, tiles, table0, table1, slots, base, bias, y, lines, h_pitch, outputs, activation, count, parts);        \
    }
EACH_DTYPE(GATE)
