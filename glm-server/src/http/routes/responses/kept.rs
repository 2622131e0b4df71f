//! Where responses are kept that somebody waited for: with the tasks, or in memory where those are in memory too.

use std::error::Error;
use std::sync::Arc;

use crate::http::state::Service;
use crate::jobs::{Jobs, refusal};
use crate::openai::ApiError;
use crate::responses::Stored;

fn durable(service: &Service) -> Option<&Arc<Jobs>> {
    service.jobs().ok().filter(|jobs| jobs.is_durable())
}

/// Keeps a response. That it cannot be kept must not cost whoever waits the answer.
pub(super) async fn keep(service: &Service, tenant: &Arc<str>, stored: Stored) {
    let Some(jobs) = durable(service) else {
        service.responses.keep(tenant, stored);
        return;
    };
    if let Err(error) = jobs.keep_response(tenant, &stored).await {
        let error = &error as &dyn Error;
        tracing::warn!(error, "a response could not be kept");
    }
}

pub(super) async fn find(
    service: &Service,
    tenant: &Arc<str>,
    id: &str,
) -> Result<Option<Arc<Stored>>, ApiError> {
    let Some(jobs) = durable(service) else {
        return Ok(service.responses.get(tenant, id));
    };
    let found = jobs.response(tenant, id).await;
    let stored = found.map_err(|error| refusal(&error))?;
    Ok(stored.map(Arc::new))
}

/// Answers whether it was there.
pub(super) async fn delete(
    service: &Service,
    tenant: &Arc<str>,
    id: &str,
) -> Result<bool, ApiError> {
    let Some(jobs) = durable(service) else {
        return Ok(service.responses.delete(tenant, id));
    };
    let deleted = jobs.forget_response(tenant, id).await;
    deleted.map_err(|error| refusal(&error))
}
