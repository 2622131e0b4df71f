//! The library over a driver that is not there: which products it is asked for, what it keeps, and what becomes of its errors.

use super::*;
use crate::cuda::driver::fake::FakeDriver;
use crate::cuda::{CudaDevice, CudaOptions};
use crate::testing::Random;

const GIB: u64 = 1 << 30;

fn driver() -> FakeDriver {
    FakeDriver {
        cublaslt: true,
        ..FakeDriver::new(1, GIB)
    }
}

/// A device that the library is not opened for, whatever the environment says.
fn device(driver: &FakeDriver) -> CudaDevice {
    let device = CudaDevice::open(driver, &CudaOptions::default()).unwrap();
    device.with_cublaslt(Some(OsStr::new("off"))).unwrap()
}

fn opened(driver: &FakeDriver) -> CudaDevice {
    device(driver).with_cublaslt(None).unwrap()
}

/// Weights, activations and a bias on a device, and room for products.
struct Case {
    shape: ProductShape,
    weights: DeviceBuffer,
    x: DeviceBuffer,
    bias: DeviceBuffer,
    out: DeviceBuffer,
}

impl Case {
    fn new(cuda: &CudaDevice, rows: u32, columns: u32, tokens: u32) -> Self {
        let mut random = Random::new(u64::from(rows * columns + tokens));
        let mut upload = |count: u32, half: bool| {
            let values = random.values(count as usize);
            let bytes: Vec<u8> = match half {
                true => (values.iter())
                    .flat_map(|value| half::bf16::from_f32(*value).to_le_bytes())
                    .collect(),
                false => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            };
            let mut buffer = cuda.allocate(bytes.len()).unwrap();
            buffer.copy_in(0, &bytes).unwrap();
            buffer
        };
        let stride = rows + 3;
        let mut out = cuda.allocate((tokens * stride) as usize * 4).unwrap();
        out.fill(0xff).unwrap();
        Self {
            shape: ProductShape {
                rows,
                columns,
                tokens,
                stride,
                biased: true,
            },
            weights: upload(rows * columns, true),
            x: upload(tokens * columns, true),
            bias: upload(rows, false),
            out,
        }
    }

    fn product(&self) -> Product {
        Product {
            shape: self.shape,
            weights: self.weights.ptr(),
            x: self.x.ptr(),
            bias: match self.shape.biased {
                true => self.bias.ptr(),
                false => DevicePtr(0),
            },
            out: self.out.ptr(),
        }
    }

    fn multiply(&self, cuda: &CudaDevice) -> Result<bool, KernelError> {
        // SAFETY: the buffers have the lengths of the shape.
        unsafe { cuda.cublaslt.multiply(&self.product()) }
    }

    fn values(buffer: &DeviceBuffer, half: bool) -> Vec<f32> {
        let mut bytes = vec![0; buffer.len()];
        buffer.copy_out(0, &mut bytes).unwrap();
        match half {
            true => (bytes.as_chunks().0.iter())
                .map(|word| half::bf16::from_le_bytes(*word).to_f32())
                .collect(),
            false => (bytes.as_chunks().0.iter())
                .map(|word| f32::from_le_bytes(*word))
                .collect(),
        }
    }

    fn check(&self) {
        let columns = self.shape.columns as usize;
        let (weights, x) = (
            Self::values(&self.weights, true),
            Self::values(&self.x, true),
        );
        let (bias, out) = (
            Self::values(&self.bias, false),
            Self::values(&self.out, false),
        );
        for (out, x) in (out.chunks(self.shape.stride as usize)).zip(x.chunks(columns)) {
            let (out, beyond) = out.split_at(self.shape.rows as usize);
            assert!(beyond.iter().all(|value| value.is_nan()));
            for ((got, row), bias) in out.iter().zip(weights.chunks(columns)).zip(&bias) {
                let bias = if self.shape.biased { *bias } else { 0.0 };
                let sum: f64 = (x.iter().zip(row))
                    .map(|(x, w)| f64::from(*x) * f64::from(*w))
                    .sum();
                let want = sum + f64::from(bias);
                assert!((f64::from(*got) - want).abs() < 1e-4, "{got} {want}");
            }
        }
    }
}

#[test]
fn a_product_is_planned_once_for_all_prompts_of_about_its_length() {
    let driver = driver();
    let cuda = opened(&driver);
    for (tokens, plans) in [(128, 1), (100, 1), (65, 1), (129, 2), (64, 3), (256, 3)] {
        let case = Case::new(&cuda, 37, 64, tokens);
        assert_eq!(case.multiply(&cuda), Ok(true));
        case.check();
        assert_eq!(driver.faults.plans(), plans, "{tokens} tokens");
    }
    let mut plain = Case::new(&cuda, 37, 64, 256);
    plain.shape.biased = false;
    assert_eq!(plain.multiply(&cuda), Ok(true));
    plain.check();
    assert_eq!(driver.faults.plans(), 4, "without a bias it is another");
    assert_eq!(Case::new(&cuda, 38, 64, 256).multiply(&cuda), Ok(true));
    assert_eq!(driver.faults.plans(), 5);
    let (products, error) = (8, None);
    assert_eq!(cuda.cublaslt.stats(), CublasLtStats { products, error });
}

