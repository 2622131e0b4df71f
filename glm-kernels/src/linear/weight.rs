//! A weight matrix, packed for the vector units at the moment it is built.

use std::ops::Range;

use super::cuda;
use super::layout::{self, PANEL_ROWS, read_row};
use crate::cuda::DeviceBuffer;
use crate::parallel::SharedMut;
use crate::{Buffer, Device, Indices, KernelError, WeightFormat, quant};

/// The weight of a linear layer, `[out_features, in_features]`, on a device.
///
/// It consists of segments of rows, each in its own [`WeightFormat`], so that a fused `qkv` may mix formats. The values are exactly those of the
/// source; their order in memory is the kernels' own.
#[derive(Debug)]
pub struct Weight {
    device: Device,
    in_features: usize,
    out_features: usize,
    segments: Vec<Segment>,
}

/// Rows of one format.
#[derive(Debug)]
pub(super) struct Segment {
    pub format: WeightFormat,
    /// The rows of the weight that it holds.
    pub rows: Range<usize>,
    /// Bytes of each panel of 16 rows; the last panel is filled up with zeros.
    pub panel_bytes: usize,
    packed: Packed,
}

/// The panels, in the order of the kernels of the one or the other.
#[derive(Debug)]
enum Packed {
    Host(Buffer),
    Cuda(DeviceBuffer),
}

impl Segment {
    /// The number of panels.
    pub fn panels(&self) -> usize {
        self.rows.len().div_ceil(PANEL_ROWS)
    }

    /// The packed panels, one after the other, in the host's memory.
    ///
    /// # Panics
    /// If they are on another device: [`linear`](super::linear()) asks where a weight is before anything else.
    pub fn bytes(&self) -> &[u8] {
        match &self.packed {
            Packed::Host(buffer) => buffer.as_bytes(),
            Packed::Cuda(_) => unreachable!("kernels of the CPU get weights of the CPU"),
        }
    }

    /// The packed panels on a graphics processor.
    ///
    /// # Panics
    /// If they are not on one, as in [`bytes`](Self::bytes).
    pub fn cuda(&self) -> &DeviceBuffer {
        match &self.packed {
            Packed::Cuda(buffer) => buffer,
            Packed::Host(_) => unreachable!("kernels of a device get weights of the device"),
        }
    }

    fn byte_len(&self) -> usize {
        self.panels() * self.panel_bytes
    }
}

