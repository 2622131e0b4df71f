//! GGUF: round trips from every directory form, split files, and headers that cannot be right.

mod common;

use std::path::Path;
use std::sync::LazyLock;

use common::{Model, assert_says, open};
use glm_core::gguf::{Reader, TensorSpec, Value, Writer, tensor_name, tokenizer_metadata};
use glm_core::{Checkpoint, LoadError, ModelConfig, RopeScaling, TensorType};
use proptest::prelude::*;
use serde_json::json;

fn specs(checkpoint: &Checkpoint) -> Vec<TensorSpec> {
    let spec = |info: &glm_core::TensorInfo| TensorSpec {
        name: tensor_name(&info.name).unwrap(),
        shape: info.shape.clone(),
        ty: info.ty,
    };
    checkpoint.tensors().map(spec).collect()
}

fn metadata(checkpoint: &Checkpoint) -> Vec<(String, Value)> {
    let mut metadata = checkpoint.config().to_gguf();
    metadata.extend(tokenizer_metadata(
        None,
        checkpoint.config().dense().vocab_size,
    ));
    metadata
}

/// Converts a checkpoint, tensor by tensor.
fn convert(checkpoint: &Checkpoint, path: &Path) {
    let mut writer = Writer::create(path, &metadata(checkpoint), &specs(checkpoint)).unwrap();
    for info in checkpoint.tensors() {
        writer
            .write(&checkpoint.tensor(&info.name).unwrap().bytes)
            .unwrap();
    }
    writer.finish().unwrap();
}

/// A converted `glm4` and the directory it lies in.
fn converted() -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    convert(&Model::new("glm4", true, false).open().unwrap(), &path);
    (directory, path)
}

#[test]
fn a_round_trip_keeps_every_tensor_and_the_configuration() {
    let yarn = json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.25 });
    for model in [
        Model::new("glm", true, false),
        Model::new("glm", false, true),
        Model::new("glm4", true, false),
        Model::new("glm4", false, false).with("rope_scaling", yarn),
        Model::chatglm(),
        Model::chatglm().with("_name_or_path", json!("chatglm2-6b-32k")),
    ] {
        let source = model.open().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        convert(&source, &path);
        let converted = open(&path).unwrap();
        assert_eq!(converted.tensors().count(), source.tensors().count());
        for info in source.tensors() {
            let copy = converted.tensor_checked(&info.name, &info.shape).unwrap();
            assert_eq!(copy.info.ty, info.ty);
            assert_eq!(
                copy.bytes,
                source.tensor(&info.name).unwrap().bytes,
                "{}",
                info.name
            );
        }
        assert_eq!(
            converted.config().architecture(),
            source.config().architecture()
        );
        let (mut expected, mut found) = (
            source.config().dense().clone(),
            converted.config().dense().clone(),
        );
        (expected.eos_token_ids, expected.pad_token_id) =
            (found.eos_token_ids.clone(), found.pad_token_id);
        for scaling in [&mut expected.rope_scaling, &mut found.rope_scaling] {
            if let RopeScaling::Yarn {
                attention_factor: Some(factor),
                ..
            } = scaling
            {
                *factor = (*factor * 1e5).round(); // metadata is f32
            }
        }
        assert_eq!(found, expected);
        assert_says(converted.tokenizer(), &["no tokenizer"]);
    }
}

#[test]
fn the_gguf_names_are_those_of_llama_cpp() {
    let (_directory, path) = converted();
    let reader = Reader::open(&path).unwrap();
    let mut names = reader
        .tensors()
        .iter()
        .map(|t| t.name.as_str())
        .filter(|name| !name.starts_with("blk.1."))
        .collect::<Vec<_>>();
    names.sort_unstable();
    let mut expected = vec!["output.weight", "output_norm.weight", "token_embd.weight"];
    let layer = [
        "attn_k.bias",
        "attn_k.weight",
        "attn_norm.weight",
        "attn_output.weight",
        "attn_q.bias",
        "attn_q.weight",
        "attn_v.bias",
        "attn_v.weight",
        "ffn_down.weight",
        "ffn_norm.weight",
        "ffn_up.weight",
        "post_attention_norm.weight",
        "post_ffw_norm.weight",
    ];
    let layer = layer.map(|name| format!("blk.0.{name}"));
    expected.splice(0..0, layer.iter().map(String::as_str));
    assert_eq!(names, expected);
    assert_eq!(
        reader.value("general.architecture").and_then(Value::as_str),
        Some("glm4")
    );
    assert_eq!(
        reader.value("tokenizer.ggml.model").and_then(Value::as_str),
        Some("no_vocab")
    );
}

