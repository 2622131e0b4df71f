//! The engine around a model that only counts: faults on purpose, and who is told what.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use glm_core::{DenseConfig, ModelConfig};
use glm_kernels::{CpuOptions, Device, KernelError, KvDType, Tensor};
use proptest::prelude::*;

use super::limits::Limits;
use super::open::Sizes;
use super::*;
use crate::error::BuildError;
use crate::lora::{AdapterRegistry, AdapterRows};
use crate::request::{Event, GenerateOptions};
use crate::scheduler::SchedulerConfig;
use crate::{EngineHandle, ErrorKind, SamplingParams};

const VOCAB: usize = 64;
/// A prompt token that makes the whole step fail.
const POISON: u32 = 60;
/// A prompt token that makes the model panic.
pub(super) const PANIC: u32 = 61;
/// A prompt token whose logits are NaN.
const NAN: u32 = 62;
/// A prompt token at which the model waits until the test opens the gate.
const GATE: u32 = 63;

/// Answers token `t` with `t + 1`.
struct Counter {
    config: DenseConfig,
    device: Device,
    gate: Arc<AtomicBool>,
}

impl CausalLm for Counter {
    fn config(&self) -> &DenseConfig {
        &self.config
    }

    fn hidden_states(
        &self,
        batch: &ForwardBatch,
        _kv: &mut KvPool,
        _each: &mut dyn FnMut(&Tensor),
    ) -> Result<Tensor, KernelError> {
        if batch.token_ids.contains(&POISON) {
            return Err(KernelError::ShapeOverflow(vec![usize::MAX]));
        }
        assert!(
            !batch.token_ids.contains(&PANIC),
            "the counter was told to panic"
        );
        while batch.token_ids.contains(&GATE) && !self.gate.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let values: Vec<f32> = batch.token_ids.iter().map(|&id| id as f32).collect();
        Tensor::from_f32(&self.device, &values, &[values.len(), 1])
    }

    fn logits(&self, x: &Tensor, _adapters: &[AdapterRows]) -> Result<Tensor, KernelError> {
        let ids = x.as_f32()?;
        let mut logits = vec![0.0; ids.len() * VOCAB];
        for (row, &id) in logits.chunks_exact_mut(VOCAB).zip(ids) {
            row[(id as usize + 1) % VOCAB] = 1.0;
            if id as u32 == NAN {
                row.fill(f32::NAN);
            }
        }
        Tensor::from_f32(&self.device, &logits, &[ids.len(), VOCAB])
    }
}

pub(super) fn counter(num_blocks: usize) -> (Engine, Arc<AtomicBool>) {
    let json = r#"{"model_type":"glm4","vocab_size":64,"hidden_size":32,"intermediate_size":32,"num_hidden_layers":1,
        "num_attention_heads":2,"num_key_value_heads":1,"head_dim":16,"partial_rotary_factor":0.5,"rope_theta":10000.0,
        "rms_norm_eps":1e-5,"max_position_embeddings":64,"eos_token_id":[50]}"#;
    let config = ModelConfig::from_json(json, Path::new("config.json")).unwrap();
    let device = Device::cpu(CpuOptions {
        threads: Some(1),
        ..CpuOptions::default()
    })
    .unwrap();
    let gate = Arc::new(AtomicBool::new(false));
    let model = Counter {
        config: config.dense().clone(),
        device: device.clone(),
        gate: gate.clone(),
    };
    let scheduler = SchedulerConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: 32,
        max_num_prefill_tokens: 16,
        // What a step takes is the machine's mood; plans must not depend on it here.
        max_step_time: Some(Duration::MAX),
        max_model_len: 64,
        max_waiting: Some(16),
        max_waiting_tokens: Some(256),
        priority_aging: Duration::from_secs(10),
    };
    let sizes = Sizes {
        num_blocks,
        kv_dtype: KvDType::F32,
        prefix_cache: true,
        scheduler,
    };
    let front = front(scheduler, &device, &config);
    (
        Engine::assemble(device, Box::new(model), sizes, front, vec![50], Some(0)).unwrap(),
        gate,
    )
}

fn front(scheduler: SchedulerConfig, device: &Device, config: &ModelConfig) -> Front {
    let info = ModelInfo {
        name: "counter".to_owned(),
        ..ModelInfo::default()
    };
    let limits = Limits {
        model: info.name.clone(),
        vocab_size: VOCAB,
        scheduler,
        has_tokenizer: false,
    };
    Front {
        info,
        limits,
        tokenizer: None,
        chat_format: None,
        default_sampling: SamplingParams::greedy(),
        guides: None,
        eos_token_ids: Vec::new(),
        adapters: AdapterRegistry::new(device, config),
    }
}

