//! `serve`: where its settings come from, who may use it, and what SIGHUP changes.
#![cfg(unix)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::service::{Service, completion};
use common::{Run, arg, command, glm, glm_with_stdin};
use tempfile::TempDir;

/// `serve` in a directory of its own, with these files.
fn serve_in(dir: &Path, args: &[&str], files: &[(&str, &str)]) -> Command {
    for (name, text) in files {
        fs::write(dir.join(name), text).unwrap();
    }
    let mut command = command(&[&["serve"][..], args].concat());
    command.current_dir(dir);
    command
}

fn run(command: &mut Command) -> Run {
    command.output().unwrap().into()
}

/// The line about a setting, its spaces taken out.
fn line(printed: &str, name: &str) -> String {
    let mut lines = printed.lines().map(|line| line.trim_start_matches("# "));
    let line = lines.find(|line| line.split(' ').next() == Some(name));
    line.unwrap_or_else(|| panic!("{name}: {printed}"))
        .split_whitespace()
        .collect()
}

#[test]
fn options_come_before_the_environment_and_that_before_files() {
    let dir = TempDir::new().unwrap();
    let files = [
        (".env", "GLM_MAX_WAITING=3\nGLM_PORT=4444\nMAX_WORKERS=5\n"),
        (
            "a.toml",
            "port = 5555\nmax_waiting = 9\nmax_body_size = \"1KiB\"\ninsecure = true\nadapter = [\"a=b\", \"c=d\"]\n",
        ),
    ];
    let mut command = serve_in(
        dir.path(),
        &["--print-config", "--config", "a.toml", "--drain-timeout=5"],
        &files,
    );
    command
        .env("GLM_PORT", "6666")
        .env("PORT", "7777")
        .env("API_TIMEOUT", "2.5");
    command
        .env("GLM_API_KEY", "top-secret")
        .env("GLM_NO_PREFIX_CACHE", "false");
    let printed = run(&mut command).ok();
    for (name, expected) in [
        ("drain_timeout", "drain_timeout=5#commandline"),
        ("port", "port=6666#environmentGLM_PORT"),
        (
            "request_timeout",
            "request_timeout=\"2.5\"#environmentAPI_TIMEOUT",
        ),
        ("max_waiting", "max_waiting=3#.envGLM_MAX_WAITING"),
        ("max_workers", "max_workers=5#.envMAX_WORKERS"),
        ("max_body_size", "max_body_size=\"1KiB\"#a.toml"),
        ("insecure", "insecure=true#a.toml"),
        ("adapter", "adapter=[\"a=b\",\"c=d\"]#a.toml"),
        (
            "no_prefix_cache",
            "no_prefix_cache=false#environmentGLM_NO_PREFIX_CACHE",
        ),
        ("host", "host=\"127.0.0.1\"#default"),
        ("threads", "threads=#default"),
    ] {
        assert_eq!(line(&printed, name), expected, "{printed}");
    }
    assert!(
        !printed.contains("top-secret") && printed.contains("***"),
        "{printed}"
    );
    // What is printed is a file to begin with, and says the same.
    let mut again = serve_in(
        dir.path(),
        &["--print-config", "--config", "b.toml"],
        &[("b.toml", &printed), (".env", "")],
    );
    let again = run(&mut again).ok();
    assert_eq!(line(&again, "port"), "port=6666#b.toml");
    assert_eq!(line(&again, "adapter"), "adapter=[\"a=b\",\"c=d\"]#b.toml");
}

