//! The engine thread: takes commands, steps, and turns token ids into each client's events.
//!
//! Every submitted request ends with exactly one final event: from the engine, or from [`Worker::abort`] if the thread
//! ends, panics included.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::handle::{Command, Job, Shared};
use super::{Engine, EngineHandle, SeqEvent, SeqToken};
use crate::error::{BuildError, EngineError};
use crate::request::{Event, FinishReason, Finished, Part, Request, RequestId, Token};
use crate::sync::channel::{self, Receiver, Sender};
use crate::sync::{AtomicBool, AtomicU64, Mutex, thread};
use crate::text::TextStream;

/// The engine thread's state.
struct Worker {
    engine: Engine,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    clients: HashMap<RequestId, Client>,
    /// Texts to score, one after the other.
    jobs: VecDeque<Box<dyn Job>>,
    /// Callers that wait for the engine to be idle.
    drains: Vec<Sender<()>>,
    /// Set by the first of them, for good: what was queued before it is served, what comes after it refused.
    draining: bool,
}

/// The sending end of one request.
struct Client {
    events: Sender<Event>,
    /// `None` for models without a tokenizer.
    text: Option<TextStream>,
    /// Tokens until a stop string was found: the end is a stop, whatever else the same step brought.
    stopped: Option<usize>,
}

impl Engine {
    /// Moves the engine to a thread of its own.
    ///
    /// # Errors
    /// [`BuildError::Thread`] if the operating system refuses it.
    pub fn spawn(self) -> Result<EngineHandle, BuildError> {
        let (sender, commands) = channel::unbounded();
        let shared = Arc::new(Shared {
            stats: Mutex::new(self.stats()),
            draining: AtomicBool::new(false),
            next_id: AtomicU64::new(self.next_id),
            profiler: self.profiler.clone(),
        });
        let handle = EngineHandle::new(sender, shared.clone(), self.front.clone());
        let worker = Worker::new(self, commands, shared);
        thread::Builder::new()
            .name("glm-engine".to_owned())
            .spawn(move || worker.run_to_end())
            .map_err(BuildError::Thread)?;
        Ok(handle)
    }
}

impl Worker {
    fn new(engine: Engine, commands: Receiver<Command>, shared: Arc<Shared>) -> Self {
        Self {
            engine,
            commands,
            shared,
            clients: HashMap::new(),
            jobs: VecDeque::new(),
            drains: Vec::new(),
            draining: false,
        }
    }

    fn run_to_end(mut self) {
        let error = match catch_unwind(AssertUnwindSafe(|| self.run())) {
            Ok(()) => EngineError::Stopped,
            Err(panic) => EngineError::Panicked(panic_message(panic.as_ref()).into()),
        };
        self.abort(&error);
    }

    /// Until all handles are gone and no work is left.
    fn run(&mut self) {
        loop {
            if !self.has_work() {
                match self.commands.recv_blocking() {
                    Ok(command) => self.accept(command),
                    Err(_) => return self.engine.keep_prefix_cache(),
                }
            }
            self.turn();
        }
    }

