//! Kernels on the CPU: the very sources that a device runs, compiled by the system's C++ compiler with the
//! headers in `cuda/emulate`, which say what is emulated and what is not.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::ffi::{CStr, c_char, c_uint, c_void};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use libloading::Library;

use super::{KernelArg, LaunchConfig};
use crate::CudaError;
use crate::cuda::sources::{self, Module, PRELUDE};

/// `glm_launch_NAME` of `emulate.h`; null, or what went wrong.
type Launch = unsafe extern "C" fn(
    grid: *const c_uint,
    block: *const c_uint,
    shared_bytes: c_uint,
    arguments: *mut *mut c_void,
) -> *const c_char;

/// The headers; all of them count when it is decided whether a library is still right.
const HEADERS: [&str; 3] = ["emulate.h", "block.h", "fiber.h"];

/// Compiles and runs kernels.
#[derive(Default)]
pub(crate) struct Emulator {
    /// Loaded once and never closed: threads of theirs may still hold memory.
    libraries: Mutex<HashMap<&'static str, &'static Library>>,
}

impl Emulator {
    /// The emulator of this process, if there is a C++ compiler and no real device is asked for; otherwise says so, once.
    pub(crate) fn shared() -> Option<Arc<Self>> {
        static SHARED: OnceLock<Option<Arc<Emulator>>> = OnceLock::new();
        let start = || {
            // The program may have been carried to a machine where the kernels' sources are elsewhere or not at all.
            if std::env::var_os("GLM_REQUIRE_GPU").is_some() {
                println!(
                    "skipped: GLM_REQUIRE_GPU asks for a real device, this is for an emulated one"
                );
                return None;
            }
            // Under an emulator of another processor there may be a compiler for this one only.
            let machine = Command::new("c++").arg("-dumpmachine").output();
            let machine = machine.map(|output| output.stdout).unwrap_or_default();
            if machine.starts_with(std::env::consts::ARCH.as_bytes()) {
                return Some(Arc::default());
            }
            println!("skipped: no C++ compiler (c++) for this processor emulates kernels of CUDA");
            None
        };
        SHARED.get_or_init(start).clone()
    }

    /// Compiles a module, if that was not done before.
    pub(super) fn load(&self, module: &'static str) -> Result<&'static Library, CudaError> {
        let mut libraries = self
            .libraries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = libraries.get(module) {
            return Ok(library);
        }
        let failed = |reason: String| CudaError::Module { module, reason };
        let found = sources::find(module).ok_or_else(|| failed("no such module".to_owned()))?;
        let path = compile(found).map_err(failed)?;
        // SAFETY: loading runs the initialisers of what `compile` made of our own sources.
        let library = unsafe { Library::new(&path) };
        let library = library.map_err(|error| failed(error.to_string()))?;
        let library: &'static Library = Box::leak(Box::new(library));
        libraries.insert(module, library);
        Ok(library)
    }

    /// The kernel of this name.
    pub(super) fn find(&self, module: &'static str, name: &str) -> Result<(), CudaError> {
        self.entry(module, name).map(|_| ())
    }

    /// Runs a kernel, block after block.
    ///
    /// # Safety
    /// As for `Context::launch`.
    pub(super) unsafe fn launch(
        &self,
        module: &'static str,
        name: &str,
        config: &LaunchConfig,
        args: &[KernelArg],
    ) -> Result<(), CudaError> {
        let launch = self.entry(module, name)?;
        let mut args: Vec<*mut c_void> = args.iter().map(|arg| arg.as_ptr().cast_mut()).collect();
        // SAFETY: the entry has this type; the caller promises that the arguments are the kernel's.
        let message = unsafe {
            launch(
                config.grid.as_ptr(),
                config.block.as_ptr(),
                config.shared_bytes,
                args.as_mut_ptr(),
            )
        };
        if message.is_null() {
            return Ok(());
        }
        // SAFETY: a message is a C string that lives until this thread's next launch.
        let message = unsafe { CStr::from_ptr(message) };
        Err(CudaError::Lost {
            call: "launch",
            reason: format!("{name} {config:?}: {}", message.to_string_lossy()),
        })
    }

    fn entry(&self, module: &'static str, name: &str) -> Result<Launch, CudaError> {
        let library = self.load(module)?;
        // SAFETY: `GLM_KERNEL` of `emulate.h` defines such symbols with this type.
        let entry = unsafe { library.get::<Launch>(format!("glm_launch_{name}\0").as_bytes()) };
        let entry = entry.map_err(|error| CudaError::Module {
            module,
            reason: format!("no kernel `{name}`: {error}"),
        })?;
        Ok(*entry)
    }
}

/// Compiles a module to a library in the build's own folder, unless that was done before.
fn compile(module: &Module) -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (headers, sources) = (root.join("cuda/emulate"), root.join("src"));
    let mut hasher = DefaultHasher::new();
    for path in HEADERS.iter().map(|name| headers.join(name)) {
        let text = std::fs::read_to_string(&path);
        text.map_err(|error| format!("{}: {error}", path.display()))?
            .hash(&mut hasher);
    }
    for file in std::iter::once(&PRELUDE).chain(module.files) {
        file.text.hash(&mut hasher);
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let folder = program.with_file_name("glm-emulated");
    let library = folder.join(format!("{}-{:016x}.so", module.name, hasher.finish()));
    if library.exists() {
        return Ok(library);
    }
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    // Another process may do the same at the same time.
    let unfinished = library.with_extension(format!("{}.tmp", std::process::id()));
    let mut compiler = Command::new("c++");
    // Where the processor can fuse a product and a sum, the compiler would, even in `__fmul_rn`.
    let options =
        "-x c++ -std=c++17 -O1 -ffp-contract=off -fPIC -shared -DGLM_EMULATED -Wno-unknown-pragmas";
    compiler.args(options.split(' '));
    compiler.arg("-include").arg(headers.join("emulate.h"));
    compiler.arg("-include").arg(sources.join(PRELUDE.path));
    if let Some((last, before)) = module.files.split_last() {
        for file in before {
            compiler.arg("-include").arg(sources.join(file.path));
        }
        compiler.arg(sources.join(last.path));
    }
    let output = compiler.arg("-o").arg(&unfinished).output();
    let output = output.map_err(|error| format!("c++: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    std::fs::rename(&unfinished, &library).map_err(|error| error.to_string())?;
    Ok(library)
}
