//! Model arguments that name nothing usable: one line that says what was tried and what would work.

mod common;

use common::{Model, assert_says, open};
use glm_core::{Checkpoint, LoadErrorKind};

#[test]
fn names_that_lead_nowhere_say_what_would_work() {
    for (model, parts) in [
        ("demos", ["did you mean `demo`", "a hub id owner/name"]),
        (
            "chatglm3-6",
            ["did you mean `zai-org/chatglm3-6b`", "a .gguf file"],
        ),
        (
            "/no/such/directory",
            ["no such file or directory", "give `demo`"],
        ),
        (
            "./missing.gguf",
            ["no such file or directory", "a .gguf file"],
        ),
        ("", ["no such file or directory", "give `demo`"]),
        ("a/b/c", ["no hub id", "give `demo`"]),
        ("two\nlines", ["two\\nlines", "give `demo`"]),
        ("nul\0byte", ["no such file or directory", "give `demo`"]),
    ] {
        let result = Checkpoint::open(model);
        assert_eq!(
            result.as_ref().unwrap_err().kind(),
            LoadErrorKind::NotFound,
            "{model}"
        );
        assert_says(result, &parts);
    }
    assert_says(Checkpoint::open(&"x".repeat(100_000)), &["give"]);
}

#[cfg(feature = "hub")]
#[test]
fn a_hub_id_that_is_not_cached_is_refused_offline() {
    let cache = tempfile::tempdir().unwrap();
    let mut options = glm_core::OpenOptions::default();
    options.offline = true;
    options.cache_dir = Some(cache.path().into());
    let result = Checkpoint::open_with("zai-org/GLM-4-9B-0414", &options);
    assert_says(
        result,
        &[
            "zai-org/GLM-4-9B-0414",
            "not in the cache",
            &cache.path().display().to_string(),
            "config.json",
            "run once online",
        ],
    );
}

#[test]
fn directories_without_config_or_weights_say_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    assert_says(
        open(directory.path()),
        &["no config.json", &directory.path().display().to_string()],
    );
    std::fs::write(directory.path().join("model-q4_k.gguf"), b"GGUF").unwrap();
    assert_says(
        open(directory.path()),
        &["no config.json", "it holds GGUF files", "model-q4_k.gguf"],
    );
    std::fs::write(
        directory.path().join("config.json"),
        Model::new("glm", true, false).config_text(),
    )
    .unwrap();
    assert_says(open(directory.path()), &["no weights", "model.safetensors"]);
    for name in ["a.safetensors", "b.safetensors"] {
        std::fs::write(directory.path().join(name), b"").unwrap();
    }
    assert_says(
        open(directory.path()),
        &["2 weight files", "no model.safetensors.index.json"],
    );
}

#[test]
fn files_that_are_no_checkpoint_say_what_they_are() {
    let directory = Model::new("glm", true, false).write();
    let shown = directory.path().display().to_string();
    assert_says(
        open(&directory.path().join("model.safetensors")),
        &["a single file", "give its directory", &shown],
    );
    assert_says(
        open(&directory.path().join("config.json")),
        &["a single file", "give its directory", &shown],
    );
    for (name, content, part) in [
        ("notes.txt", b"Dear model,".as_slice(), "`Dear`"),
        ("empty.gguf", b"", "0 bytes"),
        ("short.gguf", b"GG", "2 bytes"),
        ("wrong.gguf", b"\x00\x01\x02\x03 and more", "\\x00\\x01"),
        ("old.gguf", b"ggml\x01\0\0\0", "`ggml`"),
    ] {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        assert_says(open(&path), &[name, part, "a GGUF file starts with `GGUF`"]);
    }
}

#[cfg(unix)]
#[test]
fn unreadable_and_special_files_are_errors() {
    use std::os::unix::fs::PermissionsExt;
    assert_says(
        Checkpoint::open("/dev/null"),
        &["/dev/null", "not a regular file"],
    );
    let directory = Model::new("glm", true, false).write();
    let weights = directory.path().join("model.safetensors");
    std::fs::set_permissions(&weights, PermissionsExt::from_mode(0o000)).unwrap();
    if std::fs::File::open(&weights).is_ok() {
        println!("skipped: this user reads files without permission");
        return;
    }
    assert_says(
        open(directory.path()),
        &["cannot open", "model.safetensors"],
    );
}

#[test]
fn checkpoints_can_be_sent_and_shared() {
    fn check<T: Send + Sync + Clone>() {}
    check::<Checkpoint>();
}

#[cfg(feature = "demo")]
#[test]
fn the_demo_opens_without_a_file() {
    let demo = Checkpoint::open("demo").unwrap();
    assert_eq!((demo.name(), demo.path()), ("demo", None));
    assert!(demo.tensors().count() > 10);
    demo.tokenizer().unwrap();
    demo.chat_format().unwrap();
    assert!(demo.note().is_some());
}

#[test]
fn a_directory_without_tokenizer_opens_and_says_so_when_asked() {
    let checkpoint = Model::new("glm", true, false).open().unwrap();
    assert_says(
        checkpoint.tokenizer(),
        &["no tokenizer", "tokenizer.json, tokenizer.model"],
    );
}

#[test]
fn a_tokenizer_larger_than_the_vocabulary_is_an_error() {
    let directory = Model::new("glm", true, false).write();
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/tokenizer/tokenizer.json");
    std::fs::copy(demo, directory.path().join("tokenizer.json")).unwrap();
    assert_says(
        open(directory.path()).unwrap().tokenizer(),
        &["tokenizer.json", "96"],
    );
    std::fs::write(directory.path().join("tokenizer.json"), "{").unwrap();
    assert_says(
        open(directory.path()).unwrap().tokenizer(),
        &["tokenizer.json"],
    );
}
