//! Devices that are opened, used up and lost, over a driver that is not there.

use super::driver::fake::FakeDriver;
use super::driver::{KernelArg, LaunchConfig};
use super::{CudaDevice, CudaOptions, DeviceBuffer};
use crate::{CudaError, DType, Device, Indices, KernelError, KvDType, KvLayer, Tensor};

const MIB: u64 = 1 << 20;

fn open(driver: &FakeDriver) -> CudaDevice {
    CudaDevice::open(driver, &CudaOptions::default()).unwrap()
}

fn device(driver: &FakeDriver) -> Device {
    Device::with_driver(driver, CudaOptions::default()).unwrap()
}

#[test]
fn a_device_that_is_not_there_or_too_old_is_refused() {
    let driver = FakeDriver::new(2, MIB);
    let ordinal = |ordinal| CudaOptions {
        ordinal,
        ..CudaOptions::default()
    };
    let error = |driver: &FakeDriver, options| match CudaDevice::open(driver, &options) {
        Err(KernelError::Cuda(error)) => error,
        other => panic!("{:?}", other.map(|device| device.name())),
    };
    let count = 2;
    assert_eq!(
        error(&driver, ordinal(2)),
        CudaError::NoDevice { ordinal: 2, count }
    );
    assert_eq!(
        CudaDevice::open(&driver, &ordinal(1)).unwrap().name(),
        "cuda:1"
    );

    let old = FakeDriver {
        version: 11_080,
        ..FakeDriver::new(1, MIB)
    };
    let expected = CudaError::DriverTooOld {
        found: 11_080,
        needed: 12_000,
    };
    assert_eq!(error(&old, ordinal(0)), expected);

    let mut old = FakeDriver::new(1, MIB);
    old.devices[0].compute_capability = (7, 5);
    let expected = (7, 5);
    assert!(matches!(
        error(&old, ordinal(0)),
        CudaError::TooOldDevice { found, .. } if found == expected
    ));
}

#[test]
fn what_is_copied_in_comes_out_again() {
    let cuda = open(&FakeDriver::new(1, MIB));
    let mut buffer = cuda.allocate(1000).unwrap();
    buffer.fill(7).unwrap();
    buffer.copy_in(10, &[1, 2, 3]).unwrap();
    let mut out = [0; 5];
    buffer.copy_out(9, &mut out).unwrap();
    assert_eq!(out, [7, 1, 2, 3, 7]);

    for error in [
        buffer.copy_in(998, &[0; 3]).unwrap_err(),
        buffer.copy_out(usize::MAX, &mut [0; 3]).unwrap_err(),
    ] {
        assert!(matches!(error, KernelError::Index { len: 1000, .. }));
    }
}

#[test]
fn a_copy_that_is_waited_for_later_has_what_was_there() {
    let driver = FakeDriver::new(1, MIB);
    let cuda = open(&driver);
    let mut buffer = cuda.allocate(1000).unwrap();
    buffer.fill(7).unwrap();
    let first = buffer.copy_out_later().unwrap();
    buffer.fill(8).unwrap();
    let second = buffer.copy_out_later().unwrap();
    let third = buffer.copy_out_later().unwrap();
    drop(buffer);
    assert_eq!(driver.faults.copies(), 3);
    assert_eq!(second.wait().unwrap(), [8; 1000]);
    assert_eq!(first.wait().unwrap(), [7; 1000]);
    drop(third);
    assert_eq!(driver.faults.copies(), 0);
    let nothing = cuda.allocate(0).unwrap().copy_out_later().unwrap();
    assert!(nothing.wait().unwrap().is_empty());
}

#[test]
fn large_copies_arrive_whole() {
    let Some(device) = crate::testing::emulated_cuda() else {
        return;
    };
    // More than goes through pinned memory at once, and no whole number of that; then through what was used before.
    for (round, len) in [5_000_011, 3_000_000, 20_000].into_iter().enumerate() {
        let values: Vec<f32> = (0..len).map(|i| (i * 7 + round) as f32).collect();
        let x = Tensor::from_f32(&device, &values, &[len]).unwrap();
        let again = Tensor::from_f32(&device, &values[1..], &[len - 1]).unwrap();
        assert!(x.to_f32_vec().unwrap() == values);
        assert!(again.to_f32_vec().unwrap() == values[1..]);
    }
}

