//! One quantised block taken apart: its unsigned codes in column order, and the numbers that turn a code into a value.
//!
//! All block formats of GGML are instances of one formula. With `j` the sub-block of column `i` (sub-blocks have 16 or 32 columns),
//!
//! ```text
//! value[i] = scale[j] * (level(code[i]) - zero) + min[j]
//! ```
//!
//! where `level` is the identity, or for the IQ4 formats a table of 16 values. The scale of a K-quant is the product of a half precision
//! number for the block and a small integer for the sub-block, taken in f32, as in GGML's own reference.

use half::f16;

use super::WeightFormat;

/// The longest block of any format.
pub(crate) const MAX_BLOCK: usize = 256;

/// The 16 levels of IQ4_NL and IQ4_XS (`kvalues_iq4nl` in `ggml-common.h`).
pub(crate) const IQ4_LEVELS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// A block taken apart. Fields that a format lacks are zero, `factors` one.
#[derive(Clone)]
pub(crate) struct Block {
    /// One code per column; only the first `block_len` are used.
    pub codes: [u8; MAX_BLOCK],
    /// Half precision scale of the block, as bits.
    pub d: u16,
    /// Half precision minimum (Q4_1, Q5_1) or scale of the minima (K-quants), as bits.
    pub m: u16,
    /// Integer scale of each sub-block, offsets removed.
    pub factors: [i8; 16],
    /// Integer minimum of each sub-block (K-quants); the value subtracts it.
    pub minima: [u8; 16],
}

impl Default for Block {
    fn default() -> Self {
        Self {
            codes: [0; MAX_BLOCK],
            d: 0,
            m: 0,
            factors: [1; 16],
            minima: [0; 16],
        }
    }
}

/// The columns that share a scale.
pub(crate) const fn sub_block_len(format: WeightFormat) -> usize {
    match format {
        WeightFormat::Q2K | WeightFormat::Q3K | WeightFormat::Q6K => 16,
        _ => 32,
    }
}

impl Block {
    /// Takes the block `bytes` of `format` apart, into `self`.
    ///
    /// # Panics
    /// If `bytes` is not one block of a quantised format: callers cut their input into blocks.
    pub fn read(&mut self, format: WeightFormat, bytes: &[u8]) {
        assert_eq!(bytes.len(), format.block_bytes(), "one block of {format}");
        match format {
            WeightFormat::Q4_0 | WeightFormat::Iq4Nl => {
                self.d = u16_at(bytes, 0);
                nibbles_16(&bytes[2..], &mut self.codes);
            }
            WeightFormat::Q4_1 => {
                (self.d, self.m) = (u16_at(bytes, 0), u16_at(bytes, 2));
                nibbles_16(&bytes[4..], &mut self.codes);
            }
            WeightFormat::Q5_0 => {
                self.d = u16_at(bytes, 0);
                nibbles_16(&bytes[6..], &mut self.codes);
                fifth_bit_by_column(&bytes[2..6], &mut self.codes);
            }
            WeightFormat::Q5_1 => {
                (self.d, self.m) = (u16_at(bytes, 0), u16_at(bytes, 2));
                nibbles_16(&bytes[8..], &mut self.codes);
                fifth_bit_by_column(&bytes[4..8], &mut self.codes);
            }
            WeightFormat::Q8_0 => {
                self.d = u16_at(bytes, 0);
                // Two's complement to offset binary: the code is the value plus 128.
                self.codes
                    .iter_mut()
                    .zip(&bytes[2..])
                    .for_each(|(code, q)| *code = q ^ 0x80);
            }
            WeightFormat::Q2K => self.read_q2_k(bytes),
            WeightFormat::Q3K => self.read_q3_k(bytes),
            WeightFormat::Q4K | WeightFormat::Q5K => self.read_q4_k_or_q5_k(bytes),
            WeightFormat::Q6K => self.read_q6_k(bytes),
            WeightFormat::Iq4Xs => self.read_iq4_xs(bytes),
            WeightFormat::Int4 => {
                self.d = u16_at(bytes, 0);
                nibbles(&bytes[2..], &mut self.codes[..128]);
            }
            WeightFormat::Fp8 => {
                self.d = u16_at(bytes, 0);
                self.codes[..128].copy_from_slice(&bytes[2..]);
            }
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16 => {
                unreachable!("{format} has no blocks")
            }
        }
    }

