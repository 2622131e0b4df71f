//! f32 vectors of any width. A kernel that is the same for every instruction set but for the width
//! is written once over [`Simd`], and [`run`] compiles it for each: inside, everything is inlined
//! into one function with the instruction set enabled.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;

use half::{bf16, f16};

#[cfg(test)]
use math::exp;
pub(crate) use math::{exp2, silu};

use crate::Isa;

/// An instruction set as a set of vector operations; the token proves that the CPU has them. Every
/// method is `#[inline(always)]`: outside of [`run`] it would be a call per operation.
pub(crate) trait Simd: Copy {
    /// [`Simd::LANES`] values.
    type F32: Copy;
    /// Values in a vector.
    const LANES: usize;

    fn splat(self, value: f32) -> Self::F32;
    /// The first [`Simd::LANES`] values; panics if there are fewer, as do the other loads and
    /// [`Simd::store`].
    fn load(self, from: &[f32]) -> Self::F32;
    fn load_f16(self, from: &[f16]) -> Self::F32;
    fn load_bf16(self, from: &[bf16]) -> Self::F32;
    fn load_i8(self, from: &[i8]) -> Self::F32;
    fn store(self, value: Self::F32, to: &mut [f32]);
    /// Integers from -128 to 127: what is behind the point is cut off, and NaN becomes 0.
    fn store_i8(self, value: Self::F32, to: &mut [i8]);
    /// At most [`Simd::LANES`] values, the rest zero.
    fn load_partial(self, from: &[f32]) -> Self::F32;
    /// As many lanes as `to` takes.
    fn store_partial(self, value: Self::F32, to: &mut [f32]);

    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The larger of each pair; `b` where either is NaN. Likewise [`Simd::min`].
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The larger magnitude of each pair, compared as integers: NaN is the largest.
    fn max_magnitude(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `magnitude`, which is positive, with the signs of `sign`.
    fn with_sign_of(self, magnitude: Self::F32, sign: Self::F32) -> Self::F32;
    /// To the nearest integer.
    fn round(self, a: Self::F32) -> Self::F32;
    /// 2 to an integer power from -126 to 127.
    fn exp2_of_integer(self, a: Self::F32) -> Self::F32;
    /// 0 where `a < b`, elsewhere (so for NaN too) `value`.
    fn zero_where_less(self, a: Self::F32, b: Self::F32, value: Self::F32) -> Self::F32;
    /// The sum of the lanes.
    fn reduce_add(self, a: Self::F32) -> f32;
    /// The largest lane.
    fn reduce_max(self, a: Self::F32) -> f32;
}

/// A kernel written over [`Simd`]; `run` must be `#[inline(always)]`, as must whatever it calls
/// that takes the token.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` with the vectors of `isa`, or gives it back if `isa` has none.
pub(crate) fn run<K: Kernel>(isa: Isa, kernel: K) -> Result<K::Output, K> {
    match isa {
        Isa::Scalar => Err(kernel),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(cpu) => Ok(avx2::run(cpu, kernel)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(cpu) => Ok(avx512::run(cpu, kernel)),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(cpu) => Ok(avx512::run(cpu.avx512(), kernel)),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(cpu) => Ok(neon::run(cpu, kernel)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies one vector operation to a slice of any length.
    struct Map<'a>(&'a [f32], &'a mut [f32], Op);

    #[derive(Clone, Copy)]
    enum Op {
        Exp,
        Exp2,
        Silu,
    }

    impl Kernel for Map<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            for (x, out) in self.0.chunks(S::LANES).zip(self.1.chunks_mut(S::LANES)) {
                let x = simd.load_partial(x);
                let y = match self.2 {
                    Op::Exp => exp(simd, x),
                    Op::Exp2 => exp2(simd, x),
                    Op::Silu => silu(simd, x),
                };
                simd.store_partial(y, out);
            }
        }
    }

    fn map(isa: Isa, x: &[f32], op: Op) -> Option<Vec<f32>> {
        let mut out = vec![f32::NAN; x.len()];
        run(isa, Map(x, &mut out, op)).ok().map(|()| out)
    }

    #[test]
    fn exp_is_within_two_ulp() {
        let x: Vec<f32> = (0..200_001)
            .map(|i| -87.33 + i as f32 * (175.33 / 200_000.0))
            .map(|x| x.min(88.0))
            .collect();
        for isa in Isa::available() {
            let Some(got) = map(isa, &x, Op::Exp) else {
                continue;
            };
            println!("exp: {isa}");
            for (x, got) in x.iter().zip(got) {
                let want = f64::from(*x).exp();
                let ulp = f64::from(want as f32).abs() * f64::from(f32::EPSILON);
                assert!(
                    (f64::from(got) - want).abs() <= 2.0 * ulp,
                    "{isa}: exp({x}) = {got}, not {want}"
                );
            }
        }
    }

    #[test]
    fn exp2_is_within_two_ulp_and_exact_for_integers() {
        let x: Vec<f32> = (0..=253 * 1024)
            .map(|i| i as f32 / 1024.0 - 126.0)
            .collect();
        for isa in Isa::available() {
            let Some(got) = map(isa, &x, Op::Exp2) else {
                continue;
            };
            for (x, got) in x.iter().zip(got) {
                let want = f64::from(*x).exp2();
                let ulps = if x.fract() == 0.0 { 0.0 } else { 2.0 };
                let tolerance = ulps * f64::from(want as f32) * f64::from(f32::EPSILON);
                assert!(
                    (f64::from(got) - want).abs() <= tolerance,
                    "{isa}: exp2({x}) = {got}, not {want}"
                );
            }
            let extremes = [-126.1, f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
            let got = map(isa, &extremes, Op::Exp2).expect("this one has vectors");
            assert_eq!(got[..2], [0.0, 0.0], "{isa}");
            assert!(got[2] > 1e38 && got[3].is_nan(), "{isa}: {got:?}");
        }
    }

    #[test]
    fn exp_of_the_extremes() {
        for isa in Isa::available() {
            let x = [
                0.0,
                -0.0,
                -88.0,
                -1e9,
                f32::NEG_INFINITY,
                1e9,
                f32::INFINITY,
                f32::NAN,
            ];
            let Some(got) = map(isa, &x, Op::Exp) else {
                continue;
            };
            assert_eq!(got[..5], [1.0, 1.0, 0.0, 0.0, 0.0], "{isa}");
            assert!(
                got[5] > 1e38 && got[6] == got[5] && got[7].is_nan(),
                "{isa}: {got:?}"
            );
        }
    }

    #[test]
    fn silu_is_accurate_and_flat_far_out() {
        let x: Vec<f32> = (-2000..=2000).map(|i| i as f32 * 0.05).collect();
        for isa in Isa::available() {
            let Some(got) = map(isa, &x, Op::Silu) else {
                continue;
            };
            for (x, got) in x.iter().zip(got) {
                let want = f64::from(*x) / (1.0 + (-f64::from(*x)).exp());
                assert!(
                    (f64::from(got) - want).abs() <= 5e-7 * want.abs() + 1e-35,
                    "{isa}: silu({x}) = {got}, not {want}"
                );
            }
        }
    }

    struct Reduce<'a>(&'a [f32]);

    impl Kernel for Reduce<'_> {
        type Output = (f32, f32, usize);

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let x = simd.load(self.0);
            (simd.reduce_add(x), simd.reduce_max(x), S::LANES)
        }
    }

