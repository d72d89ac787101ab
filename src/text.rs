//! Tokens in, text out: tokenizer, chat template, stream decoder, prompt format.

mod added;
mod byte_level;
mod chat;
mod compile;
mod error;
mod folder;
mod gguf;
mod prompt_format;
mod stream;
mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use compile::{InitTokens, compile};
pub use error::TextError;
pub use prompt_format::{Input, Piece, PromptFormat};
pub use stream::StreamDecoder;
pub use tokenizer::Tokenizer;
