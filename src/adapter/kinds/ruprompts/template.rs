//! ruprompts' template notation: `<P*N>`, `<P>` and `<P>text</P>`.

use super::TOKEN;
use crate::adapter::{AdapterError, TokenCounter};

/// A piece of a template that is still to be written out.
enum Piece<'t> {
    Text(&'t str),
    /// So many prompt tokens.
    Tokens(usize),
    /// As many prompt tokens as this text has tokens.
    Literal(&'t str),
}

/// Writes a template out with [`TOKEN`] at each of its `rows` prompt tokens: ruprompts' `PromptFormat.initialize`.
/// One `<P>text</P>` takes the rows that nothing else takes; several need the base's tokenizer.
pub(super) fn compile(template: &str, rows: usize, count: Option<&TokenCounter>) -> Result<String, AdapterError> {
    let pieces = pieces(template)?;
    let literals = pieces.iter().filter(|piece| matches!(piece, Piece::Literal(_))).count();
    let told = pieces.iter().try_fold(0usize, |sum, piece| match piece {
        Piece::Tokens(n) => sum.checked_add(*n),
        Piece::Text(text) => sum.checked_add(text.matches(TOKEN).count()),
        Piece::Literal(_) => Some(sum),
    });
    let told = told.filter(|told| *told <= rows).ok_or_else(|| {
        AdapterError::invalid(format!("the template has more prompt tokens than the {rows} rows that were saved"))
    })?;
    let mut out = String::with_capacity(template.len() + rows * TOKEN.len());
    let mut left = rows - told;
    for piece in pieces {
        let tokens = match piece {
            Piece::Text(text) => {
                out.push_str(text);
                continue;
            }
            Piece::Tokens(n) => n,
            Piece::Literal(text) => {
                let n = if literals == 1 { left } else { counted(text, count)? };
                left = left.checked_sub(n).ok_or_else(|| {
                    AdapterError::invalid(format!(
                        "the template has more prompt tokens than the {rows} rows that were saved"
                    ))
                })?;
                n
            }
        };
        out.extend(std::iter::repeat_n(TOKEN, tokens));
    }
    Ok(out)
}

fn counted(text: &str, count: Option<&TokenCounter>) -> Result<usize, AdapterError> {
    count.and_then(|count| (count.0)(text)).ok_or_else(|| {
        let shown: String = text.chars().take(60).collect();
        AdapterError::unsupported(format!(
            "the template has <P>{shown}</P> and was saved without compiled_template, so that its number of prompt tokens \
             depends on the tokenizer; save it again with compiled_template"
        ))
    })
}

/// Cuts a template at its prompt tokens. Like ruprompts, repeats first, then literals, then single tokens.
fn pieces(template: &str) -> Result<Vec<Piece<'_>>, AdapterError> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(at) = rest.find("<P") {
        let (before, tag) = rest.split_at(at);
        let (piece, length) = if let Some((digits, _)) = tag.strip_prefix("<P*").and_then(|tag| tag.split_once('>')) {
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                (Piece::Text(&tag[..2]), 2)
            } else {
                let n = digits.parse().map_err(|_| {
                    AdapterError::invalid(format!("the template repeats too often: <P*{}>", &digits[..20]))
                })?;
                (Piece::Tokens(n), digits.len() + 4)
            }
        } else if let Some(inner) = tag.strip_prefix("<P>") {
            match inner.char_indices().nth(1).and_then(|(one, _)| Some(one + inner[one..].find("</P>")?)) {
                // Python's `.` stops at line ends.
                Some(end) if !inner[..end].contains('\n') => (literal(&inner[..end])?, end + 7),
                _ => (Piece::Tokens(1), 3),
            }
        } else {
            (Piece::Text(&tag[..2]), 2)
        };
        pieces.push(Piece::Text(before));
        pieces.push(piece);
        rest = &tag[length..];
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

fn literal(text: &str) -> Result<Piece<'_>, AdapterError> {
    if text.contains("<P") || text.contains(TOKEN) {
        return Err(AdapterError::unsupported(
            "the template has prompt tokens inside <P>...</P>, and no compiled_template",
        ));
    }
    Ok(Piece::Literal(text))
}

/// Whether a template has `{fields}`; `{{` and `}}` are braces.
pub(super) fn has_fields(template: &str) -> bool {
    template.replace("{{", "").contains('{')
}
