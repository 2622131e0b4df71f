//! Every kernel on the emulated device, against plain loops over the values that the weight stands for.

use std::ops::Range;

use super::launch::Rows;
use super::trial;
use crate::CublasLtStats;
use crate::cuda::DevicePtr;
use crate::cuda::emulation::{CudaFaults, EmulatedCuda};
use crate::linear::activations::QuantizedRows;
use crate::linear::layout::BLOCK_COLS;
use crate::linear::tests::random_weight_rows;
use crate::linear::{linear, reference};
use crate::testing::{Random, emulated_cuda as new_device, on_real_device};
use crate::{CpuOptions, CudaOptions, Device, Indices, KernelError, Tensor, Weight, WeightBuilder};
use crate::{WeightFormat, embed};

/// What rounding may cost, relative to the magnitude of the products.
fn tolerance(format: WeightFormat, tokens: usize) -> f64 {
    match format {
        WeightFormat::F32 => 2e-6,
        WeightFormat::F16 | WeightFormat::BF16 if tokens <= 4 => 2e-6,
        WeightFormat::BF16 => 2.5e-3, // activations, 2^-9
        WeightFormat::F16 => 6e-4,    // activations, 2^-11
        WeightFormat::Fp8 if tokens <= 4 => 2e-6,
        _ if tokens <= 8 && takes_codes(format) => 2e-6, // the rounding to codes is the reference's too
        _ => 2e-3, // activations, scales, and products with them, 2^-11 each
    }
}

fn takes_codes(format: WeightFormat) -> bool {
    format.is_quantized() && format != WeightFormat::Fp8
}

fn every_format() -> impl Iterator<Item = WeightFormat> {
    WeightFormat::ALL.into_iter().chain(WeightFormat::CUDA_ONLY)
}

/// An emulated device, and a weight that stays: the memory that weights are cut from is large, and goes with the last of them.
fn emulated_cuda() -> Option<(Device, Weight)> {
    let device = new_device()?;
    let weight = Case::new(&device, &[(WeightFormat::F32, 1)], 1, 1).weight;
    Some((device, weight))
}

struct Case {
    weight: Weight,
    /// The weight's values, row-major.
    values: Vec<f32>,
    x: Tensor,
    bias: Vec<f32>,
}

impl Case {
    fn new(
        device: &Device,
        segments: &[(WeightFormat, usize)],
        cols: usize,
        tokens: usize,
    ) -> Self {
        let mut random = Random::new((cols * 31 + tokens) as u64);
        let mut builder = WeightBuilder::new(device, cols);
        let mut values = Vec::new();
        for (format, rows) in segments {
            let (bytes, exact) = random_weight_rows(*format, *rows, cols, &mut random);
            builder.push_rows(*format, *rows, &bytes).unwrap();
            values.extend(exact);
        }
        let weight = builder.finish().unwrap();
        let x = random.values(tokens * cols);
        Self {
            bias: random.values(weight.out_features()),
            weight,
            values,
            x: Tensor::from_f32(device, &x, &[tokens, cols]).unwrap(),
        }
    }

    fn check(&self, context: &str) {
        let device = self.x.device();
        let (tokens, cols) = self.x.dims2("test", "x").unwrap();
        let bias = Tensor::from_f32(device, &self.bias, &[self.bias.len()]).unwrap();
        let got = linear(&self.x, &self.weight, Some(&bias)).unwrap();
        assert_eq!(got.shape(), [tokens, self.bias.len()]);
        let got = got.to_f32_vec().unwrap();
        let x = self.x.to_f32_vec().unwrap();
        let host = device.host();
        let codes = cols
            .is_multiple_of(BLOCK_COLS)
            .then(|| QuantizedRows::new(&host, &x, cols).unwrap());
        for t in 0..tokens {
            let exact = &x[t * cols..][..cols];
            let rounded = codes
                .as_ref()
                .map(|codes| reference::rounded(codes, t, cols));
            for (format, rows) in self.weight.segments() {
                let x = match &rounded {
                    Some(rounded) if takes_codes(format) && tokens <= 8 => rounded,
                    _ => exact,
                };
                let tolerance = tolerance(format, tokens);
                self.check_rows(
                    rows,
                    x,
                    &got[t * self.bias.len()..],
                    tolerance,
                    &format!("{context} {format} [{t}]"),
                );
            }
        }
    }

    fn check_rows(
        &self,
        rows: Range<usize>,
        x: &[f32],
        got: &[f32],
        tolerance: f64,
        context: &str,
    ) {
        for r in rows {
            let want = reference::dot(x, &self.values[r * x.len()..][..x.len()], self.bias[r]);
            // Minima and zero points cancel, so the codes' own magnitude counts, not only that of the products.
            let tolerance = tolerance * (4.0 * want.magnitude + 1e-3);
            let error = (f64::from(got[r]) - want.value).abs();
            assert!(
                error <= tolerance,
                "{context} row {r}: {}, expected {} within {tolerance:e}",
                got[r],
                want.value
            );
        }
    }
}

