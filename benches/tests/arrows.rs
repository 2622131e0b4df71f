//! Holds the layering of docs/ARCHITECTURE.md: which crate may import which, and what none of them may pull in.
//!
//! It reads `cargo metadata`, so it sees what Cargo resolves, not what somebody meant to write.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What one crate of the workspace may and must not depend on.
struct Rule {
    name: &'static str,
    /// Everything it may import directly (development dependencies are free).
    may_use: &'static [&'static str],
    /// What must not be reached from it at all, however many crates lie between; a trailing `*` is a prefix.
    never: &'static [&'static str],
    published: bool,
}

const RULES: &[Rule] = &[
    Rule {
        name: "glm-kernels",
        may_use: &[
            "cudarc",
            "half",
            "libc",
            "libloading",
            "miniz_oxide",
            "sha2",
            "thiserror",
        ],
        never: &[
            "candle-*",
            "glm-*",
            "serde_json",
            "tokio",
            "tokenizers",
            "memmap2",
        ],
        published: true,
    },
    Rule {
        name: "glm-core",
        may_use: &[
            "base64",
            "candle-core",
            "glm-models",
            "half",
            "hf-hub",
            "memmap2",
            "minijinja",
            "minijinja-contrib",
            "regex",
            "safetensors",
            "serde",
            "serde_json",
            "thiserror",
            "tokenizers",
        ],
        never: &["glm-kernels", "glm-runtime", "cudarc", "tokio"],
        published: true,
    },
    Rule {
        name: "glm-runtime",
        may_use: &[
            "async-channel",
            "candle-core",
            "candle-nn",
            "crc32fast",
            "futures-core",
            "glm-core",
            "glm-kernels",
            "glm-models",
            "half",
            "llguidance",
            "serde",
            "serde_json",
            "shuttle",
            "sysinfo",
            "tempfile",
            "thiserror",
        ],
        never: &["glm-server", "tokio", "hyper", "axum", "clap"],
        published: true,
    },
    Rule {
        name: "glm-server",
        may_use: &[
            "async-trait",
            "axum",
            "base64",
            "flate2",
            "futures-util",
            "glm-core",
            "glm-runtime",
            "http-body",
            "hyper-util",
            "jsonwebtoken",
            "listenfd",
            "opentelemetry",
            "opentelemetry-http",
            "opentelemetry-otlp",
            "opentelemetry_sdk",
            "pprof",
            "prometheus-client",
            "prost",
            "protox",
            "ring",
            "rusqlite",
            "sd-notify",
            "serde",
            "serde_json",
            "sqlx",
            "subtle",
            "thiserror",
            "time",
            "tokio",
            "tokio-rustls",
            "toml",
            "tonic",
            "tonic-health",
            "tonic-prost",
            "tonic-prost-build",
            "tonic-reflection",
            "tower",
            "tracing",
            "tracing-subscriber",
            "ureq",
            "utoipa",
            "uuid",
        ],
        never: &["glm-cli", "clap"],
        published: true,
    },
    Rule {
        name: "glm-cli",
        may_use: &[
            "clap",
            "clap_complete",
            "clap_mangen",
            "ctrlc",
            "dotenvy",
            "glm-core",
            "glm-models",
            "glm-runtime",
            "glm-server",
            "indicatif",
            "pprof-alloc",
            "rustyline",
            "serde",
            "serde_json",
            "strsim",
            "toml",
        ],
        never: &[],
        published: true,
    },
    Rule {
        name: "glm-models",
        may_use: &[],
        never: &["*"],
        published: true,
    },
    Rule {
        name: "glm-benches",
        may_use: &[],
        never: &[],
        published: false,
    },
];

