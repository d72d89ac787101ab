//! Rotary position embedding, and keys and values on their way into the store.

use super::gpu::{Arg, count, instance};
use super::sources::ROTARY;
use super::{Dtype, Gpu, GpuError, Heads, KvLayer, Matrix, Slice};

/// The longest head, for its angles are kept in shared memory.
const LONGEST: usize = 512;

/// Angles of a step: those of [`crate::cpu::Rotation`]. arXiv 2104.09864, halves rotated as transformers does.
#[derive(Clone, Copy)]
pub struct Rotary<'a> {
    /// `[tokens]` u32.
    pub positions: &'a Slice,
    /// [head_dim / 2] f32.
    pub inverse_frequencies: &'a Slice,
}

impl Rotary<'_> {
    /// Positions and frequencies as kernels take them, where there are any.
    pub(super) fn args(rotary: Option<Self>, tokens: usize, heads: Heads) -> [Arg; 2] {
        let Some(Self { positions, inverse_frequencies: inverse }) = rotary else { return [Arg::Null; 2] };
        assert!(positions.dtype() == Dtype::U32 && positions.len() == tokens, "a position per token");
        assert!(inverse.dtype() == Dtype::F32 && inverse.len() == heads.head_dim / 2, "a frequency per pair");
        [positions, inverse].map(Arg::slice)
    }
}

