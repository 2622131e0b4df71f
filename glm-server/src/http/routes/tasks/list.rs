//! `GET /v1/tasks`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::{parse, view};
use crate::http::error::{self, Refusal};
use crate::http::query::{self, Params};
use crate::http::state::Service;
use crate::http::tenant::Owner;
use crate::jobs::refusal;
use crate::openai::ApiError;
use crate::queue::{Filter, MAX_PAGE, Paging, Status};

/// Which tasks, and which part of their list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Wanted {
    /// One, or several with commas between.
    status: Option<String>,
    endpoint: Option<String>,
    batch_id: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
    order: Option<String>,
}

pub(in super::super) async fn list(
    State(service): State<Arc<Service>>,
    Owner(tenant): Owner,
    Params(wanted): Params<Wanted>,
) -> Result<Response, Refusal> {
    let filter = Filter {
        tenant: Some(tenant.to_string()),
        group: wanted.batch_id,
        endpoint: wanted.endpoint,
        status: statuses(wanted.status.as_deref())?,
    };
    let paging = Paging {
        after: wanted.after.as_deref().map(parse).transpose()?,
        limit: query::limit(wanted.limit, 20, MAX_PAGE)?,
        oldest_first: query::oldest_first(wanted.order.as_deref())?,
    };
    let page = service.jobs()?.list(filter, paging).await;
    let page = page.map_err(|error| refusal(&error))?;
    let tasks: Vec<Value> = page.items.iter().map(view::info).collect();
    let body = query::list(tasks, page.has_more);
    Ok(error::json(StatusCode::OK, &body))
}

fn statuses(names: Option<&str>) -> Result<Vec<Status>, ApiError> {
    let mut statuses = Vec::new();
    for name in names.into_iter().flat_map(|names| names.split(',')) {
        let like = |status: &Status| view::status(*status) == name;
        let before = statuses.len();
        statuses.extend(Status::ALL.into_iter().filter(like));
        if statuses.len() == before {
            let message = format!(
                "`status` must be queued, running, completed, failed or cancelled, found `{name}`"
            );
            return Err(ApiError::invalid("status", message));
        }
    }
    Ok(statuses)
}