/// Features that link a GPU library into the binary, so that it dies on a machine without one.
const FORBIDDEN_FEATURES: &[(&str, &[&str])] = &[
    (
        "candle-core",
        &[
            "cuda",
            "cudnn",
            "nccl",
            "_cuda",
            "metal",
            "mkl",
            "accelerate",
        ],
    ),
    (
        "candle-nn",
        &["cuda", "cudnn", "metal", "mkl", "accelerate"],
    ),
    ("cudarc", &["dynamic-linking", "static-linking"]),
];

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("benches/ lies in the workspace")
        .to_owned()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--all-features",
        ])
        .current_dir(workspace_root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn members(metadata: &Value) -> Vec<&Value> {
    let ids: BTreeSet<_> = list(metadata, "workspace_members")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    list(metadata, "packages")
        .iter()
        .filter(|package| ids.contains(text(package, "id")))
        .collect()
}

fn matches(name: &str, pattern: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(name == pattern, |prefix| name.starts_with(prefix))
}

/// Normal and build dependencies as declared, on every platform and behind every feature.
fn declared(package: &Value) -> impl Iterator<Item = &Value> {
    list(package, "dependencies")
        .iter()
        .filter(|dependency| text(dependency, "kind") != "dev")
}

/// Crates reachable from `package` without development dependencies, itself left out.
fn reachable<'a>(metadata: &'a Value, package: &'a Value) -> BTreeSet<&'a str> {
    let names: BTreeMap<_, _> = list(metadata, "packages")
        .iter()
        .map(|package| (text(package, "id"), text(package, "name")))
        .collect();
    let nodes: BTreeMap<_, _> = list(&metadata["resolve"], "nodes")
        .iter()
        .map(|node| (text(node, "id"), node))
        .collect();
    let mut seen = BTreeSet::new();
    let mut open = vec![text(package, "id")];
    while let Some(id) = open.pop() {
        let Some(node) = nodes.get(id) else { continue };
        for dependency in list(node, "deps") {
            let normal = list(dependency, "dep_kinds")
                .iter()
                .any(|kind| text(kind, "kind") != "dev");
            if normal && seen.insert(text(dependency, "pkg")) {
                open.push(text(dependency, "pkg"));
            }
        }
    }
    seen.into_iter()
        .filter_map(|id| names.get(id).copied())
        .collect()
}

fn layering_violations(metadata: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for package in members(metadata) {
        let name = text(package, "name");
        let Some(rule) = RULES.iter().find(|rule| rule.name == name) else {
            found.push(format!("{name} has no rule here: say what it may use"));
            continue;
        };
        for dependency in declared(package).map(|dependency| text(dependency, "name")) {
            if !rule.may_use.contains(&dependency) {
                found.push(format!(
                    "{name} must not import {dependency} (allowed: {})",
                    rule.may_use.join(", ")
                ));
            }
        }
        for reached in reachable(metadata, package) {
            if rule.never.iter().any(|pattern| matches(reached, pattern)) {
                found.push(format!(
                    "{name} must never reach {reached}, not even through another crate"
                ));
            }
        }
    }
    found
}

fn feature_violations(metadata: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for node in list(&metadata["resolve"], "nodes") {
        let id = text(node, "id");
        let package = list(metadata, "packages")
            .iter()
            .find(|package| text(package, "id") == id);
        let name = package.map_or("", |package| text(package, "name"));
        for (_, forbidden) in FORBIDDEN_FEATURES.iter().filter(|(of, _)| *of == name) {
            for feature in list(node, "features").iter().filter_map(Value::as_str) {
                if forbidden.contains(&feature) {
                    found.push(format!("feature `{feature}` of {name} is enabled"));
                }
            }
        }
    }
    found
}

fn publishing_violations(metadata: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for package in members(metadata) {
        let name = text(package, "name");
        let published = package["publish"].is_null();
        let wanted = RULES.iter().any(|rule| rule.name == name && rule.published);
        if published != wanted {
            found.push(format!(
                "{name}: published is {published}, should be {wanted}"
            ));
        }
        if !published {
            continue;
        }
        for key in ["description", "license", "repository", "rust_version"] {
            if text(package, key).is_empty() {
                found.push(format!("{name} has no `{key}`"));
            }
        }
        for key in ["keywords", "categories"] {
            if list(package, key).is_empty() {
                found.push(format!("{name} has no `{key}`"));
            }
        }
        for dependency in declared(package).filter(|dependency| text(dependency, "req") == "*") {
            found.push(format!(
                "{name} takes {} without a version",
                text(dependency, "name")
            ));
        }
    }
    found
}

fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn crates_import_only_what_lies_below_them() {
    assert_none(&layering_violations(&metadata()));
}

#[test]
fn no_crate_links_a_gpu_library() {
    assert_none(&feature_violations(&metadata()));
}

#[test]
fn every_library_can_be_published() {
    assert_none(&publishing_violations(&metadata()));
}

#[test]
fn crates_without_kernels_forbid_unsafe_code() {
    for (krate, root) in [
        ("glm-runtime", "lib.rs"),
        ("glm-cli", "main.rs"),
        ("glm-server", "lib.rs"),
        ("models", "lib.rs"),
    ] {
        let path = workspace_root().join(krate).join("src").join(root);
        let source = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(
            source.contains("#![forbid(unsafe_code)]"),
            "{} does not forbid unsafe code",
            path.display()
        );
    }
}

/// `cargo metadata` of a workspace that breaks a rule of each kind; the checks above must see all of them.
fn broken_metadata() -> Value {
    let dependency =
        |name: &str, req: &str| serde_json::json!({ "name": name, "kind": null, "req": req });
    let edge = |id: &str| serde_json::json!({ "pkg": id, "dep_kinds": [{ "kind": null }] });
    serde_json::json!({
        "workspace_members": ["kernels", "stray"],
        "packages": [
            { "id": "kernels", "name": "glm-kernels", "publish": null, "license": "MIT", "repository": "r",
              "rust_version": "1.95", "keywords": ["k"], "categories": ["c"],
              "dependencies": [dependency("half", "^2"), dependency("tokio", "*")] },
            { "id": "stray", "name": "glm-stray", "publish": null, "dependencies": [] },
            { "id": "half", "name": "half", "dependencies": [] },
            { "id": "candle", "name": "candle-core", "dependencies": [] },
        ],
        "resolve": { "nodes": [
            { "id": "kernels", "deps": [edge("half")], "features": [] },
            { "id": "half", "deps": [edge("candle")], "features": [] },
            { "id": "candle", "deps": [], "features": ["cuda"] },
        ] },
    })
}

#[test]
fn a_broken_workspace_is_reported() {
    let broken = broken_metadata();
    let layering = layering_violations(&broken).join("\n");
    assert!(
        layering.contains("glm-kernels must not import tokio"),
        "{layering}"
    );
    assert!(
        layering.contains("glm-kernels must never reach candle-core"),
        "{layering}"
    );
    assert!(layering.contains("glm-stray has no rule"), "{layering}");
    assert!(!layering.contains("import half"), "{layering}");
    assert_eq!(
        feature_violations(&broken),
        ["feature `cuda` of candle-core is enabled"]
    );
    let publishing = publishing_violations(&broken).join("\n");
    assert!(
        publishing.contains("glm-kernels has no `description`"),
        "{publishing}"
    );
    assert!(
        publishing.contains("glm-kernels takes tokio without a version"),
        "{publishing}"
    );
    assert!(
        publishing.contains("glm-stray: published is true, should be false"),
        "{publishing}"
    );
}