/// Turns each head of `query` [tokens, heads · head_dim] and `key` [tokens, kv_heads · head_dim] by its token's angles, in place,
/// if there are any. Then writes `key` and `value` [tokens, kv_heads · head_dim] to the store, if there is one, at the slots
/// `[tokens]` u32: block · [`BLOCK_TOKENS`](super::BLOCK_TOKENS) + place in the block; `u32::MAX` is nowhere.
pub fn rotate_store(
    gpu: &Gpu,
    query: Matrix<'_>,
    key: Matrix<'_>,
    value: Matrix<'_>,
    heads: Heads,
    rotary: Option<Rotary<'_>>,
    store: Option<(&KvLayer, &Slice)>,
) -> Result<(), GpuError> {
    let (dtype, tokens) = (query.dtype(), query.lines());
    assert!(query.is(dtype, tokens, heads.width()), "queries of {heads:?}");
    assert!([key, value].iter().all(|x| x.is(dtype, tokens, heads.kv_width())), "keys and values of {heads:?}");
    assert!(heads.head_dim.is_multiple_of(2) && heads.head_dim <= LONGEST, "halves of at most {} numbers", LONGEST / 2);
    let [positions, inverse] = Rotary::args(rotary, tokens, heads);
    if let Some((layer, slots)) = store {
        layer.check(dtype, heads);
        assert!(slots.dtype() == Dtype::U32 && slots.len() == tokens, "a slot per token");
    }
    let args = [
        query.pointer(),
        query.stride(),
        key.pointer(),
        key.stride(),
        value.pointer(),
        value.stride(),
        positions,
        inverse,
        Arg::optional(store.map(|(layer, _)| &layer.keys)),
        Arg::optional(store.map(|(layer, _)| &layer.values)),
        Arg::optional(store.map(|(_, slots)| slots)),
        Arg::count(store.map_or(0, |(layer, _)| layer.blocks)),
        Arg::count(heads.heads),
        Arg::count(heads.kv_heads),
        Arg::count(heads.head_dim),
    ];
    // SAFETY: shapes and dtypes were checked; the kernel itself leaves out slots outside the store.
    unsafe { gpu.launch(&ROTARY, instance!("rotate_store", dtype), (count(tokens), 1, 1), 256, 0, &args) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::BLOCK_TOKENS;
    use crate::cuda::checks::*;

    /// Turns heads by their angles, as the CPU's kernel does, in f64.
    fn turn(x: &mut [f64], position: u32, inverse: &[f32]) {
        let half = inverse.len();
        for head in x.chunks_mut(2 * half) {
            for i in 0..half {
                // The product is f32's: at far positions its rounding is what counts.
                let (sin, cos) = f64::from(position as f32 * inverse[i]).sin_cos();
                let (a, b) = (head[i], head[half + i]);
                (head[i], head[half + i]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn heads_are_turned_and_stored() {
        let (gpu, mut rng) = (gpu(), rng(20));
        let dims = [8, 32, 64, 80, 96, 128, 256];
        for (case, (dtype, head_dim)) in DTYPES.into_iter().flat_map(|t| dims.map(|dim| (t, dim))).enumerate() {
            for (rotates, stores) in [(true, true), (true, false), (false, true)] {
                let kv_heads = rng.random_range(1..5);
                let heads = Heads { heads: kv_heads * rng.random_range(1..9), kv_heads, head_dim };
                let (tokens, blocks) = (rng.random_range(1..70), 6);
                let (q, kv) = (heads.width(), heads.kv_width());
                let width = q + 2 * kv;
                let fused = round(dtype, &uniform(&mut rng, tokens * width));
                let positions: Vec<u32> = (0..tokens).map(|_| rng.random_range(0..40_000)).collect();
                let inverse: Vec<f32> =
                    (0..head_dim / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / head_dim as f32)).collect();
                let mut slots: Vec<u32> = (0..(blocks * BLOCK_TOKENS) as u32).collect();
                (0..tokens).for_each(|i| slots.swap(i, rng.random_range(i..blocks * BLOCK_TOKENS)));
                slots.truncate(tokens);
                slots.iter_mut().step_by(7).for_each(|slot| *slot = u32::MAX);

                let device = Slice::of(&gpu, dtype, &fused).expect("memory");
                let [device_positions, device_slots] =
                    [&positions, &slots].map(|x| Slice::of_u32(&gpu, x).expect("memory"));
                let device_inverse = Slice::of(&gpu, Dtype::F32, &inverse).expect("memory");
                let [keys, values] = [0, 1].map(|_| poisoned(&gpu, dtype, blocks * BLOCK_TOKENS * kv));
                let layer = KvLayer { keys, values, blocks, kv_heads, head_dim };
                let matrix = Matrix::new(&device, width);
                let rotary = Rotary { positions: &device_positions, inverse_frequencies: &device_inverse };
                rotate_store(
                    &gpu,
                    matrix.columns(0..q),
                    matrix.columns(q..q + kv),
                    matrix.columns(q + kv..width),
                    heads,
                    rotates.then_some(rotary),
                    stores.then_some((&layer, &device_slots)),
                )
                .expect("launch");

                let mut exact = wide(&fused);
                if rotates {
                    let lines = exact.chunks_mut(width).zip(&positions);
                    lines.for_each(|(line, &position)| turn(&mut line[..q + kv], position, &inverse));
                }
                let what = format!("case {case}: {dtype:?} {tokens} tokens {heads:?} rotates {rotates}");
                assert_close(&device, &exact, &what);
                // What is stored is what stands in the matrix, to the bit; all else is untouched.
                let after = device.to_f32().expect("copy");
                for (part, store) in [(q, &layer.keys), (q + kv, &layer.values)] {
                    let mut expected = vec![f32::NAN; blocks * BLOCK_TOKENS * kv];
                    for (token, &slot) in slots.iter().enumerate().filter(|(_, slot)| stores && **slot != u32::MAX) {
                        for head in 0..kv_heads {
                            let (block, place) = (slot as usize / BLOCK_TOKENS, slot as usize % BLOCK_TOKENS);
                            let at = ((block * kv_heads + head) * BLOCK_TOKENS + place) * head_dim;
                            let from = token * width + part + head * head_dim;
                            expected[at..at + head_dim].copy_from_slice(&after[from..from + head_dim]);
                        }
                    }
                    let stored = store.to_f32().expect("copy");
                    let same = stored.iter().zip(&expected).all(|(a, b)| a == b || a.is_nan() && b.is_nan());
                    assert!(same, "{what}: the store");
                }
            }
        }
    }
}
