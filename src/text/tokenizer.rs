//! A base's tokenizer.

use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;

use candle_core::quantized::gguf_file;
use tokenizers::{AddedToken, DecoderWrapper};

use super::{ChatTemplate, Message, Piece, TextError, byte_level, folder, gguf};

/// Turns text into tokens and back, as the base's own tokenizer does in transformers.
pub struct Tokenizer {
    /// Absent when the base brings none.
    pub chat: Option<ChatTemplate>,
    vocabulary: Vocabulary,
}

enum Vocabulary {
    /// The bytes of a text are its tokens.
    Bytes,
    Trained(Box<Trained>),
}

struct Trained {
    inner: tokenizers::Tokenizer,
    /// Made on the first use: most bases never see a virtual token inside a text.
    marked: OnceLock<Result<Marked, String>>,
}

/// A clone of the tokenizer with a mark for virtual tokens.
struct Marked {
    inner: tokenizers::Tokenizer,
    mark: String,
    id: u32,
}

/// How tokens become text, as far as a stream must know it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Spelling {
    /// Every token is bytes, and text is their lossy UTF-8.
    Bytes,
    /// A decoder that looks at whole tokens; runs of `<0xAB>` tokens are bytes when `fallback`.
    Tokens { fallback: bool },
}

impl Tokenizer {
    /// Where ruprompts puts a virtual token in a compiled template.
    pub const VIRTUAL_TOKEN: &'static str = "<|P|>";

    pub(super) fn new(inner: tokenizers::Tokenizer, chat: Option<ChatTemplate>) -> Self {
        Self { chat, vocabulary: Vocabulary::Trained(Box::new(Trained { inner, marked: OnceLock::new() })) }
    }

