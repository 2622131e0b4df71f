//! How weights lie in device memory; `formats.cu` says what for, and reads what is written here.
//!
//! Floats are row-major, rows filled up with zeros to a multiple of [`CHUNK`] columns. Block formats are panels of [`PANEL_ROWS`] rows of planes.
//! Nothing is rounded; scales and minima of K-quants, packed into six bits by GGML, take a byte each, and Q2_K's four bits likewise: 3 % more for Q4_K
//! and Q5_K, 19 % for Q2_K.

use crate::WeightFormat;
use crate::linear::layout::{High, Layout, Low, Minimum, PANEL_ROWS};
use crate::quant::Block;

/// Columns that a kernel takes at once.
pub(super) const CHUNK: usize = 64;
/// Columns of a unit: the longest run that has no two scales but those of two sub-blocks.
const UNIT: usize = 32;
/// Panels begin at multiples of this, what a warp reads of four-byte words.
const ALIGNMENT: usize = 128;

/// Columns that rows take in memory; `None` if `usize` cannot count them.
pub(in crate::linear) fn padded(columns: usize) -> Option<usize> {
    columns.checked_next_multiple_of(CHUNK)
}

/// Bytes of a panel of 16 rows.
pub(in crate::linear) fn panel_bytes(format: WeightFormat, columns: usize) -> Option<usize> {
    let padded = padded(columns)?;
    if !format.is_quantized() {
        return padded.checked_mul(PANEL_ROWS * format.block_bytes());
    }
    let planes = Planes::of(format, padded / CHUNK)?;
    Some(planes.end)
}

/// Packs up to 16 rows in GGML's layout, `row_bytes` each, into one panel. Rows that are missing become zeros.
pub(in crate::linear) fn pack_panel(
    format: WeightFormat,
    rows: &[u8],
    row_bytes: usize,
    panel: &mut [u8],
) {
    if panel.is_empty() {
        return; // rows without a value, which `finish` refuses
    }
    panel.fill(0);
    if !format.is_quantized() {
        let stride = panel.len() / PANEL_ROWS;
        for (row, out) in rows.chunks(row_bytes).zip(panel.chunks_mut(stride)) {
            out[..row_bytes].copy_from_slice(row);
        }
        return;
    }
    let columns = row_bytes / format.block_bytes() * format.block_len();
    let Some(planes) = Planes::of(format, columns.div_ceil(CHUNK)) else {
        unreachable!("the panel has been allocated")
    };
    let mut block = Block::default();
    for (r, row) in rows.chunks(row_bytes).enumerate() {
        for (index, bytes) in row.chunks(format.block_bytes()).enumerate() {
            block.read(format, bytes);
            planes.put(&block, r, index, panel);
        }
    }
}

/// Where the planes of a panel begin, and what they consist of.
struct Planes {
    layout: Layout,
    high: usize,
    factors: usize,
    scales: usize,
    end: usize,
}

impl Planes {
    /// `None` if `usize` cannot count their bytes.
    fn of(format: WeightFormat, chunks: usize) -> Option<Self> {
        let layout = Layout::of(format);
        let plane = |bytes_per_chunk: usize| chunks.checked_mul(bytes_per_chunk);
        let high = plane(16 * low_bits(&layout) * 8)?;
        let factors = high.checked_add(plane(16 * high_bits(&layout) * 8)?)?;
        let scales = factors.checked_add(plane(PANEL_ROWS * 2 * record_bytes(&layout))?)?;
        let groups = (chunks * CHUNK).div_ceil(layout.cols);
        let end = groups.checked_mul(PANEL_ROWS * scale_bytes(&layout))?;
        let end = scales.checked_add(end)?;
        Some(Self {
            layout,
            high,
            factors,
            scales,
            end: end.checked_next_multiple_of(ALIGNMENT)?,
        })
    }