#[test]
fn a_tokenizer_survives_the_round_trip() {
    use glm_core::tokenizer::SpecialTokens;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-glm4");
    let source = open(&source).unwrap();
    let tokenizer = source.tokenizer().unwrap();
    let rows = source.config().dense().vocab_size;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let mut metadata = source.config().to_gguf();
    metadata.extend(tokenizer_metadata(Some(&tokenizer), rows));
    let mut writer = Writer::create(&path, &metadata, &specs(&source)).unwrap();
    source.tensors().for_each(|info| {
        writer
            .write(&source.tensor(&info.name).unwrap().bytes)
            .unwrap()
    });
    writer.finish().unwrap();
    let copy = open(&path).unwrap();
    assert!(!copy.generation_config().eos_token_ids.is_empty());
    let text = "<|user|>\nHello, 你好! 123 <|assistant|>";
    let encode = |checkpoint: &Checkpoint| {
        checkpoint
            .tokenizer()
            .unwrap()
            .encode(text, SpecialTokens::Parse)
            .unwrap()
    };
    assert_eq!(encode(&copy), encode(&source));
}

#[test]
fn a_writer_that_does_not_finish_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let files = || std::fs::read_dir(directory.path()).unwrap().count();
    let spec = TensorSpec {
        name: "x".into(),
        shape: vec![4],
        ty: TensorType::F32,
    };
    let mut writer = Writer::create(&path, &[], std::slice::from_ref(&spec)).unwrap();
    writer.write(&[0; 8]).unwrap();
    assert!(!path.exists() && files() == 1, "only the temporary file");
    drop(writer);
    assert_eq!(files(), 0);
    let mut writer = Writer::create(&path, &[], std::slice::from_ref(&spec)).unwrap();
    assert_says(writer.write(&[0; 17]), &["`x`", "16 bytes", "17 bytes"]);
    writer.write(&[0; 15]).unwrap();
    assert_says(writer.finish(), &["`x`", "16 bytes", "15 bytes"]);
    assert_eq!(files(), 0);
    let mut writer = Writer::create(&path, &[], &[spec]).unwrap();
    writer.write(&[0; 16]).unwrap();
    assert_says(writer.write(&[0]), &["after the last tensor"]);
    writer.finish().unwrap();
    assert_eq!((path.exists(), files()), (true, 1));
    let partial = TensorSpec {
        name: "y".into(),
        shape: vec![33],
        ty: TensorType::Q8_0,
    };
    assert_says(
        Writer::create(&path, &[], &[partial]).map(drop),
        &["`y`", "[33]", "q8_0"],
    );
    assert_says(
        Writer::create(directory.path().join("no/such/model.gguf"), &[], &[]).map(drop),
        &["cannot create"],
    );
}

#[test]
fn every_type_and_value_survives() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("all.gguf");
    let spec = |ty: TensorType| TensorSpec {
        name: format!("t.{ty}"),
        shape: vec![3, 256],
        ty,
    };
    let specs = TensorType::ALL.map(spec);
    let metadata = [
        ("u8".to_owned(), Value::U8(200)),
        ("i16".into(), Value::I16(-3)),
        ("u64".into(), Value::U64(1 << 40)),
        ("f64".into(), Value::F64(0.1)),
        ("bool".into(), Value::Bool(true)),
        ("text".into(), Value::from("你好")),
        (
            "texts".into(),
            Value::from(vec!["a".to_owned(), String::new()]),
        ),
        ("ints".into(), Value::from(vec![-1i32, 2])),
        ("floats".into(), Value::from(vec![1.5f32])),
        ("none".into(), Value::from(Vec::<String>::new())),
    ];
    let data = |ty: TensorType| vec![ty.ggml_id() as u8; ty.byte_len(&[3, 256]).unwrap() as usize];
    let mut writer = Writer::create(&path, &metadata, &specs).unwrap();
    TensorType::ALL
        .into_iter()
        .for_each(|ty| writer.write(&data(ty)).unwrap());
    writer.finish().unwrap();
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.metadata(), metadata);
    for (entry, ty) in reader.tensors().iter().zip(TensorType::ALL) {
        assert_eq!(
            (entry.ty, entry.shape.as_slice(), entry.offset % 32),
            (ty, [3, 256].as_slice(), 0)
        );
        assert_eq!(reader.data(entry), data(ty));
    }
}

