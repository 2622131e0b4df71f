//! The packed form of a weight: panels of 16 rows, so that a vector holds the same columns of many rows.
//!
//! A panel of a quantised format is a sequence of groups, one GGML block (32 or 256 columns) of each of the 16 rows:
//!
//! ```text
//! d[16]: f16 | m[16]: f16, if the format has minima | factors[16] i8 per sub-block | minima[16] u8 per sub-block | payload per 32 columns
//! ```
//!
//! A payload is made of 64-byte chunks of 16 lanes of 4 bytes, lane `r` for row `r`. With `quad g` the columns `4g..4g + 4` of the 32:
//! - bytes: chunk `g` holds quad `g`;
//! - nibbles: chunk `c` holds quad `c` in the low nibbles and quad `c + 4` in the high ones;
//! - crumbs (two bits): chunk `h` holds quad `4h + i` in bits `2i..2i + 2`;
//! - bits: one chunk holds quad `g` in bit `g`.
//!
//! So one load and at most a shift and a mask give the codes of 16 rows as the byte dot product instructions want them, with a broadcast of four
//! activations as the other operand. The values are those of the source; only Q3_K, Q4_K, Q5_K and IQ4_XS grow, by 2 to 4 %, and Q2_K by 19 %,
//! because their 6- and 4-bit scales are stored as bytes. A panel of f32 or f16 holds the 16 values of each
//! column side by side; one of bf16 the 16 pairs of values of each two columns, as instructions that multiply bf16 take them.

use crate::WeightFormat;
use crate::quant::{Block, MAX_BLOCK};

/// Rows of a panel.
pub(super) const PANEL_ROWS: usize = 16;
/// Bytes of a chunk: four per row.
const CHUNK: usize = 4 * PANEL_ROWS;
/// Columns of bf16 that a matrix unit takes at once; panels are filled up with zeros to a multiple.
const BF16_STEP: usize = 32;
/// Columns of a payload, and of a block of quantised activations.
pub(super) const BLOCK_COLS: usize = 32;

/// How the lower bits of a code are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Low {
    Bytes,
    Nibbles,
    Crumbs,
}

/// How the bits above the lower ones are stored; `shift` is their place in the code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum High {
    None,
    Bit { shift: u32 },
    Crumbs { shift: u32 },
}

/// What is added to `scale * (code - zero)`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Minimum {
    None,
    /// `m`, half precision, per group.
    Direct,
    /// `-m * minimum`, with an integer minimum per sub-block.
    Scaled,
}

/// The packed layout of a quantised format, in numbers.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Columns of a group.
    pub cols: usize,
    /// Columns that share a scale, 16 or 32.
    pub sub_block: usize,
    pub low: Low,
    pub high: High,
    /// Whether a code is an index into the table of the IQ4 formats.
    pub table: bool,
    /// Binary logarithm of the code of zero.
    pub zero_log2: Option<u32>,
    /// Whether there is an integer factor per sub-block.
    pub factors: bool,
    pub minimum: Minimum,
}

impl Layout {
    /// The layout of `format`; a float format has none, and its answer is not to be used.
    pub const fn of(format: WeightFormat) -> Self {
        use WeightFormat as F;
        let plain = Self::plain(format.block_len());
        let k_quant = Self {
            factors: true,
            minimum: Minimum::Scaled,
            ..plain
        };
        match format {
            F::Q4_0 | F::Int4 => Self {
                zero_log2: Some(3),
                ..plain
            },
            F::Q4_1 => Self {
                minimum: Minimum::Direct,
                ..plain
            },
            F::Q5_0 => Self {
                high: High::Bit { shift: 4 },
                zero_log2: Some(4),
                ..plain
            },
            F::Q5_1 => Self {
                high: High::Bit { shift: 4 },
                minimum: Minimum::Direct,
                ..plain
            },
            F::Q8_0 | F::F32 | F::F16 | F::BF16 => Self {
                low: Low::Bytes,
                zero_log2: Some(7),
                ..plain
            },
            F::Fp8 => Self {
                low: Low::Bytes,
                ..plain
            },
            F::Iq4Nl => Self {
                table: true,
                zero_log2: Some(7),
                ..plain
            },
            F::Q2K => Self {
                low: Low::Crumbs,
                sub_block: 16,
                ..k_quant
            },
            F::Q3K => Self {
                low: Low::Crumbs,
                high: High::Bit { shift: 2 },
                sub_block: 16,
                zero_log2: Some(2),
                minimum: Minimum::None,
                ..k_quant
            },
            F::Q4K => k_quant,
            F::Q5K => Self {
                high: High::Bit { shift: 4 },
                ..k_quant
            },
            F::Q6K => Self {
                high: High::Crumbs { shift: 4 },
                sub_block: 16,
                zero_log2: Some(5),
                minimum: Minimum::None,
                ..k_quant
            },
            F::Iq4Xs => Self {
                table: true,
                zero_log2: Some(7),
                minimum: Minimum::None,
                ..k_quant
            },
        }
    }

