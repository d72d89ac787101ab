//! Prefix tuning: PEFT's `get_prompt`, which reads the columns as layer 0's keys, layer 0's values, layer 1's keys ...

use crate::adapter::draft::Draft;
use crate::adapter::tensors::TensorFile;
use crate::adapter::{AdapterError, KeyValuePrefix};

/// Takes `prompt_embeddings` [count, layers·2·kv_dim] and splits it by layer.
pub(in crate::adapter) fn read(
    count: usize,
    file: &mut TensorFile<'_>,
    draft: &mut Draft<'_>,
) -> Result<(), AdapterError> {
    let map = draft.map;
    let (layers, kv_dim) = (map.layers, map.kv_dim());
    let view = file.need("prompt_embeddings")?;
    let why = format!("num_virtual_tokens = {count}, {layers} layers of keys and values of {kv_dim}");
    let all = view.tensor(&[count, layers * 2 * kv_dim], &why)?;
    let part = |column: usize| {
        let part = all.narrow(1, column * kv_dim, kv_dim)?.contiguous()?;
        part.reshape((count, map.kv_heads, map.head_dim)) // [count, kv_heads, head_dim]
    };
    let mut prefix = KeyValuePrefix { keys: Vec::with_capacity(layers), values: Vec::with_capacity(layers), count };
    for layer in 0..layers {
        prefix.keys.push(part(2 * layer)?);
        prefix.values.push(part(2 * layer + 1)?);
    }
    draft.prefix = Some(prefix);
    Ok(())
}
