//! The adapters of an engine, by name: loaded and unloaded while it runs.
//!
//! An adapter leaves the registry at once, so that no new request finds it; requests that use it keep it alive to their end, and its
//! memory with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use glm_core::{Adapter, ModelConfig};
use glm_kernels::Device;
use serde::Serialize;

use super::adapter::{AdapterId, LoraAdapter, packed_bytes};
use super::error::{AdapterError, UnknownAdapter};
use crate::memory::{MemoryShortage, available_on};

/// A loaded adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AdapterInfo {
    /// The name that requests choose it by.
    pub name: String,
    /// Where it was loaded from.
    pub path: PathBuf,
    /// Largest rank of its modules.
    pub rank: usize,
    /// Linear layers that it changes; query, key and value count each where they are apart in the adapter.
    pub modules: usize,
    /// Bytes of memory that its matrices take.
    pub bytes: u64,
    /// Requests that use it, waiting or running.
    pub requests: usize,
    /// It was unloaded, and goes when the last of these requests has ended.
    pub unloading: bool,
}

/// The adapters that requests can choose.
#[derive(Debug)]
pub(crate) struct AdapterRegistry {
    device: Device,
    model: ModelConfig,
    next_id: AtomicU64,
    /// One more for each [`AdapterUse`] of any adapter.
    users: Arc<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    loaded: BTreeMap<String, Entry>,
    /// Unloaded, and perhaps still in use.
    leaving: Vec<(Weak<LoraAdapter>, Weak<()>)>,
}

/// An adapter and what counts its users: one more for each [`AdapterUse`].
#[derive(Debug, Clone)]
struct Entry {
    adapter: Arc<LoraAdapter>,
    users: Arc<()>,
}

/// A request's hold on its adapter.
#[derive(Debug)]
pub(crate) struct AdapterUse {
    entry: Entry,
    _user: Arc<()>,
}

impl AdapterUse {
    /// The adapter.
    pub(crate) fn adapter(&self) -> &Arc<LoraAdapter> {
        &self.entry.adapter
    }

    /// What separates its keys and values from others' in the prefix cache.
    pub(crate) fn id(&self) -> AdapterId {
        self.entry.adapter.id
    }
}

impl AdapterRegistry {
    /// No adapter yet, for a model on a device.
    pub(crate) fn new(device: &Device, model: &ModelConfig) -> Self {
        Self {
            device: device.clone(),
            model: model.clone(),
            next_id: AtomicU64::new(0),
            users: Arc::new(()),
            state: Mutex::default(),
        }
    }

    /// Loads an adapter on the calling thread; requests are served meanwhile.
    pub(crate) fn load(&self, name: &str, path: &Path) -> Result<AdapterInfo, AdapterError> {
        if name.is_empty() {
            return Err(AdapterError::EmptyName);
        }
        let taken = || AdapterError::NameTaken {
            name: name.to_owned(),
        };
        if self.contains(name) {
            return Err(taken());
        }
        let adapter = Adapter::open(path, &self.model)?;
        check_memory(name, &self.device, packed_bytes(&adapter, &self.device))?;
        let id = AdapterId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let entry = Entry {
            adapter: Arc::new(LoraAdapter::load(id, name, &adapter, &self.device)?),
            users: Arc::new(()),
        };
        let info = info(&entry.adapter, Arc::strong_count(&entry.users) - 1, false);
        let mut state = self.state();
        // Somebody may have been quicker.
        if state.loaded.contains_key(name) {
            return Err(taken());
        }
        state.loaded.insert(name.to_owned(), entry);
        Ok(info)
    }

    /// Takes an adapter out; it goes when nobody uses it any more.
    pub(crate) fn unload(&self, name: &str) -> Result<AdapterInfo, UnknownAdapter> {
        let mut state = self.state();
        let Some(entry) = state.loaded.remove(name) else {
            return Err(unknown(name, &state));
        };
        let users = Arc::strong_count(&entry.users) - 1;
        if users > 0 {
            let leaving = (Arc::downgrade(&entry.adapter), Arc::downgrade(&entry.users));
            state.leaving.push(leaving);
        }
        Ok(info(&entry.adapter, users, users > 0))
    }

    /// The adapter that a request names, if it names one.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<Option<AdapterUse>, UnknownAdapter> {
        let Some(name) = name else { return Ok(None) };
        let state = self.state();
        match state.loaded.get(name) {
            Some(entry) => Ok(Some(AdapterUse {
                entry: entry.clone(),
                _user: self.users.clone(),
            })),
            None => Err(unknown(name, &state)),
        }
    }

    /// Whether there is an adapter of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.state().loaded.contains_key(name)
    }

    /// Whether any request uses an adapter.
    pub(crate) fn in_use(&self) -> bool {
        Arc::strong_count(&self.users) > 1
    }

    /// All of them by name, then those that are in use although unloaded.
    pub(crate) fn infos(&self) -> Vec<AdapterInfo> {
        let mut state = self.state();
        state.forget_gone();
        let loaded = state.loaded.values().map(|entry| {
            let users = Arc::strong_count(&entry.users) - 1;
            info(&entry.adapter, users, false)
        });
        let leaving = state.leaving.iter().filter_map(|(adapter, users)| {
            Some(info(&*adapter.upgrade()?, users.strong_count(), true))
        });
        loaded.chain(leaving).collect()
    }

    /// How many there are, and the bytes that they take, those still in use included.
    pub(crate) fn totals(&self) -> (usize, u64) {
        let mut state = self.state();
        state.forget_gone();
        let loaded = state.loaded.values().map(|entry| entry.adapter.bytes);
        let leaving = state.leaving.iter();
        let leaving = leaving.filter_map(|(adapter, _)| Some(adapter.upgrade()?.bytes));
        (state.loaded.len(), loaded.chain(leaving).sum())
    }

    /// The table is whole even if a thread panicked while it held the lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget_gone(&mut self) {
        self.leaving.retain(|(_, users)| users.strong_count() > 0);
    }
}

fn unknown(name: &str, state: &State) -> UnknownAdapter {
    UnknownAdapter {
        name: name.to_owned(),
        loaded: state.loaded.keys().cloned().collect(),
    }
}

fn info(adapter: &LoraAdapter, requests: usize, unloading: bool) -> AdapterInfo {
    AdapterInfo {
        name: adapter.name.clone(),
        path: adapter.path.clone(),
        rank: adapter.rank,
        modules: adapter.num_modules(),
        bytes: adapter.bytes,
        requests,
        unloading,
    }
}

fn check_memory(name: &str, device: &Device, needed: u64) -> Result<(), AdapterError> {
    match available_on(device) {
        Some(available) if needed > available => Err(AdapterError::Memory {
            name: name.to_owned(),
            shortage: MemoryShortage {
                needed,
                available,
                advice: "unload another adapter, or use one of a smaller rank".to_owned(),
            },
        }),
        _ => Ok(()),
    }
}