    /// Codes of four bits, and a scale for each group of `cols` columns.
    const fn plain(cols: usize) -> Self {
        Self {
            cols,
            sub_block: 32,
            low: Low::Nibbles,
            high: High::None,
            table: false,
            zero_log2: None,
            factors: false,
            minimum: Minimum::None,
        }
    }

    /// Integer factors of 32 columns.
    pub const fn factors_per_unit(&self) -> usize {
        if self.factors {
            BLOCK_COLS / self.sub_block
        } else {
            0
        }
    }

    /// Sub-blocks of a group.
    const fn sub_blocks(&self) -> usize {
        self.cols / self.sub_block
    }

    /// Payloads of a group.
    pub const fn payloads(&self) -> usize {
        self.cols / BLOCK_COLS
    }

    /// Where the half precision minima start.
    pub const fn m_at(&self) -> usize {
        2 * PANEL_ROWS
    }

    /// Where the integer factors start, 16 bytes per sub-block.
    pub const fn factors_at(&self) -> usize {
        self.m_at()
            + if matches!(self.minimum, Minimum::None) {
                0
            } else {
                2 * PANEL_ROWS
            }
    }

    /// Where the integer minima start, 16 bytes per sub-block.
    pub const fn minima_at(&self) -> usize {
        self.factors_at()
            + if self.factors {
                PANEL_ROWS * self.sub_blocks()
            } else {
                0
            }
    }

    /// Where the payloads start.
    pub const fn payload_at(&self) -> usize {
        self.minima_at()
            + if matches!(self.minimum, Minimum::Scaled) {
                PANEL_ROWS * self.sub_blocks()
            } else {
                0
            }
    }

    /// Where the upper bits start in a payload.
    pub const fn high_at(&self) -> usize {
        match self.low {
            Low::Bytes => 8 * CHUNK,
            Low::Nibbles => 4 * CHUNK,
            Low::Crumbs => 2 * CHUNK,
        }
    }

    /// Bytes of a payload.
    pub const fn payload_bytes(&self) -> usize {
        self.high_at()
            + match self.high {
                High::None => 0,
                High::Bit { .. } => CHUNK,
                High::Crumbs { .. } => 2 * CHUNK,
            }
    }

    /// Bytes of a group.
    pub const fn group_bytes(&self) -> usize {
        self.payload_at() + self.payloads() * self.payload_bytes()
    }
}

/// Bytes of a packed panel of `cols` columns, which are whole blocks; `None` if `usize` cannot count them.
pub(super) fn panel_bytes(format: WeightFormat, cols: usize) -> Option<usize> {
    if format.is_quantized() {
        let layout = Layout::of(format);
        (cols / layout.cols).checked_mul(layout.group_bytes())
    } else {
        // Columns of bf16 lie in pairs, and in steps of a matrix unit.
        let cols = match format {
            WeightFormat::BF16 => cols.checked_next_multiple_of(BF16_STEP)?,
            _ => cols,
        };
        cols.checked_mul(PANEL_ROWS * format.block_bytes())
    }
}

/// Packs up to 16 rows in GGML's layout, `row_bytes` each, into one panel. Rows that are missing become zeros.
pub(super) fn pack_panel(format: WeightFormat, rows: &[u8], row_bytes: usize, panel: &mut [u8]) {
    match format {
        WeightFormat::F32 => interleave::<4>(rows, row_bytes, panel),
        WeightFormat::F16 => interleave::<2>(rows, row_bytes, panel),
        WeightFormat::BF16 => interleave::<4>(rows, row_bytes, panel), // pairs of columns
        _ => {
            let layout = Layout::of(format);
            let zeros = Block {
                codes: [0; MAX_BLOCK],
                d: 0,
                m: 0,
                factors: [0; 16],
                minima: [0; 16],
            };
            let mut block = Block::default();
            let bytes = format.block_bytes();
            for (index, group) in panel.chunks_exact_mut(layout.group_bytes()).enumerate() {
                for r in 0..PANEL_ROWS {
                    match rows
                        .get(r * row_bytes + index * bytes..)
                        .and_then(|rest| rest.get(..bytes))
                    {
                        Some(source) => {
                            block.read(format, source);
                            pack_block(&layout, &block, r, group);
                        }
                        None => pack_block(&layout, &zeros, r, group),
                    }
                }
            }
        }
    }
}