#[test]
fn freed_memory_is_handed_out_again_and_given_back_when_asked() {
    let driver = FakeDriver::new(1, MIB);
    let cuda = open(&driver);
    let first = cuda.allocate(5000).unwrap();
    let address = first.ptr();
    drop(first);
    let calls = driver.faults.calls();
    assert_eq!(cuda.allocate(5001).unwrap().ptr(), address);
    assert_eq!(driver.faults.calls(), calls, "no call of the driver");
    let stats = cuda.allocator_stats();
    assert_eq!((stats.live_bytes, stats.system_allocations), (0, 1));
    assert_eq!(cuda.available_memory().unwrap(), MIB);
    cuda.release_cached_memory();
    assert_eq!(cuda.memory().unwrap().free, MIB);
    assert_eq!(cuda.allocator_stats().cached_bytes, 0);
}

#[test]
fn what_stays_is_cut_from_slabs_side_by_side() {
    let driver = FakeDriver::new(1, 1 << 30);
    let cuda = open(&driver);
    let buffers: Vec<DeviceBuffer> = [1000, 256, 1, 300]
        .into_iter()
        .map(|bytes| cuda.allocate_long_lived(bytes).unwrap())
        .collect();
    let offsets: Vec<u64> = buffers
        .iter()
        .map(|buffer| buffer.ptr().0 - buffers[0].ptr().0)
        .collect();
    assert_eq!(offsets, [0, 1024, 1280, 1536]);
    assert_eq!(cuda.allocator_stats().system_allocations, 1);
    drop(buffers);
    assert_eq!(cuda.memory().unwrap().free, 1 << 30, "all is given back");
}

#[test]
fn a_limit_holds_and_cached_memory_is_given_up_first() {
    let driver = FakeDriver::new(1, 1 << 30);
    let options = CudaOptions {
        memory_limit: Some(MIB),
        ..CudaOptions::default()
    };
    let cuda = CudaDevice::open(&driver, &options).unwrap();
    drop(cuda.allocate(600 << 10).unwrap());
    let large = cuda.allocate(1 << 20).unwrap();
    let error = cuda.allocate(1000).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cuda:0 has no room for 1000 bytes: 0 are left"
    );
    drop(large);
    // A slab does not fit, what is asked for does.
    assert_eq!(cuda.allocate_long_lived(1000).unwrap().len(), 1000);
}

#[test]
fn a_device_without_memory_says_so_and_goes_on() {
    let driver = FakeDriver::new(1, MIB);
    let device = device(&driver);
    driver.faults.set_out_of_memory(true);
    let error = Tensor::zeros(&device, DType::F32, &[10]).unwrap_err();
    assert!(matches!(error, KernelError::DeviceMemory { bytes: 40, .. }));
    driver.faults.set_out_of_memory(false);
    assert!(Tensor::zeros(&device, DType::F32, &[10]).is_ok());
}

#[test]
fn kernels_are_loaded_into_memory_that_is_cached() {
    let cuda = open(&FakeDriver::new(1, MIB));
    let all = cuda.allocate(MIB as usize).unwrap();
    let load = || cuda.kernel("rms_norm", "any").map(|_| ());
    let error = load().unwrap_err();
    assert!(
        matches!(error, KernelError::Cuda(CudaError::DriverMemory { .. })),
        "{error}"
    );
    drop(all);
    assert_eq!(cuda.memory().unwrap().free, 0);
    load().unwrap();
    assert_eq!(cuda.allocator_stats().cached_bytes, 0);
}

#[test]
fn after_a_fatal_error_the_driver_is_not_asked_again() {
    let driver = FakeDriver::new(1, MIB);
    let cuda = open(&driver);
    let kernel = cuda.kernel("rms_norm", "any").unwrap();
    let buffer = cuda.allocate(100).unwrap();
    let launch = || {
        let config = LaunchConfig::linear(1, 32);
        // SAFETY: this driver's kernels do nothing.
        unsafe { cuda.launch(kernel, &config, &[KernelArg::Ptr(buffer.ptr())]) }
    };
    driver.faults.break_after(1);
    launch().unwrap();
    let first = launch().unwrap_err();
    let KernelError::DeviceLost { device, reason } = &first else {
        panic!("{first}");
    };
    assert_eq!(device, "cuda:0");
    assert!(reason.contains("illegal memory access"), "{reason}");

    let calls = driver.faults.calls();
    assert_eq!(launch().unwrap_err(), first);
    assert_eq!(buffer.copy_out(0, &mut [0]).unwrap_err(), first);
    assert_eq!(cuda.synchronize().unwrap_err(), first);
    assert_eq!(cuda.allocate(5000).unwrap_err(), first);
    drop((buffer, cuda));
    assert_eq!(driver.faults.calls(), calls, "nothing is asked of it");
}

