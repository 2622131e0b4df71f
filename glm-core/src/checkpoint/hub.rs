//! A checkpoint on the hub: found in the cache that `huggingface_hub` and this crate share, or downloaded into it.
//!
//! All files come from one commit. A snapshot that is whole is used as it is, without asking the hub; its weights are fetched last, so one that has
//! its weights has everything else.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::directory::find_weights;
use super::{OpenOptions, Progress};
use crate::error::LoadError;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
const DEFAULT_REVISION: &str = "main";
/// Attempts per file before giving up; each continues where the last one stopped.
const ATTEMPTS: usize = 3;

/// `owner/name[@revision]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HubId {
    repo: String,
    revision: String,
}

impl HubId {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        let (owner, name) = repo.split_once('/')?;
        // The hub's own rule; nothing else may become part of a path or an address.
        let is_name = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty()
                && part.len() <= 96
                && part.chars().all(allowed)
                && !part.starts_with(['.', '-'])
                && !part.contains("..")
        };
        let is_revision = !revision.is_empty() && revision.split('/').all(is_name);
        (is_name(owner) && is_name(name) && is_revision).then(|| Self {
            repo: repo.to_owned(),
            revision: revision.to_owned(),
        })
    }

    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.repo.clone(), RepoType::Model, revision.to_owned())
    }
}

/// The directory of a whole snapshot, downloaded if necessary and allowed.
pub(super) fn fetch(id: &HubId, options: &OpenOptions) -> Result<PathBuf, LoadError> {
    let cache = Cache::new(options.hub_cache_dir());
    let cached = cached_snapshot(&cache, id);
    let missing = match cached.as_deref().map(first_missing) {
        Some(None) => return Ok(cached.unwrap_or_default()),
        Some(Some(missing)) => missing,
        None => "config.json".into(),
    };
    if options.is_offline() {
        return Err(LoadError::NotCached {
            model: id.repo.clone(),
            file: missing,
            cache: cache.path().clone(),
        });
    }
    Hub::new(id, cache, options)?.download()
}

/// The snapshot that the cache has for a revision: a branch or tag through its ref, a commit by its own name.
fn cached_snapshot(cache: &Cache, id: &HubId) -> Option<PathBuf> {
    let root = cache.path().join(id.at(&id.revision).folder_name());
    let commit = std::fs::read_to_string(root.join("refs").join(&id.revision))
        .unwrap_or_else(|_| id.revision.clone());
    let commit = commit.trim();
    let snapshot = cache.repo(id.at(&id.revision)).pointer_path(commit);
    (is_commit(commit) && snapshot.is_dir()).then_some(snapshot)
}

fn is_commit(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// The first file that a snapshot lacks; `None` if it is whole.
fn first_missing(snapshot: &Path) -> Option<String> {
    if !snapshot.join("config.json").is_file() {
        return Some("config.json".into());
    }
    match find_weights(snapshot) {
        Ok(Some(weights)) => weights
            .files
            .into_keys()
            .find(|file| !snapshot.join(file).is_file()),
        _ => Some("the weights".into()),
    }
}

struct Hub<'a> {
    id: &'a HubId,
    endpoint: String,
    cache: Cache,
    api: Api,
    progress: Option<&'a dyn Progress>,
}

