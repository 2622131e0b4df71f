//! The checks themselves: each looks at one thing and never fails.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use glm_core::OpenOptions;
use glm_runtime::bench::Machine;
use glm_runtime::inspect::{InspectOptions, inspect};
use glm_runtime::{
    CudaError, CudaReport, CudaTrial, DeviceInfo, EngineOptions, Isa, KvBudget, KvBudgetReason,
    available_memory,
};
use indicatif::BinaryBytes;

use crate::args::ModelArgs;
use crate::commands::open_source;
use crate::error::CliError;
use crate::values::DeviceChoice;

/// How it stands with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// As it should be.
    Well,
    /// Works, but could be better, or is good to know.
    Note,
    /// Does not work.
    Wrong,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Self::Well => "ok",
            Self::Note => "note",
            Self::Wrong => "wrong",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub mend: Option<String>,
}

impl Check {
    fn well(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Well,
            found: found.into(),
            mend: None,
        }
    }

    fn note(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Note,
            found: found.into(),
            mend: Some(mend.into()),
        }
    }

    fn wrong(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Wrong,
            found: found.into(),
            mend: Some(mend.into()),
        }
    }
}

/// The instruction set that kernels will use, and the ones there are.
pub fn isa() -> Check {
    let available = Isa::available()
        .iter()
        .map(|isa| isa.name())
        .collect::<Vec<_>>()
        .join(", ");
    match Isa::detect() {
        Err(error) => Check::wrong(
            "isa",
            error.to_string(),
            "unset GLM_ISA or set it to one that this CPU has",
        ),
        Ok(isa) => {
            let found = format!("{isa} (this CPU has {available})");
            let best = Isa::available().last().map(|isa| isa.name());
            match (best, isa.name()) {
                (Some(best), chosen) if best != chosen => Check::note(
                    "isa",
                    found,
                    format!("GLM_ISA asks for {chosen}; unset it to use {best}"),
                ),
                (_, "scalar") => Check::note(
                    "isa",
                    found,
                    "a CPU with AVX2 or AVX-512 would be many times as fast",
                ),
                _ => Check::well("isa", found),
            }
        }
    }
}

/// Processor and memory bandwidth, which bounds the speed of decoding.
pub fn machine(threads: Option<usize>) -> Option<Check> {
    // A wrong GLM_ISA makes this impossible, and `isa` has said so.
    Isa::detect().ok()?;
    Some(match Machine::measure(threads) {
        Ok(machine) => Check::well(
            "machine",
            format!(
                "{}, {} threads, memory reads {:.1} GB/s",
                machine.cpu, machine.threads, machine.bandwidth_gb_s
            ),
        ),
        Err(error) => Check::wrong(
            "machine",
            error.to_string(),
            "free some memory or ask for fewer --threads",
        ),
    })
}

/// How many processors this process may use.
pub fn processors(threads: Option<usize>) -> Check {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let quota = fs::read_to_string("/sys/fs/cgroup/cpu.max")
        .ok()
        .and_then(|text| cpu_quota(&text));
    let found = match quota {
        Some(quota) => format!("{usable} usable, a container limit of {quota:.1}"),
        None => format!("{usable} usable, no container limit"),
    };
    match threads {
        Some(threads) if threads > usable => {
            let mend = format!(
                "threads that wait for each other slow every step down: --threads {usable} or fewer"
            );
            Check::note("threads", format!("{found}, --threads {threads}"), mend)
        }
        _ => Check::well("threads", found),
    }
}

/// Processors that a cgroup v2 `cpu.max` ("quota period" or "max period") allows.
fn cpu_quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then(|| quota / period)
}

