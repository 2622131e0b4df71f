//! PyTorch checkpoints written by torch, compared with candle's reader; hostile ones written here.

mod common;

use std::path::{Path, PathBuf};

use common::{assert_says, copy_directory, open};
use glm_core::{Checkpoint, Format};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

/// Little-endian bytes of a CPU tensor.
fn bytes_of(tensor: &candle_core::Tensor) -> Vec<u8> {
    use candle_core::DType;
    let flat = tensor.flatten_all().unwrap();
    match tensor.dtype() {
        DType::F32 => flat
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect(),
        DType::BF16 => flat
            .to_vec1::<half::bf16>()
            .unwrap()
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect(),
        DType::F16 => flat
            .to_vec1::<half::f16>()
            .unwrap()
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect(),
        other => panic!("unexpected dtype {other:?}"),
    }
}

fn assert_same_as_candle(checkpoint: &Checkpoint, file: &Path, key: Option<&str>) -> usize {
    let mut compared = 0;
    for (name, tensor) in candle_core::pickle::read_all_with_key(file, key).unwrap() {
        if name.ends_with("inv_freq") {
            continue;
        }
        let ours = checkpoint.tensor(&name).unwrap();
        assert_eq!(ours.info.shape, tensor.dims(), "{name}");
        assert_eq!(ours.bytes.as_ref(), bytes_of(&tensor), "{name}");
        compared += 1;
    }
    compared
}

#[test]
fn a_single_file_is_what_candle_reads() {
    let directory = data("pytorch-single");
    let checkpoint = open(&directory).unwrap();
    assert_eq!(checkpoint.format(), Format::PyTorch);
    assert_eq!(
        assert_same_as_candle(&checkpoint, &directory.join("pytorch_model.bin"), None),
        14
    );
    // Element k of the i-th tensor in name order is k / 4 - i; `lm_head.weight` is the first.
    let head = checkpoint
        .tensor_checked("lm_head.weight", &[12, 8])
        .unwrap();
    let last = half::bf16::from_le_bytes([head.bytes[190], head.bytes[191]]);
    assert_eq!(last.to_f32(), 95.0 / 4.0);
}

#[test]
fn a_wrapped_state_dict_with_shared_storages_is_what_candle_reads() {
    let directory = data("pytorch-wrapped");
    let checkpoint = open(&directory).unwrap();
    assert_eq!(
        assert_same_as_candle(
            &checkpoint,
            &directory.join("checkpoint.pt"),
            Some("state_dict")
        ),
        14
    );
    assert_eq!(checkpoint.tensors().count(), 14);
}

#[test]
fn shards_are_what_candle_reads() {
    let directory = data("pytorch-sharded");
    let checkpoint = open(&directory).unwrap();
    let compared = [
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
    ]
    .map(|shard| assert_same_as_candle(&checkpoint, &directory.join(shard), None));
    assert_eq!(compared, [11, 3]);
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let directory = copy_directory(&data("pytorch-single"));
    let file = directory.path().join("pytorch_model.bin");
    let whole = std::fs::read(&file).unwrap();
    for len in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
        std::fs::write(&file, &whole[..len]).unwrap();
        assert_says(open(directory.path()), &["pytorch_model.bin"]);
    }
}

#[test]
fn a_missing_shard_and_a_broken_promise_are_named() {
    let directory = copy_directory(&data("pytorch-sharded"));
    let second = directory.path().join("pytorch_model-00002-of-00002.bin");
    std::fs::copy(
        directory.path().join("pytorch_model-00001-of-00002.bin"),
        &second,
    )
    .unwrap();
    assert_says(
        open(directory.path()),
        &[
            "pytorch_model-00002-of-00002.bin",
            "lm_head.weight",
            "not there",
        ],
    );
    std::fs::remove_file(&second).unwrap();
    assert_says(
        open(directory.path()),
        &["cannot open", "pytorch_model-00002-of-00002.bin"],
    );
}

