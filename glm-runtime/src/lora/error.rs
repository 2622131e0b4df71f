//! Why an adapter could not be loaded or found.

use glm_core::LoadError;
use glm_kernels::KernelError;

use crate::memory::MemoryShortage;

/// A request, or whoever unloads, names an adapter that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no adapter `{name}`; {}", known(.loaded))]
pub struct UnknownAdapter {
    /// The name asked for.
    pub name: String,
    /// The names there are.
    pub loaded: Vec<String>,
}

fn known(loaded: &[String]) -> String {
    if loaded.is_empty() {
        "none is loaded".to_owned()
    } else {
        format!("loaded: {}", loaded.join(", "))
    }
}

/// Why an adapter could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// Its files cannot be read, ask for what is not computed, or do not fit the model.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// There is no memory for its matrices after all.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Its matrices do not fit into the free memory.
    #[error("adapter `{name}`: {shortage}")]
    Memory {
        /// The adapter's name.
        name: String,
        /// The numbers.
        #[source]
        shortage: MemoryShortage,
    },
    /// A name that no request could give.
    #[error("an adapter needs a name")]
    EmptyName,
    /// Two adapters cannot have one name.
    #[error("there is an adapter `{name}` already: unload it first, or choose another name")]
    NameTaken {
        /// The name.
        name: String,
    },
}
