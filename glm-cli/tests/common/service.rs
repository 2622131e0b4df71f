//! The service as a process, and a client that shows every byte.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Run, command};

/// The program, answering requests.
pub struct Service {
    pub child: Option<Child>,
    _stdout: BufReader<ChildStdout>,
    pub address: String,
}

/// Waits until a service answers requests, and reads where.
pub fn address(stdout: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening on ");
    let address = address.and_then(|url| url.split("://").nth(1));
    address.unwrap_or_else(|| panic!("{line}")).to_owned()
}

impl Service {
    /// Started on a port that is free, and ready.
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(command(&[&["serve", "--port", "0"][..], args].concat()))
    }

    /// The same with a command of one's own.
    pub fn start_with(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        Self {
            address: address(&mut stdout),
            child: Some(child),
            _stdout: stdout,
        }
    }

    pub fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(&self.address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        socket
    }

    pub fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut socket = self.connect();
        socket
            .write_all(request(method, path, body).as_bytes())
            .unwrap();
        socket
    }

    pub fn get(&self, path: &str) -> Response {
        Response::read(self.send("GET", path, ""))
    }

    /// A request with headers of one's own, each ended by a line end.
    pub fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        let mut socket = self.connect();
        let request = request(method, path, body).replacen("host:", &format!("{headers}host:"), 1);
        socket.write_all(request.as_bytes()).unwrap();
        Response::read(socket)
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        Response::read(self.send("POST", path, &body.to_string()))
    }

    /// A request inside, and the part of its body that is still to come.
    pub fn half_sent(&self) -> (TcpStream, String) {
        const GO_ON: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        let whole = request("POST", "/v1/completions", &completion().to_string());
        let whole = whole.replacen("host:", "expect: 100-continue\r\nhost:", 1);
        let (first, second) = whole.split_at(whole.len() - 10);
        let mut socket = self.connect();
        socket.write_all(first.as_bytes()).unwrap();
        // It asks for the body when it has begun to read it.
        let mut asked = [0; GO_ON.len()];
        socket.read_exact(&mut asked).unwrap();
        assert_eq!(asked, GO_ON);
        (socket, second.to_owned())
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id();
        let kill = format!("kill -{name} {id}");
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Asks until the answer has this status.
    pub fn wait_for(&self, path: &str, status: u16) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while self.get(path).status != status {
            assert!(Instant::now() < deadline, "{path} is never {status}");
            std::thread::yield_now();
        }
    }

    pub fn end(mut self) -> Run {
        let child = self.child.take().unwrap();
        child.wait_with_output().unwrap().into()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn read(mut socket: TcpStream) -> Self {
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        Self::parse(&text)
    }

    pub fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let head = head.to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = match head.contains("transfer-encoding: chunked") {
            true => unchunk(body),
            false => body.to_owned(),
        };
        Self { status, head, body }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The events of a stream, the last of which must be `[DONE]`.
    pub fn chunks(&self) -> Vec<Value> {
        let events = self
            .body
            .split_terminator("\n\n")
            .filter(|e| !e.starts_with(':'));
        let mut events: Vec<_> = events.map(|e| e.strip_prefix("data: ").unwrap()).collect();
        assert_eq!(events.pop(), Some("[DONE]"), "{self:?}");
        events
            .into_iter()
            .map(|e| serde_json::from_str(e).unwrap())
            .collect()
    }
}

fn unchunk(mut rest: &str) -> String {
    let mut whole = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole += &after[..size];
        rest = after[size..].strip_prefix("\r\n").unwrap();
        if size == 0 {
            break;
        }
    }
    whole
}

pub fn completion() -> Value {
    json!({"prompt": "Once", "max_tokens": 8, "temperature": 0, "ignore_eos": true})
}
