//! `load`: several times as many clients as there is room for, against the program itself.
//!
//! Of ten clients one reads slowly and two go away in the middle of an answer. Whatever is refused is asked for again at once, so the service is
//! over its limits all the time. What must hold is checked: answers are whole, nothing is refused but with 429 or 503, and at the end of every
//! wave nothing runs, every block is free, and memory is what it was after the first.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::Setup;
use super::client::{Client, Heard, Manners, chat};
use super::common::is_measuring;
use super::common::requests::{milliseconds, print};
use super::program::{Program, cpu_seconds};

/// What may come and go with the allocator's habits: more than that is a leak.
const SLACK: u64 = 16 << 20;
/// For the end of a wave: only a failure takes as long.
const PATIENCE: Duration = Duration::from_secs(60);
/// A client that is refused waits so long; `Retry-After` is for polite ones.
const IMPATIENCE: Duration = Duration::from_millis(2);

/// What came of a wave.
#[derive(Default)]
struct Wave {
    whole: usize,
    left: usize,
    refused: usize,
    first: Vec<Duration>,
    between: Vec<Duration>,
}

pub async fn run(setup: &Setup) {
    let places = setup.size("places", 16, 2);
    let clients = setup.size("clients", 128, 20);
    let tokens = setup.size("tokens", 128, 8);
    let path = setup.0.get::<String>("server").map(Into::into);
    let args =
        ["--max-num-seqs", "--max-waiting"].map(|name| [name.to_owned(), places.to_string()]);
    let mut args = args.concat();
    args.extend(["--model".to_owned(), setup.model()]);
    let program = Program::start(&path.unwrap_or_else(Program::beside_this), &args);
    let mut memory = Vec::new();
    for wave in 0..setup.size("rounds", 6, 2) {
        let begin = Instant::now();
        let cpu = cpu_seconds(&program.id());
        let came = self::wave(&program.address, wave, clients, tokens).await;
        let elapsed = begin.elapsed();
        quiet(&program.address).await;
        memory.push(program.resident_bytes());
        let numbers = numbers(
            &came,
            elapsed,
            cpu_seconds(&program.id()) - cpu,
            memory[wave],
        );
        let parameters =
            json!({"places": places, "clients": clients, "tokens": tokens, "model": setup.model()});
        print("load", &format!("wave {wave}"), numbers, &parameters);
        // So few and short requests as those of a trial may come one after the other.
        assert!(
            came.whole > 0 && came.left > 0 && (came.refused > 0 || !is_measuring()),
            "this was no load"
        );
    }
    // The first wave of a trial is too short to have everything in memory.
    if !is_measuring() {
        return;
    }
    let (first, last) = (memory[0], *memory.last().expect("a wave"));
    assert!(
        last <= first + SLACK,
        "memory grew from {first} to {last} bytes: {memory:?}"
    );
}

/// All clients at once, each until it has had what it wanted.
async fn wave(address: &str, wave: usize, clients: usize, tokens: usize) -> Wave {
    let asked = (0..clients).map(async |number| {
        let manners = match number % 10 {
            0 => Manners::Slow,
            1 | 2 => Manners::LeavesAfter(1 + number % tokens.min(7)),
            _ => Manners::Quick,
        };
        let body = chat(10_000_000 + wave * clients + number, tokens);
        let mut client = Client::new(address);
        let mut refused = 0;
        loop {
            let heard = client.stream(&body, manners).await.expect("a response");
            if matches!(heard.status, 429 | 503) {
                refused += 1;
                tokio::time::sleep(IMPATIENCE).await;
                continue;
            }
            assert_eq!(heard.status, 200);
            return (manners, heard, refused);
        }
    });
    let mut wave = Wave::default();
    for (manners, heard, refused) in join_all(asked).await {
        wave.refused += refused;
        wave.add(manners, &heard);
    }
    wave
}

impl Wave {
    fn add(&mut self, manners: Manners, heard: &Heard) {
        match manners {
            Manners::LeavesAfter(_) => self.left += 1,
            Manners::Quick | Manners::Slow => {
                assert!(heard.is_whole, "an answer broke off: {heard:?}");
                self.whole += 1;
            }
        }
        // How long a slow reader waits is its own doing.
        if manners == Manners::Quick {
            self.first.extend(heard.times.first());
            let pairs = heard.times.windows(2);
            self.between.extend(pairs.map(|pair| pair[1] - pair[0]));
        }
    }
}

/// Waits until nothing runs, and every block is free.
async fn quiet(address: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = Client::new(address).get("/metrics").await.expect("metrics");
        let value = |name: &str| {
            let line = metrics
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            let value = line.unwrap_or_else(|| panic!("no {name} in\n{metrics}"));
            value.parse::<f64>().expect("a number")
        };
        let busy = value("engine_running") + value("engine_waiting");
        let held = value("engine_kv_blocks") - value("engine_kv_blocks_free");
        if busy == 0.0 && held == 0.0 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{held} blocks are still held, {busy} requests run"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn numbers(wave: &Wave, elapsed: Duration, cpu: f64, memory: u64) -> Value {
    let spread = |times: &[Duration]| {
        let mut spread = milliseconds(times);
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let rank = (sorted.len() * 99).div_ceil(100).max(1);
        if let (Some(at), Some(fields)) = (sorted.get(rank - 1), spread.as_object_mut()) {
            fields.insert("p99".to_owned(), json!(at.as_secs_f64() * 1e3));
        }
        spread
    };
    json!({
        "whole": wave.whole,
        "left": wave.left,
        "refused": wave.refused,
        "seconds": elapsed.as_secs_f64(),
        "server_cpu_seconds": cpu,
        "resident_mib": memory >> 20,
        "first_token_ms": spread(&wave.first),
        "between_tokens_ms": spread(&wave.between),
    })
}
