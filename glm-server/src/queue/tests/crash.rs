//! Processes that are killed at any moment: nothing that was acknowledged is lost, and nothing ends twice.
//!
//! Two processes, which are this test program run again, share a queue in a file; each submits its share of the tasks, and works on
//! whatever it gets. Both say on their standard output what the queue has acknowledged, and are killed after a random number of such
//! lines. The one that follows begins with the first task that was not acknowledged, under the same idempotency key, on
//! a clock that is an hour ahead: it takes over all leases, also those of the other process, which still lives.
//!
//! Killing a process does not show that `synchronous=FULL` reaches the disk: that would need the power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::*;
use super::wait;

/// How many tasks, if not 20,000: for a disk that takes long to sync.
const JOBS: &str = "GLM_QUEUE_CRASH_JOBS";
const ORDERS: &str = "GLM_QUEUE_CRASH_ORDERS";
const LEASE: Duration = Duration::from_mins(10);
const LANES: usize = 2;

/// Where the queue is.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Place {
    File(String),
    #[cfg(feature = "postgres")]
    Postgres {
        url: String,
        schema: String,
    },
}

/// What a process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Orders {
    place: Place,
    /// Which of the two; tasks are called after it.
    lane: usize,
    /// The first task to submit, and the first not to.
    from: usize,
    to: usize,
    /// How many processes there were before: the hour on its clock.
    generation: i64,
}

fn open(place: &Place) -> Box<dyn Store> {
    match place {
        Place::File(path) => {
            // Two processes and a slow disk: waiting is no error here.
            let options = SqliteOptions {
                busy_timeout: Duration::from_mins(5),
                ..SqliteOptions::default()
            };
            Box::new(SqliteStore::open(path.as_ref(), options).unwrap())
        }
        #[cfg(feature = "postgres")]
        Place::Postgres { url, schema } => {
            let options = PostgresOptions {
                schema: schema.clone(),
                connect_timeout: Duration::from_mins(1),
                ..PostgresOptions::default()
            };
            Box::new(PostgresStore::open(url, options).unwrap())
        }
    }
}

fn hour(generation: i64) -> Timestamp {
    Timestamp::from_millis(generation * 3_600_000)
}

fn task(lane: usize, number: usize) -> NewTask {
    let key = format!("{lane}-{number}");
    NewTask {
        max_retries: 1_000_000,
        priority: (number % 3) as i32,
        idempotency_key: Some(key.clone()),
        ..NewTask::new("t", "/v1/completions", json!({ "key": key }))
    }
}

/// SplitMix64 (Steele, Lea & Flood 2014).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What a process says of a task that was submitted, or has come to its end.
fn acknowledge(lines: &str) {
    // Past the test harness, which would keep it; a reader that is gone has killed this process.
    let _ = std::io::stdout().lock().write_all(lines.as_bytes());
}

