//! Twenty thousand requests from several clients at once, on a cache too small for them: mixed lengths and priorities, some
//! cancelled, some dropped, some late. Whatever happens, every one ends, equal requests get equal answers, no block is lost,
//! and memory does not grow.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use glm_runtime::{
    Engine, EngineHandle, ErrorKind, Event, FinishReason, GenerateOptions, Request, SamplingParams,
};
use sysinfo::{ProcessesToUpdate, System};

mod common;
use common::tiny;

const CLIENTS: u64 = 8;
/// Different requests; each of them is made many times.
const KINDS: u64 = 48;
/// What an allocator may keep for itself.
const GROWTH: u64 = 16 << 20;

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Request number `kind` of [`KINDS`]: its prompt begins like those of a few others.
fn request(kind: u64) -> Request {
    let mut random = Random(kind);
    let (shared, own) = (random.below(3) * 24, 1 + random.below(40));
    let ids = (0..shared)
        .map(|i| i * i * 7 % 300)
        .chain((0..own).map(|i| (kind * 31 + i * 11) % 300));
    let sampling = SamplingParams {
        temperature: random.below(2) as f32,
        seed: Some(kind),
        ..SamplingParams::default()
    };
    let options = GenerateOptions {
        sampling,
        max_tokens: Some(1 + random.below(20) as usize),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    Request::new(ids.map(|id| id as u32).collect::<Vec<_>>()).with_options(options)
}

/// What became of the requests.
#[derive(Debug, Default)]
struct Tally {
    answers: HashMap<u64, Vec<u32>>,
    whole: u64,
    cancelled: u64,
    dropped: u64,
    late: u64,
}

/// Makes one request after the other.
fn client(engine: &EngineHandle, seed: u64, requests: u64, tally: &Mutex<Tally>) {
    let mut random = Random(seed);
    for _ in 0..requests {
        let kind = random.below(KINDS);
        let mut request = request(kind);
        request.options.priority = random.below(7) as i32 - 3;
        let fate = random.below(20);
        if fate == 0 {
            request.options.timeout = Some(Duration::from_micros(random.below(3000)));
        }
        let leave_after = (fate == 1 || fate == 2).then(|| random.below(8));
        let mut stream = match engine.submit(request) {
            Ok(stream) => stream,
            Err(error) => panic!("request {kind}: {error}"),
        };
        let mut ids = Vec::new();
        let end = loop {
            if leave_after == Some(ids.len() as u64) {
                if fate == 1 {
                    break None;
                }
                engine.cancel(stream.id());
            }
            match stream.recv() {
                Some(Event::Token(token)) => ids.push(token.id),
                end => break end,
            }
        };
        assert!(end.is_none() || stream.recv().is_none());
        note(&mut tally.lock().unwrap(), kind, ids, end);
    }
}

fn note(tally: &mut Tally, kind: u64, ids: Vec<u32>, end: Option<Event>) {
    match end {
        None => tally.dropped += 1,
        Some(Event::Failed(error)) if error.kind() == ErrorKind::Timeout => tally.late += 1,
        Some(Event::Finished(finished)) if finished.reason == FinishReason::Cancelled => {
            tally.cancelled += 1;
        }
        Some(Event::Finished(_)) => {
            tally.whole += 1;
            let first = tally.answers.entry(kind).or_insert_with(|| ids.clone());
            assert_eq!(*first, ids, "request {kind} got two answers");
        }
        Some(other) => panic!("request {kind}: {other:?}"),
    }
}

/// Bytes of this process in memory; without pages of files where the system tells them apart, for those come and go with what else runs.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let anonymous = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    if let Some(kib) = anonymous {
        return kib.trim().parse::<u64>().unwrap() << 10;
    }
    let pid = sysinfo::get_current_pid().unwrap();
    let mut system = System::new();
    system.refresh_processes(ProcessesToUpdate::Some(&[pid]), true);
    system.process(pid).unwrap().memory()
}

#[test]
fn twenty_thousand_requests_leave_nothing_behind() {
    let requests = 20_000;
    let engine = Engine::builder(tiny("tiny-glm").to_str().unwrap())
        .threads(1)
        .max_model_len(128)
        .max_num_seqs(6)
        .kv_cache_tokens(256)
        .offline(true)
        .build()
        .unwrap();
    let tally = Mutex::default();
    let run = |first_seed: u64, requests: u64| {
        std::thread::scope(|scope| {
            for seed in first_seed..first_seed + CLIENTS {
                let (engine, tally) = (&engine, &tally);
                scope.spawn(move || client(engine, seed, requests / CLIENTS, tally));
            }
        });
    };
    run(0, requests / 4);
    let before = resident();
    run(CLIENTS, requests - requests / 4);
    let grown = resident().saturating_sub(before);

    engine.drain();
    let (tally, stats) = (tally.into_inner().unwrap(), engine.stats());
    println!(
        "{} whole, {} cancelled, {} dropped, {} late; {} preemptions, {} tokens from the prefix cache; {} KiB more memory",
        tally.whole,
        tally.cancelled,
        tally.dropped,
        tally.late,
        stats.preemptions,
        stats.prefix_cache_hits,
        grown >> 10,
    );
    let ended = tally.whole + tally.cancelled + tally.dropped + tally.late;
    assert_eq!(ended, requests);
    assert_eq!(stats.accepted, stats.finished + stats.failed);
    assert_eq!((stats.waiting, stats.running), (0, 0));
    assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total);
    // The run is worth something only if it came to all of this.
    assert!(tally.whole > requests / 2 && tally.answers.len() as u64 == KINDS);
    assert!(tally.cancelled > 0 && tally.dropped > 0 && tally.late > 0);
    assert!(stats.preemptions > 0 && stats.prefix_cache_hits > 0);
    assert!(grown < GROWTH, "memory grew by {} KiB", grown >> 10);
}
