//! Reads a tokenizer from a base folder's files.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};

use super::added::AddedTokens;
use super::{ChatTemplate, TextError, Tokenizer};

type Inner = tokenizers::Tokenizer;
type Config = Map<String, Value>;

/// GPT2Tokenizer's defaults in transformers.
const GPT2_TOKENS: [(&str, &str); 3] =
    [("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>")];
/// BertTokenizer's.
const BERT_TOKENS: [(&str, &str); 5] = [
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];

/// Reads `tokenizer.json`, else `vocab.json` + `merges.txt`, else `vocab.txt`, and what stands beside it.
pub(super) fn read(folder: &Path) -> Result<Tokenizer, TextError> {
    let config = object(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    let special_map = object(&folder.join("special_tokens_map.json"))?;
    let added = object(&folder.join("added_tokens.json"))?;
    let tokens = |defaults: &[(&str, &str)]| AddedTokens::read(&config, special_map.as_ref(), added.as_ref(), defaults);

    let file = folder.join("tokenizer.json");
    let (vocab, merges, words) = (folder.join("vocab.json"), folder.join("merges.txt"), folder.join("vocab.txt"));
    let (mut inner, tokens) = if file.is_file() {
        let mut inner = tokenizers::Tokenizer::from_file(&file).map_err(|error| load(&file, error))?;
        let tokens = tokens(&[])?;
        tokens.add_to(&mut inner)?;
        (inner, tokens)
    } else if vocab.is_file() && merges.is_file() {
        let tokens = tokens(&GPT2_TOKENS)?;
        (byte_level(&vocab, &merges, &config, &tokens)?, tokens)
    } else if words.is_file() {
        let tokens = tokens(&BERT_TOKENS)?;
        (word_piece(&words, &config, &tokens)?, tokens)
    } else {
        return Err(TextError::Load(missing(folder)));
    };
    // What a request may hold is the server's business: no text is cut or filled up unseen.
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|error| load(folder, error))?;
    let chat = chat_template(folder, &config)?.map(|source| ChatTemplate::new(source, tokens.variables()));
    Ok(Tokenizer::new(inner, chat))
}

/// As transformers' GPT2Tokenizer builds it.
fn byte_level(vocab: &Path, merges: &Path, config: &Config, tokens: &AddedTokens) -> Result<Inner, TextError> {
    let bpe = BPE::from_file(utf8(vocab)?, utf8(merges)?).build().map_err(|error| load(vocab, error))?;
    let mut inner = Inner::new(bpe);
    inner.with_pre_tokenizer(Some(ByteLevel::new(flag(config, "add_prefix_space", false), true, true)));
    inner.with_decoder(Some(ByteLevel::default()));
    tokens.add_to(&mut inner)?;
    let known = |name| known(&inner, tokens, name);
    let bos = if flag(config, "add_bos_token", false) { known("bos_token") } else { None };
    let eos = if flag(config, "add_eos_token", false) { known("eos_token") } else { None };
    surround(&mut inner, bos, eos)?;
    Ok(inner)
}

/// As transformers' BertTokenizer builds it.
fn word_piece(vocab: &Path, config: &Config, tokens: &AddedTokens) -> Result<Inner, TextError> {
    let unknown = tokens.named("unk_token").unwrap_or("[UNK]").to_owned();
    let model = WordPiece::from_file(utf8(vocab)?).unk_token(unknown).build().map_err(|error| load(vocab, error))?;
    let strip_accents = config.get("strip_accents").and_then(Value::as_bool);
    let chinese = flag(config, "tokenize_chinese_chars", true);
    let lower = flag(config, "do_lower_case", true);
    let mut inner = Inner::new(model);
    let normalizer = BertNormalizer::new(true, chinese, strip_accents, lower);
    inner.with_normalizer(Some(normalizer)).map_err(|error| load(vocab, error))?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer));
    inner.with_decoder(Some(WordPieceDecoder::default()));
    tokens.add_to(&mut inner)?;
    let (cls, sep) = (known(&inner, tokens, "cls_token"), known(&inner, tokens, "sep_token"));
    surround(&mut inner, cls, sep)?;
    Ok(inner)
}

/// Text and id of a named token.
fn known(inner: &Inner, tokens: &AddedTokens, name: &str) -> Option<(String, u32)> {
    let text = tokens.named(name)?;
    Some((text.to_owned(), inner.token_to_id(text)?))
}

/// Puts tokens before and after every text.
pub(super) fn surround(
    inner: &mut Inner,
    before: Option<(String, u32)>,
    after: Option<(String, u32)>,
) -> Result<(), TextError> {
    let template = match (&before, &after) {
        (None, None) => return Ok(()),
        (Some(_), None) => "before $A",
        (None, Some(_)) => "$A after",
        (Some(_), Some(_)) => "before $A after",
    };
    let failed = |error: String| TextError::Load(format!("the special tokens around a text: {error}"));
    let mut tokens = Vec::new();
    for (name, token) in [("before", before), ("after", after)] {
        if let Some((text, id)) = token {
            let token = SpecialToken::new(name.to_owned(), vec![id], vec![text]);
            tokens.push(token.map_err(|error| failed(error.to_string()))?);
        }
    }
    let mut builder = TemplateProcessing::builder();
    builder.try_single(template).map_err(failed)?.special_tokens(tokens);
    inner.with_post_processor(Some(builder.build().map_err(|error| failed(error.to_string()))?));
    Ok(())
}

/// `chat_template.jinja`, else tokenizer_config.json's `chat_template`: text, or a list in which the one named `default` counts.
fn chat_template(folder: &Path, config: &Config) -> Result<Option<String>, TextError> {
    let file = folder.join("chat_template.jinja");
    if file.is_file() {
        return std::fs::read_to_string(&file).map(Some).map_err(|error| load(&file, error));
    }
    let named = |entry: &Value, name: &str| entry.get("name").and_then(Value::as_str) == Some(name);
    let template = match config.get("chat_template") {
        Some(Value::Array(list)) => match list.iter().find(|entry| named(entry, "default")) {
            Some(entry) => entry.get("template"),
            None => None,
        },
        other => other,
    };
    Ok(template.and_then(Value::as_str).map(str::to_owned))
}

/// A JSON object in a file; `None` without the file.
fn object(path: &Path) -> Result<Option<Map<String, Value>>, TextError> {
    if !path.is_file() {
        return Ok(None);
    }
    let content = std::fs::read(path).map_err(|error| load(path, error))?;
    serde_json::from_slice(&content).map(Some).map_err(|error| load(path, error))
}

fn flag(config: &Config, key: &str, default: bool) -> bool {
    config.get(key).and_then(Value::as_bool).unwrap_or(default)
}

fn utf8(path: &Path) -> Result<&str, TextError> {
    path.to_str().ok_or_else(|| TextError::Load(format!("{}: the path is not UTF-8", path.display())))
}

fn load(path: &Path, error: impl std::fmt::Display) -> TextError {
    TextError::Load(format!("{}: {error}", path.display()))
}

fn missing(folder: &Path) -> String {
    let place = folder.display();
    let known = "tokenizer.json, vocab.json + merges.txt, or vocab.txt";
    if folder.join("tokenizer.model").is_file() {
        let convert = format!(
            "python -c \"from transformers import AutoTokenizer as T; T.from_pretrained('{place}').save_pretrained('{place}')\""
        );
        return format!("{place} has only tokenizer.model; {known} is needed. This writes tokenizer.json: {convert}");
    }
    format!("{place} has no tokenizer: {known} is needed")
}
