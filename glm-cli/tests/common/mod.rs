//! Runs the built program the way a shell would, and makes models to run it on.
#![allow(dead_code, reason = "every test file uses its own part of this module")]

pub mod service;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// What a finished run left behind.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// stdout of a run that must have succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    /// The single JSON object on stdout of a run that must have succeeded.
    pub fn json(self) -> Value {
        let stdout = self.ok();
        assert_eq!(
            stdout.lines().count(),
            1,
            "one line of JSON and nothing else:\n{stdout}"
        );
        let value: Value = serde_json::from_str(&stdout).unwrap();
        assert!(value.is_object(), "{value}");
        value
    }

    /// The one line of a run that must have been refused: exit code 2, nothing on stdout.
    pub fn refused(self) -> String {
        assert_eq!(self.code, Some(2), "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:#?}");
        let line = self
            .stderr
            .trim_end()
            .strip_prefix("error: ")
            .expect("an error line")
            .to_owned();
        assert!(
            !line.contains("panicked") && !line.contains('\u{1b}'),
            "{line}"
        );
        line
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The program with `args`, shielded from the environment of whoever runs the tests.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_glm-cli"));
    command
        .args(args)
        .env("HF_HUB_OFFLINE", "1")
        .env("GLM_QUEUE", "memory")
        .stdin(Stdio::null());
    for name in [
        "GLM_MODEL",
        "GLM_ISA",
        "HOST",
        "PORT",
        "NO_COLOR",
        "RUST_BACKTRACE",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs the program with nothing on stdin.
pub fn glm(args: &[&str]) -> Run {
    command(args).output().unwrap().into()
}

/// Runs the program with `input` on stdin.
pub fn glm_with_stdin(args: &[&str], input: &str) -> Run {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap().into()
}

/// A named pipe that nobody writes to.
#[cfg(unix)]
pub fn make_pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success(), "mkfifo {}", path.display());
}

/// A checkpoint of this repository.
pub fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../models")
        .join(name)
}

/// A copy of a checkpoint's files, to be damaged.
pub fn copy_of(name: &str) -> TempDir {
    let copy = TempDir::new().unwrap();
    for entry in fs::read_dir(model(name)).unwrap() {
        let entry = entry.unwrap();
        let is_data = entry.file_name().to_string_lossy().starts_with("golden");
        if entry.file_type().unwrap().is_file() && !is_data {
            fs::write(
                copy.path().join(entry.file_name()),
                fs::read(entry.path()).unwrap(),
            )
            .unwrap();
        }
    }
    copy
}

/// A directory with one GGUF of a checkpoint, to be damaged.
pub fn copy_of_gguf(name: &str, file: &str) -> (TempDir, PathBuf) {
    let copy = TempDir::new().unwrap();
    let path = copy.path().join("model.gguf");
    fs::write(&path, fs::read(model(name).join(file)).unwrap()).unwrap();
    (copy, path)
}

/// Changes a JSON file in a directory.
pub fn edit_json(dir: &Path, file: &str, edit: impl FnOnce(&mut Value)) {
    let path = dir.join(file);
    let mut value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Changes the header of `model.safetensors`, leaving the data alone.
pub fn edit_safetensors(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let path = dir.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(&mut header);
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let changed = [
        &(text.len() as u64).to_le_bytes(),
        text.as_slice(),
        &bytes[8 + length..],
    ]
    .concat();
    fs::write(path, changed).unwrap();
}

/// Names and lengths of everything in a directory, to see that nothing was written.
pub fn listing(dir: &Path) -> Vec<(String, u64)> {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                entry.metadata().unwrap().len(),
            )
        })
        .collect();
    entries.sort();
    entries
}

/// A path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}
