//! Directories of safetensors: what opens, and the message for what does not.

mod common;

use std::sync::LazyLock;

use common::{Model, assert_says, bf16_tensor, open, safetensors, safetensors_with};
use glm_core::{Checkpoint, LoadError, LoadErrorKind};
use proptest::prelude::*;
use serde_json::json;

/// Opens `Model::new("glm4", true, false)` with another `model.safetensors`.
fn open_with_file(bytes: &[u8]) -> Result<Checkpoint, LoadError> {
    let directory = Model::new("glm4", true, false).write();
    std::fs::write(directory.path().join("model.safetensors"), bytes).unwrap();
    open(directory.path())
}

#[test]
fn every_form_opens_and_gives_the_bytes_that_were_written() {
    for model in [
        Model::new("glm", true, false),
        Model::new("glm", false, true),
        Model::new("glm4", true, false),
        Model::new("glm4", false, false),
    ] {
        let directory = model.write();
        let checkpoint = open(directory.path()).unwrap();
        assert_eq!(checkpoint.tensors().count(), model.tensors.len());
        for (info, written) in checkpoint.tensors().zip(&model.tensors) {
            assert_eq!(
                (&info.name, &info.shape),
                (&written.name, &written.shape),
                "file order"
            );
            let data = checkpoint
                .tensor_checked(&info.name, &written.shape)
                .unwrap();
            assert_eq!(data.bytes.as_ref(), written.data);
        }
    }
}

#[test]
fn chatglm_names_become_canonical() {
    let model = Model::chatglm();
    let directory = model.write();
    let checkpoint = open(directory.path()).unwrap();
    let fused = checkpoint
        .tensor_checked("model.layers.1.self_attn.qkv_proj.weight", &[128, 64])
        .unwrap();
    assert_eq!(
        fused.info.source_name,
        "transformer.encoder.layers.1.self_attention.query_key_value.weight"
    );
    let written = model
        .tensors
        .iter()
        .find(|tensor| tensor.name == fused.info.source_name)
        .unwrap();
    assert_eq!(fused.bytes.as_ref(), written.data);
    assert!(checkpoint.tensor_info("lm_head.weight").is_some());
    assert_eq!(
        checkpoint.tensors().count(),
        model.tensors.len() - 1,
        "inv_freq is left out"
    );
}

#[test]
fn asking_for_what_is_not_there_is_an_error() {
    let checkpoint = Model::new("glm", true, false).open().unwrap();
    assert_says(
        checkpoint.tensor("model.layers.7.mlp.up_proj.weight"),
        &["model.layers.7.mlp.up_proj.weight", "missing"],
    );
    let wrong = checkpoint.tensor_checked("model.norm.weight", &[65]);
    assert_says(
        wrong,
        &["model.safetensors", "model.norm.weight", "[64]", "[65]"],
    );
}

#[test]
fn a_tied_model_may_repeat_its_embedding() {
    let mut model = Model::new("glm", true, true);
    model.tensors.push(bf16_tensor("lm_head.weight", &[96, 64]));
    assert!(
        model
            .open()
            .unwrap()
            .tensor_info("lm_head.weight")
            .is_none()
    );
}

#[test]
fn missing_wrong_doubled_and_unknown_tensors_are_named() {
    let model = Model::new("glm4", true, false);
    for name in model.tensors.iter().map(|tensor| tensor.name.clone()) {
        let mut spoiled = model.clone();
        spoiled.tensors.retain(|tensor| tensor.name != name);
        assert_says(spoiled.open(), &[&format!("`{name}` is missing")]);
    }
    let mut wrong = model.clone();
    *wrong.tensor("model.layers.1.mlp.down_proj.weight") =
        bf16_tensor("model.layers.1.mlp.down_proj.weight", &[48, 64]);
    assert_says(
        wrong.open(),
        &[
            "model.safetensors",
            "model.layers.1.mlp.down_proj.weight",
            "[48, 64]",
            "[64, 48]",
        ],
    );
    let mut extra = model.clone();
    extra.tensors.push(bf16_tensor(
        "model.layers.2.mlp.down_proj.weight",
        &[64, 48],
    ));
    assert_says(
        extra.open(),
        &[
            "model.safetensors",
            "model.layers.2.mlp.down_proj.weight",
            "no place",
        ],
    );
    let mut unknown = model.clone();
    unknown.tensors.push(bf16_tensor(
        "model.layers.0.mlp.experts.0.up_proj.weight",
        &[4, 4],
    ));
    assert_says(
        unknown.open(),
        &["experts.0.up_proj.weight", "[4, 4]", "no place"],
    );
    let mut doubled = model.clone();
    doubled
        .tensors
        .push(bf16_tensor("model.norm.weight", &[64]));
    assert_says(
        doubled.open(),
        &["model.norm.weight", "there twice", "model.safetensors"],
    );
    let unbiased = Model {
        config: Model::new("glm4", false, false).config,
        ..model
    };
    assert_says(unbiased.open(), &["self_attn.q_proj.bias", "no place"]);
}

