use half::bf16;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::cpu::{expand, linear};

const RANKS: [usize; 3] = [16, 3, 40];

/// Matrices of one member and of adapters with everything that an adapter may have.
struct Made {
    outputs: usize,
    weight: Vec<bf16>,
    bias: Vec<f32>,
    own: Vec<f32>,
    row: Vec<f32>,
    thin: Vec<(Vec<f32>, Vec<f32>)>,
}

fn random(rng: &mut StdRng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

impl Made {
    fn new(rng: &mut StdRng, inputs: usize, outputs: usize) -> Self {
        Self {
            outputs,
            weight: random(rng, outputs * inputs).into_iter().map(bf16::from_f32).collect(),
            bias: random(rng, outputs),
            own: random(rng, outputs * inputs),
            row: random(rng, outputs),
            thin: RANKS.iter().map(|r| (random(rng, r * inputs), random(rng, outputs * r))).collect(),
        }
    }

    /// Adapter `kind` on some lines: 0 to 2 are low-rank of different ranks, 3 has only rows, 4 a weight of its own.
    fn patch(&self, kind: usize, lines: Range<usize>) -> Patch<'_> {
        let low_rank = self.thin.get(kind).map(|(a, b)| LowRank {
            a: Floats::F32(a),
            b: Floats::F32(b),
            rank: RANKS[kind],
            scale: 0.7,
        });
        let row = |wanted: bool| wanted.then_some(Floats::F32(&self.row[..]));
        let weight = (kind == 4).then_some(Floats::F32(&self.own[..]));
        Patch { lines, weight, bias: row(kind == 2), low_rank, scale: row(kind == 1), rescale: row(kind == 3) }
    }

    /// What the formula says of one line.
    fn expected(&self, x: &[f32], kind: Option<usize>) -> Vec<f32> {
        let patch = kind.map(|kind| self.patch(kind, 0..1));
        let part = |get: fn(&Patch<'_>) -> bool| patch.as_ref().is_some_and(get);
        let mut y = vec![0.0; self.outputs];
        let weight = if part(|p| p.weight.is_some()) { Floats::F32(&self.own) } else { Floats::Bf16(&self.weight) };
        linear(x, weight, &mut y, 1, x.len(), self.outputs);
        if let Some(LowRank { a, b, rank, scale }) = patch.as_ref().and_then(|patch| patch.low_rank) {
            let mut shrunk = vec![0.0; rank];
            linear(x, a, &mut shrunk, 1, x.len(), rank);
            expand(&shrunk, b, &mut y, scale);
        }
        let row = Floats::F32(&self.row);
        if part(|p| p.scale.is_some()) {
            scale_row(&mut y, row);
        }
        add_row(&mut y, if part(|p| p.bias.is_some()) { row } else { Floats::F32(&self.bias) });
        if part(|p| p.rescale.is_some()) {
            scale_row(&mut y, row);
        }
        y
    }
}

#[test]
fn every_line_has_the_bits_of_the_formula_whatever_is_around_it() {
    let mut rng = StdRng::seed_from_u64(5);
    for inputs in [64, 203, 1030] {
        let made = [190, 33, 260].map(|outputs| Made::new(&mut rng, inputs, outputs));
        for lengths in [vec![1; 9], vec![3, 1, 70, 2, 5, 18], vec![130, 1, 4], vec![2]] {
            // Adapters by turns, every sixth segment the base's.
            let lines: usize = lengths.iter().sum();
            let x = random(&mut rng, lines * inputs);
            let mut end = 0;
            let segments: Vec<(Range<usize>, Option<usize>)> = (lengths.iter().enumerate())
                .map(|(i, length)| {
                    end += length;
                    (end - length..end, (i % 6 < 5).then_some(i % 6))
                })
                .collect();
            let mut ys = made.each_ref().map(|made| vec![f32::NAN; lines * made.outputs]);
            let mut members: Vec<Member<'_>> = (made.iter().zip(&mut ys))
                .map(|(made, y)| Member {
                    x: &x,
                    weight: Floats::Bf16(&made.weight),
                    bias: Some(Floats::F32(&made.bias)),
                    patches: segments.iter().filter_map(|(l, kind)| Some(made.patch((*kind)?, l.clone()))).collect(),
                    y,
                })
                .collect();
            let mut scratch = vec![f32::NAN; scratch_len(&members)];
            linear_group(inputs, &mut members, &mut scratch, true);
            for (made, y) in made.iter().zip(&ys) {
                for (lines, kind) in &segments {
                    for line in lines.clone() {
                        let expected = made.expected(&x[line * inputs..][..inputs], *kind);
                        assert_eq!(
                            y[line * made.outputs..][..made.outputs],
                            expected,
                            "line {line} of {lines:?}, {kind:?}"
                        );
                    }
                }
            }
        }
    }
}
