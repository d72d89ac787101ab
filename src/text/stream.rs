//! Decodes a growing list of tokens into whole characters.

use std::sync::Arc;

use super::Tokenizer;
use super::tokenizer::Spelling;

/// Turns tokens into text piece by piece; what it gave out, joined, equals [`Tokenizer::decode`] of all tokens. Every token is looked at a
/// bounded number of times, however long the answer.
#[derive(Clone)]
pub struct StreamDecoder {
    tokenizer: Arc<Tokenizer>,
    waiting: Waiting,
}

/// What the next piece of text still depends on.
#[derive(Clone)]
enum Waiting {
    /// Bytes of a character that may go on.
    Bytes(Vec<u8>),
    /// The last token whose text was given out, and the tokens since: a decoder treats the first token of all differently, so there must
    /// be one before the new ones.
    Tokens { before: Vec<u32>, new: Vec<u32>, fallback: bool },
}

impl StreamDecoder {
    /// A decoder at the start of an answer.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let waiting = match tokenizer.spelling() {
            Spelling::Bytes => Waiting::Bytes(Vec::new()),
            Spelling::Tokens { fallback } => Waiting::Tokens { before: Vec::new(), new: Vec::new(), fallback },
        };
        Self { tokenizer, waiting }
    }

    /// Adds a token; answers the text that is now complete (maybe empty: half a character waits).
    pub fn push(&mut self, id: u32) -> String {
        match &mut self.waiting {
            Waiting::Bytes(bytes) => {
                self.tokenizer.push_bytes(id, bytes);
                complete(bytes)
            }
            Waiting::Tokens { new, fallback, .. } => {
                let Some(token) = self.tokenizer.visible(id) else { return String::new() };
                new.push(id);
                // Whether a run of bytes is text is known when it is over.
                if *fallback && is_byte(&token) { String::new() } else { self.decode() }
            }
        }
    }

    /// The text that still waits, at the end of an answer.
    pub fn finish(&mut self) -> String {
        match &mut self.waiting {
            Waiting::Bytes(bytes) => String::from_utf8_lossy(&std::mem::take(bytes)).into_owned(),
            Waiting::Tokens { .. } => self.decode(),
        }
    }

    fn decode(&mut self) -> String {
        let Waiting::Tokens { before, new, .. } = &mut self.waiting else { return String::new() };
        let Some(last) = new.last().copied() else { return String::new() };
        let known = self.tokenizer.decode(before);
        before.append(new);
        let mut text = self.tokenizer.decode(before);
        *before = vec![last];
        if text.starts_with(&known) { text.split_off(known.len()) } else { text }
    }
}

/// Takes whole characters out; sequences that cannot become one are replaced as `String::from_utf8_lossy` does.
fn complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut taken = 0;
    while taken < bytes.len() {
        match std::str::from_utf8(&bytes[taken..]) {
            Ok(rest) => {
                text.push_str(rest);
                taken = bytes.len();
            }
            Err(error) => {
                let valid = taken + error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&bytes[taken..valid]));
                taken = valid;
                let Some(length) = error.error_len() else { break };
                text.push(char::REPLACEMENT_CHARACTER);
                taken += length;
            }
        }
    }
    bytes.drain(..taken);
    text
}

/// Whether a token is a byte, as `<0x0A>` is, for the `ByteFallback` decoder.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

#[cfg(test)]
mod tests;
