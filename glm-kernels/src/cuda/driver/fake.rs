//! A driver for tests: its memory is the host's, and it fails when told to. Kernels do nothing, or are run
//! by an [`Emulator`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::emulated::Emulator;
use super::host_memory::HostMemory;
use super::{
    Context, CopyHandle, DeviceInfo, DevicePtr, Driver, FunctionHandle, GraphHandle, KernelArg,
    LaunchConfig, MemoryInfo, ModuleHandle, PlanHandle, Product, ProductShape,
};
use crate::CudaError;

/// What a module takes of a device's memory while it is loaded.
const MODULE_BYTES: u64 = 4096;

/// Failures on request; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<Plan>);

#[derive(Debug, Default)]
struct Plan {
    /// Launches until one breaks the context, plus 1; 0 for never.
    fatal_launch: AtomicU64,
    /// Whether the context is broken.
    broken: AtomicBool,
    out_of_memory: AtomicBool,
    refuses_captures: AtomicBool,
    refuses_plans: AtomicBool,
    refuses_products: AtomicBool,
    launches: AtomicU64,
    calls: AtomicU64,
    captures: AtomicU64,
    replays: AtomicU64,
    graphs: AtomicU64,
    copies: AtomicU64,
    plans: AtomicU64,
}

impl Faults {
    /// The launch after `launches` more breaks the context, as an access out of bounds does.
    pub(crate) fn break_after(&self, launches: u64) {
        self.0.fatal_launch.store(launches + 1, Ordering::SeqCst);
    }

    /// From here on there is no memory, or there is again.
    pub(crate) fn set_out_of_memory(&self, on: bool) {
        self.0.out_of_memory.store(on, Ordering::SeqCst);
    }

    /// From here on nothing that was written down can be used, or it can again.
    pub(crate) fn refuse_captures(&self, on: bool) {
        self.0.refuses_captures.store(on, Ordering::SeqCst);
    }

    /// From here on NVIDIA's library knows no way to compute products, or does again.
    pub(crate) fn refuse_plans(&self, on: bool) {
        self.0.refuses_plans.store(on, Ordering::SeqCst);
    }

    /// From here on the products of NVIDIA's library fail, or do not again.
    pub(crate) fn refuse_products(&self, on: bool) {
        self.0.refuses_products.store(on, Ordering::SeqCst);
    }

    /// How often NVIDIA's library was asked how it computes a product, with success or without.
    pub(crate) fn plans(&self) -> u64 {
        self.0.plans.load(Ordering::SeqCst)
    }

    /// How often launches were written down, with success or without.
    pub(crate) fn captures(&self) -> u64 {
        self.0.captures.load(Ordering::SeqCst)
    }

    /// How often what was written down was done.
    pub(crate) fn replays(&self) -> u64 {
        self.0.replays.load(Ordering::SeqCst)
    }

    /// What is written down and not forgotten yet.
    pub(crate) fn graphs(&self) -> u64 {
        self.0.graphs.load(Ordering::SeqCst)
    }

    /// Copies from the device that nobody has waited for or forgotten yet.
    pub(crate) fn copies(&self) -> u64 {
        self.0.copies.load(Ordering::SeqCst)
    }

    /// Kernels that were launched, those of what was written down included.
    pub(crate) fn launches(&self) -> u64 {
        self.0.launches.load(Ordering::SeqCst)
    }

    /// Calls of the context.
    pub(crate) fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::SeqCst)
    }

    fn call(&self, call: &'static str) -> Result<(), CudaError> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        if self.0.broken.load(Ordering::SeqCst) {
            let reason = "the context is broken".to_owned();
            return Err(CudaError::Lost { call, reason });
        }
        Ok(())
    }

    fn launch(&self) -> Result<(), CudaError> {
        self.0.launches.fetch_add(1, Ordering::SeqCst);
        let left = self.0.fatal_launch.load(Ordering::SeqCst);
        self.0
            .fatal_launch
            .store(left.saturating_sub(1), Ordering::SeqCst);
        if left == 1 {
            self.0.broken.store(true, Ordering::SeqCst);
            return Err(CudaError::Lost {
                call: "launch",
                reason: "an illegal memory access was encountered (as asked for)".to_owned(),
            });
        }
        Ok(())
    }
}

/// A driver with devices that are not there.
pub(crate) struct FakeDriver {
    pub version: u32,
    pub devices: Vec<DeviceInfo>,
    pub faults: Faults,
    /// What runs kernels; without it they do nothing.
    pub emulator: Option<Arc<Emulator>>,
    /// Whether there is NVIDIA's library of matrix products. It works without an emulator.
    pub cublaslt: bool,
}

