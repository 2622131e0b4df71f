//! The speed limit of prefill, measured: how many operations a second this machine computes.
//!
//! Chains of the instruction that a kernel would use, on operands in registers, enough of them side
//! by side that none waits for another: no memory, no cache, nothing but the unit.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::simd::{Kernel, Simd, run};
use crate::{Device, Isa};

/// Operations per second of all threads of a device together, a multiply-add counted as two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// On f32: fused multiply-adds, or multiplications and additions where there are none.
    pub f32_flops: f64,
    /// On pairs of bf16, summed in f32: `vdpbf16ps` or the matrix unit. `None` where the
    /// instruction set has neither.
    pub bf16_flops: Option<f64>,
    /// On bytes, summed in 32-bit integers: `vpdpbusd`, the matrix unit, or `vpmaddubsw` and
    /// `vpmaddwd` with AVX2; `smmla`, `sdot`, or `smull` and `sadalp` on Arm. `None` for the scalar
    /// path.
    pub int8_ops: Option<f64>,
}

/// Measures the peaks of `device`, with all of its threads and the instructions of its
/// [`Isa`]: the best of many passes, within a tenth of a second. Nothing else should
/// run meanwhile.
///
/// ```
/// let device = glm_kernels::Device::cpu(Default::default())?;
/// let peaks = glm_kernels::peaks(&device);
/// println!("{:.0} GFLOP/s in f32", peaks.f32_flops / 1e9);
/// # assert!(peaks.f32_flops > 0.0);
/// # Ok::<(), glm_kernels::KernelError>(())
/// ```
pub fn peaks(device: &Device) -> Peaks {
    Peaks {
        f32_flops: rate(device, f32_chains),
        bf16_flops: bf16_chains(device.isa()).map(|chains| rate(device, chains)),
        int8_ops: int8_chains(device.isa()).map(|chains| rate(device, chains)),
    }
}

/// Runs some microseconds of chains on the instructions of `isa` and says how many operations those
/// were.
type Chains = fn(Isa) -> u64;

/// Rounds of a chain in one task: some tens of microseconds.
const ROUNDS: u64 = 1 << 14;
/// Tasks per thread in a pass, which level out threads that start late.
const TASKS_PER_THREAD: usize = 16;
/// How long one kind of operation is measured. The best pass counts, for a peak is what nothing
/// disturbed.
const BUDGET: Duration = Duration::from_millis(25);

/// Operations per second of `chains` on all threads.
fn rate(device: &Device, chains: Chains) -> f64 {
    let tasks = TASKS_PER_THREAD * device.num_threads();
    let operations = chains(device.isa()) as f64 * tasks as f64;
    let start = Instant::now();
    let mut best = Duration::MAX;
    while best == Duration::MAX || start.elapsed() < BUDGET {
        let pass = Instant::now();
        device.pool().for_each(tasks, |_| {
            chains(device.isa());
        });
        best = best.min(pass.elapsed());
    }
    operations / best.as_secs_f64()
}

/// Sums side by side: two units that take four cycles each are busy with eight, and sixteen vector
/// registers hold twelve beside the operands.
const SUMS: usize = 12;

fn f32_chains(isa: Isa) -> u64 {
    run(isa, FmaChains).unwrap_or_else(|_| scalar_chains())
}

struct FmaChains;

impl Kernel for FmaChains {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        // Different sums, or the compiler would compute one for all of them.
        let start = black_box([
            1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0,
        ]);
        let mut sums = [simd.splat(0.0); SUMS];
        for (sum, start) in sums.iter_mut().zip(start) {
            *sum = simd.splat(start);
        }
        let (a, b) = (simd.splat(black_box(0.75)), simd.splat(black_box(0.25)));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.mul_add(*sum, a, b);
            }
        }
        for sum in sums {
            black_box(simd.reduce_add(sum));
        }
        ROUNDS * 2 * (SUMS * S::LANES) as u64
    }
}

/// Plain Rust, which the compiler turns into what every CPU of the architecture has.
fn scalar_chains() -> u64 {
    const LANES: usize = 32;
    let mut sums: [f32; LANES] = black_box(std::array::from_fn(|i| i as f32));
    let (a, b) = (black_box(0.75), black_box(0.25));
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = *sum * a + b;
        }
    }
    black_box(sums);
    ROUNDS * 2 * LANES as u64
}

