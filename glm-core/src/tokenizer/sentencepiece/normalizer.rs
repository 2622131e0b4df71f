//! sentencepiece's normalisation: character replacement by a precompiled map, blanks, the dummy prefix.
//!
//! Follows `normalizer.cc` of the sentencepiece library.

use super::super::added::AddedTokens;
use super::proto::NormalizerSpec;

/// The map from character sequences to replacements that sentencepiece compiles into a model file: a double-array trie
/// (darts-clone), then the replacements as NUL-terminated strings.
#[derive(Debug)]
struct CharsMap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl CharsMap {
    /// `None` if the blob is empty or its header does not fit.
    fn parse(blob: &[u8]) -> Option<Self> {
        let (size, rest) = blob.split_first_chunk::<4>()?;
        let size = u32::from_le_bytes(*size) as usize;
        if size == 0 || !size.is_multiple_of(4) {
            return None;
        }
        let (trie, replacements) = rest.split_at_checked(size)?;
        let units = trie
            .as_chunks::<4>()
            .0
            .iter()
            .map(|unit| u32::from_le_bytes(*unit))
            .collect();
        Some(Self {
            units,
            replacements: replacements.to_vec(),
        })
    }

    /// The replacement for the longest prefix of `text` that the map has, and that prefix's length in bytes.
    fn longest_match(&self, text: &str) -> Option<(&str, usize)> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut node = offset(*self.units.first()?);
        let mut found = None;
        for (index, byte) in text.bytes().enumerate() {
            node ^= usize::from(byte);
            let Some(&unit) = self.units.get(node) else {
                break;
            };
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let leaf = *self.units.get(node)?;
                found = Some(((leaf & 0x7fff_ffff) as usize, index + 1));
            }
        }
        let (at, len) = found.filter(|&(_, len)| text.is_char_boundary(len))?;
        let replacement = self
            .replacements
            .get(at..)?
            .split(|&byte| byte == 0)
            .next()?;
        Some((std::str::from_utf8(replacement).ok()?, len))
    }
}

/// Turns text into what the pieces are made of.
#[derive(Debug)]
pub(super) struct Normalizer {
    charsmap: Option<CharsMap>,
    spec: NormalizerSpec,
}

impl Normalizer {
    pub fn new(mut spec: NormalizerSpec) -> Self {
        let charsmap = CharsMap::parse(&std::mem::take(&mut spec.precompiled_charsmap));
        Self { charsmap, spec }
    }

    pub fn spec(&self) -> &NormalizerSpec {
        &self.spec
    }

    /// Normalised text. `user_defined` pieces pass unchanged.
    pub fn normalize(&self, text: &str, user_defined: &AddedTokens) -> String {
        let spec = &self.spec;
        let blank = if spec.escape_whitespaces { '▁' } else { ' ' };
        let mut rest = text;
        if spec.remove_extra_whitespaces {
            while !rest.is_empty() {
                let (replacement, len) = self.next(rest, user_defined);
                if replacement != " " {
                    break;
                }
                rest = &rest[len..];
            }
        }
        if rest.is_empty() {
            return String::new();
        }

        let mut out = String::with_capacity(rest.len() + 3);
        if spec.add_dummy_prefix && !spec.treat_whitespace_as_suffix {
            out.push(blank);
        }
        let mut after_blank = spec.remove_extra_whitespaces;
        while !rest.is_empty() {
            let (mut replacement, len) = self.next(rest, user_defined);
            if after_blank {
                replacement = replacement.trim_start_matches(' ');
            }
            if !replacement.is_empty() {
                out.extend(
                    replacement
                        .chars()
                        .map(|c| if c == ' ' { blank } else { c }),
                );
                after_blank = spec.remove_extra_whitespaces && replacement.ends_with(' ');
            }
            rest = &rest[len..];
        }
        if spec.remove_extra_whitespaces {
            out.truncate(out.trim_end_matches(blank).len());
        }
        if spec.add_dummy_prefix && spec.treat_whitespace_as_suffix {
            out.push(blank);
        }
        out
    }

    /// What the beginning of `text` becomes, and how many of its bytes that takes (at least one character).
    fn next<'a>(&'a self, text: &'a str, user_defined: &AddedTokens) -> (&'a str, usize) {
        if let Some(len) = user_defined.match_at_start(text) {
            return (&text[..len], len);
        }
        if let Some(found) = self
            .charsmap
            .as_ref()
            .and_then(|map| map.longest_match(text))
        {
            return found;
        }
        let len = text.chars().next().map_or(0, char::len_utf8);
        (&text[..len], len)
    }
}
