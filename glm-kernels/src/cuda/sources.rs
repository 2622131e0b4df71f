//! The kernels' sources. A module is what is compiled and loaded together: one or more files of CUDA C++,
//! after the prelude.

/// A file of a source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct File {
    /// Where it lies, from `src`.
    pub path: &'static str,
    /// What is in it.
    pub text: &'static str,
}

/// Kernels that are compiled together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Module {
    /// What it is asked for by.
    pub name: &'static str,
    /// In the order in which they are compiled.
    pub files: &'static [File],
    /// The targets that it is compiled for; none stands for all.
    #[cfg(test)]
    pub targets: &'static [&'static str],
}

macro_rules! file {
    ($path:literal) => {
        File {
            path: $path,
            text: include_str!(concat!("../", $path)),
        }
    };
}

// The targets of a module are of interest to `build_pack.py`, and to the test of what it wrote.
macro_rules! modules {
    ($($name:literal = [$($path:literal),*] $(on [$($target:literal),*])?),* $(,)?) => {
        &[$(Module {
            name: $name,
            files: &[$(file!($path)),*],
            #[cfg(test)]
            targets: &[$($($target),*)?],
        }),*]
    };
}

/// What every module starts with.
pub(crate) const PRELUDE: File = file!("cuda/prelude.cu");

/// Every module, for all targets unless it says for which. `cuda/build_pack.py` reads this list too.
pub(crate) const MODULES: &[Module] = modules![
    "gather_rows" = ["gather_rows/gather_rows.cu"],
    "linear_float" = ["linear/cuda/float.cu"],
    "linear_gemm" = ["linear/cuda/formats.cu", "linear/cuda/gemm.cu"],
    "linear_gemv" = ["linear/cuda/formats.cu", "linear/cuda/gemv.cu"],
    "linear_rows" = ["linear/cuda/formats.cu", "linear/cuda/rows.cu"],
    "paged_attention_any" = ["paged_attention/cuda/kv.cu", "paged_attention/cuda/any.cu"],
    "paged_attention_decode" = ["paged_attention/cuda/kv.cu", "paged_attention/cuda/decode.cu"],
    "paged_attention_prefill" = ["paged_attention/cuda/kv.cu", "paged_attention/cuda/prefill.cu"],
    "linear_wgmma" = ["linear/cuda/wgmma.cu"] on ["sm_90a"],
    "rms_norm" = ["rms_norm/rms_norm.cu"],
    "rope" = ["rope/rope.cu"],
    "sample" = ["sample/sample.cu"],
    "scatter_add" = ["scatter_add/scatter_add.cu"],
    "swiglu" = ["swiglu/swiglu.cu"],
];

/// Options of the compiler beside the target.
#[cfg(feature = "cuda")]
pub(crate) const OPTIONS: &[&str] = &["--std=c++17"];

/// The module of this name.
pub(crate) fn find(name: &str) -> Option<&'static Module> {
    MODULES.iter().find(|module| module.name == name)
}

#[cfg(feature = "cuda")]
impl Module {
    /// What is compiled: prelude and files, with the places that errors name.
    pub(crate) fn source(&self) -> String {
        let files = std::iter::once(&PRELUDE).chain(self.files);
        let parts = files.map(|file| format!("#line 1 \"{}\"\n{}", file.path, file.text));
        parts.collect::<Vec<_>>().join("\n")
    }

    /// SHA-256 of source and options, in hexadecimal digits: what an image was made of.
    pub(crate) fn fingerprint(&self) -> String {
        let mut text = OPTIONS.join("\n");
        text.push('\n');
        text.push_str(&self.source());
        hex(&text)
    }
}

/// SHA-256 of a text, in hexadecimal digits.
#[cfg(feature = "cuda")]
pub(crate) fn hex(text: &str) -> String {
    use sha2::{Digest, Sha256};

    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
