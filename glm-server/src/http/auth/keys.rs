//! API keys: a file of them, hashed.
//!
//! A key is 256 random bits, so one round of SHA-256 is enough at rest: there is nothing to guess, and a slow hash would be work that
//! strangers can order. All keys are compared, each in constant time, so the time tells nothing about them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::{AuthOptions, Identity, Scope, Tenant};
use crate::http::limits::RateLimits;

const HASH_PREFIX: &str = "sha256:";
const KEY_PREFIX: &str = "glm-";

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the API keys in {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is no list of keys.
    #[error("{}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// A file without a key would lock everybody out.
    #[error("{} has no key: make one with `glm-cli serve --new-key`", .0.display())]
    Empty(PathBuf),
    /// A hash that is not one. It is not shown: it may be a key.
    #[error("{}: the hash of key `{name}` is not sha256:… with 64 hexadecimal digits, as `glm-cli serve --hash-key` prints it", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// The name of the key, or the number of its line.
        name: String,
    },
    /// An empty key.
    #[error("the API key is empty")]
    NoKey,
    /// The system has no random numbers.
    #[error("the system gave no random numbers")]
    Random,
}

/// A new key, and what to write into the file of keys.
///
/// # Errors
/// [`KeyError::Random`].
pub fn new_key() -> Result<(String, String), KeyError> {
    let mut secret = [0; 32];
    SystemRandom::new()
        .fill(&mut secret)
        .map_err(|_| KeyError::Random)?;
    let key = format!("{KEY_PREFIX}{}", hex(&secret));
    let hash = hash_key(&key);
    Ok((key, hash))
}

/// What to write into the file of keys for this key.
pub fn hash_key(key: &str) -> String {
    format!("{HASH_PREFIX}{}", hex(&sha256(key.as_bytes())))
}

type Hash = [u8; 32];

fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_hash(text: &str) -> Option<Hash> {
    let digits = text.strip_prefix(HASH_PREFIX)?;
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = Hash::default();
    for (byte, digits) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(hash)
}

#[derive(Debug)]
pub(super) struct Keys(Vec<(Hash, Identity)>);

impl Keys {
    /// The key and the file of keys that the options name.
    pub(super) fn open(options: &AuthOptions) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        if let Some(key) = options.api_key.as_deref() {
            let hash = match key {
                "" => return Err(KeyError::NoKey),
                key => sha256(key.as_bytes()),
            };
            let all = Entry::named("default").identity(&Scope::ALL);
            keys.push((hash, all));
        }
        if let Some(path) = &options.api_key_file {
            keys.extend(read_file(path)?);
        }
        Ok(Self(keys))
    }

    /// Whose key this is.
    pub(super) fn find(&self, key: &[u8]) -> Option<Identity> {
        let hash = sha256(key);
        let mut found = None;
        // To the end, so that the time does not tell which it was.
        for (known, identity) in &self.0 {
            if bool::from(known.ct_eq(&hash)) {
                found = Some(identity);
            }
        }
        found.cloned()
    }
}

fn read_file(path: &Path) -> Result<Vec<(Hash, Identity)>, KeyError> {
    let text = fs::read_to_string(path).map_err(|source| KeyError::Io {
        path: path.to_owned(),
        source,
    })?;
    let is_toml = path
        .extension()
        .is_some_and(|extension| extension == "toml");
    let keys = match is_toml {
        true => read_toml(path, &text)?,
        false => read_lines(path, &text)?,
    };
    match keys.is_empty() {
        true => Err(KeyError::Empty(path.to_owned())),
        false => Ok(keys),
    }
}

/// One key a line, as its hash or as it is; `#` begins a comment. Each is a tenant, named by its hash.
fn read_lines(path: &Path, text: &str) -> Result<Vec<(Hash, Identity)>, KeyError> {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| {
            let hash = match line.starts_with(HASH_PREFIX) {
                true => read_hash(line).ok_or_else(|| KeyError::Hash {
                    path: path.to_owned(),
                    name: format!("line {}", number + 1),
                })?,
                false => sha256(line.as_bytes()),
            };
            let entry = Entry::named(&format!("key-{}", &hex(&hash)[..8]));
            Ok((hash, entry.identity(&Scope::USUAL)))
        })
        .collect()
}

/// A file of keys in TOML.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    key: Vec<Entry>,
}

/// One `[[key]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    hash: String,
    scopes: Option<Vec<Scope>>,
    tenant: Option<String>,
    requests_per_minute: Option<u32>,
    tokens_per_minute: Option<u32>,
}

impl Entry {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            hash: String::new(),
            scopes: None,
            tenant: None,
            requests_per_minute: None,
            tokens_per_minute: None,
        }
    }

    fn identity(self, default_scopes: &[Scope]) -> Identity {
        let limits = RateLimits {
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
        };
        let name: Arc<str> = self.name.into();
        let tenant = self.tenant.map_or_else(|| Arc::clone(&name), Arc::from);
        Identity {
            name,
            tenant: Tenant(tenant),
            scopes: self.scopes.map_or_else(|| default_scopes.into(), Arc::from),
            limits: (limits != RateLimits::default()).then_some(limits),
        }
    }
}

fn read_toml(path: &Path, text: &str) -> Result<Vec<(Hash, Identity)>, KeyError> {
    let syntax = |problem: String| KeyError::Syntax {
        path: path.to_owned(),
        problem,
    };
    // The position, not the parser's picture of the line: it would print a hash or, by mistake, a key.
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        syntax(format!("line {line}: {}", error.message()))
    })?;
    let mut keys: Vec<(Hash, Identity)> = Vec::new();
    for entry in file.key {
        let hash = read_hash(&entry.hash);
        let hash = hash.ok_or_else(|| KeyError::Hash {
            path: path.to_owned(),
            name: entry.name.clone(),
        })?;
        if keys.iter().any(|(_, other)| *other.name == *entry.name) {
            return Err(syntax(format!("two keys are called `{}`", entry.name)));
        }
        keys.push((hash, entry.identity(&Scope::USUAL)));
    }
    Ok(keys)
}
