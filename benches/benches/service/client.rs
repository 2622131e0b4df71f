//! A client that costs next to nothing, so that what is measured is the service: HTTP/1.1 over a socket, and no more understood of it than
//! where events begin.

use std::io;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What came of a request.
#[derive(Debug, Default)]
pub struct Heard {
    pub status: u16,
    /// When the chunks that say something came, from the moment that the request was sent: an answer's first has a role and no text.
    pub times: Vec<Duration>,
    /// The stream said that it is complete.
    pub is_whole: bool,
}

/// How a client treats the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// Reads what there is.
    Quick,
    /// Reads little, and seldom.
    Slow,
    /// Goes away after so many events.
    LeavesAfter(usize),
}

/// A question that comes for the first time, so that nothing of it is in the prefix cache but the template's beginning.
pub fn question(number: usize) -> String {
    format!("{number} is a number. Tell me a story about it, and another about the one after it.")
}

/// The body of a chat that is streamed, with exactly so many tokens in the answer.
pub fn chat(number: usize, max_tokens: usize) -> Value {
    json!({
        "messages": [{"role": "user", "content": question(number)}],
        "max_tokens": max_tokens,
        "ignore_eos": true,
        "temperature": 0,
        "stream": true,
    })
}

/// A connection that is kept between requests.
pub struct Client {
    address: String,
    socket: Option<TcpStream>,
}

impl Client {
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            socket: None,
        }
    }

    /// Asks for a streamed chat.
    ///
    /// # Errors
    /// The connection broke off, or what came is no HTTP.
    pub async fn stream(&mut self, body: &Value, manners: Manners) -> io::Result<Heard> {
        let body = body.to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let socket = TcpStream::connect(&self.address).await?;
                socket.set_nodelay(true)?;
                socket
            }
        };
        socket.write_all((head + &body).as_bytes()).await?;
        let sent = Instant::now();
        let (heard, is_kept) = hear(&mut socket, sent, manners).await?;
        self.socket = is_kept.then_some(socket);
        Ok(heard)
    }

    /// The text of a path.
    ///
    /// # Errors
    /// As those of a socket.
    pub async fn get(&self, path: &str) -> io::Result<String> {
        let mut socket = TcpStream::connect(&self.address).await?;
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).await?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await?;
        Ok(text)
    }
}

/// Time between two reads of a slow client, and bytes of each.
const SLOW: (Duration, usize) = (Duration::from_millis(5), 512);

/// Reads a response; also whether the connection can be used again.
async fn hear(
    socket: &mut TcpStream,
    sent: Instant,
    manners: Manners,
) -> io::Result<(Heard, bool)> {
    let mut heard = Heard::default();
    let mut lines = Lines::default();
    let mut buffer = vec![0; 16 << 10];
    let limit = if manners == Manners::Slow {
        SLOW.1
    } else {
        buffer.len()
    };
    loop {
        if manners == Manners::Slow {
            tokio::time::sleep(SLOW.0).await;
        }
        let length = socket.read(&mut buffer[..limit]).await?;
        if length == 0 {
            return Ok((heard, false));
        }
        let at = sent.elapsed();
        let mut is_over = false;
        lines.push(&buffer[..length], |line| {
            is_over |= heard.line(line, at);
        });
        if is_over {
            return Ok((heard, true));
        }
        if manners == Manners::LeavesAfter(heard.times.len()) {
            return Ok((heard, false));
        }
        // The body of an error has no events; the next request takes another connection.
        if heard.status != 0 && heard.status != 200 {
            return Ok((heard, false));
        }
    }
}

impl Heard {
    /// Whether this line is the last of the response.
    fn line(&mut self, line: &[u8], at: Duration) -> bool {
        if let Some(rest) = line.strip_prefix(b"HTTP/1.1 ") {
            let digits = rest.iter().take(3);
            self.status = digits.fold(0, |n, digit| n * 10 + u16::from(digit - b'0'));
        } else if let Some(data) = line.strip_prefix(b"data: ") {
            if data == b"[DONE]" {
                self.is_whole = true;
            } else if !contains(data, b"\"role\"") && !contains(data, b"\"delta\":{}") {
                self.times.push(at);
            }
        }
        // The last chunk of a body: of length 0.
        self.is_whole && line == b"0"
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Cuts what comes into lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8])) {
        self.0.extend_from_slice(bytes);
        let mut begin = 0;
        while let Some(length) = self.0[begin..].iter().position(|byte| *byte == b'\n') {
            let line = &self.0[begin..begin + length];
            take(line.strip_suffix(b"\r").unwrap_or(line));
            begin += length + 1;
        }
        self.0.drain(..begin);
    }
}
