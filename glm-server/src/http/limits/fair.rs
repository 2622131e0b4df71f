//! [`Fair`]: who is next when more is asked for than the engine computes together.
//!
//! Every tenant has a counter of the tokens it has had, prompts and answers. A place that comes free goes to the waiting
//! tenant with the smallest counter, and there to its request of the highest priority. Whoever begins to ask again is lifted to
//! the smallest counter of those that are asking, so nobody saves up a right to the whole machine by doing nothing. This is the
//! virtual token counter of Sheng et al. 2024 (arXiv:2401.00588), at the door instead of in the scheduler: what is inside runs.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::http::auth::Tenant;

/// The door to the engine.
#[derive(Debug, Clone, Default)]
pub(in crate::http) struct Fair(Arc<Mutex<Line>>);

/// Places at the engine, until it is dropped.
#[derive(Debug)]
pub(in crate::http) struct Turn {
    fair: Fair,
    tenant: Tenant,
    places: usize,
    /// What was counted when it began, and has not been computed yet.
    prepaid: u64,
}

/// As many wait as may.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http) struct Full {
    pub(in crate::http) waiting: usize,
}

/// What a request that wants to go in says about itself.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct Wish {
    /// Sequences that the engine will compute for it: each takes a place. One that wants more than there are gets all of them.
    pub(in crate::http) places: usize,
    /// Among the requests of one tenant.
    pub(in crate::http) priority: i64,
    /// Tokens that it will cost at least, roughly.
    pub(in crate::http) tokens: u64,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            places: 1,
            priority: 0,
            tokens: 0,
        }
    }
}

impl Fair {
    /// How many may be inside, and how many requests and tokens may wait.
    pub(in crate::http) fn open(&self, places: usize, max_waiting: usize, max_waiting_tokens: u64) {
        let mut line = self.lock();
        (line.places, line.max_waiting, line.max_waiting_tokens) =
            (places, max_waiting, max_waiting_tokens);
        line.next();
    }

    /// Waits until there are places. Dropped while it waits, it gives its place in line away.
    pub(in crate::http) async fn turn(&self, tenant: &Tenant, wish: Wish) -> Result<Turn, Full> {
        let (id, granted) = {
            let mut line = self.lock();
            if line.waiting.is_empty() && line.has_room(wish) {
                line.come(tenant);
                let places = line.enter(tenant, wish);
                return Ok(self.granted(tenant, wish, places));
            }
            line.wait(tenant, wish)?
        };
        let mut waiting = Waiting {
            fair: self,
            tenant,
            id,
            granted,
        };
        // The sender goes away only with its message: the line holds it until then.
        let places = (&mut waiting.granted).await.unwrap_or_default();
        // No more waiting, so leaving the line must not give the places away.
        waiting.id = None;
        Ok(self.granted(tenant, wish, places))
    }

    /// Requests that wait, and the tokens they will cost.
    pub(in crate::http) fn waiting(&self) -> (usize, u64) {
        let line = self.lock();
        (line.waiting.len(), line.waiting_tokens())
    }

    fn granted(&self, tenant: &Tenant, wish: Wish, places: usize) -> Turn {
        Turn {
            fair: self.clone(),
            tenant: tenant.clone(),
            places,
            prepaid: wish.tokens,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Counts what was computed for it, but for what was counted when it began.
    pub(in crate::http) fn charge(&mut self, cost: u64) {
        let prepaid = cost.min(self.prepaid);
        self.prepaid -= prepaid;
        if cost == prepaid {
            return;
        }
        let mut line = self.fair.lock();
        if let Some(share) = line.shares.get_mut(&self.tenant) {
            share.had += cost - prepaid;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.fair.lock().leave(&self.tenant, self.places);
    }
}

/// A request in line; it leaves the line when it is dropped.
struct Waiting<'a> {
    fair: &'a Fair,
    tenant: &'a Tenant,
    /// `None` when its turn has come.
    id: Option<u64>,
    /// How many places it has got.
    granted: oneshot::Receiver<usize>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut line = self.fair.lock();
        match line.waiting.iter().position(|waiter| waiter.id == id) {
            Some(at) => {
                line.waiting.swap_remove(at);
                line.forget(self.tenant);
                // It may have kept those behind it from places that it could not use.
                line.next();
            }
            // Its turn came in the moment it gave up.
            None => line.leave(self.tenant, self.granted.try_recv().unwrap_or_default()),
        }
    }
}

#[derive(Debug, Default)]
struct Line {
    places: usize,
    inside: usize,
    max_waiting: usize,
    max_waiting_tokens: u64,
    waiting: Vec<Waiter>,
    next_id: u64,
    /// Of the tenants that have requests inside or in line, and no others.
    shares: HashMap<Tenant, Share>,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    tenant: Tenant,
    wish: Wish,
    grant: oneshot::Sender<usize>,
}

#[derive(Debug, Default)]
struct Share {
    had: u64,
    requests: usize,
}

impl Line {
    /// Places that a request takes.
    fn need(&self, wish: Wish) -> usize {
        wish.places.clamp(1, self.places.max(1))
    }

