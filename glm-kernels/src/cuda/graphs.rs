//! Steps that are recorded once and repeated: all their launches are one call of the driver then, and lie
//! closer together on the device.

use std::ffi::OsStr;
use std::sync::Arc;

use super::device::Graph;
use super::memory::DeviceAllocator;
use super::{CudaDevice, DeviceBuffer, DevicePtr};
use crate::indices::Layout;
use crate::tensor::element_count;
use crate::{CudaError, DType, Device, Indices, KernelError, Tensor};

const OP: &str = "a recorded step";

/// Set to `off`, the environment keeps steps from being recorded.
const SWITCH: &str = "GLM_CUDA_GRAPHS";

/// Recordings that are kept; of more, the one goes that was not used for longest. Each takes some memory of the
/// device's: hundreds of bytes a launch, and its lists.
const MOST: usize = 64;

/// What goes wrong once may pass, such as a lack of memory: recording begins anew. If something goes wrong again before so many
/// steps were repeated, it does not.
const PATIENCE: u64 = 1000;

/// What decides over the launches of a step besides the numbers in its lists.
type Key = [usize; 2];

/// The recordings of steps that differ in nothing but numbers, such as those that decode a token of each sequence.
///
/// Of the steps with a key, the first is run as it is, which loads its kernels and finds out what memory it takes;
/// the second is recorded; and from the third on, only the new numbers are copied to the device. Whatever goes
/// wrong with that, the step is run as it is, and so are all others if it goes wrong again soon. On the CPU every step is.
///
/// All recordings share their memory. So the result of a step is to be dropped before the next; while it is not,
/// steps are run as they are.
pub struct Graphs {
    device: Device,
    /// Where the buffers of these steps are; `None` if nothing is recorded.
    arena: Option<Arc<DeviceAllocator>>,
    /// By key, the latest used last; `None` after the first use.
    known: Vec<(Key, Option<Recording>)>,
    repeated: u64,
    /// How many steps had been repeated when something went wrong last.
    failed_at: Option<u64>,
    error: Option<String>,
}

impl Graphs {
    /// Nothing is recorded yet; nor will it be on the CPU, or where `GLM_CUDA_GRAPHS` is `off`.
    pub fn new(device: &Device) -> Self {
        Self::switched(device, std::env::var_os(SWITCH).as_deref())
    }

    fn switched(device: &Device, switch: Option<&OsStr>) -> Self {
        let on = switch.is_none_or(|value| value != "off");
        let cuda = device.as_cuda().filter(|_| on);
        Self {
            arena: cuda.map(CudaDevice::new_arena),
            device: device.clone(),
            known: Vec::new(),
            repeated: 0,
            failed_at: None,
            error: None,
        }
    }

    /// Whether steps are recorded.
    pub fn is_on(&self) -> bool {
        self.arena.is_some()
    }

    /// How many steps were repeated.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Why nothing is recorded any more, if something went wrong twice.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The result of `step`, f32: by running it, or by repeating what it did with the same `key`. Without a key it
    /// is run.
    ///
    /// With the same key a step does the same operations on the same tensors but those that it makes itself, and the
    /// numbers that differ are all in `inputs` and lists that were [packed](Indices::pack) with it. What operations
    /// check of such numbers holds for repeated steps too; that weights and caches are there still is for the
    /// caller to see to, who keeps this beside them.
    ///
    /// # Errors
    /// Those of `step`.
    pub fn run(
        &mut self,
        key: Option<[usize; 2]>,
        inputs: &Indices,
        mut step: impl FnMut() -> Result<Tensor, KernelError>,
    ) -> Result<Tensor, KernelError> {
        let idle = |arena: &Arc<DeviceAllocator>| arena.stats().live_bytes == 0;
        let idle = self.arena.as_ref().is_some_and(idle);
        let Some(key) = key.filter(|_| idle) else {
            return match step() {
                // What recordings hold may be what is missing.
                Err(error) if is_lack_of_memory(&error) && self.holds_memory() => {
                    self.fail("their memory was needed for other steps".to_owned());
                    step()
                }
                result => result,
            };
        };
        match self.recorded(key, inputs, &mut step) {
            Err(error) if !matches!(error, KernelError::DeviceLost { .. }) => {
                self.forget();
                let result = step();
                // Otherwise the step itself is to blame.
                if result.is_ok() {
                    self.fail(error.to_string());
                }
                result
            }
            result => result,
        }
    }

