//! GPT-2's spelling of bytes as printable characters.

use std::sync::LazyLock;

/// The character of each byte: itself where printable, else the next free one from U+0100 on.
static CHARACTERS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut free = 0x100;
    std::array::from_fn(|byte| match byte as u8 {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte as u8),
        _ => {
            free += 1;
            char::from_u32(free - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    })
});

/// The byte of each character below U+0180.
static BYTES: LazyLock<[Option<u8>; 0x180]> = LazyLock::new(|| {
    let mut bytes = [None; 0x180];
    for (byte, character) in CHARACTERS.iter().enumerate() {
        bytes[*character as usize] = Some(byte as u8);
    }
    bytes
});

fn byte(character: char) -> Option<u8> {
    *BYTES.get(character as usize)?
}

/// The bytes that a token stands for. One that is not wholly in the byte alphabet (an added token with a blank in it) stands for itself, as in
/// the `ByteLevel` decoder of `tokenizers`.
pub(super) fn push_bytes(token: &str, into: &mut Vec<u8>) {
    let start = into.len();
    for character in token.chars() {
        match byte(character) {
            Some(byte) => into.push(byte),
            None => {
                into.truncate(start);
                into.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// Whether a token is spelled in the byte alphabet.
pub(super) fn is_spelled(token: &str) -> bool {
    token.chars().all(|character| byte(character).is_some())
}

/// A text in the byte alphabet.
pub(super) fn spell(text: &str) -> String {
    text.bytes().map(|byte| CHARACTERS[byte as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    #[test]
    fn the_alphabet_is_that_of_the_tokenizers_crate() {
        let ours: std::collections::HashSet<char> = CHARACTERS.iter().copied().collect();
        assert_eq!(ours.len(), 256);
        assert!(ByteLevel::alphabet().into_iter().all(|character| ours.contains(&character)));
    }

    #[test]
    fn spelling_and_reading_are_inverse() {
        let text = "Дуб, oak\n\u{0}🌳";
        let mut bytes = Vec::new();
        push_bytes(&spell(text), &mut bytes);
        assert_eq!(bytes, text.as_bytes());
        assert!(is_spelled(&spell(text)) && !is_spelled("a b"));
    }

    #[test]
    fn a_token_outside_of_the_alphabet_stands_for_itself() {
        let mut bytes = b"x".to_vec();
        push_bytes("Ġa b", &mut bytes);
        assert_eq!(bytes, "xĠa b".as_bytes());
    }
}