impl Weight {
    /// Where the weight lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The length of an output row.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// The length of an input row.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// The format of each run of rows, in order of the rows.
    pub fn segments(&self) -> impl Iterator<Item = (WeightFormat, Range<usize>)> + '_ {
        self.segments
            .iter()
            .map(|segment| (segment.format, segment.rows.clone()))
    }

    /// The formats that occur, each once, in order of their first row.
    pub fn formats(&self) -> Vec<WeightFormat> {
        let mut formats = Vec::new();
        for segment in &self.segments {
            if !formats.contains(&segment.format) {
                formats.push(segment.format);
            }
        }
        formats
    }

    /// Bytes of the host's memory that `rows` rows of `columns` values take when packed in `format`: [`Weight::byte_len`] before there is a weight.
    /// `None` if a row is not whole blocks or `usize` cannot count them.
    ///
    /// ```
    /// use glm_kernels::{Weight, WeightFormat};
    /// let bytes = Weight::packed_bytes(WeightFormat::Q8_0, 32, 64);
    /// assert_eq!(bytes, Some(32 * 2 * 34)); // two blocks in a row
    /// ```
    pub fn packed_bytes(format: WeightFormat, rows: usize, columns: usize) -> Option<usize> {
        format.row_bytes(columns)?;
        rows.div_ceil(PANEL_ROWS)
            .checked_mul(layout::panel_bytes(format, columns)?)
    }

    /// As [`packed_bytes`](Self::packed_bytes), of the memory of `device`, whose kernels may want another order.
    pub fn packed_bytes_on(
        device: &Device,
        format: WeightFormat,
        rows: usize,
        columns: usize,
    ) -> Option<usize> {
        format.row_bytes(columns)?;
        rows.div_ceil(PANEL_ROWS)
            .checked_mul(panel_bytes(device, format, columns)?)
    }

    /// Bytes of memory that the packed values take: what a matrix-vector product reads.
    pub fn byte_len(&self) -> usize {
        self.segments.iter().map(Segment::byte_len).sum()
    }

    /// Writes row `row` as f32, for instance the embedding of a token where the table is also the output layer. From a graphics processor it is copied,
    /// for which this waits.
    ///
    /// # Errors
    /// [`KernelError::Index`] if there is no such row, [`KernelError::Length`] unless `out` has `in_features` elements; the device's own.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) -> Result<(), KernelError> {
        const OP: &str = "Weight::dequantize_row";
        let missing = KernelError::Index {
            op: OP,
            name: "row",
            index: row,
            len: self.out_features,
        };
        let segment = self
            .segments
            .iter()
            .find(|segment| segment.rows.contains(&row))
            .ok_or(missing)?;
        if out.len() != self.in_features {
            return Err(KernelError::Length {
                op: OP,
                name: "out",
                expected: self.in_features,
                found: out.len(),
            });
        }
        if let Some(cuda) = self.device.as_cuda() {
            let row = u32::try_from(row).map_err(|_| KernelError::ShapeOverflow(vec![row]))?;
            let values = cuda::rows(cuda, self, &Indices::from([row]))?.to_f32_vec()?;
            out.copy_from_slice(&values);
            return Ok(());
        }
        let row = row - segment.rows.start;
        let panel =
            &segment.bytes()[row / PANEL_ROWS * segment.panel_bytes..][..segment.panel_bytes];
        read_row(segment.format, panel, row % PANEL_ROWS, out);
        Ok(())
    }

    pub(super) fn row_segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// Bytes of a source that are packed before the caller hears that they were used.
const USED_BYTES: usize = 16 << 20;

/// Builds a [`Weight`] from runs of rows, in order. Each run is packed as it comes, panel by panel, on all threads of the device, so no more than the
/// source and the result are in memory.
///
/// ```
/// use glm_kernels::{Device, Tensor, WeightBuilder, WeightFormat, linear};
///
/// let device = Device::cpu(Default::default())?;
/// let mut builder = WeightBuilder::new(&device, 32);
/// builder.push_rows_quantized(WeightFormat::Q8_0, 2, &[1.0; 64])?;
/// let weight = builder.finish()?;
/// let y = linear(&Tensor::from_f32(&device, &[0.5; 32], &[1, 32])?, &weight, None)?;
/// assert_eq!(y.shape(), [1, 2]);
/// assert!((y.as_f32()?[1] - 16.0).abs() < 0.01);
/// # Ok::<(), glm_kernels::KernelError>(())
/// ```
#[derive(Debug)]
pub struct WeightBuilder {
    device: Device,
    in_features: usize,
    segments: Vec<Segment>,
}

impl WeightBuilder {
    /// A weight with rows of `in_features` values and as yet no row.
    pub fn new(device: &Device, in_features: usize) -> Self {
        Self {
            device: device.clone(),
            in_features,
            segments: Vec::new(),
        }
    }

    /// Adds `rows` rows that are stored in `format`, in GGML's on-disk layout.
    ///
    /// # Errors
    /// [`KernelError::PartialBlock`] if a row is not whole blocks, [`KernelError::Length`] unless `bytes` holds just these rows,
    /// [`KernelError::OnlyOnCuda`], [`KernelError::OutOfMemory`], the device's own.
    pub fn push_rows(
        &mut self,
        format: WeightFormat,
        rows: usize,
        bytes: &[u8],
    ) -> Result<&mut Self, KernelError> {
        self.push_stored(
            "WeightBuilder::push_rows",
            (format, format),
            rows,
            bytes,
            |_| (),
        )
    }

