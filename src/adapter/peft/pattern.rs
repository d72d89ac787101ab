//! Python's regular expressions, as far as they mean the same here.

use regex::bytes::{Regex, RegexBuilder};

use crate::adapter::AdapterError;

const MAX_LENGTH: usize = 16 << 10;
const MAX_PROGRAM: usize = 256 << 10;

/// How much of a name a pattern must cover.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    /// `re.fullmatch(pattern, name)`.
    Full,
    /// `re.match(pattern, name)`.
    Start,
}

/// Compiles a Python pattern. Matching is linear in the name's length; what the two dialects read differently is refused.
pub(super) fn compile(key: &str, pattern: &str, anchor: Anchor) -> Result<Regex, AdapterError> {
    let refuse = |why: &str| {
        let shown: String = pattern.chars().take(120).collect();
        AdapterError::unsupported(format!("{key} is the regular expression {shown:?}, which cannot be used: {why}"))
    };
    if pattern.len() > MAX_LENGTH {
        return Err(refuse(&format!("it may have {MAX_LENGTH} bytes, given {}", pattern.len())));
    }
    let (flags, body) = translate(pattern).map_err(|why| refuse(&why))?;
    let anchored = match anchor {
        Anchor::Full => format!(r"{flags}\A(?:{body})\z"),
        Anchor::Start => format!(r"{flags}\A(?:{body})"),
    };
    // Module names are ASCII, so bytes are characters and the classes stay small.
    RegexBuilder::new(&anchored)
        .unicode(false)
        .size_limit(MAX_PROGRAM)
        .dfa_size_limit(MAX_PROGRAM)
        .nest_limit(64)
        .build()
        .map_err(|why| refuse(&why.to_string().replace('\n', " ")))
}

/// The leading `(?i)` of a pattern, if any, and the rest in the dialect of the regex crate.
fn translate(pattern: &str) -> Result<(String, String), String> {
    let (flags, rest) = leading_flags(pattern);
    let mut out = String::with_capacity(rest.len());
    let mut chars = rest.chars().peekable();
    let mut quantified = false;
    while let Some(c) = chars.next() {
        let was_quantified = std::mem::take(&mut quantified);
        match c {
            '\\' => escape(&mut chars, &mut out)?,
            '[' => class(&mut chars, &mut out)?,
            '(' => {
                out.push('(');
                if chars.peek() == Some(&'?') {
                    chars.next();
                    out.push('?');
                    group(&mut chars, &mut out)?;
                }
            }
            '*' | '+' | '?' | '}' => {
                if c == '+' && was_quantified {
                    return Err("possessive quantifiers".into());
                }
                quantified = true;
                out.push(c);
            }
            // Python's `$` also stands before a final newline, which no module name has.
            _ => out.push(c),
        }
    }
    Ok((flags, out))
}

fn leading_flags(pattern: &str) -> (String, &str) {
    let flags = pattern.strip_prefix("(?").and_then(|rest| rest.split_once(')'));
    match flags {
        Some((flags, rest)) if !flags.is_empty() && flags.chars().all(|f| matches!(f, 'i' | 's' | 'm')) => {
            (format!("(?{flags})"), rest)
        }
        _ => (String::new(), pattern),
    }
}

fn escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) -> Result<(), String> {
    match chars.next() {
        None => Err("it ends in a backslash".into()),
        Some('Z') => {
            out.push_str(r"\z");
            Ok(())
        }
        Some(c) if c.is_ascii_digit() => Err("backreferences and octal escapes".into()),
        Some(c @ ('d' | 'D' | 'w' | 'W' | 's' | 'S' | 'b' | 'B' | 'A' | 't' | 'n' | 'r' | 'f' | 'v')) => {
            if matches!(c, 'b' | 'B') && chars.peek() == Some(&'{') {
                return Err("a brace after \\b".into());
            }
            out.push('\\');
            out.push(c);
            Ok(())
        }
        Some(c) if c.is_ascii_alphabetic() => Err(format!("the escape \\{c}")),
        Some(c) => {
            literal(c, out);
            Ok(())
        }
    }
}

