//! The parts of sentencepiece's `ModelProto` that an encoder needs, read from protobuf bytes.
//!
//! A reader of four field kinds is shorter than a generated one and never trusts a length: every slice is taken from the bytes
//! that are there, so a hostile file can cost no more than its own size.

use std::path::Path;

use super::super::TokenizerError;

/// `SentencePiece`: one entry of the vocabulary.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Piece {
    pub text: String,
    pub score: f32,
    /// `Type`: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub kind: i32,
}

/// `NormalizerSpec`: what happens to text before it is cut.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NormalizerSpec {
    pub precompiled_charsmap: Vec<u8>,
    /// Every text begins with a blank that is not in it.
    pub add_dummy_prefix: bool,
    /// Blanks at both ends go, runs of blanks become one.
    pub remove_extra_whitespaces: bool,
    /// Blanks become `▁` (U+2581).
    pub escape_whitespaces: bool,
    /// The dummy blank comes last (a field of the trainer's part of the file).
    pub treat_whitespace_as_suffix: bool,
}

impl Default for NormalizerSpec {
    /// The defaults of `sentencepiece_model.proto`.
    fn default() -> Self {
        Self {
            precompiled_charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
            treat_whitespace_as_suffix: false,
        }
    }
}

/// `ModelProto`, flattened. Unset ids have the defaults of `TrainerSpec`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelProto {
    pub pieces: Vec<Piece>,
    /// `TrainerSpec.model_type`: 1 unigram, 2 BPE, 3 word, 4 char.
    pub model_type: u64,
    pub byte_fallback: bool,
    pub unk_id: i32,
    pub bos_id: i32,
    pub eos_id: i32,
    pub normalizer: NormalizerSpec,
}

impl ModelProto {
    /// Reads a `ModelProto`; unknown fields are passed over.
    pub fn parse(bytes: &[u8], file: &Path) -> Result<Self, TokenizerError> {
        let mut model = Self {
            pieces: Vec::new(),
            model_type: 1,
            byte_fallback: false,
            unk_id: 0,
            bos_id: 1,
            eos_id: 2,
            normalizer: NormalizerSpec::default(),
        };
        model
            .read(bytes)
            .map_err(|Malformed { offset, reason }| TokenizerError::Protobuf {
                file: file.into(),
                offset,
                reason,
            })?;
        Ok(model)
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        for_each_field(bytes, 0, |number, value, at| {
            match (number, value) {
                (1, Field::Bytes(piece)) => self.pieces.push(read_piece(piece, at)?),
                (2, Field::Bytes(trainer)) => self.read_trainer_spec(trainer, at)?,
                (3, Field::Bytes(normalizer)) => self.read_normalizer_spec(normalizer, at)?,
                (1..=3, _) => {
                    return Err(Malformed {
                        offset: at,
                        reason: "a message field has another type",
                    });
                }
                _ => {}
            }
            Ok(())
        })
    }

    fn read_trainer_spec(&mut self, bytes: &[u8], at: usize) -> Result<(), Malformed> {
        for_each_field(bytes, at, |number, value, _| {
            match (number, value) {
                (3, Field::Varint(value)) => self.model_type = value,
                (24, Field::Varint(value)) => {
                    self.normalizer.treat_whitespace_as_suffix = value != 0
                }
                (35, Field::Varint(value)) => self.byte_fallback = value != 0,
                (40, Field::Varint(value)) => self.unk_id = value as i32, // int32: negative values are sign-extended to 64 bits
                (41, Field::Varint(value)) => self.bos_id = value as i32,
                (42, Field::Varint(value)) => self.eos_id = value as i32,
                _ => {}
            }
            Ok(())
        })
    }

    fn read_normalizer_spec(&mut self, bytes: &[u8], at: usize) -> Result<(), Malformed> {
        for_each_field(bytes, at, |number, value, _| {
            match (number, value) {
                (2, Field::Bytes(charsmap)) => {
                    self.normalizer.precompiled_charsmap = charsmap.to_vec()
                }
                (3, Field::Varint(value)) => self.normalizer.add_dummy_prefix = value != 0,
                (4, Field::Varint(value)) => self.normalizer.remove_extra_whitespaces = value != 0,
                (5, Field::Varint(value)) => self.normalizer.escape_whitespaces = value != 0,
                _ => {}
            }
            Ok(())
        })
    }
}

fn read_piece(bytes: &[u8], at: usize) -> Result<Piece, Malformed> {
    let mut piece = Piece {
        kind: 1,
        ..Piece::default()
    };
    for_each_field(bytes, at, |number, value, offset| {
        match (number, value) {
            (1, Field::Bytes(text)) => {
                let text = std::str::from_utf8(text).map_err(|_| Malformed {
                    offset,
                    reason: "a piece is not UTF-8",
                })?;
                piece.text = text.to_owned();
            }
            (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Field::Varint(kind)) => piece.kind = kind as i32,
            _ => {}
        }
        Ok(())
    })?;
    Ok(piece)
}

/// Where reading stopped, and why.
struct Malformed {
    offset: usize,
    reason: &'static str,
}

enum Field<'b> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'b [u8]),
}

/// Calls `visit` with number, value and offset in the file of every field of a message that begins at `base`.
fn for_each_field<'b>(
    bytes: &'b [u8],
    base: usize,
    mut visit: impl FnMut(u64, Field<'b>, usize) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut at = 0;
    while at < bytes.len() {
        let truncated = Malformed {
            offset: base + at,
            reason: "a field is cut off",
        };
        let Some(key) = varint(bytes, &mut at) else {
            return Err(truncated);
        };
        let field = match key & 7 {
            0 => varint(bytes, &mut at).map(Field::Varint),
            1 => take(bytes, &mut at, 8).map(|_| Field::Fixed64),
            2 => varint(bytes, &mut at)
                .and_then(|len| usize::try_from(len).ok())
                .and_then(|len| take(bytes, &mut at, len))
                .map(Field::Bytes),
            5 => take(bytes, &mut at, 4)
                .and_then(|raw| raw.try_into().ok())
                .map(|raw| Field::Fixed32(u32::from_le_bytes(raw))),
            _ => {
                return Err(Malformed {
                    offset: base + at,
                    reason: "a field has a type that protobuf does not know",
                });
            }
        };
        let Some(field) = field else {
            return Err(truncated);
        };
        let value_at = match &field {
            Field::Bytes(value) => at - value.len(),
            _ => at,
        };
        visit(key >> 3, field, base + value_at)?;
    }
    Ok(())
}

fn take<'b>(bytes: &'b [u8], at: &mut usize, len: usize) -> Option<&'b [u8]> {
    let end = at.checked_add(len)?;
    let taken = bytes.get(*at..end)?;
    *at = end;
    Some(taken)
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
