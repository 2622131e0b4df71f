//! `serve`: profiles of the process, for those who may look into it.
#![cfg(all(
    any(target_os = "linux", target_os = "macos"),
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use common::command;
use common::service::{Service, request};
use flate2::read::GzDecoder;
use serde_json::json;

const KEY: &str = "x-api-key: owner\r\n";

/// A service with a key that may do everything.
fn start(environment: &[(&str, &str)]) -> Service {
    let mut command = command(&["serve", "--port", "0"]);
    command.env("GLM_API_KEY", "owner");
    command.envs(environment.iter().copied());
    Service::start_with(command)
}

fn ask(service: &Service, path: &str) -> TcpStream {
    let mut socket = service.connect();
    let request = request("GET", path, "").replacen("host:", &format!("{KEY}host:"), 1);
    socket.write_all(request.as_bytes()).unwrap();
    socket
}

/// Status, head and body, which may be anything.
fn answer(mut socket: TcpStream) -> (u16, String, Vec<u8>) {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, bytes[end + 4..].to_vec())
}

fn is_answered(socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    let is_answered = socket.peek(&mut [0]).is_ok();
    socket.set_nonblocking(false).unwrap();
    is_answered
}

/// Looks again and again until there is something, but not for ever.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        thread::yield_now();
    }
}

fn unpacked(profile: &[u8]) -> Vec<u8> {
    let mut unpacked = Vec::new();
    GzDecoder::new(profile).read_to_end(&mut unpacked).unwrap();
    unpacked
}

fn mentions(profile: &[u8], name: &str) -> bool {
    profile
        .windows(name.len())
        .any(|bytes| bytes == name.as_bytes())
}

/// What keeps the engine busy while a profile is taken.
fn work(service: &Service) -> TcpStream {
    let body = json!({"prompt": "Once", "max_tokens": 100, "n": 8, "ignore_eos": true});
    let request = request("POST", "/v1/completions", &body.to_string());
    let request = request.replacen("host:", &format!("{KEY}host:"), 1);
    let mut socket = service.connect();
    socket.write_all(request.as_bytes()).unwrap();
    socket
}

#[test]
fn a_profile_says_where_the_processor_spends_its_time() {
    let service = start(&[]);
    let (status, head, body) = thread::scope(|scope| {
        let profile = scope.spawn(|| answer(ask(&service, "/debug/pprof/profile?seconds=1")));
        // Whenever it begins to look, there is work.
        while !profile.is_finished() {
            assert_eq!(answer(work(&service)).0, 200);
        }
        profile.join().unwrap()
    });
    assert_eq!(status, 200, "{head}");
    assert!(head.contains("application/octet-stream"), "{head}");
    let profile = unpacked(&body);
    // Types of samples, and the names of functions: what computes, and who has called it.
    for name in ["cpu", "nanoseconds", "glm_kernels", "glm_runtime"] {
        assert!(mentions(&profile, name), "{name}");
    }
}

#[test]
fn there_is_one_profile_at_a_time_and_who_leaves_ends_it() {
    let service = start(&[]);
    // Of two that come together either may be the first; the other is answered at once.
    let mut both = vec![ask(&service, "/debug/pprof/profile?seconds=300")];
    both.push(ask(&service, "/debug/pprof/profile?seconds=300"));
    let refused = until("one of them is answered", || {
        both.iter().position(is_answered)
    });
    let refused = both.swap_remove(refused);
    let long = both.pop();
    let (status, head, _) = answer(refused);
    assert_eq!(status, 429, "{head}");
    assert!(head.contains("retry-after: "), "{head}");
    drop(long);
    let status = until("there is a turn", || {
        let (status, ..) = answer(ask(&service, "/debug/pprof/profile?seconds=1"));
        Some(status).filter(|status| *status != 429)
    });
    assert_eq!(status, 200);
    for wrong in ["seconds=0", "seconds=301", "seconds=x", "minutes=1"] {
        let (status, ..) = answer(ask(&service, &format!("/debug/pprof/profile?{wrong}")));
        assert_eq!(status, 400, "{wrong}");
    }
    for path in ["/debug/pprof/profile", "/debug/pprof/heap"] {
        assert_eq!(service.get(path).status, 401);
    }
}

#[test]
fn a_record_of_the_heap_is_kept_if_it_was_asked_for() {
    let (status, _, body) = answer(ask(&start(&[]), "/debug/pprof/heap"));
    assert_eq!(status, 501, "{}", String::from_utf8_lossy(&body));
    let recording = start(&[("PPROF_ALLOC_SAMPLE_RATE", "4096")]);
    let (status, head, body) = answer(ask(&recording, "/debug/pprof/heap"));
    assert_eq!(status, 200, "{head}");
    let profile = unpacked(&body);
    for name in ["inuse_space", "alloc_objects"] {
        assert!(mentions(&profile, name), "{name}");
    }
}
