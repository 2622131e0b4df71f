use super::*;
use crate::testing::{Random, devices};

const ALL: [KvDType; 5] = KvDType::ALL;

#[test]
fn what_is_stored_comes_back_within_the_type() {
    let device = devices(1).remove(0);
    let (blocks, block_size, heads, head_dim) = (3, 16, 2, 24);
    for (dtype, tolerance) in ALL.into_iter().zip([0.0, 5e-4, 4e-3, 4e-3, 0.0625]) {
        let mut layer = KvLayer::new(&device, dtype, blocks, block_size, heads, head_dim).unwrap();
        let mut random = Random::new(7);
        let stored: Vec<_> = (0..layer.num_slots() * heads)
            .map(|_| (random.values(head_dim), random.values(head_dim)))
            .collect();
        let writer = layer.writer();
        for (i, (key, value)) in stored.iter().enumerate() {
            // SAFETY: one thread.
            unsafe { writer.store(i / heads, i % heads, key, value) };
        }
        for (i, (key, value)) in stored.iter().enumerate() {
            let (slot, head) = (i / heads, i % heads);
            for d in 0..head_dim {
                let got = (
                    layer.key(slot / block_size, head, slot % block_size, d),
                    layer.value(slot / block_size, head, slot % block_size, d),
                );
                assert!(
                    (got.0 - key[d]).abs() <= tolerance,
                    "{dtype} key {i}, {d}: {} for {}",
                    got.0,
                    key[d]
                );
                assert!(
                    (got.1 - value[d]).abs() <= tolerance,
                    "{dtype} value {i}, {d}: {} for {}",
                    got.1,
                    value[d]
                );
            }
        }
    }
}

#[test]
fn a_value_that_is_not_finite_does_not_vanish() {
    let device = devices(1).remove(0);
    for dtype in ALL {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut layer = KvLayer::new(&device, dtype, 1, 16, 1, 4).unwrap();
            // SAFETY: one thread.
            unsafe {
                layer
                    .writer()
                    .store(3, 0, &[1.0, bad, 2.0, 0.0], &[bad, 1.0, 0.0, 2.0])
            };
            let (key, value) = (layer.key(0, 0, 3, 1), layer.value(0, 0, 3, 0));
            let largest = match dtype {
                KvDType::F16 if bad.is_infinite() => Some(65504.0),
                KvDType::Fp8 if bad.is_infinite() => Some(448.0),
                _ => None,
            };
            match largest {
                Some(x) => assert_eq!((key, value), (x, x), "clamped, as documented"),
                None => assert!(
                    !key.is_finite() && !value.is_finite(),
                    "{dtype}: {key} {value}"
                ),
            }
        }
    }
}

#[test]
fn sizes_are_as_announced() {
    let device = devices(1).remove(0);
    for dtype in ALL {
        let layer = KvLayer::new(&device, dtype, 5, 16, 2, 64).unwrap();
        assert_eq!(
            layer.byte_len(),
            layer.num_slots() * dtype.bytes_per_token(2, 64)
        );
        assert_eq!(dtype.name().parse::<KvDType>(), Ok(dtype));
    }
    assert_eq!(
        "int3".parse::<KvDType>(),
        Err(KernelError::UnknownKvDType("int3".into()))
    );
}

#[test]
fn values_beyond_f16_are_clamped() {
    let mut narrowed = [f16::ONE; 4];
    narrow_to_f16(&[1e9, -1e9, 0.1, f32::NAN], &mut narrowed);
    assert_eq!(narrowed[..3], [f16::MAX, f16::MIN, f16::from_f32(0.1)]);
    assert!(narrowed[3].is_nan());
}

#[test]
fn a_block_that_was_copied_out_comes_back_to_the_bit_and_alone() {
    let device = devices(1).remove(0);
    let (blocks, heads, head_dim) = (3, 2, 24);
    for dtype in ALL {
        let new = || KvLayer::new(&device, dtype, blocks, 16, heads, head_dim).unwrap();
        let (mut from, mut to) = (new(), new());
        let mut random = Random::new(3);
        let writer = from.writer();
        for slot in 0..blocks * 16 {
            for head in 0..heads {
                let (key, value) = (random.values(head_dim), random.values(head_dim));
                // SAFETY: one thread.
                unsafe { writer.store(slot, head, &key, &value) };
            }
        }
        let mut bytes = vec![0xa5; from.block_bytes()];
        from.read_block(2, &mut bytes).unwrap();
        to.write_block(1, &bytes).unwrap();
        let everywhere = (0..heads).flat_map(|h| (0..16).map(move |t| (h, t)));
        for ((head, token), d) in
            everywhere.flat_map(|place| (0..head_dim).map(move |d| (place, d)))
        {
            let key = |layer: &KvLayer, block| layer.key(block, head, token, d).to_bits();
            let value = |layer: &KvLayer, block| layer.value(block, head, token, d).to_bits();
            assert_eq!(key(&to, 1), key(&from, 2), "{dtype}");
            assert_eq!(value(&to, 1), value(&from, 2), "{dtype}");
            for untouched in [0, 2] {
                assert_eq!((key(&to, untouched), value(&to, untouched)), (0, 0));
            }
        }
        let short = from.read_block(0, &mut bytes[1..]);
        assert!(matches!(short, Err(KernelError::Length { .. })));
        let beyond = to.write_block(blocks, &bytes);
        assert!(matches!(beyond, Err(KernelError::Index { .. })));
    }
}

#[test]
fn absurd_sizes_are_errors() {
    let device = devices(1).remove(0);
    let new = |blocks, heads| KvLayer::new(&device, KvDType::F32, blocks, 16, heads, 64);
    assert!(matches!(
        new(0, 1),
        Err(KernelError::Value {
            name: "num_blocks",
            ..
        })
    ));
    assert!(matches!(
        new(usize::MAX, 1),
        Err(KernelError::ShapeOverflow(_))
    ));
    assert!(matches!(
        new(1 << 30, 1),
        Err(KernelError::Value {
            name: "number of slots",
            ..
        })
    ));
    assert!(matches!(
        new(1, usize::MAX / 64),
        Err(KernelError::ShapeOverflow(_))
    ));
}
