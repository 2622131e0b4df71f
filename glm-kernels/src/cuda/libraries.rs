//! Where libraries of NVIDIA's that a driver does not bring may lie.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Variables of the environment that name a CUDA toolkit's folder.
const TOOLKITS: [&str; 2] = ["CUDA_HOME", "CUDA_PATH"];

/// Variables of the environment that name the folder of the Python that is in use.
const PYTHONS: [&str; 2] = ["VIRTUAL_ENV", "CONDA_PREFIX"];

/// The files to try for a library, the likeliest first: the one that was named, what the loader knows, what toolkits and the packages of Python have.
/// `names` are the library's, newest first; the last one has no version.
pub(super) fn places(named: Option<OsString>, names: &[&str]) -> Vec<PathBuf> {
    let toolkits = TOOLKITS.iter().filter_map(std::env::var_os);
    let toolkits = toolkits.chain(["/usr/local/cuda".into()]);
    let in_toolkits = toolkits.flat_map(|folder| {
        let name = names.last();
        name.map(|name| Path::new(&folder).join("lib64").join(name))
    });
    let pythons = PYTHONS.iter().filter_map(std::env::var_os);
    let in_packages = pythons.flat_map(|folder| in_packages(Path::new(&folder), names));
    let named = named.map(PathBuf::from);
    (named.into_iter())
        .chain(names.iter().map(PathBuf::from))
        .chain(in_toolkits)
        .chain(in_packages)
        .collect()
}

/// The files of these names in NVIDIA's packages of a Python: `lib/python3.12/site-packages/nvidia/cublas/lib`.
fn in_packages(python: &Path, names: &[&str]) -> Vec<PathBuf> {
    let versions = folders(&python.join("lib")).into_iter();
    let versions = versions.filter(|folder| {
        let name = folder.file_name().unwrap_or_default();
        name.as_encoded_bytes().starts_with(b"python3")
    });
    let packages: Vec<PathBuf> = versions
        .flat_map(|folder| folders(&folder.join("site-packages/nvidia")))
        .collect();
    let files = names.iter().flat_map(|name| {
        let packages = packages.iter();
        packages.map(move |package| package.join("lib").join(name))
    });
    files.filter(|file| file.exists()).collect()
}

/// What lies in a folder, in order of the names; nothing if there is no such folder.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_packages_are_found_newest_first_and_the_named_one_before_all() {
        let python = std::env::temp_dir().join(format!("glm-libraries-{}", std::process::id()));
        let packages = python.join("lib/python3.12/site-packages/nvidia");
        let files = ["cublas/lib/libcublasLt.so.12", "cu13/lib/libcublasLt.so.13"];
        for file in files.map(|file| packages.join(file)) {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        let names = ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"];
        let found = in_packages(&python, &names);
        std::fs::remove_dir_all(&python).unwrap();
        assert_eq!(found, [packages.join(files[1]), packages.join(files[0])]);
        assert!(in_packages(&python, &names).is_empty());

        let places = places(Some("/own/file".into()), &names);
        assert_eq!(places[0], Path::new("/own/file"));
        assert_eq!(places[1..4], names.map(PathBuf::from));
        assert!(places.contains(&PathBuf::from("/usr/local/cuda/lib64/libcublasLt.so")));
    }
}