#[test]
fn its_memory_is_the_devices_and_goes_with_it() {
    let driver = driver();
    let without = device(&driver);
    assert_eq!(without.available_memory(), Ok(GIB));
    let cuda = without.with_cublaslt(None).unwrap();
    assert_eq!(cuda.available_memory(), Ok(GIB - (32 << 20)));
    assert_eq!(cuda.allocator_stats().live_bytes, 32 << 20);
    for (capability, mib) in [((8, 0), 4), ((8, 9), 4), ((10, 0), 32), ((12, 0), 12)] {
        let mut info = driver.devices[0].clone();
        info.compute_capability = capability;
        assert_eq!(workspace_bytes(&info), mib << 20);
    }
}

#[test]
fn where_there_is_no_room_for_its_memory_it_is_not_used() {
    let driver = driver();
    let options = CudaOptions {
        memory_limit: Some(16 << 20),
        ..CudaOptions::default()
    };
    let cuda = CudaDevice::open(&driver, &options).unwrap();
    let cuda = cuda.with_cublaslt(None).unwrap();
    assert_eq!(cuda.available_memory(), Ok(16 << 20));
    let case = Case::new(&cuda, 16, 64, 128);
    assert_eq!(case.multiply(&cuda), Ok(false));
    let error = cuda.cublaslt.stats().error.unwrap();
    assert!(error.contains("no room for 33554432 bytes"), "{error}");
}

#[test]
fn missing_or_switched_off_it_is_no_error() {
    let missing = FakeDriver::new(1, GIB);
    let off = device(&driver());
    for cuda in [opened(&missing), off] {
        let case = Case::new(&cuda, 16, 64, 128);
        assert_eq!(case.multiply(&cuda), Ok(false));
        cuda.cublaslt
            .try_once(|| panic!("there is nothing to be tried"));
        assert!(!cuda.cublaslt.is_trusted());
        assert_eq!(cuda.cublaslt.stats(), CublasLtStats::default());
    }
    assert!(is_off(Some(OsStr::new("off"))));
    assert!(!is_off(Some(OsStr::new("/lib/libcublasLt.so.12"))));
    assert!(!is_off(None));
}

#[test]
fn a_shape_that_cannot_be_planned_is_asked_for_once() {
    let driver = driver();
    let cuda = opened(&driver);
    let case = Case::new(&cuda, 16, 64, 128);
    driver.faults.refuse_plans(true);
    assert_eq!(case.multiply(&cuda), Ok(false));
    driver.faults.refuse_plans(false);
    let calls = driver.faults.calls();
    assert_eq!(case.multiply(&cuda), Ok(false));
    assert_eq!(driver.faults.calls(), calls);
    let other = Case::new(&cuda, 17, 64, 128);
    assert_eq!(other.multiply(&cuda), Ok(true));
    other.check();
    let stats = cuda.cublaslt.stats();
    assert_eq!(stats.products, 1);
    let error = stats.error.unwrap();
    assert!(error.contains("not supported"), "{error}");
}

#[test]
fn a_product_that_fails_is_not_tried_again_and_the_first_error_is_kept() {
    let driver = driver();
    let cuda = opened(&driver);
    let (first, second) = (
        Case::new(&cuda, 16, 64, 128),
        Case::new(&cuda, 16, 64, 1000),
    );
    driver.faults.refuse_products(true);
    assert_eq!(first.multiply(&cuda), Ok(false));
    driver.faults.refuse_products(false);
    driver.faults.refuse_plans(true);
    assert_eq!(second.multiply(&cuda), Ok(false));
    let calls = driver.faults.calls();
    assert_eq!(first.multiply(&cuda), Ok(false));
    assert_eq!(driver.faults.calls(), calls);
    let error = cuda.cublaslt.stats().error.unwrap();
    assert!(error.contains("could not be launched"), "{error}");
}

#[test]
fn places_that_are_not_aligned_are_not_for_the_library() {
    let driver = driver();
    let cuda = opened(&driver);
    let case = Case::new(&cuda, 16, 64, 128);
    let mut product = case.product();
    product.bias = product.bias.offset(16);
    // SAFETY: it is not done.
    assert_eq!(unsafe { cuda.cublaslt.multiply(&product) }, Ok(false));
    assert_eq!(driver.faults.plans(), 0);
    assert_eq!(cuda.cublaslt.stats().error, None);
}

#[test]
fn a_device_that_is_lost_in_a_product_is_lost() {
    let driver = driver();
    let cuda = opened(&driver);
    let case = Case::new(&cuda, 16, 64, 128);
    driver.faults.break_after(0);
    let error = case.multiply(&cuda).unwrap_err();
    assert!(matches!(error, KernelError::DeviceLost { .. }), "{error}");
    assert_eq!(case.multiply(&cuda), Err(error));
    assert_eq!(cuda.cublaslt.stats().error, None, "the device's, not its");
}

#[test]
fn what_gives_wrong_products_is_not_trusted() {
    let driver = driver();
    let (right, wrong, failed) = (opened(&driver), opened(&driver), opened(&driver));
    assert!(!right.cublaslt.is_trusted(), "not before it was tried");
    right.cublaslt.try_once(|| Ok(true));
    right.cublaslt.try_once(|| Ok(false));
    assert!(right.cublaslt.is_trusted());
    wrong.cublaslt.try_once(|| Ok(false));
    assert!(!wrong.cublaslt.is_trusted());
    let error = wrong.cublaslt.stats().error.unwrap();
    assert!(error.contains("not those of the own kernels"), "{error}");
    failed
        .cublaslt
        .try_once(|| Err(KernelError::ShapeOverflow(vec![1])));
    assert!(!failed.cublaslt.is_trusted());
    assert!(failed.cublaslt.stats().error.is_some());
}
