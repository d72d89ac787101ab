//! Prompt tuning and P-tuning: rows that stand before the prompt.

use crate::adapter::draft::Draft;
use crate::adapter::tensors::TensorFile;
use crate::adapter::{AdapterError, VirtualTokens};

/// Takes `prompt_embeddings` [count, hidden], as stored. P-tuning saves them after its encoder, so nothing is left to compute.
pub(in crate::adapter) fn read(
    count: usize,
    file: &mut TensorFile<'_>,
    draft: &mut Draft<'_>,
) -> Result<(), AdapterError> {
    let hidden = draft.map.hidden;
    let view = file.need("prompt_embeddings")?;
    let why = format!("num_virtual_tokens = {count}, hidden size {hidden}");
    let embeddings = view.tensor(&[count, hidden], &why)?; // [count, hidden]
    draft.virtual_tokens = Some(VirtualTokens { embeddings, leading: true });
    Ok(())
}