/// Token counts on both sides of each change of kernels.
const TOKENS: [usize; 12] = [1, 2, 3, 4, 5, 8, 9, 16, 17, 64, 65, 129];

#[test]
fn every_format_and_kernel_agrees_with_the_reference() {
    let Some((device, _memory)) = emulated_cuda() else {
        return;
    };
    for format in every_format() {
        let cols = format.block_len().max(64) + format.block_len();
        for (i, tokens) in TOKENS.into_iter().enumerate() {
            // A panel and a bit, more than a tile of the large kernels now and then.
            let rows = [1, 16, 37, 70][i % 4];
            Case::new(&device, &[(format, rows)], cols, tokens).check(&format!("{rows} x {cols}"));
        }
    }
}

#[test]
fn rows_of_any_length_are_filled_up() {
    let Some((device, _memory)) = emulated_cuda() else {
        return;
    };
    for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::BF16] {
        for cols in [1, 7, 8, 12, 63, 65, 600] {
            for tokens in [1, 2, 4, 6, 20] {
                Case::new(&device, &[(format, 5)], cols, tokens).check(&format!("{cols} columns"));
            }
        }
    }
    for cols in [32, 64, 96, 2080] {
        for tokens in [1, 6, 20] {
            Case::new(&device, &[(WeightFormat::Q8_0, 17)], cols, tokens)
                .check(&format!("{cols} columns"));
        }
    }
}

#[test]
fn columns_are_split_where_rows_are_few() {
    let Some((device, _memory)) = emulated_cuda() else {
        return;
    };
    for format in [WeightFormat::BF16, WeightFormat::Q4K, WeightFormat::Q5_1] {
        for tokens in [9, 17, 70] {
            Case::new(&device, &[(format, 40)], 16 * 256, tokens).check("split");
        }
    }
}

#[test]
fn large_tiles_cover_many_rows_and_tokens() {
    let Some((device, _memory)) = emulated_cuda() else {
        return;
    };
    for format in [WeightFormat::BF16, WeightFormat::Q4K, WeightFormat::Q4_0] {
        Case::new(&device, &[(format, 600)], 256, 300).check("tiles");
    }
}

#[test]
fn a_weight_may_mix_formats() {
    let Some((device, _memory)) = emulated_cuda() else {
        return;
    };
    use WeightFormat as F;
    let segments = [(F::Q4K, 33), (F::BF16, 20), (F::Q6K, 16), (F::F32, 3)];
    for tokens in [1, 3, 8, 30] {
        Case::new(&device, &segments, 256, tokens).check("mixed");
    }
}

#[test]
fn rows_are_read_back_to_the_bit() {
    let Some((device, _memory)) = emulated_cuda() else {
        return;
    };
    for format in every_format() {
        let cols = format.block_len().max(30) * 3;
        let segments = [(format, 37), (WeightFormat::BF16, 5)];
        let case = Case::new(&device, &segments, cols, 1);
        let ids = [0, 41, 36, 5, 17, 37, 36];
        let got = embed(&case.weight, &Indices::from(ids)).unwrap();
        let want: Vec<f32> = (ids.iter())
            .flat_map(|id| &case.values[*id as usize * cols..][..cols])
            .copied()
            .collect();
        assert_eq!(got.to_f32_vec().unwrap(), want, "{format}");
        let mut row = vec![f32::NAN; cols];
        case.weight.dequantize_row(17, &mut row).unwrap();
        assert_eq!(row, case.values[17 * cols..][..cols], "{format}");
    }
}

#[test]
fn activations_of_any_size_keep_their_precision() {
    let Some((device, _memory)) = emulated_cuda() else {
        return;
    };
    // Beyond the range of f16 at both ends, each token by itself, and a token of zeros.
    for exponent in [-100, -30, 0, 30, 100] {
        let case = Case::new(&device, &[(WeightFormat::F16, 20)], 64, 12);
        let x: Vec<f32> = (case.x.to_f32_vec().unwrap().iter().enumerate())
            .map(|(i, x)| if i < 64 { 0.0 } else { x * 2f32.powi(exponent) })
            .collect();
        let x = Tensor::from_f32(&device, &x, &[12, 64]).unwrap();
        let got = linear(&x, &case.weight, None)
            .unwrap()
            .to_f32_vec()
            .unwrap();
        assert_eq!(got[..20], [0.0; 20]);
        let plain = linear(&case.x, &case.weight, None)
            .unwrap()
            .to_f32_vec()
            .unwrap();
        for (got, plain) in got[20..].iter().zip(&plain[20..]) {
            assert_eq!(*got, plain * 2f32.powi(exponent), "2^{exponent}");
        }
    }
}

