//! From a request's input to the token ids of a prompt.

use crate::http::ApiError;
use crate::text::{Input, Message, Piece, PromptFormat};

use super::Target;

/// More than any real text has on average.
const BYTES_PER_TOKEN: usize = 64;

/// What is asked about.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    Input(Input),
    /// For bases with a chat template.
    Messages(Vec<Message>),
}

/// Which end survives when a prompt is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// What an answer goes on from.
    End,
    /// What transformers keeps of a text to classify.
    Start,
}

/// A prompt as the engine takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct BuiltPrompt {
    /// Leading virtual tokens included.
    pub tokens: Vec<u32>,
    /// What `return_full_text` puts before an answer: no virtual and no special tokens.
    pub text: String,
}

impl Target {
    /// Formats and tokenises a prompt, cuts it to `truncate` tokens, and puts the adapter's virtual tokens before it.
    pub fn prompt(&self, prompt: &Prompt, truncate: Option<usize>, keep: Keep) -> Result<BuiltPrompt, ApiError> {
        let tokenizer = self.base.tokenizer();
        let vocab = self.base.sites().vocab as u32;
        let format = self.lease().and_then(|lease| lease.prompt_format.as_deref());

        self.check_length(prompt)?;
        let (mut tokens, mut text, placed) = match (prompt, format) {
            (Prompt::Messages(_), Some(_)) => {
                let message = "messages cannot be given to an adapter with a prompt format; give input";
                return Err(ApiError::validation("messages", message));
            }
            (Prompt::Messages(messages), None) => {
                if messages.is_empty() {
                    return Err(ApiError::validation(
                        "messages",
                        "messages must hold at least one message, given none",
                    ));
                }
                let tokens = tokenizer.chat_prompt(messages)?;
                let text = tokenizer.decode(&tokens);
                (tokens, text, 0)
            }
            (Prompt::Input(Input::Text(text)), None) => (tokenizer.encode(text, true)?, text.clone(), 0),
            (Prompt::Input(Input::Fields(fields)), None) => {
                let names: Vec<&str> = fields.keys().map(String::as_str).collect();
                let message = format!(
                    "the adapter has no prompt format, so input must be a text, given the fields {}",
                    names.join(", ")
                );
                return Err(ApiError::validation("input", message));
            }
            (Prompt::Input(input), Some(format)) => {
                let pieces = PromptFormat::parse(format).map_err(ApiError::internal)?.fill(input)?;
                let text = pieces.iter().map(|piece| if let Piece::Text(text) = piece { text } else { "" }).collect();
                let placed = pieces.iter().filter(|piece| **piece == Piece::Virtual).count();
                (tokenizer.encode_with_virtual_tokens(&pieces, vocab)?, text, placed)
            }
        };

        // Ids past the vocabulary mean virtual tokens to the engine: only the format's own may get there.
        let mut past = tokens.iter().copied().filter(|&id| id >= vocab);
        if let Some(stray) = past.by_ref().enumerate().find(|&(n, id)| n >= placed || id != vocab + n as u32) {
            let stray = stray.1;
            let token = tokenizer.token_text(stray);
            let message = format!(
                "the text holds the token {token:?} (id {stray}), which the base, with a vocabulary of {vocab}, cannot read"
            );
            return Err(ApiError::validation("input", message));
        }

        if let Some(limit) = truncate {
            // A chat template writes its special tokens into the text; else they are what an empty text has.
            let special = match prompt {
                Prompt::Messages(_) => Vec::new(),
                Prompt::Input(_) => tokenizer.encode("", true)?,
            };
            if cut(&mut tokens, limit, keep, vocab, &special)? {
                text = tokenizer.decode(&tokens.iter().copied().filter(|&id| id < vocab).collect::<Vec<_>>());
            }
        }

        let leading = self.lease().map_or(0, |lease| lease.leading_virtual_tokens()) as u32;
        if leading > 0 {
            tokens.splice(..0, vocab..vocab + leading);
        }
        if tokens.is_empty() {
            return Err(ApiError::validation("input", "input must come to at least one token, given an empty text"));
        }
        Ok(BuiltPrompt { tokens, text })
    }
}

