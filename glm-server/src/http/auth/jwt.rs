//! JSON Web Tokens (RFC 7519), signed with a shared secret (HS256) or by an issuer whose keys are in a JWKS file (RS256, EdDSA).
//!
//! Every key is for one algorithm, fixed by where it comes from, and a token is only ever checked with keys of the algorithm that it
//! names: a public key cannot be taken for a secret, and `none` is no algorithm.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::{Identity, Scope, Tenant, ring_provider};

/// RFC 7518, 3.2: a key as long as the hash, at least.
const MIN_SECRET_BYTES: usize = 32;

/// Which tokens are accepted.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JwtOptions {
    /// A file with the secret of HS256, at least 32 bytes; white space at its ends does not count.
    pub secret_file: Option<PathBuf>,
    /// A JWKS file (RFC 7517) with the public keys of RS256 (2048 bits or more) and EdDSA (Ed25519).
    pub jwks_file: Option<PathBuf>,
    /// `iss` must be this. Default: anything.
    pub issuer: Option<String>,
    /// `aud` must contain this. Default: anything.
    pub audience: Option<String>,
    /// How far clocks may be apart where `exp` and `nbf` are looked at. Default: 30 s.
    pub leeway: Duration,
    /// The claim that names the tenant; without it, the subject is one. Default: `tenant`.
    pub tenant_claim: String,
    /// The claim that lists scopes, as a list or separated by spaces. Without it a token has all but `admin`. Default: `scope`.
    pub scope_claim: String,
}

impl Default for JwtOptions {
    fn default() -> Self {
        Self {
            secret_file: None,
            jwks_file: None,
            issuer: None,
            audience: None,
            leeway: Duration::from_secs(30),
            tenant_claim: "tenant".to_owned(),
            scope_claim: "scope".to_owned(),
        }
    }
}

/// Why tokens cannot be checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A secret that could be guessed.
    #[error("{} has {found} bytes: a secret for HS256 needs {MIN_SECRET_BYTES} at least", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: usize,
    },
    /// No set of keys.
    #[error("{} is not a JSON Web Key Set", path.display())]
    Jwks {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A set without a key for signatures that can be checked.
    #[error("{} has no public key for RS256 or EdDSA (Ed25519)", .0.display())]
    NoKey(PathBuf),
}

#[derive(Debug)]
pub(super) struct Jwt {
    keys: Vec<Key>,
    options: JwtOptions,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Jwt {
    pub(super) fn open(options: &JwtOptions) -> Result<Self, JwtError> {
        ring_provider::install();
        let mut keys = Vec::new();
        if let Some(path) = &options.secret_file {
            let secret = read(path)?;
            let secret = secret.trim_ascii();
            if secret.len() < MIN_SECRET_BYTES {
                let (path, found) = (path.clone(), secret.len());
                return Err(JwtError::Short { path, found });
            }
            keys.push(Key {
                id: None,
                algorithm: Algorithm::HS256,
                key: DecodingKey::from_secret(secret),
            });
        }
        if let Some(path) = &options.jwks_file {
            let set: JwkSet = serde_json::from_slice(&read(path)?).map_err(|source| {
                let path = path.clone();
                JwtError::Jwks { path, source }
            })?;
            let before = keys.len();
            keys.extend(set.keys.iter().filter_map(public_key));
            if keys.len() == before {
                return Err(JwtError::NoKey(path.clone()));
            }
        }
        let options = options.clone();
        Ok(Self { keys, options })
    }

    /// Whose token this is; `None` if it is not valid, for whatever reason.
    pub(super) fn find(&self, token: &str) -> Option<Identity> {
        let header = decode_header(token).ok()?;
        // Extensions that must be understood are not (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return None;
        }
        let fits = |key: &&Key| {
            let is_named = header.kid.is_some() && key.id.is_some();
            key.algorithm == header.alg && (!is_named || header.kid == key.id)
        };
        let mut keys = self.keys.iter().filter(fits);
        let claims = keys.find_map(|key| {
            let validation = self.validation(key.algorithm);
            let token = decode::<Map<String, Value>>(token, &key.key, &validation);
            token.ok().map(|token| token.claims)
        })?;
        self.identity(&claims)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let options = &self.options;
        let mut validation = Validation::new(algorithm);
        validation.leeway = options.leeway.as_secs();
        validation.validate_nbf = true;
        validation.validate_aud = options.audience.is_some();
        let mut required = vec!["exp"];
        if let Some(issuer) = &options.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &options.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        validation
    }

    fn identity(&self, claims: &Map<String, Value>) -> Option<Identity> {
        let text = |name: &str| {
            claims
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        let subject = text("sub");
        let tenant = text(&self.options.tenant_claim).or(subject)?;
        let subject = subject.unwrap_or(tenant);
        let words: Option<Vec<&str>> =
            claims
                .get(&self.options.scope_claim)
                .map(|scopes| match scopes {
                    Value::String(words) => words.split_whitespace().collect(),
                    Value::Array(words) => words.iter().filter_map(Value::as_str).collect(),
                    _ => Vec::new(),
                });
        let scopes = words.map_or_else(
            || Scope::USUAL.to_vec(),
            |words| {
                let named = Scope::ALL
                    .into_iter()
                    .filter(|scope| words.contains(&scope.name()));
                named.collect()
            },
        );
        Some(Identity {
            // Not to be mixed up with a key of that name.
            name: format!("jwt:{subject}").into(),
            tenant: Tenant(tenant.into()),
            scopes: Arc::from(scopes),
            limits: None,
        })
    }
}

/// A key for signatures of the two algorithms; others in a set are for others.
fn public_key(jwk: &Jwk) -> Option<Key> {
    if jwk
        .common
        .public_key_use
        .as_ref()
        .is_some_and(|usage| *usage != PublicKeyUse::Signature)
    {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        _ => return None,
    };
    let expected = match algorithm {
        Algorithm::RS256 => KeyAlgorithm::RS256,
        _ => KeyAlgorithm::EdDSA,
    };
    if jwk
        .common
        .key_algorithm
        .is_some_and(|stated| stated != expected)
    {
        return None;
    }
    Some(Key {
        id: jwk.common.key_id.clone(),
        algorithm,
        key: DecodingKey::from_jwk(jwk).ok()?,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, JwtError> {
    fs::read(path).map_err(|source| JwtError::Io {
        path: path.to_owned(),
        source,
    })
}
