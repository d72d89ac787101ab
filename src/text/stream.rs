//! Decodes a growing list of tokens into whole characters.

use std::sync::Arc;

use super::Tokenizer;

/// Turns tokens into text piece by piece; what it gave out, joined, equals [`Tokenizer::decode`] of all tokens.
pub struct StreamDecoder {
    _tokenizer: Arc<Tokenizer>,
}

impl StreamDecoder {
    /// A decoder at the start of an answer.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { _tokenizer: tokenizer }
    }

    /// Adds a token; answers the text that is now complete (maybe empty: half a character waits).
    pub fn push(&mut self, _id: u32) -> String {
        todo!()
    }

    /// The text that still waits, at the end of an answer.
    pub fn finish(&mut self) -> String {
        todo!()
    }
}