impl Target {
    /// Tokenising takes many times a text's memory, so what can never fit is refused before. No cut is so deep either.
    fn check_length(&self, prompt: &Prompt) -> Result<(), ApiError> {
        let given: usize = match prompt {
            Prompt::Input(Input::Text(text)) => text.len(),
            Prompt::Input(Input::Fields(fields)) => fields.values().map(String::len).sum(),
            Prompt::Messages(messages) => messages.iter().map(|message| message.content.len()).sum(),
        };
        let most = self.base.sites().context.saturating_mul(BYTES_PER_TOKEN);
        if given > most {
            let message = format!("a text may hold at most {most} bytes for the base's context, given {given}");
            return Err(ApiError::validation("input", message));
        }
        Ok(())
    }
}

/// Leaves `limit` tokens: special tokens around the text and virtual tokens within it stay, text goes. Says whether any went.
fn cut(tokens: &mut Vec<u32>, limit: usize, keep: Keep, vocab: u32, special: &[u32]) -> Result<bool, ApiError> {
    let real = tokens.iter().filter(|&&id| id < vocab).count();
    if real <= limit {
        return Ok(false);
    }
    if limit <= special.len() {
        let message = format!(
            "truncate must be over {}, the number of special tokens around a text, given {limit}",
            special.len()
        );
        return Err(ApiError::validation("truncate", message));
    }
    let before = tokens.iter().zip(special).take_while(|(a, b)| a == b).count();
    let after = if tokens.ends_with(&special[before..]) { special.len() - before } else { 0 };
    let text = before..tokens.len() - after;
    let mut excess = real - limit;
    let mut goes = vec![false; tokens.len()];
    let mut mark = |index: usize| {
        if excess > 0 && tokens[index] < vocab {
            goes[index] = true;
            excess -= 1;
        }
    };
    match keep {
        Keep::End => text.for_each(&mut mark),
        Keep::Start => text.rev().for_each(&mut mark),
    }
    let mut goes = goes.into_iter();
    tokens.retain(|_| !goes.next().unwrap_or_default());
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::{Keep, cut};
    use crate::http::Code;

    /// CLS = 1, SEP = 2; 100 and over are virtual.
    fn cut_to(limit: usize, keep: Keep, tokens: &[u32], special: &[u32]) -> Vec<u32> {
        let mut tokens = tokens.to_vec();
        cut(&mut tokens, limit, keep, 100, special).unwrap();
        tokens
    }

    #[test]
    fn special_and_virtual_tokens_stay_when_text_is_cut() {
        let text = [1, 10, 11, 12, 13, 2];
        assert_eq!(cut_to(4, Keep::Start, &text, &[1, 2]), [1, 10, 11, 2]);
        assert_eq!(cut_to(4, Keep::End, &text, &[1, 2]), [1, 12, 13, 2]);
        assert_eq!(cut_to(6, Keep::End, &text, &[1, 2]), text);
        assert_eq!(cut_to(2, Keep::End, &[100, 10, 11, 101, 12, 102], &[]), [100, 11, 101, 12, 102]);
        assert_eq!(cut_to(2, Keep::End, &[1, 10, 11], &[1]), [1, 11]);
        assert_eq!(cut_to(2, Keep::Start, &[10, 11, 2], &[2]), [10, 2]);
    }

    #[test]
    fn a_cut_that_would_leave_special_tokens_alone_is_refused() {
        let error = cut(&mut vec![1, 10, 2], 2, Keep::End, 100, &[1, 2]).unwrap_err();
        assert_eq!(error.code, Code::Validation);
        assert!(error.message.contains("over 2") && error.message.contains("given 2"), "{}", error.message);
    }
}
