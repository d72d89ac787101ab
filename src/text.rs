//! Tokens in, text out: tokenizer, chat template, stream decoder, prompt format.

mod chat;
mod error;
mod prompt_format;
mod stream;
mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use error::TextError;
pub use prompt_format::{Input, Piece, PromptFormat};
pub use stream::StreamDecoder;
pub use tokenizer::Tokenizer;
