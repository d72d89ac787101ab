//! AdamW with decoupled decay. arXiv 1711.05101; the order of operations is torch's.

use super::{Parameter, Parameters};

/// What torch adds to a gradient's norm before it divides by it (`clip_grad_norm_`).
const CLIP_EPS: f64 = 1e-6;

/// The optimiser's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
    /// Gradients longer than this, all together, are shortened to it.
    pub max_grad_norm: Option<f64>,
}

impl Default for AdamW {
    /// torch's, without decay.
    fn default() -> Self {
        Self { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, max_grad_norm: Some(1.0) }
    }
}

/// What the optimiser remembers of a parameter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Running means of its gradient and of the gradient's square.
    pub first: Vec<f32>,
    pub second: Vec<f32>,
}

impl AdamW {
    /// Changes parameters by their gradients, in their order; `step` is 1 for the first. Answers the gradients' norm, before it was
    /// shortened: not finite if one of them is not, and then nothing was changed.
    pub fn step(&self, parameters: &mut Parameters, gradients: &[Vec<f32>], learning_rate: f64, step: u64) -> f64 {
        let square = |gradient: &Vec<f32>| gradient.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>();
        let norm = gradients.iter().map(square).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return norm;
        }
        let clip = self.max_grad_norm.map_or(1.0, |most| (most / (norm + CLIP_EPS)).min(1.0));
        for (parameter, gradient) in parameters.iter_mut().zip(gradients) {
            self.change(parameter, gradient, clip as f32, learning_rate, step);
        }
        norm
    }

    fn change(&self, parameter: &mut Parameter, gradient: &[f32], clip: f32, learning_rate: f64, step: u64) {
        let (beta1, beta2) = self.betas;
        let power = i32::try_from(step).unwrap_or(i32::MAX);
        let size = (learning_rate / (1.0 - beta1.powi(power))) as f32;
        let root = (1.0 - beta2.powi(power)).sqrt() as f32;
        let keep = (1.0 - learning_rate * self.weight_decay) as f32;
        // Subtracted before they are rounded: 1 - 0.999f32 is far from 0.001.
        let (new1, new2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
        let (beta2, eps) = (beta2 as f32, self.eps as f32);
        let Parameter { numbers, moments, .. } = parameter;
        moments.first.resize(numbers.len(), 0.0);
        moments.second.resize(numbers.len(), 0.0);
        let moments = moments.first.iter_mut().zip(&mut moments.second);
        for ((x, g), (first, second)) in numbers.iter_mut().zip(gradient).zip(moments) {
            let g = g * clip;
            *first += (g - *first) * new1;
            *second = *second * beta2 + g * g * new2;
            *x = *x * keep - size * *first / (second.sqrt() / root + eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_goes_where_the_formula_sends_it() {
        let settings = AdamW { weight_decay: 0.1, max_grad_norm: None, ..AdamW::default() };
        let (mut x, mut first, mut second) = (1.0f64, 0.0, 0.0);
        let mut parameter = Parameter {
            place: crate::train::Place::VirtualTokens,
            shape: vec![1],
            numbers: vec![1.0],
            moments: Moments::default(),
        };
        for (step, gradient) in [0.5f64, -0.2, 0.3].into_iter().enumerate() {
            let step = step as i32 + 1;
            // The textbook's, in double precision.
            first = 0.9 * first + 0.1 * gradient;
            second = 0.999 * second + 0.001 * gradient * gradient;
            let (unbiased, square) = (first / (1.0 - 0.9f64.powi(step)), second / (1.0 - 0.999f64.powi(step)));
            x = x * (1.0 - 0.1 * 0.1) - 0.1 * unbiased / (square.sqrt() + 1e-8);
            settings.change(&mut parameter, &[gradient as f32], 1.0, 0.1, step as u64);
            assert!((f64::from(parameter.numbers[0]) - x).abs() < 1e-6, "{:?} and not {x}", parameter.numbers);
        }
    }
}