#[cfg(not(target_arch = "x86_64"))]
fn bf16_chains(_isa: Isa) -> Option<Chains> {
    None
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn int8_chains(_isa: Isa) -> Option<Chains> {
    None
}

#[cfg(target_arch = "aarch64")]
use arm::int8_chains;

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::hint::black_box;

    use super::{Chains, ROUNDS, SUMS};
    use crate::{Isa, neon};

    /// The chains of byte products that `isa` has.
    pub(super) fn int8_chains(isa: Isa) -> Option<Chains> {
        match isa {
            Isa::Scalar => None,
            // SAFETY: `rate` calls the chains with the same `isa`, whose token proves the instructions.
            Isa::Neon(cpu) if cpu.has_i8mm() => Some(|_| unsafe { matmul() }),
            // SAFETY: as above.
            Isa::Neon(cpu) if cpu.has_dotprod() => Some(|_| unsafe { dot() }),
            // SAFETY: as above.
            Isa::Neon(_) => Some(|_| unsafe { dot_widening() }),
        }
    }

    /// A chain for each sum of one product of `neon`, which computes so many bytes times bytes.
    macro_rules! chains {
        ($product:ident, $features:literal, $multiplications:literal) => {
            /// # Safety
            /// The CPU has the features.
            #[target_feature(enable = $features)]
            unsafe fn $product() -> u64 {
                let (a, b) = (vdupq_n_s8(black_box(7)), vdupq_n_s8(black_box(-3)));
                let mut sums = [vdupq_n_s32(0); SUMS];
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = vdupq_n_s32(black_box(i as i32));
                }
                for _ in 0..ROUNDS {
                    for sum in &mut sums {
                        // What the product is of must not be known, or the compiler would compute it once.
                        let a = opaque(a);
                        // SAFETY: the features are enabled.
                        *sum = unsafe { neon::$product(*sum, a, b) };
                    }
                }
                for sum in sums {
                    black_box(vaddvq_s32(sum));
                }
                ROUNDS * (SUMS * 2 * $multiplications) as u64
            }
        };
    }
    chains!(matmul, "neon,i8mm", 32);
    chains!(dot, "neon,dotprod", 16);
    chains!(dot_widening, "neon", 16);

    #[inline(always)]
    fn opaque(mut a: int8x16_t) -> int8x16_t {
        // SAFETY: no instruction at all.
        unsafe {
            std::arch::asm!("/* {0:v} */", inout(vreg) a, options(nomem, nostack, preserves_flags));
        }
        a
    }
}

