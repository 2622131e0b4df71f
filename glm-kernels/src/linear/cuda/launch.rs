//! Which kernel a product takes, and in which geometry.

use super::activations::Activations;
use super::{cublaslt, names, wgmma};
use crate::cuda::{DeviceBuffer, DevicePtr, LaunchConfig};
use crate::linear::layout::PANEL_ROWS;
use crate::{KernelError, WeightFormat};

/// Floats of more tokens than this meet the tensor cores.
const MAX_FLOAT_GEMV: u32 = 4;
/// Codes of more tokens than this meet the tensor cores.
const MAX_CODE_GEMV: u32 = 8;
/// Bytes of shared memory that every device gives a block without being asked.
const SHARED_BYTES: u32 = 48 << 10;
/// Bytes that the codes and scales of a chunk of one token take there.
const CHUNK_CODE_BYTES: u32 = 72;
/// Splitting columns costs a kernel more and a pass over the sums: not for fewer chunks than these.
const MIN_CHUNKS_PER_SPLIT: u32 = 8;

/// Which kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// `float.cu`, for so many tokens at once.
    FloatGemv(u32),
    /// `gemv.cu`, likewise.
    CodeGemv(u32),
    /// `gemm.cu`, with tiles of so many tokens.
    Gemm(u32),
}

impl Path {
    fn of(format: WeightFormat, tokens: u32) -> Self {
        use WeightFormat as F;
        let frequent = matches!(format, F::Q8_0 | F::Q4K | F::Q6K | F::Int4 | F::Fp8);
        let gemm = match tokens {
            _ if format.is_quantized() && !frequent => Self::Gemm(64),
            0..=16 => Self::Gemm(16),
            17..=64 => Self::Gemm(64),
            _ => Self::Gemm(128),
        };
        match (format, tokens) {
            (F::F32 | F::F16 | F::BF16, 1) => Self::FloatGemv(1),
            (F::F32 | F::F16 | F::BF16, 2) => Self::FloatGemv(2),
            (F::F32, _) | (F::F16 | F::BF16, 3..=MAX_FLOAT_GEMV) => Self::FloatGemv(4),
            (F::F16 | F::BF16, _) => gemm,
            (F::Fp8, 5..) => gemm,
            (_, 1) => Self::CodeGemv(1),
            (_, 2..=4) => Self::CodeGemv(4),
            (_, 5..=MAX_CODE_GEMV) => Self::CodeGemv(if frequent { 8 } else { 4 }),
            _ => gemm,
        }
    }
}

/// Rows of one format, and what becomes of their products.
pub(super) struct Rows {
    pub format: WeightFormat,
    pub weights: DevicePtr,
    pub rows: u32,
    /// Of the first row, or null.
    pub bias: DevicePtr,
    /// Of the first row and the first token.
    pub out: DevicePtr,
    /// Elements from one token to the next.
    pub stride: u32,
}

