//! What is kept beside the tasks.

use serde::Serialize;
use serde_json::Value;

use super::Timestamp;

/// Something beside the tasks that is to be as durable as they are: the description of a file, a batch, a response that
/// later ones continue. The queue does not know what it means.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct NewRecord {
    /// What it is, such as `batch`. Ids of different kinds are different things.
    pub kind: String,
    /// Its name. Lists are in the order of ids, so let those begin with the time, as UUIDs of version 7 do.
    pub id: String,
    /// Whom it belongs to.
    pub tenant: String,
    /// What it says.
    pub value: Value,
    /// From then on it may be deleted.
    pub expires: Option<Timestamp>,
}

impl NewRecord {
    /// A record that is kept until it is removed.
    pub fn new(
        kind: impl Into<String>,
        id: impl Into<String>,
        tenant: impl Into<String>,
        value: Value,
    ) -> Self {
        Self {
            kind: kind.into(),
            id: id.into(),
            tenant: tenant.into(),
            value,
            expires: None,
        }
    }
}

/// A record as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Record {
    /// See [`NewRecord::kind`].
    pub kind: String,
    /// See [`NewRecord::id`].
    pub id: String,
    /// See [`NewRecord::tenant`].
    pub tenant: String,
    /// See [`NewRecord::value`].
    pub value: Value,
    /// How often it was written: 1 when it is new.
    pub version: u64,
    /// When it was new.
    pub created: Timestamp,
    /// See [`NewRecord::expires`].
    pub expires: Option<Timestamp>,
}