    /// Adds `rows` rows given as f32, row-major, rounded to `format`.
    ///
    /// # Errors
    /// [`KernelError::CannotQuantize`] if there is no quantiser for `format`; otherwise as [`push_rows`](Self::push_rows).
    pub fn push_rows_quantized(
        &mut self,
        format: WeightFormat,
        rows: usize,
        values: &[f32],
    ) -> Result<&mut Self, KernelError> {
        const OP: &str = "WeightBuilder::push_rows_quantized";
        let expected = rows
            .checked_mul(self.in_features)
            .ok_or_else(|| KernelError::ShapeOverflow(vec![rows, self.in_features]))?;
        if values.len() != expected {
            return Err(KernelError::Length {
                op: OP,
                name: "values",
                expected,
                found: values.len(),
            });
        }
        let cols = self.in_features;
        let read = |row, out: &mut [f32]| {
            out.copy_from_slice(&values[row * cols..][..cols]);
            Ok(())
        };
        self.push_rounded(format, rows, rows, read, |_| ())
    }

    /// Adds `rows` rows that are stored in `source`, rounded to `format`; rows of the same format are taken as they are. No f32 copy of the matrix
    /// is made.
    ///
    /// # Errors
    /// As [`push_rows`](Self::push_rows) and [`push_rows_quantized`](Self::push_rows_quantized).
    pub fn push_rows_requantized(
        &mut self,
        format: WeightFormat,
        rows: usize,
        source: WeightFormat,
        bytes: &[u8],
    ) -> Result<&mut Self, KernelError> {
        const OP: &str = "WeightBuilder::push_rows_requantized";
        self.push_stored(OP, (format, source), rows, bytes, |_| ())
    }

    /// As [`push_rows_requantized`](Self::push_rows_requantized), and calls `used` with one part of `bytes` after the other when it has been packed:
    /// the caller may then let go of what it was mapped or read from, so that not even one matrix is in memory twice.
    ///
    /// # Errors
    /// As [`push_rows_requantized`](Self::push_rows_requantized).
    pub fn push_rows_once(
        &mut self,
        format: WeightFormat,
        rows: usize,
        source: WeightFormat,
        bytes: &[u8],
        used: impl FnMut(&[u8]),
    ) -> Result<&mut Self, KernelError> {
        const OP: &str = "WeightBuilder::push_rows_once";
        self.push_stored(OP, (format, source), rows, bytes, used)
    }

    /// The weight.
    ///
    /// # Errors
    /// [`KernelError::Value`] if it has no rows, or rows without a value.
    pub fn finish(self) -> Result<Weight, KernelError> {
        let out_features = self.rows();
        for (name, found) in [
            ("out_features", out_features),
            ("in_features", self.in_features),
        ] {
            if found == 0 {
                return Err(KernelError::Value {
                    op: "WeightBuilder::finish",
                    name,
                    found,
                    rule: "at least 1",
                });
            }
        }
        if let Some(cuda) = self.device.as_cuda() {
            cuda::prepare(cuda); // now, and not in the middle of a step
        }
        Ok(Weight {
            device: self.device,
            in_features: self.in_features,
            out_features,
            segments: self.segments,
        })
    }

    fn rows(&self) -> usize {
        self.segments.last().map_or(0, |segment| segment.rows.end)
    }

    fn row_bytes(&self, format: WeightFormat) -> Result<usize, KernelError> {
        let partial = KernelError::PartialBlock {
            format,
            columns: self.in_features,
            block_len: format.block_len(),
        };
        format.row_bytes(self.in_features).ok_or(partial)
    }

    /// Bytes of a row, if `found` bytes are `rows` rows.
    fn check_rows(
        &self,
        op: &'static str,
        format: WeightFormat,
        rows: usize,
        found: usize,
    ) -> Result<usize, KernelError> {
        let row_bytes = self.row_bytes(format)?;
        let expected = row_bytes
            .checked_mul(rows)
            .ok_or_else(|| KernelError::ShapeOverflow(vec![rows, self.in_features]))?;
        if found != expected {
            return Err(KernelError::Length {
                op,
                name: "bytes",
                expected,
                found,
            });
        }
        Ok(row_bytes)
    }

