//! Finds stop strings in streamed text.

/// Watches an answer's text for stop strings, piece by piece, and holds back what could become one.
///
/// The match that is complete first wins; of those that end at the same character, the longest. So what is found
/// does not depend on how the text falls into pieces.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

/// What came of a piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Text that may be shown now.
    pub text: String,
    /// A stop string was found: `text` ends before it, and nothing follows.
    pub stopped: bool,
}

impl StopMatcher {
    /// A matcher at the start of an answer. Empty stop strings are ignored.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, held: String::new(), stopped: false }
    }

    /// Adds a piece of text. After a stop everything is swallowed.
    pub fn push(&mut self, piece: &str) -> Watched {
        if self.stopped {
            return Watched { text: String::new(), stopped: true };
        }
        if self.stops.is_empty() {
            return Watched { text: piece.to_owned(), stopped: false };
        }
        let seen = self.held.len();
        self.held.push_str(piece);
        if let Some(start) = self.first_match(seen) {
            self.stopped = true;
            self.held.truncate(start);
            return Watched { text: std::mem::take(&mut self.held), stopped: true };
        }
        let rest = self.held.split_off(self.first_possible_start());
        Watched { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// The text still held back, at the end of an answer: it did not become a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the first match to end after byte `seen` starts.
    fn first_match(&self, seen: usize) -> Option<usize> {
        let ends = self.held[seen..].char_indices().map(|(at, character)| seen + at + character.len_utf8());
        for end in ends {
            let text = &self.held[..end];
            let longest = self.stops.iter().filter(|stop| text.ends_with(*stop)).map(String::len).max();
            if let Some(length) = longest {
                return Some(end - length);
            }
        }
        None
    }

    /// Where the longest tail that could become a stop string starts; the end if there is none.
    fn first_possible_start(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        let could_become = |tail: &str| self.stops.iter().any(|stop| stop.starts_with(tail));
        (from..self.held.len())
            .find(|&at| self.held.is_char_boundary(at) && could_become(&self.held[at..]))
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(&stops.iter().map(|stop| (*stop).to_owned()).collect::<Vec<_>>())
    }

    fn shown(text: &str) -> Watched {
        Watched { text: text.to_owned(), stopped: false }
    }

    #[test]
    fn only_what_could_become_a_stop_string_waits() {
        let mut matcher = matcher(&["\n\nUser:"]);
        assert_eq!(matcher.push("one\n"), shown("one"));
        assert_eq!(matcher.push("two\n\nUs"), shown("\ntwo"));
        assert_eq!(matcher.push("ed"), shown("\n\nUsed"));
        assert_eq!(matcher.push("\n\nUser"), shown(""));
        assert_eq!(matcher.finish(), "\n\nUser");
    }

    #[test]
    fn a_stop_string_over_three_pieces_is_found_and_not_shown() {
        let mut matcher = matcher(&["стоп"]);
        assert_eq!(matcher.push("раз ст"), shown("раз "));
        assert_eq!(matcher.push("о"), shown(""));
        assert_eq!(matcher.push("п два"), Watched { text: String::new(), stopped: true });
        assert_eq!(matcher.push("три"), Watched { text: String::new(), stopped: true });
        assert_eq!(matcher.finish(), "");
    }

    #[test]
    fn the_first_to_be_complete_wins_however_the_text_is_cut() {
        for pieces in [&["xabcd"][..], &["xab", "cd"], &["x", "a", "b", "c", "d"]] {
            let mut matcher = matcher(&["abcd", "bc"]);
            let text: String = pieces.iter().map(|piece| matcher.push(piece).text).collect();
            assert_eq!(text, "xa");
        }
    }

    #[test]
    fn of_two_that_end_together_the_longer_is_hidden() {
        assert_eq!(matcher(&["c", "abc"]).push("xabc"), Watched { text: "x".into(), stopped: true });
    }

    #[test]
    fn a_repeated_start_is_no_trap() {
        let mut matcher = matcher(&["aab"]);
        assert_eq!(matcher.push("aa"), shown(""));
        assert_eq!(matcher.push("a"), shown("a"));
        assert_eq!(matcher.push("b"), Watched { text: String::new(), stopped: true });
    }

    #[test]
    fn without_stop_strings_text_passes_at_once() {
        assert_eq!(matcher(&[]).push("text"), shown("text"));
        assert_eq!(matcher(&[""]).push("text"), shown("text"));
    }

    /// The text before the stop string that is complete first.
    fn naive(text: &str, stops: &[String]) -> (String, bool) {
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let longest =
                stops.iter().filter(|stop| !stop.is_empty() && text[..end].ends_with(*stop)).map(String::len).max();
            if let Some(length) = longest {
                return (text[..end - length].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #[test]
        fn equals_a_search_of_the_whole_text(
            pieces in prop::collection::vec("[abя🙂]{0,4}", 0..12),
            stops in prop::collection::vec("[abя🙂]{0,4}", 0..4),
        ) {
            let mut matcher = StopMatcher::new(&stops);
            let mut text = String::new();
            let mut stopped = false;
            for piece in &pieces {
                let watched = matcher.push(piece);
                text.push_str(&watched.text);
                stopped = watched.stopped;
                // What is held back is the start of a stop string.
                prop_assert!(matcher.held.is_empty() || stops.iter().any(|stop| stop.starts_with(&matcher.held)));
            }
            text.push_str(&matcher.finish());
            prop_assert_eq!((text, stopped), naive(&pieces.concat(), &stops));
        }
    }
}
