#!/usr/bin/env bash
# Everything that a machine with a graphics processor of NVIDIA's can say about this engine:
#
#     benches/gpu/run.sh run.json                                  # builds what it needs
#     benches/gpu/run.sh --prepare target/gpu                      # only builds, for a machine without Rust
#     benches/gpu/run.sh --with target/gpu run.json                # runs what was built, from a checkout of the same commit
#
# In stages: `checks` compares every operation with the CPU's, and tiny checkpoints with transformers; `logits` compares GLM-4-9B at its true
# size with transformers; `speed` measures GLM-4-9B with random weights, and the same in PyTorch; `memcheck`, `racecheck`, `synccheck` and
# `initcheck` look for errors with NVIDIA's compute-sanitizer. `--stage NAME` does only that one, `--limit SECONDS` ends everything in time. The
# most valuable comes first, each step has a limit of
# its own, and run.json has what is known after each step: nothing is lost if the machine is. What was printed is in run.log, and a
# table at the end has everything in short. What is not there (PyTorch, compute-sanitizer, ncu) is said to be missing and left out.
# The script fails if a step failed, took too long or could not be begun in time.
#
# MODEL (default random:glm-4-9b) is measured. Python 3.9 or newer is needed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# What travels with a checkout should be small.
most_mib=38

# Prints the programs that cargo builds, a name and a path a line.
built() {
    cargo "$@" --message-format=json-render-diagnostics | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable"):
        print(message["target"]["name"].replace("glm_kernels", "kernels"), message["executable"])'
}

# In a shell of its own, which cleans up.
prepare() (
    local folder=$1 name program
    unpacked=$(mktemp -d)
    trap 'rm -rf "$unpacked"' EXIT
    {
        built build --release -p glm-cli --bin glm-cli
        built test --no-run -p glm-kernels --lib
        # Engines as they are in a release: debug builds fill tensors, and no kernel would overlap the one before it.
        CARGO_PROFILE_DEV_DEBUG_ASSERTIONS=false built test --no-run -p glm-runtime --test 'cuda*'
    } | while read -r name program; do
        cp "$program" "$unpacked/$name"
        strip "$unpacked/$name" 2>/dev/null || true
    done
    mkdir -p "$folder"
    # Kernels and the demo are part of every program: with a window over all of them they are packed once.
    tar --create --directory "$unpacked" . | xz --lzma2=preset=6,dict=128MiB --threads=1 >"$folder/programs.tar.xz"
    describe >"$folder/commit"
    sizes "$folder"
)

# The commit, and whether anything has changed since.
describe() {
    git describe --always --dirty=-changed 2>/dev/null || echo unknown
}

sizes() {
    local folder=$1 bytes
    ls -l "$folder"
    bytes=$(cat "$folder"/* | wc -c)
    echo "$((bytes >> 20)) MiB to carry in $folder, of at most $most_mib"
    if ((bytes >> 20 >= most_mib)); then
        echo "too much: is it stripped (binutils), and is nothing else in the folder?" >&2
        return 1
    fi
}

programs=target/gpu
case ${1:-} in
    --prepare)
        prepare "${2:?a folder}"
        exit
        ;;
    --with)
        programs=${2:?a folder}
        shift 2
        ;;
    -h | --help) ;;
    *) prepare "$programs" ;;
esac
exec python3 benches/gpu/run.py --programs "$programs" "$@"
