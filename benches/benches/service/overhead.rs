//! `overhead`: the same answers out of the engine's own streams, and over HTTP from a service in this process.
//!
//! `streams` clients ask, each for one answer after the other; the engine's have their prompts as token ids, the service's say what they want
//! as a chat. Both are served by one thread. Wanted of `http`: `share_of_engine` at least 0.9, `added_first_token_ms` under 1; the latter
//! from requests that come one after the other (`alone`), for where many come at once most of the time is that of the others' prompts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use glm_core::chat::{ChatRequest, Message};
use glm_runtime::{Engine, EngineHandle, Event, Request};
use glm_server::http::{ServeOptions, Server};
use serde_json::json;

use super::Setup;
use super::client::{Client, Manners, chat, question};
use super::common::requests::{exactly, median, milliseconds, print, rounded, spread};

/// Requests after another that the first token is measured with.
const ALONE: usize = 100;

/// Every request has another number, so that no prompt comes twice.
static NEXT: AtomicUsize = AtomicUsize::new(1_000_000);

fn next() -> usize {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What came of one round on one side.
#[derive(Default)]
struct Round {
    tokens: usize,
    elapsed: Duration,
    first: Vec<Duration>,
    between: Vec<Duration>,
    /// Seconds of all processors that this process took, clients included.
    cpu: f64,
}

struct Plan {
    streams: usize,
    requests: usize,
    tokens: usize,
}

pub async fn run(setup: &Setup) {
    let plan = Plan {
        streams: setup.size("streams", 64, 3),
        requests: setup.size("requests", 8, 2),
        tokens: setup.size("tokens", 128, 4),
    };
    let model = setup.model();
    let engine = engine(&model, &plan);
    let server = Server::bind("127.0.0.1", 0, ServeOptions::default()).expect("a port");
    server.start(engine.clone()).expect("it starts");
    let address = server.address().to_string();
    let parameters = json!({
        "model": model, "streams": plan.streams, "requests": plan.requests, "tokens": plan.tokens,
        "threads": engine.model_info().threads,
    });
    first_tokens(
        &engine,
        &address,
        setup.size("requests", ALONE, 2),
        &parameters,
    )
    .await;
    // The first of each is slower: threads and memory come into being.
    alone(&engine, &plan).await;
    over_http(&address, &plan).await;
    let (mut engines, mut https) = (Vec::new(), Vec::new());
    for _ in 0..setup.size("rounds", 5, 1) {
        engines.push(alone(&engine, &plan).await);
        https.push(over_http(&address, &plan).await);
    }
    report("engine", &engines, &engines, &parameters);
    report("http", &https, &engines, &parameters);
    server.stopper().drain();
    // Joining waits for threads of another runtime, which must not be done on one's own.
    tokio::task::spawn_blocking(|| server.join())
        .await
        .expect("it ends");
}

fn engine(model: &str, plan: &Plan) -> EngineHandle {
    let length = plan.tokens + 128;
    Engine::builder(model)
        .max_num_seqs(Some(plan.streams))
        .max_model_len(length)
        .kv_cache_tokens(2 * plan.streams * length)
        .offline(true)
        .build()
        .unwrap_or_else(|error| panic!("{model}: {error}"))
}

fn prompt(engine: &EngineHandle) -> Vec<u32> {
    let request = ChatRequest {
        messages: vec![Message::user(question(next()))],
        add_generation_prompt: true,
        ..ChatRequest::default()
    };
    let format = engine.chat_format().expect("a template");
    let tokenizer = engine.tokenizer().expect("a tokenizer");
    format.encode(tokenizer, &request).expect("it can be said")
}

/// The times of the tokens of one request to the engine.
async fn ask_engine(engine: &EngineHandle, prompt: Vec<u32>, tokens: usize) -> Vec<Duration> {
    let sent = Instant::now();
    let options = exactly(tokens);
    let mut stream = engine.submit(Request { prompt, options }).expect("it fits");
    let mut times = Vec::with_capacity(tokens);
    while let Some(event) = stream.next().await {
        match event {
            // The line end that a turn of this family begins with is no part of a chat's answer.
            Event::Token(token) if !token.text.trim().is_empty() => times.push(sent.elapsed()),
            Event::Token(_) | Event::Finished(_) => {}
            Event::Failed(error) => panic!("{error}"),
        }
    }
    times
}

async fn alone(engine: &EngineHandle, plan: &Plan) -> Round {
    // What the service does with a body is its cost, not the engine's.
    let prompts = (0..plan.streams).map(|_| (0..plan.requests).map(|_| prompt(engine)).collect());
    let prompts: Vec<Vec<Vec<u32>>> = prompts.collect();
    let measured = Measured::begin();
    let streams = prompts.into_iter().map(async |prompts| {
        let mut all = Vec::new();
        for prompt in prompts {
            all.push(ask_engine(engine, prompt, plan.tokens).await);
        }
        all
    });
    let times = join_all(streams).await.into_iter().flatten().collect();
    measured.end(times, plan)
}

async fn over_http(address: &str, plan: &Plan) -> Round {
    let measured = Measured::begin();
    let streams = (0..plan.streams).map(async |_| {
        let mut client = Client::new(address);
        let mut all = Vec::new();
        for _ in 0..plan.requests {
            let body = chat(next(), plan.tokens);
            let heard = client
                .stream(&body, Manners::Quick)
                .await
                .expect("an answer");
            assert!(heard.status == 200 && heard.is_whole, "{heard:?}");
            all.push(heard.times);
        }
        all
    });
    let times = join_all(streams).await.into_iter().flatten().collect();
    measured.end(times, plan)
}

struct Measured {
    begin: Instant,
    cpu: f64,
}

impl Measured {
    fn begin() -> Self {
        Self {
            begin: Instant::now(),
            cpu: super::program::cpu_seconds("self"),
        }
    }

    fn end(self, times: Vec<Vec<Duration>>, plan: &Plan) -> Round {
        let mut round = Round {
            // As many as were asked for; those that say nothing by themselves come with the next.
            tokens: plan.streams * plan.requests * plan.tokens,
            elapsed: self.begin.elapsed(),
            cpu: super::program::cpu_seconds("self") - self.cpu,
            ..Round::default()
        };
        for times in times {
            round.first.extend(times.first());
            round
                .between
                .extend(times.windows(2).map(|pair| pair[1] - pair[0]));
        }
        round
    }
}

fn report(variant: &str, rounds: &[Round], engines: &[Round], parameters: &serde_json::Value) {
    let speed = |round: &Round| round.tokens as f64 / round.elapsed.as_secs_f64();
    let shares: Vec<f64> = rounds
        .iter()
        .zip(engines)
        .map(|(a, b)| speed(a) / speed(b))
        .collect();
    let all = |of: fn(&Round) -> &Vec<Duration>| -> Vec<Duration> {
        rounds
            .iter()
            .flat_map(|round| of(round).iter().copied())
            .collect()
    };
    let cpu: Vec<f64> = rounds
        .iter()
        .map(|round| round.cpu * 1e6 / round.tokens as f64)
        .collect();
    let numbers = json!({
        "tok_s": spread(&rounds.iter().map(speed).collect::<Vec<_>>()),
        "share_of_engine": spread(&shares),
        "cpu_us_per_token": spread(&cpu),
        "first_token_ms": milliseconds(&all(|round| &round.first)),
        "between_tokens_ms": milliseconds(&all(|round| &round.between)),
    });
    print("overhead", variant, numbers, parameters);
}

/// First tokens of requests that come one after the other, engine and service taking turns.
async fn first_tokens(
    engine: &EngineHandle,
    address: &str,
    n: usize,
    parameters: &serde_json::Value,
) {
    let mut client = Client::new(address);
    let (mut engines, mut https) = (Vec::new(), Vec::new());
    for _ in 0..n {
        engines.extend(ask_engine(engine, prompt(engine), 2).await.first().copied());
        let heard = client.stream(&chat(next(), 2), Manners::Quick).await;
        https.extend(heard.expect("an answer").times.first().copied());
    }
    let middle = |times: &[Duration]| {
        let times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        median(&times)
    };
    let numbers = json!({
        "engine_first_token_ms": milliseconds(&engines),
        "http_first_token_ms": milliseconds(&https),
        "added_first_token_ms": rounded(middle(&https) - middle(&engines)),
    });
    print("overhead", "alone", numbers, parameters);
}