#[cfg(target_arch = "x86_64")]
use x86::{bf16_chains, int8_chains};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{Chains, ROUNDS, SUMS};
    use crate::amx::{self, TILE_ROWS, TileShapes, Tiles};
    use crate::{Amx, Isa};

    /// The chains of bf16 dot products that `isa` has.
    pub(super) fn bf16_chains(isa: Isa) -> Option<Chains> {
        match isa {
            Isa::Amx(_) => Some(tiles_bf16),
            // SAFETY: `rate` calls the chains with the same `isa`, whose token proves the instructions.
            Isa::Avx512(cpu) if cpu.has_bf16() => Some(|_| unsafe { zmm_bf16() }),
            _ => None,
        }
    }

    /// The chains of byte dot products that `isa` has; without VNNI the kernels take those of AVX2.
    pub(super) fn int8_chains(isa: Isa) -> Option<Chains> {
        match isa {
            Isa::Scalar => None,
            Isa::Amx(_) => Some(tiles_int8),
            // SAFETY: the token proves VNNI.
            Isa::Avx512(cpu) if cpu.has_vnni() => Some(|_| unsafe { zmm_int8() }),
            // SAFETY: the token proves AVX2, that of AVX-512 too.
            Isa::Avx2(_) | Isa::Avx512(_) => Some(|_| unsafe { ymm_int8() }),
        }
    }

    /// # Safety
    /// The CPU has AVX-512 BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn zmm_bf16() -> u64 {
        let ones = black_box([0x3f80_3f80u32; 16]);
        // SAFETY: the same 64 bytes, of which any are valid for both types.
        let a = unsafe { std::mem::transmute::<[u32; 16], __m512bh>(ones) };
        let mut sums = [_mm512_setzero_ps(); SUMS];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = _mm512_set1_ps(black_box(i as f32));
        }
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, a);
            }
        }
        for sum in sums {
            black_box(_mm512_reduce_add_ps(sum));
        }
        ROUNDS * (SUMS * 2 * 32) as u64
    }

    /// # Safety
    /// The CPU has AVX-512 VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn zmm_int8() -> u64 {
        let (a, b) = (
            _mm512_set1_epi8(black_box(7)),
            _mm512_set1_epi8(black_box(-3)),
        );
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = _mm512_set1_epi32(black_box(i as i32));
        }
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        for sum in sums {
            black_box(_mm512_reduce_add_epi32(sum));
        }
        ROUNDS * (SUMS * 2 * 64) as u64
    }

    /// # Safety
    /// The CPU has AVX2.
    #[target_feature(enable = "avx2")]
    unsafe fn ymm_int8() -> u64 {
        let (a, b) = (
            _mm256_set1_epi8(black_box(7)),
            _mm256_set1_epi8(black_box(-3)),
        );
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_si256(); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                let mut a = a;
                // SAFETY: no instruction at all. It keeps the compiler from computing the product,
                // which does not change, only once.
                unsafe {
                    asm!("/* {0} */", inout(ymm_reg) a, options(nomem, nostack, preserves_flags))
                };
                let pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones);
                *sum = _mm256_add_epi32(*sum, pairs);
            }
        }
        black_box(sums);
        ROUNDS * (SUMS * 2 * 32) as u64
    }

    /// Products of tiles in a round, each with an accumulator of its own.
    const PRODUCTS: u64 = 4;
    /// Rounds in a task: a product takes sixteen cycles, so fewer than of the vector instructions.
    const TILE_ROUNDS: u64 = ROUNDS / 16;
    const FULL: TileShapes = TileShapes::new([[TILE_ROWS, 64]; 8]);

    fn tiles_bf16(isa: Isa) -> u64 {
        let Isa::Amx(cpu) = isa else { return 0 };
        // SAFETY: the closure runs with tiles configured, as `with_operands` says.
        with_operands(cpu, 0x3f80, || unsafe {
            for _ in 0..TILE_ROUNDS {
                amx::dot_bf16::<0, 4, 6>();
                amx::dot_bf16::<1, 4, 7>();
                amx::dot_bf16::<2, 5, 6>();
                amx::dot_bf16::<3, 5, 7>();
            }
        });
        TILE_ROUNDS * PRODUCTS * (2 * TILE_ROWS * 16 * 32) as u64
    }

    fn tiles_int8(isa: Isa) -> u64 {
        let Isa::Amx(cpu) = isa else { return 0 };
        // SAFETY: as above.
        with_operands(cpu, 0x0703, || unsafe {
            for _ in 0..TILE_ROUNDS {
                amx::dot_i8::<0, 4, 6>();
                amx::dot_i8::<1, 4, 7>();
                amx::dot_i8::<2, 5, 6>();
                amx::dot_i8::<3, 5, 7>();
            }
        });
        TILE_ROUNDS * PRODUCTS * (2 * TILE_ROWS * 16 * 64) as u64
    }

    /// Calls `products` with full tiles configured: zeros in 0 to 3, `value` everywhere in 4 to 7.
    fn with_operands(cpu: Amx, value: u16, products: impl FnOnce()) {
        let _tiles = Tiles::configure(cpu, &FULL);
        let operand = [value; 32 * TILE_ROWS];
        // SAFETY: the tiles are configured, for 16 rows of 64 bytes, which is what `operand` holds.
        unsafe {
            amx::load::<4>(operand.as_ptr().cast(), 64);
            amx::load::<5>(operand.as_ptr().cast(), 64);
            amx::load::<6>(operand.as_ptr().cast(), 64);
            amx::load::<7>(operand.as_ptr().cast(), 64);
        }
        products();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::devices;

    #[test]
    fn the_peaks_of_every_isa_are_those_of_a_computer() {
        for device in devices(1) {
            let peaks = peaks(&device);
            println!("{device:?}: {peaks:?}");
            let all = [Some(peaks.f32_flops), peaks.bf16_flops, peaks.int8_ops];
            for rate in all.into_iter().flatten() {
                assert!((1e7..1e15).contains(&rate), "{peaks:?}");
            }
        }
    }

    #[test]
    fn the_kinds_of_operation_are_those_of_the_instruction_set() {
        for isa in Isa::available() {
            let has = (bf16_chains(isa).is_some(), int8_chains(isa).is_some());
            let expected = match isa {
                Isa::Scalar => (false, false),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2(_) => (false, true),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512(cpu) => (cpu.has_bf16(), true),
                #[cfg(target_arch = "x86_64")]
                Isa::Amx(_) => (true, true),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon(_) => (false, true),
            };
            assert_eq!(has, expected, "{isa}");
        }
    }
}