/// Writes the tensors of a `glm4` into `count` files, with these split keys instead of the right ones.
fn split(count: usize, spoil: impl Fn(usize, &mut Vec<(String, Value)>)) -> tempfile::TempDir {
    let checkpoint = Model::new("glm4", true, false).open().unwrap();
    let (directory, all) = (tempfile::tempdir().unwrap(), specs(&checkpoint));
    let names = checkpoint
        .tensors()
        .map(|info| info.name.clone())
        .collect::<Vec<_>>();
    let size = all.len().div_ceil(count);
    for (number, (specs, names)) in all.chunks(size).zip(names.chunks(size)).enumerate() {
        let mut keys = if number == 0 {
            metadata(&checkpoint)
        } else {
            Vec::new()
        };
        keys.push(("split.no".into(), Value::U16(number as u16)));
        keys.push(("split.count".into(), Value::U16(count as u16)));
        keys.push(("split.tensors.count".into(), Value::I32(all.len() as i32)));
        spoil(number, &mut keys);
        let path = directory
            .path()
            .join(format!("m-{:05}-of-{count:05}.gguf", number + 1));
        let mut writer = Writer::create(path, &keys, specs).unwrap();
        names.iter().for_each(|name| {
            writer
                .write(&checkpoint.tensor(name).unwrap().bytes)
                .unwrap()
        });
        writer.finish().unwrap();
    }
    directory
}

fn set(keys: &mut [(String, Value)], key: &str, value: Value) {
    keys.iter_mut().find(|(name, _)| name == key).unwrap().1 = value;
}

#[test]
fn a_split_file_opens_from_any_of_its_parts() {
    let directory = split(3, |_, _| {});
    let whole = Model::new("glm4", true, false).open().unwrap();
    for part in 1..=3 {
        let checkpoint =
            open(&directory.path().join(format!("m-0000{part}-of-00003.gguf"))).unwrap();
        for info in whole.tensors() {
            assert_eq!(
                checkpoint.tensor(&info.name).unwrap().bytes,
                whole.tensor(&info.name).unwrap().bytes
            );
        }
    }
}

#[test]
fn split_files_that_do_not_belong_together_are_errors() {
    let first = |directory: &tempfile::TempDir| directory.path().join("m-00001-of-00003.gguf");
    let directory = split(3, |_, _| {});
    std::fs::remove_file(directory.path().join("m-00003-of-00003.gguf")).unwrap();
    assert_says(
        open(&first(&directory)),
        &["cannot open", "m-00003-of-00003.gguf"],
    );
    let directory = split(3, |_, _| {});
    std::fs::rename(first(&directory), directory.path().join("model.gguf")).unwrap();
    assert_says(
        open(&directory.path().join("model.gguf")),
        &["file name", "-00001-of-00003.gguf", "split.count is 3"],
    );
    let directory = split(3, |n, keys| {
        set(
            keys,
            "split.no",
            Value::U16(if n == 2 { 1 } else { n as u16 }),
        )
    });
    assert_says(
        open(&first(&directory)),
        &["m-00003-of-00003.gguf", "split.no is 1", "expected 2"],
    );
    let directory = split(3, |n, keys| {
        if n == 1 {
            set(keys, "split.count", Value::U16(9))
        }
    });
    assert_says(
        open(&first(&directory)),
        &["m-00002-of-00003.gguf", "split.count is 9", "expected 3"],
    );
    let directory = split(3, |_, keys| set(keys, "split.tensors.count", Value::I32(7)));
    assert_says(open(&first(&directory)), &["split.tensors.count", "7"]);
    let directory = split(3, |_, keys| set(keys, "split.count", Value::U64(u64::MAX)));
    assert_says(
        open(&first(&directory)),
        &["split.count", "18446744073709551615"],
    );
}

