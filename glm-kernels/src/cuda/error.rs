//! What can go wrong between this crate and a CUDA driver.

/// Why CUDA could not be used, or a call of its driver failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The program was built without the feature `cuda`.
    #[error("this program was built without CUDA (cargo feature `cuda`): use the device cpu")]
    NotBuilt,
    /// The driver's library is not there.
    #[error(
        "no NVIDIA driver: {library} cannot be opened. Install the driver, or use the device cpu"
    )]
    NoDriver {
        /// The library that was looked for.
        library: &'static str,
    },
    /// The driver is older than the kernels.
    #[error(
        "the NVIDIA driver runs CUDA {}.{} only, {}.{} is needed: install a newer driver, or use the device cpu",
        found / 1000, found % 1000 / 10, needed / 1000, needed % 1000 / 10
    )]
    DriverTooOld {
        /// The version of CUDA that it runs, `1000 * major + 10 * minor`.
        found: u32,
        /// The least that would do.
        needed: u32,
    },
    /// There is no device of this number.
    #[error("there is no CUDA device {ordinal}: this machine has {}", present(*.count))]
    NoDevice {
        /// The number that was asked for.
        ordinal: usize,
        /// How many devices there are.
        count: usize,
    },
    /// The device cannot run the kernels.
    #[error("{device} has compute capability {}.{}, kernels need {needed}: use the device cpu", found.0, found.1)]
    TooOldDevice {
        /// The device's name.
        device: String,
        /// Its compute capability.
        found: (u32, u32),
        /// What would do.
        needed: &'static str,
    },
    /// A kernel cannot be loaded on this device.
    #[error("kernels `{module}` cannot be loaded: {reason}")]
    Module {
        /// The name of the source file.
        module: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// NVIDIA's library of matrix products cannot be used. Nothing but speed is lost.
    #[error("cuBLASLt is not used: {reason}")]
    NoCublasLt {
        /// What is missing.
        reason: String,
    },
    /// The device's memory is used up.
    #[error("no room for {bytes} bytes")]
    OutOfMemory {
        /// The bytes that were asked for.
        bytes: usize,
    },
    /// The driver found no memory on the device for what it keeps there itself: kernels, their stacks, recorded launches.
    #[error(
        "{call} failed: the driver has no memory left on the device for its own needs. Leave it some: a smaller KV cache, \
         or no other program on the device"
    )]
    DriverMemory {
        /// The call.
        call: &'static str,
    },
    /// The device's context is broken: nothing that is done with it can succeed any more.
    #[error("{call} failed for good: {reason}")]
    Lost {
        /// The call that found out.
        call: &'static str,
        /// What the driver said.
        reason: String,
    },
    /// Another failure of a call.
    #[error("{call} failed: {reason}")]
    Call {
        /// The call.
        call: &'static str,
        /// What the driver said.
        reason: String,
    },
}

/// What a machine with so many devices has.
fn present(count: usize) -> String {
    match count {
        0 => "none (use the device cpu)".to_owned(),
        1 => "device 0 only".to_owned(),
        count => format!("devices 0 to {}", count - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_is_missing_and_the_way_out() {
        let none = CudaError::NoDevice {
            ordinal: 0,
            count: 0,
        };
        assert_eq!(
            none.to_string(),
            "there is no CUDA device 0: this machine has none (use the device cpu)"
        );
        let old = CudaError::DriverTooOld {
            found: 11_080,
            needed: 12_000,
        };
        assert!(old.to_string().contains("runs CUDA 11.8 only, 12.0 is"));
    }
}
