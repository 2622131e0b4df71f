//! NVIDIA's library of matrix products (cuBLASLt), opened while the program runs.
//!
//! Functions, numbers and the two structures are those of `cublasLt.h`, `cublas_api.h` and `library_types.h`, which agree about them from 12.9 to 13.4;
//! all else is opaque, and made and set by the library's own functions.
//!
//! Matrices are column-major there. So rows of a weight are the columns of a matrix `columns x rows` that is taken transposed, activations are
//! `columns x tokens`, and the result has a column of `rows` values for each token, which is just how it is wanted. The bias has a value for each of its
//! rows and is added before it is written.

use std::ffi::{CStr, OsString, c_char, c_int, c_void};
use std::ops::RangeInclusive;
use std::ptr;

use libloading::Library;

use super::{DevicePtr, PRODUCT_ALIGNMENT, PlanHandle, Product, ProductShape};
use crate::CudaError;
use crate::cuda::libraries;

/// Names under which loaders know the library, newest first.
const NAMES: [&str; 3] = ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"];

/// Major versions whose numbers are known to be those below. The oldest is that of the oldest driver.
const MAJORS: RangeInclusive<u32> = 12..=13;

/// What the library answers.
type Status = c_int;
/// Something of the library's own.
type Opaque = *mut c_void;
type Create = unsafe extern "C" fn(*mut Opaque) -> Status;
type Destroy = unsafe extern "C" fn(Opaque) -> Status;
type SetAttribute = unsafe extern "C" fn(Opaque, c_int, *const c_void, usize) -> Status;

const CUBLAS_OP_T: i32 = 1;
const CUBLAS_COMPUTE_32F: c_int = 68;
const CUDA_R_32F: c_int = 0;
const CUDA_R_16BF: c_int = 14;
const CUBLASLT_MATMUL_DESC_TRANSA: c_int = 3;
const CUBLASLT_MATMUL_DESC_EPILOGUE: c_int = 7;
const CUBLASLT_MATMUL_DESC_BIAS_POINTER: c_int = 8;
const CUBLASLT_EPILOGUE_BIAS: u32 = 4;
const CUBLASLT_MATRIX_LAYOUT_COLS: c_int = 3;
const CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: c_int = 1;

/// `cublasLtMatmulAlgo_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Algorithm([u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Default)]
struct Heuristic {
    algorithm: Algorithm,
    workspace_bytes: usize,
    state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

macro_rules! functions {
    ($($field:ident: $type:ty = $symbol:literal;)*) => {
        /// What is called of the library.
        struct Functions {
            $($field: $type,)*
        }

        impl Functions {
            fn of(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: the header declares these functions with these types.
                unsafe {
                    Ok(Self {
                        $($field: *library.get::<$type>(concat!($symbol, "\0").as_bytes())?,)*
                    })
                }
            }
        }
    };
}
functions! {
    version: unsafe extern "C" fn() -> usize = "cublasLtGetVersion";
    status_name: unsafe extern "C" fn(Status) -> *const c_char = "cublasLtGetStatusName";
    status_text: unsafe extern "C" fn(Status) -> *const c_char = "cublasLtGetStatusString";
    create: Create = "cublasLtCreate";
    destroy: Destroy = "cublasLtDestroy";
    create_operation: unsafe extern "C" fn(*mut Opaque, c_int, c_int) -> Status = "cublasLtMatmulDescCreate";
    set_operation: SetAttribute = "cublasLtMatmulDescSetAttribute";
    destroy_operation: Destroy = "cublasLtMatmulDescDestroy";
    create_layout: unsafe extern "C" fn(*mut Opaque, c_int, u64, u64, i64) -> Status = "cublasLtMatrixLayoutCreate";
    set_layout: SetAttribute = "cublasLtMatrixLayoutSetAttribute";
    destroy_layout: Destroy = "cublasLtMatrixLayoutDestroy";
    create_preference: Create = "cublasLtMatmulPreferenceCreate";
    set_preference: SetAttribute = "cublasLtMatmulPreferenceSetAttribute";
    destroy_preference: Destroy = "cublasLtMatmulPreferenceDestroy";
    heuristic: unsafe extern "C" fn(
        Opaque, Opaque, Opaque, Opaque, Opaque, Opaque, Opaque, c_int, *mut Heuristic, *mut c_int,
    ) -> Status = "cublasLtMatmulAlgoGetHeuristic";
    matmul: unsafe extern "C" fn(
        Opaque, Opaque, *const f32, Opaque, Opaque, Opaque, Opaque, *const f32, Opaque, Opaque, Opaque, Opaque,
        *const Algorithm, Opaque, usize, *mut c_void,
    ) -> Status = "cublasLtMatmul";
}

/// The library.
pub(crate) struct CublasLt {
    functions: Functions,
    /// `(major, minor, patch)`.
    version: (u32, u32, u32),
}

impl CublasLt {
    /// Looks for a library that a driver for this version of CUDA runs, `1000 * major + 10 * minor`: the file that was named, where the loader, toolkits
    /// and packages of Python have it.
    ///
    /// # Errors
    /// [`CudaError::NoCublasLt`].
    pub(crate) fn find(named: Option<OsString>, driver: u32) -> Result<Self, CudaError> {
        let mut reason = "it is not installed (pip install nvidia-cublas-cu12), or its file has to be named in GLM_CUBLASLT".to_owned();
        for place in libraries::places(named, &NAMES) {
            // SAFETY: loading NVIDIA's library runs its initialisers, which is what it is for.
            let Ok(library) = (unsafe { Library::new(&place) }) else {
                continue;
            };
            let functions = Functions::of(&library);
            // What it tells the driver of its kernels lasts as long as the program.
            std::mem::forget(library);
            let place = place.display();
            let functions = match functions {
                Ok(functions) => functions,
                Err(error) => {
                    reason = format!("{place}: {error}");
                    continue;
                }
            };
            // SAFETY: the function asks for nothing.
            let version = unsafe { (functions.version)() } as u32;
            let version = (version / 10_000, version / 100 % 100, version % 100);
            let (major, minor, patch) = version;
            if !MAJORS.contains(&major) {
                let (oldest, newest) = (MAJORS.start(), MAJORS.end());
                reason = format!(
                    "{place} has version {major}.{minor}.{patch}, {oldest} to {newest} will do"
                );
            } else if major > driver / 1000 {
                reason = format!("{place} needs a driver for CUDA {major}");
            } else {
                return Ok(Self { functions, version });
            }
        }
        Err(CudaError::NoCublasLt { reason })
    }

