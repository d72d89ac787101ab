//! Byte-level BPE out of GGUF metadata.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::super::TextError;
use super::super::byte_level::{is_spelled, spell};
use super::{Metadata, lacks, refuse};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The tokenizer, and whether a text starts with the first token where the file does not say.
pub(super) fn build(metadata: &Metadata<'_>, tokens: &[&str]) -> Result<(tokenizers::Tokenizer, bool), TextError> {
    let merges = metadata.texts("tokenizer.ggml.merges")?.ok_or_else(|| lacks("tokenizer.ggml.merges"))?;
    let merges: Option<Vec<(String, String)>> = merges
        .into_iter()
        .map(|merge| merge.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())))
        .collect();
    let merges = merges.ok_or_else(|| refuse("a merge in `tokenizer.ggml.merges` is not two tokens"))?;
    // Some converters write added tokens as plain text.
    let spelled = |token: &&str| if is_spelled(token) { (*token).to_owned() } else { spell(token) };
    let vocab = Vocab::from_iter(tokens.iter().map(spelled).zip(0..));

    let pre = metadata.text("tokenizer.ggml.pre").unwrap_or("default");
    let whole = BPE::builder().vocab_and_merges(vocab, merges);
    // Llama 3 looks a word up before it merges.
    let model = whole.ignore_merges(pre == "llama-bpe").build().map_err(|error| refuse(&error.to_string()))?;
    let mut inner = tokenizers::Tokenizer::new(model);
    let bytes = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, use_regex));
    let before = match pre {
        "gpt-2" | "default" => bytes(true),
        "smollm" => sequence([Digits::new(true).into(), bytes(true)]),
        "llama-bpe" => sequence([split(LLAMA3)?, bytes(false)]),
        "qwen2" => {
            inner.with_normalizer(Some(NFC)).map_err(|error| refuse(&error.to_string()))?;
            sequence([split(QWEN2)?, bytes(false)])
        }
        other => {
            let known = "`gpt-2`, `default`, `smollm`, `llama-bpe` and `qwen2`";
            return Err(refuse(&format!("tokenizer.ggml.pre `{other}` is not supported; {known} are")));
        }
    };
    inner.with_pre_tokenizer(Some(before));
    inner.with_decoder(Some(ByteLevel::default()));
    Ok((inner, pre == "llama-bpe"))
}

fn sequence(steps: [PreTokenizerWrapper; 2]) -> PreTokenizerWrapper {
    Sequence::new(steps.into()).into()
}

fn split(pattern: &str) -> Result<PreTokenizerWrapper, TextError> {
    let pattern = SplitPattern::Regex(pattern.to_owned());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
    split.map(PreTokenizerWrapper::from).map_err(|error| refuse(&error.to_string()))
}
