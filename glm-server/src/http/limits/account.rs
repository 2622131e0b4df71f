//! [`Account`]: what one key has left of its limits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Allowance, Exhausted, Left, RateLimits};

const MINUTE: f64 = 60.0;
/// Accounts of which nothing has been used for a minute are forgotten when there are more: tokens can name any number of subjects.
const MAX_IDLE: usize = 10_000;

/// All accounts, by the name of their keys.
#[derive(Debug, Default)]
pub(in crate::http) struct Accounts(Mutex<HashMap<Arc<str>, Arc<Account>>>);

impl Accounts {
    pub(in crate::http) fn find(&self, name: &str) -> Arc<Account> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = all.get(name) {
            return Arc::clone(account);
        }
        if all.len() >= MAX_IDLE {
            let now = Instant::now();
            all.retain(|_, account| Arc::strong_count(account) > 1 || !account.is_full(now));
        }
        Arc::clone(all.entry(name.into()).or_default())
    }
}

/// Credit for requests and for tokens. A request needs credit for itself and some for tokens; what its answer costs is known only
/// afterwards, so the credit for tokens may become a debt, which has to be waited off before the next request.
#[derive(Debug, Default)]
pub(in crate::http) struct Account(Mutex<Credit>);

#[derive(Debug, Default)]
struct Credit {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

impl Account {
    /// Takes the credit for a request.
    pub(in crate::http) fn request(
        &self,
        limits: RateLimits,
        now: Instant,
    ) -> Result<(), Exhausted> {
        let mut credit = self.lock();
        let Credit { requests, tokens } = &mut *credit;
        Bucket::allow(requests, limits.requests_per_minute, now);
        Bucket::allow(tokens, limits.tokens_per_minute, now);
        for (bucket, what) in [(&*requests, "requests"), (&*tokens, "tokens")] {
            if let Some(bucket) = bucket
                && bucket.level < 1.0
            {
                let (limit, wait) = (bucket.limit, bucket.time_to(1.0));
                return Err(Exhausted { what, limit, wait });
            }
        }
        if let Some(requests) = requests {
            requests.level -= 1.0;
        }
        Ok(())
    }

    /// Takes credit for tokens, whether it is there or not.
    pub(in crate::http) fn charge(&self, num_tokens: u64) {
        if let Some(tokens) = &mut self.lock().tokens {
            tokens.level -= num_tokens as f64;
        }
    }

    /// What is left now.
    pub(in crate::http) fn left(&self, now: Instant) -> Allowance {
        let mut credit = self.lock();
        let left = |bucket: &mut Option<Bucket>| {
            bucket.as_mut().map(|bucket| {
                bucket.refill(now);
                bucket.left()
            })
        };
        Allowance {
            requests: left(&mut credit.requests),
            tokens: left(&mut credit.tokens),
        }
    }

    fn is_full(&self, now: Instant) -> bool {
        let left = self.left(now);
        let is_full = |left: Option<Left>| left.is_none_or(|left| left.reset.is_zero());
        is_full(left.requests) && is_full(left.tokens)
    }

    fn lock(&self) -> MutexGuard<'_, Credit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Credit that grows by `limit` a minute, up to `limit`.
#[derive(Debug)]
struct Bucket {
    limit: u32,
    /// Below zero is debt.
    level: f64,
    updated: Instant,
}

impl Bucket {
    /// Brings a bucket to this limit and this time; a new one is full.
    fn allow(bucket: &mut Option<Self>, limit: Option<u32>, now: Instant) {
        let Some(limit) = limit else {
            *bucket = None;
            return;
        };
        let bucket = bucket.get_or_insert(Self {
            limit,
            level: limit.into(),
            updated: now,
        });
        bucket.refill(now);
        bucket.limit = limit;
        bucket.level = bucket.level.min(limit.into());
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.updated).as_secs_f64();
        let limit = f64::from(self.limit);
        self.level = (self.level + elapsed * limit / MINUTE).min(limit);
        self.updated = self.updated.max(now);
    }

    fn time_to(&self, level: f64) -> Duration {
        // A limit of nothing is never there again; a day says so, and is a number.
        let seconds = (level - self.level) * MINUTE / f64::from(self.limit);
        Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0))
    }

    fn left(&self) -> Left {
        Left {
            limit: self.limit,
            left: self.level.max(0.0) as u32,
            reset: self.time_to(self.limit.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(requests: Option<u32>, tokens: Option<u32>) -> RateLimits {
        RateLimits {
            requests_per_minute: requests,
            tokens_per_minute: tokens,
        }
    }

    #[test]
    fn credit_comes_back_with_time() {
        let (account, start) = (Account::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let two = limits(Some(2), None);
        assert_eq!(account.request(two, start), Ok(()));
        assert_eq!(account.request(two, start), Ok(()));
        let refused = account.request(two, at(10)).unwrap_err();
        assert_eq!((refused.what, refused.limit), ("requests", 2));
        assert_eq!(refused.wait.as_secs(), 20);
        assert_eq!(account.request(two, at(30)), Ok(()));
        let left = account.left(at(60)).requests.unwrap();
        assert_eq!((left.left, left.reset.as_secs()), (1, 30));
        // A limit that is taken away holds at once, and so does one that is raised.
        assert!(account.request(limits(None, None), at(60)).is_ok());
        assert!(account.request(limits(Some(100), None), at(60)).is_ok());
    }

    #[test]
    fn an_answer_may_cost_more_than_is_left_and_the_next_waits_for_it() {
        let (account, start) = (Account::default(), Instant::now());
        let sixty = limits(None, Some(60));
        assert_eq!(account.request(sixty, start), Ok(()));
        account.charge(100);
        let refused = account.request(sixty, start).unwrap_err();
        assert_eq!((refused.what, refused.wait.as_secs()), ("tokens", 41));
        let later = start + Duration::from_secs(41);
        assert_eq!(account.left(start).tokens.unwrap().left, 0);
        assert_eq!(account.request(sixty, later), Ok(()));
        // Nothing at all is never there.
        let none = Account::default().request(limits(Some(0), None), start);
        assert_eq!(none.unwrap_err().wait.as_secs(), 86_400);
    }

    proptest! {
        /// However requests come, no more are let in than the full credit and what has grown since.
        #[test]
        fn no_more_than_the_limit(limit in 1u32..100, waits in prop::collection::vec(0u64..5_000, 1..200)) {
            let (account, start) = (Account::default(), Instant::now());
            let mut now = start;
            let mut admitted = 0u32;
            for wait in waits {
                now += Duration::from_millis(wait);
                admitted += u32::from(account.request(limits(Some(limit), None), now).is_ok());
                let grown = (now - start).as_secs_f64() * f64::from(limit) / MINUTE;
                prop_assert!(f64::from(admitted) <= f64::from(limit) + grown + 1e-6);
            }
        }
    }
}
