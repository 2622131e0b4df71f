//! `*.index.json`: which shard holds which tensor.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::Deserialize;

use crate::error::LoadError;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads the text of an index; returns the shards in order of their names, each with its tensors.
///
/// # Errors
/// [`LoadError::Json`]; [`LoadError::Header`] if it names no shard, or a shard outside its directory.
pub(crate) fn parse_index(
    text: &str,
    file: &Path,
) -> Result<BTreeMap<String, Vec<String>>, LoadError> {
    let index: Index = serde_json::from_str(text).map_err(|source| LoadError::Json {
        file: file.to_path_buf(),
        source,
    })?;
    let header = |field: String, expected: &str, found: String| LoadError::Header {
        file: file.to_path_buf(),
        field,
        expected: expected.to_owned(),
        found,
    };
    let mut shards = BTreeMap::<String, Vec<String>>::new();
    for (tensor, shard) in index.weight_map {
        let mut components = Path::new(&shard).components();
        let is_file_name = matches!(
            (components.next(), components.next()),
            (Some(Component::Normal(_)), None)
        );
        if !is_file_name || shard.contains(['/', '\\', '\0']) {
            return Err(header(
                format!("weight_map.{tensor}"),
                "the name of a file beside the index",
                format!("`{}`", shard.escape_debug()),
            ));
        }
        shards.entry(shard).or_default().push(tensor);
    }
    if shards.is_empty() {
        return Err(header(
            "weight_map".into(),
            "at least one tensor",
            "none".into(),
        ));
    }
    Ok(shards)
}
