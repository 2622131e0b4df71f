//! Which rows of a step an adapter changes, and changing them.

use std::sync::Arc;

use glm_kernels::{KernelError, Tensor, gather_rows, linear, scatter_add};

use super::adapter::{LoraAdapter, Site};

/// The tokens of a step that use one adapter.
#[derive(Debug, Clone)]
pub struct AdapterRows {
    adapter: Arc<LoraAdapter>,
    /// Ascending.
    rows: Vec<u32>,
}

impl PartialEq for AdapterRows {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.adapter, &other.adapter) && self.rows == other.rows
    }
}

impl Eq for AdapterRows {}

impl AdapterRows {
    /// The sequences of a step by adapter. Tokens `query_start[s]..query_start[s + 1]` belong to sequence `s`, which uses the `s`-th
    /// of `adapters`, if any.
    pub(crate) fn group<'a>(
        query_start: &[u32],
        adapters: impl Iterator<Item = Option<&'a Arc<LoraAdapter>>>,
    ) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for (span, adapter) in query_start.array_windows().zip(adapters) {
            let (&[start, end], Some(adapter)) = (span, adapter) else {
                continue;
            };
            let known = groups
                .iter_mut()
                .find(|group| Arc::ptr_eq(&group.adapter, adapter));
            match known {
                Some(group) => group.rows.extend(start..end),
                None => groups.push(Self {
                    adapter: adapter.clone(),
                    rows: (start..end).collect(),
                }),
            }
        }
        groups
    }

    /// Its rows of `x`, `[T, in]` to `[R, in]`.
    fn of(&self, x: &Tensor) -> Result<Tensor, KernelError> {
        if x.shape().first() == Some(&self.rows.len()) {
            Ok(x.clone()) // all of them; this shares the memory
        } else {
            gather_rows(x, &self.rows)
        }
    }
}

/// Adds to `y`, the `[T, out]` that the linear layer at `site` makes of `x`, `[T, in]`, what each adapter makes of its rows.
pub(crate) fn add_updates(
    adapters: &[AdapterRows],
    site: Site,
    x: &Tensor,
    y: &mut Tensor,
) -> Result<(), KernelError> {
    for group in adapters {
        let updates = group.adapter.updates(site);
        if updates.is_empty() {
            continue;
        }
        let x = group.of(x)?; // [R, in]
        for update in updates {
            let low = linear(&x, &update.a, None)?; // [R, r]
            let high = linear(&low, &update.b, None)?; // [R, n]
            scatter_add(y, &group.rows, update.start, &high, update.scaling)?;
        }
    }
    Ok(())
}
