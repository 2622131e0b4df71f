//! Which vector instructions this CPU has, found once at run time. A token of a type in here is the
//! proof: it can only be made by detection.

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;

use crate::KernelError;

/// An instruction set that this CPU has. Kernels `match` on it and hand the token inside to the
/// path that needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust, on every CPU: the reference.
    Scalar,
    /// 256-bit vectors with fused multiply-add and f16 conversion (Haswell, Zen and later).
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// 512-bit vectors (Skylake-X, Zen 4 and later).
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// 512-bit vectors and a matrix unit (Sapphire Rapids and later).
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
    /// 128-bit vectors (every 64-bit Arm CPU).
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

/// Proof that the CPU has AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx2(());

/// Proof that the CPU has AVX-512 F, BW, DQ and VL (and what [`Avx2`] stands for); the flags say
/// what it has beyond that.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx512 {
    vnni: bool,
    bf16: bool,
}

/// Proof that the CPU has AMX for bytes and bf16 (and what [`Avx512`] stands for, VNNI and BF16 included), and that the system lets this
/// process use it.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amx {
    avx512: Avx512,
}

/// Proof that the CPU has NEON; the flags say what it has beyond that.
#[cfg(target_arch = "aarch64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neon {
    dotprod: bool,
    i8mm: bool,
}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// The token, if this CPU has the instructions.
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    /// The token, if this CPU has the instructions.
    pub fn detect() -> Option<Self> {
        let found = Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        found.then(|| Self {
            vnni: is_x86_feature_detected!("avx512vnni"),
            bf16: is_x86_feature_detected!("avx512bf16"),
        })
    }

    /// Whether the CPU has AVX512-VNNI: dot products of bytes.
    pub fn has_vnni(self) -> bool {
        self.vnni
    }

    /// Whether the CPU has AVX512-BF16: dot products of bf16 pairs.
    pub fn has_bf16(self) -> bool {
        self.bf16
    }

    /// The AVX2 token that this one implies.
    pub fn avx2(self) -> Avx2 {
        Avx2(())
    }
}

#[cfg(target_arch = "x86_64")]
impl Amx {
    /// The token, if this CPU has the unit and the system grants it, which only Linux is known to do.
    pub fn detect() -> Option<Self> {
        let avx512 = Avx512::detect().filter(|cpu| cpu.vnni && cpu.bf16)?;
        (cpu_has_amx() && request_amx()).then_some(Self { avx512 })
    }

    /// The AVX-512 token that this one implies.
    pub fn avx512(self) -> Avx512 {
        self.avx512
    }
}

/// Leaf 7 of `cpuid`: bf16 products, tiles, byte products. (The standard library's detection of these is not stable.)
#[cfg(target_arch = "x86_64")]
fn cpu_has_amx() -> bool {
    const BITS: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    let has_leaf = std::arch::x86_64::__cpuid(0).eax >= 7;
    has_leaf && std::arch::x86_64::__cpuid_count(7, 0).edx & BITS == BITS
}

/// Asks the system to keep tiles when it switches threads; granted once, it holds for the process. See
/// <https://docs.kernel.org/arch/x86/xstate.html>.
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
fn request_amx() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: this call takes two integers and changes nothing but what the process may use.
    unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        ) == 0
    }
}

#[cfg(all(target_arch = "x86_64", not(all(target_os = "linux", not(miri)))))]
fn request_amx() -> bool {
    false
}

#[cfg(target_arch = "aarch64")]
impl Neon {
    /// The token, if this CPU has the instructions. Lanes are counted from the lowest address, so not on a big-endian system.
    pub fn detect() -> Option<Self> {
        let found = cfg!(target_endian = "little") && is_aarch64_feature_detected!("neon");
        found.then(|| Self {
            dotprod: is_aarch64_feature_detected!("dotprod"),
            i8mm: is_aarch64_feature_detected!("dotprod") && is_aarch64_feature_detected!("i8mm"),
        })
    }