impl FakeDriver {
    /// `count` devices with `memory` bytes each.
    pub(crate) fn new(count: usize, memory: u64) -> Self {
        let device = |ordinal| DeviceInfo {
            ordinal,
            name: "Emulated".to_owned(),
            compute_capability: (9, 0),
            multiprocessors: 4,
            shared_per_block: 227 << 10,
            l2_bytes: 1 << 20,
            total_memory: memory,
            memory_bandwidth: 0,
        };
        Self {
            version: 12_090,
            devices: (0..count).map(device).collect(),
            faults: Faults::default(),
            emulator: None,
            cublaslt: false,
        }
    }
}

impl Driver for FakeDriver {
    fn version(&self) -> Result<u32, CudaError> {
        Ok(self.version)
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>, CudaError> {
        Ok(self.devices.clone())
    }

    fn open(&self, ordinal: usize) -> Result<Box<dyn Context>, CudaError> {
        let count = self.devices.len();
        let info = self.devices.get(ordinal);
        let info = info.ok_or(CudaError::NoDevice { ordinal, count })?;
        Ok(Box::new(FakeContext {
            memory: HostMemory::new(info.total_memory),
            faults: self.faults.clone(),
            emulator: self.emulator.clone(),
            cublaslt: self.cublaslt,
            state: Mutex::default(),
        }))
    }
}

/// A device that is not there; what it is given to do is done at once.
struct FakeContext {
    memory: HostMemory,
    faults: Faults,
    emulator: Option<Arc<Emulator>>,
    cublaslt: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_handle: u64,
    modules: HashMap<u64, &'static str>,
    functions: HashMap<u64, Function>,
    /// What is being written down.
    capture: Option<Vec<Node>>,
    graphs: HashMap<u64, Arc<[Node]>>,
    /// What was copied and not fetched.
    copies: HashMap<u64, Vec<u8>>,
    /// How products are done: for which shapes, and in how much memory.
    plans: HashMap<u64, (ProductShape, usize)>,
}

impl State {
    fn handle(&mut self) -> u64 {
        self.next_handle += 1;
        self.next_handle
    }
}

#[derive(Clone)]
struct Function {
    module: &'static str,
    name: String,
}

/// What can be written down.
enum Node {
    Launch {
        function: Function,
        config: LaunchConfig,
        args: Vec<KernelArg>,
    },
    Fill {
        to: DevicePtr,
        value: u8,
        bytes: usize,
    },
}

impl FakeContext {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call that cannot be written down.
    fn call(&self, call: &'static str) -> Result<(), CudaError> {
        self.faults.call(call)?;
        if self.lock().capture.is_some() {
            let reason = "launches are being written down".to_owned();
            return Err(CudaError::Call { call, reason });
        }
        Ok(())
    }

    fn take_copy(&self, call: &'static str, copy: CopyHandle) -> Result<Vec<u8>, CudaError> {
        self.faults.call(call)?;
        let copied = self.lock().copies.remove(&copy.0);
        let copied = copied.ok_or_else(|| CudaError::Call {
            call,
            reason: "invalid handle".to_owned(),
        })?;
        self.faults.0.copies.fetch_sub(1, Ordering::SeqCst);
        Ok(copied)
    }

    /// Does it, or writes it down.
    ///
    /// # Safety
    /// As for [`Context::launch`].
    unsafe fn take(&self, node: Node) -> Result<(), CudaError> {
        if let Some(capture) = &mut self.lock().capture {
            capture.push(node);
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.run(&node) }
    }

