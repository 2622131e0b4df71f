//! Writing blocks: f32 values to GGML's on-disk layout.

use half::f16;

use super::WeightFormat;
use super::block::scale_and_min_k4;
use super::search::{AffineSearch, TINY, affine, extreme, nearest, symmetric};

/// Writes blocks of `format`, which is one that [`can_quantize`](super::can_quantize) allows. Inlined, with what costs time below it, into
/// callers that are compiled for wider vectors.
///
/// # Panics
/// If `format` has no quantiser.
#[inline(always)]
pub(super) fn blocks(format: WeightFormat, values: &[f32], out: &mut [u8]) {
    let blocks = values
        .chunks_exact(format.block_len())
        .zip(out.chunks_exact_mut(format.block_bytes()));
    // A loop, not `for_each`: a closure passed to a function would not be compiled for the wider vectors.
    for (values, out) in blocks {
        match format {
            WeightFormat::Q4_0 => symmetric_32(values, out, 4),
            WeightFormat::Q5_0 => symmetric_32(values, out, 5),
            WeightFormat::Q4_1 => affine_32(values, out, 4),
            WeightFormat::Q5_1 => affine_32(values, out, 5),
            WeightFormat::Q8_0 => q8_0(values, out),
            WeightFormat::Q4K => q4_k(values, out),
            WeightFormat::Q5K => q5_k(values, out),
            WeightFormat::Q6K => q6_k(values, out),
            WeightFormat::Int4 => int4(values, out),
            WeightFormat::Fp8 => fp8(values, out),
            _ => unreachable!("{format} has no quantiser"),
        }
    }
}

fn put_f16(out: &mut [u8], value: f32) {
    out.copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// The inverse of a scale, zero for a block of zeros.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Nearest integer, halves away from zero, as C's `roundf`, for numbers that fit in an i32.
#[inline(always)]
fn round_half_away(value: f32) -> i32 {
    let whole = value as i32;
    let rest = value - whole as f32;
    whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)
}

#[inline(always)]
fn q8_0(values: &[f32], out: &mut [u8]) {
    let scale = values
        .iter()
        .fold(0.0f32, |max, value| max.max(value.abs()))
        / 127.0;
    let inverse = inverse(scale);
    put_f16(&mut out[..2], scale);
    for (out, value) in out[2..].iter_mut().zip(values) {
        *out = round_half_away(value * inverse) as i8 as u8;
    }
}

/// Q4_0 and Q5_0: the value farthest from zero becomes the lowest code, so that the scale may be negative.
#[inline(always)]
fn symmetric_32(values: &[f32], out: &mut [u8], bits: u32) {
    let half = (1 << (bits - 1)) as f32;
    let extreme = extreme(values);
    let scale = extreme / -half;
    let inverse = inverse(scale);
    put_f16(&mut out[..2], scale);
    write_codes_32(&mut out[2..], bits, |i| {
        (values[i] * inverse + half + 0.5) as u8
    });
}

/// Q4_1 and Q5_1: codes from the minimum to the maximum.
#[inline(always)]
fn affine_32(values: &[f32], out: &mut [u8], bits: u32) {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let min = values.iter().copied().fold(f32::INFINITY, f32::min);
    let scale = (max - min) / ((1 << bits) - 1) as f32;
    let inverse = inverse(scale);
    put_f16(&mut out[..2], scale);
    put_f16(&mut out[2..4], min);
    write_codes_32(&mut out[4..], bits, |i| {
        ((values[i] - min) * inverse + 0.5) as u8
    });
}