pub(super) fn request(prompt: &[u32], max_tokens: usize) -> Request {
    let options = GenerateOptions {
        max_tokens: Some(max_tokens),
        ..GenerateOptions::default()
    };
    Request::new(prompt).with_options(options)
}

fn run(engine: &mut Engine) -> Vec<SeqEvent> {
    let mut events = Vec::new();
    while engine.has_work() {
        events.extend(engine.step());
    }
    let stats = engine.stats();
    assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total);
    events
}

/// The ids of a stream and its final event, which must be the only one and the last.
fn collect(stream: RequestStream) -> (Vec<u32>, Event) {
    let mut events: Vec<Event> = stream.into_iter().collect();
    let last = events.pop().unwrap();
    assert!(!matches!(last, Event::Token(_)));
    let ids = events.into_iter().map(|event| match event {
        Event::Token(token) => token.id,
        other => panic!("{other:?} before the end"),
    });
    (ids.collect(), last)
}

fn reason(event: &Event) -> Option<FinishReason> {
    if let Event::Finished(finished) = event {
        Some(finished.reason)
    } else {
        None
    }
}

fn kind(event: &Event) -> Option<ErrorKind> {
    if let Event::Failed(error) = event {
        Some(error.kind())
    } else {
        None
    }
}

fn assert_idle(handle: &EngineHandle) {
    handle.drain();
    let stats = handle.stats();
    assert_eq!((stats.waiting, stats.running), (0, 0));
    assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total);
}

#[test]
fn answers_end_at_eos_at_max_tokens_and_at_the_end_of_the_context() {
    let handle = counter(8).0.spawn().unwrap();
    let (ids, last) = collect(handle.submit(request(&[47], 9)).unwrap());
    assert_eq!(
        (ids, reason(&last)),
        (vec![48, 49, 50], Some(FinishReason::Stop))
    );
    let (ids, last) = collect(handle.submit(request(&[1], 2)).unwrap());
    assert_eq!(
        (ids, reason(&last)),
        (vec![2, 3], Some(FinishReason::Length))
    );
    let (ids, last) = collect(handle.submit(request(&[1; 62], 9)).unwrap());
    assert_eq!(
        (ids, reason(&last)),
        (vec![2, 3], Some(FinishReason::Length))
    );
    let Event::Finished(finished) = last else {
        panic!()
    };
    assert_eq!(
        finished.usage,
        Usage {
            prompt_tokens: 62,
            completion_tokens: 2,
            ..Usage::default()
        }
    );
    assert!(finished.timings.queued <= finished.timings.time_to_first_token);
    assert!(finished.timings.time_to_first_token <= finished.timings.total);
    assert_idle(&handle);
}

#[test]
fn an_answer_has_as_many_tokens_as_it_must() {
    let handle = counter(8).0.spawn().unwrap();
    let mut at_least = request(&[48], 9);
    at_least.options.min_tokens = 4;
    // 49, then 50 is the end of sequence and forbidden: all other logits are equal.
    let (ids, last) = collect(handle.submit(at_least).unwrap());
    assert_eq!(
        (ids, reason(&last)),
        (vec![49, 0, 1, 2, 3, 4, 5, 6, 7], Some(FinishReason::Length))
    );
    assert_idle(&handle);
}

#[test]
fn a_request_that_cannot_be_served_is_refused_at_once() {
    let (mut engine, _) = counter(8);
    let bad = |options| Request::new([1]).with_options(options);
    let cases = [
        (request(&[], 1), ErrorKind::InvalidRequest),
        (request(&[1; 64], 1), ErrorKind::ContextLength),
        (request(&[64], 1), ErrorKind::InvalidRequest),
        (request(&[1], 0), ErrorKind::InvalidRequest),
        (
            bad(GenerateOptions {
                min_tokens: 3,
                max_tokens: Some(2),
                ..Default::default()
            }),
            ErrorKind::InvalidRequest,
        ),
        (
            bad(GenerateOptions {
                sampling: SamplingParams {
                    logit_bias: [(VOCAB as u32, 1.0)].into(),
                    ..Default::default()
                },
                ..Default::default()
            }),
            ErrorKind::InvalidRequest,
        ),
        (
            bad(GenerateOptions {
                stop: vec!["x".into()],
                ..Default::default()
            }),
            ErrorKind::InvalidRequest,
        ),
        (
            bad(GenerateOptions {
                sampling: SamplingParams {
                    top_p: 2.0,
                    ..Default::default()
                },
                ..Default::default()
            }),
            ErrorKind::InvalidRequest,
        ),
    ];
    for (request, expected) in &cases {
        assert_eq!(
            engine.submit(request.clone()).unwrap_err().kind(),
            *expected,
            "{request:?}"
        );
    }
    assert!(!engine.has_work());
    let handle = engine.spawn().unwrap();
    for (request, expected) in cases {
        assert_eq!(handle.submit(request).unwrap_err().kind(), expected);
    }
    assert!(matches!(
        handle.generate("text", GenerateOptions::default()),
        Err(EngineError::NoTokenizer { .. })
    ));
}