    /// Everything that was asked for since the last turn, then one step.
    fn turn(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.accept(command);
        }
        self.cancel_abandoned();
        self.work();
        let events = self.engine.step();
        self.deliver(events);
        if !self.engine.has_work() && !self.drains.is_empty() {
            self.engine.keep_prefix_cache();
        }
        // Before anybody hears that the engine is idle: the statistics they look at must say so too.
        *self.shared.stats() = self.engine.stats();
        if !self.engine.has_work() && self.jobs.is_empty() {
            self.answer_drains();
        }
    }

    fn has_work(&self) -> bool {
        self.engine.has_work() || !self.jobs.is_empty() || !self.drains.is_empty()
    }

    fn accept(&mut self, command: Command) {
        match command {
            Command::Submit {
                id,
                request,
                submitted,
                events,
            } => self.submit(id, *request, submitted, events),
            Command::Cancel(id) => {
                let event = self.engine.cancel(id);
                self.deliver(event);
            }
            Command::Work(job) => self.jobs.push_back(job),
            Command::HandBack { reply } => {
                self.draining = true;
                self.hand_back(&reply);
            }
            Command::Drain { reply } => {
                self.draining = true;
                self.drains.push(reply);
            }
        }
    }

    fn submit(
        &mut self,
        id: RequestId,
        request: Request,
        submitted: Instant,
        events: Sender<Event>,
    ) {
        let tokenizer = self.engine.front.tokenizer.as_ref();
        let text = tokenizer.map(|tokenizer| TextStream::new(tokenizer, &request.options));
        let accepted = if self.draining {
            Err(EngineError::Draining)
        } else {
            self.engine.submit_as(id, request, submitted)
        };
        match accepted {
            Ok(()) => drop(self.clients.insert(
                id,
                Client {
                    events,
                    text,
                    stopped: None,
                },
            )),
            Err(error) => send(&events, Event::Failed(error)),
        }
    }

    fn hand_back(&mut self, reply: &Sender<Vec<(RequestId, Request)>>) {
        let unstarted = self.engine.hand_back();
        for (id, _) in &unstarted {
            if let Some(client) = self.clients.remove(id) {
                send(&client.events, Event::Failed(EngineError::Draining));
            }
        }
        // The caller may have given up waiting.
        let _ = reply.try_send(unstarted);
    }

    /// A dropped stream cancels its request; but when all handles are gone, it cannot say so any more. Nobody will read the
    /// rest, so its blocks go back now.
    fn cancel_abandoned(&mut self) {
        if !self.commands.is_closed() {
            return;
        }
        let abandoned: Vec<RequestId> = self
            .clients
            .iter()
            .filter(|(_, client)| client.events.is_closed())
            .map(|(&id, _)| id)
            .collect();
        for id in abandoned {
            let event = self.engine.cancel(id);
            self.deliver(event);
        }
    }

    /// A part of the first job, as small beside running requests as a part of a prompt. While it waits for blocks no request
    /// is admitted: else the next ones could take every block that comes free.
    fn work(&mut self) {
        let Some(mut job) = self.jobs.pop_front() else {
            return;
        };
        let busy = self.engine.has_work();
        let step = self.engine.job_step();
        let waits = busy && !self.engine.can_score(job.needs());
        if waits || !job.advance(&mut self.engine, step) {
            self.jobs.push_front(job);
        }
        self.engine.scheduler.set_admitting(!waits);
    }

    fn answer_drains(&mut self) {
        for done in self.drains.drain(..) {
            // The caller may have given up waiting.
            let _ = done.try_send(());
        }
    }

    fn deliver(&mut self, events: impl IntoIterator<Item = SeqEvent>) {
        for event in events {
            match event {
                SeqEvent::Token(token) => self.deliver_token(token),
                SeqEvent::Finished(id, finished) => self.finish(id, finished),
                SeqEvent::Failed(id, error) => {
                    if let Some(client) = self.clients.remove(&id) {
                        send(&client.events, Event::Failed(error));
                    }
                }
            }
        }
    }

    fn deliver_token(&mut self, token: SeqToken) {
        let (id, ended) = (token.request, token.finish_reason.is_some());
        let client = self.clients.get_mut(&id);
        let Some(client) = client.filter(|client| client.stopped.is_none()) else {
            return;
        };
        client.token(token);
        // The text is complete although the tokens are not: end the sequence here.
        if client.stopped.is_some() && !ended {
            let event = self.engine.stop(id, FinishReason::Stop);
            self.deliver(event);
        }
    }

    fn finish(&mut self, id: RequestId, mut finished: Finished) {
        let Some(client) = self.clients.remove(&id) else {
            return;
        };
        if let Some(tokens) = client.stopped {
            finished.reason = FinishReason::Stop;
            finished.stop_string = client.stop_string();
            finished.usage.completion_tokens = tokens;
        }
        send(&client.events, Event::Finished(finished));
    }

    /// Ends everything that is left: running requests, waiting commands, callers of `score` and `drain`.
    fn abort(mut self, error: &EngineError) {
        self.commands.close();
        for (_, client) in self.clients.drain() {
            send(&client.events, Event::Failed(error.clone()));
        }
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Submit { events, .. } = command {
                send(&events, Event::Failed(error.clone()));
            }
        }
        let mut stats = self.shared.stats();
        (stats.waiting, stats.running) = (0, 0);
    }
}

