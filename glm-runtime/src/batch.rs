//! More requests than memory holds through one engine: as many at a time as keep it full, answered in the order in which
//! they end.
//!
//! [`answers`] is for a program that has its requests as an iterator:
//!
//! ```
//! use glm_runtime::batch::{self, Job};
//! use glm_runtime::{Engine, GenerateOptions, Request};
//!
//! let engine = Engine::builder("demo").build()?;
//! let options = GenerateOptions { max_tokens: Some(4), ..GenerateOptions::default() };
//! let jobs = (0..100).map(|id| Job::new(id, Request::new(vec![id]).with_options(options.clone())));
//! for answered in batch::answers(&engine, jobs) {
//!     println!("{}: {:?}", answered.key, answered.answers?[0].token_ids());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Where nobody reads along, an engine built with [`max_step_time(Duration::MAX)`](crate::EngineBuilder::max_step_time) takes no heed of how
//! steadily answers come, and fills its steps with prompts.
//!
//! [`Window`] is the same turned inside out, for a program that has something else to do between two requests.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_core::Stream;

use crate::engine::{Completion, EngineHandle, PartialCompletion, RequestStream};
use crate::error::{EngineError, ErrorKind};
use crate::request::Request;
use crate::sync::channel::{self, Receiver, Sender};

/// What belongs together: one or several prompts, and one or several answers to each.
#[derive(Debug, Clone)]
pub struct Job<K> {
    /// The caller's name for it.
    pub key: K,
    /// The prompts.
    pub requests: Vec<Request>,
    /// Answers to each of them, as [`EngineHandle::submit_n`] makes them.
    pub n: usize,
}

impl<K> Job<K> {
    /// One answer to one prompt.
    pub fn new(key: K, request: Request) -> Self {
        Self {
            key,
            requests: vec![request],
            n: 1,
        }
    }

    fn num_answers(&self) -> usize {
        self.requests.len() * self.n
    }

    fn num_tokens(&self) -> usize {
        self.requests.iter().map(|r| r.prompt.len()).sum()
    }

    fn ended(self, answers: Result<Vec<Completion>, EngineError>) -> Answered<K> {
        Answered {
            key: self.key,
            answers,
        }
    }

    /// Higher priority first; then prompts that begin alike side by side, so that one finds in the prefix cache what the
    /// other left there.
    fn order(&self) -> Option<(i32, &[u32])> {
        let first = self.requests.first()?;
        Some((-first.options.priority, &first.prompt))
    }
}

/// A job that has ended.
#[derive(Debug, Clone)]
pub struct Answered<K> {
    /// The job's key.
    pub key: K,
    /// The answers: those to the first prompt, then those to the second, and so on. If one fails, so does the job.
    pub answers: Result<Vec<Completion>, EngineError>,
}

/// How much of a batch is held in memory at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowOptions {
    /// Answers that the engine is asked for at a time; a job that asks for more on its own gets them. Default: twice what it
    /// computes in one step, so that none of its places is ever empty.
    pub in_flight: Option<usize>,
    /// Jobs that are read ahead, to bring those together that begin alike. Default: 1024.
    pub look_ahead: usize,
    /// Prompt tokens beyond which no further job is read ahead. Default: 2²⁰, 4 MiB of token ids.
    pub look_ahead_tokens: usize,
}

impl Default for WindowOptions {
    fn default() -> Self {
        Self {
            in_flight: None,
            look_ahead: 1024,
            look_ahead_tokens: 1 << 20,
        }
    }
}

/// The part of a batch that is in memory: jobs read ahead, and those that the engine works on.
///
/// [`push`](Self::push) while there [`is room`](Self::has_room), then [`next`](Self::next), and so on. Dropping it cancels
/// what runs.
#[derive(Debug)]
pub struct Window<K> {
    engine: EngineHandle,
    in_flight: usize,
    options: WindowOptions,
    /// Being read ahead, in any order.
    reading: Vec<Job<K>>,
    reading_tokens: usize,
    /// Read ahead and put in order; the engine is given these before any of `reading`.
    ordered: VecDeque<Job<K>>,
    running: HashMap<u64, Running<K>>,
    /// Answers that `running` waits for.
    running_answers: usize,
    next_job: u64,
    wakeups: (Sender<Wakeup>, Receiver<Wakeup>),
    stopped: bool,
}