#[test]
fn not_a_number_reaches_the_result() {
    let Some((device, _memory)) = emulated_cuda() else {
        return;
    };
    for format in [WeightFormat::BF16, WeightFormat::F16, WeightFormat::Q8_0] {
        for tokens in [1, 6, 20] {
            let case = Case::new(&device, &[(format, 20)], 64, tokens);
            let mut x = case.x.to_f32_vec().unwrap();
            x[64 * (tokens - 1) + 33] = f32::NAN;
            let x = Tensor::from_f32(&device, &x, &[tokens, 64]).unwrap();
            let got = linear(&x, &case.weight, None)
                .unwrap()
                .to_f32_vec()
                .unwrap();
            let (others, last) = got.split_at(20 * (tokens - 1));
            assert!(others.iter().all(|y| y.is_finite()), "{format}");
            assert!(last.iter().all(|y| y.is_nan()), "{format}");
        }
    }
}

#[test]
fn devices_are_not_mixed() {
    let Some((device, _memory)) = emulated_cuda() else {
        return;
    };
    let host = Device::cpu(CpuOptions::default()).unwrap();
    let there = Case::new(&device, &[(WeightFormat::F32, 4)], 8, 1);
    let here = Case::new(&host, &[(WeightFormat::F32, 4)], 8, 1);
    for (x, weight) in [(&here.x, &there.weight), (&there.x, &here.weight)] {
        let error = linear(x, weight, None).unwrap_err();
        assert!(
            matches!(error, KernelError::OtherDevice { name: "weight", .. }),
            "{error}"
        );
    }
}

#[test]
fn no_tokens_are_no_work() {
    let Some((device, _memory)) = emulated_cuda() else {
        return;
    };
    let case = Case::new(&device, &[(WeightFormat::Q4_0, 4)], 32, 1);
    let x = Tensor::zeros(&device, crate::DType::F32, &[0, 32]).unwrap();
    assert_eq!(linear(&x, &case.weight, None).unwrap().shape(), [0, 4]);
}

