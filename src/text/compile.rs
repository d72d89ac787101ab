//! Writes a ruprompts template out, with the help of a tokenizer.

use std::sync::LazyLock;

use regex::Regex;

use super::prompt_format::{LITERAL, MOST, pattern};
use super::{TextError, Tokenizer};

static REPEATED: LazyLock<Regex> = LazyLock::new(|| pattern(r"<P\*([0-9]+)>"));

/// Token ids with which a virtual token starts its training, by its number.
pub type InitTokens = std::collections::BTreeMap<usize, u32>;

/// Turns `<P*N>`, `<P>text</P>` and `<P>` into as many `<|P|>`, as ruprompts 0.1.4 does (`PromptFormat.initialize`), and says which tokens
/// the virtual ones of `<P>text</P>` start from.
pub fn compile(template: &str, tokenizer: &Tokenizer) -> Result<(String, InitTokens), TextError> {
    let mut start = InitTokens::new();
    let mut template = template.to_owned();
    while let Some(found) = REPEATED.captures(&template) {
        let count: usize = found[1].parse().unwrap_or(usize::MAX);
        let whole = found[0].to_owned();
        if count.saturating_mul(template.matches(&whole).count()) > MOST {
            return Err(TextError::Input(format!("prompt format: `{whole}` makes more than {MOST} virtual tokens")));
        }
        template = template.replace(&whole, &Tokenizer::VIRTUAL_TOKEN.repeat(count));
    }
    while let Some(found) = LITERAL.captures(&template) {
        let tokens = tokenizer.encode(&found[1], true)?;
        let (whole, from) = (found[0].to_owned(), found.get(0).map_or(0, |whole| whole.start()));
        let before = &template[..from];
        let before = before.matches(Tokenizer::VIRTUAL_TOKEN).count() + before.matches("<P>").count();
        start.extend(tokens.iter().enumerate().map(|(at, token)| (before + at, *token)));
        template = template.replace(&whole, &Tokenizer::VIRTUAL_TOKEN.repeat(tokens.len()));
    }
    Ok((template.replace("<P>", Tokenizer::VIRTUAL_TOKEN), start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms_become_virtual_tokens() {
        let (template, start) = compile("<P*2>{text}<P>abc</P><P>", &Tokenizer::bytes()).unwrap();
        assert_eq!(template, "<|P|><|P|>{text}<|P|><|P|><|P|><|P|>");
        let abc: Vec<(usize, u32)> = start.into_iter().collect();
        assert_eq!(abc, [(2, 97), (3, 98), (4, 99)]);
    }

    #[test]
    fn absurd_counts_are_refused_before_memory_is_spent() {
        let error = compile("<P*99999999999999999999>", &Tokenizer::bytes()).unwrap_err();
        assert!(error.to_string().contains("more than 65536 virtual tokens"), "{error}");
    }
}
