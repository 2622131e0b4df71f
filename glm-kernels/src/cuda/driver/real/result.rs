//! What the driver's results mean.

use std::ffi::{CStr, c_char};
use std::ptr;

use cudarc::driver::sys::{self, CUresult};

use super::LIBRARY;
use crate::CudaError;

/// What is to be made of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The call did what it is for.
    Done,
    /// The driver has no memory for it.
    NoMemory,
    /// The machine has no device.
    NoDevice,
    /// What was opened is not the driver: toolkits bring a library of its name that programs are linked with.
    NoDriver,
    /// The context is broken for good, or gone.
    Lost,
    /// The call failed; others may succeed.
    Refused,
}

/// What a result means.
fn meaning(result: CUresult) -> Meaning {
    use CUresult as R;

    match result {
        R::CUDA_SUCCESS => Meaning::Done,
        R::CUDA_ERROR_OUT_OF_MEMORY => Meaning::NoMemory,
        R::CUDA_ERROR_NO_DEVICE => Meaning::NoDevice,
        R::CUDA_ERROR_STUB_LIBRARY => Meaning::NoDriver,
        R::CUDA_ERROR_DEINITIALIZED
        | R::CUDA_ERROR_DEVICE_UNAVAILABLE
        | R::CUDA_ERROR_INVALID_CONTEXT
        | R::CUDA_ERROR_ECC_UNCORRECTABLE
        | R::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | R::CUDA_ERROR_CONTAINED
        | R::CUDA_ERROR_ILLEGAL_ADDRESS
        | R::CUDA_ERROR_LAUNCH_TIMEOUT
        | R::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | R::CUDA_ERROR_ASSERT
        | R::CUDA_ERROR_HARDWARE_STACK_ERROR
        | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | R::CUDA_ERROR_MISALIGNED_ADDRESS
        | R::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | R::CUDA_ERROR_INVALID_PC
        | R::CUDA_ERROR_LAUNCH_FAILED
        | R::CUDA_ERROR_TENSOR_MEMORY_LEAK
        | R::CUDA_ERROR_MPS_CLIENT_TERMINATED
        | R::CUDA_ERROR_EXTERNAL_DEVICE
        | R::CUDA_ERROR_UNKNOWN => Meaning::Lost,
        _ => Meaning::Refused,
    }
}

/// The result of a call. The driver's library is there.
pub(super) fn check(call: &'static str, result: CUresult) -> Result<(), CudaError> {
    error(call, meaning(result), || describe(result)).map_or(Ok(()), Err)
}

/// The error that a result is, if it is one.
fn error(
    call: &'static str,
    meaning: Meaning,
    describe: impl FnOnce() -> String,
) -> Option<CudaError> {
    Some(match meaning {
        Meaning::Done => return None,
        Meaning::NoMemory => CudaError::DriverMemory { call },
        Meaning::NoDevice => CudaError::NoDevice {
            ordinal: 0,
            count: 0,
        },
        Meaning::NoDriver => CudaError::NoDriver { library: LIBRARY },
        Meaning::Lost => CudaError::Lost {
            call,
            reason: describe(),
        },
        Meaning::Refused => CudaError::Call {
            call,
            reason: describe(),
        },
    })
}

