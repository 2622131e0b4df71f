//! How long people wait for their first token, and for the next ones, while the engine has other work.
//!
//! ```text
//! cargo bench -p glm-benches --bench latency -- [NAME=VALUE…]
//! ```
//!
//! | name | default | |
//! |---|---|---|
//! | `model` | `random:glm-edge-1.5b` | MODEL |
//! | `quantize` | `q8_0` for `random:`, else as it is | |
//! | `system` | 2048 | tokens of a system prompt that comes again; 0 leaves the prefix cache out |
//! | `tokens` | 8000 | tokens of the long prompt |
//! | `after` | 1 | how many of them are computed before anything is measured |
//! | `short` | 5 | short requests beside it in a round, one after the other |
//! | `streams` | 0 | answers that are under way all the time |
//! | `step` | the engine's own | `max_step_time` in milliseconds, several of them take turns: `step=200,400,1000`; each takes memory for an engine |
//! | `rounds` | 1 | |
//!
//! The long prompt is cancelled when the last short request has ended. The next short request comes when the one before has ended; without
//! `streams` a step of the long prompt alone, the longest there is, has just begun then: it is the worst moment to come.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use glm_runtime::{Engine, EngineHandle, Event, Quantization, Request, RequestId, RequestStream};
use serde_json::{Value, json};

mod common;
use common::is_measuring;
use common::options::Options;
use common::requests::{exactly, milliseconds, print, prompt, spread};

const NAMES: [&str; 9] = [
    "model", "quantize", "system", "tokens", "after", "short", "streams", "step", "rounds",
];
const SHORT_PROMPT: usize = 64;
const SHORT_ANSWER: usize = 16;
/// More steps than a short request takes beside any other work: what the streams beside it may have to answer.
const SHORT_STEPS: usize = SHORT_ANSWER + 2 * SHORT_PROMPT;

/// What is measured.
struct Plan {
    model: String,
    quantize: Option<Quantization>,
    system: usize,
    tokens: usize,
    after: usize,
    short: usize,
    streams: usize,
    rounds: usize,
}

impl Plan {
    fn new(options: &Options) -> Self {
        let given = |name: &str, measured, tried| {
            let default = if is_measuring() { measured } else { tried };
            options.get(name).unwrap_or(default)
        };
        let preset = if is_measuring() {
            "random:glm-edge-1.5b"
        } else {
            "demo"
        };
        let model: String = options.get("model").unwrap_or_else(|| preset.to_owned());
        let is_random = model.starts_with("random:");
        let own = is_random.then_some("q8_0").map(str::to_owned);
        let quantize = options.get::<String>("quantize").or(own);
        Self {
            quantize: quantize.map(|name| name.parse().expect("a format")),
            model,
            system: given("system", 2048, 64),
            tokens: given("tokens", 8000, 512),
            after: given("after", 1, 1).max(1),
            short: given("short", 5, 2),
            streams: given("streams", 0, 1),
            rounds: given("rounds", 1, 1),
        }
    }

    fn engine(&self, step: Option<u64>) -> EngineHandle {
        let stream = SHORT_PROMPT + self.short * SHORT_STEPS;
        let len = self.tokens.max(self.system) + SHORT_PROMPT;
        let engine = Engine::builder(&self.model)
            .quantize(self.quantize)
            .max_step_time(step.map(Duration::from_millis))
            .max_model_len(len.max(stream))
            .kv_cache_tokens(len + self.system + (self.streams + 2) * stream)
            .offline(true)
            .build()
            .unwrap_or_else(|error| panic!("{}: {error}", self.model));
        // The first request of an engine takes longer.
        token_times(submit(&engine, prompt(0, SHORT_PROMPT), 2));
        engine
    }

    fn parameters(&self, engine: &EngineHandle) -> Value {
        let info = engine.model_info();
        json!({
            "model": self.model,
            "quantize": self.quantize,
            "threads": info.threads,
            "device": info.device,
        })
    }
}

fn main() {
    let options = Options::read(&NAMES);
    let plan = Plan::new(&options);
    let steps = match options.list("step") {
        Some(several) => several.into_iter().map(Some).collect(),
        None => vec![None],
    };
    let engines: Vec<_> = steps.iter().map(|&one| plan.engine(one)).collect();
    if plan.system > 0 {
        prefix_cache(&engines[0], &plan);
    }
    let mut seeds = Seeds(1);
    let mut alone: Vec<Waits> = steps.iter().map(|_| Waits::default()).collect();
    let mut beside: Vec<Waits> = steps.iter().map(|_| Waits::default()).collect();
    for _ in 0..plan.rounds {
        for (i, engine) in engines.iter().enumerate() {
            alone[i].measure(engine, &plan, &mut seeds, None);
            beside[i].measure_beside_a_long_prompt(engine, &plan, &mut seeds);
        }
    }
    for (i, engine) in engines.iter().enumerate() {
        let parameters = plan.parameters(engine);
        for (variant, waits) in [("alone", &alone[i]), ("beside", &beside[i])] {
            let numbers = waits.numbers(&plan, steps[i]);
            print("beside_a_long_prompt", variant, numbers, &parameters);
        }
    }
}

/// A seed for every prompt, so that none begins like another.
struct Seeds(usize);

impl Seeds {
    fn next(&mut self) -> usize {
        self.0 += 1;
        self.0
    }
}

fn submit(engine: &EngineHandle, prompt: Vec<u32>, max_tokens: usize) -> RequestStream {
    let request = Request::new(prompt).with_options(exactly(max_tokens));
    engine.submit(request).expect("it fits")
}