#[test]
fn the_format_before_torch_1_6_is_refused_with_the_way_out() {
    let directory = copy_directory(&data("pytorch-single"));
    std::fs::copy(
        data("legacy.bin"),
        directory.path().join("pytorch_model.bin"),
    )
    .unwrap();
    assert_says(
        open(directory.path()),
        &[
            "pytorch_model.bin",
            "zip archive",
            "load and save an older file again",
        ],
    );
}

/// A zip archive of stored entries, as `torch.save` writes it but for the checksums, which nothing reads.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let offset = (out.len() as u32).to_le_bytes();
        let (len, name_len) = (
            (bytes.len() as u32).to_le_bytes(),
            (name.len() as u16).to_le_bytes(),
        );
        let sizes = [[0; 4], len, len].concat();
        out.extend(
            [
                &b"PK\x03\x04"[..],
                &[0; 10],
                &sizes,
                &name_len,
                &[0; 2],
                name.as_bytes(),
                bytes,
            ]
            .concat(),
        );
        directory.extend(
            [
                &b"PK\x01\x02"[..],
                &[0; 12],
                &sizes,
                &name_len,
                &[0; 12],
                &offset,
                name.as_bytes(),
            ]
            .concat(),
        );
    }
    let (start, len) = (
        (out.len() as u32).to_le_bytes(),
        (directory.len() as u32).to_le_bytes(),
    );
    let count = (entries.len() as u16).to_le_bytes();
    out.extend(&directory);
    out.extend(
        [
            &b"PK\x05\x06"[..],
            &[0; 4],
            &count,
            &count,
            &len,
            &start,
            &[0; 2],
        ]
        .concat(),
    );
    out
}

/// Opens a checkpoint whose pickle is `program`, with one storage of 64 bytes.
fn open_pickle(program: &[u8]) -> Result<Checkpoint, glm_core::LoadError> {
    let directory = copy_directory(&data("pytorch-single"));
    let bytes = archive(&[("archive/data.pkl", program), ("archive/data/0", &[0; 64])]);
    std::fs::write(directory.path().join("pytorch_model.bin"), bytes).unwrap();
    open(directory.path())
}

/// `{"model.norm.weight": <call>}`
fn dict_of(call: &[u8]) -> Vec<u8> {
    [b"\x80\x02}X\x11\0\0\0model.norm.weight", call, b"s."].concat()
}

/// A call of `_rebuild_tensor_v2` on storage `0` of floats, with this offset, size and stride.
fn rebuild(offset: &[u8], size: &[u8], stride: &[u8]) -> Vec<u8> {
    let storage = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x10tQ";
    [storage, offset, size, stride, b"\x89}tR"].concat()
}

#[test]
fn a_well_formed_pickle_of_ours_is_understood() {
    // It only lacks the other tensors.
    assert_says(
        open_pickle(&dict_of(&rebuild(b"K\0", b"K\x08\x85", b"K\x01\x85"))),
        &["`model.embed_tokens.weight` is missing"],
    );
}

#[test]
fn code_is_named_and_not_run() {
    let marker = std::env::temp_dir().join(format!("glm-core-pickle-{}", std::process::id()));
    let command = format!("touch {}", marker.display());
    let call = [
        b"cposix\nsystem\nX".as_slice(),
        &(command.len() as u32).to_le_bytes(),
        command.as_bytes(),
        b"\x85R",
    ]
    .concat();
    assert_says(
        open_pickle(&dict_of(&call)),
        &[
            "pytorch_model.bin",
            "model.norm.weight",
            "posix.system",
            "not executed",
        ],
    );
    assert!(!marker.exists());
}