    fn has_room(&self, wish: Wish) -> bool {
        self.inside + self.need(wish) <= self.places
    }

    fn waiting_tokens(&self) -> u64 {
        self.waiting.iter().map(|waiter| waiter.wish.tokens).sum()
    }

    /// A request that has come gets its places; how many, is answered. Counted at once, so that places that come free together do not all
    /// go to one tenant.
    fn enter(&mut self, tenant: &Tenant, wish: Wish) -> usize {
        let places = self.need(wish);
        self.inside += places;
        if let Some(share) = self.shares.get_mut(tenant) {
            share.had += wish.tokens;
        }
        places
    }

    /// A request more of this tenant, inside or in line.
    fn come(&mut self, tenant: &Tenant) {
        let least = self.shares.values().map(|share| share.had).min();
        let share = self.shares.entry(tenant.clone());
        let share = share.or_insert_with(|| Share {
            had: least.unwrap_or(0),
            requests: 0,
        });
        share.requests += 1;
    }

    fn wait(
        &mut self,
        tenant: &Tenant,
        wish: Wish,
    ) -> Result<(Option<u64>, oneshot::Receiver<usize>), Full> {
        let tokens = self.waiting_tokens().saturating_add(wish.tokens);
        // One that is larger than the limit by itself may wait alone.
        let too_much = !self.waiting.is_empty() && tokens > self.max_waiting_tokens;
        if self.waiting.len() >= self.max_waiting || too_much {
            return Err(Full {
                waiting: self.waiting.len(),
            });
        }
        self.come(tenant);
        let (grant, granted) = oneshot::channel();
        let id = self.next_id;
        self.next_id += 1;
        let tenant = tenant.clone();
        self.waiting.push(Waiter {
            id,
            tenant,
            wish,
            grant,
        });
        Ok((Some(id), granted))
    }

    fn leave(&mut self, tenant: &Tenant, places: usize) {
        self.inside -= places;
        self.forget(tenant);
        self.next();
    }

    /// A request less of this tenant.
    fn forget(&mut self, tenant: &Tenant) {
        let Some(share) = self.shares.get_mut(tenant) else {
            return;
        };
        share.requests -= 1;
        if share.requests == 0 {
            self.shares.remove(tenant);
        }
    }

