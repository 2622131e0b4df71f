//! An open device, and what becomes of its errors.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread::{self, ThreadId};

use super::driver::{Context, DeviceInfo, GraphHandle};
use crate::{CudaError, KernelError};

/// A context and whether it still works.
///
/// Some errors break a context for good, for example an access out of bounds: whatever is asked of the
/// driver afterwards fails too, and may say something else. So the first one is kept, the driver is not
/// asked again, and every caller hears what happened.
///
/// While a thread records launches, those of others wait: what they ask of the stream would become a part of
/// the recording.
pub(crate) struct Session {
    context: Box<dyn Context>,
    info: DeviceInfo,
    lost: OnceLock<String>,
    /// Shared by calls, and a recording's alone.
    gate: RwLock<()>,
    /// The thread that records, whose own calls are not held up.
    recorder: Mutex<Option<ThreadId>>,
}

impl Session {
    pub(crate) fn new(context: Box<dyn Context>, info: DeviceInfo) -> Self {
        Self {
            context,
            info,
            lost: OnceLock::new(),
            gate: RwLock::new(()),
            recorder: Mutex::default(),
        }
    }

    pub(crate) fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// What people call the device: `cuda:0`.
    pub(crate) fn name(&self) -> String {
        format!("cuda:{}", self.info.ordinal)
    }

    /// Asks the driver.
    ///
    /// # Errors
    /// [`KernelError::DeviceLost`] after a fatal error, this one included; otherwise
    /// [`KernelError::Cuda`].
    pub(crate) fn call<T>(
        &self,
        call: impl FnOnce(&dyn Context) -> Result<T, CudaError>,
    ) -> Result<T, KernelError> {
        if self.lost.get().is_some() {
            return Err(self.device_lost());
        }
        let recorder = *self.recorder();
        let records = recorder.is_some_and(|recorder| recorder == thread::current().id());
        let _gate = (!records).then(|| self.gate.read().unwrap_or_else(PoisonError::into_inner));
        call(&*self.context).map_err(|error| match error {
            CudaError::Lost { .. } => {
                self.lost.get_or_init(|| error.to_string());
                self.device_lost()
            }
            error => error.into(),
        })
    }

    /// Records the launches of `work` instead of making them.
    ///
    /// # Errors
    /// Those of `work`, or why they could not be recorded.
    pub(crate) fn record<T>(
        &self,
        work: impl FnOnce() -> Result<T, KernelError>,
    ) -> Result<(T, GraphHandle), KernelError> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let recording = Recording::begin(self)?;
        let made = work()?;
        Ok((made, recording.end()?))
    }

    fn recorder(&self) -> MutexGuard<'_, Option<ThreadId>> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn device_lost(&self) -> KernelError {
        KernelError::DeviceLost {
            device: self.name(),
            reason: self.lost.get().cloned().unwrap_or_default(),
        }
    }
}

/// A recording that is under way; it ends with this, whatever happens.
struct Recording<'a> {
    session: &'a Session,
    open: bool,
}

impl<'a> Recording<'a> {
    fn begin(session: &'a Session) -> Result<Self, KernelError> {
        *session.recorder() = Some(thread::current().id());
        let mut recording = Self {
            session,
            open: false,
        };
        session.call(|context| context.begin_capture())?;
        recording.open = true;
        Ok(recording)
    }

    fn end(mut self) -> Result<GraphHandle, KernelError> {
        self.open = false;
        self.session.call(|context| context.end_capture())
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if self.open {
            let graph = self.session.call(|context| context.end_capture());
            // What was recorded of work that failed is of no use.
            let _ = graph.map(|graph| self.session.call(|context| context.destroy_graph(graph)));
        }
        *self.session.recorder() = None;
    }
}
