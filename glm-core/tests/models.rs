//! The repository's tiny checkpoints, in every form they are kept in.

use std::path::{Path, PathBuf};

use glm_core::{Checkpoint, Format, ModelConfig};

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")
}

#[test]
fn every_tiny_checkpoint_opens() {
    let mut opened = 0;
    for entry in std::fs::read_dir(models()).unwrap() {
        let path = entry.unwrap().path();
        if !path.join("config.json").exists() {
            continue;
        }
        let checkpoint = Checkpoint::open(path.to_str().unwrap()).unwrap();
        assert_eq!(
            checkpoint.format(),
            Format::Safetensors,
            "{}",
            path.display()
        );
        checkpoint.tokenizer().unwrap();
        assert!(
            !checkpoint.generation_config().eos_token_ids.is_empty(),
            "{}",
            path.display()
        );
        opened += 1;
    }
    assert!(
        opened >= 7,
        "only {opened} checkpoints in {}",
        models().display()
    );
}

#[test]
fn every_gguf_file_opens_and_says_the_same_as_its_directory() {
    let mut opened = 0;
    for directory in std::fs::read_dir(models())
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        for path in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
        {
            if path.extension().is_none_or(|extension| extension != "gguf") {
                continue;
            }
            let gguf = Checkpoint::open(path.to_str().unwrap()).unwrap();
            assert_eq!(gguf.format(), Format::Gguf);
            gguf.tokenizer().unwrap();
            opened += 1;
            if !directory.join("config.json").exists() {
                continue;
            }
            let source = Checkpoint::open(directory.to_str().unwrap()).unwrap();
            let strip = |config: &ModelConfig| {
                let mut dense = config.dense().clone();
                (dense.eos_token_ids, dense.pad_token_id) = (Vec::new(), None);
                dense
            };
            assert_eq!(
                strip(gguf.config()),
                strip(source.config()),
                "{}",
                path.display()
            );
            assert_eq!(gguf.config().architecture(), source.config().architecture());
        }
    }
    assert!(
        opened >= 5,
        "only {opened} GGUF files below {}",
        models().display()
    );
}