    /// Adds rows that are stored in the format `source`, in `format`.
    fn push_stored(
        &mut self,
        op: &'static str,
        (format, source): (WeightFormat, WeightFormat),
        rows: usize,
        bytes: &[u8],
        mut used: impl FnMut(&[u8]),
    ) -> Result<&mut Self, KernelError> {
        let row_bytes = self.check_rows(op, source, rows, bytes.len())?;
        let part = |rows: Range<usize>| &bytes[rows.start * row_bytes..rows.end * row_bytes];
        let batch = (USED_BYTES / row_bytes.max(1)).next_multiple_of(PANEL_ROWS);
        let used = |rows| used(part(rows));
        if format == source {
            let device = self.device.clone();
            let pack = |rows, panel: &mut [u8]| {
                pack_panel(&device, format, part(rows), row_bytes, panel);
            };
            return self.push_panels(format, rows, batch, pack, used);
        }
        let read = |row, out: &mut [f32]| quant::dequantize(source, part(row..row + 1), out);
        self.push_rounded(format, rows, batch, read, used)
    }

    /// Adds rows that `read` gives as f32, rounded to `format`; `batch` and `used` are as in `push_panels`.
    fn push_rounded(
        &mut self,
        format: WeightFormat,
        rows: usize,
        batch: usize,
        read: impl Fn(usize, &mut [f32]) -> Result<(), KernelError> + Sync,
        used: impl FnMut(Range<usize>),
    ) -> Result<&mut Self, KernelError> {
        if !quant::can_quantize(format) {
            return Err(KernelError::CannotQuantize(format));
        }
        let (cols, row_bytes) = (self.in_features, self.row_bytes(format)?);
        let device = self.device.clone();
        let pack = |rows: Range<usize>, panel: &mut [u8]| {
            let mut values = vec![0.0; cols];
            let mut rounded = vec![0; rows.len() * row_bytes];
            for (row, out) in rows.zip(rounded.chunks_exact_mut(row_bytes.max(1))) {
                let result =
                    read(row, &mut values).and_then(|()| quant::quantize(format, &values, out));
                debug_assert_eq!(result, Ok(()), "lengths were checked before");
            }
            pack_panel(&device, format, &rounded, row_bytes, panel);
        };
        self.push_panels(format, rows, batch, pack, used)
    }

    /// Allocates a segment and has `pack(rows, panel)` write each of its panels, on all threads. After every `batch` rows, which are whole panels or all
    /// rows, calls `used` with the rows packed since.
    fn push_panels(
        &mut self,
        format: WeightFormat,
        rows: usize,
        batch: usize,
        pack: impl Fn(Range<usize>, &mut [u8]) + Sync,
        mut used: impl FnMut(Range<usize>),
    ) -> Result<&mut Self, KernelError> {
        if rows == 0 {
            return Ok(self);
        }
        let overflow = || KernelError::ShapeOverflow(vec![rows, self.in_features]);
        let panels = rows.div_ceil(PANEL_ROWS);
        let panel_bytes =
            panel_bytes(&self.device, format, self.in_features).ok_or_else(overflow)?;
        let start = self.rows();
        let end = start.checked_add(rows).ok_or_else(overflow)?;
        let bytes = panels.checked_mul(panel_bytes).ok_or_else(overflow)?;
        let batches = |batch: usize| {
            let batch = batch.max(PANEL_ROWS);
            (0..rows)
                .step_by(batch)
                .map(move |start| start..rows.min(start + batch))
        };
        let packed = match self.device.as_cuda() {
            None if WeightFormat::CUDA_ONLY.contains(&format) => {
                return Err(KernelError::OnlyOnCuda(format));
            }
            None => {
                let mut packed = self.device.allocate_long_lived(bytes)?;
                let panels = SharedMut::new(packed.as_bytes_mut());
                for batch in batches(batch) {
                    // SAFETY: batches have their own panels, and panels do not overlap.
                    let out = unsafe {
                        let count = batch.len().div_ceil(PANEL_ROWS);
                        panels.slice(batch.start / PANEL_ROWS * panel_bytes, count * panel_bytes)
                    };
                    self.pack_batch(batch.clone(), panel_bytes, &pack, out);
                    used(batch);
                }
                Packed::Host(packed)
            }
            Some(cuda) => {
                let mut packed = cuda.allocate_long_lived(bytes)?;
                let room = (USED_BYTES / panel_bytes.max(1)).max(1) * PANEL_ROWS;
                let mut staged = vec![0; room.min(rows).div_ceil(PANEL_ROWS) * panel_bytes];
                for batch in batches(batch.min(room)) {
                    let out = &mut staged[..batch.len().div_ceil(PANEL_ROWS) * panel_bytes];
                    self.pack_batch(batch.clone(), panel_bytes, &pack, out);
                    packed.copy_in(batch.start / PANEL_ROWS * panel_bytes, out)?;
                    used(batch);
                }
                Packed::Cuda(packed)
            }
        };
        self.segments.push(Segment {
            format,
            rows: start..end,
            panel_bytes,
            packed,
        });
        Ok(self)
    }

