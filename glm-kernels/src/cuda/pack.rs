//! Kernels that were compiled beforehand, and what is done where none fits.
//!
//! `cuda/build_pack.py` compiles every module for the generations of devices. A device takes the image for its own generation;
//! then one for an earlier device of the same major version; then, where NVIDIA's compiler library is installed, what it makes of
//! the source ([`super::nvrtc`]); then PTX, which the driver translates. What the driver refuses is passed over too, as is an image
//! whose source has changed since.

use std::cmp::Reverse;
use std::fmt;

use crate::CudaError;

use super::nvrtc;
use super::sources::{self, Module};

/// A module compiled for a target.
#[derive(Debug)]
pub(super) struct Image {
    module: &'static str,
    /// `sm_90a`, `compute_80`.
    target: &'static str,
    /// [`Module::fingerprint`] of what it was made of.
    source: &'static str,
    /// The size once it is inflated.
    bytes: usize,
    /// Deflated, with zlib's header.
    packed: &'static [u8],
}

/// Everything that was compiled.
static IMAGES: &[Image] = &include!("../../cuda/pack/images.rs");

/// A module in a form that a driver loads.
pub(super) struct Loadable {
    /// A cubin, or PTX that ends with a zero.
    pub bytes: Vec<u8>,
    /// Whether its kernels wait for those before them themselves, so that they may begin early: it was compiled for compute
    /// capability 9.0 or above.
    pub may_overlap: bool,
}

/// What a target is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Machine code for devices of this capability (`a`: of no other), or for later ones of the same major version.
    Sm { capability: (u32, u32), exact: bool },
    /// PTX for devices of this capability or above.
    Compute((u32, u32)),
}

impl Target {
    fn parse(name: &str) -> Option<Self> {
        let (kind, number) = name.split_once('_')?;
        let exact = number.ends_with('a');
        let number: u32 = number.trim_end_matches('a').parse().ok()?;
        let capability = (number / 10, number % 10);
        match kind {
            "sm" => Some(Self::Sm { capability, exact }),
            "compute" => Some(Self::Compute(capability)),
            _ => None,
        }
    }

    /// How good it is for a device, the more the better; `None` if it does not run there.
    fn fitness(self, device: (u32, u32)) -> Option<u32> {
        match self {
            Self::Sm { capability, exact } => {
                let runs = if exact {
                    capability == device
                } else {
                    capability.0 == device.0 && capability.1 <= device.1
                };
                runs.then_some(2 + 2 * capability.1 + u32::from(exact))
            }
            Self::Compute(capability) => (capability <= device).then_some(0),
        }
    }

    fn capability(self) -> (u32, u32) {
        match self {
            Self::Sm { capability, .. } | Self::Compute(capability) => capability,
        }
    }
}

/// A form of a module that a device may run.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// An image of the pack.
    Packed(&'static Image, Target),
    /// What the compiler library makes of the source.
    Compiled(&'static Module),
}

impl Form {
    /// For a driver.
    ///
    /// # Errors
    /// A phrase that says what is damaged or missing, or what the compiler said.
    pub(super) fn load(self, device: (u32, u32)) -> Result<Loadable, String> {
        match self {
            Self::Packed(image, target) => inflate(image, target),
            Self::Compiled(module) => Ok(Loadable {
                bytes: nvrtc::compile(module, device)?,
                may_overlap: device >= (9, 0),
            }),
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packed(image, Target::Sm { .. }) => f.write_str(image.target),
            Self::Packed(image, Target::Compute(_)) => {
                write!(f, "{}, translated by the driver", image.target)
            }
            Self::Compiled(_) => f.write_str("the compiler library"),
        }
    }
}

/// The forms of the module `name` for a device, the best first.
///
/// # Errors
/// [`CudaError::Module`] if there is no such module.
pub(super) fn forms(name: &'static str, device: (u32, u32)) -> Result<Vec<Form>, CudaError> {
    let module = sources::find(name).ok_or_else(|| CudaError::Module {
        module: name,
        reason: "there is no such module".to_owned(),
    })?;
    let images = fitting(IMAGES, name, &module.fingerprint(), device);
    let packed = |(image, target)| Form::Packed(image, target);
    let is_code = |(_, target): &(_, Target)| matches!(target, Target::Sm { .. });
    let (code, ptx): (Vec<_>, Vec<_>) = images.into_iter().partition(is_code);
    let code = code.into_iter().map(packed);
    let ptx = ptx.into_iter().map(packed);
    Ok(code.chain([Form::Compiled(module)]).chain(ptx).collect())
}

/// The images of a module that run on a device, the best first.
fn fitting<'a>(
    images: &'a [Image],
    module: &str,
    fingerprint: &str,
    device: (u32, u32),
) -> Vec<(&'a Image, Target)> {
    let own = images
        .iter()
        .filter(|image| image.module == module && image.source == fingerprint);
    let mut found: Vec<_> = own
        .filter_map(|image| {
            let target = Target::parse(image.target)?;
            Some((target.fitness(device)?, (image, target)))
        })
        .collect();
    found.sort_by_key(|(fitness, _)| Reverse(*fitness));
    found.into_iter().map(|(_, image)| image).collect()
}

