#!/usr/bin/env python3
"""What `run.sh` does on a machine with a graphics processor; its head says how it is called."""

import argparse
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

sys.dont_write_bytecode = True  # the checkout stays as it is
from steps import Run

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
PROGRAMS = ["glm-cli", "kernels", "cuda"]
TOOLS_OF_SANITIZER = ["memcheck", "racecheck", "synccheck", "initcheck"]
STAGES = ["checks", "logits", "speed", *TOOLS_OF_SANITIZER]
# Where tools and the driver are on machines whose environment does not say so.
TOOLS = ["/usr/local/cuda/bin", "/usr/local/nvidia/bin"]
LIBRARIES = ["/usr/local/nvidia/lib64"]
# What an H200 should reach with GLM-4-9B: step, number, comparison, value.
TARGETS = [
    ("bf16, 1 stream", "tok_s", ">=", 195),
    ("bf16, prompt of 8192", "tok_s", ">=", 27_000),
    ("bf16, prompt of 8192", "ttft_ms", "<=", 300),
    ("bf16, 64 streams at 2048", "tok_s", ">=", 8_400),
    ("bf16, 256 streams at 2048", "tok_s", ">=", 17_000),
    ("fp8, 1 stream", "tok_s", ">=", 320),
    ("int4, 1 stream", "tok_s", ">=", 450),
]
# A step that decodes, repeated from what was recorded: under a sanitizer this one stands for the engine.
ENGINE_TEST = "decoding_is_recorded_and_repeated"
NCU_METRICS = "gpu__time_duration.sum,dram__bytes.sum"
NCU_KERNELS = 2500  # those of two short prompts, of one of 2048 tokens and of a few steps that decode


@dataclass
class Query:
    """One thing to measure with `glm-cli bench --stdin`, so often, in so many seconds."""

    query: dict
    repeat: int
    limit: float

    @property
    def name(self):
        if self.query["measure"] == "prefill":
            return f"prompt of {self.query['tokens']}"
        batch, depth = self.query["batch"], self.query["depth"]
        return f"{batch} stream{'s' * (batch > 1)}" + (f" at {depth}" if depth else "")


def decode(batch, depth=0):
    # A context is read anew each time, and so measured once.
    repeat, tokens = (3, 128) if batch * depth < 10_000 else (1, 64)
    return Query({"measure": "decode", "batch": batch, "depth": depth, "gen_tokens": tokens}, repeat, 180.0)


def prefill(tokens):
    return Query({"measure": "prefill", "tokens": tokens}, 3, 60.0)


