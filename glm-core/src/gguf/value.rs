//! Metadata values.

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Unsigned 8-bit integer.
    U8(u8),
    /// Signed 8-bit integer.
    I8(i8),
    /// Unsigned 16-bit integer.
    U16(u16),
    /// Signed 16-bit integer.
    I16(i16),
    /// Unsigned 32-bit integer.
    U32(u32),
    /// Signed 32-bit integer.
    I32(i32),
    /// 32-bit float.
    F32(f32),
    /// Boolean.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Values of one type.
    Array(Array),
    /// Unsigned 64-bit integer.
    U64(u64),
    /// Signed 64-bit integer.
    I64(i64),
    /// 64-bit float.
    F64(f64),
}

/// An array of metadata values, stored as what it is: a hostile file cannot make it larger in memory than some three times its own size.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Array {
    /// Unsigned 8-bit integers.
    U8(Vec<u8>),
    /// Signed 8-bit integers.
    I8(Vec<i8>),
    /// Unsigned 16-bit integers.
    U16(Vec<u16>),
    /// Signed 16-bit integers.
    I16(Vec<i16>),
    /// Unsigned 32-bit integers.
    U32(Vec<u32>),
    /// Signed 32-bit integers.
    I32(Vec<i32>),
    /// 32-bit floats.
    F32(Vec<f32>),
    /// Booleans.
    Bool(Vec<bool>),
    /// UTF-8 texts.
    String(Vec<String>),
    /// Unsigned 64-bit integers.
    U64(Vec<u64>),
    /// Signed 64-bit integers.
    I64(Vec<i64>),
    /// 64-bit floats.
    F64(Vec<f64>),
}

impl Value {
    /// The number, if this is a non-negative integer of any width.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::U64(v) => Some(v),
            Self::I8(v) => v.try_into().ok(),
            Self::I16(v) => v.try_into().ok(),
            Self::I32(v) => v.try_into().ok(),
            Self::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// The number, if this is a non-negative integer below 2³².
    pub fn as_u32(&self) -> Option<u32> {
        self.as_u64()?.try_into().ok()
    }

    /// The number, if this is a float of any width.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            _ => None,
        }
    }

    /// The truth value, if this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// The text, if this is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(v) => Some(v),
            _ => None,
        }
    }

    /// The texts, if this is an array of texts.
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Self::Array(Array::String(v)) => Some(v),
            _ => None,
        }
    }

    /// The numbers, if this is an array of 32-bit signed integers.
    pub fn as_i32s(&self) -> Option<&[i32]> {
        match self {
            Self::Array(Array::I32(v)) => Some(v),
            _ => None,
        }
    }

    /// The numbers, if this is an array of 32-bit floats.
    pub fn as_f32s(&self) -> Option<&[f32]> {
        match self {
            Self::Array(Array::F32(v)) => Some(v),
            _ => None,
        }
    }

    /// The type's name, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }

    /// A number or a truth value as it is, anything else by its type: short enough for a message, whatever the file holds.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::F32(v) => v.to_string(),
            Self::F64(v) => v.to_string(),
            Self::Bool(v) => v.to_string(),
            Self::I8(_) | Self::I16(_) | Self::I32(_) | Self::I64(_) if self.as_u64().is_none() => {
                "a negative number".to_owned()
            }
            _ => self.as_u64().map_or_else(
                || format!("a value of type {}", self.type_name()),
                |v| v.to_string(),
            ),
        }
    }

    /// The type's number in a file.
    pub(super) fn type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// Appends the value as a file stores it, without its type.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::U8(v) => out.push(*v),
            Self::I8(v) => out.extend(v.to_le_bytes()),
            Self::U16(v) => out.extend(v.to_le_bytes()),
            Self::I16(v) => out.extend(v.to_le_bytes()),
            Self::U32(v) => out.extend(v.to_le_bytes()),
            Self::I32(v) => out.extend(v.to_le_bytes()),
            Self::F32(v) => out.extend(v.to_le_bytes()),
            Self::Bool(v) => out.push(u8::from(*v)),
            Self::String(v) => write_string(v, out),
            Self::Array(v) => v.write(out),
            Self::U64(v) => out.extend(v.to_le_bytes()),
            Self::I64(v) => out.extend(v.to_le_bytes()),
            Self::F64(v) => out.extend(v.to_le_bytes()),
        }
    }
}

impl Array {
    fn write(&self, out: &mut Vec<u8>) {
        fn items<T>(
            type_id: u32,
            items: &[T],
            out: &mut Vec<u8>,
            write: impl Fn(&T, &mut Vec<u8>),
        ) {
            out.extend(type_id.to_le_bytes());
            out.extend((items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| write(item, out));
        }
        match self {
            Self::U8(v) => items(0, v, out, |v, out| out.push(*v)),
            Self::I8(v) => items(1, v, out, |v, out| out.extend(v.to_le_bytes())),
            Self::U16(v) => items(2, v, out, |v, out| out.extend(v.to_le_bytes())),
            Self::I16(v) => items(3, v, out, |v, out| out.extend(v.to_le_bytes())),
            Self::U32(v) => items(4, v, out, |v, out| out.extend(v.to_le_bytes())),
            Self::I32(v) => items(5, v, out, |v, out| out.extend(v.to_le_bytes())),
            Self::F32(v) => items(6, v, out, |v, out| out.extend(v.to_le_bytes())),
            Self::Bool(v) => items(7, v, out, |v, out| out.push(u8::from(*v))),
            Self::String(v) => items(8, v, out, |v, out| write_string(v, out)),
            Self::U64(v) => items(10, v, out, |v, out| out.extend(v.to_le_bytes())),
            Self::I64(v) => items(11, v, out, |v, out| out.extend(v.to_le_bytes())),
            Self::F64(v) => items(12, v, out, |v, out| out.extend(v.to_le_bytes())),
        }
    }
}

pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::String(v.to_owned())
    }
}

impl From<String> for Value {
    fn from(v: String) -> Self {
        Self::String(v)
    }
}

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Self::Bool(v)
    }
}

impl From<u32> for Value {
    fn from(v: u32) -> Self {
        Self::U32(v)
    }
}

impl From<f32> for Value {
    fn from(v: f32) -> Self {
        Self::F32(v)
    }
}

impl From<Vec<String>> for Value {
    fn from(v: Vec<String>) -> Self {
        Self::Array(Array::String(v))
    }
}

impl From<Vec<i32>> for Value {
    fn from(v: Vec<i32>) -> Self {
        Self::Array(Array::I32(v))
    }
}

impl From<Vec<f32>> for Value {
    fn from(v: Vec<f32>) -> Self {
        Self::Array(Array::F32(v))
    }
}