/// A GGUF header: version, counts, then `rest`, padded to `len` bytes.
fn header(version: u32, tensors: u64, keys: u64, rest: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = [
        b"GGUF".as_slice(),
        &version.to_le_bytes(),
        &tensors.to_le_bytes(),
        &keys.to_le_bytes(),
        rest,
    ]
    .concat();
    bytes.resize(bytes.len().max(len), 0);
    bytes
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

fn entry(name: &str, dims: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let dims = [
        (dims.len() as u32).to_le_bytes().to_vec(),
        dims.iter().flat_map(|d| d.to_le_bytes()).collect(),
    ]
    .concat();
    [
        text(name),
        dims,
        ty.to_le_bytes().to_vec(),
        offset.to_le_bytes().to_vec(),
    ]
    .concat()
}

fn read(bytes: &[u8]) -> Result<Reader, LoadError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.gguf");
    std::fs::write(&path, bytes).unwrap();
    Reader::open(&path)
}

#[test]
fn headers_that_cannot_be_right_are_errors() {
    let key = |name: &str, ty: u32, value: &[u8]| {
        [text(name), ty.to_le_bytes().to_vec(), value.to_vec()].concat()
    };
    let max = u64::MAX.to_le_bytes();
    let array = |element: u32, count: u64| {
        [element.to_le_bytes().as_slice(), &count.to_le_bytes()].concat()
    };
    let two = |second: &[u8]| [entry("a", &[32], 0, 0), second.to_vec()].concat();
    for (bytes, part) in [
        (header(1, 0, 0, &[], 0), "version is 1"),
        (header(4, 0, 0, &[], 0), "version is 4"),
        (header(3u32.swap_bytes(), 0, 0, &[], 0), "big-endian"),
        (
            header(3, u64::MAX, 0, &[], 64),
            "tensor count of 18446744073709551615",
        ),
        (
            header(3, 0, u64::MAX, &[], 64),
            "metadata count of 18446744073709551615",
        ),
        (header(3, 0, 1, &max, 64), "metadata key"),
        (header(3, 0, 1, &key("k", 13, &[]), 64), "k is 13"),
        (header(3, 0, 1, &key("k", 8, &max), 64), "truncated: k"),
        (
            header(
                3,
                0,
                1,
                &key(
                    "k",
                    8,
                    &text("\u{1}")
                        .iter()
                        .map(|&b| if b == 1 { 0xff } else { b })
                        .collect::<Vec<_>>(),
                ),
                64,
            ),
            "truncated: k",
        ),
        (
            header(3, 0, 1, &key("k", 9, &array(4, u64::MAX)), 64),
            "truncated: k of 18446744073709551615",
        ),
        (
            header(3, 0, 1, &key("k", 9, &array(8, 1 << 60)), 64),
            "truncated: k of",
        ),
        (
            header(3, 0, 1, &key("k", 9, &array(9, 1)), 64),
            "element type 9",
        ),
        (
            header(
                3,
                0,
                2,
                &[key("k", 7, &[1]), key("k", 7, &[1])].concat(),
                64,
            ),
            "there twice",
        ),
        (
            header(3, 0, 1, &key("general.alignment", 4, &[3, 0, 0, 0]), 64),
            "general.alignment",
        ),
        (
            header(3, 0, 1, &key("general.alignment", 4, &[0; 4]), 64),
            "general.alignment",
        ),
        (
            header(3, 1, 0, &entry("x", &[], 0, 0), 512),
            "number of dimensions of tensor `x`",
        ),
        (
            header(3, 1, 0, &entry("x", &[1, 1, 1, 1, 1], 0, 0), 512),
            "number of dimensions of tensor `x`",
        ),
        (
            header(3, 1, 0, &entry("x", &[0], 0, 0), 512),
            "shape of tensor `x`",
        ),
        (
            header(3, 1, 0, &entry("x", &[33], 8, 0), 512),
            "whole q8_0 blocks (32 weights)",
        ),
        (
            header(3, 1, 0, &entry("x", &[1 << 40, 1 << 40], 0, 0), 512),
            "shape of tensor `x`",
        ),
        (
            header(3, 1, 0, &entry("x", &[u64::MAX], 0, 0), 512),
            "shape of tensor `x`",
        ),
        (
            header(3, 1, 0, &entry("x", &[32], 99, 0), 512),
            "tensor `x` has the unknown type GGML type 99",
        ),
        (
            header(3, 1, 0, &entry("x", &[32], 4, 0), 512),
            "GGML type 4",
        ),
        (
            header(3, 1, 0, &entry("x", &[32], 0, 7), 512),
            "offset of tensor `x` is 7",
        ),
        (
            header(3, 1, 0, &entry("x", &[32], 0, u64::MAX - 31), 512),
            "truncated: tensor `x`",
        ),
        (
            header(3, 1, 0, &entry("x", &[4096], 0, 0), 512),
            "truncated: tensor `x`",
        ),
        (
            header(3, 2, 0, &two(&entry("a", &[32], 0, 128)), 512),
            "there twice",
        ),
        (
            header(3, 2, 0, &two(&entry("b", &[32], 0, 96)), 512),
            "offset of tensor `b`",
        ),
    ] {
        assert_says(read(&bytes), &["bad.gguf", part]);
    }
    assert!(
        read(&header(2, 2, 0, &two(&entry("b", &[32], 0, 128)), 512)).is_ok(),
        "version 2, and the cases above are one step from valid"
    );
}