    /// Gives free places to those that wait. Nobody goes before the first because there is room for less: it would wait for ever.
    fn next(&mut self) {
        loop {
            let had =
                |waiter: &Waiter| self.shares.get(&waiter.tenant).map_or(0, |share| share.had);
            let place = |waiter: &Waiter| (had(waiter), Reverse(waiter.wish.priority), waiter.id);
            let waiting = self.waiting.iter().enumerate();
            let Some((first, _)) = waiting.min_by_key(|(_, waiter)| place(waiter)) else {
                return;
            };
            if !self.has_room(self.waiting[first].wish) {
                return;
            }
            let waiter = self.waiting.swap_remove(first);
            let places = self.enter(&waiter.tenant, waiter.wish);
            // Whoever has given up meanwhile hands them back: see `Waiting`.
            let _ = waiter.grant.send(places);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    type Asking = Pin<Box<dyn Future<Output = Result<Turn, Full>>>>;

    fn tenant(name: &str) -> Tenant {
        Tenant(name.into())
    }

    fn open(places: usize, max_waiting: usize) -> Fair {
        let fair = Fair::default();
        fair.open(places, max_waiting, 1_000);
        fair
    }

    /// A request that has been polled once.
    fn ask(fair: &Fair, name: &str, wish: Wish) -> Result<Result<Turn, Full>, Asking> {
        let (fair, tenant) = (fair.clone(), tenant(name));
        let mut asking: Asking = Box::pin(async move { fair.turn(&tenant, wish).await });
        poll(&mut asking).ok_or(asking)
    }

    fn poll(asking: &mut Asking) -> Option<Result<Turn, Full>> {
        match asking
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    fn at_once(fair: &Fair, name: &str) -> Turn {
        ask(fair, name, Wish::default()).ok().unwrap().unwrap()
    }

    fn waits(fair: &Fair, name: &str, wish: Wish) -> Asking {
        ask(fair, name, wish).err().unwrap()
    }

    #[test]
    fn who_has_had_least_is_next_and_priority_counts_among_ones_own() {
        let fair = open(2, 10);
        let (mut heavy, light) = (at_once(&fair, "heavy"), at_once(&fair, "light"));
        heavy.charge(100);
        let urgent = Wish {
            priority: 5,
            ..Wish::default()
        };
        let mut first = waits(&fair, "heavy", Wish::default());
        let mut second = waits(&fair, "heavy", urgent);
        let mut third = waits(&fair, "light", Wish::default());
        drop(heavy);
        let third = poll(&mut third).unwrap().unwrap();
        assert!(poll(&mut first).is_none() && poll(&mut second).is_none());
        drop((light, third));
        let _second = poll(&mut second).unwrap().unwrap();
        let _first = poll(&mut first).unwrap().unwrap();
        assert_eq!(fair.waiting(), (0, 0));
    }

    #[test]
    fn doing_nothing_earns_nothing() {
        let fair = open(1, 10);
        let mut busy = at_once(&fair, "busy");
        busy.charge(1_000);
        // It comes late and starts where the other is, first come, first served.
        let mut first = waits(&fair, "busy", Wish::default());
        let mut late = waits(&fair, "late", Wish::default());
        drop(busy);
        let mut turn = poll(&mut first).unwrap().unwrap();
        turn.charge(1);
        let mut again = waits(&fair, "busy", Wish::default());
        drop(turn);
        assert!(poll(&mut again).is_none());
        assert!(poll(&mut late).unwrap().is_ok());
    }

    #[test]
    fn the_line_has_an_end() {
        let fair = open(1, 2);
        let turn = at_once(&fair, "a");
        let large = Wish {
            tokens: 2_000,
            ..Wish::default()
        };
        let alone = waits(&fair, "a", large);
        assert_eq!(
            ask(&fair, "b", Wish { tokens: 1, ..large })
                .ok()
                .unwrap()
                .unwrap_err(),
            Full { waiting: 1 }
        );
        // Who gives up leaves.
        drop(alone);
        let _one = waits(&fair, "a", Wish::default());
        let _two = waits(&fair, "b", Wish::default());
        assert_eq!(
            ask(&fair, "c", Wish::default()).ok().unwrap().unwrap_err(),
            Full { waiting: 2 }
        );
        drop(turn);
        assert_eq!(fair.waiting().0, 1);
    }

    fn wanting(places: usize) -> Wish {
        Wish {
            places,
            ..Wish::default()
        }
    }

    #[test]
    fn each_sequence_takes_a_place_and_nobody_passes_by_who_needs_several() {
        let fair = open(4, 10);
        let two = ask(&fair, "a", wanting(2)).ok().unwrap().unwrap();
        let one = at_once(&fair, "b");
        let mut three = waits(&fair, "a", wanting(3));
        let mut small = waits(&fair, "a", Wish::default());
        assert!(
            poll(&mut small).is_none(),
            "a place is free, but not its own"
        );
        drop(two);
        let three = poll(&mut three).unwrap().unwrap();
        assert!(poll(&mut small).is_none());
        drop(one);
        let small = poll(&mut small).unwrap().unwrap();
        drop(three);
        // More than there are is all of them.
        let mut all = waits(&fair, "a", wanting(100));
        drop(small);
        let all = poll(&mut all).unwrap().unwrap();
        let mut next = waits(&fair, "b", Wish::default());
        drop(all);
        assert!(poll(&mut next).unwrap().is_ok());
    }

    #[test]
    fn who_gives_up_makes_room_for_those_behind() {
        let fair = open(2, 10);
        let _one = at_once(&fair, "a");
        let both = waits(&fair, "a", wanting(2));
        let mut small = waits(&fair, "a", Wish::default());
        drop(both);
        assert!(poll(&mut small).unwrap().is_ok());
    }

    proptest! {
        /// Whatever comes, waits, gives up and ends: no more are inside than there are places, nobody waits beside a free one, and
        /// nothing is left at the end.
        #[test]
        fn no_place_is_lost(steps in prop::collection::vec((0u8..4, 0usize..8, 1usize..5), 1..200)) {
            let fair = open(3, 5);
            let (mut inside, mut waiting) = (Vec::<Turn>::new(), Vec::<Asking>::new());
            for (what, which, places) in steps {
                match what {
                    0 | 1 => match ask(&fair, ["a", "b", "c"][which % 3], wanting(places)) {
                        Ok(Ok(turn)) => inside.push(turn),
                        Ok(Err(full)) => prop_assert_eq!(full.waiting, 5),
                        Err(asking) => waiting.push(asking),
                    },
                    2 if which < inside.len() => drop(inside.swap_remove(which)),
                    3 if which < waiting.len() => drop(waiting.swap_remove(which)),
                    _ => {}
                }
                waiting.retain_mut(|asking| match poll(asking) {
                    Some(turn) => {
                        inside.extend(turn.ok());
                        false
                    }
                    None => true,
                });
                let taken: usize = inside.iter().map(|turn| turn.places).sum();
                prop_assert!(taken <= 3);
                let line = fair.lock();
                let needs = line.waiting.iter().map(|waiter| line.need(waiter.wish));
                prop_assert!(needs.max().is_none_or(|most| taken + most > 3));
                prop_assert_eq!(taken, line.inside);
                drop(line);
                prop_assert_eq!(fair.waiting().0, waiting.len());
            }
            drop((inside, waiting));
            let line = fair.lock();
            prop_assert_eq!((line.inside, line.shares.len(), line.waiting.len()), (0, 0, 0));
        }
    }
}
