//! Responses that later ones can go on from, beside the tasks: as durable as they are, and kept as long.

use serde::Deserialize;
use serde_json::json;

use super::{Jobs, QueuePlace};
use crate::queue::{NewRecord, StoreError, Timestamp};
use crate::responses::Stored;

const KIND: &str = "response";

impl Jobs {
    /// Whether what is kept here outlives the process.
    pub(crate) fn is_durable(&self) -> bool {
        self.options.queue != QueuePlace::Memory
    }

    /// Keeps a response of this tenant under its id.
    ///
    /// # Errors
    /// Those of [`Store::put_record`](crate::queue::Store::put_record).
    pub(crate) async fn keep_response(
        &self,
        tenant: &str,
        stored: &Stored,
    ) -> Result<(), StoreError> {
        let now = Timestamp::now();
        let id = stored.response["id"].as_str().unwrap_or_default();
        let record = NewRecord {
            expires: Some(now.after(self.options.retention)),
            ..NewRecord::new(KIND, id, tenant, json!(stored))
        };
        self.store.put_record(record, 0, now).await?;
        Ok(())
    }

    /// A response of this tenant.
    pub(crate) async fn response(
        &self,
        tenant: &str,
        id: &str,
    ) -> Result<Option<Stored>, StoreError> {
        let found = self.store.record(KIND, id, Some(tenant)).await?;
        Ok(found.and_then(|record| Stored::deserialize(record.value).ok()))
    }

    /// Deletes a response of this tenant. Answers whether it was there.
    pub(crate) async fn forget_response(&self, tenant: &str, id: &str) -> Result<bool, StoreError> {
        self.store.remove_record(KIND, id, Some(tenant)).await
    }
}
