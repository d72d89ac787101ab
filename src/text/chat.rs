//! Chat templates.

use serde::{Deserialize, Serialize};

use super::TextError;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

/// A base's Jinja chat template with its special tokens.
pub struct ChatTemplate {}

impl ChatTemplate {
    /// The prompt text of a conversation, ready for an answer (`add_generation_prompt`).
    pub fn render(&self, _messages: &[Message]) -> Result<String, TextError> {
        todo!()
    }
}