    /// # Safety
    /// As for [`Context::launch`].
    unsafe fn run(&self, node: &Node) -> Result<(), CudaError> {
        let (function, config, args) = match node {
            Node::Launch {
                function,
                config,
                args,
            } => (function, config, args),
            Node::Fill { to, value, bytes } => {
                let to = self.memory.range("fill", *to, *bytes)?;
                // SAFETY: the range was checked.
                unsafe { to.write_bytes(*value, *bytes) };
                return Ok(());
            }
        };
        self.faults.launch()?;
        let Some(emulator) = &self.emulator else {
            return Ok(());
        };
        // SAFETY: the caller's promise.
        unsafe { emulator.launch(function.module, &function.name, config, args) }?;
        self.memory.check().map_err(|error| CudaError::Lost {
            call: "launch",
            reason: format!("{} {config:?}: {error}", function.name),
        })
    }
}

impl Context for FakeContext {
    fn memory(&self) -> Result<MemoryInfo, CudaError> {
        self.faults.call("memory")?;
        Ok(self.memory.info())
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePtr, CudaError> {
        self.call("allocate")?;
        if self.faults.0.out_of_memory.load(Ordering::SeqCst) {
            return Err(CudaError::OutOfMemory { bytes });
        }
        self.memory.allocate(bytes)
    }

    unsafe fn free(&self, ptr: DevicePtr) -> Result<(), CudaError> {
        self.call("free")?;
        self.memory.free(ptr)
    }

    unsafe fn copy_in(&self, to: DevicePtr, bytes: &[u8]) -> Result<(), CudaError> {
        self.call("copy_in")?;
        let to = self.memory.range("copy_in", to, bytes.len())?;
        // SAFETY: the range was checked.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    unsafe fn copy_out(&self, from: DevicePtr, bytes: &mut [u8]) -> Result<(), CudaError> {
        self.call("copy_out")?;
        let from = self.memory.range("copy_out", from, bytes.len())?;
        // SAFETY: the range was checked.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn copy_out_later(
        &self,
        from: DevicePtr,
        bytes: usize,
    ) -> Result<CopyHandle, CudaError> {
        let mut copied = vec![0; bytes];
        // SAFETY: the caller's promise.
        unsafe { self.copy_out(from, &mut copied) }?;
        let mut state = self.lock();
        let handle = state.handle();
        state.copies.insert(handle, copied);
        self.faults.0.copies.fetch_add(1, Ordering::SeqCst);
        Ok(CopyHandle(handle))
    }

    fn wait_copy(&self, copy: CopyHandle, bytes: &mut [u8]) -> Result<(), CudaError> {
        let copied = self.take_copy("wait_copy", copy)?;
        bytes.copy_from_slice(&copied);
        Ok(())
    }

    fn forget_copy(&self, copy: CopyHandle) -> Result<(), CudaError> {
        self.take_copy("forget_copy", copy).map(|_| ())
    }

    unsafe fn fill(&self, to: DevicePtr, value: u8, bytes: usize) -> Result<(), CudaError> {
        self.faults.call("fill")?;
        // SAFETY: the caller's promise.
        unsafe { self.take(Node::Fill { to, value, bytes }) }
    }

    fn load_module(&self, module: &'static str) -> Result<ModuleHandle, CudaError> {
        self.call("load_module")?;
        if self.memory.info().free < MODULE_BYTES {
            return Err(CudaError::DriverMemory {
                call: "load_module",
            });
        }
        if let Some(emulator) = &self.emulator {
            emulator.load(module)?;
        }
        let mut state = self.lock();
        let handle = state.handle();
        state.modules.insert(handle, module);
        Ok(ModuleHandle(handle))
    }

    fn function(&self, module: ModuleHandle, name: &str) -> Result<FunctionHandle, CudaError> {
        self.faults.call("function")?;
        let mut state = self.lock();
        let module = *state
            .modules
            .get(&module.0)
            .ok_or_else(|| CudaError::Call {
                call: "function",
                reason: "invalid handle".to_owned(),
            })?;
        if let Some(emulator) = &self.emulator {
            emulator.find(module, name)?;
        }
        let handle = state.handle();
        let name = name.to_owned();
        state.functions.insert(handle, Function { module, name });
        Ok(FunctionHandle(handle))
    }

    unsafe fn launch(
        &self,
        function: FunctionHandle,
        config: &LaunchConfig,
        args: &[KernelArg],
    ) -> Result<(), CudaError> {
        let found = self.lock().functions.get(&function.0).cloned();
        let function = found.ok_or_else(|| CudaError::Call {
            call: "launch",
            reason: "invalid handle".to_owned(),
        })?;
        let threads: u64 = config.block.iter().map(|n| u64::from(*n)).product();
        if threads > 1024 || config.shared_bytes as usize > (227 << 10) {
            return Err(CudaError::Call {
                call: "launch",
                reason: format!("{}: invalid configuration {config:?}", function.name),
            });
        }
        self.faults.call("launch")?;
        let node = Node::Launch {
            function,
            config: *config,
            args: args.to_vec(),
        };
        // SAFETY: the caller's promise.
        unsafe { self.take(node) }
    }

    fn synchronize(&self) -> Result<(), CudaError> {
        self.call("synchronize")
    }

    fn begin_capture(&self) -> Result<(), CudaError> {
        self.call("begin_capture")?;
        self.lock().capture = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<GraphHandle, CudaError> {
        self.faults.call("end_capture")?;
        self.faults.0.captures.fetch_add(1, Ordering::SeqCst);
        let mut state = self.lock();
        let nodes = state.capture.take();
        let refused = self.faults.0.refuses_captures.load(Ordering::SeqCst);
        let Some(nodes) = nodes.filter(|_| !refused) else {
            return Err(CudaError::Call {
                call: "end_capture",
                reason: "operation failed due to a previous error during capture".to_owned(),
            });
        };
        let handle = state.handle();
        state.graphs.insert(handle, nodes.into());
        self.faults.0.graphs.fetch_add(1, Ordering::SeqCst);
        Ok(GraphHandle(handle))
    }

    unsafe fn launch_graph(&self, graph: GraphHandle) -> Result<(), CudaError> {
        self.call("launch_graph")?;
        let found = self.lock().graphs.get(&graph.0).cloned();
        let nodes = found.ok_or_else(|| CudaError::Call {
            call: "launch_graph",
            reason: "invalid handle".to_owned(),
        })?;
        self.faults.0.replays.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise.
        nodes.iter().try_for_each(|node| unsafe { self.run(node) })
    }

    fn destroy_graph(&self, graph: GraphHandle) -> Result<(), CudaError> {
        self.call("destroy_graph")?;
        if self.lock().graphs.remove(&graph.0).is_some() {
            self.faults.0.graphs.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn open_cublaslt(&self) -> Result<(), CudaError> {
        self.call("open_cublaslt")?;
        match self.cublaslt {
            true => Ok(()),
            false => Err(CudaError::NoCublasLt {
                reason: "this device has none".to_owned(),
            }),
        }
    }

    fn plan_product(
        &self,
        shape: &ProductShape,
        workspace_bytes: usize,
    ) -> Result<PlanHandle, CudaError> {
        self.call("plan_product")?;
        self.faults.0.plans.fetch_add(1, Ordering::SeqCst);
        if self.faults.0.refuses_plans.load(Ordering::SeqCst) {
            return Err(CudaError::Call {
                call: "plan_product",
                reason: "the operation is not supported (as asked for)".to_owned(),
            });
        }
        let mut state = self.lock();
        let handle = state.handle();
        state.plans.insert(handle, (*shape, workspace_bytes));
        Ok(PlanHandle(handle))
    }

    unsafe fn multiply(
        &self,
        plan: PlanHandle,
        product: &Product,
        workspace: DevicePtr,
    ) -> Result<(), CudaError> {
        self.call("multiply")?;
        let planned = self.lock().plans.get(&plan.0).copied();
        let fits = planned.is_some_and(|(shape, _)| {
            let tokens = product.shape.tokens;
            tokens <= shape.tokens && product.shape == ProductShape { tokens, ..shape }
        });
        let refused = self.faults.0.refuses_products.load(Ordering::SeqCst);
        let (true, false, Some((_, bytes))) = (fits, refused, planned) else {
            return Err(CudaError::Call {
                call: "multiply",
                reason: "the product could not be launched".to_owned(),
            });
        };
        self.faults.launch()?;
        self.memory.range("multiply", workspace, bytes)?;
        // SAFETY: the caller's promise.
        unsafe { multiply(&self.memory, product) }
    }
}

/// A product, one value after the other: what NVIDIA's library does, bf16 in and sums of f32.
///
/// # Safety
/// Nobody else uses the result meanwhile.
unsafe fn multiply(memory: &HostMemory, product: &Product) -> Result<(), CudaError> {
    let shape = &product.shape;
    let [rows, columns, tokens, stride] =
        [shape.rows, shape.columns, shape.tokens, shape.stride].map(|size| size as usize);
    let range = |ptr, bytes| memory.range("multiply", ptr, bytes);
    let weights: *const u16 = range(product.weights, rows * columns * 2)?.cast();
    let x: *const u16 = range(product.x, tokens * columns * 2)?.cast();
    let out: *mut f32 = range(product.out, ((tokens - 1) * stride + rows) * 4)?.cast();
    let bias: Option<*const f32> = match shape.biased {
        true => Some(range(product.bias, rows * 4)?.cast()),
        false => None,
    };
    let value = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    for (t, r) in (0..tokens).flat_map(|t| (0..rows).map(move |r| (t, r))) {
        // SAFETY: the ranges were checked, and allocations are aligned.
        unsafe {
            let row = std::slice::from_raw_parts(weights.add(r * columns), columns);
            let x = std::slice::from_raw_parts(x.add(t * columns), columns);
            let sum: f32 = (x.iter().zip(row))
                .map(|(x, w)| value(*x) * value(*w))
                .sum();
            out.add(t * stride + r)
                .write(sum + bias.map_or(0.0, |bias| bias.add(r).read()));
        }
    }
    Ok(())
}
