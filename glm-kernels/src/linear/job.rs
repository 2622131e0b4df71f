//! What a kernel is asked to compute, and where its results go.

use super::activations::QuantizedRows;
#[cfg(target_arch = "x86_64")]
use super::bf16_rows::Bf16Rows;
use super::layout::{PANEL_ROWS, panel_bytes};
use super::weight::Segment;
use crate::WeightFormat;
use crate::parallel::SharedMut;

/// The activations of a product, `[T, cols]`, in the forms that the formats of the weight take.
pub(super) struct Activations<'a> {
    pub values: &'a [f32],
    pub tokens: usize,
    pub cols: usize,
    /// For quantised formats.
    pub codes: Option<QuantizedRows>,
    /// For bf16 on a matrix unit.
    #[cfg(target_arch = "x86_64")]
    pub bf16: Option<Bf16Rows>,
}

/// The product of activations with a segment of a weight.
pub(super) struct Job<'a> {
    pub format: WeightFormat,
    pub x: &'a Activations<'a>,
    panels: &'a [u8],
    panel_bytes: usize,
    rows: usize,
    out: Output<'a>,
}

/// The `[T, stride]` result, of which a segment writes columns from `start` on.
pub(super) struct Output<'a> {
    pub values: &'a SharedMut<'a, f32>,
    pub stride: usize,
    pub start: usize,
    pub bias: Option<&'a [f32]>,
}

impl<'a> Job<'a> {
    /// The product of `x` with `segment`.
    ///
    /// # Panics
    /// If the sizes do not fit, or codes are missing for a quantised format: `linear` checks its arguments before.
    pub fn new(segment: &'a Segment, x: &'a Activations<'a>, out: Output<'a>) -> Self {
        let (format, rows) = (segment.format, segment.rows.len());
        assert!(x.codes.is_some() || !format.is_quantized());
        assert_eq!(
            segment.bytes().len(),
            segment.panels() * segment.panel_bytes
        );
        assert_eq!(Some(segment.panel_bytes), panel_bytes(format, x.cols));
        assert!(
            x.values.len() == x.tokens * x.cols
                && out.bias.is_none_or(|bias| bias.len() == out.stride)
                && out.start + rows <= out.stride
        );
        Self {
            format,
            x,
            panels: segment.bytes(),
            panel_bytes: segment.panel_bytes,
            rows,
            out,
        }
    }

    /// Panel `index`.
    pub fn panel(&self, index: usize) -> &'a [u8] {
        &self.panels[index * self.panel_bytes..][..self.panel_bytes]
    }

    /// Where the result of token `t` and the first row of a panel goes; perhaps beyond the end, if the panel is.
    #[inline(always)]
    pub fn result(&self, t: usize, panel: usize) -> *const f32 {
        self.out
            .values
            .address(t * self.out.stride + self.out.start + panel * PANEL_ROWS)
    }

    /// Writes the sums of row `first_row` and the following for token `t`; rows beyond the segment are padding.
    #[inline(always)]
    pub fn store(&self, t: usize, first_row: usize, sums: &[f32]) {
        let len = sums.len().min(self.rows.saturating_sub(first_row));
        let column = self.out.start + first_row;
        if len == 0 {
            return;
        }
        // SAFETY: a token and a row are computed by one task, so no other has this part of the result.
        let out = unsafe { self.out.values.slice(t * self.out.stride + column, len) };
        match (self.out.bias, sums.first_chunk::<PANEL_ROWS>()) {
            // A whole panel is a few vectors, not a call to copy memory.
            (None, Some(sums)) if len == PANEL_ROWS => out.as_chunks_mut().0[0] = *sums,
            (None, _) => out.copy_from_slice(&sums[..len]),
            (Some(bias), _) => out
                .iter_mut()
                .zip(sums)
                .zip(&bias[column..])
                .for_each(|((out, sum), bias)| *out = sum + bias),
        }
    }

    /// Writes the sums of a panel's rows.
    #[inline(always)]
    pub fn store_panel(&self, t: usize, panel: usize, sums: &[f32; PANEL_ROWS]) {
        self.store(t, panel * PANEL_ROWS, sums);
    }
}
