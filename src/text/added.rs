//! Added and special tokens, as a base folder's side files name them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::TextError;

/// The names of special tokens, in the order in which transformers adds them.
pub(super) const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What tokenizer_config.json, special_tokens_map.json and added_tokens.json say of tokens, merged as transformers 5 does.
#[derive(Default)]
pub(super) struct AddedTokens {
    /// By the id under which they were saved.
    listed: BTreeMap<u32, AddedToken>,
    /// `bos_token` and so on, then a model's own `*_token` keys.
    named: Vec<(String, AddedToken)>,
    /// `extra_special_tokens`, `additional_special_tokens`.
    extra: Vec<AddedToken>,
}

/// A token as the files write it: its text, or an object.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Object {
        content: String,
        #[serde(default)]
        single_word: bool,
        #[serde(default)]
        lstrip: bool,
        #[serde(default)]
        rstrip: bool,
        normalized: Option<bool>,
        special: Option<bool>,
    },
}

impl Written {
    /// `special` holds where the file does not say.
    fn token(self, special: bool) -> AddedToken {
        match self {
            Self::Text(text) => AddedToken::from(text, special),
            Self::Object { content, single_word, lstrip, rstrip, normalized, special: own } => {
                let special = own.unwrap_or(special);
                let token = AddedToken::from(content, special).single_word(single_word).lstrip(lstrip).rstrip(rstrip);
                token.normalized(normalized.unwrap_or(!special))
            }
        }
    }
}

impl AddedTokens {
    /// Merges the files. Where tokenizer_config.json has an `added_tokens_decoder`, the older files are not looked at. `defaults` are those of
    /// the tokenizer's class, for names that no file mentions.
    pub fn read(
        config: &Map<String, Value>,
        special_map: Option<&Map<String, Value>>,
        added: Option<&Map<String, Value>>,
        defaults: &[(&str, &str)],
    ) -> Result<Self, TextError> {
        let mut config = config.clone();
        let mut listed = BTreeMap::new();
        if let Some(Value::Object(decoder)) = config.get("added_tokens_decoder") {
            for (id, token) in decoder {
                listed.insert(parse_id(id)?, parse(token, false)?);
            }
        } else {
            for (key, value) in special_map.into_iter().flatten() {
                config.insert(key.clone(), value.clone());
            }
        }
        for (name, text) in defaults {
            config.entry(*name).or_insert_with(|| Value::from(*text));
        }
        let extra = match config.get("extra_special_tokens") {
            None | Some(Value::Null) => config.get("additional_special_tokens"),
            extra => extra,
        };
        let mut named = Vec::new();
        let mut extras = Vec::new();
        let own = config.keys().filter(|key| key.ends_with("_token") && !NAMED.contains(&key.as_str()));
        for key in NAMED.into_iter().chain(own.map(String::as_str)) {
            // `add_bos_token: true` ends in `_token` and is no token.
            if let Some(value @ (Value::String(_) | Value::Object(_))) = config.get(key) {
                named.push((key.to_owned(), parse(value, true)?));
            }
        }
        match extra {
            Some(Value::Array(tokens)) => {
                for token in tokens {
                    extras.push(parse(token, true)?);
                }
            }
            Some(Value::Object(tokens)) => {
                for (name, token) in tokens {
                    named.push((name.clone(), parse(token, true)?));
                }
            }
            _ => {}
        }
        if !config.contains_key("added_tokens_decoder") {
            for (text, id) in added.into_iter().flatten() {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let id =
                    id.ok_or_else(|| TextError::Load(format!("added_tokens.json: no token id beside {text:?}")))?;
                let special = named.iter().map(|(_, token)| token).chain(&extras).any(|token| token.content == *text);
                listed.insert(id, AddedToken::from(text.clone(), special));
            }
        }
        Ok(Self { listed, named, extra: extras })
    }

    /// The text of a named token, such as `bos_token`.
    pub fn named(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(key, _)| key == name).map(|(_, token)| token.content.as_str())
    }

    /// All named tokens, as variables of a chat template.
    pub fn variables(&self) -> Vec<(String, String)> {
        self.named.iter().map(|(name, token)| (name.clone(), token.content.clone())).collect()
    }

    /// Makes a tokenizer know them all: those listed where it does not have them just so, the others where it does not have them at all.
    pub fn add_to(&self, tokenizer: &mut tokenizers::Tokenizer) -> Result<(), TextError> {
        let have = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let named = || self.named.iter().map(|(_, token)| token);
        let mut missing: Vec<AddedToken> = Vec::new();
        for token in self.listed.values().filter(|token| !have.values().any(|there| there == *token)) {
            let special = token.special || named().any(|named| named.content == token.content);
            missing.push(token.clone().special(special));
        }
        for token in named().chain(&self.extra) {
            let known = |there: &AddedToken| there.content == token.content;
            if !have.values().any(known) && !missing.iter().any(known) {
                missing.push(token.clone());
            }
        }
        if !missing.is_empty() {
            tokenizer.add_tokens(missing).map_err(|error| TextError::Load(format!("added tokens: {error}")))?;
        }
        Ok(())
    }
}

fn parse(value: &Value, special: bool) -> Result<AddedToken, TextError> {
    match Written::deserialize(value) {
        Ok(written) => Ok(written.token(special)),
        Err(_) => Err(TextError::Load(format!("{value} is not a token: text or an object with `content` is expected"))),
    }
}

fn parse_id(id: &str) -> Result<u32, TextError> {
    id.parse().map_err(|_| TextError::Load(format!("added_tokens_decoder: {id:?} is not a token id")))
}
