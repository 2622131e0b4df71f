#!/usr/bin/env bash
# Everything that a machine with a graphics processor of NVIDIA's can say about this engine, in one call:
#
#     benches/gpu/run.sh run.json                    # builds what it needs
#     benches/gpu/run.sh --prepare FOLDER            # only builds, for a machine without Rust
#     benches/gpu/run.sh --with FOLDER run.json      # runs what was built, from a checkout of the same commit
#
# It checks the kernels on random shapes against the CPU's and tiny checkpoints against transformers, looks for errors with compute-sanitizer if that is
# installed, and measures GLM-4-9B at its true size with random weights beside the same work in PyTorch, if that is installed. Each step is one object in
# the JSON: its name, its command, its status, how long it took, and what it printed. A step that fails does not stop the others; the script fails in the end.
#
# MODEL (default random:glm-4-9b) and QUICK=1 (only the checks and one measurement) change what is measured.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

model=${MODEL:-random:glm-4-9b}
folder=target/gpu

prepare() {
    mkdir -p "$folder"
    cargo build --release -p glm-cli
    cp target/release/glm-cli "$folder/glm-cli"
    build_tests kernels -p glm-kernels --lib
    build_tests golden -p glm-runtime --test cuda
    strip "$folder"/* 2>/dev/null || true
    ls -lh "$folder"
}

# Builds a test program and copies it to the folder under a name.
build_tests() {
    local name=$1 program
    shift
    program=$(cargo test --no-run --message-format=json "$@" |
        python3 -c 'import json, sys; print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable") and m["profile"]["test"]][-1])')
    cp "$program" "$folder/$name"
}

# Runs a step: its name, then its command. Standard output and errors are kept together; the last 200 lines go into the JSON.
steps=$(mktemp -d)
failed=0
step() {
    local name=$1 status=0 started=$SECONDS file
    shift
    file=$(printf '%s/%03d' "$steps" "$(find "$steps" -name '*.log' | wc -l)")
    echo "== $name"
    "$@" >"$file.log" 2>&1 || status=$?
    tail -n 3 "$file.log"
    [[ $status -eq 0 ]] || failed=1
    python3 - "$name" "$status" $((SECONDS - started)) "$file.log" "$*" >"$file.json" <<'PY'
import json, sys
name, status, seconds, log, command = sys.argv[1:]
lines = open(log, errors="replace").read().splitlines()
result = None
for line in reversed(lines):
    if line.startswith("{"):
        try:
            result = json.loads(line)
            break
        except ValueError:
            pass
if result is None:
    try:
        result = json.loads("\n".join(lines))
    except ValueError:
        pass
step = {"name": name, "command": command, "status": int(status), "seconds": int(seconds)}
step |= {"result": result} if result is not None else {"output": lines[-200:]}
print(json.dumps(step))
PY
}

bench() {
    "$folder/glm-cli" bench --device cuda --model "$model" --json --repeat 3 "$@"
}

checks() {
    export GLM_REQUIRE_GPU=1
    step "doctor" "$folder/glm-cli" doctor --device cuda --json
    CARGO_MANIFEST_DIR=$PWD/glm-kernels step "every operation against the CPU's" "$folder/kernels" --test-threads 1
    CARGO_MANIFEST_DIR=$PWD/glm-runtime step "checkpoints against transformers" "$folder/golden" --test-threads 1
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck synccheck; do
            CARGO_MANIFEST_DIR=$PWD/glm-kernels step "compute-sanitizer $tool" \
                compute-sanitizer --tool "$tool" --error-exitcode 9 "$folder/kernels" cuda --test-threads 1
        done
    fi
    step "an answer of the demo" "$folder/glm-cli" generate --device cuda --prompt "Hello" --max-tokens 16
}

measurements() {
    step "bf16, one stream" bench --prompt-tokens 512 --gen-tokens 128 --batch 1 --depth 0,2048 --profile
    GLM_CUDA_GRAPHS=off step "bf16, one stream, kernel by kernel" bench --prompt-tokens 512 --gen-tokens 128 --batch 1 --depth 0,2048
    [[ -z ${QUICK:-} ]] || return 0
    step "bf16, streams at 2k" bench --prompt-tokens 512 --gen-tokens 64 --batch 8,64,256 --depth 2048
    step "bf16, prompt of 8k" bench --prompt-tokens 8192 --gen-tokens 1 --batch 1
    local format
    for format in fp8 int4 q8_0 q4_k q6_k; do
        step "$format, one stream" bench --quantize "$format" --prompt-tokens 512 --gen-tokens 128 --batch 1,64 --depth 0
    done
    if python3 -c 'import torch, transformers' 2>/dev/null; then
        step "PyTorch" python3 benches/gpu/reference.py
    fi
}

case ${1:-} in
    --prepare)
        folder=${2:?a folder}
        prepare
        exit
        ;;
    --with)
        folder=${2:?a folder}
        shift 2
        ;;
    *) prepare ;;
esac
output=${1:?a file for the results}
checks
measurements
python3 - "$steps" "$output" <<'PY'
import json, pathlib, subprocess, sys
steps, output = sys.argv[1:]
run = lambda *command: subprocess.run(command, capture_output=True, text=True).stdout.strip()
result = {
    "device": run("nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"),
    "commit": run("git", "rev-parse", "--short", "HEAD"),
    "steps": [json.loads(path.read_text()) for path in sorted(pathlib.Path(steps).glob("*.json"))],
}
pathlib.Path(output).write_text(json.dumps(result, indent=1) + "\n")
PY
rm -rf "$steps"
echo "written: $output"
exit $failed
