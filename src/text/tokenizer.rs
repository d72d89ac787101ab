//! A base's tokenizer.

use std::path::Path;

use super::{ChatTemplate, Message, Piece, TextError};

/// Turns text into tokens and back, as the base's own tokenizer does in transformers.
pub struct Tokenizer {
    /// Absent when the base brings none.
    pub chat: Option<ChatTemplate>,
}

impl Tokenizer {
    /// Where ruprompts puts a virtual token in a formatted text.
    pub const VIRTUAL_TOKEN: &'static str = "<|P|>";

    /// Reads `tokenizer.json`, or `vocab.json` + `merges.txt`, or `vocab.txt`, with tokenizer_config.json and the chat template beside it.
    pub fn from_folder(_folder: &Path) -> Result<Self, TextError> {
        todo!()
    }

    /// A tokenizer without files: the bytes of a text are its tokens (for `dummy://` bases).
    pub fn bytes() -> Self {
        todo!()
    }

    /// Token ids of a text, with the tokenizer's own special tokens around it when `special`. Special tokens written in the text are recognised.
    pub fn encode(&self, _text: &str, _special: bool) -> Result<Vec<u32>, TextError> {
        todo!()
    }

    /// Like [`Self::encode`] with special tokens, where each `<|P|>` in the text becomes the next virtual token: `vocab`, `vocab + 1`, ...
    /// (`vocab` is the model's vocabulary, which may exceed the tokenizer's).
    pub fn encode_with_virtual_tokens(&self, _pieces: &[Piece], _vocab: u32) -> Result<Vec<u32>, TextError> {
        todo!()
    }

    /// The prompt of a conversation, ready for an answer; the chat template adds every special token.
    pub fn chat_prompt(&self, _messages: &[Message]) -> Result<Vec<u32>, TextError> {
        todo!()
    }

    /// Text of tokens: no special tokens, spaces not cleaned up; ids the tokenizer does not know (virtual ones too) decode to nothing.
    pub fn decode(&self, _ids: &[u32]) -> String {
        todo!()
    }

    /// The text of one token on its own, special tokens included (for `tokens[].text`).
    pub fn token_text(&self, _id: u32) -> String {
        todo!()
    }
}