/// When each token came; of an answer that was cancelled, those before.
fn token_times(stream: RequestStream) -> Vec<Instant> {
    let mut times = Vec::new();
    for event in stream {
        match event {
            Event::Token(token) => times.push(token.at),
            Event::Finished(_) => {}
            Event::Failed(error) => panic!("{error}"),
        }
    }
    times
}

fn gaps(times: &[Instant]) -> impl Iterator<Item = Duration> {
    times.windows(2).map(|pair| pair[1] - pair[0])
}

/// The first token behind a long system prompt: the first time, and for those that come after.
fn prefix_cache(engine: &EngineHandle, plan: &Plan) {
    let mut seeds = Seeds(1 << 20);
    let first_token = |prompt| {
        let begin = Instant::now();
        token_times(submit(engine, prompt, 1))[0] - begin
    };
    let (mut cold, mut cached) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let system = prompt(seeds.next(), plan.system);
        let mut question = || [system.clone(), prompt(seeds.next(), 32)].concat();
        cold.push(first_token(question()));
        cached.extend((0..3).map(|_| first_token(question())));
    }
    let parameters = plan.parameters(engine);
    for (variant, times) in [("cold", cold), ("cached", cached)] {
        let numbers = json!({
            "first_token_ms": milliseconds(&times),
            "system_prompt_tokens": plan.system,
        });
        print("prefix_cache", variant, numbers, &parameters);
    }
}

/// A long prompt that is being computed.
struct LongPrompt {
    id: RequestId,
    reader: JoinHandle<Vec<Instant>>,
}

impl LongPrompt {
    /// Submits it and waits until enough of it is computed.
    fn start(engine: &EngineHandle, plan: &Plan, seeds: &mut Seeds) -> Self {
        let before = engine.stats().prefill_tokens;
        let stream = submit(engine, prompt(seeds.next(), plan.tokens), 1);
        let long = Self {
            id: stream.id(),
            reader: thread::spawn(|| token_times(stream)),
        };
        while engine.stats().prefill_tokens - before < plan.after as u64 && !long.is_over() {
            thread::sleep(Duration::from_micros(100));
        }
        long
    }

    fn is_over(&self) -> bool {
        self.reader.is_finished()
    }

    fn cancel(self, engine: &EngineHandle) {
        engine.cancel(self.id);
        self.reader.join().expect("it does not panic");
    }
}

/// What was waited for.
#[derive(Default)]
struct Waits {
    first_tokens: Vec<Duration>,
    /// Between the tokens of the short answers.
    gaps: Vec<Duration>,
    /// Between those of the answers that are under way all the time.
    stream_gaps: Vec<Duration>,
    /// Tokens of the long prompt per second, of each round.
    long_tok_s: Vec<f64>,
}

impl Waits {
    fn measure_beside_a_long_prompt(
        &mut self,
        engine: &EngineHandle,
        plan: &Plan,
        seeds: &mut Seeds,
    ) {
        let long = LongPrompt::start(engine, plan, seeds);
        self.measure(engine, plan, seeds, Some(&long));
        long.cancel(engine);
    }

    /// One short request after the other, beside the streams, as long as `long` lasts.
    fn measure(
        &mut self,
        engine: &EngineHandle,
        plan: &Plan,
        seeds: &mut Seeds,
        long: Option<&LongPrompt>,
    ) {
        let answer = plan.short * SHORT_STEPS;
        let mut start = || submit(engine, prompt(seeds.next(), SHORT_PROMPT), answer);
        let mut streams: Vec<_> = (0..plan.streams).map(|_| start()).collect();
        for stream in &mut streams {
            assert!(matches!(stream.recv(), Some(Event::Token(_))), "an answer");
        }
        let (begin, before) = (Instant::now(), engine.stats().prefill_tokens);
        for nth in 0..plan.short {
            let asked = Instant::now();
            let stream = submit(engine, prompt(seeds.next(), SHORT_PROMPT), SHORT_ANSWER);
            let times = token_times(stream);
            // On a small model the long prompt is over at once: then one counts all the same.
            if nth > 0 && long.is_some_and(LongPrompt::is_over) {
                break;
            }
            self.first_tokens.push(times[0] - asked);
            self.gaps.extend(gaps(&times));
        }
        let (end, computed) = (Instant::now(), engine.stats().prefill_tokens - before);
        if let Some(long) = long
            && !long.is_over()
        {
            let of_long = computed.saturating_sub((plan.short * SHORT_PROMPT) as u64);
            let seconds = (end - begin).as_secs_f64();
            self.long_tok_s.push(of_long as f64 / seconds);
        }
        for stream in streams {
            engine.cancel(stream.id());
            let mut times = token_times(stream);
            times.retain(|at| (begin..end).contains(at));
            self.stream_gaps.extend(gaps(&times));
        }
    }

    fn numbers(&self, plan: &Plan, step: Option<u64>) -> Value {
        let long = (!self.long_tok_s.is_empty()).then(|| spread(&self.long_tok_s));
        json!({
            "first_token_ms": milliseconds(&self.first_tokens),
            "between_tokens_ms": milliseconds(&self.gaps),
            "between_stream_tokens_ms": milliseconds(&self.stream_gaps),
            "long_prompt_tok_s": long,
            "max_step_time_ms": step,
            "long_prompt_tokens": plan.tokens,
            "computed_before": plan.after,
            "short_prompt_tokens": SHORT_PROMPT,
            "short_answer_tokens": SHORT_ANSWER,
            "streams": plan.streams,
            "rounds": plan.rounds,
        })
    }
}