/// The 32 codes behind a block's header: the fifth bits as a u32 if there are any, then nibbles of columns `i` and `i + 16`.
#[inline(always)]
fn write_codes_32(out: &mut [u8], bits: u32, code: impl Fn(usize) -> u8) {
    let mut codes = [0; 32];
    codes
        .iter_mut()
        .enumerate()
        .for_each(|(i, out)| *out = code(i).min((1 << bits) - 1));
    let (high, low) = out.split_at_mut(out.len() - 16);
    for (i, low) in low.iter_mut().enumerate() {
        *low = (codes[i] & 15) | (codes[i + 16] << 4);
    }
    if bits == 5 {
        let fifth = codes
            .iter()
            .enumerate()
            .fold(0u32, |word, (i, code)| word | (u32::from(code >> 4) << i));
        high.copy_from_slice(&fifth.to_le_bytes());
    }
}

/// The scale that makes the least error, as for the sub-blocks of Q6_K.
#[inline(always)]
fn int4(values: &[f32], out: &mut [u8]) {
    let scale = values
        .as_array::<128>()
        .map_or(0.0, |values| symmetric(values, 8.0));
    put_f16(&mut out[..2], scale);
    let inverse = inverse(f16::from_le_bytes([out[0], out[1]]).to_f32());
    let code = |value: f32| (nearest((value * inverse).clamp(-8.0, 7.0)) + 8.0) as u8;
    let (low, high) = values.split_at(64);
    for ((out, low), high) in out[2..].iter_mut().zip(low).zip(high) {
        *out = code(*low) | (code(*high) << 4);
    }
}

/// The largest 8-bit float is 448, so 1.75 where their values are by 256.
#[inline(always)]
fn fp8(values: &[f32], out: &mut [u8]) {
    let largest = (values.iter()).fold(0.0f32, |max, value| max.max(value.abs()));
    put_f16(&mut out[..2], largest / 1.75);
    let inverse = inverse(f16::from_le_bytes([out[0], out[1]]).to_f32()) * 256.0;
    for (out, value) in out[2..].iter_mut().zip(values) {
        *out = to_e4m3(value * inverse);
    }
}

/// The nearest 8-bit float, of two as near the even one; what is too large, and what is not a number, becomes the largest.
#[inline(always)]
pub(crate) fn to_e4m3(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let size = value.abs().min(448.0);
    if size < 0.015625 {
        return sign | nearest(size * 512.0) as u8; // subnormal: counts of 2^-9
    }
    let bits = size.to_bits();
    let rounded = bits + 0x7_ffff + ((bits >> 20) & 1);
    sign | ((rounded >> 20) - (120 << 3)) as u8
}

#[inline(always)]
fn q4_k(values: &[f32], out: &mut [u8]) {
    let codes = affine_k(
        values,
        &mut out[..16],
        &AffineSearch {
            max_code: 15.0,
            first: -1.0,
            steps: 20,
        },
    );
    write_nibbles(&codes, &mut out[16..], 32);
}

#[inline(always)]
fn q5_k(values: &[f32], out: &mut [u8]) {
    let codes = affine_k(
        values,
        &mut out[..16],
        &AffineSearch {
            max_code: 31.0,
            first: -0.5,
            steps: 15,
        },
    );
    let (high, low) = out[16..].split_at_mut(32);
    high.fill(0);
    for (bit, codes) in codes.chunks_exact(32).enumerate() {
        high.iter_mut()
            .zip(codes)
            .for_each(|(high, code)| *high |= (code >> 4) << bit);
    }
    write_nibbles(&codes, low, 32);
}