    /// Whether the CPU has FEAT_DotProd: dot products of bytes.
    pub fn has_dotprod(self) -> bool {
        self.dotprod
    }

    /// Whether the CPU has FEAT_I8MM, products of byte matrices, and dot products too.
    pub fn has_i8mm(self) -> bool {
        self.i8mm
    }
}

impl Isa {
    /// Every name that `GLM_ISA` takes, on whatever CPU.
    const NAMES: [&str; 5] = ["scalar", "avx2", "avx512", "amx", "neon"];

    /// The widest instruction set of this CPU, or the one that the environment variable `GLM_ISA`
    /// names.
    ///
    /// # Errors
    /// [`KernelError::UnknownIsa`] or [`KernelError::IsaUnavailable`] if `GLM_ISA` names one that
    /// does not exist or that this CPU lacks.
    pub fn detect() -> Result<Self, KernelError> {
        match std::env::var_os("GLM_ISA") {
            Some(name) => Self::named(&name.to_string_lossy()),
            None => Ok(Self::available().last().copied().unwrap_or(Self::Scalar)),
        }
    }

    /// The instruction set called `name`: `scalar`, `avx2`, `avx512`, `amx` or `neon`.
    ///
    /// # Errors
    /// [`KernelError::UnknownIsa`] for any other name, [`KernelError::IsaUnavailable`] if this CPU
    /// lacks it.
    pub fn named(name: &str) -> Result<Self, KernelError> {
        let available = Self::available();
        if let Some(isa) = available.iter().find(|isa| isa.name() == name) {
            return Ok(*isa);
        }
        let requested = Self::NAMES.into_iter().find(|known| *known == name);
        Err(match requested {
            Some(requested) => {
                let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
                KernelError::IsaUnavailable {
                    requested,
                    available: names.join(", "),
                }
            }
            None => KernelError::UnknownIsa(name.to_owned()),
        })
    }

    /// Every instruction set of this CPU, narrowest first; tests run each of them.
    pub fn available() -> Vec<Self> {
        let all = [
            Some(Self::Scalar),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            Avx512::detect().map(Self::Avx512),
            #[cfg(target_arch = "x86_64")]
            Amx::detect().map(Self::Amx),
            #[cfg(target_arch = "aarch64")]
            Neon::detect().map(Self::Neon),
        ];
        all.into_iter().flatten().collect()
    }

    /// The name that `GLM_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => "amx",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
        }
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())?;
        let flags: &[(bool, &str)] = match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(cpu) => &[(cpu.vnni, "+vnni"), (cpu.bf16, "+bf16")],
            #[cfg(target_arch = "aarch64")]
            Self::Neon(cpu) => &[(cpu.dotprod, "+dotprod"), (cpu.i8mm, "+i8mm")],
            _ => &[],
        };
        let mut had = flags.iter().filter(|(has, _)| *has);
        had.try_for_each(|(_, flag)| f.write_str(flag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_isa_is_found_by_its_name() {
        let available = Isa::available();
        println!("instruction sets on this machine: {available:?}");
        assert_eq!(available[0], Isa::Scalar);
        for isa in available {
            assert_eq!(Isa::named(isa.name()), Ok(isa));
        }
    }

    #[test]
    fn a_name_that_does_not_exist_is_an_error_that_lists_the_choices() {
        let error = Isa::named("sse9").unwrap_err();
        assert_eq!(error, KernelError::UnknownIsa("sse9".into()));
        assert!(
            error
                .to_string()
                .contains("scalar, avx2, avx512, amx or neon")
        );
    }

    #[test]
    fn an_isa_that_is_missing_is_another_error() {
        // No CPU has those of two architectures.
        let name = if cfg!(target_arch = "aarch64") {
            "avx2"
        } else {
            "neon"
        };
        assert!(matches!(
            Isa::named(name),
            Err(KernelError::IsaUnavailable { .. })
        ));
    }
}
