//! Help texts, completions and the manual page.

mod common;

use common::glm;

const COMMANDS: [&str; 12] = [
    "chat",
    "generate",
    "batch",
    "serve",
    "tokenize",
    "inspect",
    "perplexity",
    "quantize",
    "bench",
    "doctor",
    "completions",
    "man",
];

#[test]
fn the_help_of_every_command_shows_an_example() {
    let overview = glm(&["--help"]).ok();
    for command in COMMANDS {
        assert!(
            overview.contains(command),
            "{command} is not in the overview"
        );
        let help = glm(&[command, "--help"]).ok();
        assert!(
            help.contains("Example") && help.contains(&format!("glm-cli {command}")),
            "{command}:\n{help}"
        );
    }
}

#[test]
fn completions_for_each_shell_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = glm(&["completions", shell]).ok();
        for command in COMMANDS {
            assert!(
                script.contains(command),
                "{shell} does not complete {command}"
            );
        }
        assert!(script.contains("max-model-len"), "{shell}");
    }
}

#[test]
fn the_manual_pages_are_pages() {
    let page = glm(&["man"]).ok();
    assert!(page.contains(".TH") && page.contains("quantize"), "{page}");
    let page = glm(&["man", "bench"]).ok();
    assert!(page.contains(".TH") && page.contains("depth"), "{page}");
    assert!(glm(&["man", "nothing"]).refused().contains("generate"));
}

#[test]
fn the_version_is_the_packages() {
    assert_eq!(
        glm(&["--version"]).ok().trim(),
        concat!("glm-cli ", env!("CARGO_PKG_VERSION"))
    );
}
