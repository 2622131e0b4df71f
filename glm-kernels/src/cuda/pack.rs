//! Kernels that were compiled beforehand, and what is done where none fits.
//!
//! `cuda/build_pack.py` compiles every module for the generations of devices. A device takes the image for its own generation;
//! then one for an earlier device of the same major version; then, where NVIDIA's compiler library is installed, what it makes of
//! the source ([`super::nvrtc`]); then PTX, which the driver translates. An image whose source has changed since is passed over.

use crate::CudaError;

use super::nvrtc;
use super::sources::{self, Module};

/// A module compiled for a target.
#[derive(Debug)]
struct Image {
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
enum Target {
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

/// The module `name` for a device.
///
/// # Errors
/// [`CudaError::Module`] if there is neither an image nor a compiler, with what the compiler said.
pub(super) fn image(name: &'static str, device: (u32, u32)) -> Result<Loadable, CudaError> {
    let failed = |reason: String| CudaError::Module {
        module: name,
        reason,
    };
    let module = sources::find(name).ok_or_else(|| failed("there is no such module".to_owned()))?;
    let fingerprint = module.fingerprint();
    let best = best(IMAGES, name, &fingerprint, device);
    if let Some((image, target)) = best.filter(|(_, target)| matches!(target, Target::Sm { .. })) {
        return inflate(image, target).map_err(failed);
    }
    match (nvrtc::compile(module, device), best) {
        (Ok(bytes), _) => Ok(Loadable {
            bytes,
            may_overlap: device >= (9, 0),
        }),
        (Err(_), Some((image, target))) => inflate(image, target).map_err(failed),
        (Err(error), None) => Err(failed(format!(
            "no image for compute capability {}.{}, and {error}",
            device.0, device.1
        ))),
    }
}

/// The image that is best for a device, if any runs there.
fn best<'a>(
    images: &'a [Image],
    module: &str,
    fingerprint: &str,
    device: (u32, u32),
) -> Option<(&'a Image, Target)> {
    images
        .iter()
        .filter(|image| image.module == module && image.source == fingerprint)
        .filter_map(|image| {
            let target = Target::parse(image.target)?;
            Some((target.fitness(device)?, image, target))
        })
        .max_by_key(|(fitness, ..)| *fitness)
        .map(|(_, image, target)| (image, target))
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
        let target = |device| best(&images, "m", "s", device).map(|(image, _)| image.target);
        for (device, expected) in [
            ((8, 0), Some("sm_80")),
            ((8, 6), Some("sm_80")),
            ((8, 9), Some("sm_89")),
            ((9, 0), Some("sm_90a")),
            ((10, 0), Some("compute_80")),
            ((12, 0), Some("compute_80")),
            ((7, 5), None),
        ] {
            assert_eq!(target(device), expected, "{device:?}");
        }
        assert!(best(&images, "other", "s", (9, 0)).is_none());
    }
}
