//! Ids to text, one at a time.
//!
//! [`Tokenizer::decode`] and [`DecodeStream`] run the same [`TextDecoder`], so what a stream emits is what decoding the whole
//! list gives. The decoder holds back at most the three bytes that can begin an unfinished character.

use super::{Inner, Model, TokenKind, Tokenizer};

const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Decoding in progress: bytes whose character is not complete, and where sentencepiece's dummy blank may still be.
#[derive(Debug, Clone)]
pub(crate) struct TextDecoder {
    pending: Vec<u8>,
    /// No text since the beginning of this run: a leading `▁` is the dummy blank (sentencepiece only).
    at_start: bool,
}

impl TextDecoder {
    pub fn new() -> Self {
        Self {
            pending: Vec::new(),
            at_start: true,
        }
    }

    /// Appends what `id` completes. Ids without a token decode to nothing.
    pub fn push(&mut self, inner: &Inner, id: u32, skip_special: bool, out: &mut String) {
        let kind = inner.vocab.kind(id);
        let Some(text) = inner.vocab.text(id) else {
            return;
        };
        if skip_special && kind.is_special() {
            return;
        }
        match &inner.model {
            Model::ByteBpe(_) => {
                self.pending.extend(inner.bytes_of(id, text));
                self.flush_characters(out);
            }
            Model::SentencePiece(model) => {
                if kind == TokenKind::Byte {
                    self.pending.extend(inner.bytes_of(id, text));
                    self.flush_bytes(out);
                } else if inner.is_added(id, text) {
                    self.end_run(inner, out);
                    out.push_str(text);
                    self.at_start = true; // each stretch between visible special tokens was encoded on its own
                } else {
                    self.end_run(inner, out);
                    self.push_piece(
                        text,
                        kind,
                        model.strips_dummy_prefix(),
                        model.removes_extra_whitespaces(),
                        out,
                    );
                }
            }
        }
    }

    /// Appends what remains: replacement characters for bytes that never became a character.
    pub fn finish(&mut self, inner: &Inner, out: &mut String) {
        self.end_run(inner, out);
    }

    /// One piece of text, as sentencepiece's `Decode`: the first `▁` of a run is the dummy blank and is dropped, the others are blanks.
    fn push_piece(
        &mut self,
        piece: &str,
        kind: TokenKind,
        strip: bool,
        strip_all: bool,
        out: &mut String,
    ) {
        // control pieces have no surface; the unknown piece doubles as padding in ChatGLM
        if kind.is_special() {
            return;
        }
        let rest = if self.at_start && strip {
            piece.strip_prefix('▁')
        } else {
            None
        };
        let dropped_dummy = rest.is_some() && !strip_all;
        let text = rest.unwrap_or(piece);
        out.extend(text.chars().map(|c| if c == '▁' { ' ' } else { c }));
        if !text.is_empty() || dropped_dummy {
            self.at_start = false;
        }
    }

    /// Moves finished characters out; each maximal invalid sequence becomes one U+FFFD, as `String::from_utf8_lossy` does.
    fn flush_characters(&mut self, out: &mut String) {
        self.flush(out, |invalid_len| invalid_len);
    }

    /// As [`Self::flush_characters`], with one U+FFFD for every invalid byte, as sentencepiece does.
    fn flush_bytes(&mut self, out: &mut String) {
        let before = out.len();
        self.flush(out, |_| 1);
        if out.len() > before {
            self.at_start = false;
        }
    }

    fn flush(&mut self, out: &mut String, drop_len: impl Fn(usize) -> usize) {
        let mut rest = &self.pending[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, invalid) = rest.split_at(error.valid_up_to());
                    out.push_str(std::str::from_utf8(valid).unwrap_or_default()); // valid by definition
                    rest = invalid;
                    let Some(len) = error.error_len() else { break };
                    out.push(REPLACEMENT);
                    rest = &rest[drop_len(len)..];
                }
            }
        }
        let done = self.pending.len() - rest.len();
        self.pending.drain(..done);
    }

    /// No more bytes will follow the pending ones.
    fn end_run(&mut self, inner: &Inner, out: &mut String) {
        if self.pending.is_empty() {
            return;
        }
        let replacements = match inner.model {
            Model::ByteBpe(_) => 1,
            Model::SentencePiece(_) => self.pending.len(),
        };
        out.extend(std::iter::repeat_n(REPLACEMENT, replacements));
        self.pending.clear();
        self.at_start = false;
    }
}

/// Turns a growing list of ids into text, piece by piece, never half a character. From [`Tokenizer::decode_stream`].
///
/// The pieces, with [`finish`](Self::finish)'s, make up exactly [`Tokenizer::decode`] of the ids. Every call costs what its own
/// token costs, however long the stream is.
#[derive(Debug, Clone)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    decoder: TextDecoder,
    skip_special: bool,
}

impl DecodeStream {
    pub(crate) fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        Self {
            tokenizer,
            decoder: TextDecoder::new(),
            skip_special,
        }
    }

    /// Takes the next id; the text it completes, if any.
    pub fn push(&mut self, id: u32) -> Option<String> {
        let mut out = String::new();
        self.decoder
            .push(&self.tokenizer.0, id, self.skip_special, &mut out);
        (!out.is_empty()).then_some(out)
    }

    /// Ends the stream: what was held back, as replacement characters. The stream starts afresh after it.
    pub fn finish(&mut self) -> Option<String> {
        let mut out = String::new();
        self.decoder.finish(&self.tokenizer.0, &mut out);
        self.decoder = TextDecoder::new();
        (!out.is_empty()).then_some(out)
    }
}