impl Activations<'_> {
    /// Writes the products with `rows`.
    pub fn multiply(&mut self, rows: &Rows) -> Result<(), KernelError> {
        match Path::of(rows.format, self.tokens) {
            Path::FloatGemv(at_once) => self.float_gemv(rows, at_once),
            Path::CodeGemv(at_once) => self.code_gemv(rows, at_once),
            Path::Gemm(tile) if rows.format == WeightFormat::BF16 => self.gemm_bf16(rows, tile),
            Path::Gemm(tile) => self.gemm(rows, tile),
        }
    }

    /// With the library if it does it, with the kernel for Hopper there, or with the general one.
    fn gemm_bf16(&mut self, rows: &Rows, tile: u32) -> Result<(), KernelError> {
        if self.tokens >= cublaslt::MIN_TOKENS
            && let Some(library) = self.cuda.cublaslt()
            && self.cublaslt(library, rows)?
        {
            return Ok(());
        }
        if self.tokens >= wgmma::MIN_TOKENS && wgmma::usable(self.cuda) {
            return self.wgmma(rows);
        }
        self.gemm(rows, tile)
    }

    fn float_gemv(&mut self, rows: &Rows, at_once: u32) -> Result<(), KernelError> {
        let rows_per_warp = if at_once == 4 { 4 } else { 2 };
        let (x, columns) = self.eights()?;
        let kernel = self.kernel("linear_float", names::gemv(rows.format, at_once))?;
        let grid = [
            rows.rows.div_ceil(8 * rows_per_warp),
            self.tokens.div_ceil(at_once),
            1,
        ];
        let args = [
            rows.out.into(),
            rows.weights.into(),
            x.into(),
            rows.bias.into(),
            rows.rows.into(),
            columns.into(),
            self.padded_columns().into(),
            rows.stride.into(),
            self.tokens.into(),
        ];
        // SAFETY: the kernel writes `rows` values of each token, `stride` apart, and reads as many rows of the weight and of the bias.
        unsafe { self.launch(kernel, LaunchConfig::new(grid, [256, 1, 1]), &args) }
    }

    fn code_gemv(&mut self, rows: &Rows, at_once: u32) -> Result<(), KernelError> {
        let codes_bytes = match rows.format {
            WeightFormat::Fp8 => 0,
            _ => self.chunks * CHUNK_CODE_BYTES,
        };
        // A warp rounds a single token's columns itself, unless they do not fit.
        let at_once = if at_once == 1 && codes_bytes > SHARED_BYTES - 2048 {
            4
        } else {
            at_once
        };
        let (codes, scales) = match at_once {
            2.. if codes_bytes > 0 => self.codes()?,
            _ => (DevicePtr(0), DevicePtr(0)),
        };
        let kernel = self.kernel("linear_gemv", names::gemv(rows.format, at_once))?;
        let grid = [
            rows.rows.div_ceil(PANEL_ROWS as u32),
            self.tokens.div_ceil(at_once),
            1,
        ];
        let config = LaunchConfig::new(grid, [256, 1, 1]);
        let config = if at_once == 1 {
            config.shared(codes_bytes)
        } else {
            config
        };
        let args = [
            rows.out.into(),
            rows.weights.into(),
            codes.into(),
            scales.into(),
            self.x.into(),
            rows.bias.into(),
            rows.rows.into(),
            self.columns.into(),
            self.chunks.into(),
            rows.stride.into(),
            self.tokens.into(),
        ];
        // SAFETY: as in `float_gemv`; the codes are those of all tokens.
        unsafe { self.launch(kernel, config, &args) }
    }

    /// On any tensor cores, with tiles of `tile` tokens.
    pub fn gemm(&mut self, rows: &Rows, tile: u32) -> Result<(), KernelError> {
        let (x, scales) = match rows.format {
            WeightFormat::BF16 => (self.bf16()?, DevicePtr(0)),
            _ => self.f16()?,
        };
        let (warps, tile_rows) = match tile {
            16 => (4, 64),
            64 => (4, 128),
            _ => (8, 256),
        };
        let tiles = (rows.rows.div_ceil(tile_rows))
            .checked_mul(self.tokens.div_ceil(tile))
            .ok_or_else(|| KernelError::ShapeOverflow(vec![rows.rows as usize]))?;
        let (splits, chunks_per_split) = self.splits(tile, tiles);
        let values = self.tokens as usize * rows.rows as usize;
        let partial = match splits {
            1 => None,
            _ => Some(
                self.cuda
                    .allocate(splits as usize * values * size_of::<f32>())?,
            ),
        };
        let (out, bias, stride) = match &partial {
            None => (rows.out, rows.bias, rows.stride),
            Some(partial) => (partial.ptr(), DevicePtr(0), rows.rows),
        };
        let kernel = self.kernel("linear_gemm", names::gemm(rows.format, tile))?;
        let config = LaunchConfig::new([tiles, 1, splits], [32 * warps, 1, 1]).shared(tile * 512);
        let args = [
            out.into(),
            rows.weights.into(),
            x.into(),
            scales.into(),
            bias.into(),
            rows.rows.into(),
            self.tokens.into(),
            self.chunks.into(),
            chunks_per_split.into(),
            (values as u64).into(),
            stride.into(),
        ];
        // SAFETY: as in `float_gemv`; `partial` has room for the values of all splits.
        unsafe { self.launch(kernel, config, &args) }?;
        match partial {
            Some(partial) => self.add_splits(rows, &partial, splits),
            None => Ok(()),
        }
    }

    /// Splits of the columns, and chunks of each, so that every multiprocessor has blocks.
    fn splits(&self, tile: u32, tiles: u32) -> (u32, u32) {
        let blocks_per_multiprocessor = match tile {
            16 => 4,
            64 => 2,
            _ => 1,
        };
        let wanted = self.cuda.info().multiprocessors as u32 * blocks_per_multiprocessor;
        let most = (self.chunks / MIN_CHUNKS_PER_SPLIT).max(1);
        let splits = (wanted / tiles).clamp(1, most);
        let chunks = self.chunks.div_ceil(splits);
        (self.chunks.div_ceil(chunks), chunks)
    }

    fn add_splits(
        &self,
        rows: &Rows,
        partial: &DeviceBuffer,
        splits: u32,
    ) -> Result<(), KernelError> {
        let kernel = self.kernel("linear_gemm", "linear_add_splits")?;
        let config = LaunchConfig::new([self.tokens, rows.rows.div_ceil(256), 1], [256, 1, 1]);
        let args = [
            rows.out.into(),
            partial.ptr().into(),
            rows.bias.into(),
            rows.rows.into(),
            self.tokens.into(),
            splits.into(),
            rows.stride.into(),
        ];
        // SAFETY: as in `gemm`.
        unsafe { self.launch(kernel, config, &args) }
    }
}
