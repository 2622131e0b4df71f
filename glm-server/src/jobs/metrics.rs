//! What is counted and timed of tasks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::Jobs;
use crate::queue::{Status, TaskInfo, Timestamp};

/// Tasks that this service ran.
#[derive(Debug)]
pub(crate) struct TaskMetrics {
    ended: Family<StatusLabels, Counter>,
    refused: Counter,
    latency: Histogram,
    wait: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: &'static str,
}

impl Default for TaskMetrics {
    fn default() -> Self {
        // From a tiny task in an empty queue to a batch of a night.
        let seconds = || Histogram::new(exponential_buckets(0.01, 2.0, 24));
        Self {
            ended: Family::default(),
            refused: Counter::default(),
            latency: seconds(),
            wait: seconds(),
        }
    }
}

impl TaskMetrics {
    /// Has them reported.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Attempts at tasks that this service has ended, by what the task was then";
        registry.register("task_attempts", help, self.ended.clone());
        let help = "Tasks that were not taken because as many waited as may";
        registry.register("tasks_refused", help, self.refused.clone());
        let help = "From submission of a task to its end";
        registry.register("task_latency_seconds", help, self.latency.clone());
        let help = "From submission of a task to its last attempt";
        registry.register("task_queue_time_seconds", help, self.wait.clone());
    }

    /// A task was not taken: the queue is full.
    pub(super) fn refused(&self) {
        self.refused.inc();
    }

    /// An attempt has ended, and with it perhaps the task.
    pub(super) fn ended(&self, info: &TaskInfo, status: Status, now: Timestamp) {
        let labels = StatusLabels {
            status: status.as_str(),
        };
        self.ended.get_or_create(&labels).inc();
        if status.is_terminal() {
            let since = |end: Timestamp| {
                let millis = end.as_millis() - info.created.as_millis();
                Duration::from_millis(millis.max(0).unsigned_abs()).as_secs_f64()
            };
            self.latency.observe(since(now));
            self.wait.observe(since(info.started.unwrap_or(now)));
        }
    }
}

/// What waits in the queue, as of the last second.
#[derive(Debug)]
pub(crate) struct Depth(pub(crate) Arc<Jobs>);

impl Collector for Depth {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let health = self.0.health();
        let gauges = [
            ("tasks_queued", "Tasks that wait", health.queued),
            (
                "tasks_running",
                "Tasks that run, here or elsewhere",
                health.running,
            ),
            (
                "tasks_oldest_queued_seconds",
                "How long the first of the tasks that wait has waited",
                health.oldest_queued.unwrap_or(0),
            ),
            (
                "tasks_queue_limit",
                "Tasks that may wait",
                self.0.options().max_queued,
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let named = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(named)?;
        }
        Ok(())
    }
}
