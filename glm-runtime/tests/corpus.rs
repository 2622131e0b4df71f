//! Replays what fuzzing found, and its seeds: nothing that is read from a file may panic, or lose a block.

use std::path::Path;

use glm_runtime::fuzzing;

#[test]
fn prefix_cache() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/prefix_cache");
    let mut restored = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display()); // shown when the case fails
        restored.push(fuzzing::check_prefix_cache(&std::fs::read(path).unwrap()));
    }
    assert!(restored.contains(&None), "none is refused: {restored:?}");
    assert!(restored.contains(&Some(3)), "none is whole: {restored:?}");
}
