//! [`MaskThreads`]: masks computed while the model computes the logits that they are for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use async_channel::{Receiver, Sender};

use super::Guide;

/// Most threads for masks: more would take the memory bandwidth that the model's own need.
const MAX_THREADS: usize = 4;

/// Threads that are started with the first guide and stay. On a machine with a core to spare, or with a model on a GPU, masks cost no
/// time.
#[derive(Debug, Default)]
pub(crate) struct MaskThreads {
    jobs: Option<(Sender<Job>, Receiver<Job>)>,
}

/// A guide on its way through a thread, with its place among its companions.
struct Job {
    place: usize,
    guide: Guide,
    /// What may come next: masks behind it are computed as long as the model computes.
    guesses: Vec<u32>,
    forward_ended: Arc<AtomicBool>,
    done: Sender<(usize, Guide)>,
}

impl Job {
    fn run(mut self) {
        // A guide that panics computes again when it is asked for its mask, where the panic has somebody to hear it.
        let is_time = || !self.forward_ended.load(Ordering::Relaxed);
        let prepare = || self.guide.prepare(&self.guesses, is_time);
        let _ = catch_unwind(AssertUnwindSafe(prepare));
        // Whoever waited is gone if this fails, and so is the request.
        let _ = self.done.try_send((self.place, self.guide));
    }
}

impl MaskThreads {
    /// Runs `forward` while the masks that its result will need are computed: the next one of each guide, and those behind its guesses that
    /// are ready in time; the others may never be needed. The guides come back in their order.
    pub(crate) fn prepare_during<T>(
        &mut self,
        guides: Vec<(Guide, Vec<u32>)>,
        forward: impl FnOnce() -> T,
    ) -> (T, Vec<Guide>) {
        if guides.is_empty() {
            return (forward(), Vec::new());
        }
        let (send, receive) = self.jobs.get_or_insert_with(start);
        let (done, prepared) = async_channel::unbounded();
        let forward_ended = Arc::new(AtomicBool::new(false));
        for (place, (guide, guesses)) in guides.into_iter().enumerate() {
            let job = Job {
                place,
                guide,
                guesses,
                forward_ended: forward_ended.clone(),
                done: done.clone(),
            };
            // The channel is open, because a receiver is here.
            let _ = send.try_send(job);
        }
        drop(done);
        let result = forward();
        forward_ended.store(true, Ordering::Relaxed);
        // What no thread has begun is done here.
        while let Ok(job) = receive.try_recv() {
            job.run();
        }
        let mut guides = Vec::new();
        while let Ok(guide) = prepared.recv_blocking() {
            guides.push(guide);
        }
        guides.sort_by_key(|&(place, _)| place);
        let guides = guides.into_iter().map(|(_, guide)| guide);
        (result, guides.collect())
    }
}

/// Starts threads that end when the sender is gone. Those that the operating system refuses are not missed: their work is done by
/// whoever waits for it.
fn start() -> (Sender<Job>, Receiver<Job>) {
    let (send, receive) = async_channel::unbounded::<Job>();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..(cores / 2).clamp(1, MAX_THREADS) {
        let jobs = receive.clone();
        let work = move || {
            while let Ok(job) = jobs.recv_blocking() {
                job.run();
            }
        };
        let _ = thread::Builder::new()
            .name("glm-guide".to_owned())
            .spawn(work);
    }
    (send, receive)
}
