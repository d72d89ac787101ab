//! Chooses the next token.
