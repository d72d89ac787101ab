//! What can go wrong between text and tokens.

/// Messages are meant for the client or, at start, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The tokenizer's files cannot be read.
    #[error("tokenizer: {0}")]
    Load(String),
    /// A text cannot be tokenised.
    #[error("cannot tokenise the text: {0}")]
    Encode(String),
    /// The chat template fails or is missing.
    #[error("{0}")]
    Chat(String),
    /// The input does not fit the prompt format: missing or extra fields, named.
    #[error("{0}")]
    Input(String),
}
