//! [`Runner`]: what the queue needs of the service to run tasks.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use serde_json::Value;

use crate::openai::ApiError;
use crate::queue::Claimed;

/// The body of a response, later. Dropping it stops the work.
pub(crate) type Running = Pin<Box<dyn Future<Output = Result<Value, ApiError>> + Send>>;

/// Runs tasks as if they were requests that had just come in.
pub(crate) trait Runner: fmt::Debug + Send + Sync {
    /// How many more tasks can run now, of which `running` do, without taking places from other requests.
    fn room(&self, running: usize) -> usize;

    /// Runs a task.
    ///
    /// What the error's status says of another attempt: 429, the same one goes on after a pause; 503, the task is given back unharmed;
    /// 500, it is tried again; anything else, it has failed.
    fn run(&self, task: &Claimed) -> Running;
}