#[test]
#[ignore = "what the other test runs and kills"]
fn process() {
    let Ok(orders) = env::var(ORDERS) else {
        return;
    };
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let store = open(&orders.place);
    let mut now = hour(orders.generation);
    let mut chance = orders.generation as u64;
    let mut next = orders.from;
    // The test harness may have begun a line.
    acknowledge("\n");
    loop {
        now = now.after(Duration::from_millis(1));
        // Not always: a process whose clock is behind would hardly ever get to its report.
        if next == orders.from || random(&mut chance).is_multiple_of(8) {
            wait(store.reap(now, now)).unwrap();
        }
        let last = (next + 8).min(orders.to);
        let tasks = (next..last)
            .map(|number| task(orders.lane, number))
            .collect();
        let submitted = wait(store.submit(tasks, now)).unwrap();
        let mut lines = String::new();
        for (number, submitted) in (next..last).zip(&submitted) {
            writeln!(lines, "submitted {number} {}", submitted.task.id).unwrap();
        }
        acknowledge(&lines);
        next = last;

        let claimed = wait(store.claim(DEFAULT_POOL, "w", 12, LEASE, now)).unwrap();
        if claimed.is_empty() && next == orders.to {
            break;
        }
        let reports = claimed
            .iter()
            .filter_map(|claimed| Some((claimed.lease, report(claimed, random(&mut chance))?)));
        // All at once, so that they share a transaction.
        let answers: Vec<_> = reports
            .map(|(lease, report)| (lease, store.finish(lease, report, now)))
            .collect();
        let mut lines = String::new();
        for (lease, answer) in answers {
            match wait(answer) {
                Ok(status) if status.is_terminal() => {
                    writeln!(lines, "{status} {} {}", lease.number, lease.task).unwrap();
                }
                Ok(_) | Err(StoreError::LeaseLost { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        acknowledge(&lines);
    }
    acknowledge("done\n");
}

/// What a worker reports; some tasks it forgets, as if it had died.
fn report(claimed: &Claimed, chance: u64) -> Option<Report> {
    match chance % 16 {
        0 => None,
        1 => Some(Report::Retry(json!("again"))),
        2 => Some(Report::Released),
        3 => Some(Report::Failed(json!(claimed.lease.number))),
        _ => Some(Report::Completed(json!(claimed.lease.number))),
    }
}

fn start(orders: &Orders) -> Child {
    let name = format!("{}::process", module_path!().split_once("::").unwrap().1);
    Command::new(env::current_exe().unwrap())
        .args([&*name, "--exact", "--ignored", "--nocapture"])
        .env(ORDERS, serde_json::to_string(orders).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What processes have acknowledged.
#[derive(Debug, Default)]
struct Acknowledged {
    submitted: BTreeMap<(usize, usize), TaskId>,
    /// With the number of the lease that ended it.
    ended: BTreeMap<TaskId, (Status, u64)>,
    kills: usize,
}

impl Acknowledged {
    /// Whether it says that all is done.
    fn read(&mut self, lane: usize, line: &str) -> bool {
        let words: Vec<_> = line.split(' ').collect();
        let id = || words[2].parse::<TaskId>().unwrap();
        match words[0] {
            "done" => return true,
            "submitted" => {
                let known = self
                    .submitted
                    .insert((lane, words[1].parse().unwrap()), id());
                assert!(known.is_none_or(|known| known == id()), "one key, one task");
            }
            "completed" | "failed" => {
                let status = Status::ALL
                    .into_iter()
                    .find(|s| s.as_str() == words[0])
                    .unwrap();
                let before = self.ended.insert(id(), (status, words[1].parse().unwrap()));
                assert_eq!(before, None, "a task ends once");
            }
            // Of the test harness.
            _ => {}
        }
        false
    }
}

/// Runs one process after the other until a share of the tasks is submitted and nothing is left to do.
fn run_lane(
    place: &Place,
    lane: usize,
    share: usize,
    hours: &AtomicI64,
    all: &Mutex<Acknowledged>,
) {
    let mut chance = lane as u64;
    let mut from = 0;
    loop {
        let orders = Orders {
            place: place.clone(),
            lane,
            from,
            to: share,
            generation: hours.fetch_add(1, Ordering::Relaxed),
        };
        let mut child = start(&orders);
        let mut lines_left = 1 + random(&mut chance) as usize % (share / 20).max(1);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        // What was written before the kill is read to the end; a torn last line says nothing.
        while output.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
            let mut all = all.lock().unwrap();
            if all.read(lane, line.trim_end()) {
                drop(all);
                child.wait().unwrap();
                return;
            }
            while all.submitted.contains_key(&(lane, from)) {
                from += 1;
            }
            lines_left = lines_left.saturating_sub(1);
            if lines_left == 0 {
                // On Unix this is SIGKILL.
                child.kill().unwrap();
                all.kills += 1;
                lines_left = usize::MAX;
            }
            line.clear();
        }
        let status = child.wait().unwrap();
        assert!(
            !status.success() && status.code().is_none(),
            "it ended by itself: {status}"
        );
    }
}

/// Ends what is left, as a last worker.
fn drain(store: &dyn Store, now: Timestamp) {
    wait(store.reap(now, now)).unwrap();
    loop {
        let claimed = wait(store.claim(DEFAULT_POOL, "last", 100, LEASE, now)).unwrap();
        if claimed.is_empty() {
            break;
        }
        let report = |claimed: &Claimed| Report::Completed(json!(claimed.lease.number));
        let answers: Vec<_> = claimed
            .iter()
            .map(|claimed| store.finish(claimed.lease, report(claimed), now))
            .collect();
        for answer in answers {
            wait(answer).unwrap();
        }
    }
}

fn all_tasks(store: &dyn Store) -> Vec<TaskInfo> {
    let mut tasks: Vec<TaskInfo> = Vec::new();
    loop {
        let paging = Paging {
            after: tasks.last().map(|task| task.id),
            limit: MAX_PAGE,
            oldest_first: true,
        };
        let page = wait(store.list(Filter::default(), paging)).unwrap();
        tasks.extend(page.items);
        if !page.has_more {
            return tasks;
        }
    }
}

#[test]
fn processes_killed_at_any_moment_lose_nothing_and_end_nothing_twice() {
    let jobs = env::var(JOBS).map_or(20_000, |jobs| jobs.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    kill_and_count(&Place::File(path.to_str().unwrap().to_owned()), jobs);
}

#[cfg(feature = "postgres")]
#[test]
fn so_it_is_on_a_server() {
    if let Some(url) = super::testing::url() {
        let schema = "crash".to_owned();
        kill_and_count(&Place::Postgres { url, schema }, 4000);
    }
}

fn kill_and_count(place: &Place, jobs: usize) {
    let (hours, all) = (AtomicI64::new(1), Mutex::new(Acknowledged::default()));
    let share = jobs / LANES;
    thread::scope(|scope| {
        for lane in 0..LANES {
            let (hours, all) = (&hours, &all);
            scope.spawn(move || run_lane(place, lane, share, hours, all));
        }
    });
    let all = all.into_inner().unwrap();
    assert!(all.kills >= LANES, "{} kills", all.kills);

    let store = open(place);
    drain(&*store, hour(hours.into_inner() + 1));
    let tasks = all_tasks(&*store);
    let keys: BTreeSet<_> = tasks
        .iter()
        .filter_map(|task| task.idempotency_key.clone())
        .collect();
    let expected =
        (0..LANES).flat_map(|lane| (0..share).map(move |number| format!("{lane}-{number}")));
    assert!(
        keys.iter().cloned().eq(expected.collect::<BTreeSet<_>>()),
        "none is missing"
    );
    assert_eq!(tasks.len(), keys.len(), "none is there twice");
    let ids: BTreeMap<_, _> = tasks.iter().map(|task| (task.id, task)).collect();
    for ((lane, number), id) in &all.submitted {
        assert_eq!(ids[id].idempotency_key, Some(format!("{lane}-{number}")));
    }
    for task in &tasks {
        assert!(task.status.is_terminal(), "{task:?}");
        if let Some((status, lease)) = all.ended.get(&task.id) {
            assert_eq!(task.status, *status);
            let result = wait(store.get(task.id, None)).unwrap().unwrap().result;
            let said = result.as_ref().or(task.error.as_ref());
            assert_eq!(said, Some(&json!(lease)), "what was acknowledged stays");
        }
    }
}