    /// Reads `tokenizer.json`, or `vocab.json` + `merges.txt`, or `vocab.txt`, with tokenizer_config.json and the chat template beside it.
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        folder::read(folder)
    }

    /// Reads the tokenizer inside a GGUF file, from the file's metadata.
    pub fn from_gguf(metadata: &HashMap<String, gguf_file::Value>) -> Result<Self, TextError> {
        gguf::read(metadata)
    }

    /// A tokenizer without files: the bytes of a text are its tokens (for `dummy://` bases).
    pub fn bytes() -> Self {
        Self { chat: None, vocabulary: Vocabulary::Bytes }
    }

    /// Token ids of a text, with the tokenizer's own special tokens around it when `special`. Special tokens written in the text are recognised.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        match &self.vocabulary {
            Vocabulary::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Vocabulary::Trained(trained) => encode(&trained.inner, text, special),
        }
    }

    /// Like [`Self::encode`] with special tokens, where the virtual tokens become `vocab`, `vocab + 1`, ... in order
    /// (`vocab` is the model's vocabulary, which may exceed the tokenizer's). Text never becomes a virtual token, whatever is written in it.
    pub fn encode_with_virtual_tokens(&self, pieces: &[Piece], vocab: u32) -> Result<Vec<u32>, TextError> {
        let count = pieces.iter().filter(|piece| **piece == Piece::Virtual).count();
        let mut next = vocab;
        let mut number = || {
            next = next.wrapping_add(1);
            next.wrapping_sub(1)
        };
        let (ids, mark): (Vec<u32>, Option<u32>) = match &self.vocabulary {
            Vocabulary::Bytes => {
                let ids = pieces.iter().flat_map(|piece| match piece {
                    Piece::Text(text) => text.bytes().map(u32::from).collect(),
                    Piece::Virtual => vec![256],
                });
                (ids.collect(), Some(256))
            }
            Vocabulary::Trained(trained) => {
                let marked = (count > 0).then(|| trained.marked()).transpose()?;
                let mut whole = String::new();
                for piece in pieces {
                    whole.push_str(match piece {
                        Piece::Text(text) => text,
                        Piece::Virtual => marked.map_or("", |marked| &marked.mark),
                    });
                }
                let inner = marked.map_or(&trained.inner, |marked| &marked.inner);
                (encode(inner, &whole, true)?, marked.map(|marked| marked.id))
            }
        };
        // A token without an embedding would otherwise be read as one of the adapter's.
        if let Some(id) = ids.iter().find(|id| Some(**id) != mark && **id >= vocab) {
            let token = self.token_text(*id);
            return Err(TextError::Encode(format!("{token:?} is token {id}, and the model has {vocab} tokens")));
        }
        if ids.iter().filter(|id| Some(**id) == mark).count() != count {
            return Err(TextError::Encode("the tokenizer does not keep virtual tokens apart".into()));
        }
        Ok(ids.into_iter().map(|id| if Some(id) == mark { number() } else { id }).collect())
    }

    /// The prompt of a conversation, ready for an answer; the chat template adds every special token.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>, TextError> {
        let Some(chat) = &self.chat else {
            let message = "this base has no chat template: give `input` instead of `messages`";
            return Err(TextError::Chat(message.into()));
        };
        self.encode(&chat.render(messages)?, false)
    }

    /// Text of tokens: no special tokens, spaces not cleaned up; ids the tokenizer does not know (virtual ones too) decode to nothing.
    pub fn decode(&self, ids: &[u32]) -> String {
        match &self.vocabulary {
            Vocabulary::Bytes => lossy(ids),
            Vocabulary::Trained(trained) => trained.inner.decode(ids, true).unwrap_or_default(),
        }
    }

    /// The text of one token on its own, special tokens included (for `tokens[].text`).
    pub fn token_text(&self, id: u32) -> String {
        match &self.vocabulary {
            Vocabulary::Bytes => lossy(&[id]),
            Vocabulary::Trained(trained) => trained.inner.decode(&[id], false).unwrap_or_default(),
        }
    }

    /// A token as the decoder sees it; `None` for what decodes to nothing.
    pub(super) fn visible(&self, id: u32) -> Option<String> {
        match &self.vocabulary {
            Vocabulary::Bytes => u8::try_from(id).ok().map(|byte| char::from(byte).to_string()),
            Vocabulary::Trained(trained) => {
                let token = trained.inner.id_to_token(id)?;
                (!trained.inner.get_added_vocabulary().is_special_token(&token)).then_some(token)
            }
        }
    }

    /// Adds the bytes of a token to `into` where the spelling is [`Spelling::Bytes`].
    pub(super) fn push_bytes(&self, id: u32, into: &mut Vec<u8>) {
        match &self.vocabulary {
            Vocabulary::Bytes => into.extend(u8::try_from(id)),
            Vocabulary::Trained(_) => {
                if let Some(token) = self.visible(id) {
                    byte_level::push_bytes(&token, into);
                }
            }
        }
    }

    /// How its tokens become text.
    pub(super) fn spelling(&self) -> Spelling {
        match &self.vocabulary {
            Vocabulary::Bytes => Spelling::Bytes,
            Vocabulary::Trained(trained) => {
                trained.inner.get_decoder().map_or(Spelling::Tokens { fallback: false }, spelling)
            }
        }
    }
}

impl Trained {
    fn marked(&self) -> Result<&Marked, TextError> {
        let made = self.marked.get_or_init(|| {
            // ruprompts adds `<|P|>` itself to the vocabulary. A mark that nobody can guess is cut out of the text in the same places,
            // and a user who writes `<|P|>` gets just these characters.
            let mark = format!("<|P{:032x}P|>", rand::random::<u128>());
            let mut inner = self.inner.clone();
            let token = AddedToken::from(mark.clone(), false).normalized(false);
            inner.add_tokens([token]).map_err(|error| error.to_string())?;
            let id = inner.token_to_id(&mark).ok_or("the tokenizer takes no further token")?;
            Ok(Marked { inner, mark, id })
        });
        made.as_ref().map_err(|error| TextError::Encode(error.clone()))
    }
}

fn encode(inner: &tokenizers::Tokenizer, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
    let encoding = inner.encode_fast(text, special).map_err(|error| TextError::Encode(error.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

fn lossy(ids: &[u32]) -> String {
    let bytes: Vec<u8> = ids.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn spelling(decoder: &DecoderWrapper) -> Spelling {
    match decoder {
        DecoderWrapper::ByteLevel(_) => Spelling::Bytes,
        DecoderWrapper::Sequence(sequence) => match sequence.get_decoders() {
            [only] => spelling(only),
            several => {
                let fallback = several.iter().any(|decoder| matches!(decoder, DecoderWrapper::ByteFallback(_)));
                Spelling::Tokens { fallback }
            }
        },
        DecoderWrapper::ByteFallback(_) => Spelling::Tokens { fallback: true },
        _ => Spelling::Tokens { fallback: false },
    }
}