/// Memory that can still be allocated, container limits included.
pub fn memory() -> Check {
    const SMALL: u64 = 2 << 30;
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let limit = match limit {
        Some(bytes) => format!(", container limit {}", BinaryBytes(bytes)),
        None => String::new(),
    };
    match available_memory() {
        None => Check::note(
            "memory",
            "this system does not say how much is free",
            "watch it while loading a model",
        ),
        Some(bytes) if bytes < SMALL => Check::note(
            "memory",
            format!("{} free{limit}", BinaryBytes(bytes)),
            "only tiny models fit: close other programs or raise the container's limit",
        ),
        Some(bytes) => Check::well("memory", format!("{} free{limit}", BinaryBytes(bytes))),
    }
}

/// Driver, devices and kernels for graphics processors. Without them the program computes on the CPU, which is wrong only where
/// something else was asked for.
pub fn cuda(device: DeviceChoice) -> Check {
    let report = CudaReport::new();
    let ((major, minor), devices) = match (&report.driver, &report.devices) {
        (Ok(version), Ok(devices)) => (version, devices),
        (Err(error), _) | (_, Err(error)) => return no_device(device, error),
    };
    let names: Vec<String> = devices.iter().map(describe_device).collect();
    let compiler = match report.compiler {
        Some((major, minor)) => format!("compiler library {major}.{minor}"),
        None => "no compiler library, which only devices without kernels need".to_owned(),
    };
    let cublaslt = match &report.cublaslt {
        Ok((major, minor, patch)) => format!("cuBLASLt {major}.{minor}.{patch} for prompts"),
        Err(error) => format!("own kernels for prompts: {error}"),
    };
    let found = format!(
        "driver for CUDA {major}.{minor}; {}; {}; {compiler}; {cublaslt}",
        names.join(", "),
        describe_kernels(&report)
    );
    let ordinal = match device {
        DeviceChoice::Cuda(ordinal) => ordinal,
        DeviceChoice::Auto if !devices.is_empty() => 0,
        DeviceChoice::Auto => {
            let (ordinal, count) = (0, 0);
            return no_device(device, &CudaError::NoDevice { ordinal, count });
        }
        DeviceChoice::Cpu => return Check::well("cuda", found),
    };
    match (CudaTrial::new(ordinal), device) {
        (Ok(trial), _) => Check::well("cuda", format!("{found}; {}", describe_trial(&trial))),
        (Err(error), DeviceChoice::Cuda(_)) => no_device(device, &error),
        (Err(error), _) => Check::note(
            "cuda",
            format!("{found}; computing on the CPU: {error}"),
            "mend that, or say --device cpu",
        ),
    }
}

/// There is nothing to compute on but the CPU.
fn no_device(device: DeviceChoice, error: &dyn Display) -> Check {
    match device {
        DeviceChoice::Cuda(_) => Check::wrong("cuda", error.to_string(), "use --device cpu"),
        DeviceChoice::Auto | DeviceChoice::Cpu => {
            Check::well("cuda", format!("computing on the CPU: {error}"))
        }
    }
}

/// `cuda:0 opens, 138.9 GiB free, kernels: sm_90a`.
fn describe_trial(trial: &CudaTrial) -> String {
    let free = BinaryBytes(trial.memory.free);
    let (ordinal, kernels) = (trial.info.ordinal, &trial.kernels);
    format!("cuda:{ordinal} opens, {free} free, kernels: {kernels}")
}

/// `cuda:0 NVIDIA H200 (9.0, 139.8 GiB)`.
fn describe_device(device: &DeviceInfo) -> String {
    let (major, minor) = device.compute_capability;
    let memory = BinaryBytes(device.total_memory);
    let (ordinal, name) = (device.ordinal, &device.name);
    format!("cuda:{ordinal} {name} ({major}.{minor}, {memory})")
}

/// `14 modules of kernels for sm_80, sm_90a`.
fn describe_kernels(report: &CudaReport) -> String {
    let mut targets: Vec<&str> = Vec::new();
    for target in report.kernels.iter().flat_map(|(_, targets)| targets) {
        if !targets.contains(target) {
            targets.push(target);
        }
    }
    let modules = report.kernels.len();
    format!("{modules} modules of kernels for {}", targets.join(", "))
}