    /// `scales[16]: factor | minimum << 4, qs[64]: 2 bits, d, dmin`
    fn read_q2_k(&mut self, bytes: &[u8]) {
        for (j, &packed) in bytes[..16].iter().enumerate() {
            self.factors[j] = (packed & 15) as i8;
            self.minima[j] = packed >> 4;
        }
        two_bits(&bytes[16..80], &mut self.codes);
        (self.d, self.m) = (u16_at(bytes, 80), u16_at(bytes, 82));
    }

    /// `hmask[32]: third bit, qs[64]: 2 bits, scales[12]: 6 bits, d`
    fn read_q3_k(&mut self, bytes: &[u8]) {
        two_bits(&bytes[32..96], &mut self.codes);
        for (bit, codes) in self.codes.chunks_exact_mut(32).enumerate() {
            codes
                .iter_mut()
                .zip(&bytes[..32])
                .for_each(|(code, high)| *code |= ((high >> bit) & 1) << 2);
        }
        let packed = &bytes[96..108];
        for j in 0..16 {
            let low = (packed[j % 8] >> (4 * (j / 8))) & 15;
            let high = (packed[8 + j % 4] >> (2 * (j / 4))) & 3;
            self.factors[j] = (low | (high << 4)) as i8 - 32;
        }
        self.d = u16_at(bytes, 108);
    }

    /// `d, dmin, scales[12]: 6 bits, [qh[32]: fifth bit,] qs[128]: 4 bits`
    fn read_q4_k_or_q5_k(&mut self, bytes: &[u8]) {
        (self.d, self.m) = (u16_at(bytes, 0), u16_at(bytes, 2));
        let packed = &bytes[4..16];
        for j in 0..8 {
            let (factor, minimum) = scale_and_min_k4(packed, j);
            (self.factors[j], self.minima[j]) = (factor as i8, minimum);
        }
        let (high, low) = bytes[16..].split_at(bytes.len() - 16 - 128);
        for (low, codes) in low.chunks_exact(32).zip(self.codes.chunks_exact_mut(64)) {
            nibbles(low, codes);
        }
        if !high.is_empty() {
            for (bit, codes) in self.codes.chunks_exact_mut(32).enumerate() {
                codes
                    .iter_mut()
                    .zip(high)
                    .for_each(|(code, high)| *code |= ((high >> bit) & 1) << 4);
            }
        }
    }

    /// `ql[128]: lower 4 bits, qh[64]: upper 2 bits, scales[16]: signed, d`
    fn read_q6_k(&mut self, bytes: &[u8]) {
        for (half, codes) in self.codes.chunks_exact_mut(128).enumerate() {
            let (low, high) = (&bytes[64 * half..][..64], &bytes[128 + 32 * half..][..32]);
            nibbles(low, codes);
            for (pair, codes) in codes.chunks_exact_mut(32).enumerate() {
                codes
                    .iter_mut()
                    .zip(high)
                    .for_each(|(code, high)| *code |= ((high >> (2 * pair)) & 3) << 4);
            }
        }
        self.factors
            .iter_mut()
            .zip(&bytes[192..208])
            .for_each(|(factor, byte)| *factor = *byte as i8);
        self.d = u16_at(bytes, 208);
    }

    /// `d, scales_h: 2 bits each, scales_l[4]: 4 bits each, qs[128]`
    fn read_iq4_xs(&mut self, bytes: &[u8]) {
        self.d = u16_at(bytes, 0);
        let high = u16_at(bytes, 2);
        for j in 0..8 {
            let low = (bytes[4 + j / 2] >> (4 * (j % 2))) & 15;
            self.factors[j] = (low | (((high >> (2 * j)) & 3) as u8) << 4) as i8 - 32;
        }
        for (low, codes) in bytes[8..]
            .chunks_exact(16)
            .zip(self.codes.chunks_exact_mut(32))
        {
            nibbles(low, codes);
        }
    }