/// Reads row `r` of a panel back as f32; the values are those that [`dequantize`](crate::quant::dequantize) gives for the source.
pub(super) fn read_row(format: WeightFormat, panel: &[u8], r: usize, out: &mut [f32]) {
    match format {
        WeightFormat::F32 => deinterleave::<4>(panel, r, out, f32::from_le_bytes),
        WeightFormat::F16 => {
            deinterleave::<2>(panel, r, out, |b| half::f16::from_le_bytes(b).to_f32())
        }
        WeightFormat::BF16 => {
            let pairs = panel.as_chunks::<4>().0.iter().skip(r).step_by(PANEL_ROWS);
            let values = pairs.flat_map(|[a, b, c, d]| [[*a, *b], [*c, *d]]);
            out.iter_mut()
                .zip(values)
                .for_each(|(out, value)| *out = half::bf16::from_le_bytes(value).to_f32());
        }
        _ => {
            let layout = Layout::of(format);
            let mut block = Block::default();
            for (group, out) in panel
                .chunks_exact(layout.group_bytes())
                .zip(out.chunks_exact_mut(layout.cols))
            {
                unpack_block(&layout, group, r, &mut block);
                block.values(format, out);
            }
        }
    }
}

/// Row-major to column-major, in tiles of columns that stay in the nearest cache.
fn interleave<const N: usize>(rows: &[u8], row_bytes: usize, panel: &mut [u8]) {
    const TILE: usize = 64;
    let (panel, _) = panel.as_chunks_mut::<N>();
    for (tile, panel) in panel.chunks_mut(TILE * PANEL_ROWS).enumerate() {
        for r in 0..PANEL_ROWS {
            let row = rows
                .get(r * row_bytes..)
                .and_then(|rest| rest.get(..row_bytes))
                .unwrap_or(&[]);
            let (whole, rest) = row.as_chunks::<N>();
            let mut last = [0; N];
            last[..rest.len()].copy_from_slice(rest);
            let source = whole
                .iter()
                .copied()
                .chain(std::iter::once(last))
                .skip(tile * TILE)
                .chain(std::iter::repeat([0; N]));
            panel
                .iter_mut()
                .skip(r)
                .step_by(PANEL_ROWS)
                .zip(source)
                .for_each(|(out, value)| *out = value);
        }
    }
}

fn deinterleave<const N: usize>(
    panel: &[u8],
    r: usize,
    out: &mut [f32],
    read: impl Fn([u8; N]) -> f32,
) {
    let (panel, _) = panel.as_chunks::<N>();
    out.iter_mut()
        .zip(panel.iter().skip(r).step_by(PANEL_ROWS))
        .for_each(|(out, value)| *out = read(*value));
}

fn pack_block(layout: &Layout, block: &Block, r: usize, group: &mut [u8]) {
    group[2 * r..][..2].copy_from_slice(&block.d.to_le_bytes());
    if layout.minimum != Minimum::None {
        group[layout.m_at() + 2 * r..][..2].copy_from_slice(&block.m.to_le_bytes());
    }
    for j in 0..layout.sub_blocks() {
        if layout.factors {
            group[layout.factors_at() + PANEL_ROWS * j + r] = block.factors[j] as u8;
        }
        if layout.minimum == Minimum::Scaled {
            group[layout.minima_at() + PANEL_ROWS * j + r] = block.minima[j];
        }
    }
    let payloads = group[layout.payload_at()..].chunks_exact_mut(layout.payload_bytes());
    for (payload, codes) in payloads.zip(block.codes.as_chunks::<BLOCK_COLS>().0) {
        let (low, high) = payload.split_at_mut(layout.high_at());
        match layout.low {
            Low::Bytes => lanes_mut(low, r)
                .zip(codes.as_chunks().0)
                .for_each(|(lane, quad)| *lane = *quad),
            Low::Nibbles => put_nibbles(low, r, codes),
            Low::Crumbs => put_crumbs(low, r, codes, 0),
        }
        match layout.high {
            High::None => {}
            High::Bit { shift } => put_bits(high, r, codes, shift),
            High::Crumbs { shift } => put_crumbs(high, r, codes, shift),
        }
    }
}

