//! Reading the header: every length is checked against what is left before anything is allocated.

use std::path::Path;

use super::value::{Array, Value};
use crate::error::LoadError;

/// The format's limit for keys; tensors have names of at most 64 bytes in llama.cpp.
const MAX_NAME_BYTES: u64 = 65535;

pub(super) struct Cursor<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a Path, bytes: &'a [u8]) -> Self {
        Self {
            file,
            bytes,
            position: 0,
        }
    }

    pub(super) fn position(&self) -> u64 {
        self.position as u64
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub(super) fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], LoadError> {
        match usize::try_from(len) {
            Ok(len) if len <= self.remaining() => {
                let start = self.position;
                self.position += len;
                Ok(&self.bytes[start..start + len])
            }
            _ => Err(LoadError::Truncated {
                file: self.file.to_path_buf(),
                what: what.to_owned(),
                expected: (self.position as u64).saturating_add(len),
                found: self.bytes.len() as u64,
            }),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], LoadError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, LoadError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, LoadError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A number of items of which each takes at least `item_bytes`; bounded by what is left of the file.
    pub(super) fn count(&mut self, item_bytes: u64, what: &str) -> Result<usize, LoadError> {
        let count = self.u64(what)?;
        match usize::try_from(count) {
            Ok(small) if count <= self.remaining() as u64 / item_bytes => Ok(small),
            _ => Err(LoadError::Truncated {
                file: self.file.to_path_buf(),
                what: format!("{what} of {count}"),
                expected: count
                    .saturating_mul(item_bytes)
                    .saturating_add(self.position as u64),
                found: self.bytes.len() as u64,
            }),
        }
    }

    /// A key or a tensor's name, which ends up in messages.
    pub(super) fn name(&mut self, what: &str) -> Result<String, LoadError> {
        let len = self.u64(what)?;
        if len > MAX_NAME_BYTES {
            let expected = format!("a text of at most {MAX_NAME_BYTES} bytes");
            return Err(self.header(what, expected, format!("{len} bytes")));
        }
        self.text(len, what)
    }

    pub(super) fn string(&mut self, what: &str) -> Result<String, LoadError> {
        let len = self.u64(what)?;
        self.text(len, what)
    }

    fn text(&mut self, len: u64, what: &str) -> Result<String, LoadError> {
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|error| self.header(what, "UTF-8 text", error.to_string()))
    }

    pub(super) fn value(&mut self, key: &str) -> Result<Value, LoadError> {
        let type_id = self.u32(key)?;
        Ok(match type_id {
            0 => Value::U8(self.array::<1>(key)?[0]),
            1 => Value::I8(i8::from_le_bytes(self.array(key)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(key)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(key)?)),
            4 => Value::U32(self.u32(key)?),
            5 => Value::I32(i32::from_le_bytes(self.array(key)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(key)?)),
            7 => Value::Bool(self.array::<1>(key)?[0] != 0),
            8 => Value::String(self.string(key)?),
            9 => Value::Array(self.values(key)?),
            10 => Value::U64(self.u64(key)?),
            11 => Value::I64(i64::from_le_bytes(self.array(key)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(key)?)),
            other => return Err(self.header(key, "a value type from 0 to 12", other.to_string())),
        })
    }

    fn values(&mut self, key: &str) -> Result<Array, LoadError> {
        let type_id = self.u32(key)?;
        Ok(match type_id {
            0 => Array::U8(self.numbers(key, u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(key, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(key, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(key, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(key, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(key, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(key, f32::from_le_bytes)?),
            7 => Array::Bool(self.numbers(key, |[byte]: [u8; 1]| byte != 0)?),
            8 => {
                let count = self.count(8, key)?; // each text has at least its own length
                Array::String(
                    (0..count)
                        .map(|_| self.string(key))
                        .collect::<Result<_, _>>()?,
                )
            }
            10 => Array::U64(self.numbers(key, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(key, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(key, f64::from_le_bytes)?),
            other => {
                return Err(self.header(
                    key,
                    "an array of numbers, booleans or texts",
                    format!("element type {other}"),
                ));
            }
        })
    }

    fn numbers<T, const N: usize>(
        &mut self,
        key: &str,
        decode: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, LoadError> {
        let count = self.count(N as u64, key)?;
        let bytes = self.take(count as u64 * N as u64, key)?;
        Ok(bytes
            .as_chunks::<N>()
            .0
            .iter()
            .map(|chunk| decode(*chunk))
            .collect())
    }

    pub(super) fn header(
        &self,
        field: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> LoadError {
        LoadError::Header {
            file: self.file.to_path_buf(),
            field: field.to_owned(),
            expected: expected.into(),
            found: found.into(),
        }
    }
}