    /// Its version, `(major, minor, patch)`.
    pub(crate) fn version(&self) -> (u32, u32, u32) {
        self.version
    }

    fn check(&self, call: &'static str, status: Status) -> Result<(), CudaError> {
        if status == 0 {
            return Ok(());
        }
        let read = |text: *const c_char| match text.is_null() {
            true => "unknown".into(),
            // SAFETY: what the library gives are constants of its own that end with a zero.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy(),
        };
        // SAFETY: the functions take any number.
        let (name, text) = unsafe {
            let functions = &self.functions;
            (
                (functions.status_name)(status),
                (functions.status_text)(status),
            )
        };
        let reason = format!("{} ({})", read(text), read(name));
        Err(CudaError::Call { call, reason })
    }

    /// Something that `create` makes and `destroy` takes back.
    fn owned(
        &self,
        call: &'static str,
        destroy: Destroy,
        create: impl FnOnce(*mut Opaque) -> Status,
    ) -> Result<Owned, CudaError> {
        let mut raw = ptr::null_mut();
        self.check(call, create(&raw mut raw))?;
        Ok(Owned { raw, destroy })
    }

    /// # Safety
    /// `set` is for what `owned` is, and the attribute is a `T`.
    unsafe fn set<T: Copy>(
        &self,
        call: &'static str,
        set: SetAttribute,
        owned: &Owned,
        (attribute, value): (c_int, T),
    ) -> Result<(), CudaError> {
        let start = ptr::from_ref(&value).cast();
        // SAFETY: the caller's promise; the library copies the value.
        let status = unsafe { set(owned.raw, attribute, start, size_of::<T>()) };
        self.check(call, status)
    }

    /// `columns` columns of `rows` values, `stride` from one to the next.
    fn layout(
        &self,
        kind: c_int,
        rows: u32,
        columns: u32,
        stride: u32,
    ) -> Result<Owned, CudaError> {
        let (rows, columns, stride) = (rows.into(), columns.into(), stride.into());
        self.owned(
            "cublasLtMatrixLayoutCreate",
            self.functions.destroy_layout,
            |raw| {
                // SAFETY: `raw` is valid for a write.
                unsafe { (self.functions.create_layout)(raw, kind, rows, columns, stride) }
            },
        )
    }