    #[test]
    fn reductions_see_every_lane() {
        for isa in Isa::available() {
            for hot in 0..8 {
                let mut x = [-1.0; 16];
                x[hot] = 5.0;
                let Ok((sum, max, lanes)) = run(isa, Reduce(&x)) else {
                    continue;
                };
                assert_eq!(
                    (sum, max),
                    (5.0 - (lanes - 1) as f32, 5.0),
                    "{isa}, lane {hot}"
                );
            }
        }
    }

    struct Widen<'a> {
        f16: &'a [f16],
        bf16: &'a [bf16],
        i8: &'a [i8],
        out: &'a mut [f32],
    }

    impl Kernel for Widen<'_> {
        type Output = usize;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> usize {
            simd.store(simd.load_f16(self.f16), self.out);
            simd.store(simd.load_bf16(self.bf16), &mut self.out[S::LANES..]);
            simd.store(simd.load_i8(self.i8), &mut self.out[2 * S::LANES..]);
            S::LANES
        }
    }

    #[test]
    fn narrow_types_are_widened_exactly() {
        let values: Vec<i8> = (0..16).map(|i| (i * 17 - 128) as i8).collect();
        let f16: Vec<f16> = values
            .iter()
            .map(|x| f16::from_f32(f32::from(*x) / 8.0))
            .collect();
        let bf16: Vec<bf16> = values
            .iter()
            .map(|x| bf16::from_f32(f32::from(*x) * 4.0))
            .collect();
        for isa in Isa::available() {
            let mut out = [f32::NAN; 48];
            let Ok(lanes) = run(
                isa,
                Widen {
                    f16: &f16,
                    bf16: &bf16,
                    i8: &values,
                    out: &mut out,
                },
            ) else {
                continue;
            };
            let expected = |scale: f32| values[..lanes].iter().map(move |x| f32::from(*x) * scale);
            let want: Vec<f32> = expected(0.125)
                .chain(expected(4.0))
                .chain(expected(1.0))
                .collect();
            assert_eq!(out[..3 * lanes], want, "{isa}");
        }
    }

    #[test]
    #[should_panic = "load"]
    fn a_load_beyond_the_slice_panics() {
        let isa = *Isa::available().last().unwrap();
        if run(isa, Reduce(&[0.0; 3])).is_err() {
            panic!("load: skipped, this CPU has no vectors");
        }
    }
}
