//! Names, shapes, element types and bytes of the tensors in a checkpoint.

use std::borrow::Cow;
use std::path::PathBuf;

/// One tensor of a checkpoint, described without reading its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Canonical name: the one that transformers' `glm` and `glm4` use, whatever the source.
    pub name: String,
    /// Name in the file.
    pub source_name: String,
    /// Row-major shape, `[out_features, in_features]` for a linear layer, as Hugging Face lists it.
    pub shape: Vec<usize>,
    /// Element type; block formats run along the last dimension.
    pub ty: TensorType,
    /// File that holds the data.
    pub file: PathBuf,
    /// Length of the data in bytes.
    pub bytes: u64,
}

/// One tensor's data, normally borrowed from the mapped file.
#[derive(Debug, Clone)]
pub struct TensorData<'a> {
    /// Name, shape and type.
    pub info: &'a TensorInfo,
    /// Little-endian elements or GGML blocks, row after row. The start is not aligned to the element type.
    pub bytes: Cow<'a, [u8]>,
}

/// A tensor as a file lists it, before renaming.
#[derive(Debug, Clone)]
pub(crate) struct RawTensor {
    /// Name in the file.
    pub(crate) name: String,
    /// Row-major shape.
    pub(crate) shape: Vec<usize>,
    /// Element type, or its name if it is not one that weights can have.
    pub(crate) ty: Result<TensorType, String>,
    /// Index of the file in its checkpoint.
    pub(crate) file: usize,
    /// First byte of the data, from the start of the file.
    pub(crate) offset: u64,
    /// Length of the data in bytes; lies within the file.
    pub(crate) bytes: u64,
}

/// How the elements of a tensor are stored. Block formats have the on-disk layout of GGML.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TensorType {
    /// 32-bit float.
    F32,
    /// IEEE 16-bit float.
    F16,
    /// bfloat16.
    BF16,
    /// 4 bits, one f16 scale per 32 weights.
    Q4_0,
    /// 4 bits, f16 scale and minimum per 32 weights.
    Q4_1,
    /// 5 bits, one f16 scale per 32 weights.
    Q5_0,
    /// 5 bits, f16 scale and minimum per 32 weights.
    Q5_1,
    /// 8 bits, one f16 scale per 32 weights.
    Q8_0,
    /// 2-bit k-quant, superblocks of 256.
    Q2K,
    /// 3-bit k-quant, superblocks of 256.
    Q3K,
    /// 4-bit k-quant, superblocks of 256.
    Q4K,
    /// 5-bit k-quant, superblocks of 256.
    Q5K,
    /// 6-bit k-quant, superblocks of 256.
    Q6K,
    /// 4-bit non-linear, blocks of 32.
    Iq4Nl,
    /// 4-bit non-linear, superblocks of 256.
    Iq4Xs,
}

impl TensorType {
    /// All types, in GGML's order.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::BF16,
    ];

    /// `(name, GGML type id, weights per block, bytes per block)`; source: `ggml.h` and `ggml-common.h`.
    const fn layout(self) -> (&'static str, u32, usize, usize) {
        match self {
            Self::F32 => ("f32", 0, 1, 4),
            Self::F16 => ("f16", 1, 1, 2),
            Self::Q4_0 => ("q4_0", 2, 32, 18),
            Self::Q4_1 => ("q4_1", 3, 32, 20),
            Self::Q5_0 => ("q5_0", 6, 32, 22),
            Self::Q5_1 => ("q5_1", 7, 32, 24),
            Self::Q8_0 => ("q8_0", 8, 32, 34),
            Self::Q2K => ("q2_k", 10, 256, 84),
            Self::Q3K => ("q3_k", 11, 256, 110),
            Self::Q4K => ("q4_k", 12, 256, 144),
            Self::Q5K => ("q5_k", 13, 256, 176),
            Self::Q6K => ("q6_k", 14, 256, 210),
            Self::Iq4Nl => ("iq4_nl", 20, 32, 18),
            Self::Iq4Xs => ("iq4_xs", 23, 256, 136),
            Self::BF16 => ("bf16", 30, 1, 2),
        }
    }

    /// Lower-case name, as in `--quantize`: "f32", "q4_k", ...
    pub const fn name(self) -> &'static str {
        self.layout().0
    }

    /// The type's number in a GGUF file.
    pub const fn ggml_id(self) -> u32 {
        self.layout().1
    }

    /// The type with this number in a GGUF file.
    pub fn from_ggml_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.ggml_id() == id)
    }

    /// Weights per block; 1 for the float types.
    pub const fn block_len(self) -> usize {
        self.layout().2
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        self.layout().3
    }

    /// Bytes of a tensor of this type and shape; `None` if the last dimension is not whole blocks or the size overflows.
    ///
    /// ```
    /// use glm_core::TensorType;
    /// assert_eq!(TensorType::Q8_0.byte_len(&[2, 64]), Some(2 * 2 * 34));
    /// assert_eq!(TensorType::Q8_0.byte_len(&[2, 63]), None);
    /// ```
    pub fn byte_len(self, shape: &[usize]) -> Option<u64> {
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(self.block_len()) {
            return None;
        }
        let rows = shape
            .iter()
            .rev()
            .skip(1)
            .try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?))?;
        let row_bytes = u64::try_from(row / self.block_len())
            .ok()?
            .checked_mul(self.block_bytes() as u64)?;
        rows.checked_mul(row_bytes)
    }

    pub(crate) fn known_names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for TensorType {
    type Err = UnknownTensorType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let lower = name.to_ascii_lowercase();
        Self::ALL
            .into_iter()
            .find(|ty| ty.name() == lower)
            .ok_or_else(|| UnknownTensorType(name.to_owned()))
    }
}

/// A name that is no [`TensorType`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown tensor type `{0}` (known: {known})", known = TensorType::known_names())]
pub struct UnknownTensorType(pub String);