#[test]
fn a_step_that_fails_ends_its_requests_and_no_other() {
    let (mut engine, _) = counter(8);
    let poisoned = engine.submit(request(&[POISON], 5)).unwrap();
    let beside = engine.submit(request(&[3], 5)).unwrap();
    let events = engine.step();
    let failed: Vec<_> = events
        .iter()
        .map(|e| {
            if let SeqEvent::Failed(id, _) = e {
                Some(*id)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(failed, [Some(poisoned), Some(beside)]);
    engine.submit(request(&[3], 5)).unwrap();
    assert!(
        run(&mut engine)
            .iter()
            .all(|event| !matches!(event, SeqEvent::Failed(..)))
    );
}

#[test]
fn logits_that_are_not_numbers_end_only_their_own_request() {
    let (mut engine, _) = counter(8);
    let bad = engine.submit(request(&[NAN], 5)).unwrap();
    let good = engine.submit(request(&[3], 5)).unwrap();
    let events = run(&mut engine);
    let is_bad = |event: &&SeqEvent| matches!(event, SeqEvent::Failed(id, EngineError::NotFinite) if *id == bad);
    assert_eq!(events.iter().filter(is_bad).count(), 1);
    assert!(
        events
            .iter()
            .any(|event| matches!(event, SeqEvent::Finished(id, _) if *id == good))
    );
    assert_eq!(
        engine.score(&[NAN, 1]).unwrap_err().kind(),
        ErrorKind::Internal
    );
}

#[test]
fn a_panic_of_the_model_still_ends_every_request_once() {
    let (engine, gate) = counter(8);
    let handle = engine.spawn().unwrap();
    // The gate holds the first step, so that all are queued when the panic comes.
    let streams: Vec<_> = [GATE, 1, PANIC, 2]
        .map(|id| handle.submit(request(&[id], 40)).unwrap())
        .into();
    gate.store(true, Ordering::SeqCst);
    for stream in streams {
        let (_, last) = collect(stream);
        assert!(
            kind(&last) == Some(ErrorKind::Internal) || reason(&last).is_some(),
            "{last:?}"
        );
    }
    // Sooner or later the channel is closed; until then a submission is answered with a failure.
    match handle.submit(request(&[1], 1)) {
        Ok(stream) => assert!(kind(&collect(stream).1).is_some()),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
    }
    handle.drain();
    assert_eq!(
        handle.score(&[1, 2]).unwrap_err().kind(),
        ErrorKind::Unavailable
    );
}

#[test]
fn cancelling_and_dropping_free_the_blocks() {
    let (engine, gate) = counter(8);
    let handle = engine.spawn().unwrap();
    let endless = |id| {
        let options = GenerateOptions {
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        handle
            .submit(Request::new([id]).with_options(options))
            .unwrap()
    };
    let cancelled = endless(GATE);
    let dropped = endless(1);
    handle.cancel(cancelled.id());
    drop(dropped);
    gate.store(true, Ordering::SeqCst);
    let (ids, last) = collect(cancelled);
    assert_eq!(reason(&last), Some(FinishReason::Cancelled));
    assert!(
        ids.len() <= 1,
        "cancelled at the first step, not after {} tokens",
        ids.len()
    );
    assert_idle(&handle);
    assert_eq!(handle.stats().finished, 2);
}

#[test]
fn threads_that_submit_cancel_and_leave_get_every_block_back() {
    let handle = counter(12).0.spawn().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let handle = handle.clone();
            scope.spawn(move || {
                for i in 0..50 {
                    let token = (thread * 11 + i) % 40;
                    let prompt = vec![token; 1 + i as usize % 37];
                    let Ok(stream) = handle.submit(request(&prompt, 1 + i as usize % 9)) else {
                        continue;
                    };
                    match (thread + i) % 4 {
                        0 => drop(stream),
                        1 => {
                            handle.cancel(stream.id());
                            assert!(reason(&collect(stream).1).is_some());
                        }
                        _ => {
                            let (ids, last) = collect(stream);
                            let overloaded = kind(&last) == Some(ErrorKind::Overloaded);
                            assert!(overloaded || ids[0] == token + 1, "{last:?}");
                        }
                    }
                }
            });
        }
    });
    assert_idle(&handle);
    let stats = handle.stats();
    assert_eq!(stats.accepted, stats.finished);
}

#[test]
fn draining_finishes_what_runs_and_refuses_the_rest() {
    let handle = counter(8).0.spawn().unwrap();
    let running = handle.submit(request(&[1], 20)).unwrap();
    handle.drain();
    assert_eq!(collect(running).0.len(), 20);
    assert_eq!(
        handle.submit(request(&[1], 1)).unwrap_err().kind(),
        ErrorKind::Unavailable
    );
}

#[test]
fn dropping_every_handle_lets_running_requests_finish() {
    let handle = counter(8).0.spawn().unwrap();
    let streams: Vec<_> = (0..10)
        .map(|id| handle.submit(request(&[id], 20)).unwrap())
        .collect();
    drop(handle);
    for stream in streams {
        assert_eq!(collect(stream).0.len(), 20);
    }
}

/// Polls on this thread, asleep in between.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn a_stream_is_an_iterator_and_a_futures_stream() {
    use futures_util::StreamExt;
    let handle = counter(8).0.spawn().unwrap();
    let stream = handle.submit(request(&[1], 3)).unwrap();
    assert_eq!(stream.prompt_token_ids(), [1]);
    assert_eq!(stream.wait().unwrap().token_ids(), [2, 3, 4]);
    let stream = handle.submit(request(&[1], 3)).unwrap();
    let events: Vec<Event> = block_on(stream.collect());
    assert_eq!(events.len(), 4);
    assert_eq!(reason(&events[3]), Some(FinishReason::Length));
}