/// Ends the wait in [`Window::next`] from another thread.
#[derive(Debug, Clone)]
pub struct Stopper(Sender<Wakeup>);

impl Stopper {
    /// From now on [`Window::next`] returns `None`.
    pub fn stop(&self) {
        // A window that is gone has stopped.
        let _ = self.0.try_send(Wakeup::Stop);
    }
}

/// Why a window looks up.
#[derive(Debug, Clone, Copy)]
enum Wakeup {
    /// A stream of this job has an event.
    Event {
        job: u64,
        stream: usize,
    },
    Stop,
}

/// Tells the window which stream has an event.
struct StreamWaker {
    wakeup: Wakeup,
    window: Sender<Wakeup>,
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        let _ = self.window.try_send(self.wakeup);
    }
}

/// A job that the engine works on.
#[derive(Debug)]
struct Running<K> {
    job: Job<K>,
    answers: Vec<Answer>,
    unfinished: usize,
}

#[derive(Debug)]
enum Answer {
    Streaming {
        stream: RequestStream,
        partial: PartialCompletion,
        waker: Waker,
    },
    Whole(Completion),
}

impl<K> Window<K> {
    /// An empty window onto `engine`.
    pub fn new(engine: &EngineHandle, options: WindowOptions) -> Self {
        let in_flight = options.in_flight.unwrap_or(2 * engine.max_num_seqs());
        Self {
            engine: engine.clone(),
            in_flight,
            options,
            reading: Vec::new(),
            reading_tokens: 0,
            ordered: VecDeque::new(),
            running: HashMap::new(),
            running_answers: 0,
            next_job: 0,
            wakeups: channel::unbounded(),
            stopped: false,
        }
    }

    /// To be called from another thread, for Ctrl-C and the like.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.wakeups.0.clone())
    }

    /// Whether [`Stopper::stop`] was called, and heard.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Whether another job should be pushed before the next answer is waited for.
    pub fn has_room(&self) -> bool {
        self.ordered.is_empty()
            && self.reading.len() < self.options.look_ahead.max(1)
            && self.reading_tokens < self.options.look_ahead_tokens.max(1)
    }

    /// Adds a job, also where there is no room for it.
    pub fn push(&mut self, job: Job<K>) {
        self.reading_tokens += job.num_tokens();
        self.reading.push(job);
    }

    /// Waits for the next job to end; `None` if there is none left, or after [`Stopper::stop`].
    ///
    /// It is no [`Iterator`], because jobs may be pushed after a `None`; [`answers`] returns one.
    #[expect(clippy::should_implement_trait, reason = "said above")]
    pub fn next(&mut self) -> Option<Answered<K>> {
        while !self.stopped {
            if let Some(refused) = self.submit() {
                return Some(refused);
            }
            if self.running.is_empty() {
                // What streams say that have ended is nothing new.
                while let Ok(wakeup) = self.wakeups.1.try_recv() {
                    self.stopped |= matches!(wakeup, Wakeup::Stop);
                }
                return None;
            }
            // The window holds a sender itself: the channel does not close.
            match self.wakeups.1.recv_blocking().ok()? {
                Wakeup::Event { job, stream } => {
                    if let Some(answered) = self.look(job, stream) {
                        return Some(answered);
                    }
                }
                Wakeup::Stop => self.stopped = true,
            }
        }
        None
    }

    /// Gives the engine as much as it should have; ends early with a job that it refuses for good.
    fn submit(&mut self) -> Option<Answered<K>> {
        if self.ordered.is_empty() {
            self.reading.sort_by(|a, b| a.order().cmp(&b.order()));
            self.ordered = std::mem::take(&mut self.reading).into();
            self.reading_tokens = 0;
        }
        while let Some(job) = self.ordered.pop_front() {
            if self.running_answers > 0 && self.running_answers + job.num_answers() > self.in_flight
            {
                self.ordered.push_front(job);
                return None;
            }
            let (requests, n) = (job.requests.iter(), job.n);
            let streams: Result<Vec<_>, _> = requests
                .map(|request| self.engine.submit_n(request.clone(), n))
                .collect();
            let answered = match streams {
                Ok(streams) => self.start(job, streams.into_iter().flatten()),
                Err(error) if self.waits_for_room(&error) => {
                    self.ordered.push_front(job);
                    return None;
                }
                Err(error) => Some(job.ended(Err(error))),
            };
            if answered.is_some() {
                return answered;
            }
        }
        None
    }

    /// Whether it is for a full queue that a job was refused, and there will be room when something of ours has ended.
    fn waits_for_room(&self, error: &EngineError) -> bool {
        error.kind() == ErrorKind::Overloaded && self.running_answers > 0
    }

    /// Waits for `streams` from now on; a job without any has its answer.
    fn start(
        &mut self,
        job: Job<K>,
        streams: impl Iterator<Item = RequestStream>,
    ) -> Option<Answered<K>> {
        let number = self.next_job;
        self.next_job += 1;
        let answer = |(stream, events)| {
            let wakeup = Wakeup::Event {
                job: number,
                stream,
            };
            // The first look tells the stream whom to wake.
            let _ = self.wakeups.0.try_send(wakeup);
            let window = self.wakeups.0.clone();
            Answer::Streaming {
                stream: events,
                partial: PartialCompletion::default(),
                waker: Arc::new(StreamWaker { wakeup, window }).into(),
            }
        };
        let answers: Vec<_> = streams.enumerate().map(answer).collect();
        if answers.is_empty() {
            return Some(job.ended(Ok(Vec::new())));
        }
        self.running_answers += answers.len();
        let unfinished = answers.len();
        let running = Running {
            job,
            answers,
            unfinished,
        };
        self.running.insert(number, running);
        None
    }

    /// Takes what a stream has; the job, if that was the end of it.
    fn look(&mut self, job: u64, stream: usize) -> Option<Answered<K>> {
        // A stream that has ended may have woken us once more.
        let running = self.running.get_mut(&job)?;
        let error = match running.answers[stream].look()? {
            Ok(completion) => {
                running.answers[stream] = Answer::Whole(completion);
                running.unfinished -= 1;
                if running.unfinished > 0 {
                    return None;
                }
                None
            }
            Err(error) => Some(error),
        };
        let Running { job, answers, .. } = self.running.remove(&job)?;
        self.running_answers -= answers.len();
        match error {
            Some(error) if self.waits_for_room(&error) => {
                self.ordered.push_front(job);
                None
            }
            Some(error) => Some(job.ended(Err(error))),
            None => {
                let whole = answers.into_iter().filter_map(Answer::whole);
                Some(job.ended(Ok(whole.collect())))
            }
        }
    }
}

