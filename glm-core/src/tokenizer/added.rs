//! Added tokens: texts such as `<|user|>` that are one token each and are found before the model sees the text.

use std::collections::HashMap;
use std::ops::Range;

/// One added token, with the flags of Hugging Face's `AddedToken`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub id: u32,
    pub content: String,
    /// Left out of text when special tokens are skipped.
    pub special: bool,
    /// The match takes the blanks before it.
    pub lstrip: bool,
    /// The match takes the blanks after it.
    pub rstrip: bool,
    /// The match counts only where no word goes on at either side.
    pub single_word: bool,
}

/// A stretch of text, or an added token found in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Segment<'t> {
    Text(&'t str),
    Token(u32),
}

/// Finds added tokens in text: leftmost first, the longest of those that start at one place.
#[derive(Debug, Default)]
pub(crate) struct AddedTokens {
    tokens: Vec<AddedToken>,
    by_content: HashMap<Box<str>, usize>,
    /// For each first byte, the distinct lengths in bytes of the tokens that begin with it, longest first. One hash look-up per length
    /// keeps the search linear in the text however many tokens a file adds.
    lengths: HashMap<u8, Vec<usize>>,
}

impl AddedTokens {
    /// Empty contents are dropped; of two tokens with the same content the later counts, as in `tokenizers`.
    pub fn new(tokens: Vec<AddedToken>) -> Self {
        let mut added = Self::default();
        for token in tokens {
            let Some(&first) = token.content.as_bytes().first() else {
                continue;
            };
            let lengths = added.lengths.entry(first).or_default();
            if let Err(at) = lengths.binary_search_by(|length| token.content.len().cmp(length)) {
                lengths.insert(at, token.content.len());
            }
            added
                .by_content
                .insert(token.content.as_str().into(), added.tokens.len());
            added.tokens.push(token);
        }
        added
    }

    /// The id of the token with exactly this content.
    pub fn id(&self, content: &str) -> Option<u32> {
        self.by_content
            .get(content)
            .map(|&index| self.tokens[index].id)
    }

    /// All tokens, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = &AddedToken> {
        self.tokens.iter()
    }

    /// Cuts `text` at added tokens. Matches for which `accept` says no are passed over as plain text.
    pub fn split<'t>(
        &self,
        text: &'t str,
        accept: impl Fn(&AddedToken, Range<usize>) -> bool,
    ) -> Vec<Segment<'t>> {
        let mut segments = Vec::new();
        let mut done = 0; // bytes already in a segment
        let mut at = 0;
        while let Some((token, found)) = self.next_match(text, at) {
            at = found.end;
            if (token.single_word && !stands_alone(text, &found)) || !accept(token, found.clone()) {
                continue;
            }
            let mut found = found;
            if token.lstrip {
                found.start = text[..found.start].trim_end().len().max(done);
            }
            if token.rstrip {
                found.end = text.len() - text[found.end..].trim_start().len();
            }
            if done < found.start {
                segments.push(Segment::Text(&text[done..found.start]));
            }
            segments.push(Segment::Token(token.id));
            done = found.end;
            at = found.end;
        }
        if done < text.len() {
            segments.push(Segment::Text(&text[done..]));
        }
        segments
    }

    /// Length in bytes of the longest token that `text` begins with.
    pub fn match_at_start(&self, text: &str) -> Option<usize> {
        let lengths = self.lengths.get(text.as_bytes().first()?)?;
        lengths.iter().copied().find(|&length| {
            text.get(..length)
                .is_some_and(|content| self.by_content.contains_key(content))
        })
    }

    /// The first token at or after byte `from`, and the bytes it covers.
    fn next_match(&self, text: &str, from: usize) -> Option<(&AddedToken, Range<usize>)> {
        let bytes = text.as_bytes();
        (from..bytes.len()).find_map(|start| {
            let lengths = self.lengths.get(&bytes[start])?;
            lengths.iter().find_map(|&length| {
                let content = text.get(start..start + length)?;
                let index = *self.by_content.get(content)?;
                Some((&self.tokens[index], start..start + length))
            })
        })
    }
}

/// Whether no word character touches `range` in `text`.
fn stands_alone(text: &str, range: &Range<usize>) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    !text[..range.start].ends_with(is_word) && !text[range.end..].starts_with(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, content: &str) -> AddedToken {
        AddedToken {
            id,
            content: content.into(),
            ..AddedToken::default()
        }
    }

    #[test]
    fn leftmost_then_longest() {
        let added = AddedTokens::new(vec![token(1, "<a>"), token(2, "<a><b>"), token(3, "<b>")]);
        let segments = added.split("x<a><b><a>y<b", |_, _| true);
        use Segment::{Text, Token};
        assert_eq!(segments, [Text("x"), Token(2), Token(1), Text("y<b")]);
    }

    #[test]
    fn refused_matches_stay_text() {
        let added = AddedTokens::new(vec![token(1, "<a>")]);
        assert_eq!(
            added.split("<a>é<a>", |_, at| at.start > 0),
            [Segment::Text("<a>é"), Segment::Token(1)]
        );
        assert!(added.split("", |_, _| true).is_empty());
    }

    #[test]
    fn flags_are_those_of_the_tokenizers_crate() {
        let strip = AddedToken {
            lstrip: true,
            rstrip: true,
            ..token(1, "<m>")
        };
        let word = AddedToken {
            single_word: true,
            ..token(2, "cat")
        };
        let added = AddedTokens::new(vec![strip, word]);
        use Segment::{Text, Token};
        assert_eq!(
            added.split("a  <m> \n b", |_, _| true),
            [Text("a"), Token(1), Text("b")]
        );
        assert_eq!(
            added.split("cats cat concat", |_, _| true),
            [Text("cats "), Token(2), Text(" concat")]
        );
    }
}