#[test]
fn a_vocabulary_of_another_size_is_a_wrong_shape() {
    let model = Model::new("glm", true, false)
        .with("vocab_size", json!(97))
        .with("eos_token_id", json!(1));
    assert_says(
        model.open(),
        &["model.embed_tokens.weight", "[96, 64]", "[97, 64]"],
    );
}

#[test]
fn element_types_that_no_weight_has_are_named() {
    for (dtype, width) in [("I64", 8), ("F8_E4M3", 1), ("U8", 1), ("F64", 8)] {
        let mut model = Model::new("glm", true, false);
        let norm = model.tensor("model.norm.weight");
        (norm.dtype, norm.data) = (dtype, vec![0; 64 * width]);
        let result = model.open();
        assert_eq!(
            result.as_ref().unwrap_err().kind(),
            LoadErrorKind::Unsupported
        );
        assert_says(
            result,
            &["model.safetensors", "model.norm.weight", dtype, "bf16"],
        );
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let whole = safetensors(&Model::new("glm4", true, false).tensors);
    for len in (0..whole.len())
        .step_by(1009)
        .chain([7, 8, 9, whole.len() - 1])
    {
        assert_says(open_with_file(&whole[..len]), &["model.safetensors"]);
    }
    assert_says(
        open_with_file(&whole[..whole.len() - 1]),
        &[
            "truncated",
            &format!("{}", whole.len()),
            &format!("{}", whole.len() - 1),
        ],
    );
}

#[test]
fn headers_that_cannot_be_right_are_errors() {
    let entry = |shape: &str, start: &str, end: &str| {
        format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}}}"#)
    };
    let file = |header: &str| safetensors_with(header, &[0; 16]);
    let max = u64::MAX.to_string();
    for (bytes, part) in [
        (u64::MAX.to_le_bytes().to_vec(), "header length"),
        (1000u64.to_le_bytes().to_vec(), "truncated"),
        (file("{"), "not valid JSON"),
        (file("[]"), "not valid JSON"),
        (
            file(r#"{"x":{"dtype":"F32","shape":[4]}}"#),
            "not valid JSON",
        ),
        (file(&entry("[-1]", "0", "16")), "not valid JSON"),
        (file(&entry("[4]", "0", "17")), "truncated"),
        (file(&entry("[4]", "0", &max)), "truncated"),
        (file(&entry("[4]", "8", "4")), "data_offsets of tensor `x`"),
        (file(&entry("[3]", "4", "16")), "data_offsets of tensor `x`"),
        (file(&entry("[3]", "0", "12")), "length of the file"),
        (file(&entry("[5]", "0", "16")), "20 bytes"),
        (
            file(&entry("[4294967296,4294967296,4]", "0", "16")),
            "data of tensor `x`",
        ),
        (
            file(&entry(&format!("[{max},4]"), "0", "16")),
            "data of tensor `x`",
        ),
        (
            file(
                r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[3],"data_offsets":[4,16]}}"#,
            ),
            "data_offsets of tensor `y`",
        ),
        (
            file(
                r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"x":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
            ),
            "there twice",
        ),
    ] {
        assert_says(open_with_file(&bytes), &["model.safetensors", part]);
    }
}

/// Two shards and their index.
fn sharded(index: &str) -> tempfile::TempDir {
    let model = Model::new("glm", true, false);
    let directory = model.write();
    std::fs::remove_file(directory.path().join("model.safetensors")).unwrap();
    let (first, second) = model.tensors.split_at(9);
    std::fs::write(directory.path().join("a.safetensors"), safetensors(first)).unwrap();
    std::fs::write(directory.path().join("b.safetensors"), safetensors(second)).unwrap();
    std::fs::write(directory.path().join("model.safetensors.index.json"), index).unwrap();
    directory
}