/// A character that stands for itself. `\<` and `\>` would be word boundaries to the regex crate.
fn literal(c: char, out: &mut String) {
    if c.is_ascii_punctuation() && !matches!(c, '<' | '>') {
        out.push('\\');
    }
    out.push(c);
}

fn group(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) -> Result<(), String> {
    match chars.next() {
        Some(':') => out.push(':'),
        Some('P') if chars.peek() == Some(&'<') => out.push('P'),
        Some('P') => return Err("backreferences".into()),
        Some('=' | '!') => return Err("look-around".into()),
        Some('<') => return Err("look-around".into()),
        Some('(') => return Err("conditional groups".into()),
        Some('>') => return Err("atomic groups".into()),
        Some('#') => return Err("comments".into()),
        _ => return Err("flags inside the expression".into()),
    }
    Ok(())
}

/// The rest of a `[...]`. What begins a nested class or a set operation in the regex crate is a literal in Python.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) -> Result<(), String> {
    out.push('[');
    if chars.peek() == Some(&'^') {
        chars.next();
        out.push('^');
    }
    let mut first = true;
    let mut last = None;
    while let Some(c) = chars.next() {
        match c {
            ']' if !first => {
                out.push(']');
                return Ok(());
            }
            '\\' => {
                if chars.peek() == Some(&'b') {
                    return Err("the escape \\b in a class".into());
                }
                escape(chars, out)?;
            }
            '-' if last == Some('-') => return Err("-- in a class".into()),
            '-' => out.push('-'),
            '[' | ']' | '&' | '~' | '^' => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
        first = false;
        last = Some(c);
    }
    Err("a class that does not end".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, and for each pattern those that Python's `re.fullmatch` (3.12) takes.
    const NAMES: [&str; 8] = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.11.mlp.up_proj",
        "lm_head",
        "transformer.h.1.attn.c_attn",
        "a-b<c>",
        "x[1]",
        "a&&b",
        "tab\there",
    ];
    const PYTHON: &[(&str, &[usize])] = &[
        (r".*q_proj", &[0]),
        (r"q_proj", &[]),
        (r".*\.(q|k)_proj", &[0]),
        (r"model\.layers\.[0-9]\..*", &[0]),
        (r"model\.layers\.\d+\.mlp\.up_proj", &[1]),
        (r"(?:.*\.)?c_attn", &[3]),
        (r"lm_head|.*up_proj", &[1, 2]),
        (r"^lm_head$", &[2]),
        (r"\Alm_head\Z", &[2]),
        (r"(?i)LM_HEAD", &[2]),
        (r".*layers\.(?:0|11)\.(?:self_attn|mlp)\.\w+", &[0, 1]),
        (r"a-b\<c\>", &[4]),
        (r"x\[1\]", &[5]),
        (r"a&&b", &[6]),
        (r"[a&]+b", &[6]),
        (r"[^.]+", &[2, 4, 5, 6, 7]),
        (r"[]x[1]+", &[5]),
        (r"[a\-b<c>]+", &[4]),
        (r".*?q_proj", &[0]),
        (r"model.layers.{1,2}0.self_attn.q_proj", &[0]),
        (r"(?P<n>lm)_head", &[2]),
        (r"lm\_head", &[2]),
        (r".{7}", &[2]),
        (r"tab\there", &[7]),
        (r"[\w.]+", &[0, 1, 2, 3]),
        (r"(lm_head|)", &[2]),
    ];

    #[test]
    fn patterns_match_what_python_matches() {
        for (pattern, expected) in PYTHON {
            let regex = compile("target_modules", pattern, Anchor::Full).unwrap();
            let found: Vec<usize> = (0..NAMES.len()).filter(|&i| regex.is_match(NAMES[i].as_bytes())).collect();
            assert_eq!(found, *expected, "{pattern}");
        }
    }
}