impl<'a> Hub<'a> {
    fn new(id: &'a HubId, cache: Cache, options: &'a OpenOptions) -> Result<Self, LoadError> {
        let endpoint = options.endpoint.clone().or_else(|| {
            std::env::var("HF_ENDPOINT")
                .ok()
                .filter(|url| !url.is_empty())
        });
        let endpoint = endpoint
            .unwrap_or_else(|| DEFAULT_ENDPOINT.into())
            .trim_end_matches('/')
            .to_owned();
        let mut builder = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint.clone())
            .with_progress(false);
        if let Some(token) = std::env::var("HF_TOKEN")
            .ok()
            .filter(|token| !token.is_empty())
        {
            builder = builder.with_token(Some(token));
        }
        let api = builder.build().map_err(|error| LoadError::Download {
            model: id.repo.clone(),
            file: "anything".into(),
            endpoint: endpoint.clone(),
            reason: one_line(&error.to_string()),
        })?;
        Ok(Self {
            id,
            endpoint,
            cache,
            api,
            progress: options.progress.as_deref(),
        })
    }

    fn download(&self) -> Result<PathBuf, LoadError> {
        let listing = self.api.repo(self.id.at(&self.id.revision)).info();
        let listing =
            listing.map_err(|error| self.error("the list of files", &error.to_string()))?;
        let commit = listing.sha;
        if !is_commit(&commit) {
            return Err(self.error("the list of files", "the hub names no commit"));
        }
        let names = listing
            .siblings
            .into_iter()
            .map(|sibling| sibling.rfilename)
            .collect::<Vec<_>>();
        let files = wanted_files(&names);
        if !files.contains(&"config.json") || !files.iter().any(|file| is_weights(file)) {
            return Err(self.unusable(&names));
        }
        let repo = self.api.repo(self.id.at(&commit));
        for file in files {
            if self.cache.repo(self.id.at(&commit)).get(file).is_none() {
                self.download_file(&repo, file)?;
            }
        }
        let snapshot = self.cache.repo(self.id.at(&commit)).pointer_path(&commit);
        // Only now: a ref to a snapshot says that it can be used.
        self.cache
            .repo(self.id.at(&self.id.revision))
            .create_ref(&commit)
            .map_err(LoadError::io("write", &snapshot))?;
        Ok(snapshot)
    }

    fn download_file(&self, repo: &ApiRepo, file: &str) -> Result<(), LoadError> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match self.attempt(repo, file) {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| self.error(file, "no attempt was made")))
    }

    /// One attempt, which continues after the bytes that an earlier one left.
    fn attempt(&self, repo: &ApiRepo, file: &str) -> Result<(), LoadError> {
        let metadata = self
            .api
            .metadata(&repo.url(file))
            .map_err(|error| self.error(file, &error.to_string()))?;
        if !metadata
            .etag()
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            return Err(self.error(file, "the hub's etag is no plain name")); // it becomes a file name in the cache
        }
        let blob = self
            .cache
            .repo(self.id.at(&self.id.revision))
            .blob_path(metadata.etag());
        let size = metadata.size() as u64;
        trim_partial(&blob.with_extension("part"), size);
        let meter = Meter {
            progress: self.progress,
            begun: false,
        };
        let path = repo
            .download_with_progress(file, meter)
            .map_err(|error| self.error(file, &error.to_string()))?;
        let found = std::fs::metadata(&path)
            .map_err(LoadError::io("inspect", &path))?
            .len();
        if found == size {
            return Ok(());
        }
        // A server that ignores ranges, or a connection that was cut: do not keep a blob that would pass for whole.
        for damaged in [&path, &blob] {
            let _ = std::fs::remove_file(damaged);
        }
        Err(self.error(file, &format!("expected {size} bytes, received {found}")))
    }

    fn unusable(&self, names: &[String]) -> LoadError {
        let gguf = names
            .iter()
            .filter(|name| name.ends_with(".gguf"))
            .map(String::as_str)
            .take(3)
            .collect::<Vec<_>>();
        let (found, hint) = if gguf.is_empty() {
            (
                "a repository without config.json and weights".to_owned(),
                "check the id and the revision".to_owned(),
            )
        } else {
            (
                format!("a repository of GGUF files ({}, …)", gguf.join(", ")),
                "download one of them and give its path".to_owned(),
            )
        };
        LoadError::NotACheckpoint {
            path: PathBuf::from(&self.id.repo),
            found,
            hint,
        }
    }

    fn error(&self, file: &str, reason: &str) -> LoadError {
        LoadError::Download {
            model: self.id.repo.clone(),
            file: file.to_owned(),
            endpoint: self.endpoint.clone(),
            reason: one_line(reason),
        }
    }
}