fn index() -> serde_json::Value {
    let tensors = Model::new("glm", true, false).tensors;
    let map = tensors.iter().enumerate().map(|(i, t)| {
        (
            t.name.clone(),
            json!(if i < 9 {
                "a.safetensors"
            } else {
                "b.safetensors"
            }),
        )
    });
    json!({ "metadata": { "total_size": 1 }, "weight_map": map.collect::<serde_json::Map<_, _>>() })
}

#[test]
fn shards_open_as_one_checkpoint() {
    let directory = sharded(&index().to_string());
    let checkpoint = open(directory.path()).unwrap();
    for written in Model::new("glm", true, false).tensors {
        assert_eq!(
            checkpoint.tensor(&written.name).unwrap().bytes.as_ref(),
            written.data
        );
    }
}

#[test]
fn an_index_that_cannot_be_right_is_an_error() {
    for (shard, part) in [
        ("../a.safetensors", "beside the index"),
        ("/etc/passwd", "beside the index"),
        ("", "beside the index"),
        ("..", "beside the index"),
        ("c.safetensors", "cannot open"),
    ] {
        let mut index = index();
        index["weight_map"]["model.norm.weight"] = json!(shard);
        assert_says(open(sharded(&index.to_string()).path()), &[part]);
    }
    let mut moved = index();
    moved["weight_map"]["model.norm.weight"] = json!("a.safetensors");
    assert_says(
        open(sharded(&moved.to_string()).path()),
        &["a.safetensors", "model.norm.weight", "in this shard"],
    );
    for (text, part) in [
        ("{}", "weight_map"),
        (r#"{"weight_map":{}}"#, "at least one tensor"),
        (r#"{"weight_map":{"x":1}}"#, "not valid JSON"),
        ("", "not valid JSON"),
    ] {
        assert_says(
            open(sharded(text).path()),
            &["model.safetensors.index.json", part],
        );
    }
    let directory = sharded(&index().to_string());
    std::fs::copy(
        directory.path().join("b.safetensors"),
        directory.path().join("c.safetensors"),
    )
    .unwrap();
    let mut doubled = index();
    doubled["weight_map"]["x"] = json!("c.safetensors");
    std::fs::write(
        directory.path().join("model.safetensors.index.json"),
        doubled.to_string(),
    )
    .unwrap();
    assert_says(open(directory.path()), &["c.safetensors", "`x`"]);
}

#[test]
fn a_tensor_in_two_shards_is_there_twice() {
    let directory = sharded(&index().to_string());
    let tensors = Model::new("glm", true, false).tensors;
    let mut second = tensors[9..].to_vec();
    second.push(tensors[0].clone());
    std::fs::write(directory.path().join("b.safetensors"), safetensors(&second)).unwrap();
    assert_says(
        open(directory.path()),
        &[
            "model.embed_tokens.weight",
            "there twice",
            "a.safetensors",
            "b.safetensors",
        ],
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))] // each case writes a file

    #[test]
    fn changed_bytes_never_panic(changes in proptest::collection::vec((0usize..3000, any::<u8>()), 1..20)) {
        static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| safetensors(&Model::new("glm4", true, false).tensors));
        static DIRECTORY: LazyLock<tempfile::TempDir> = LazyLock::new(|| Model::new("glm4", true, false).write());
        let mut bytes = WHOLE.clone();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        std::fs::write(DIRECTORY.path().join("model.safetensors"), &bytes).unwrap();
        if let Ok(checkpoint) = open(DIRECTORY.path()) {
            checkpoint.tensors().for_each(|info| assert_eq!(checkpoint.tensor(&info.name).unwrap().bytes.len() as u64, info.bytes));
        }
    }

    #[test]
    fn what_the_reference_implementation_writes_is_read(shapes in proptest::collection::vec((1usize..5, 1usize..5), 1..6)) {
        let data = shapes.iter().map(|(r, c)| vec![7u8; r * c * 4]).collect::<Vec<_>>();
        let views = shapes.iter().zip(&data).enumerate().map(|(i, ((r, c), data))| {
            (format!("t{i}"), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![*r, *c], data).unwrap())
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        // The header is accepted; the names mean nothing to the model.
        assert_says(open_with_file(&bytes), &["has no place"]);
    }
}
