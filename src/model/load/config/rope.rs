//! Rotary positions: the frequencies that config.json asks for. Formulas and order: transformers' modeling_rope_utils.

use serde_json::{Map, Value};

use super::{Fields, LoadError, unsupported};

const DEFAULT_THETA: f64 = 10_000.0;

/// Inverse frequencies [head_dim / 2], scaling applied; `longest` is `max_position_embeddings`.
pub(super) fn inverse_frequencies(fields: &Fields<'_>, head_dim: usize, longest: usize) -> Result<Vec<f32>, LoadError> {
    let none = Map::new();
    // transformers 5 has everything in rope_parameters; older files have rope_theta and rope_scaling, which wins.
    let parameters = ["rope_scaling", "rope_parameters"]
        .iter()
        .find_map(|key| fields.0.get(*key)?.as_object().filter(|parameters| !parameters.is_empty()));
    let scaling = Fields(parameters.unwrap_or(&none));
    if scaling.0.values().any(Value::is_object) {
        return Err(unsupported("rope_parameters that differ by layer type".into()));
    }
    let theta = [&scaling, fields].into_iter().find_map(|f| f.0.get("rope_theta")?.as_f64()).unwrap_or(DEFAULT_THETA);
    if fields.number("partial_rotary_factor", 1.0) != 1.0 || scaling.number("partial_rotary_factor", 1.0) != 1.0 {
        return Err(unsupported("partial_rotary_factor other than 1".into()));
    }
    let plain = (0..head_dim / 2).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32));
    let kind = ["rope_type", "type"].iter().find_map(|key| scaling.0.get(*key)?.as_str()).unwrap_or("default");
    match kind {
        "default" => Ok(plain.collect()),
        "linear" => {
            let factor = scaling.required("factor")?;
            Ok(plain.map(|f| f / factor).collect())
        }
        "llama3" => {
            let factor = scaling.required("factor")?;
            let low = scaling.required("low_freq_factor")?;
            let high = scaling.required("high_freq_factor")?;
            // The key beside the parameters wins over theirs.
            let original = [fields, &scaling].into_iter().find_map(|f| f.optional("original_max_position_embeddings"));
            let original = original.unwrap_or(longest) as f32;
            Ok(plain.map(|f| llama3(f, factor, low, high, original)).collect())
        }
        other => Err(unsupported(format!("rope type {other:?}; default, linear and llama3 are computed"))),
    }
}

fn llama3(frequency: f32, factor: f32, low: f32, high: f32, original: f32) -> f32 {
    let wavelength = 2.0 * std::f32::consts::PI / frequency;
    if wavelength < original / high {
        frequency
    } else if wavelength > original / low {
        frequency / factor
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}
