//! Every format on every instruction set of this machine, against plain loops in f64.

use std::panic::catch_unwind;

use half::f16;
use proptest::prelude::*;

use super::*;
use crate::testing::{Random, devices};
use crate::{CpuOptions, Device, quant};

/// Rounding of f32 sums, relative to the sum of magnitudes. Chains are a few dozen long.
const TIGHT: f64 = 2e-6;

/// The same where activations are two bf16: what those lose of an f32, `2^-17`, and the rounding of sums.
const SPLIT: f64 = 1e-5;

/// Random rows in `format`: all codes and integer scales, half precision scales of normal size.
fn random_rows(format: WeightFormat, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let len = rows * format.row_bytes(cols).unwrap();
    if !format.is_quantized() {
        let mut bytes = vec![0; len];
        quant::quantize(format, &random.values(rows * cols), &mut bytes).unwrap();
        return bytes;
    }
    let halves: &[usize] = match format {
        WeightFormat::Q4_1 | WeightFormat::Q5_1 | WeightFormat::Q4K | WeightFormat::Q5K => &[0, 2],
        WeightFormat::Q2K => &[80, 82],
        WeightFormat::Q3K => &[108],
        WeightFormat::Q6K => &[208],
        _ => &[0],
    };
    let mut bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        for at in halves {
            let scale = f16::from_f32(random.values(1)[0] * 0.1);
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

fn dequantized(format: WeightFormat, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len() / format.block_bytes() * format.block_len()];
    quant::dequantize(format, bytes, &mut out).unwrap();
    out
}

/// Random rows in `format`, as stored, and their values.
pub(super) fn random_weight_rows(
    format: WeightFormat,
    rows: usize,
    cols: usize,
    random: &mut Random,
) -> (Vec<u8>, Vec<f32>) {
    let bytes = random_rows(format, rows, cols, random);
    let values = dequantized(format, &bytes);
    (bytes, values)
}

/// A weight of segments `(format, rows)` and its values, row-major.
fn random_weight(
    device: &Device,
    cols: usize,
    segments: &[(WeightFormat, usize)],
    seed: u64,
) -> (Weight, Vec<f32>) {
    let mut random = Random::new(seed);
    let mut builder = WeightBuilder::new(device, cols);
    let mut values = Vec::new();
    for (format, rows) in segments {
        let bytes = random_rows(*format, *rows, cols, &mut random);
        values.extend(dequantized(*format, &bytes));
        builder.push_rows(*format, *rows, &bytes).unwrap();
    }
    (builder.finish().unwrap(), values)
}

fn tensor(device: &Device, rows: usize, cols: usize, seed: u64) -> Tensor {
    Tensor::from_f32(
        device,
        &Random::new(seed).values(rows * cols),
        &[rows, cols],
    )
    .unwrap()
}

/// `got` is the product of `x` with a weight of `values`, up to rounding. Segments of float formats see `x`, the others its codes.
fn assert_product(
    got: &[f32],
    x: &Tensor,
    weight: &Weight,
    values: &[f32],
    bias: Option<&[f32]>,
    context: &str,
) {
    let (cols, stride) = (weight.in_features(), weight.out_features());
    let x_values = x.as_f32().unwrap();
    let codes = weight
        .formats()
        .iter()
        .any(|format| format.is_quantized())
        .then(|| QuantizedRows::new(x.device(), x_values, cols).unwrap());
    let float = |format: WeightFormat| {
        let splits = format == WeightFormat::BF16 && x.device().isa().name() == "amx";
        if splits { SPLIT } else { TIGHT }
    };
    for (t, x_row) in x_values.chunks_exact(cols).enumerate() {
        let rounded = codes
            .as_ref()
            .map(|codes| reference::rounded(codes, t, cols));
        for (format, rows) in weight.segments() {
            for r in rows {
                let w_row = &values[r * cols..][..cols];
                let bias = bias.map_or(0.0, |bias| bias[r]);
                let exact = reference::dot(x_row, w_row, bias);
                let (want, tight, loose) = match &rounded {
                    Some(rounded) if format.is_quantized() => {
                        (reference::dot(rounded, w_row, bias), TIGHT, 0.02)
                    }
                    _ => {
                        let tight = float(format);
                        (reference::dot(x_row, w_row, bias), tight, tight)
                    }
                };
                let got = f64::from(got[t * stride + r]);
                // Minima and zero points cancel, so the codes' own magnitude counts, not only that of the products.
                let tight = tight * (4.0 * want.magnitude + 1e-3);
                assert!(
                    (got - want.value).abs() <= tight,
                    "{context} [{t}, {r}]: {got}, expected {} within {tight:e}",
                    want.value
                );
                let off = (got - exact.value).abs();
                assert!(
                    off <= loose * exact.magnitude + 1e-6,
                    "{context} [{t}, {r}]: {got}, but the weights say {}",
                    exact.value
                );
            }
        }
    }
}

#[test]
fn every_format_on_every_isa_matches_the_reference() {
    for device in devices(2) {
        for format in WeightFormat::ALL {
            let widths: &[usize] = if format.is_quantized() {
                &[1, 3]
            } else {
                &[1, 7, 300]
            };
            for (seed, (blocks, rows)) in widths
                .iter()
                .zip([1, 16, 37])
                .chain([(&widths[1], 37)])
                .enumerate()
            {
                let cols = blocks * format.block_len();
                let (weight, values) = random_weight(&device, cols, &[(format, rows)], seed as u64);
                for tokens in [1, 2, 3, 5, 8, 9, 16, 17] {
                    let x = tensor(&device, tokens, cols, tokens as u64);
                    let got = linear(&x, &weight, None).unwrap();
                    assert_eq!(got.shape(), [tokens, rows]);
                    let context = format!(
                        "{format} on {} [{tokens}, {cols}] x [{rows}, {cols}]",
                        device.isa()
                    );
                    assert_product(got.as_f32().unwrap(), &x, &weight, &values, None, &context);
                }
            }
        }
    }
}

#[test]
fn segments_of_several_formats_and_a_bias() {
    use WeightFormat::{BF16, Iq4Nl, Q4K, Q6K};
    for device in devices(3) {
        let (weight, values) = random_weight(
            &device,
            512,
            &[(Q4K, 48), (Q6K, 5), (BF16, 17), (Iq4Nl, 33)],
            11,
        );
        assert_eq!(weight.out_features(), 103);
        assert_eq!(weight.formats(), [Q4K, Q6K, BF16, Iq4Nl]);
        let bias = tensor(&device, 1, 103, 5).reshape(&[103]).unwrap();
        for tokens in [1, 64] {
            let x = tensor(&device, tokens, 512, 12);
            let got = linear(&x, &weight, Some(&bias)).unwrap();
            let bias = Some(bias.as_f32().unwrap());
            assert_product(
                got.as_f32().unwrap(),
                &x,
                &weight,
                &values,
                bias,
                &format!("mixed on {}", device.isa()),
            );
        }
    }
}

/// The greedy answer of a sequence must not depend on its companions: not even in the last bit.
#[test]
fn a_token_does_not_see_its_companions_nor_the_threads() {
    for isa in Isa::available() {
        let device = |threads| {
            Device::cpu(CpuOptions {
                threads: Some(threads),
                isa: Some(isa),
            })
            .unwrap()
        };
        let (one, three) = (device(1), device(3));
        for format in WeightFormat::ALL {
            let (weight, _) = random_weight(&three, 512, &[(format, 83)], 1);
            let (alone_weight, _) = random_weight(&one, 512, &[(format, 83)], 1);
            let x = tensor(&three, 90, 512, 2);
            let x = x.as_f32().unwrap();
            let bits = |values: &[f32]| {
                values
                    .iter()
                    .map(|value| value.to_bits())
                    .collect::<Vec<_>>()
            };
            let alone: Vec<_> = x
                .chunks(512)
                .map(|x| {
                    let x = Tensor::from_f32(&one, x, &[1, 512]).unwrap();
                    bits(linear(&x, &alone_weight, None).unwrap().as_f32().unwrap())
                })
                .collect();
            for tokens in [2, 4, 7, 16, 40, 64, 90] {
                let x = Tensor::from_f32(&three, &x[..tokens * 512], &[tokens, 512]).unwrap();
                let together = linear(&x, &weight, None).unwrap();
                for (alone, together) in alone.iter().zip(together.as_f32().unwrap().chunks(83)) {
                    assert_eq!(*alone, bits(together), "{format} on {isa}, {tokens} tokens");
                }
            }
        }
    }
}

/// Integer dot products are exact, so the paths with fused multiply-add agree to the bit. Covers AVX2 without VNNI on a CPU that has it.
#[test]
#[cfg(target_arch = "x86_64")]
fn vector_units_agree_to_the_bit_on_quantised_weights() {
    let Some(cpu) = crate::Avx2::detect() else {
        println!("skipped: no AVX2");
        return;
    };
    for format in WeightFormat::ALL
        .into_iter()
        .filter(|format| format.is_quantized())
    {
        let mut results = Vec::new();
        for device in devices(1).into_iter().skip(1) {
            let (weight, _) = random_weight(&device, 512, &[(format, 40)], 8);
            let x = tensor(&device, 5, 512, 9);
            results.push(linear(&x, &weight, None).unwrap().to_f32_vec().unwrap());

            let x = activations(&device, x.as_f32().unwrap(), 512, &weight).unwrap();
            let mut plain = vec![f32::NAN; 5 * 40];
            let shared = SharedMut::new(&mut plain);
            let out = Output {
                values: &shared,
                stride: 40,
                start: 0,
                bias: None,
            };
            let job = Job::new(&weight.row_segments()[0], &x, out);
            avx2::run_without_vnni(cpu, &job, 0..3);
            results.push(plain);
        }
        for result in &results[1..] {
            assert_eq!(result, &results[0], "{format}");
        }
    }
}

/// The largest codes everywhere: where a 16-bit intermediate sum would overflow.
#[test]
fn extreme_codes_do_not_saturate() {
    for device in devices(1) {
        for byte in [0x80u8, 0x7f, 0x81] {
            let mut row = f16::ONE.to_le_bytes().to_vec();
            row.extend([byte; 32]);
            let mut builder = WeightBuilder::new(&device, 32);
            builder.push_rows(WeightFormat::Q8_0, 1, &row).unwrap();
            let weight = builder.finish().unwrap();
            for sign in [1.0f32, -1.0] {
                let x = Tensor::from_f32(&device, &[sign * 127.0; 32], &[1, 32]).unwrap();
                let got = linear(&x, &weight, None).unwrap().to_f32_vec().unwrap();
                assert_eq!(
                    got,
                    [sign * 127.0 * 32.0 * f32::from(byte as i8)],
                    "{}",
                    device.isa()
                );
            }
        }
    }
}

#[test]
fn no_token_gives_no_row() {
    for device in devices(2) {
        for format in [WeightFormat::F32, WeightFormat::Q8_0] {
            let (weight, _) = random_weight(&device, 64, &[(format, 16)], 3);
            let got = linear(
                &Tensor::from_f32(&device, &[], &[0, 64]).unwrap(),
                &weight,
                None,
            )
            .unwrap();
            assert_eq!(got.shape(), [0, 16]);
        }
    }
}

#[test]
fn packing_keeps_every_value() {
    let device = Device::cpu(CpuOptions::default()).unwrap();
    for format in WeightFormat::ALL {
        let cols = 2 * format.block_len();
        let (weight, values) = random_weight(
            &device,
            cols,
            &[(format, 19), (WeightFormat::F32, 2), (format, 16)],
            4,
        );
        assert_eq!(
            weight.segments().collect::<Vec<_>>(),
            [
                (format, 0..19),
                (WeightFormat::F32, 19..21),
                (format, 21..37)
            ]
        );
        for (r, want) in values.chunks_exact(cols).enumerate() {
            let mut got = vec![f32::NAN; cols];
            weight.dequantize_row(r, &mut got).unwrap();
            assert_eq!(got, want, "{format}, row {r}");
        }
    }
}

#[test]
fn packed_weights_are_hardly_larger_than_their_source() {
    let device = Device::cpu(CpuOptions::default()).unwrap();
    for format in WeightFormat::ALL {
        let (weight, _) = random_weight(&device, 512, &[(format, 64)], 4);
        let source = 64 * format.row_bytes(512).unwrap();
        // 6-bit scales take a byte each, and so do the 4-bit ones of Q2_K.
        let limit = source + source / if format == WeightFormat::Q2K { 5 } else { 25 };
        assert!(
            (source..=limit).contains(&weight.byte_len()),
            "{format}: {} of {source}",
            weight.byte_len()
        );
    }
}

#[test]
fn rounding_while_building_equals_rounding_before() {
    let device = Device::cpu(CpuOptions {
        threads: Some(2),
        isa: None,
    })
    .unwrap();
    let values = Random::new(6).values(20 * 256);
    let mut halves = vec![0; 2 * values.len()];
    quant::quantize(WeightFormat::BF16, &values, &mut halves).unwrap();
    let values = dequantized(WeightFormat::BF16, &halves);
    for format in WeightFormat::ALL
        .into_iter()
        .filter(|format| quant::can_quantize(*format))
    {
        let mut bytes = vec![0; 20 * format.row_bytes(256).unwrap()];
        quant::quantize(format, &values, &mut bytes).unwrap();
        let want = dequantized(format, &bytes);
        let mut builder = WeightBuilder::new(&device, 256);
        builder.push_rows_quantized(format, 20, &values).unwrap();
        builder
            .push_rows_requantized(format, 20, WeightFormat::BF16, &halves)
            .unwrap();
        let weight = builder.finish().unwrap();
        for r in 0..40 {
            let mut got = [f32::NAN; 256];
            weight.dequantize_row(r, &mut got).unwrap();
            assert_eq!(got, want[(r % 20) * 256..][..256], "{format}, row {r}");
        }
    }
}

#[test]
fn the_gated_mlp_is_its_three_steps() {
    for device in devices(2) {
        let (gate_up, _) = random_weight(&device, 256, &[(WeightFormat::Q8_0, 128)], 1);
        let (down, _) = random_weight(&device, 64, &[(WeightFormat::F32, 256)], 2);
        let x = tensor(&device, 3, 256, 3);
        let got = gated_mlp(&x, &gate_up, &down).unwrap();
        let both = linear(&x, &gate_up, None).unwrap().to_f32_vec().unwrap();
        let hidden: Vec<f32> = both
            .chunks_exact(128)
            .flat_map(|row| {
                row[..64]
                    .iter()
                    .zip(&row[64..])
                    .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
                    .collect::<Vec<_>>()
            })
            .collect();
        let want = linear(
            &Tensor::from_f32(&device, &hidden, &[3, 64]).unwrap(),
            &down,
            None,
        )
        .unwrap();
        crate::testing::assert_close(
            got.as_f32().unwrap(),
            want.as_f32().unwrap(),
            1e-5,
            &format!("{}", device.isa()),
        );
    }
}

#[test]
fn a_nan_is_not_hidden() {
    for device in devices(1) {
        for format in [
            WeightFormat::F32,
            WeightFormat::Q8_0,
            WeightFormat::Q4K,
            WeightFormat::Q6K,
        ] {
            let (weight, _) = random_weight(&device, 256, &[(format, 3)], 1);
            let mut x = vec![1.0; 256];
            x[40] = f32::NAN;
            let got = linear(
                &Tensor::from_f32(&device, &x, &[1, 256]).unwrap(),
                &weight,
                None,
            )
            .unwrap();
            assert!(
                got.as_f32().unwrap().iter().all(|value| value.is_nan()),
                "{format}"
            );
        }
    }
}

#[test]
fn rows_that_do_not_fit_are_typed_errors() {
    let device = Device::cpu(CpuOptions::default()).unwrap();
    let mut builder = WeightBuilder::new(&device, 48);
    let partial = KernelError::PartialBlock {
        format: WeightFormat::Q8_0,
        columns: 48,
        block_len: 32,
    };
    assert_eq!(
        builder
            .push_rows(WeightFormat::Q8_0, 1, &[0; 51])
            .unwrap_err(),
        partial
    );
    assert_eq!(
        builder
            .push_rows_quantized(WeightFormat::Q8_0, 1, &[0.0; 48])
            .unwrap_err(),
        partial
    );
    let length = |op, name, expected, found| KernelError::Length {
        op,
        name,
        expected,
        found,
    };
    let error = builder
        .push_rows(WeightFormat::F16, 2, &[0; 191])
        .unwrap_err();
    assert_eq!(error, length("WeightBuilder::push_rows", "bytes", 192, 191));
    let error = builder
        .push_rows_quantized(WeightFormat::F16, 2, &[0.0; 95])
        .unwrap_err();
    assert_eq!(
        error,
        length("WeightBuilder::push_rows_quantized", "values", 96, 95)
    );
    let error = builder
        .push_rows_requantized(WeightFormat::F32, 1, WeightFormat::F16, &[0; 95])
        .unwrap_err();
    assert_eq!(
        error,
        length("WeightBuilder::push_rows_requantized", "bytes", 96, 95)
    );
    let error = builder
        .push_rows_requantized(WeightFormat::Iq4Nl, 1, WeightFormat::F16, &[0; 96])
        .unwrap_err();
    assert_eq!(error, KernelError::CannotQuantize(WeightFormat::Iq4Nl));
    assert!(matches!(
        builder.push_rows(WeightFormat::F32, usize::MAX / 8, &[]),
        Err(KernelError::ShapeOverflow(_))
    ));
    assert!(matches!(
        builder.finish(),
        Err(KernelError::Value {
            name: "out_features",
            ..
        })
    ));
    assert!(matches!(
        WeightBuilder::new(&device, 0).finish(),
        Err(KernelError::Value { .. })
    ));
}

#[test]
fn activations_that_do_not_fit_are_typed_errors() {
    let device = Device::cpu(CpuOptions::default()).unwrap();
    let (weight, _) = random_weight(&device, 64, &[(WeightFormat::Q8_0, 5)], 1);
    assert!(matches!(
        linear(&tensor(&device, 2, 32, 1), &weight, None),
        Err(KernelError::Shape { name: "x", .. })
    ));
    assert!(matches!(
        linear(
            &Tensor::zeros(&device, DType::F32, &[64]).unwrap(),
            &weight,
            None
        ),
        Err(KernelError::Shape { name: "x", .. })
    ));
    assert!(matches!(
        linear(
            &Tensor::zeros(&device, DType::F16, &[1, 64]).unwrap(),
            &weight,
            None
        ),
        Err(KernelError::DType { .. })
    ));
    let bias = Tensor::zeros(&device, DType::F32, &[4]).unwrap();
    assert!(matches!(
        linear(&tensor(&device, 2, 64, 1), &weight, Some(&bias)),
        Err(KernelError::Shape { name: "bias", .. })
    ));
    assert!(matches!(
        weight.dequantize_row(5, &mut [0.0; 64]),
        Err(KernelError::Index {
            index: 5,
            len: 5,
            ..
        })
    ));
    assert!(matches!(
        weight.dequantize_row(4, &mut [0.0; 63]),
        Err(KernelError::Length { .. })
    ));
    assert!(matches!(
        gated_mlp(&tensor(&device, 1, 64, 1), &weight, &weight),
        Err(KernelError::Shape {
            op: "gated_mlp",
            ..
        })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any shape, any format, any bits in the weights: a result or an error, no panic.
    #[test]
    fn any_weight_bits_are_accepted(index in 0usize..15, rows in 1usize..40, blocks in 1usize..4, tokens in 0usize..12, seed in any::<u64>()) {
        let format = WeightFormat::ALL[index];
        let mut random = Random::new(seed);
        let outcome = catch_unwind(move || {
            let device = Device::cpu(CpuOptions { threads: Some(2), isa: None }).unwrap();
            let cols = blocks * format.block_len();
            let bytes: Vec<u8> = (0..rows * format.row_bytes(cols).unwrap()).map(|_| random.below(256) as u8).collect();
            let mut builder = WeightBuilder::new(&device, cols);
            builder.push_rows(format, rows, &bytes).unwrap();
            linear(&tensor(&device, tokens, cols, seed), &builder.finish().unwrap(), None).unwrap().shape().to_vec()
        });
        prop_assert_eq!(outcome.ok(), Some(vec![tokens, rows]));
    }
}