    fn describe(&self, shape: &ProductShape) -> Result<Description, CudaError> {
        const SET: &str = "cublasLtMatmulDescSetAttribute";
        let functions = &self.functions;
        let operation = self.owned(
            "cublasLtMatmulDescCreate",
            functions.destroy_operation,
            |raw| {
                // SAFETY: `raw` is valid for a write. Sums and what they are scaled with are f32.
                unsafe { (functions.create_operation)(raw, CUBLAS_COMPUTE_32F, CUDA_R_32F) }
            },
        )?;
        let set = functions.set_operation;
        // SAFETY: these attributes have 32 bits, and the last one those of a pointer. For a plan it is not looked into, but has to be as well aligned
        // as the pointers that come.
        unsafe {
            self.set(
                SET,
                set,
                &operation,
                (CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T),
            )?;
            if shape.biased {
                let epilogue = (CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
                self.set(SET, set, &operation, epilogue)?;
                let some = address(DevicePtr(PRODUCT_ALIGNMENT));
                self.set(
                    SET,
                    set,
                    &operation,
                    (CUBLASLT_MATMUL_DESC_BIAS_POINTER, some),
                )?;
            }
        }
        let &ProductShape {
            rows,
            columns,
            tokens,
            stride,
            ..
        } = shape;
        Ok(Description {
            operation,
            weights: self.layout(CUDA_R_16BF, columns, rows, columns)?,
            x: self.layout(CUDA_R_16BF, columns, tokens, columns)?,
            out: self.layout(CUDA_R_32F, rows, tokens, stride)?,
        })
    }

    /// Changes a description to that of this very product.
    fn narrow(&self, description: &Description, product: &Product) -> Result<(), CudaError> {
        let functions = &self.functions;
        let tokens = (CUBLASLT_MATRIX_LAYOUT_COLS, u64::from(product.shape.tokens));
        for layout in [&description.x, &description.out] {
            // SAFETY: the attribute has 64 bits.
            unsafe {
                self.set(
                    "cublasLtMatrixLayoutSetAttribute",
                    functions.set_layout,
                    layout,
                    tokens,
                )?
            };
        }
        if !product.shape.biased {
            return Ok(());
        }
        let bias = (CUBLASLT_MATMUL_DESC_BIAS_POINTER, address(product.bias));
        // SAFETY: the attribute is a pointer.
        unsafe {
            self.set(
                "cublasLtMatmulDescSetAttribute",
                functions.set_operation,
                &description.operation,
                bias,
            )
        }
    }

    /// No more memory than this.
    fn preference(&self, workspace_bytes: usize) -> Result<Owned, CudaError> {
        let functions = &self.functions;
        let preference = self.owned(
            "cublasLtMatmulPreferenceCreate",
            functions.destroy_preference,
            |raw| {
                // SAFETY: `raw` is valid for a write.
                unsafe { (functions.create_preference)(raw) }
            },
        )?;
        let bytes = (
            CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            workspace_bytes as u64,
        );
        // SAFETY: the attribute has 64 bits.
        unsafe {
            self.set(
                "cublasLtMatmulPreferenceSetAttribute",
                functions.set_preference,
                &preference,
                bytes,
            )?
        };
        Ok(preference)
    }
}

/// Something of the library's own, destroyed with this.
struct Owned {
    raw: Opaque,
    destroy: Destroy,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the library made it, and nobody else has it.
        let _ = unsafe { (self.destroy)(self.raw) };
    }
}

/// A product, as the library is told of it.
struct Description {
    operation: Owned,
    weights: Owned,
    x: Owned,
    out: Owned,
}

struct Plan {
    description: Description,
    algorithm: Algorithm,
    workspace_bytes: usize,
}

/// The library at work in a context.
pub(super) struct Products {
    plans: Vec<Plan>,
    handle: Owned,
    library: CublasLt,
}

impl Products {
    /// In the context that is this thread's, as it has to be for all that follows.
    pub(super) fn new(library: CublasLt) -> Result<Self, CudaError> {
        let functions = &library.functions;
        let handle = library.owned("cublasLtCreate", functions.destroy, |raw| {
            // SAFETY: `raw` is valid for a write.
            unsafe { (functions.create)(raw) }
        })?;
        Ok(Self {
            plans: Vec::new(),
            handle,
            library,
        })
    }