/// The driver's name of a result and its sentence about it.
fn describe(result: CUresult) -> String {
    let (mut name, mut text) = (ptr::null(), ptr::null());
    // SAFETY: both are valid for a write; what the driver gives are constants of its own.
    unsafe {
        let _ = sys::cuGetErrorName(result, &raw mut name);
        let _ = sys::cuGetErrorString(result, &raw mut text);
        let read = |text: *const c_char| match text.is_null() {
            true => "unknown".into(),
            false => CStr::from_ptr(text).to_string_lossy(),
        };
        format!("{} ({})", read(text), read(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the numbers of `cuda.h` mean that a program meets.
    #[test]
    fn numbers_of_the_driver_have_a_meaning() {
        use CUresult as R;

        for (result, number, expected) in [
            (R::CUDA_SUCCESS, 0, Meaning::Done),
            (R::CUDA_ERROR_INVALID_VALUE, 1, Meaning::Refused),
            (R::CUDA_ERROR_OUT_OF_MEMORY, 2, Meaning::NoMemory),
            (R::CUDA_ERROR_NOT_INITIALIZED, 3, Meaning::Refused),
            (R::CUDA_ERROR_DEINITIALIZED, 4, Meaning::Lost),
            (R::CUDA_ERROR_STUB_LIBRARY, 34, Meaning::NoDriver),
            (R::CUDA_ERROR_DEVICE_UNAVAILABLE, 46, Meaning::Lost),
            (R::CUDA_ERROR_NO_DEVICE, 100, Meaning::NoDevice),
            (R::CUDA_ERROR_INVALID_DEVICE, 101, Meaning::Refused),
            (R::CUDA_ERROR_INVALID_IMAGE, 200, Meaning::Refused),
            (R::CUDA_ERROR_INVALID_CONTEXT, 201, Meaning::Lost),
            (R::CUDA_ERROR_NO_BINARY_FOR_GPU, 209, Meaning::Refused),
            (R::CUDA_ERROR_ECC_UNCORRECTABLE, 214, Meaning::Lost),
            (R::CUDA_ERROR_INVALID_PTX, 218, Meaning::Refused),
            (R::CUDA_ERROR_NVLINK_UNCORRECTABLE, 220, Meaning::Lost),
            (R::CUDA_ERROR_UNSUPPORTED_PTX_VERSION, 222, Meaning::Refused),
            (R::CUDA_ERROR_CONTAINED, 226, Meaning::Lost),
            (R::CUDA_ERROR_INVALID_HANDLE, 400, Meaning::Refused),
            (R::CUDA_ERROR_NOT_FOUND, 500, Meaning::Refused),
            (R::CUDA_ERROR_NOT_READY, 600, Meaning::Refused),
            (R::CUDA_ERROR_ILLEGAL_ADDRESS, 700, Meaning::Lost),
            (R::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, 701, Meaning::Refused),
            (R::CUDA_ERROR_LAUNCH_TIMEOUT, 702, Meaning::Lost),
            (R::CUDA_ERROR_CONTEXT_IS_DESTROYED, 709, Meaning::Lost),
            (R::CUDA_ERROR_ASSERT, 710, Meaning::Lost),
            (R::CUDA_ERROR_ILLEGAL_INSTRUCTION, 715, Meaning::Lost),
            (R::CUDA_ERROR_MISALIGNED_ADDRESS, 716, Meaning::Lost),
            (R::CUDA_ERROR_INVALID_PC, 718, Meaning::Lost),
            (R::CUDA_ERROR_LAUNCH_FAILED, 719, Meaning::Lost),
            (R::CUDA_ERROR_NOT_SUPPORTED, 801, Meaning::Refused),
            (R::CUDA_ERROR_SYSTEM_NOT_READY, 802, Meaning::Refused),
            (R::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, 803, Meaning::Refused),
            (R::CUDA_ERROR_MPS_CLIENT_TERMINATED, 810, Meaning::Lost),
            (
                R::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
                901,
                Meaning::Refused,
            ),
            (R::CUDA_ERROR_UNKNOWN, 999, Meaning::Lost),
        ] {
            assert_eq!(result as u32, number);
            assert_eq!(meaning(result), expected, "{result:?}");
        }
    }

    #[test]
    fn each_meaning_has_its_error_and_the_way_out() {
        let error = |meaning| error("cuLaunchKernelEx", meaning, || "what it says".to_owned());
        assert_eq!(error(Meaning::Done), None);
        let text = |meaning| error(meaning).unwrap().to_string();
        for (meaning, expected) in [
            (Meaning::NoMemory, "Leave it some: a smaller KV cache"),
            (Meaning::NoDevice, "has none (use the device cpu)"),
            (Meaning::NoDriver, "Install the driver"),
            (
                Meaning::Lost,
                "cuLaunchKernelEx failed for good: what it says",
            ),
            (Meaning::Refused, "cuLaunchKernelEx failed: what it says"),
        ] {
            let text = text(meaning);
            assert!(text.contains(expected), "{text}");
        }
    }
}
