//! Where a benchmark ran.

use glm_kernels::{CpuOptions, Device, KernelError, Peaks, WeightFormat, bandwidth, peaks};
use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use crate::engine::ModelInfo;

/// The machine, as far as it bears on speed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Machine {
    /// The processor's own name.
    pub cpu: String,
    /// Instruction set that the kernels use.
    pub isa: String,
    /// Threads that the kernels use.
    pub threads: usize,
    /// Logical processors of the machine.
    pub logical_cores: usize,
    /// Memory of the machine in bytes.
    pub memory_bytes: u64,
    /// Measured read bandwidth of main memory with these threads, in GB/s (1e9 bytes).
    pub bandwidth_gb_s: f64,
    /// Measured peak of f32 arithmetic with these threads, in 1e9 operations per second; a multiply-add is two.
    pub f32_gflop_s: f64,
    /// The same for bf16, if the instruction set has it.
    pub bf16_gflop_s: Option<f64>,
    /// The same for 8-bit integers, if the instruction set has it.
    pub int8_gop_s: Option<f64>,
    /// Largest memory use of this process so far, in bytes; `None` where the system does not say.
    pub peak_memory_bytes: Option<u64>,
    /// Operating system and processor family.
    pub system: String,
    /// Version of this library.
    pub version: &'static str,
}

impl Machine {
    /// Looks at this machine and measures its read bandwidth and its arithmetic with as many threads as the engine will use. Peak memory is
    /// counted from here on, without the measurement's own buffer.
    ///
    /// # Errors
    /// [`KernelError`] if there is no room for the measurement's buffer or `threads` cannot be.
    pub fn measure(threads: Option<usize>) -> Result<Self, KernelError> {
        let device = Device::cpu(CpuOptions {
            threads,
            ..CpuOptions::default()
        })?;
        let system = System::new_with_specifics(
            RefreshKind::nothing()
                .with_cpu(CpuRefreshKind::nothing())
                .with_memory(MemoryRefreshKind::nothing().with_ram()),
        );
        let cpu = system
            .cpus()
            .first()
            .map(|cpu| cpu.brand().trim())
            .unwrap_or_default();
        let bandwidth_gb_s = bandwidth(&device)?;
        let Peaks {
            f32_flops,
            bf16_flops,
            int8_ops,
        } = peaks(&device);
        device.release_cached_memory();
        reset_peak_memory();
        Ok(Self {
            cpu: if cpu.is_empty() {
                std::env::consts::ARCH.to_owned()
            } else {
                cpu.to_owned()
            },
            isa: device.isa().to_string(),
            threads: device.num_threads(),
            logical_cores: system.cpus().len(),
            memory_bytes: system.total_memory(),
            bandwidth_gb_s,
            f32_gflop_s: f32_flops / 1e9,
            bf16_gflop_s: bf16_flops.map(|rate| rate / 1e9),
            int8_gop_s: int8_ops.map(|rate| rate / 1e9),
            peak_memory_bytes: None,
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            version: env!("CARGO_PKG_VERSION"),
        })
    }

    /// The limits of where `model` computes: this machine's, or those that are known of a graphics processor, which is its bandwidth.
    #[must_use]
    pub fn of_model(self, model: &ModelInfo) -> Self {
        match model.device_bandwidth_gb_s {
            Some(bandwidth_gb_s) => Self {
                cpu: model.device.clone(),
                isa: "cuda".to_owned(),
                bandwidth_gb_s,
                f32_gflop_s: 0.0,
                bf16_gflop_s: None,
                int8_gop_s: None,
                ..self
            },
            None => self,
        }
    }

    /// The arithmetic that limits `model` here, by the format of most of its weights, in 1e9 operations per second: 8-bit
    /// integers for block formats, bf16 for bf16 where that is faster than f32, else f32.
    pub fn peak_gop_s(&self, model: &ModelInfo) -> f64 {
        let format = model.formats.first().map(|(name, _)| name.parse());
        match format {
            Some(Ok(WeightFormat::BF16)) => self.bf16_gflop_s.unwrap_or(0.0).max(self.f32_gflop_s),
            Some(Ok(WeightFormat::F32 | WeightFormat::F16)) | Some(Err(_)) | None => {
                self.f32_gflop_s
            }
            Some(Ok(_)) => self.int8_gop_s.unwrap_or(self.f32_gflop_s),
        }
    }
}

/// Largest resident memory of this process so far, in bytes (Linux: `VmHWM`).
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Starts [`peak_memory`] over. Where the system does not allow it, the old peak stays in the count.
fn reset_peak_memory() {
    let _ = std::fs::write("/proc/self/clear_refs", "5"); // proc(5): 5 resets the peak resident set size
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_grows_with_what_is_touched() {
        let before = super::peak_memory().unwrap();
        let touched = vec![1u8; before as usize + (64 << 20)];
        let after = super::peak_memory().unwrap();
        assert!(
            after >= before + (32 << 20),
            "{before} {after} {}",
            touched[touched.len() / 2]
        );
    }
}
