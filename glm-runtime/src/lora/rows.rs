//! Which rows of a step an adapter changes, and changing them.

use std::sync::Arc;

use glm_kernels::{Indices, KernelError, Tensor, embed, gather_rows, linear, scatter_add};

use super::adapter::{LoraAdapter, Site};

/// The tokens of a step that use one adapter.
#[derive(Debug, Clone)]
pub struct AdapterRows {
    adapter: Arc<LoraAdapter>,
    /// Ascending.
    rows: Indices,
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
        let mut groups: Vec<(&Arc<LoraAdapter>, Vec<u32>)> = Vec::new();
        for (span, adapter) in query_start.array_windows().zip(adapters) {
            let (&[start, end], Some(adapter)) = (span, adapter) else {
                continue;
            };
            let known = groups
                .iter_mut()
                .find(|(known, _)| Arc::ptr_eq(known, adapter));
            match known {
                Some((_, rows)) => rows.extend(start..end),
                None => groups.push((adapter, (start..end).collect())),
            }
        }
        let group = |(adapter, rows): (&Arc<LoraAdapter>, Vec<u32>)| Self {
            adapter: adapter.clone(),
            rows: rows.into(),
        };
        groups.into_iter().map(group).collect()
    }

    /// The same of the rows that are picked out of a step, ascending: each has a new number then.
    pub(crate) fn picked(groups: &[Self], rows: &[u32]) -> Vec<Self> {
        let of_group = |group: &Self| {
            let picked = (0..).zip(rows);
            let picked = picked.filter(|(_, row)| group.rows.binary_search(row).is_ok());
            let rows: Vec<u32> = picked.map(|(at, _)| at).collect();
            let adapter = group.adapter.clone();
            let rows = Indices::from(rows);
            (!rows.is_empty()).then_some(Self { adapter, rows })
        };
        groups.iter().filter_map(of_group).collect()
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

/// Adds to `x`, the `[T, C]` that the embedding has for `token_ids`, what each adapter has for those of its rows.
pub(crate) fn add_embeddings(
    adapters: &[AdapterRows],
    token_ids: &[u32],
    x: &mut Tensor,
) -> Result<(), KernelError> {
    for group in adapters {
        for update in group.adapter.updates(Site::EMBEDDING) {
            let ids = group.rows.iter().map(|&row| token_ids[row as usize]);
            let low = embed(&update.a, &ids.collect::<Vec<_>>().into())?; // [R, r]
            let high = linear(&low, &update.b, None)?; // [R, C]
            scatter_add(x, &group.rows, update.start, &high, update.scaling)?;
        }
    }
    Ok(())
}
