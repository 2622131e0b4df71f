//! Documents point at what is there.

use std::path::{Path, PathBuf};

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("benches/ lies in the workspace")
        .to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Markdown file of the workspace, build output left out.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            documents(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// Targets of `[text](target)` that are files: no URL, no place within the page.
fn file_links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://"))
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut paths = Vec::new();
    documents(&workspace_root(), &mut paths);
    assert!(paths.len() > 8, "found only {paths:?}");
    let mut dead = Vec::new();
    for path in paths {
        let text = read(&path);
        let folder = path.parent().expect("a file has a folder");
        dead.extend(
            file_links(&text)
                .filter(|link| !folder.join(link).exists())
                .map(|link| format!("{}: {link}", path.display())),
        );
    }
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}

#[test]
fn links_are_found_in_text() {
    let text = "[a](b/c.md#d) and [e](https://f.g) and [h](#i) and [j](k)";
    assert_eq!(file_links(text).collect::<Vec<_>>(), ["b/c.md", "k"]);
}

#[test]
fn the_gate_runs_the_test_command_of_the_readme() {
    let command = "cargo test --workspace";
    let root = workspace_root();
    let is_command = |line: &str| line.split('#').next().unwrap_or_default().trim() == command;
    assert!(
        read(&root.join("README.md")).lines().any(is_command),
        "README.md does not show `{command}`"
    );
    assert!(
        read(&root.join(".ci/run")).lines().any(is_command),
        ".ci/run does not run `{command}`"
    );
}