class Gpu:
    """The stages, over the programs in a folder."""

    def __init__(self, run, programs, model, device):
        self.run, self.programs, self.model, self.device = run, programs, model, device

    def program(self, name):
        return self.programs / name

    def config(self):
        """The configuration of a model with random weights, which PyTorch can be given as well."""
        path = REPO / "models" / "presets" / f"{self.model.removeprefix('random:')}.json"
        return path if self.model.startswith("random:") and path.exists() else None

    def checks(self):
        run, cli = self.run, self.program("glm-cli")
        run.command("doctor", [cli, "doctor", "--device", self.device, "--json"], 60)
        answer = [cli, "generate", "--device", self.device, "--prompt", "Hello", "--max-tokens", "16"]
        run.command("an answer of the demo", answer, 60, read=lambda text: {"answer": text.strip()[-100:]})
        run.tests("every operation against the CPU's", self.program("kernels"), device_tests(), 330, 120, required())
        for program in engine_programs(self.programs):
            run.tests(f"checkpoints against transformers ({program.name})", program, [], 180, 90, required())

    def logits(self):
        self.with_pytorch("logits", "logits.py", ["--program", self.program("glm-cli"), "--device", self.device], 480)

    def speed(self):
        run = self.run
        self.with_pytorch("limits", "reference.py", ["--only", "limits"], 90)
        at_2k = [decode(64, 2048), decode(256, 2048)]
        # From 128 tokens on there is cuBLASLt, if it is installed.
        short_prompts = [prefill(tokens) for tokens in [128, 192, 384, 1024]]
        self.session("bf16", [decode(1), decode(1, 2048), prefill(8192), *short_prompts, decode(64), *at_2k])
        self.session("bf16 GLM_CUDA_GRAPHS=off", [decode(1), decode(64)], env={"GLM_CUDA_GRAPHS": "off"})
        self.session("bf16 GLM_CUDA_OVERLAP=off", [decode(1), decode(64)], env={"GLM_CUDA_OVERLAP": "off"})
        self.session("bf16 GLM_RUN_AHEAD=off", [decode(1), decode(64)], env={"GLM_RUN_AHEAD": "off"})
        self.session("bf16 GLM_CUBLASLT=off", [prefill(8192), *short_prompts, decode(64)], env={"GLM_CUBLASLT": "off"})
        self.session("fp8", [decode(1), prefill(8192), decode(64)], ["--quantize", "fp8"])
        self.session("int4", [decode(1), prefill(8192), decode(64)], ["--quantize", "int4"])
        self.kernels()
        self.session("bf16 in steps of 512", [prefill(8192)], ["--max-num-batched-tokens", "512"])
        self.session("bf16 in steps of 8192", [prefill(8192)], ["--max-num-batched-tokens", "8192"])
        self.session("bf16 GLM_WGMMA=off", [prefill(8192), decode(64)], env={"GLM_WGMMA": "off"})
        self.with_pytorch("PyTorch", "reference.py", ["--only", "model"], 420)
        for quantize in ["q8_0", "q4_k", "q6_k"]:
            self.session(quantize, [decode(1), prefill(8192), decode(64)], ["--quantize", quantize])

    def sanitizer(self, tool):
        under = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--print-limit", "20"]
        # What it finds in NVIDIA's own library would count as ours.
        env = {**required(), "GLM_CUBLASLT": "off"}
        for program in engine_programs(self.programs)[:1]:
            self.run.tests(f"{tool} of recorded steps", program, [ENGINE_TEST], 150, 140, env, under)
        self.run.tests(f"{tool} of every operation", self.program("kernels"), device_tests(), 390, 180, env, under)

    def stage(self, name):
        if name in TOOLS_OF_SANITIZER:
            self.sanitizer(name)
        else:
            getattr(self, name)()

    def session(self, name, queries, more=(), env=None):
        """Measures with one engine; where that is too large, without the largest batch."""
        command = bench(self.program("glm-cli"), self.model, self.device, queries) + list(more)
        if self.run.session(name, command, queries, 150, env) is not False:
            return
        largest = max(query.query.get("batch", 0) for query in queries)
        fewer = [query for query in queries if query.query.get("batch", 0) < largest]
        if fewer and largest > 1:
            self.run.session(name, bench(self.program("glm-cli"), self.model, self.device, fewer) + list(more), fewer, 150, env)

    def with_pytorch(self, name, script, more, limit):
        """A script in this folder that compares with transformers."""
        if not self.config():
            self.run.add(name, "missing", reason=f"no configuration of {self.model} for transformers: only of random:PRESET")
            return
        command = [sys.executable, "-u", HERE / script, "--config", self.config(), *more]
        self.run.script(name, command, limit)

    def kernels(self):
        """What each kernel takes, one after the other, by NVIDIA's profiler."""
        queries = [prefill(2048), decode(1)]
        command = bench(self.program("glm-cli"), self.model, self.device, queries)[:-1] + ["--json"]
        command[command.index("--gen-tokens") + 1] = "4"
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder, "ncu.csv")
            ncu = ["ncu", "--clock-control", "none", "--metrics", NCU_METRICS, "--launch-count", NCU_KERNELS]
            ncu += ["--csv", "--print-units", "base", "--log-file", report]
            # Of a recorded step nothing would be seen but that it is one.
            one_by_one = {"GLM_CUDA_GRAPHS": "off"}
            self.run.command("kernels by ncu", ncu + command, 180, one_by_one, lambda _: by_kernel(report.read_text()))


def bench(cli, model, device, queries):
    """The command that answers these queries; its options say how large they get."""
    def most(key, least):
        return ",".join(map(str, sorted({least} | {query.query[key] for query in queries if key in query.query})))

    tokens = max((query.query.get("gen_tokens", 1) for query in queries))
    command = [cli, "bench", "--device", device, "--model", model, "--threads", "8", "--repeat", "1", "--gen-tokens", str(tokens)]
    return command + ["--prompt-tokens", most("tokens", 16), "--batch", most("batch", 1), "--depth", most("depth", 0), "--stdin"]


def required():
    """The environment of tests that may not do without a device; those of the engine find the tiny checkpoints by it."""
    return {"GLM_REQUIRE_GPU": "1", "CARGO_MANIFEST_DIR": str(REPO / "glm-runtime"), "RUST_BACKTRACE": "1"}