    fn recorded(
        &mut self,
        key: Key,
        inputs: &Indices,
        step: &mut dyn FnMut() -> Result<Tensor, KernelError>,
    ) -> Result<Tensor, KernelError> {
        let (Some(cuda), Some(arena)) = (self.device.as_cuda(), &self.arena) else {
            return step();
        };
        let known = self.known.iter().position(|(known, _)| *known == key);
        let (made, recording) = match known.map(|at| self.known.remove(at).1) {
            None => (cuda.rehearse(arena, step)?, None),
            Some(None) => {
                let (made, recording) = Recording::new(cuda, arena, inputs, step)?;
                (made, Some(recording))
            }
            Some(Some(mut recording)) => {
                let made = recording.repeat(&self.device, cuda, arena, inputs)?;
                self.repeated += 1;
                (made, Some(recording))
            }
        };
        if self.known.len() >= MOST {
            self.known.remove(0);
        }
        self.known.push((key, recording));
        Ok(made)
    }

    fn holds_memory(&self) -> bool {
        let arena = self.arena.as_ref();
        arena.is_some_and(|arena| arena.stats().cached_bytes > 0)
    }

    /// Drops all recordings, and gives their memory back.
    fn forget(&mut self) {
        self.known.clear();
        if let Some(arena) = &self.arena {
            arena.release_cached();
        }
    }

    /// Begins anew, or gives up if that was done lately.
    fn fail(&mut self, reason: String) {
        self.forget();
        let before = self.failed_at.replace(self.repeated);
        if before.is_some_and(|before| self.repeated - before < PATIENCE) {
            self.arena = None;
            self.error = Some(reason);
        }
    }
}

/// A step that was recorded.
struct Recording {
    graph: Graph,
    /// Where its launches look for the numbers.
    inputs: Arc<DeviceBuffer>,
    layout: Layout,
    /// Where they leave the result.
    out: DevicePtr,
    shape: Vec<usize>,
}

impl Recording {
    /// Records a step that was rehearsed, and does it.
    fn new(
        cuda: &CudaDevice,
        arena: &Arc<DeviceAllocator>,
        inputs: &Indices,
        step: &mut dyn FnMut() -> Result<Tensor, KernelError>,
    ) -> Result<(Tensor, Self), KernelError> {
        let mut place = Arc::new(cuda.allocate(inputs.packed_bytes())?);
        inputs.place(cuda, &mut place)?;
        let (made, graph) = cuda.record(arena, step)?;
        made.expect_dtype(OP, DType::F32)?;
        let recording = Self {
            graph,
            inputs: place,
            layout: inputs.layout(),
            out: made.cuda_ptr(OP, "result", cuda)?,
            shape: made.shape().to_vec(),
        };
        // SAFETY: the launches were asked for just now.
        unsafe { recording.graph.launch()? };
        Ok((made, recording))
    }

    /// Does the step again, with the numbers of `inputs`.
    fn repeat(
        &mut self,
        device: &Device,
        cuda: &CudaDevice,
        arena: &Arc<DeviceAllocator>,
        inputs: &Indices,
    ) -> Result<Tensor, KernelError> {
        if !self.layout.fits(inputs) {
            return Err(failed("the numbers are others than it was made for"));
        }
        inputs.place(cuda, &mut self.inputs)?;
        let bytes = element_count(&self.shape)? * DType::F32.size_in_bytes();
        let buffer = arena.allocate_again(self.out, bytes);
        let buffer = buffer.ok_or_else(|| failed("its result has no place"))?;
        // SAFETY: the lists lie where they did, and what was checked of them holds. Buffers of the step are the
        // arena's, which keeps them, and of which nobody has one now but the result's. What the step was given
        // besides, the caller of `Graphs::run` has kept.
        unsafe { self.graph.launch()? };
        Tensor::on_cuda(device, buffer, &self.shape)
    }
}

/// Whether what failed may succeed once memory of the device is free.
fn is_lack_of_memory(error: &KernelError) -> bool {
    use CudaError::{DriverMemory, OutOfMemory};

    matches!(
        error,
        KernelError::DeviceMemory { .. }
            | KernelError::Cuda(OutOfMemory { .. } | DriverMemory { .. })
    )
}

fn failed(reason: &str) -> KernelError {
    let reason = reason.to_owned();
    CudaError::Call { call: OP, reason }.into()
}

#[cfg(test)]
mod tests;