impl Client {
    /// The stop string that ended the text.
    fn stop_string(&self) -> Option<String> {
        self.text.as_ref()?.stop_string().map(str::to_owned)
    }

    /// Sends a token with the text that became certain.
    fn token(&mut self, token: SeqToken) {
        let text = match &mut self.text {
            Some(_) if token.part == Part::Format && token.finish_reason.is_none() => String::new(),
            Some(text) => {
                let piece = match token.finish_reason {
                    // The id that ends the answer is not part of its text.
                    Some(FinishReason::Stop) => text.finish(),
                    Some(_) => text.push_last(token.id),
                    None => text.push(token.id),
                };
                self.stopped = piece.stopped.then_some(token.index + 1);
                piece.text
            }
            None => String::new(),
        };
        let SeqToken {
            index,
            id,
            logprob,
            top_logprobs,
            part,
            at,
            ..
        } = token;
        send(
            &self.events,
            Event::Token(Token {
                index,
                id,
                text,
                logprob,
                top_logprobs,
                part,
                at,
            }),
        );
    }
}

/// Sends to a client, who may have gone away.
fn send(events: &Sender<Event>, event: Event) {
    let _ = events.try_send(event);
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::engine::tests::{counter, request};

    /// A worker that takes its turns when the test says so, and the handle to it.
    fn worker(num_blocks: usize) -> (Worker, EngineHandle) {
        let (engine, _) = counter(num_blocks);
        let (sender, commands) = channel::unbounded();
        let shared = Arc::new(Shared {
            stats: Mutex::new(engine.stats()),
            draining: AtomicBool::new(false),
            next_id: AtomicU64::new(0),
            profiler: engine.profiler.clone(),
        });
        let handle = EngineHandle::new(sender, shared.clone(), engine.front.clone());
        (Worker::new(engine, commands, shared), handle)
    }

    #[test]
    fn scoring_gets_its_turn_however_many_requests_come() {
        let (mut worker, handle) = worker(4);
        // Two blocks each, so two run at a time; the first is shorter, so that they never end together and the three
        // blocks that scoring needs are never free by chance.
        let mut streams = vec![
            handle.submit(request(&[1; 20], 3)).unwrap(),
            handle.submit(request(&[1; 20], 7)).unwrap(),
        ];
        worker.turn();
        let ids: Vec<u32> = (0..40).collect();
        let scorer = std::thread::spawn({
            let handle = handle.clone();
            move || handle.score(&ids)
        });
        while worker.commands.is_empty() {
            std::thread::yield_now();
        }
        for _ in 0..50 {
            if worker.engine.stats().waiting == 0 {
                streams.push(handle.submit(request(&[1; 20], 7)).unwrap());
            }
            worker.turn();
        }
        assert_eq!(scorer.join().unwrap().unwrap().len(), 39);
        while worker.has_work() {
            worker.turn();
        }
        for stream in streams {
            assert!(stream.wait().is_ok());
        }
    }

    #[test]
    fn a_text_is_scored_in_parts_between_the_steps_of_an_answer() {
        let (mut worker, handle) = worker(8);
        let mut stream = handle.submit(request(&[1; 4], 30)).unwrap();
        worker.turn();
        let scorer = std::thread::spawn({
            let handle = handle.clone();
            move || handle.score(&[1; 40])
        });
        while worker.commands.is_empty() {
            std::thread::yield_now();
        }
        // 40 tokens, at most 16 of them beside a running request.
        for turn in 1..=3 {
            assert!(matches!(stream.recv(), Some(Event::Token(_))));
            worker.turn();
            assert_eq!(worker.jobs.is_empty(), turn == 3);
        }
        assert_eq!(scorer.join().unwrap().unwrap().len(), 39);
        drop(stream);
        while worker.has_work() || !worker.commands.is_empty() {
            worker.turn();
        }
        let stats = worker.engine.stats();
        assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total);
    }

    #[test]
    fn a_full_queue_is_known_before_the_engine_has_seen_it() {
        let (mut worker, handle) = worker(8);
        // Four can run, and sixteen may wait.
        let submit = || handle.submit(request(&[1], 2));
        let streams: Vec<_> = (0..20).map(|_| submit().unwrap()).collect();
        assert_eq!(submit().unwrap_err().kind(), ErrorKind::Overloaded);
        worker.turn();
        assert_eq!(submit().unwrap_err().kind(), ErrorKind::Overloaded);
        worker.turn();
        let late: Vec<_> = (0..4).map(|_| submit().unwrap()).collect();
        assert_eq!(submit().unwrap_err().kind(), ErrorKind::Overloaded);
        while worker.has_work() || !worker.commands.is_empty() {
            worker.turn();
        }
        for stream in streams.into_iter().chain(late) {
            assert!(stream.wait().is_ok());
        }
    }

    #[test]
    fn a_dropped_stream_frees_its_blocks_at_the_next_step() {
        let (mut worker, handle) = worker(8);
        let endless = |token| handle.submit(request(&[token; 20], 40)).unwrap();
        let held = |worker: &Worker| {
            let stats = worker.engine.stats();
            stats.kv_blocks_total - stats.kv_blocks_free
        };
        let mut streams = vec![endless(1), endless(2), endless(3)];
        worker.turn();
        assert_eq!(held(&worker), 6);
        drop(streams.pop());
        worker.turn();
        assert_eq!(held(&worker), 4);
        // Nobody is left who could send a command.
        drop(handle);
        drop(streams.pop());
        worker.turn();
        assert_eq!(held(&worker), 2);
        drop(streams);
        worker.turn();
        assert!(!worker.has_work());
        assert_eq!(worker.engine.stats().cancelled, 3);
    }

    #[test]
    fn what_has_not_started_is_handed_back_and_the_rest_goes_on() {
        let (mut worker, handle) = worker(8);
        let submit = |priority| {
            let mut request = request(&[1; 5], 3);
            request.options.priority = priority;
            handle.submit(request).unwrap()
        };
        let running: Vec<_> = (0..4).map(|_| submit(0)).collect();
        worker.turn();
        let waiting = [submit(0), submit(2)];
        let ids = [1, 0].map(|i: usize| waiting[i].id());
        let (reply, unstarted) = channel::bounded(1);
        while let Ok(command) = worker.commands.try_recv() {
            worker.accept(command);
        }
        worker.accept(Command::HandBack { reply });
        let unstarted = unstarted.try_recv().unwrap();
        assert_eq!(unstarted.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
        assert_eq!(unstarted[0].1.prompt, [1; 5]);
        assert_eq!(unstarted[0].1.options.priority, 2);
        for stream in waiting {
            assert!(matches!(stream.wait(), Err(EngineError::Draining)));
        }
        let late = submit(0);
        while worker.has_work() || !worker.commands.is_empty() {
            worker.turn();
        }
        assert!(matches!(late.wait(), Err(EngineError::Draining)));
        for stream in running {
            assert_eq!(stream.wait().unwrap().tokens.len(), 3);
        }
        let stats = worker.engine.stats();
        assert_eq!(
            (stats.accepted, stats.finished, stats.handed_back),
            (6, 4, 2)
        );
    }
}