    /// Has `pack` write the panels of the rows of a batch, on all threads.
    fn pack_batch(
        &self,
        batch: Range<usize>,
        panel_bytes: usize,
        pack: &(impl Fn(Range<usize>, &mut [u8]) + Sync),
        out: &mut [u8],
    ) {
        let panels = batch.len().div_ceil(PANEL_ROWS);
        let shared = SharedMut::new(out);
        self.device.pool().for_each(panels, |panel| {
            let first = batch.start + panel * PANEL_ROWS;
            // SAFETY: each task has its own panel, and panels do not overlap.
            let out = unsafe { shared.slice(panel * panel_bytes, panel_bytes) };
            pack(first..batch.end.min(first + PANEL_ROWS), out);
        });
    }
}

/// Bytes of a panel of 16 rows on `device`; `None` if `usize` cannot count them.
fn panel_bytes(device: &Device, format: WeightFormat, columns: usize) -> Option<usize> {
    match device.as_cuda() {
        Some(_) => cuda::pack::panel_bytes(format, columns),
        None => layout::panel_bytes(format, columns),
    }
}

/// Packs up to 16 rows in GGML's layout, `row_bytes` each, into one panel of `device`.
fn pack_panel(
    device: &Device,
    format: WeightFormat,
    rows: &[u8],
    row_bytes: usize,
    panel: &mut [u8],
) {
    match device.as_cuda() {
        Some(_) => cuda::pack::pack_panel(format, rows, row_bytes, panel),
        None => layout::pack_panel(format, rows, row_bytes, panel),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuOptions;

    #[test]
    fn every_byte_of_a_source_is_used_once_and_in_order() {
        let device = Device::cpu(CpuOptions::default()).unwrap();
        let (cols, format) = (4096, WeightFormat::F16);
        let rows = 2 * USED_BYTES / (2 * cols) + 5; // two batches and a part of a panel
        let bytes: Vec<u8> = (0..2 * rows * cols).map(|i| (i % 119) as u8).collect();
        for target in [format, WeightFormat::Q8_0] {
            let mut builder = WeightBuilder::new(&device, cols);
            let mut parts = Vec::new();
            let note = |used: &[u8]| {
                parts.push((used.as_ptr().addr() - bytes.as_ptr().addr(), used.len()))
            };
            builder
                .push_rows_once(target, rows, format, &bytes, note)
                .unwrap();
            let panel = 2 * cols * PANEL_ROWS;
            assert_eq!(USED_BYTES % panel, 0);
            let expected = [
                (0, USED_BYTES),
                (USED_BYTES, USED_BYTES),
                (2 * USED_BYTES, 5 * 2 * cols),
            ];
            assert_eq!(parts, expected, "{target}");

            let weight = builder.finish().unwrap();
            let packed = Weight::packed_bytes(target, rows, cols);
            assert_eq!(packed, Some(weight.byte_len()));
            let (mut got, mut want) = (vec![0.0; cols], vec![0.0; cols]);
            let mut rounded = vec![0; target.row_bytes(cols).unwrap()];
            for row in [0, rows / 2, rows - 1] {
                quant::dequantize(format, &bytes[2 * cols * row..][..2 * cols], &mut want).unwrap();
                quant::quantize(target, &want, &mut rounded).unwrap();
                quant::dequantize(target, &rounded, &mut want).unwrap();
                weight.dequantize_row(row, &mut got).unwrap();
                assert_eq!(got, want, "{target} row {row}");
            }
        }
    }
}