    pub(super) fn plan(
        &mut self,
        shape: &ProductShape,
        workspace_bytes: usize,
    ) -> Result<PlanHandle, CudaError> {
        const CALL: &str = "cublasLtMatmulAlgoGetHeuristic";
        let description = self.library.describe(shape)?;
        let preference = self.library.preference(workspace_bytes)?;
        let Description {
            operation,
            weights,
            x,
            out,
        } = &description;
        let (mut best, mut count) = (Heuristic::default(), 0);
        // SAFETY: all of it was made by the library; there is room for one result, which is what is asked for.
        let status = unsafe {
            (self.library.functions.heuristic)(
                self.handle.raw,
                operation.raw,
                weights.raw,
                x.raw,
                out.raw,
                out.raw,
                preference.raw,
                1,
                &raw mut best,
                &raw mut count,
            )
        };
        self.library.check(CALL, status)?;
        self.library.check(CALL, best.state)?;
        if count < 1 || best.workspace_bytes > workspace_bytes {
            let reason = format!("no way to compute {shape:?}");
            return Err(CudaError::Call { call: CALL, reason });
        }
        self.plans.push(Plan {
            description,
            algorithm: best.algorithm,
            workspace_bytes,
        });
        Ok(PlanHandle(self.plans.len() as u64 - 1))
    }

    /// # Safety
    /// As [`Context::multiply`](super::Context::multiply); the stream is of the context.
    pub(super) unsafe fn multiply(
        &self,
        plan: PlanHandle,
        product: &Product,
        workspace: DevicePtr,
        stream: *mut c_void,
    ) -> Result<(), CudaError> {
        const CALL: &str = "cublasLtMatmul";
        let plan = usize::try_from(plan.0)
            .ok()
            .and_then(|plan| self.plans.get(plan));
        let plan = plan.ok_or_else(|| CudaError::Call {
            call: CALL,
            reason: "no such plan".to_owned(),
        })?;
        self.library.narrow(&plan.description, product)?;
        let Description {
            operation,
            weights,
            x,
            out,
        } = &plan.description;
        let (one, zero) = (1.0, 0.0);
        // SAFETY: the caller's promise; all else was made by the library. Factors are read before it returns, and what is multiplied with zero is not.
        let status = unsafe {
            (self.library.functions.matmul)(
                self.handle.raw,
                operation.raw,
                &raw const one,
                address(product.weights),
                weights.raw,
                address(product.x),
                x.raw,
                &raw const zero,
                address(product.out),
                out.raw,
                address(product.out),
                out.raw,
                &raw const plan.algorithm,
                address(workspace),
                plan.workspace_bytes,
                stream,
            )
        };
        self.library.check(CALL, status)
    }
}

/// An address of the device's, which nobody looks into here.
fn address(ptr: DevicePtr) -> *mut c_void {
    ptr::without_provenance_mut(ptr.0 as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::cublaslt::switch;

    /// Needs no device: where the library is installed, it knows all that is called and set.
    #[test]
    fn the_library_has_what_is_asked_of_it() {
        let library = match CublasLt::find(switch(), 13_000) {
            Ok(library) => library,
            Err(error) => {
                assert!(switch().is_none_or(|file| file == "off"), "{error}");
                println!("skipped: {error}");
                return;
            }
        };
        println!("version {:?}", library.version());
        assert!(MAJORS.contains(&library.version().0));
        let shape = ProductShape {
            rows: 600,
            columns: 64,
            tokens: 128,
            stride: 700,
            biased: true,
        };
        let description = library.describe(&shape).unwrap();
        let product = Product {
            shape: ProductShape {
                tokens: 100,
                ..shape
            },
            weights: DevicePtr(0),
            x: DevicePtr(0),
            bias: DevicePtr(512),
            out: DevicePtr(0),
        };
        library.narrow(&description, &product).unwrap();
        library.preference(32 << 20).unwrap();
        // Sizes are looked at: this is how a wrong one would be told.
        // SAFETY: the attribute is not written, because four bytes are too few for it.
        let error = unsafe {
            let set = library.functions.set_layout;
            library.set(
                "set",
                set,
                &description.out,
                (CUBLASLT_MATRIX_LAYOUT_COLS, 1u32),
            )
        };
        let error = error.unwrap_err().to_string();
        assert!(error.contains("CUBLAS_STATUS_INVALID_VALUE"), "{error}");
    }

    #[test]
    fn a_library_that_the_driver_does_not_run_is_refused() {
        let Ok(library) = CublasLt::find(switch(), 13_000) else {
            return;
        };
        let error = match CublasLt::find(switch(), 11_080) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{:?} for a driver of 11.8", library.version()),
        };
        assert!(error.contains("needs a driver for CUDA 1"), "{error}");
    }
}
