//! [`Requests`]: who is inside the service.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use crate::http::caller::Caller;

/// The requests whose response has not gone out to its end, in the order in which they came.
#[derive(Debug, Default)]
pub(in crate::http) struct Requests(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    running: BTreeMap<u64, Request>,
}

#[derive(Debug)]
struct Request {
    caller: Arc<Caller>,
    since: Instant,
}

/// A place in [`Requests`], for as long as it lives.
#[derive(Debug)]
pub(in crate::http) struct Running(u64);

impl Requests {
    pub(in crate::http) fn enter(&self, caller: Arc<Caller>) -> Running {
        let mut inside = self.lock();
        let number = inside.next;
        inside.next += 1;
        let since = Instant::now();
        let request = Request { caller, since };
        inside.running.insert(number, request);
        Running(number)
    }

    pub(in crate::http) fn leave(&self, running: &Running) {
        self.lock().running.remove(&running.0);
    }

    /// How many there are, and the first `max` of them.
    pub(super) fn list(&self, max: usize) -> (usize, Vec<Value>) {
        let inside = self.lock();
        let first = inside.running.values().take(max).map(|request| {
            let (prompt_tokens, completion_tokens) = request.caller.tokens();
            json!({
                "id": &*request.caller.request_id,
                "endpoint": &*request.caller.route,
                "tenant": &*request.caller.tenant().0,
                "age_s": request.since.elapsed().as_secs_f64(),
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
            })
        });
        (inside.running.len(), first.collect())
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_listed_and_all_are_counted() {
        let requests = Requests::default();
        let enter = |id: &str| {
            let mut caller = Caller::of_request(id.into());
            caller.route = "/v1/x".into();
            caller.prompt(7);
            requests.enter(Arc::new(caller))
        };
        let [a, _b, _c] = ["a", "b", "c"].map(enter);
        requests.leave(&a);
        let (count, listed) = requests.list(1);
        assert_eq!((count, listed.len()), (2, 1));
        assert_eq!(listed[0]["id"], "b");
        assert_eq!(listed[0]["endpoint"], "/v1/x");
        assert_eq!(listed[0]["prompt_tokens"], 7);
        requests.leave(&a);
        assert_eq!(requests.list(9).0, 2);
    }
}