    /// The values of the block, one per element of `out`.
    pub fn values(&self, format: WeightFormat, out: &mut [f32]) {
        let (d, m) = (
            f16::from_bits(self.d).to_f32(),
            f16::from_bits(self.m).to_f32(),
        );
        let len = sub_block_len(format);
        for (j, (out, codes)) in out
            .chunks_exact_mut(len)
            .zip(self.codes.chunks_exact(len))
            .enumerate()
        {
            let scale = d * f32::from(self.factors[j]);
            let codes = out.iter_mut().zip(codes);
            match format {
                WeightFormat::Q4_1 | WeightFormat::Q5_1 => {
                    codes.for_each(|(out, &code)| *out = scale * f32::from(code) + m)
                }
                WeightFormat::Q2K | WeightFormat::Q4K | WeightFormat::Q5K => {
                    let min = m * f32::from(self.minima[j]);
                    codes.for_each(|(out, &code)| *out = scale * f32::from(code) - min);
                }
                WeightFormat::Iq4Nl | WeightFormat::Iq4Xs => {
                    codes.for_each(|(out, &code)| {
                        *out = scale * f32::from(IQ4_LEVELS[usize::from(code & 15)])
                    });
                }
                WeightFormat::Fp8 => {
                    codes.for_each(|(out, &code)| *out = scale * e4m3_as_f16(code).to_f32());
                }
                _ => {
                    let zero = zero_point(format);
                    codes.for_each(|(out, &code)| *out = scale * f32::from(i16::from(code) - zero));
                }
            }
        }
    }
}

/// The code of the value zero in a symmetric format, 0 in one with minima.
const fn zero_point(format: WeightFormat) -> i16 {
    match format {
        WeightFormat::Q3K => 4,
        WeightFormat::Q4_0 | WeightFormat::Int4 => 8,
        WeightFormat::Q5_0 => 16,
        WeightFormat::Q6K => 32,
        WeightFormat::Q8_0 | WeightFormat::Iq4Nl | WeightFormat::Iq4Xs => 128,
        _ => 0,
    }
}

/// An 8-bit float with bits where those of half precision are: its value by 256, as its exponent counts from 7 and not from 15. Exact for all but the
/// two NaN, which become 480 / 256 and which no quantiser writes.
pub(super) fn e4m3_as_f16(code: u8) -> f16 {
    f16::from_bits((u16::from(code & 0x80) << 8) | (u16::from(code & 0x7f) << 7))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Low nibbles are the first half of the columns, high nibbles the second.
fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

fn nibbles_16(bytes: &[u8], codes: &mut [u8; MAX_BLOCK]) {
    nibbles(&bytes[..16], &mut codes[..32]);
}

/// Q5_0 and Q5_1: bit `i` of a little-endian u32 is the fifth bit of column `i`.
fn fifth_bit_by_column(bytes: &[u8], codes: &mut [u8; MAX_BLOCK]) {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (i, code) in codes[..32].iter_mut().enumerate() {
        *code |= (((bits >> i) & 1) as u8) << 4;
    }
}

/// Q2_K and Q3_K: 32 bytes hold 128 columns, two bits for each of four runs of 32.
fn two_bits(bytes: &[u8], codes: &mut [u8; MAX_BLOCK]) {
    for (bytes, codes) in bytes.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
        for (run, codes) in codes.chunks_exact_mut(32).enumerate() {
            codes
                .iter_mut()
                .zip(bytes)
                .for_each(|(code, byte)| *code = (byte >> (2 * run)) & 3);
        }
    }
}

/// The 6-bit scale and minimum of sub-block `j`, out of the 12 bytes that hold eight of each (`get_scale_min_k4` in ggml).
pub(super) fn scale_and_min_k4(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let scale = (packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4);
        let min = (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4);
        (scale, min)
    }
}
