//! An adapter's matrices on a device.

use std::collections::HashMap;
use std::path::PathBuf;

use glm_core::{Adapter, Projection, TensorData};
use glm_kernels::{Device, KernelError, Weight, WeightBuilder, WeightFormat};

/// Names a loaded adapter for the life of its engine. Never given twice: what the prefix cache holds of an adapter is not taken for
/// that of a later one of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AdapterId(pub(super) u64);

/// A matrix of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Site {
    /// Which decoder layer; 0 for what lies outside of them.
    pub layer: usize,
    /// Which of its matrices.
    pub projection: Projection,
}

impl Site {
    /// The embedding.
    pub const EMBEDDING: Self = Self {
        layer: 0,
        projection: Projection::Embedding,
    };
    /// The output layer.
    pub const HEAD: Self = Self {
        layer: 0,
        projection: Projection::Head,
    };
}

/// What an adapter adds to some of a linear layer's outputs: `scaling · B (A x)`.
#[derive(Debug)]
pub(super) struct Update {
    /// `[r, in]`; of the embedding `[V, r]`, a row for each token.
    pub(super) a: Weight,
    /// `[n, r]`.
    pub(super) b: Weight,
    /// The first of the n outputs.
    pub(super) start: usize,
    pub(super) scaling: f32,
}

/// An adapter, ready to compute with.
#[derive(Debug)]
pub struct LoraAdapter {
    pub(super) id: AdapterId,
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Largest rank of its modules.
    pub(super) rank: usize,
    /// Bytes of memory that its matrices take.
    pub(super) bytes: u64,
    updates: HashMap<Site, Vec<Update>>,
}

impl LoraAdapter {
    /// Packs the matrices of `adapter`, in the formats that they are stored in.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub(super) fn load(
        id: AdapterId,
        name: &str,
        adapter: &Adapter,
        device: &Device,
    ) -> Result<Self, KernelError> {
        let mut updates: HashMap<Site, Vec<Update>> = HashMap::new();
        let (mut rank, mut bytes) = (0, 0);
        for module in adapter.modules() {
            let site = Site {
                layer: module.layer,
                projection: module.projection,
            };
            let a = adapter.a(module);
            let update = Update {
                a: match module.projection {
                    Projection::Embedding => transposed(&a, device)?,
                    _ => weight(&a, device)?,
                },
                b: weight(&adapter.b(module), device)?,
                start: module.rows.start,
                scaling: module.scaling,
            };
            rank = rank.max(module.rank);
            bytes += (update.a.byte_len() + update.b.byte_len()) as u64;
            updates.entry(site).or_default().push(update);
        }
        Ok(Self {
            id,
            name: name.to_owned(),
            path: adapter.path().to_path_buf(),
            rank,
            bytes,
            updates,
        })
    }

    /// What it adds to the outputs of a linear layer.
    pub(super) fn updates(&self, site: Site) -> &[Update] {
        self.updates.get(&site).map_or(&[], Vec::as_slice)
    }

    /// How many matrix pairs it has.
    pub(super) fn num_modules(&self) -> usize {
        self.updates.values().map(Vec::len).sum()
    }
}

/// Bytes of memory that an adapter's matrices will take on `device`.
pub(crate) fn packed_bytes(adapter: &Adapter, device: &Device) -> u64 {
    let tensors = adapter.modules().iter().flat_map(|module| {
        let a_is_transposed = module.projection == Projection::Embedding;
        [
            (adapter.a(module), a_is_transposed),
            (adapter.b(module), false),
        ]
    });
    let bytes = |(tensor, is_transposed): (TensorData<'_>, bool)| {
        let packed = format(&tensor).ok().zip(rows_and_columns(&tensor));
        let packed = packed.and_then(|(format, (rows, columns))| match is_transposed {
            true => Weight::packed_bytes_on(device, format, columns, rows),
            false => Weight::packed_bytes_on(device, format, rows, columns),
        });
        packed.unwrap_or(usize::MAX) as u64
    };
    tensors.map(bytes).fold(0, u64::saturating_add)
}

/// The transposed matrix: its columns as rows.
fn transposed(tensor: &TensorData<'_>, device: &Device) -> Result<Weight, KernelError> {
    let (rows, columns) = matrix(tensor)?;
    let size = tensor.bytes.len() / (rows * columns).max(1);
    let mut bytes = Vec::with_capacity(tensor.bytes.len());
    for column in 0..columns {
        let values = tensor.bytes.chunks_exact(size.max(1));
        bytes.extend(values.skip(column).step_by(columns).flatten());
    }
    let mut builder = WeightBuilder::new(device, rows);
    builder.push_rows(format(tensor)?, columns, &bytes)?;
    builder.finish()
}

fn weight(tensor: &TensorData<'_>, device: &Device) -> Result<Weight, KernelError> {
    let (rows, columns) = matrix(tensor)?;
    let mut builder = WeightBuilder::new(device, columns);
    builder.push_rows(format(tensor)?, rows, &tensor.bytes)?;
    builder.finish()
}

fn matrix(tensor: &TensorData<'_>) -> Result<(usize, usize), KernelError> {
    rows_and_columns(tensor).ok_or_else(|| KernelError::Shape {
        op: "LoraAdapter::load",
        name: "a matrix",
        expected: vec![0, 0],
        found: tensor.info.shape.clone(),
    })
}

fn rows_and_columns(tensor: &TensorData<'_>) -> Option<(usize, usize)> {
    match *tensor.info.shape {
        [rows, columns] => Some((rows, columns)),
        _ => None,
    }
}

/// The kernels and the checkpoints each list GGML's types and do not know each other; they meet in the types' names.
fn format(tensor: &TensorData<'_>) -> Result<WeightFormat, KernelError> {
    tensor.info.ty.name().parse()
}
