//! Rotary position embedding.

/// Angles of a step's tokens, computed once for all layers. arXiv 2104.09864, halves rotated as transformers does.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// [tokens, head_dim / 2].
    pub cos: Vec<f32>,
    /// [tokens, head_dim / 2].
    pub sin: Vec<f32>,
}

impl Rotation {
    /// The angles of `positions` for the given inverse frequencies [head_dim / 2].
    pub fn new(positions: &[u32], inverse_frequencies: &[f32]) -> Self {
        let angles = || positions.iter().flat_map(|&p| inverse_frequencies.iter().map(move |f| p as f32 * f));
        Self { cos: angles().map(f32::cos).collect(), sin: angles().map(f32::sin).collect() }
    }

    /// The way back: what gradients are turned by.
    pub fn back(&self) -> Self {
        Self { cos: self.cos.clone(), sin: self.sin.iter().map(|sin| -sin).collect() }
    }
}

/// Turns each head of `x` [tokens, heads, head_dim] by its token's angles, in place.
pub fn rotate(x: &mut [f32], rotation: &Rotation, tokens: usize, head_dim: usize) {
    if tokens == 0 {
        return;
    }
    let half = head_dim / 2;
    let width = x.len() / tokens;
    for (token, x) in x.chunks_exact_mut(width).enumerate() {
        let cos = &rotation.cos[token * half..][..half];
        let sin = &rotation.sin[token * half..][..half];
        for head in x.chunks_exact_mut(head_dim) {
            let (first, second) = head.split_at_mut(half);
            for i in 0..half {
                let (a, b) = (first[i], second[i]);
                first[i] = a * cos[i] - b * sin[i];
                second[i] = b * cos[i] + a * sin[i];
            }
        }
    }
}