#[test]
fn hostile_pickles_are_errors() {
    let huge = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f";
    let cases: &[(&str, Vec<u8>)] = &[
        ("more bytes", b"\x80\x02}X\xff\xff\xff\xffmodel".to_vec()),
        ("more bytes", b"\x80\x02}".to_vec()),
        ("opcode", b"\x80\x02\xff.".to_vec()),
        ("stack", b"\x80\x02.".to_vec()),
        ("stack", b"\x80\x02}s.".to_vec()),
        ("mark", b"\x80\x02}u.".to_vec()),
        ("pairs", b"\x80\x02}(K\x01u.".to_vec()),
        ("memo", b"\x80\x02h\x05.".to_vec()),
        ("memo", b"\x80\x02}r\xff\xff\xff\xff.".to_vec()),
        ("8 bytes", b"\x80\x02\x8a\x10................".to_vec()),
        ("a dict of tensors", b"\x80\x02K\x01.".to_vec()),
        (
            "storage, offset, size and stride",
            dict_of(&rebuild(b"N", b"K\x08\x85", b"K\x01\x85")),
        ),
        (
            "_rebuild_tensor_v2",
            dict_of(b"ctorch._utils\n_rebuild_tensor_v2\n)R"),
        ),
        (
            "storage, offset",
            dict_of(b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNtR"),
        ),
        (
            "64 bytes",
            dict_of(&rebuild(b"K\x0f", b"K\x08\x85", b"K\x01\x85")),
        ),
        (
            "64 bytes",
            dict_of(&rebuild(huge, b"K\x08\x85", b"K\x01\x85")),
        ),
        (
            "64 bytes",
            dict_of(&rebuild(
                b"K\0",
                &[huge.as_slice(), b"\x85"].concat(),
                b"K\x01\x85",
            )),
        ),
        (
            "64 bytes",
            dict_of(&rebuild(
                b"K\0",
                &[huge.as_slice(), huge, b"\x86"].concat(),
                b"K\x01K\x01\x86",
            )),
        ),
        (
            "row-major",
            dict_of(&rebuild(b"K\0", b"K\x02K\x04\x86", b"K\x01K\x02\x86")),
        ),
        (
            "storage, offset",
            dict_of(&rebuild(b"J\xff\xff\xff\xff", b"K\x08\x85", b"K\x01\x85")),
        ),
    ];
    for (part, program) in cases {
        assert_says(open_pickle(program), &["pytorch_model.bin", part]);
    }
}

#[test]
fn a_memo_that_doubles_at_every_step_costs_nothing() {
    // 60 tuples, each of two references to the one before: 2^60 objects if copied.
    let mut program = b"\x80\x02K\x01q\0".to_vec();
    for i in 0..60u8 {
        program.extend([b'h', i, b'h', i, 0x86, b'q', i + 1]);
    }
    program.push(b'.');
    assert_says(
        open_pickle(&program),
        &["pytorch_model.bin", "a dict of tensors"],
    );
}

#[test]
fn damaged_archives_are_errors() {
    let directory = copy_directory(&data("pytorch-single"));
    let file = directory.path().join("pytorch_model.bin");
    let program: &[u8] = &dict_of(&rebuild(b"K\0", b"K\x08\x85", b"K\x01\x85"));
    let pickle = ("archive/data.pkl", program);
    let twice = archive(&[
        pickle,
        ("archive/data/0", &[0; 64]),
        ("archive/data/0", &[0; 64]),
    ]);
    let mut compressed = archive(&[pickle]);
    let entry = compressed
        .windows(4)
        .rposition(|window| window == b"PK\x01\x02")
        .unwrap();
    compressed[entry + 10] = 8;
    for (bytes, part) in [
        (archive(&[pickle]), "no such entry"),
        (archive(&[("archive/data/0", &[0; 64])]), "none"),
        (archive(&[pickle, ("other/data.pkl", program)]), "several"),
        (archive(&[pickle, ("archive/byteorder", b"big")]), "big"),
        (twice, "there twice"),
        (compressed, "compression"),
        (b"PK\x03\x04".repeat(10), "end record not found"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        assert_says(open(directory.path()), &["pytorch_model.bin", part]);
    }
}