/// The files of a repository that a checkpoint consists of, the weights last.
fn wanted_files(names: &[String]) -> Vec<&str> {
    const SMALL: [&str; 8] = [
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    ];
    const INDICES: [&str; 2] = [
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
    ];
    let has_safetensors = names.iter().any(|name| is_safetensors(name));
    let is_wanted_index = |name: &str| name == INDICES[usize::from(!has_safetensors)];
    let is_wanted_weights = |name: &str| {
        if has_safetensors {
            is_safetensors(name)
        } else {
            is_pytorch(name)
        }
    };
    let pick = |wanted: &dyn Fn(&str) -> bool| {
        names
            .iter()
            .map(String::as_str)
            .filter(|name| wanted(name))
            .collect::<Vec<_>>()
    };
    let mut files = pick(&|name| SMALL.contains(&name));
    files.extend(pick(&is_wanted_index));
    files.extend(pick(&is_wanted_weights));
    files
}

fn is_weights(name: &str) -> bool {
    is_safetensors(name) || is_pytorch(name)
}

fn is_safetensors(name: &str) -> bool {
    !name.contains('/') && name.starts_with("model") && name.ends_with(".safetensors")
}

fn is_pytorch(name: &str) -> bool {
    !name.contains('/') && name.starts_with("pytorch_model") && name.ends_with(".bin")
}

/// Makes what an earlier download left fit to be continued: hf-hub asks for the bytes after it, and the hub answers an error when there are none.
fn trim_partial(partial: &Path, size: u64) {
    let Ok(metadata) = std::fs::metadata(partial) else {
        return;
    };
    // What cannot be trimmed shows as a wrong length after the download.
    let _ = match metadata.len() {
        len if len > size => std::fs::remove_file(partial),
        len if len == size && size > 0 => std::fs::File::options()
            .write(true)
            .open(partial)
            .and_then(|file| file.set_len(size - 1)),
        _ => Ok(()),
    };
}

/// Passes hf-hub's reports on; it announces a download twice.
struct Meter<'a> {
    progress: Option<&'a dyn Progress>,
    begun: bool,
}

impl hf_hub::api::Progress for Meter<'_> {
    fn init(&mut self, size: usize, filename: &str) {
        if let Some(progress) = self.progress.filter(|_| !self.begun) {
            progress.begin(filename, size as u64);
            self.begun = true;
        }
    }

    fn update(&mut self, size: usize) {
        if let Some(progress) = self.progress {
            progress.advance(size as u64);
        }
    }

    fn finish(&mut self) {}
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        if let Some(progress) = self.progress.filter(|_| self.begun) {
            progress.end(); // also when the download failed
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_are_owner_name_and_revision() {
        let id = |repo: &str, revision: &str| {
            Some(HubId {
                repo: repo.into(),
                revision: revision.into(),
            })
        };
        assert_eq!(
            HubId::parse("zai-org/GLM-4-9B-0414"),
            id("zai-org/GLM-4-9B-0414", "main")
        );
        assert_eq!(HubId::parse("a/b@refs/pr/1"), id("a/b", "refs/pr/1"));
        for text in [
            "glm-4", "a/b/c", "../b", "a/..", "/a/b", "a/b@", "a/b@../x", "a b/c", "a/b@x y",
            "a//b", "",
        ] {
            assert_eq!(HubId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn safetensors_are_preferred_and_come_last() {
        let names = [
            "README.md",
            "model-00001-of-00001.safetensors",
            "pytorch_model.bin",
            "tokenizer.json",
            "config.json",
            "original/model.safetensors",
            "model.safetensors.index.json",
            "modeling_chatglm.py",
        ];
        let names = names.map(str::to_owned);
        assert_eq!(
            wanted_files(&names),
            [
                "tokenizer.json",
                "config.json",
                "model.safetensors.index.json",
                "model-00001-of-00001.safetensors"
            ]
        );
    }
}