def device_tests():
    """The modules with tests that take a device, as a part of the tests' names."""
    source = REPO / "glm-kernels" / "src"
    modules = []
    for path in sorted(source.rglob("*.rs")):
        takes_one = re.search(r"\b(every_device|emulated_cuda)\(", path.read_text())
        module = "::".join(path.relative_to(source).with_suffix("").parts).removesuffix("::mod")
        if takes_one and module != "testing":
            modules.append(module + "::")
    return modules


def engine_programs(programs):
    """The programs with tests of whole engines."""
    return sorted(programs.glob("cuda*"))


def by_kernel(text):
    """Time and bytes of each kernel of each size, those that take longest first; from what ncu has written."""
    lines = text.splitlines()
    header = next(at for at, line in enumerate(lines) if line.startswith('"ID"'))
    metrics, calls = defaultdict(lambda: defaultdict(float)), defaultdict(set)
    for row in csv.DictReader(lines[header:]):
        key = f"{row['Kernel Name'].split('(')[0]} {row['Grid Size']}".replace(" ", "")
        metrics[key][row["Metric Name"]] += float(row["Metric Value"].replace(",", ""))
        calls[key].add(row["ID"])
    kernels = {}
    for key, sums in sorted(metrics.items(), key=lambda item: -item[1]["gpu__time_duration.sum"]):
        ns = sums["gpu__time_duration.sum"]
        us = ns / 1e3 / len(calls[key])
        kernels[key] = f"{len(calls[key])} x {us:.1f} us, {sums['dram__bytes.sum'] / max(ns, 1.0):.0f} GB/s"
    return {"rows": dict(list(kernels.items())[:60])}


def unpacked(programs, folder):
    """The programs, ready to run: what `--prepare` has packed is unpacked to `folder`."""
    packed = programs / "programs.tar.xz"
    if not packed.exists():
        return programs.resolve()
    with tarfile.open(packed) as archive:
        for member in filter(tarfile.TarInfo.isfile, archive):
            target = folder / Path(member.name).name
            with archive.extractfile(member) as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out)
            target.chmod(0o755)
    return folder


def said_by(*command):
    """What a program prints, or nothing."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=REPO).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def about(programs):
    """Where and of what this run is."""
    kept = programs / "commit"
    commit = kept.read_text().strip() if kept.exists() else said_by("git", "rev-parse", "--short", "HEAD")
    query = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"
    return {
        "device": said_by("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"),
        "commit": commit or "unknown",
        "host": {"cores": os.cpu_count(), "python": sys.version.split()[0]},
    }


def find_tools():
    """Adds the usual places to those that are looked through."""
    path = os.environ.get("PATH", "").split(":")
    os.environ["PATH"] = ":".join(path + [folder for folder in TOOLS if folder not in path])
    libraries = [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    there = [folder for folder in LIBRARIES if Path(folder).is_dir() and folder not in libraries]
    if there:
        os.environ["LD_LIBRARY_PATH"] = ":".join(libraries + there)
    # The program looks for cuBLASLt there, which PyTorch brings.
    os.environ.setdefault("VIRTUAL_ENV", sys.prefix)


def stop(*_):
    raise KeyboardInterrupt


def arguments():
    parser = argparse.ArgumentParser(prog="run.sh", description=__doc__)
    parser.add_argument("--programs", type=Path, required=True, help="the folder with what was built")
    parser.add_argument("--stage", choices=STAGES, action="append", help="only this; may be given several times")
    parser.add_argument("--limit", type=float, default=3600.0, metavar="SECONDS", help="for everything, after which the rest is left")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N")
    parser.add_argument("output", type=Path, help="the file for the results; a log is written beside it")
    return parser.parse_args()


def main():
    args = arguments()
    find_tools()
    for kind in [signal.SIGTERM, signal.SIGHUP]:
        signal.signal(kind, stop)
    model = os.environ.get("MODEL", "random:glm-4-9b")
    run = Run(args.output, args.limit, {**about(args.programs), "model": model})
    run.targets = TARGETS if model.startswith("random:glm-4-9b") else []
    with tempfile.TemporaryDirectory(prefix="glm-gpu-") as folder:
        try:
            programs = unpacked(args.programs, Path(folder))
            lacking = [name for name in PROGRAMS if not (programs / name).exists()]
            if lacking:
                sys.exit(f"{args.programs} has no {' nor '.join(lacking)}: run.sh --prepare {args.programs} makes them")
            gpu = Gpu(run, programs, model, args.device)
            for stage in args.stage or STAGES:
                gpu.stage(stage)
        except KeyboardInterrupt:
            run.add("the rest", "not run", reason="interrupted")
    sys.exit(0 if run.table() else 1)


if __name__ == "__main__":
    main()