#[test]
fn what_is_wrong_names_its_source() {
    let dir = TempDir::new().unwrap();
    for (text, expected) in [
        ("prot = 1\n", "prot is not a setting: do you mean port?"),
        ("port = \"many\"\n", "a.toml"),
        ("port = [1, 2]\n", "port takes one value"),
        ("[port]\na = 1\n", "port is table"),
        ("insecure = \"perhaps\"\n", "insecure is true or false"),
        ("print_config = true\n", "print_config is not a setting"),
        ("port = \n", "a.toml"),
    ] {
        let mut command = serve_in(dir.path(), &["--config", "a.toml"], &[("a.toml", text)]);
        let refused = run(&mut command);
        assert_eq!(refused.code, Some(2), "{text}: {refused:?}");
        assert!(refused.stderr.contains(expected), "{text}: {refused:?}");
    }
    let mut command = serve_in(dir.path(), &[], &[(".env", "GLM_PORT=x\n")]);
    let refused = run(&mut command).refused();
    assert!(refused.contains(".env GLM_PORT"), "{refused}");
    assert!(
        glm(&["serve", "--config", "/nowhere.toml"])
            .refused()
            .contains("/nowhere.toml")
    );
    let refused = glm(&["serve", "--api-key", "x"]).refused();
    assert!(refused.contains("GLM_API_KEY"), "{refused}");
}

#[test]
fn a_key_is_made_and_hashed() {
    let made = glm(&["serve", "--new-key"]).ok();
    let (key, hash) = made.trim_end().split_once('\n').unwrap();
    let hashed = glm_with_stdin(&["serve", "--hash-key"], key).ok();
    assert_eq!(hashed.trim_end(), hash);
    assert!(hash.starts_with("sha256:") && !hash.contains(key));
}

#[test]
fn keys_open_an_address_to_others() {
    let mut command = command(&["serve", "--port", "0", "--host", "0.0.0.0"]);
    command.env("GLM_API_KEY", "mine");
    let service = Service::start_with(command);
    assert_eq!(service.get("/livez").status, 200);
    let refused = service.post("/v1/completions", &completion());
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].as_str()),
        (401, Some("invalid_api_key"))
    );
    let body = completion().to_string();
    for header in ["authorization: Bearer mine\r\n", "x-api-key: mine\r\n"] {
        assert_eq!(
            service.ask("POST", "/v1/completions", header, &body).status,
            200
        );
    }
}

#[test]
fn sighup_reads_settings_and_keys_again() {
    let dir = TempDir::new().unwrap();
    let (config, keys) = (dir.path().join("glm.toml"), dir.path().join("keys.toml"));
    let one_key = |key: &str| {
        let hash = run(serve_in(dir.path(), &["--hash-key"], &[("stdin", key)])
            .stdin(fs::File::open(dir.path().join("stdin")).unwrap()))
        .ok();
        format!("[[key]]\nname = \"a\"\nhash = \"{}\"\n", hash.trim_end())
    };
    fs::write(&keys, one_key("first")).unwrap();
    fs::write(&config, "requests_per_minute = 1000\n").unwrap();
    let service = Service::start(&["--config", arg(&config), "--api-key-file", arg(&keys)]);
    let ask = |key: &str| {
        let body = completion().to_string();
        service.ask(
            "POST",
            "/v1/completions",
            &format!("x-api-key: {key}\r\n"),
            &body,
        )
    };
    let first = ask("first");
    assert_eq!(first.status, 200);
    assert!(
        first.head.contains("x-ratelimit-limit-requests: 1000\r\n"),
        "{}",
        first.head
    );
    fs::write(&keys, one_key("second")).unwrap();
    fs::write(&config, "requests_per_minute = 2000\n").unwrap();
    service.signal("HUP");
    let deadline = Instant::now() + Duration::from_secs(60);
    while ask("second").status != 200 {
        assert!(Instant::now() < deadline, "the keys are never read again");
    }
    assert_eq!(ask("first").status, 401);
    while !ask("second")
        .head
        .contains("x-ratelimit-limit-requests: 2000\r\n")
    {
        assert!(Instant::now() < deadline, "the limits are never read again");
    }
    // What is wrong changes nothing.
    fs::write(&config, "requests_per_minute = \"none\"\n").unwrap();
    service.signal("HUP");
    assert_eq!(ask("second").status, 200);
    service.signal("TERM");
    assert_eq!(service.end().code, Some(0));
}