/// The header of Q4_K and Q5_K (`d, dmin, scales[12]`), and the codes.
#[inline(always)]
fn affine_k(values: &[f32], header: &mut [u8], search: &AffineSearch) -> [u8; 256] {
    let (sub_blocks, _) = values.as_chunks::<32>();
    let (mut scales, mut minima) = ([0.0; 8], [0.0; 8]);
    for (j, values) in sub_blocks.iter().enumerate() {
        // Large values count more, but the small ones are not given up.
        let rms = (values.iter().map(|value| value * value).sum::<f32>() / 32.0).sqrt();
        (scales[j], minima[j]) = affine(values, &values.map(|value| rms + value.abs()), search);
    }
    let largest = |of: &[f32; 8]| of.iter().copied().fold(0.0, f32::max);
    let (max_scale, max_min) = (largest(&scales), largest(&minima));
    put_f16(&mut header[..2], max_scale / 63.0);
    put_f16(&mut header[2..4], max_min / 63.0);
    let six_bits = |value: f32, max: f32| {
        if max > 0.0 {
            nearest(63.0 / max * value).clamp(0.0, 63.0) as u8
        } else {
            0
        }
    };
    for j in 0..8 {
        put_scale_and_min_k4(
            &mut header[4..],
            j,
            six_bits(scales[j], max_scale),
            six_bits(minima[j], max_min),
        );
    }

    // The codes for the scales as they are stored.
    let stored = |at: usize| f16::from_le_bytes([header[at], header[at + 1]]).to_f32();
    let mut codes = [0; 256];
    for (j, (values, codes)) in sub_blocks
        .iter()
        .zip(codes.chunks_exact_mut(32))
        .enumerate()
    {
        let (scale, min) = scale_and_min_k4(&header[4..], j);
        let (scale, min) = (stored(0) * f32::from(scale), stored(2) * f32::from(min));
        if scale != 0.0 {
            codes.iter_mut().zip(values).for_each(|(code, value)| {
                *code = nearest((value + min) / scale).clamp(0.0, search.max_code) as u8
            });
        }
    }
    codes
}

/// The inverse of [`scale_and_min_k4`]; sub-blocks are written in order.
fn put_scale_and_min_k4(packed: &mut [u8], j: usize, scale: u8, min: u8) {
    if j < 4 {
        (packed[j], packed[j + 4]) = (scale, min);
    } else {
        packed[j + 4] = (scale & 15) | ((min & 15) << 4);
        packed[j - 4] |= (scale >> 4) << 6;
        packed[j] |= (min >> 4) << 6;
    }
}

/// Lower four bits: runs of `run` low nibbles, then `run` high nibbles.
fn write_nibbles(codes: &[u8; 256], out: &mut [u8], run: usize) {
    for (out, codes) in out.chunks_exact_mut(run).zip(codes.chunks_exact(2 * run)) {
        let (low, high) = codes.split_at(run);
        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
            *out = (low & 15) | ((high & 15) << 4);
        }
    }
}

#[inline(always)]
fn q6_k(values: &[f32], out: &mut [u8]) {
    let (sub_blocks, _) = values.as_chunks::<16>();
    let mut scales = [0.0f32; 16];
    scales
        .iter_mut()
        .zip(sub_blocks)
        .for_each(|(scale, values)| *scale = symmetric(values, 32.0));
    let extreme = extreme(&scales);
    if extreme.abs() < TINY {
        out.fill(0);
        return;
    }
    put_f16(&mut out[208..], extreme / -128.0);
    let d = f16::from_le_bytes([out[208], out[209]]).to_f32();
    let mut codes = [32; 256];
    for (j, (values, codes)) in sub_blocks
        .iter()
        .zip(codes.chunks_exact_mut(16))
        .enumerate()
    {
        let factor = nearest(-128.0 / extreme * scales[j]).clamp(-128.0, 127.0) as i8;
        out[192 + j] = factor as u8;
        let scale = d * f32::from(factor);
        if scale != 0.0 {
            codes.iter_mut().zip(values).for_each(|(code, value)| {
                *code = (nearest(value / scale).clamp(-32.0, 31.0) + 32.0) as u8
            });
        }
    }
    write_nibbles(&codes, &mut out[..128], 64);
    for (high, codes) in out[128..192]
        .chunks_exact_mut(32)
        .zip(codes.chunks_exact(128))
    {
        for (i, high) in high.iter_mut().enumerate() {
            *high = (0..4).fold(0, |byte, run| {
                byte | ((codes[32 * run + i] >> 4) << (2 * run))
            });
        }
    }
}