impl Answer {
    /// Takes the events that are there; the whole answer, or its error, with the final one.
    fn look(&mut self) -> Option<Result<Completion, EngineError>> {
        let Self::Streaming {
            stream,
            partial,
            waker,
        } = self
        else {
            return None;
        };
        let mut context = Context::from_waker(waker);
        loop {
            match Pin::new(&mut *stream).poll_next(&mut context) {
                Poll::Pending => return None,
                Poll::Ready(None) => return Some(Err(EngineError::Stopped)),
                Poll::Ready(Some(event)) => {
                    let end = partial.push(event);
                    if end.is_some() {
                        return end;
                    }
                }
            }
        }
    }

    fn whole(self) -> Option<Completion> {
        match self {
            Self::Whole(completion) => Some(completion),
            Self::Streaming { .. } => None,
        }
    }
}

/// Runs all `jobs`, taking them from the iterator as there is room, and gives each as soon as it has ended.
pub fn answers<K>(
    engine: &EngineHandle,
    jobs: impl IntoIterator<Item = Job<K>>,
) -> impl Iterator<Item = Answered<K>> {
    let mut window = Window::new(engine, WindowOptions::default());
    let mut jobs = jobs.into_iter().fuse();
    std::iter::from_fn(move || {
        while window.has_room()
            && let Some(job) = jobs.next()
        {
            window.push(job);
        }
        window.next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, GenerateOptions};

    fn engine() -> EngineHandle {
        Engine::builder("demo").build().unwrap()
    }

    fn request(prompt: &[u32], max_tokens: usize, priority: i32) -> Request {
        Request::new(prompt).with_options(GenerateOptions {
            max_tokens: Some(max_tokens),
            ignore_eos: true,
            priority,
            ..GenerateOptions::default()
        })
    }

    fn keys<K>(mut window: Window<K>) -> Vec<K> {
        std::iter::from_fn(|| window.next())
            .map(|answered| answered.key)
            .collect()
    }

    #[test]
    fn every_job_is_answered_once_and_as_if_alone() {
        let engine = engine();
        let prompt = |i: u32| vec![i % 7, i % 3, 5];
        let jobs = (0..60).map(|i| Job::new(i, request(&prompt(i), 1 + i as usize % 4, 0)));
        let mut answered: Vec<_> = answers(&engine, jobs).collect();
        answered.sort_by_key(|answered| answered.key);
        let keys: Vec<_> = answered.iter().map(|answered| answered.key).collect();
        assert_eq!(keys, (0..60).collect::<Vec<_>>());
        for Answered { key, answers } in answered {
            let alone = engine.submit(request(&prompt(key), 1 + key as usize % 4, 0));
            let alone = alone.unwrap().wait().unwrap().token_ids();
            let answers = answers.unwrap();
            assert_eq!((answers.len(), answers[0].token_ids()), (1, alone));
        }
    }

    #[test]
    fn jobs_that_begin_alike_come_together_but_priority_comes_first() {
        let options = WindowOptions {
            in_flight: Some(1),
            ..WindowOptions::default()
        };
        let mut window = Window::new(&engine(), options);
        let prompts: [(&[u32], i32); 5] = [
            (&[2, 2], 0),
            (&[1, 1], 0),
            (&[2, 1], 0),
            (&[1], 0),
            (&[9], 1),
        ];
        for (key, (prompt, priority)) in prompts.into_iter().enumerate() {
            assert!(window.has_room());
            window.push(Job::new(key, request(prompt, 1, priority)));
        }
        assert_eq!(keys(window), [4, 3, 1, 2, 0]);
    }

    #[test]
    fn no_more_is_read_ahead_than_was_allowed() {
        let options = WindowOptions {
            in_flight: Some(2),
            look_ahead: 4,
            look_ahead_tokens: 10,
        };
        let mut window = Window::new(&engine(), options);
        let mut pushed = 0;
        while window.has_room() {
            window.push(Job::new(pushed, request(&[1, 2, 3], 1, 0)));
            pushed += 1;
        }
        assert_eq!(pushed, 4);
        // Two of the four are in the engine, so the other two come first.
        assert!(window.next().is_some() && !window.has_room());
        assert_eq!(keys(window).len(), 3);
    }

    #[test]
    fn several_prompts_and_answers_are_one_job() {
        let engine = engine();
        let requests = vec![request(&[1], 2, 0), request(&[2], 3, 0)];
        let job = Job {
            key: "both",
            requests,
            n: 2,
        };
        let empty = Job {
            key: "none",
            requests: Vec::new(),
            n: 1,
        };
        let mut answered: Vec<_> = answers(&engine, [job, empty]).collect();
        answered.sort_by_key(|answered| answered.key);
        let lens = |answered: &Answered<_>| -> Vec<_> {
            let answers = answered.answers.as_ref().unwrap();
            answers.iter().map(|answer| answer.tokens.len()).collect()
        };
        assert_eq!(lens(&answered[0]), [2, 2, 3, 3]);
        assert!(lens(&answered[1]).is_empty());
    }

    #[test]
    fn a_job_that_is_refused_stops_no_other() {
        let engine = engine();
        let jobs = [
            Job::new("good", request(&[1], 1, 0)),
            Job::new("bad", request(&[], 1, 0)),
            Job {
                key: "half bad",
                requests: vec![request(&[1], 1, 0), request(&[u32::MAX], 1, 0)],
                n: 1,
            },
            Job::new("good too", request(&[2], 1, 0)),
        ];
        let (good, bad): (Vec<_>, Vec<_>) =
            answers(&engine, jobs).partition(|answered| answered.answers.is_ok());
        assert_eq!((good.len(), bad.len()), (2, 2));
    }

    #[test]
    fn a_full_queue_is_waited_for() {
        let engine = Engine::builder("demo")
            .max_num_seqs(1)
            .max_waiting(1)
            .build()
            .unwrap();
        let options = WindowOptions {
            in_flight: Some(8),
            ..WindowOptions::default()
        };
        let mut window = Window::new(&engine, options);
        for key in 0..8 {
            window.push(Job::new(key, request(&[key], 2, 0)));
        }
        while let Some(answered) = window.next() {
            assert!(answered.answers.is_ok(), "{answered:?}");
        }
        engine.drain();
        assert_eq!(engine.stats().finished, 8);
    }
}
