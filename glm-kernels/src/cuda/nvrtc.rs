//! NVIDIA's compiler library, where it is installed: kernels for devices that the pack has no image for.
//!
//! What it makes is kept in the user's cache, under a name that says what it was made of.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

use libloading::{Library, Symbol};

use super::libraries;
use super::sources::{Module, OPTIONS, hex};

/// Names under which loaders know the library, newest first.
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// A program of the library's.
type Program = *mut c_void;

/// The library.
pub(crate) struct Nvrtc {
    library: Library,
    /// `(major, minor)`.
    version: (u32, u32),
}

impl Nvrtc {
    /// Looks for the library: the file that `GLM_NVRTC` names, where the loader, CUDA toolkits and packages of Python have it.
    ///
    /// # Errors
    /// A phrase that says that it is not there.
    pub(crate) fn open() -> Result<Self, String> {
        let places = libraries::places(std::env::var_os("GLM_NVRTC"), &NAMES);
        for place in places {
            // SAFETY: loading NVIDIA's library runs its initialisers, which is what it is for.
            let Ok(library) = (unsafe { Library::new(&place) }) else {
                continue;
            };
            let mut nvrtc = Self {
                library,
                version: (0, 0),
            };
            let (mut major, mut minor): (c_int, c_int) = (0, 0);
            // SAFETY: the function has this type, and both are valid for a write.
            unsafe {
                let version: Symbol<'_, unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int> =
                    nvrtc.symbol("nvrtcVersion")?;
                version(&raw mut major, &raw mut minor);
            }
            nvrtc.version = (major.unsigned_abs(), minor.unsigned_abs());
            return Ok(nvrtc);
        }
        Err("NVIDIA's compiler library (libnvrtc) is not installed".to_owned())
    }

    /// The version of CUDA that it belongs to.
    pub(crate) fn version(&self) -> (u32, u32) {
        self.version
    }

    /// # Safety
    /// `T` is the type of the function of this name.
    unsafe fn symbol<T>(&self, name: &str) -> Result<Symbol<'_, T>, String> {
        // SAFETY: the caller's promise.
        let symbol = unsafe { self.library.get(format!("{name}\0").as_bytes()) };
        symbol.map_err(|error| error.to_string())
    }

    /// Machine code of a module for a target.
    fn cubin(&self, module: &Module, target: &str) -> Result<Vec<u8>, String> {
        let c_string = |text: String| CString::new(text).map_err(|error| error.to_string());
        let source = c_string(module.source())?;
        let name = c_string(format!("{}.cu", module.name))?;
        let target = std::iter::once(format!("--gpu-architecture={target}"));
        let options = target.chain(OPTIONS.iter().map(|option| (*option).to_owned()));
        let options: Vec<CString> = options.map(c_string).collect::<Result<_, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the functions have these types (nvrtc.h); texts end with zeros and live until the end; the program is destroyed
        // once, after its last use.
        unsafe {
            type Create = unsafe extern "C" fn(
                *mut Program,
                *const c_char,
                *const c_char,
                c_int,
                *const *const c_char,
                *const *const c_char,
            ) -> c_int;
            type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
            type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;

            let create: Symbol<'_, Create> = self.symbol("nvrtcCreateProgram")?;
            let compile: Symbol<'_, Compile> = self.symbol("nvrtcCompileProgram")?;
            let destroy: Symbol<'_, Destroy> = self.symbol("nvrtcDestroyProgram")?;
            let mut program: Program = ptr::null_mut();
            let made = create(
                &raw mut program,
                source.as_ptr(),
                name.as_ptr(),
                0,
                ptr::null(),
                ptr::null(),
            );
            if made != 0 {
                return Err(format!("nvrtcCreateProgram failed with code {made}"));
            }
            let compiled = compile(program, pointers.len() as c_int, pointers.as_ptr());
            let result = if compiled == 0 {
                self.read(program, "CUBIN")
            } else {
                let log = self.read(program, "ProgramLog").unwrap_or_default();
                let log = CStr::from_bytes_until_nul(&log).unwrap_or_default();
                Err(format!("the compiler says: {}", log.to_string_lossy()))
            };
            destroy(&raw mut program);
            result
        }
    }

    /// What the library has of a program: its `CUBIN` or its `ProgramLog`.
    ///
    /// # Safety
    /// `program` is one of this library's.
    unsafe fn read(&self, program: Program, what: &str) -> Result<Vec<u8>, String> {
        // SAFETY: the functions have these types; the second writes as many bytes as the first says.
        unsafe {
            let size_of: Symbol<'_, unsafe extern "C" fn(Program, *mut usize) -> c_int> =
                self.symbol(&format!("nvrtcGet{what}Size"))?;
            let get: Symbol<'_, unsafe extern "C" fn(Program, *mut c_char) -> c_int> =
                self.symbol(&format!("nvrtcGet{what}"))?;
            let mut size = 0;
            let code = size_of(program, &raw mut size);
            if code != 0 {
                return Err(format!("nvrtcGet{what}Size failed with code {code}"));
            }
            let mut bytes = vec![0; size];
            match get(program, bytes.as_mut_ptr().cast()) {
                0 => Ok(bytes),
                code => Err(format!("nvrtcGet{what} failed with code {code}")),
            }
        }
    }
}

/// Machine code of a module for a device, from the cache or from the compiler.
///
/// # Errors
/// A phrase that says what is missing or what the compiler said.
pub(super) fn compile(module: &Module, device: (u32, u32)) -> Result<Vec<u8>, String> {
    let nvrtc = Nvrtc::open()?;
    // Kernels for one generation alone (sm_90a) are asked for as such.
    let suffix = if device >= (9, 0) { "a" } else { "" };
    let target = format!("sm_{}{}{suffix}", device.0, device.1);
    let kept = cache_folder().map(|folder| {
        let of = format!("{} {:?}", module.fingerprint(), nvrtc.version);
        folder.join(format!("{}.{target}.cubin", hex(&of)))
    });
    if let Some(bytes) = kept.as_ref().and_then(|path| std::fs::read(path).ok()) {
        return Ok(bytes);
    }
    let bytes = nvrtc.cubin(module, &target)?;
    if let Some(path) = kept {
        keep(&path, &bytes);
    }
    Ok(bytes)
}

/// Where kernels are kept; `None` where a user has no home.
fn cache_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = set("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")))?;
    Some(cache.join("glm/kernels"))
}

/// Keeps a kernel for the next start. What fails here costs a second then, nothing else.
fn keep(path: &Path, bytes: &[u8]) {
    let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = path
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(&unfinished, bytes));
    if written
        .and_then(|()| std::fs::rename(&unfinished, path))
        .is_err()
    {
        let _ = std::fs::remove_file(&unfinished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::sources;

    /// Needs no device: where the library is installed, it makes what the pack would have.
    #[test]
    fn a_module_is_compiled_for_a_device_that_the_pack_has_nothing_for() {
        let nvrtc = match Nvrtc::open() {
            Ok(nvrtc) => nvrtc,
            Err(reason) => {
                assert!(std::env::var_os("GLM_NVRTC").is_none(), "{reason}");
                println!("skipped: {reason}");
                return;
            }
        };
        let module = sources::find("rms_norm").unwrap();
        let cubin = nvrtc.cubin(module, "sm_86").unwrap();
        assert!(cubin.starts_with(b"\x7fELF"));
        let error = nvrtc.cubin(module, "sm_1").unwrap_err();
        assert!(error.contains("the compiler says"), "{error}");
    }
}