/// What kernels a device would be given, for people: a target, or who makes them.
pub(crate) fn choice(device: (u32, u32)) -> Option<String> {
    let mut forms = forms(sources::MODULES.first()?.name, device)
        .ok()?
        .into_iter();
    let usable = |form: &Form| match form {
        Form::Packed(..) => true,
        Form::Compiled(_) => nvrtc::Nvrtc::open().is_ok(),
    };
    forms.find(usable).map(|form| form.to_string())
}

fn inflate(image: &Image, target: Target) -> Result<Loadable, String> {
    let bytes = miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(image.packed, image.bytes);
    Ok(Loadable {
        bytes: bytes.map_err(|error| format!("the pack is damaged: {error}"))?,
        may_overlap: target.capability() >= (9, 0),
    })
}

/// The modules and the targets they were compiled for, for people.
pub(crate) fn contents() -> Vec<(&'static str, Vec<&'static str>)> {
    let targets = |module: &Module| {
        let images = IMAGES.iter().filter(|image| image.module == module.name);
        images.map(|image| image.target).collect()
    };
    sources::MODULES
        .iter()
        .map(|module| (module.name, targets(module)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn every_module_was_compiled_from_the_source_that_is_here() {
        for module in sources::MODULES {
            let images: Vec<_> = IMAGES.iter().filter(|i| i.module == module.name).collect();
            assert!(
                !images.is_empty(),
                "{}: run cuda/build_pack.py",
                module.name
            );
            for image in images {
                let target = Target::parse(image.target).unwrap();
                let name = format!("{} for {}", module.name, image.target);
                assert_eq!(
                    image.source,
                    module.fingerprint(),
                    "{name}: run cuda/build_pack.py"
                );
                let bytes = inflate(image, target).unwrap().bytes;
                assert_eq!(bytes.len(), image.bytes, "{name}");
                match target {
                    Target::Sm { .. } => assert!(bytes.starts_with(b"\x7fELF"), "{name}"),
                    Target::Compute(_) => assert!(bytes.ends_with(b"\0"), "{name}"),
                }
            }
        }
        assert!(
            IMAGES
                .iter()
                .all(|image| sources::find(image.module).is_some())
        );
    }

    #[test]
    fn a_device_takes_what_was_compiled_for_the_nearest_one() {
        let image = |target, source| Image {
            module: "m",
            target,
            source,
            bytes: 0,
            packed: &[],
        };
        let images = [
            image("compute_80", "s"),
            image("sm_80", "s"),
            image("sm_89", "s"),
            image("sm_90a", "s"),
            image("sm_120a", "older"),
        ];
        let targets = |device| -> Vec<&str> {
            let found = fitting(&images, "m", "s", device);
            found.iter().map(|(image, _)| image.target).collect()
        };
        for (device, expected) in [
            ((8, 0), &["sm_80", "compute_80"][..]),
            ((8, 6), &["sm_80", "compute_80"]),
            ((8, 9), &["sm_89", "sm_80", "compute_80"]),
            ((9, 0), &["sm_90a", "compute_80"]),
            ((10, 0), &["compute_80"]),
            ((12, 0), &["compute_80"]),
            ((7, 5), &[]),
        ] {
            assert_eq!(targets(device), expected, "{device:?}");
        }
        assert!(fitting(&images, "other", "s", (9, 0)).is_empty());
    }

    #[test]
    fn a_form_that_the_driver_refuses_has_others_behind_it() {
        let names = |device| -> Vec<String> {
            let forms = forms("linear_gemm", device).unwrap();
            forms.iter().map(Form::to_string).collect()
        };
        let (compiler, ptx) = (
            "the compiler library",
            "compute_80, translated by the driver",
        );
        assert_eq!(names((8, 9)), ["sm_89", "sm_80", compiler, ptx]);
        assert_eq!(names((9, 0)), ["sm_90a", compiler, ptx]);
        assert_eq!(names((10, 3)), [compiler, ptx]);
        assert_eq!(names((7, 0)), [compiler]);
        let forms = forms("linear_gemm", (9, 0)).unwrap();
        let overlap = |form: &Form| form.load((9, 0)).unwrap().may_overlap;
        assert!(overlap(&forms[0]) && !overlap(&forms[2]));
        assert_eq!(choice((12, 0)).as_deref(), Some("sm_120a"));
        let error = super::forms("no_such", (9, 0)).unwrap_err();
        assert!(error.to_string().contains("no such module"), "{error}");
    }

    /// What `build_pack.py` compiles a module for that does not say it.
    const TARGETS: [&str; 6] = [
        "sm_80",
        "sm_89",
        "sm_90a",
        "sm_100a",
        "sm_120a",
        "compute_80",
    ];

    #[test]
    fn every_kernel_is_there_for_every_target_and_leaves_room_for_the_blocks_it_wants() {
        let manifest = include_str!("../../cuda/pack/manifest.json");
        let manifest: Value = serde_json::from_str(manifest).unwrap();
        let mut checked = 0;
        for module in sources::MODULES {
            let targets = match module.targets {
                [] => &TARGETS[..],
                targets => targets,
            };
            let images = IMAGES.iter().filter(|image| image.module == module.name);
            let there: Vec<&str> = images.map(|image| image.target).collect();
            assert_eq!(there, targets, "{}: run cuda/build_pack.py", module.name);
            let kernels = |target: &str| {
                let entry = &manifest["modules"][module.name]["targets"][target]["kernels"];
                entry.as_object().cloned().unwrap()
            };
            let names: BTreeSet<String> = kernels(targets[0]).keys().cloned().collect();
            assert!(!names.is_empty(), "{}", module.name);
            for target in targets.iter().filter(|target| target.starts_with("sm_")) {
                let found = kernels(target);
                let own: BTreeSet<String> = found.keys().cloned().collect();
                assert_eq!(own, names, "{} for {target}", module.name);
                for (kernel, taken) in &found {
                    check_budget(&format!("{kernel} for {target}"), taken);
                    checked += 1;
                }
            }
        }
        assert!(checked > 500, "{checked}");
    }

    /// What a kernel takes, against its launch bounds.
    fn check_budget(what: &str, taken: &Value) {
        /// Of a multiprocessor, of every target.
        const REGISTERS: u64 = 65_536;

        let number = |name: &str| taken[name].as_u64().unwrap();
        assert_eq!(number("spill_stores") + number("spill_loads"), 0, "{what}");
        let (threads, blocks) = (number("threads"), number("blocks"));
        assert!(threads > 0 && blocks > 0, "{what}: __launch_bounds__");
        // Registers are given to a warp in units of 8 for each thread.
        let budget = REGISTERS / (threads * blocks) / 8 * 8;
        let registers = number("registers");
        assert!(
            registers <= budget,
            "{what}: {registers} registers, {budget} leave room for {blocks} blocks of {threads} threads"
        );
    }
}
