//! A program's view of the fake model: what it says, with everything around it real.
#![cfg(feature = "testing")]

use std::time::Duration;

use glm_runtime::batch::{Job, Window, WindowOptions};
use glm_runtime::testing::FakeModel;
use glm_runtime::{
    ChatOptions, Engine, EngineBuilder, EngineHandle, ErrorKind, FinishReason, GenerateOptions,
    Message, Request,
};
use proptest::prelude::*;

fn builder(fake: FakeModel) -> EngineBuilder {
    Engine::builder("demo").threads(1).fake(fake)
}

fn ask(engine: &EngineHandle, text: &str, generate: GenerateOptions) -> glm_runtime::Completion {
    let options = ChatOptions {
        generate,
        ..ChatOptions::default()
    };
    let stream = engine.chat([Message::user(text)], options);
    stream.unwrap().wait().unwrap()
}

/// The sum of all ids so far: every token matters, wherever it lies.
fn sum() -> FakeModel {
    FakeModel::next_token(|prompt, answer| {
        let sum = prompt
            .iter()
            .chain(answer)
            .fold(0u32, |sum, &id| sum.wrapping_mul(31).wrapping_add(id));
        sum % 300
    })
}

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

#[test]
fn a_reply_is_said_to_its_end() {
    let reply = "It is 21 °C in 北京.";
    let engine = builder(FakeModel::replying(move |prompt| {
        assert!(prompt.contains("weather?") && prompt.contains("<|user|>"));
        reply.to_owned()
    }));
    let engine = engine.build().unwrap();
    let mut hot = GenerateOptions::default();
    hot.sampling.temperature = 1.5;
    for generate in [GenerateOptions::default(), hot] {
        let answer = ask(&engine, "weather?", generate);
        assert_eq!(answer.text, reply);
        assert_eq!(answer.finished.reason, FinishReason::Stop);
    }
    let short = ask(&engine, "weather?", options(2));
    assert_eq!(short.finished.reason, FinishReason::Length);
    assert!(reply.starts_with(&short.text));
    assert!(engine.model_info().note.is_some());
}

#[test]
fn a_step_can_fail_and_the_engine_goes_on() {
    let engine = builder(sum().failing(|tokens| tokens.starts_with(&[9, 9, 9])));
    let engine = engine.build().unwrap();
    let submit = |ids: &[u32]| engine.submit(Request::new(ids).with_options(options(4)));
    let failed = submit(&[9, 9, 9, 1]).unwrap().wait().unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Internal);
    assert_eq!(submit(&[9, 9, 8]).unwrap().wait().unwrap().tokens.len(), 4);
}

#[test]
fn slow_steps_run_into_a_timeout() {
    let engine = builder(sum().step_time(Duration::from_millis(2)));
    let engine = engine.build().unwrap();
    let late = GenerateOptions {
        timeout: Some(Duration::from_millis(5)),
        ..options(1000)
    };
    let late = engine.submit(Request::new([1, 2]).with_options(late));
    let error = late.unwrap().wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Every answer is what the script says, however prompts are cut, batched, preempted and cached.
    #[test]
    fn the_kv_cache_holds_what_was_put_there(
        prompts in prop::collection::vec((0usize..3, 1usize..50, 1usize..20), 1..12),
        budget in 4usize..40,
        blocks in 6usize..20,
    ) {
        let engine = builder(sum())
            .max_model_len(80)
            .max_num_seqs(4)
            .max_num_batched_tokens(budget)
            .kv_cache_tokens(blocks * 16)
            .build()
            .unwrap();
        let asked: Vec<_> = prompts
            .into_iter()
            .map(|(start, len, answer)| {
                let prompt: Vec<u32> = (0..len as u32).map(|i| i * 3 + start as u32).collect();
                let request = Request::new(prompt.clone()).with_options(options(answer));
                (prompt, answer, engine.submit(request).unwrap())
            })
            .collect();
        for (mut all, answer, stream) in asked {
            let prompt_len = all.len();
            for _ in 0..answer {
                let next = all.iter().fold(0u32, |sum, &id| sum.wrapping_mul(31).wrapping_add(id));
                all.push(next % 300);
            }
            prop_assert_eq!(stream.wait().unwrap().token_ids(), &all[prompt_len..]);
        }
        engine.drain();
        let stats = engine.stats();
        prop_assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total);
    }
}

#[test]
fn a_stop_ends_the_wait_for_a_batch() {
    // Until the answer ends of itself there is time for the slowest machine.
    let slow = sum().step_time(Duration::from_millis(20));
    let engine = builder(slow).build().unwrap();
    let mut window = Window::new(&engine, WindowOptions::default());
    let request = Request::new(vec![1]).with_options(options(usize::MAX));
    window.push(Job::new((), request));
    let stopper = window.stopper();
    std::thread::spawn(move || stopper.stop());
    assert!(window.next().is_none() && window.is_stopped());
}
