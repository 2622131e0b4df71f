//! Holds the public surface of the libraries against what was agreed on: `public-api.txt` beside each `Cargo.toml`.
//!
//! A line that goes or changes there breaks programs, and semantic versioning then asks for a new minor version before 1.0
//! and a new major version after; a line that comes does not. Whoever changes the surface on purpose writes the files anew
//! and lets the difference be reviewed:
//!
//! ```text
//! GLM_UPDATE_PUBLIC_API=1 cargo test --workspace --test public_api -- --ignored
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const LIBRARIES: [(&str, &str); 5] = [
    ("models", "glm_models"),
    ("glm-core", "glm_core"),
    ("glm-kernels", "glm_kernels"),
    ("glm-runtime", "glm_runtime"),
    ("glm-server", "glm_server"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Rustdoc's JSON of all libraries; the folder it lies in.
fn documentation() -> PathBuf {
    // JSON is unstable still. Cargo itself must not be told, or it would compile dependencies anew.
    let rustdoc = tempfile::Builder::new().suffix(".sh").tempfile().unwrap();
    let script = "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc \"$@\"\n";
    std::fs::write(rustdoc.path(), script).unwrap();
    make_executable(rustdoc.path());
    // A file that is open for writing cannot be run.
    let rustdoc = rustdoc.into_temp_path();
    let target = root().join("target");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(target, PathBuf::from);
    let status = Command::new(env!("CARGO"))
        .args(["doc", "--quiet", "--workspace", "--lib", "--no-deps"])
        .current_dir(root())
        .env("RUSTDOC", &*rustdoc)
        .env(
            "RUSTDOCFLAGS",
            "-Z unstable-options --output-format json --cap-lints allow",
        )
        .status();
    assert!(status.unwrap().success(), "cargo doc failed");
    root().join(target).join("doc")
}

#[cfg(unix)]
fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[cfg(not(unix))]
fn make_executable(_path: &Path) {}

#[test]
#[ignore = "needs the JSON of one version of rustdoc"]
fn the_public_surface_is_what_was_agreed_on() {
    let folder = documentation();
    let update = std::env::var_os("GLM_UPDATE_PUBLIC_API").is_some();
    let mut differences = String::new();
    for (package, library) in LIBRARIES {
        let json = folder.join(library).with_extension("json");
        let api = public_api::Builder::from_rustdoc_json(json)
            .omit_blanket_impls(true)
            .omit_auto_trait_impls(true)
            .omit_auto_derived_impls(true)
            .build()
            .unwrap_or_else(|error| panic!("{package}: {error}; the JSON is that of Rust 1.95"));
        let found = api.to_string();
        let agreed = root().join(package).join("public-api.txt");
        if update {
            std::fs::write(&agreed, found).unwrap();
            continue;
        }
        let agreed = std::fs::read_to_string(agreed).unwrap_or_default();
        let lines = |text| str::lines(text).collect::<BTreeSet<_>>();
        let (found, agreed) = (lines(&found), lines(&agreed));
        for gone in agreed.difference(&found) {
            differences += &format!("{package}: gone (breaks programs): {gone}\n");
        }
        for new in found.difference(&agreed) {
            differences += &format!("{package}: new: {new}\n");
        }
    }
    assert!(
        differences.is_empty(),
        "the public surface has changed; if that is meant, write the files anew with GLM_UPDATE_PUBLIC_API=1:\n{differences}"
    );
}