/// Where downloaded checkpoints go, and whether downloading is allowed.
pub fn hub(options: &OpenOptions) -> Check {
    let mode = if options.is_offline() {
        "downloads are off"
    } else {
        "downloads are on"
    };
    let folder = options.hub_cache_dir();
    let found = format!("{}, {mode}", folder.display());
    match existing_ancestor(&folder)
        .map(|path| fs::metadata(path).map(|data| data.permissions().readonly()))
    {
        Some(Ok(false)) => Check::well("hub", found),
        _ => Check::wrong(
            "hub",
            format!("{found}, not writable"),
            "set HF_HUB_CACHE to a folder that you may write to",
        ),
    }
}

fn existing_ancestor(path: &Path) -> Option<&Path> {
    path.ancestors().find(|ancestor| ancestor.exists())
}

/// Whether the model can be read and fits.
///
/// # Errors
/// The model cannot be opened at all.
pub fn model(args: &ModelArgs) -> Result<Check, CliError> {
    let source = open_source(args)?;
    let options = InspectOptions {
        quantize: args.quantize,
        kv_dtype: args.kv_dtype.dtype(),
        max_model_len: args.max_model_len,
    };
    let inspection = inspect(&source, &options);
    let found = format!(
        "{}: {}, needs {} for {} tokens",
        inspection.name,
        inspection.architecture,
        BinaryBytes(inspection.memory.total),
        inspection.memory.max_model_len
    );
    Ok(
        match (inspection.problems.first(), inspection.memory.advice) {
            (Some(problem), _) => Check::wrong(
                "model",
                format!("{found}; {problem}"),
                "download the checkpoint again",
            ),
            (None, Some(advice)) => {
                Check::wrong("model", format!("{found}; it does not fit"), advice)
            }
            (None, None) => Check::well("model", found),
        },
    )
}

/// How large the KV cache would be, and why: the arithmetic of a load.
///
/// # Errors
/// The model cannot be opened, or an option is out of its range.
pub fn kv_cache(args: &ModelArgs) -> Result<Check, CliError> {
    let options = EngineOptions {
        threads: args.threads,
        device: Some(args.device.to_string()),
        quantize: args.quantize,
        kv_dtype: args.kv_dtype.dtype(),
        max_model_len: args.max_model_len,
        ..EngineOptions::default()
    };
    let budget = KvBudget::plan(&open_source(args)?, &options).map_err(CliError::usage)?;
    let text = budget.to_string();
    let found = text.strip_prefix("KV cache: ").unwrap_or(&text);
    Ok(match budget.reason {
        KvBudgetReason::OneContext => Check::note(
            "kv cache",
            found,
            "only one long answer at a time: try --kv-dtype q8_0, --quantize or a shorter --max-model-len",
        ),
        _ => Check::well("kv cache", found),
    })
}

/// The check of a model that could not be opened.
pub fn unusable_model(error: &CliError) -> Check {
    Check::wrong(
        "model",
        error.message().unwrap_or("interrupted"),
        "name another --model; `--help` lists the kinds",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_limits_are_read() {
        assert_eq!(cpu_quota("150000 100000\n"), Some(1.5));
        assert_eq!(cpu_quota("max 100000\n"), None);
        assert_eq!(cpu_quota("junk"), None);
        assert_eq!(cpu_quota("1 0"), None);
    }

    #[test]
    fn a_device_that_was_asked_for_and_is_not_there_is_wrong() {
        let check = cuda(DeviceChoice::Cuda(99));
        assert_eq!(check.status, Status::Wrong, "{check:?}");
        assert_ne!(cuda(DeviceChoice::Auto).status, Status::Wrong);
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_the_one_above_it() {
        assert_eq!(
            existing_ancestor(Path::new("/no/such/folder")),
            Some(Path::new("/"))
        );
    }
}
