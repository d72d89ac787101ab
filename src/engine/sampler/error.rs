//! Why no token was chosen.

use repertoire_kernels::cpu::NotFinite;

/// Why no token was chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplerError {
    /// The model's output is broken (or the row is empty).
    #[error("the model's logits are not finite numbers (token {token})")]
    NotFinite { token: usize },
    /// A temperature or penalty so extreme that scores overflow.
    #[error("the scores overflow: a temperature or a penalty is out of range")]
    Overflow,
    /// Bans or the model itself leave nothing to draw from.
    #[error("every token is banned, so none can be drawn; lower no_repeat_ngram_size")]
    NothingLeft,
    /// The engine gave a beam search the wrong rows.
    #[error("beam search expects {expected} rows of logits, given {given}")]
    Rows { expected: usize, given: usize },
}

impl From<NotFinite> for SamplerError {
    fn from(NotFinite { token }: NotFinite) -> Self {
        Self::NotFinite { token }
    }
}