#[test]
fn a_message_is_short_whatever_the_file_holds() {
    const MANY: usize = 100_000;
    let mut alignment = text("general.alignment");
    alignment.extend(9u32.to_le_bytes());
    alignment.extend(0u32.to_le_bytes()); // of bytes
    alignment.extend((MANY as u64).to_le_bytes());
    alignment.extend(vec![7; MANY]);
    let long_key = [text(&"k".repeat(MANY)), vec![0; 8]].concat();
    let long_name = entry(&"x".repeat(MANY), &[32], 0, 0);
    for (bytes, part) in [
        (header(3, 0, 1, &alignment, 64), "a value of type array"),
        (header(3, 0, 1, &long_key, 64), "100000 bytes"),
        (header(3, 1, 0, &long_name, 64), "100000 bytes"),
    ] {
        let message = read(&bytes).err().unwrap().to_string();
        assert!(message.contains(part) && message.len() < 300, "{message}");
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let (directory, path) = converted();
    let whole = std::fs::read(&path).unwrap();
    let cut = directory.path().join("cut.gguf");
    // The last tensor is followed by padding, which may be missing.
    let end = whole.len() - 32;
    for len in (0..end).step_by(1013).chain([3, 4, 23, 24, end - 1]) {
        std::fs::write(&cut, &whole[..len]).unwrap();
        assert_says(open(&cut), &["cut.gguf"]);
    }
}

/// Converts a `glm4` with changed metadata.
fn open_with(change: impl Fn(&mut Vec<(String, Value)>)) -> Result<Checkpoint, LoadError> {
    let checkpoint = Model::new("glm4", true, false).open().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let mut keys = metadata(&checkpoint);
    change(&mut keys);
    let mut writer = Writer::create(&path, &keys, &specs(&checkpoint)).unwrap();
    checkpoint.tensors().for_each(|info| {
        writer
            .write(&checkpoint.tensor(&info.name).unwrap().bytes)
            .unwrap()
    });
    writer.finish().unwrap();
    open(&path)
}

#[test]
fn metadata_that_contradicts_itself_or_the_tensors_is_named() {
    for (key, value, part) in [
        (
            "glm4.attention.head_count",
            Value::U32(0),
            "glm4.attention.head_count",
        ),
        (
            "glm4.attention.head_count_kv",
            Value::U32(3),
            "a divisor of glm4.attention.head_count = 4",
        ),
        (
            "glm4.attention.key_length",
            Value::U32(17),
            "expected 17, as attention.key_length",
        ),
        (
            "glm4.attention.value_length",
            Value::U32(8),
            "glm4.attention.value_length",
        ),
        (
            "glm4.rope.dimension_count",
            Value::U32(32),
            "glm4.rope.dimension_count",
        ),
        (
            "glm4.rope.freq_base",
            Value::F32(f32::NAN),
            "glm4.rope.freq_base",
        ),
        (
            "glm4.attention.layer_norm_rms_epsilon",
            Value::F32(f32::NAN),
            "layer_norm_rms_epsilon",
        ),
        (
            "glm4.embedding_length",
            Value::from("64"),
            "a value of type string",
        ),
        ("glm4.vocab_size", Value::U32(97), "glm4.vocab_size"),
        ("glm4.block_count", Value::U32(3), "model.layers.2."),
        ("glm4.block_count", Value::U32(1), "blk.1."),
        ("glm4.block_count", Value::U32(u32::MAX), "glm4.block_count"),
        ("glm4.feed_forward_length", Value::U32(47), "ffn_up.weight"),
        (
            "general.architecture",
            Value::from("llama"),
            "`llama` is not supported",
        ),
        ("general.architecture", Value::from("glm4moe"), "GLM-4.5"),
        (
            "general.architecture",
            Value::from("deepseek2"),
            "not supported yet",
        ),
        ("general.architecture", Value::from("glm-dsa"), "GLM-5"),
    ] {
        assert_says(
            open_with(|keys| set(keys, key, value.clone())),
            &["model.gguf", part],
        );
    }
    let sections = (
        "glm4.rope.dimension_sections".to_owned(),
        Value::from(vec![8, 12, 12, 0]),
    );
    assert_says(
        open_with(|keys| keys.push(sections.clone())),
        &["GLM-4.1V", "not supported yet"],
    );
    let scaling = ("glm4.rope.scaling.type".to_owned(), Value::from("longrope"));
    assert_says(
        open_with(|keys| keys.push(scaling.clone())),
        &["glm4.rope.scaling.type", "longrope"],
    );
    assert_says(
        open_with(|keys| keys.retain(|(key, _)| key != "glm4.block_count")),
        &["`glm4.block_count` is missing"],
    );
    assert_says(
        open_with(|keys| keys.retain(|(key, _)| key != "general.architecture")),
        &["`general.architecture` is missing"],
    );
    let tokens = (
        "tokenizer.ggml.tokens".to_owned(),
        Value::from(vec!["x".to_owned(); 97]),
    );
    assert_says(
        open_with(|keys| keys.push(tokens.clone())),
        &["tokenizer.ggml.tokens", "97 tokens"],
    );
}

#[test]
fn stop_tokens_are_eos_eot_and_eom() {
    let key = |name: &str, id| (format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
    let keys = [key("eos", 9), key("eot", 10), key("eom", 9), key("bos", 3)];
    let checkpoint = open_with(|metadata| metadata.extend(keys.clone())).unwrap();
    assert_eq!(checkpoint.generation_config().eos_token_ids, [9, 10]);
}

#[test]
fn quantised_norms_are_refused() {
    let checkpoint = Model::new("glm4", true, false).open().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let mut specs = specs(&checkpoint);
    specs
        .iter_mut()
        .find(|spec| spec.name == "output_norm.weight")
        .unwrap()
        .ty = TensorType::Q8_0;
    let mut writer = Writer::create(&path, &metadata(&checkpoint), &specs).unwrap();
    for (info, spec) in checkpoint.tensors().zip(&specs) {
        let len = spec.ty.byte_len(&spec.shape).unwrap() as usize;
        writer
            .write(&checkpoint.tensor(&info.name).unwrap().bytes[..len])
            .unwrap();
    }
    writer.finish().unwrap();
    assert_says(
        open(&path),
        &[
            "model.gguf",
            "output_norm.weight",
            "q8_0",
            "f32, f16 or bf16",
        ],
    );
}

#[test]
fn the_known_gap_of_converters_is_a_warning() {
    let model = Model::new("glm", true, false).with("max_position_embeddings", json!(64));
    let source = model.open().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    convert(&source, &path);
    let checkpoint = open(&path).unwrap();
    assert!(checkpoint.warnings()[0].contains("context_length equals embedding_length"));
    assert!(matches!(checkpoint.config(), ModelConfig::Glm(_)));
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(changes in proptest::collection::vec((0usize..4000, any::<u8>()), 1..12), cut in 0usize..6000) {
        static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let (_directory, path) = converted();
            std::fs::read(path).unwrap()
        });
        let mut bytes = WHOLE.clone();
        bytes.truncate(bytes.len() - cut);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(reader) = read(&bytes) {
            reader.tensors().iter().for_each(|entry| assert_eq!(reader.data(entry).len() as u64, entry.bytes));
            let _ = ModelConfig::from_gguf(&reader);
        }
    }
}