#[test]
fn scoring_waits_for_blocks_and_counts_right() {
    let handle = counter(4).0.spawn().unwrap();
    let running = handle.submit(request(&[1; 40], 20)).unwrap();
    let ids: Vec<u32> = (0..40).collect();
    // Each next token has logit 1 among 63 zeros.
    let expected = ((1f32).exp() + 63.0).ln() - 1.0;
    let nll = handle.score(&ids).unwrap();
    assert_eq!(nll.len(), 39);
    assert!(nll.iter().all(|value| (value - expected).abs() < 1e-6));
    assert_eq!(collect(running).0.len(), 20);

    let logprobs = handle.prompt_logprobs(&[7, 8, 3], 2).unwrap();
    let of = |token: &PromptLogprob| (token.id, token.top_logprobs[0].id, token.top_logprobs.len());
    assert_eq!(
        logprobs.iter().map(of).collect::<Vec<_>>(),
        [(8, 8, 2), (3, 9, 2)]
    );
    assert!((logprobs[0].logprob + expected).abs() < 1e-6);
    assert_eq!(logprobs[0].top_logprobs[0].logprob, logprobs[0].logprob);
    assert!((logprobs[1].logprob + expected + 1.0).abs() < 1e-6);
    let error = handle.prompt_logprobs(&[7, 8], 101).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_idle(&handle);
}

#[test]
fn a_model_without_a_tokenizer_is_refused_before_its_weights_are_drawn() {
    // 32 billion random weights would take minutes, and more memory than most machines have.
    let refused = Engine::builder("random:glm-4-32b-0414")
        .require_tokenizer(true)
        .build();
    assert!(matches!(refused, Err(BuildError::NoTokenizer { .. })));
}