#[test]
fn a_launch_of_nothing_is_not_made() {
    let driver = FakeDriver::new(1, MIB);
    let cuda = open(&driver);
    let kernel = cuda.kernel("rms_norm", "any").unwrap();
    // SAFETY: this driver's kernels do nothing.
    unsafe { cuda.launch(kernel, &LaunchConfig::linear(0, 32), &[]) }.unwrap();
    assert_eq!(driver.faults.launches(), 0);
}

#[test]
fn a_tensor_on_a_device_is_copied_and_never_looked_into() {
    let device = device(&FakeDriver::new(1, MIB));
    let x = Tensor::from_f32(&device, &[1.0, 2.0, 3.0], &[3]).unwrap();
    assert_eq!(x.to_f32_vec().unwrap(), [1.0, 2.0, 3.0]);
    for error in [
        x.as_f32().map(|_| ()).unwrap_err(),
        x.as_bytes().map(|_| ()).unwrap_err(),
        x.clone().as_f32_mut().map(|_| ()).unwrap_err(),
    ] {
        assert!(matches!(error, KernelError::OnDevice { .. }), "{error}");
    }
    let mut host = x.into_host().unwrap();
    assert_eq!(host.device(), &device.host());
    host.as_f32_mut().unwrap()[0] = 4.0;
    assert_eq!(host.as_f32().unwrap(), [4.0, 2.0, 3.0]);
}

#[test]
fn pointers_are_given_for_the_own_device_only() {
    let (device, other) = (
        device(&FakeDriver::new(1, MIB)),
        device(&FakeDriver::new(1, MIB)),
    );
    let mut x = Tensor::zeros(&device, DType::F32, &[3]).unwrap();
    let cuda = device.as_cuda().unwrap();
    assert!(x.cuda_ptr("test", "x", cuda).is_ok());
    for error in [
        x.cuda_ptr("test", "x", other.as_cuda().unwrap())
            .unwrap_err(),
        Tensor::zeros(&device.host(), DType::F32, &[3])
            .unwrap()
            .cuda_ptr("test", "x", cuda)
            .unwrap_err(),
        device.check_same("test", "x", &other).unwrap_err(),
        device.check_same("test", "x", &device.host()).unwrap_err(),
    ] {
        assert!(matches!(error, KernelError::OtherDevice { name: "x", .. }));
    }
    assert_eq!(device.check_same("test", "x", &device.clone()), Ok(()));
    let clone = x.clone();
    let error = x.cuda_ptr_mut("test", "x", cuda).unwrap_err();
    assert_eq!(error, KernelError::Shared { op: "test" });
    drop(clone);
    assert!(x.cuda_ptr_mut("test", "x", cuda).is_ok());
}

#[test]
fn indices_are_copied_once_however_often_they_are_used() {
    let driver = FakeDriver::new(1, MIB);
    let device = device(&driver);
    let cuda = device.as_cuda().unwrap();
    let [a, b] = Indices::pack([&[1, 2, 3], &[4, 5]]);
    let first = a.cuda_ptr(cuda).unwrap();
    let calls = driver.faults.calls();
    let second = b.clone().cuda_ptr(cuda).unwrap();
    assert_eq!(a.clone().cuda_ptr(cuda).unwrap(), first);
    assert_eq!(driver.faults.calls(), calls);
    assert_eq!(second, first.offset(128));
    let words = std::ptr::with_exposed_provenance::<u32>(second.0 as usize);
    // SAFETY: this device's memory is the host's, and these two words were written.
    assert_eq!(unsafe { [words.read(), words.add(1).read()] }, [4, 5]);
}

#[test]
fn blocks_of_keys_and_values_are_copied_out_and_in() {
    let device = device(&FakeDriver::new(1, MIB));
    let mut kv = KvLayer::new(&device, KvDType::BF16, 4, 16, 2, 8).unwrap();
    assert_eq!(kv.block_bytes(), 2 * 2 * 16 * 2 * 8);
    let block: Vec<u8> = (0..kv.block_bytes()).map(|i| i as u8).collect();
    kv.write_block(2, &block).unwrap();
    let mut out = vec![9; kv.block_bytes()];
    kv.read_block(2, &mut out).unwrap();
    assert_eq!(out, block);
    for others in [1, 3] {
        kv.read_block(others, &mut out).unwrap();
        assert!(out.iter().all(|byte| *byte == 0));
    }
    assert!(kv.write_block(4, &block).is_err());
    let error = KvLayer::new(&device, KvDType::Q8_0, 4, 16, 2, 8).unwrap_err();
    assert!(matches!(error, KernelError::NotOnCuda { .. }), "{error}");
}
