//! The kernels in plain Rust, for every CPU.

#![allow(unsafe_op_in_unsafe_fn)] // each method is a line under the contract of `Lanes`

use std::array::from_fn;
use std::ops::Range;

use half::{bf16, f16};

use super::codec::{with_float, with_quantized};
use super::job::Job;
use super::lanes::Lanes;
use super::layout::PANEL_ROWS;
use super::{direct, float};
use crate::quant::IQ4_LEVELS;

/// Sixteen lanes as arrays.
pub(super) struct Scalar;

/// Computes `panels` for all tokens.
pub(super) fn run(job: &Job, panels: Range<usize>) {
    // SAFETY: plain Rust needs no instruction that a CPU could lack; `Job` is checked when made.
    unsafe {
        if job.format.is_quantized() {
            with_quantized!(job.format, C => direct::quantized::<Scalar, C>(job, panels));
        } else {
            with_float!(job.format, E => float::float::<Scalar, E>(job, panels));
        }
    }
}

fn map(a: [u32; PANEL_ROWS], f: impl Fn(u8) -> u8) -> [u32; PANEL_ROWS] {
    a.map(|lane| u32::from_le_bytes(lane.to_le_bytes().map(&f)))
}

fn dot4(codes: u32, x: *const i8, zero: i32) -> u32 {
    // SAFETY: the callers' contract: four activations are at `x`.
    let x = unsafe { x.cast::<[i8; 4]>().read() };
    let products = codes.to_le_bytes().into_iter().zip(x);
    products
        .map(|(code, x)| (i32::from(code) - zero) * i32::from(x))
        .sum::<i32>() as u32
}

impl Lanes for Scalar {
    const ROWS: usize = PANEL_ROWS;
    const CODE_TOKENS: usize = 4;
    const FLOAT_TOKENS: usize = 1;
    const SIGNED_BYTES: bool = true;
    type I = [u32; PANEL_ROWS];
    type F = [f32; PANEL_ROWS];

    #[inline(always)]
    unsafe fn load(bytes: *const u8) -> Self::I {
        bytes
            .cast::<[[u8; 4]; PANEL_ROWS]>()
            .read()
            .map(u32::from_le_bytes)
    }
    #[inline(always)]
    unsafe fn prefetch(_bytes: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_far(_bytes: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_write(_bytes: *const u8) {}
    #[inline(always)]
    unsafe fn store_bytes(a: Self::I, to: *mut u8) {
        to.cast::<[[u8; 4]; PANEL_ROWS]>()
            .write(a.map(u32::to_le_bytes));
    }
    #[inline(always)]
    unsafe fn zero() -> Self::I {
        [0; PANEL_ROWS]
    }
    #[inline(always)]
    unsafe fn splat_byte(byte: u8) -> Self::I {
        [u32::from_le_bytes([byte; 4]); PANEL_ROWS]
    }
    #[inline(always)]
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn shift_right(a: Self::I, by: i32) -> Self::I {
        if by >= 0 {
            map(a, |byte| byte >> by)
        } else {
            map(a, |byte| byte << -by)
        }
    }
    #[inline(always)]
    unsafe fn iq4_levels(codes: Self::I) -> Self::I {
        map(codes, |code| {
            (IQ4_LEVELS[usize::from(code & 15)] as u8) ^ 0x80
        })
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::I, codes: Self::I, x: *const i8) -> Self::I {
        from_fn(|i| sum[i].wrapping_add(dot4(codes[i], x, 0)))
    }
    #[inline(always)]
    unsafe fn dot_bytes(sum: Self::I, codes: Self::I, x: *const i8) -> Self::I {
        from_fn(|i| sum[i].wrapping_add(dot4(codes[i], x, 128)))
    }
    #[inline(always)]
    unsafe fn splat_shifted(number: *const i32, by: u32) -> Self::I {
        [(number.read() >> by) as u32; PANEL_ROWS]
    }
    #[inline(always)]
    unsafe fn add_bytes(a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| {
            let (a, b) = (a[i].to_le_bytes(), b[i].to_le_bytes());
            u32::from_le_bytes(from_fn(|j| a[j].wrapping_add(b[j])))
        })
    }
    #[inline(always)]
    unsafe fn to_f32(a: Self::I) -> Self::F {
        a.map(|lane| lane as i32 as f32)
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::F {
        [value; PANEL_ROWS]
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn add_f32(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i] + c[i]) // not fused: without the instruction that is a slow library call
    }
    #[inline(always)]
    unsafe fn neg_mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| c[i] - a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn load_f32(bytes: *const u8) -> Self::F {
        bytes
            .cast::<[[u8; 4]; PANEL_ROWS]>()
            .read()
            .map(f32::from_le_bytes)
    }
    #[inline(always)]
    unsafe fn load_f16(bytes: *const u8) -> Self::F {
        bytes
            .cast::<[[u8; 2]; PANEL_ROWS]>()
            .read()
            .map(|b| f16::from_le_bytes(b).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(bytes: *const u8) -> [Self::F; 2] {
        let pairs = bytes.cast::<[[[u8; 2]; 2]; PANEL_ROWS]>().read();
        from_fn(|i| pairs.map(|pair| bf16::from_le_bytes(pair[i]).to_f32()))
    }
    #[inline(always)]
    unsafe fn load_i8(bytes: *const u8) -> Self::F {
        bytes.cast::<[i8; PANEL_ROWS]>().read().map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_u8(bytes: *const u8) -> Self::F {
        bytes.cast::<[u8; PANEL_ROWS]>().read().map(f32::from)
    }
    #[inline(always)]
    unsafe fn store(a: Self::F, to: *mut f32) {
        to.cast::<Self::F>().write(a);
    }
}