/// The four bytes of row `r` in each chunk.
fn lanes_mut(chunks: &mut [u8], r: usize) -> impl Iterator<Item = &mut [u8; 4]> {
    chunks
        .as_chunks_mut::<4>()
        .0
        .iter_mut()
        .skip(r)
        .step_by(PANEL_ROWS)
}

/// As [`lanes_mut`], to read.
fn lanes(chunks: &[u8], r: usize) -> impl Iterator<Item = &[u8; 4]> {
    chunks.as_chunks::<4>().0.iter().skip(r).step_by(PANEL_ROWS)
}

fn put_nibbles(chunks: &mut [u8], r: usize, codes: &[u8; BLOCK_COLS]) {
    for (c, lane) in lanes_mut(chunks, r).enumerate() {
        *lane = std::array::from_fn(|j| (codes[4 * c + j] & 15) | (codes[4 * c + 16 + j] << 4));
    }
}

fn put_crumbs(chunks: &mut [u8], r: usize, codes: &[u8; BLOCK_COLS], shift: u32) {
    for (h, lane) in lanes_mut(chunks, r).enumerate() {
        let crumb = |i: usize, j: usize| ((codes[16 * h + 4 * i + j] >> shift) & 3) << (2 * i);
        *lane = std::array::from_fn(|j| crumb(0, j) | crumb(1, j) | crumb(2, j) | crumb(3, j));
    }
}

fn put_bits(chunk: &mut [u8], r: usize, codes: &[u8; BLOCK_COLS], shift: u32) {
    for lane in lanes_mut(chunk, r) {
        *lane = std::array::from_fn(|j| {
            (0..8).fold(0, |byte, g| byte | (((codes[4 * g + j] >> shift) & 1) << g))
        });
    }
}

fn unpack_block(layout: &Layout, group: &[u8], r: usize, block: &mut Block) {
    block.d = u16::from_le_bytes([group[2 * r], group[2 * r + 1]]);
    if layout.minimum != Minimum::None {
        let at = layout.m_at() + 2 * r;
        block.m = u16::from_le_bytes([group[at], group[at + 1]]);
    }
    for j in 0..layout.sub_blocks() {
        if layout.factors {
            block.factors[j] = group[layout.factors_at() + PANEL_ROWS * j + r] as i8;
        }
        if layout.minimum == Minimum::Scaled {
            block.minima[j] = group[layout.minima_at() + PANEL_ROWS * j + r];
        }
    }
    let payloads = group[layout.payload_at()..].chunks_exact(layout.payload_bytes());
    for (payload, codes) in payloads.zip(block.codes.as_chunks_mut::<BLOCK_COLS>().0) {
        let (low, high) = payload.split_at(layout.high_at());
        match layout.low {
            Low::Bytes => lanes(low, r)
                .zip(codes.as_chunks_mut().0)
                .for_each(|(lane, quad)| *quad = *lane),
            Low::Nibbles => {
                for (c, lane) in lanes(low, r).enumerate() {
                    for j in 0..4 {
                        (codes[4 * c + j], codes[4 * c + 16 + j]) = (lane[j] & 15, lane[j] >> 4);
                    }
                }
            }
            Low::Crumbs => {
                codes.fill(0);
                or_crumbs(low, r, codes, 0);
            }
        }
        match layout.high {
            High::None => {}
            High::Bit { shift } => or_bits(high, r, codes, shift),
            High::Crumbs { shift } => or_crumbs(high, r, codes, shift),
        }
    }
}

fn or_crumbs(chunks: &[u8], r: usize, codes: &mut [u8; BLOCK_COLS], shift: u32) {
    for (h, lane) in lanes(chunks, r).enumerate() {
        for (i, quad) in codes[16 * h..][..16].chunks_exact_mut(4).enumerate() {
            quad.iter_mut()
                .zip(lane)
                .for_each(|(code, byte)| *code |= ((byte >> (2 * i)) & 3) << shift);
        }
    }
}

fn or_bits(chunk: &[u8], r: usize, codes: &mut [u8; BLOCK_COLS], shift: u32) {
    for lane in lanes(chunk, r) {
        for (g, quad) in codes.chunks_exact_mut(4).enumerate() {
            quad.iter_mut()
                .zip(lane)
                .for_each(|(code, byte)| *code |= ((byte >> g) & 1) << shift);
        }
    }
}
