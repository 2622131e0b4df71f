//! Responses that later requests can go on from.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Most bytes of JSON that are kept, of all tenants together.
const MAX_BYTES: usize = 64 << 20;

/// A response and the conversation before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) response: Value,
    pub(crate) items: Vec<Value>,
}

impl Stored {
    /// The conversation that goes on from it.
    pub(crate) fn conversation(&self) -> Vec<Value> {
        let output = self.response["output"].as_array().into_iter().flatten();
        self.items.iter().chain(output).cloned().collect()
    }
}

/// The latest responses of each tenant, for services that keep everything in memory: they end with the process, and the oldest go when there
/// are too many.
#[derive(Debug)]
pub(crate) struct Store {
    kept: Mutex<Kept>,
    max_bytes: usize,
}

/// A tenant and the id of a response.
type Key = (Arc<str>, String);

#[derive(Debug, Default)]
struct Kept {
    responses: HashMap<Key, Entry>,
    /// By the time at which they came.
    order: BTreeMap<u64, Key>,
    next: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    stored: Arc<Stored>,
    bytes: usize,
    number: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self::with_room(MAX_BYTES)
    }
}

impl Store {
    fn with_room(max_bytes: usize) -> Self {
        Self {
            kept: Mutex::default(),
            max_bytes,
        }
    }

    /// Keeps a response under its id. One that is larger than all the room is not kept.
    pub(crate) fn keep(&self, tenant: &Arc<str>, stored: Stored) {
        let Some(id) = stored.response["id"].as_str() else {
            return;
        };
        let size = |value: &Value| value.to_string().len();
        let bytes = size(&stored.response) + stored.items.iter().map(size).sum::<usize>();
        let key = (Arc::clone(tenant), id.to_owned());
        let mut kept = self.kept();
        kept.remove(&key);
        kept.add(key, Arc::new(stored), bytes);
        while kept.bytes > self.max_bytes {
            let Some(oldest) = kept.order.first_key_value().map(|(_, key)| key.clone()) else {
                break;
            };
            kept.remove(&oldest);
        }
    }

    pub(crate) fn get(&self, tenant: &Arc<str>, id: &str) -> Option<Arc<Stored>> {
        let key = (Arc::clone(tenant), id.to_owned());
        let kept = self.kept();
        let entry = kept.responses.get(&key)?;
        Some(Arc::clone(&entry.stored))
    }

    /// Whether there was one.
    pub(crate) fn delete(&self, tenant: &Arc<str>, id: &str) -> bool {
        self.kept().remove(&(Arc::clone(tenant), id.to_owned()))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn add(&mut self, key: Key, stored: Arc<Stored>, bytes: usize) {
        let number = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.order.insert(number, key.clone());
        let entry = Entry {
            stored,
            bytes,
            number,
        };
        self.responses.insert(key, entry);
    }

    /// Whether there was one.
    fn remove(&mut self, key: &Key) -> bool {
        let Some(entry) = self.responses.remove(key) else {
            return false;
        };
        self.bytes -= entry.bytes;
        self.order.remove(&entry.number);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stored(id: &str, text: &str) -> Stored {
        Stored {
            response: json!({"id": id, "output": [text]}),
            items: vec![json!("before")],
        }
    }

    #[test]
    fn tenants_keep_their_own() {
        let store = Store::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        store.keep(&a, stored("r", "mine"));
        assert_eq!(store.get(&b, "r"), None);
        assert!(!store.delete(&b, "r"));
        let mine = store.get(&a, "r").unwrap();
        assert_eq!(mine.conversation(), [json!("before"), json!("mine")]);
        assert!(store.delete(&a, "r") && !store.delete(&a, "r"));
        assert_eq!(store.kept().bytes, 0);
    }

    #[test]
    fn the_oldest_make_room() {
        let one = |i: usize| stored(&format!("r{i}"), &"x".repeat(50));
        let store = Store::with_room(300);
        let a: Arc<str> = "a".into();
        for i in 0..100 {
            store.keep(&a, one(i));
            store.keep(&a, one(i));
            store.delete(&a, &format!("r{}", i.saturating_sub(1)));
        }
        assert!(store.get(&a, "r99").is_some() && store.get(&a, "r0").is_none());
        store.keep(&a, stored("large", &"x".repeat(400)));
        assert!(store.get(&a, "large").is_none());
        let kept = store.kept();
        assert!(kept.bytes <= 300 && kept.order.len() == kept.responses.len());
    }
}
