//! `GET /dashboard/events`: what the dashboard of the page shows, as it changes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::http::dashboard::snapshot;
use crate::http::state::{Phase, Service};

/// Time between two events. It is shorter than what proxies take for a dead connection.
const PERIOD: Duration = Duration::from_secs(1);

/// Events until the service drains: the last one says that it does, and watching must not keep it from ending.
pub(super) async fn events(State(service): State<Arc<Service>>) -> Response {
    let mut ticks = interval(PERIOD);
    // Who reads slowly gets what is so now, not what was.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = stream::unfold(Some((service, ticks)), next);
    Sse::new(events).into_response()
}

type Watching = Option<(Arc<Service>, Interval)>;

async fn next(watching: Watching) -> Option<(Result<Event, Infallible>, Watching)> {
    let (service, mut ticks) = watching?;
    ticks.tick().await;
    let event = Event::default().data(snapshot(&service).to_string());
    let goes_on = !matches!(service.phase(), Phase::Draining { .. });
    Some((Ok(event), goes_on.then_some((service, ticks))))
}