#[test]
fn a_request_ends_when_its_time_is_over_waiting_or_running() {
    let (mut engine, _) = counter(8);
    let within = |timeout| {
        let mut request = request(&[1], 40);
        request.options.timeout = Some(timeout);
        request
    };
    let error = engine.submit(within(Duration::ZERO)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    // It was submitted a second ago, by a clock that the test sets.
    let ago = |engine: &mut Engine, seconds| {
        engine.origin -= Duration::from_secs(seconds);
    };
    let late = RequestId(engine.next_id);
    let submitted = engine.origin;
    ago(&mut engine, 5);
    let refused = engine.submit_as(late, within(Duration::from_nanos(1)), submitted);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Timeout);

    let running = engine.submit(within(Duration::from_secs(60))).unwrap();
    assert_eq!(engine.step().len(), 1);
    ago(&mut engine, 120);
    let waiting = engine.submit(within(Duration::from_secs(60))).unwrap();
    let other = engine.submit(request(&[1], 2)).unwrap();
    let events = run(&mut engine);
    let failed: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            SeqEvent::Failed(id, error) => Some((*id, error.to_string())),
            _ => None,
        })
        .collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].0, running);
    assert!(failed[0].1.contains("60s (1 tokens"), "{}", failed[0].1);
    for id in [waiting, other] {
        let finished =
            |event: &&SeqEvent| matches!(event, SeqEvent::Finished(ended, _) if *ended == id);
        assert_eq!(events.iter().filter(finished).count(), 1);
    }
    assert_eq!((engine.stats().timed_out, engine.stats().failed), (1, 1));
}

#[test]
fn a_full_queue_is_an_answer_and_a_higher_priority_goes_first() {
    let (mut engine, _) = counter(8);
    let with_priority = |priority, token| {
        let mut request = request(&[token], 3);
        request.options.priority = priority;
        request
    };
    let error = engine.submit(with_priority(101, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    // Four can run, and sixteen wait.
    let ids: Vec<_> = (0..20)
        .map(|i| engine.submit(with_priority(i % 5, 1)).unwrap())
        .collect();
    let error = engine.submit(with_priority(100, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert!(error.to_string().contains("20 requests"), "{error}");
    assert_eq!(engine.stats().waiting_tokens, 20);
    let first: Vec<_> = engine
        .step()
        .iter()
        .filter_map(|event| match event {
            SeqEvent::Token(token) => Some(token.request),
            _ => None,
        })
        .collect();
    assert_eq!(first, [4, 9, 14, 19].map(|i| ids[i]));
    assert!(engine.submit(request(&[1; 60], 1)).is_err(), "tokens");
    run(&mut engine);
}

/// What a caller does to an engine.
#[derive(Debug, Clone)]
enum Action {
    /// A prompt of these tokens, tokens to generate, priority; and whether its time is up soon.
    Submit(Vec<u32>, usize, i32, bool),
    Cancel(u64),
    HandBack,
    Steps(usize),
    /// An hour passes.
    Wait,
}

fn action() -> impl Strategy<Value = Action> {
    let token = prop_oneof![20 => 0u32..40, 1 => Just(POISON), 1 => Just(NAN)];
    let prompt = (token, 1usize..40).prop_map(|(token, len)| vec![token; len]);
    prop_oneof![
        6 => (prompt, 1usize..30, -1i32..=1, any::<bool>())
            .prop_map(|(prompt, len, priority, limited)| Action::Submit(prompt, len, priority, limited)),
        1 => (0u64..20).prop_map(Action::Cancel),
        1 => Just(Action::HandBack),
        6 => (1usize..8).prop_map(Action::Steps),
        1 => Just(Action::Wait),
    ]
}

proptest! {
    #[test]
    fn every_accepted_request_ends_exactly_once(
        actions in prop::collection::vec(action(), 1..40),
        num_blocks in 4usize..12,
    ) {
        let (mut engine, _) = counter(num_blocks);
        let mut accepted = Vec::new();
        let mut ended = Vec::new();
        let mut events = Vec::new();
        for action in actions {
            match action {
                Action::Submit(prompt, max_tokens, priority, limited) => {
                    let mut request = request(&prompt, max_tokens);
                    request.options.priority = priority;
                    request.options.timeout = limited.then_some(Duration::from_secs(1800));
                    accepted.extend(engine.submit(request).ok());
                }
                Action::Cancel(id) => events.extend(engine.cancel(RequestId(id))),
                Action::HandBack => ended.extend(engine.hand_back().into_iter().map(|(id, _)| id)),
                Action::Steps(count) => (0..count).for_each(|_| events.extend(engine.step())),
                Action::Wait => engine.origin -= Duration::from_secs(3600),
            }
            let stats = engine.stats();
            let now = (stats.waiting + stats.running) as u64;
            prop_assert_eq!(stats.accepted, now + stats.finished + stats.failed + stats.handed_back);
        }
        events.extend(run(&mut engine));
        for event in events {
            match event {
                SeqEvent::Token(token) => prop_assert!(!ended.contains(&token.request)),
                SeqEvent::Finished(id, _) | SeqEvent::Failed(id, _) => ended.push(id),
            }
        }
        ended.sort_unstable();
        prop_assert_eq!(ended, accepted);
        prop_assert!(engine.holds_nothing());
    }
}