    /// Writes block `index` of row `r`.
    fn put(&self, block: &Block, r: usize, index: usize, panel: &mut [u8]) {
        let layout = &self.layout;
        let (half, g) = (r / 8, r % 8);
        for (unit, codes) in block.codes[..layout.cols].chunks(UNIT).enumerate() {
            let unit = index * layout.cols / UNIT + unit;
            for (t, eight) in codes.as_chunks().0.iter().enumerate() {
                self.put_codes(eight, unit, half, 4 * g + t, panel);
            }
        }
        let per_unit = layout.factors_per_unit();
        let record = record_bytes(layout);
        for unit in 0..layout.cols / UNIT {
            let place = index * layout.cols / UNIT + unit;
            let at =
                self.factors + (place / 2 * PANEL_ROWS * 2 + 4 * g + 2 * half + place % 2) * record;
            for j in 0..per_unit {
                panel[at + j] = block.factors[unit * per_unit + j] as u8;
                if layout.minimum == Minimum::Scaled {
                    panel[at + per_unit + j] = block.minima[unit * per_unit + j];
                }
            }
        }
        let place = match layout.cols {
            UNIT => index / 2 * PANEL_ROWS * 2 + 4 * g + 2 * half + index % 2,
            _ => index * PANEL_ROWS + 2 * g + half,
        };
        let at = self.scales + place * scale_bytes(layout);
        panel[at..at + 2].copy_from_slice(&block.d.to_le_bytes());
        if layout.minimum != Minimum::None {
            panel[at + 2..at + 4].copy_from_slice(&block.m.to_le_bytes());
        }
    }

    /// Writes the codes of eight columns of a unit, those of `lane`.
    fn put_codes(&self, codes: &[u8; 8], unit: usize, half: usize, lane: usize, panel: &mut [u8]) {
        let [c0, c1, c2, c3, c4, c5, c6, c7] = *codes;
        let byte_form = [c0, c4, c1, c5, c2, c6, c3, c7];
        let (chunk, four) = (unit / 2, 2 * half + unit % 2); // which of a lane's (half, unit)
        let low = chunk * (16 * low_bits(&self.layout) * 8);
        match self.layout.low {
            Low::Bytes => {
                let at = low + half * 512 + lane * 16 + unit % 2 * 8;
                panel[at..at + 8].copy_from_slice(&byte_form);
            }
            Low::Nibbles => {
                let at = low + lane * 16 + four * 4;
                for k in 0..4 {
                    panel[at + k] = (byte_form[k] & 15) | (byte_form[k + 4] << 4);
                }
            }
            Low::Crumbs => put_crumbs(codes, 0, &mut panel[low + lane * 8 + four * 2..]),
        }
        let high = self.high + chunk * (16 * high_bits(&self.layout) * 8);
        match self.layout.high {
            High::None => {}
            High::Bit { shift } => {
                panel[high + lane * 4 + four] =
                    (0..8).fold(0, |byte, i| byte | (((byte_form[i] >> shift) & 1) << i));
            }
            High::Crumbs { shift } => {
                put_crumbs(codes, shift, &mut panel[high + lane * 8 + four * 2..]);
            }
        }
    }
}

/// Two bits of each of eight codes, from bit `shift` on.
fn put_crumbs(codes: &[u8; 8], shift: u32, out: &mut [u8]) {
    let crumbs = (codes.iter().enumerate()).fold(0u16, |word, (i, code)| {
        word | (u16::from((code >> shift) & 3) << (2 * i))
    });
    out[..2].copy_from_slice(&crumbs.to_le_bytes());
}

fn low_bits(layout: &Layout) -> usize {
    match layout.low {
        Low::Bytes => 8,
        Low::Nibbles => 4,
        Low::Crumbs => 2,
    }
}

fn high_bits(layout: &Layout) -> usize {
    match layout.high {
        High::None => 0,
        High::Bit { .. } => 1,
        High::Crumbs { .. } => 2,
    }
}

/// Bytes of the integer scales and minima of a unit.
fn record_bytes(layout: &Layout) -> usize {
    match layout.minimum {
        Minimum::Scaled => 2 * layout.factors_per_unit(),
        _ => layout.factors_per_unit(),
    }
}

/// Bytes of the scale of a group, and of its minimum.
fn scale_bytes(layout: &Layout) -> usize {
    match layout.minimum {
        Minimum::None => 2,
        _ => 4,
    }
}