#[test]
fn rows_without_values_are_an_error_and_no_panic() {
    let Some((device, _memory)) = emulated_cuda() else {
        return;
    };
    for format in [WeightFormat::F32, WeightFormat::Q8_0] {
        let mut builder = WeightBuilder::new(&device, 0);
        builder.push_rows(format, 3, &[]).unwrap();
        builder.push_rows_quantized(format, 20, &[]).unwrap();
        let error = builder.finish().unwrap_err();
        assert!(
            matches!(
                error,
                KernelError::Value {
                    name: "in_features",
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn the_cpu_refuses_what_only_graphics_processors_have() {
    let host = Device::cpu(CpuOptions::default()).unwrap();
    for format in WeightFormat::CUDA_ONLY {
        let mut builder = WeightBuilder::new(&host, 128);
        let error = builder
            .push_rows_quantized(format, 1, &[0.5; 128])
            .unwrap_err();
        assert_eq!(error, KernelError::OnlyOnCuda(format));
    }
}

#[test]
fn the_kernel_for_hopper_is_used_there_and_the_general_one_elsewhere() {
    let Some((device, _memory)) = emulated_cuda() else {
        return;
    };
    let cuda = device.as_cuda().unwrap();
    let off = std::env::var_os("GLM_WGMMA").is_some_and(|value| value == "off");
    let is_hopper = on_real_device() && cuda.info().compute_capability == (9, 0);
    let used = cuda.runs_wgmma.get();
    println!("products of prompts in bf16 with wgmma.cu: {used:?}");
    assert_eq!(used, Some(&(is_hopper && !off)), "the weight was finished");
    for rows in [20, 300] {
        Case::new(&device, &[(WeightFormat::BF16, rows)], 64, 257).check("prompt");
    }
}

/// An emulated device with NVIDIA's library, and a weight that stays, as in [`emulated_cuda`]; `None` also where the environment keeps the library out.
fn with_cublaslt(fault: impl FnOnce(&CudaFaults)) -> Option<(Device, Weight)> {
    if std::env::var_os("GLM_CUBLASLT").is_some_and(|value| value == "off") {
        return None;
    }
    let cuda = EmulatedCuda::new(1, 4 << 30)?.with_cublaslt();
    fault(&cuda.faults());
    let device = cuda.open(CudaOptions::default()).unwrap();
    let weight = Case::new(&device, &[(WeightFormat::F32, 1)], 1, 1).weight;
    Some((device, weight))
}

#[test]
fn products_of_many_tokens_are_the_librarys_where_it_is_installed() {
    let Some((device, _memory)) = with_cublaslt(|_| ()) else {
        return;
    };
    let stats = || device.cublaslt_stats();
    assert_eq!(stats(), CublasLtStats::default(), "trials do not count");
    let products = |format, cols, tokens| {
        let before = stats().products;
        Case::new(&device, &[(format, 37)], cols, tokens).check("library");
        stats().products - before
    };
    for (cols, tokens) in [(64, 128), (65, 129), (200, 300)] {
        assert_eq!(products(WeightFormat::BF16, cols, tokens), 1, "{tokens}");
    }
    assert_eq!(products(WeightFormat::BF16, 64, 127), 0, "few tokens");
    assert_eq!(products(WeightFormat::F16, 64, 128), 0, "no bf16");
    // The second part's results begin in the middle of a line of memory, those of the third at one.
    use WeightFormat as F;
    let before = stats().products;
    let parts = [(F::Q8_0, 16), (F::BF16, 48), (F::BF16, 20)];
    Case::new(&device, &parts, 64, 130).check("mixed");
    assert_eq!(stats().products - before, 1);
    assert_eq!(stats().error, None);
}

#[test]
fn steps_that_are_recorded_keep_to_own_kernels() {
    let Some((device, _memory)) = with_cublaslt(|_| ()) else {
        return;
    };
    let case = Case::new(&device, &[(WeightFormat::BF16, 20)], 64, 130);
    let cuda = device.as_cuda().unwrap();
    let arena = cuda.new_arena();
    let step = || linear(&case.x, &case.weight, None);
    drop(cuda.rehearse(&arena, step).unwrap());
    cuda.record(&arena, step).unwrap();
    assert_eq!(device.cublaslt_stats(), CublasLtStats::default());
    step().unwrap();
    assert_eq!(device.cublaslt_stats().products, 1);
}

#[test]
fn where_the_library_fails_own_kernels_do_its_work() {
    let faults: [fn(&CudaFaults); 2] = [|f| f.refuse_plans(true), |f| f.refuse_products(true)];
    for fault in faults {
        let Some((device, _memory)) = with_cublaslt(fault) else {
            return;
        };
        for tokens in [128, 130] {
            Case::new(&device, &[(WeightFormat::BF16, 20)], 64, tokens).check("fallback");
        }
        let stats = device.cublaslt_stats();
        assert_eq!(stats.products, 0);
        assert!(stats.error.is_some());
    }
    // After its trial, for one shape.
    let mut handle = None;
    let Some((device, _memory)) = with_cublaslt(|faults| handle = Some(faults.clone())) else {
        return;
    };
    let faults = handle.unwrap();
    faults.refuse_products(true);
    let case = Case::new(&device, &[(WeightFormat::BF16, 20)], 64, 130);
    case.check("failed");
    faults.refuse_products(false);
    case.check("not tried again");
    assert_eq!(device.cublaslt_stats().products, 0);
    Case::new(&device, &[(WeightFormat::BF16, 21)], 64, 130).check("another");
    let stats = device.cublaslt_stats();
    assert_eq!(stats.products, 1);
    let error = stats.error.unwrap();
    assert!(error.contains("could not be launched"), "{error}");
}

#[test]
fn a_trial_finds_what_is_missing_or_too_much() {
    let Some((device, _memory)) = emulated_cuda() else {
        return;
    };
    let cuda = device.as_cuda().unwrap();
    let agrees = |change: fn(&mut Rows) -> Option<bool>| {
        let tried = trial::agrees(cuda, [20, 30, 128], true, |activations, rows| {
            let mut rows = Rows { ..*rows };
            match change(&mut rows) {
                Some(done) => Ok(done),
                None => activations.gemm(&rows, 16).map(|()| true),
            }
        });
        tried.unwrap()
    };
    assert!(agrees(|_| None));
    assert!(agrees(|_| Some(false)), "what is not done is not wrong");
    assert!(!agrees(|_| Some(true)), "nothing is written");
    let without_bias = |rows: &mut Rows| {
        rows.bias = DevicePtr(0);
        None
    };
    assert!(!agrees(without_bias));
    let dense = |rows: &mut Rows| {
        rows.stride = rows.rows;
        None
    };
    assert!(!agrees(dense));
    let few = |rows: &mut Rows| {
        rows.rows -= 1;
        None
    };
    assert!(!agrees(few));
}

/// On a real device: what was found and opened is used, without an error.
#[test]
fn an_installed_library_proves_itself() {
    let Some((device, _memory)) = emulated_cuda() else {
        return;
    };
    let library = device.as_cuda().unwrap().untried_cublaslt();
    let stats = device.cublaslt_stats();
    assert_eq!(stats.error, None);
    if !library.is_trusted() {
        println!("skipped: this device has no cuBLASLt");
        return;
    }
    let case = Case::new(&device, &[(WeightFormat::BF16, 4096)], 1024, 200);
    case.check("installed");
    assert_eq!(device.cublaslt_stats().products, stats.products + 1);
    assert_eq!(device.cublaslt_stats().error, None);
}
