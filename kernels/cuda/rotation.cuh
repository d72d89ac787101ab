// Rotary embedding: pairs of numbers, half a head apart, turned by an angle that grows with the position.

#pragma once

struct Turn {
    float sine, cosine;

    // By `position · inverse`, the inverse of a frequency.
    __device__ static Turn by(unsigned position, float inverse) {
        Turn turn;
        sincosf(static_cast<float>(position) * inverse, &turn.sine, &turn.cosine);
        return turn;
    }

    // Fused in this one way, so that all kernels make the same bits.
    __device__ void apply(float& x, float& y) const {
        const float a = x, b = y;
        x = fmaf(a, cosine, -(b * sine));
        y = fmaf(b, cosine, a * sine);
    }
};
