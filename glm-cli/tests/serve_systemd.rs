//! `serve` under systemd, and one process taking over from another.
#![cfg(target_os = "linux")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::command;
use common::service::{Response, Service, completion, request};
use tempfile::TempDir;

/// The next message to systemd that begins like this.
fn wait_for(socket: &UnixDatagram, start: &str) -> String {
    let mut bytes = [0; 512];
    loop {
        let len = socket
            .recv(&mut bytes)
            .unwrap_or_else(|error| panic!("{start}: {error}"));
        let message = String::from_utf8_lossy(&bytes[..len]).into_owned();
        if message.starts_with(start) {
            return message;
        }
    }
}

#[test]
fn systemd_hears_of_each_phase() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut command = command(&["serve", "--port", "0"]);
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "30000000");
    let service = Service::start_with(command);
    wait_for(&socket, "READY=1");
    wait_for(&socket, "WATCHDOG=1");
    service.signal("HUP");
    let reloading = wait_for(&socket, "RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    wait_for(&socket, "READY=1");
    service.signal("TERM");
    wait_for(&socket, "STOPPING=1");
    assert_eq!(service.end().code, Some(0));
}

/// `serve` with an open socket, as systemd starts it.
fn activated(listener: &TcpListener, args: &[&str]) -> Service {
    let program = command(&[]);
    let mut shell = Command::new("sh");
    shell
        .args([
            "-c",
            "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" serve \"$@\"",
        ])
        .arg(program.get_program())
        .args(args)
        .stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    Service::start_with(shell)
}

#[test]
fn a_socket_that_was_opened_for_it_is_served() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = activated(&listener, &[]);
    assert_eq!(service.address, listener.local_addr().unwrap().to_string());
    assert_eq!(service.post("/v1/completions", &completion()).status, 200);
}

/// An answer from whoever serves this address. Who ends closes a connection on which nothing comes for a second; a client that was held up
/// between connecting and asking asks again.
fn ask(address: &str) -> Response {
    let request = request("POST", "/v1/completions", &completion().to_string());
    loop {
        let connecting = Instant::now();
        let mut socket = TcpStream::connect(address).unwrap();
        let sent = socket.write_all(request.as_bytes());
        let was_held_up = connecting.elapsed() > Duration::from_millis(500);
        let mut text = String::new();
        match sent.and_then(|()| socket.read_to_string(&mut text)) {
            Ok(_) if !text.is_empty() => return Response::parse(&text),
            _ if was_held_up => {}
            closed => panic!("{closed:?}"),
        }
    }
}

#[test]
fn a_successor_takes_over_and_no_request_is_lost() {
    const CLIENTS: usize = 4;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let old = activated(&listener, &[]);
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    // As many answers as this, counted from the moment of asking.
    let more = |count: usize| {
        let goal = answered.load(Ordering::SeqCst) + count;
        let deadline = Instant::now() + Duration::from_secs(120);
        while answered.load(Ordering::SeqCst) < goal {
            if Instant::now() > deadline {
                done.store(true, Ordering::SeqCst);
                panic!("nobody answers any more");
            }
            thread::yield_now();
        }
    };
    let address = old.address.clone();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(Ordering::SeqCst) {
                        let response = ask(&address);
                        assert_eq!(response.status, 200, "{response:?}");
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        more(20);
        let new = activated(&listener, &["--take-over"]);
        more(20);
        old.signal("TERM");
        let run = old.end();
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(!run.stderr.contains("cut off"), "{run:?}");
        more(20);
        done.store(true, Ordering::SeqCst);
        for client in clients {
            client.join().unwrap();
        }
        new.signal("TERM");
        assert_eq!(new.end().code, Some(0));
    });
}
