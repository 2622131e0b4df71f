//! Clients and the engine thread in interleavings that shuttle chooses (Burckhardt et al. 2010, "A Randomized Scheduler
//! with Probabilistic Guarantees of Finding Bugs"). It also finds deadlocks.

use std::sync::Arc;

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};

use super::tests::{PANIC, counter, request};
use super::{EngineHandle, RequestStream};
use crate::error::EngineError;
use crate::request::{Event, FinishReason};

const INTERLEAVINGS: usize = 2_000;

/// What the interleavings follow from: the same ones each time, unless the environment asks for others, as of property tests.
fn seed() -> u64 {
    let asked = std::env::var("PROPTEST_RNG_SEED").ok();
    asked.and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// Runs `test` many times, each in another interleaving.
fn explore(test: impl Fn() + Send + Sync + 'static) {
    let test = Arc::new(test);
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = Config::new();
        // A step of the engine needs more than the default.
        config.stack_size = 1 << 20;
        let test = test.clone();
        Runner::new(scheduler, config).run(move || test());
    };
    run(Box::new(RandomScheduler::new_from_seed(
        seed(),
        INTERLEAVINGS,
    )));
    run(Box::new(PctScheduler::new_from_seed(
        seed(),
        3,
        INTERLEAVINGS,
    )));
}

/// Room for two of the requests below, so that others wait and are preempted.
fn engine() -> EngineHandle {
    counter(4).0.spawn().unwrap()
}

/// Everything that comes until nothing does.
fn events(mut stream: RequestStream) -> Vec<Event> {
    std::iter::from_fn(|| stream.recv()).collect()
}

/// The one final event, which comes last.
fn end(events: Vec<Event>) -> Result<FinishReason, EngineError> {
    let is_final = |event: &Event| !matches!(event, Event::Token(_));
    assert_eq!(events.iter().filter(|event| is_final(event)).count(), 1);
    match events.into_iter().last() {
        Some(Event::Finished(finished)) => Ok(finished.reason),
        Some(Event::Failed(error)) => Err(error),
        _ => panic!("a stream must end with its final event"),
    }
}

fn holds_nothing(engine: &EngineHandle) {
    let stats = engine.stats();
    assert_eq!((stats.waiting, stats.running), (0, 0));
    assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total);
    let ended = stats.finished + stats.failed + stats.handed_back;
    assert_eq!(stats.accepted, ended);
}

#[test]
fn a_stream_ends_once_whether_it_is_read_cancelled_or_dropped() {
    explore(|| {
        let engine = engine();
        let reader = thread::spawn({
            let engine = engine.clone();
            move || {
                let stream = engine.submit(request(&[1; 20], 3)).unwrap();
                assert_eq!(end(events(stream)).unwrap(), FinishReason::Length);
            }
        });
        let leaver = thread::spawn({
            let engine = engine.clone();
            move || {
                let mut stream = engine.submit(request(&[2; 20], 30)).unwrap();
                assert!(matches!(stream.recv(), Some(Event::Token(_))));
            }
        });
        let stream = engine.submit(request(&[3; 20], 30)).unwrap();
        let canceller = thread::spawn({
            let (engine, id) = (engine.clone(), stream.id());
            move || engine.cancel(id)
        });
        let reason = end(events(stream)).unwrap();
        assert!(matches!(
            reason,
            FinishReason::Cancelled | FinishReason::Length
        ));
        for client in [reader, leaver, canceller] {
            client.join().unwrap();
        }
        engine.drain();
        holds_nothing(&engine);
    });
}

#[test]
fn nothing_runs_after_a_drain() {
    explore(|| {
        let engine = engine();
        let client = thread::spawn({
            let engine = engine.clone();
            move || {
                (0..3)
                    .map_while(|_| engine.submit(request(&[1; 5], 2)).ok())
                    .collect::<Vec<_>>()
            }
        });
        engine.drain();
        holds_nothing(&engine);
        assert!(matches!(
            engine.submit(request(&[1], 1)),
            Err(EngineError::Draining)
        ));
        for stream in client.join().unwrap() {
            assert!(matches!(
                end(events(stream)),
                Ok(FinishReason::Length) | Err(EngineError::Draining)
            ));
        }
    });
}

#[test]
fn what_is_handed_back_is_done_nowhere_else() {
    explore(|| {
        let engine = engine();
        let client = thread::spawn({
            let engine = engine.clone();
            move || {
                (0..4)
                    .map_while(|_| engine.submit(request(&[1; 20], 2)).ok())
                    .collect::<Vec<_>>()
            }
        });
        let mut handed_back: Vec<_> = engine.hand_back().into_iter().map(|(id, _)| id).collect();
        engine.drain();
        let streams = client.join().unwrap();
        for stream in streams {
            let id = stream.id();
            match end(events(stream)) {
                Ok(reason) => {
                    assert_eq!(reason, FinishReason::Length);
                    assert!(!handed_back.contains(&id));
                }
                // Handed back, or never taken.
                Err(EngineError::Draining) => handed_back.retain(|&back| back != id),
                Err(other) => panic!("{other}"),
            }
        }
        assert!(
            handed_back.is_empty(),
            "handed back, and its stream not told"
        );
        holds_nothing(&engine);
    });
}

#[test]
fn an_engine_that_dies_tells_everybody() {
    explore(|| {
        let engine = engine();
        let client = thread::spawn({
            let engine = engine.clone();
            move || {
                engine
                    .submit(request(&[1; 5], 4))
                    .map(|stream| end(events(stream)))
            }
        });
        let victim = engine.submit(request(&[PANIC], 4)).unwrap();
        assert!(end(events(victim)).is_err());
        match client.join().unwrap() {
            // It was done before, or came too late.
            Ok(Ok(FinishReason::Length)) | Err(EngineError::Stopped) => {}
            Ok(Err(EngineError::Panicked(_) | EngineError::Stopped)) => {}
            other => panic!("{other:?}"),
        }
        engine.drain();
        assert!(matches!(
            engine.score(&[1, 2]),
            Err(EngineError::Stopped | EngineError::Draining)
        ));
    });
}

#[test]
fn scores_are_answered_among_requests() {
    explore(|| {
        let engine = engine();
        let client = thread::spawn({
            let engine = engine.clone();
            move || end(events(engine.submit(request(&[1; 20], 6)).unwrap())).unwrap()
        });
        // Needs more blocks than are free while the other runs.
        assert_eq!(engine.score(&[1; 40]).unwrap().len(), 39);
        assert_eq!(client.join().unwrap(), FinishReason::Length);
        engine.drain();
        holds_nothing(&engine);
    });
}

#[test]
fn abandoned_requests_end_without_a_handle() {
    explore(|| {
        let engine = engine();
        let mut kept = engine.submit(request(&[1; 20], 4)).unwrap();
        let left = engine.submit(request(&[2; 20], 40)).unwrap();
        let dropper = thread::spawn(move || drop(left));
        drop(engine);
        let mut last = None;
        while let Some(event) = kept.recv() {
            last = Some(event);
        }
        assert!(matches!(last, Some(Event::Finished(_))));
        dropper.join().unwrap();
    });
}
