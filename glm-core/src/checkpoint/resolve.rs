//! From what a person typed to a place: the embedded model, a path, a hub id.

use std::io::ErrorKind;
use std::path::Path;

use super::assemble::assemble;
use super::{Checkpoint, OpenOptions, directory, gguf_files};
use crate::error::LoadError;

/// The name of the embedded model.
const DEMO: &str = "demo";
/// What every message about a wrong argument ends with.
const WHAT_WORKS: &str = "give `demo`, a directory, a .gguf file or a hub id owner/name";

pub(super) fn open(model: &str, options: &OpenOptions) -> Result<Checkpoint, LoadError> {
    if model == DEMO {
        return open_demo();
    }
    let path = Path::new(model);
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => assemble(directory::open(path, directory_name(path))?),
        Ok(_) => open_file(path),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            open_hub(model, options)
        }
        // A name that no file can have ("nul\0byte", thousands of characters) is simply not a path.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidInput | ErrorKind::InvalidFilename
            ) =>
        {
            Err(unknown(model))
        }
        Err(error) => Err(LoadError::io("open", path)(error)),
    }
}

fn open_demo() -> Result<Checkpoint, LoadError> {
    match glm_models::demo() {
        Some(files) => assemble(directory::open_embedded(DEMO, files)?),
        None => Err(LoadError::UnknownModel {
            model: DEMO.into(),
            tried: "this program was built without the feature `demo`".into(),
            hint: "give a directory, a .gguf file or a hub id owner/name".into(),
        }),
    }
}

fn directory_name(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    full.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

fn open_file(path: &Path) -> Result<Checkpoint, LoadError> {
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default();
    if !matches!(extension, "safetensors" | "bin" | "pt" | "pth" | "json") {
        return assemble(gguf_files::open(path)?);
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    Err(LoadError::NotACheckpoint {
        path: path.to_path_buf(),
        found: "a single file of a checkpoint".into(),
        hint: format!(
            "give its directory, {}, with config.json in it",
            parent.display()
        ),
    })
}

#[cfg(feature = "hub")]
fn open_hub(model: &str, options: &OpenOptions) -> Result<Checkpoint, LoadError> {
    // A repository holds files and is none: `models/x.gguf` is a path with a mistake in it.
    let is_file_name = model.to_ascii_lowercase().ends_with(".gguf");
    let Some(id) = super::hub::HubId::parse(model).filter(|_| !is_file_name) else {
        return Err(unknown(model));
    };
    let directory = super::hub::fetch(&id, options)?;
    assemble(directory::open(&directory, model.to_owned())?)
}

#[cfg(not(feature = "hub"))]
fn open_hub(model: &str, _options: &OpenOptions) -> Result<Checkpoint, LoadError> {
    let mut error = unknown(model);
    if let LoadError::UnknownModel { tried, .. } = &mut error {
        tried.push_str(" (and this program was built without the feature `hub`)");
    }
    Err(error)
}

fn unknown(model: &str) -> LoadError {
    let names = nearest(model);
    let hint = if names.is_empty() {
        WHAT_WORKS.to_owned()
    } else {
        format!("did you mean {}? Else {WHAT_WORKS}", names.join(" or "))
    };
    // One line of a length to be read, whatever was typed.
    let model = model
        .chars()
        .take(200)
        .collect::<String>()
        .escape_debug()
        .to_string();
    LoadError::UnknownModel {
        model,
        tried: "there is no such file or directory, and it is no hub id".into(),
        hint,
    }
}

/// Known names that a mistyped one may have meant, nearest first.
fn nearest(model: &str) -> Vec<String> {
    let typed = model.to_ascii_lowercase();
    if typed.len() > 100 {
        return Vec::new(); // no known name is near, and the distance takes quadratic time
    }
    let hub_ids = glm_models::KNOWN_CHECKPOINTS
        .iter()
        .filter(|known| known.supported)
        .map(|known| known.hub_id);
    let mut candidates = hub_ids
        .map(|id| (distance(&typed, short_name(id)), id.to_owned()))
        .chain([(distance(&typed, DEMO), DEMO.to_owned())])
        .filter(|(distance, id)| *distance <= short_name(id).len() / 3)
        .collect::<Vec<_>>();
    candidates.sort();
    candidates
        .into_iter()
        .take(3)
        .map(|(_, id)| format!("`{id}`"))
        .collect()
}

/// The part of a hub id that people remember.
fn short_name(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or(id)
}

/// Levenshtein distance, letter case aside.
fn distance(a: &str, b: &str) -> usize {
    let b = b.to_ascii_lowercase().into_bytes();
    let mut row = (0..=b.len()).collect::<Vec<_>>();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, expected) in [
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("glm-4-9b", "GLM-4-9B", 0),
            ("abc", "", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_mistyped_name_finds_the_known_one() {
        assert_eq!(nearest("chatglm3-6")[0], "`zai-org/chatglm3-6b`");
        assert_eq!(nearest("demos"), ["`demo`"]);
        assert!(nearest("llama-3-70b-instruct").is_empty());
    }
}
