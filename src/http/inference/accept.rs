//! What an adapter brings along must be usable before it is published: its prompt format and its generation settings.

use crate::adapter::{Adapter, AdapterError, GenerationDefaults};
use crate::text::PromptFormat;

use super::parameters::{Limits, RequestParameters, settle};

/// Ids that may end a text.
const MOST_ENDS: usize = 64;

/// Refuses an adapter that every request would stumble over.
pub fn accept(adapter: &Adapter) -> Result<(), AdapterError> {
    if let Some(template) = &adapter.prompt_format {
        let format = PromptFormat::parse(template)
            .map_err(|error| AdapterError::invalid(format!("the prompt format cannot be used: {error}")))?;
        let own = adapter.virtual_tokens.as_ref().filter(|tokens| !tokens.leading).map_or(0, |tokens| tokens.count());
        if format.virtual_tokens() != own {
            return Err(AdapterError::invalid(format!(
                "the prompt format has places for {} virtual tokens, the adapter brings {own} for it",
                format.virtual_tokens()
            )));
        }
    }
    let none = (RequestParameters::default(), GenerationDefaults::default());
    let limits = Limits::new(usize::MAX);
    settle(&none.0, Some(&adapter.generation), &none.1, false, limits)
        .map_err(|error| AdapterError::invalid(format!("metadata.generation: {}", error.message)))?;
    let ends = adapter.generation.eos_token_id.as_ref().map_or(0, |ends| ends.ids().len());
    if ends > MOST_ENDS {
        return Err(AdapterError::invalid(format!(
            "metadata.generation: eos_token_id may hold at most {MOST_ENDS} ids, given {ends}"
        )));
    }
    Ok(())
}
