#!/usr/bin/env python3
"""Compares this engine with llama.cpp on the same GGUF files, turn about, and prints the ratios of the medians.

    python3 -m venv venv && venv/bin/pip install llama-cpp-python
    cargo build --release -p glm-cli
    python3 benches/compare/run.py --llama-python venv/bin/python --work-dir files --output run.json

Files of random weights are written with `glm-cli quantize` and kept in --work-dir (18 GB for all; see --only). Each engine stays
loaded while a file is measured, but for the 9B files, which take turns in memory. In each round every measurement is made by
both engines, one right after the other, and the order changes from round to round, because a laptop's clock and a cloud
machine's neighbours change within minutes. The machine's read bandwidth is measured in every round. llama.cpp runs with and
without flash attention in the first round; the faster way counts and is used from then on.

About 25 minutes on two cores, --quick about 6. Results are kept after every file: the same command with the same --output goes
on where it stopped.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import cases as tables
from engines import start_glm, start_llama

ROOT = Path(__file__).resolve().parents[2]
ROUNDS, ROUNDS_LARGE = 5, 3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-python", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--avx2-llama-python", help="one whose llama.cpp was built without AVX-512: adds the AVX2 comparison")
    parser.add_argument("--glm-cli", default=str(ROOT / "target/release/glm-cli"))
    parser.add_argument("--work-dir", type=Path, required=True, help="where the GGUF files are, or are written")
    parser.add_argument("--output", type=Path, help="results as JSON; measurements that it holds are not repeated")
    parser.add_argument("--threads", type=int, default=max(1, len(os.sched_getaffinity(0))))
    parser.add_argument("--only", default="", metavar="TEXT,…", help="rows whose file or name contains one of these texts")
    parser.add_argument("--quick", action="store_true", help="one round of everything")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, for the 9B files {ROUNDS_LARGE}")
    return parser.parse_args()


def write_file(args, file):
    """The file's path; it is written if it is not there."""
    path = args.work_dir / file.name
    if not path.exists():
        args.work_dir.mkdir(parents=True, exist_ok=True)
        print(f"writing {file.name}", flush=True)
        subprocess.run([args.glm_cli, "quantize", "--model", f"random:{file.preset}", "--format", file.format, "--output", path],
                       check=True, stdout=subprocess.DEVNULL)
    return path


class Record:
    """Everything measured so far, kept in a file after each model."""

    def __init__(self, args):
        self.path = args.output
        self.data = {"date": time.strftime("%Y-%m-%d"), "commit": commit(), "command": shown_command(), "machine": {},
                     "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
                     "os": f"{platform.system()} {platform.machine()}", "llama_cpp": {}, "files": {}, "cases": {}}
        if self.path and self.path.exists():
            self.data = json.loads(self.path.read_text())
            if self.data["commit"] != commit():
                sys.exit(f"{self.path} holds measurements of commit {self.data['commit']}: choose another --output")

    def has(self, case):
        return case.key in self.data["cases"]

    def save(self):
        if self.path:
            self.path.write_text(json.dumps(self.data, indent=1) + "\n")


def commit():
    def git(*arguments):
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()
    return git("rev-parse", "--short", "HEAD") + ("-changed" if git("status", "--porcelain", "--untracked-files=no") else "")


def shown_command():
    """The command without the paths of this machine."""
    places = {"--llama-python": "PYTHON", "--avx2-llama-python": "PYTHON", "--glm-cli": "PROGRAM", "--work-dir": "DIR",
              "--output": "FILE"}
    words = []
    for word in sys.argv[1:]:
        words.append(places.get(words[-1], word) if words and words[-1] in places else word)
    return " ".join(["benches/compare/run.py", *words])


class Group:
    """One file measured with one pair of engines."""

    def __init__(self, args, cases, path, record):
        self.args, self.cases, self.path, self.record = args, cases, path, record
        self.isa = cases[0].isa
        self.python = args.avx2_llama_python if self.isa else args.llama_python
        self.is_large = cases[0].file.is_large
        self.results = {case.key: {"file": case.file.name, "label": case.label, "query": case.query, "threads": case.threads,
                                   "goal": case.goal, "glm": [], "llama_cpp": [], "flash_attn": None, "bandwidth_gb_s": [],
                                   "bandwidth_share": [], "limit_share": []} for case in cases}
        self.peaks = {"glm": 0, "llama_cpp": 0}
        self.engines = {}

    def engine(self, name):
        """A running engine: `glm-N` on N threads, or `llama`."""
        if name not in self.engines:
            if name == "llama":
                self.engines[name] = start_llama(self.python, self.path, self.cases)
                self.record.data["llama_cpp"]["avx2" if self.isa else "native"] = self.engines[name].about
            else:
                threads = int(name.removeprefix("glm-"))
                cases = [case for case in self.cases if case.threads == threads]
                self.engines[name] = start_glm(self.args.glm_cli, self.path, threads, cases, self.isa)
                about = self.engines[name].about
                self.record.data["machine"][f"{about['machine']['isa']}, {threads} threads"] = about["machine"]
                self.model = about["model"]
        return self.engines[name]

    def close(self):
        for name, engine in self.engines.items():
            kind = "llama_cpp" if name == "llama" else "glm"
            self.peaks[kind] = max(self.peaks[kind], engine.ask({"measure": "memory"})["peak_memory_bytes"] or 0)
            engine.close()
        self.engines = {}

    def measure_glm(self, case):
        """The machine's limits, then the case."""
        engine = self.engine(f"glm-{case.threads}")
        memory = engine.ask({"measure": "memory"})["peak_memory_bytes"] or 0  # the next query starts it over
        self.peaks["glm"] = max(self.peaks["glm"], memory)
        machine = engine.ask({"measure": "machine"})
        answer = engine.ask(case.query)
        result = self.results[case.key]
        result["glm"].append(answer["tok_s"])
        result["bandwidth_gb_s"].append(machine["bandwidth_gb_s"])
        result["limit_share"].append(answer.get("peak_share", answer.get("limit_share")))
        if "bandwidth_share" in answer:
            result["bandwidth_share"].append(answer["bandwidth_share"])
        return answer["tok_s"]

    def measure_llama(self, case):
        result = self.results[case.key]
        ways = [True, False] if result["flash_attn"] is None else [result["flash_attn"]]
        if self.args.quick and case.query.get("depth"):
            ways = ways[:1]  # to compute a long context twice takes minutes
        query = {**case.query, "threads": case.threads}
        speeds = {way: self.engine("llama").ask({**query, "flash_attn": way})["tok_s"] for way in ways}
        best = max(speeds, key=speeds.get)
        if len(speeds) > 1:
            result["first_round"] = {"flash_attn": speeds[True], "without": speeds[False]}
        result["flash_attn"] = best
        result["llama_cpp"].append(speeds[best])
        return speeds[best]

    def round(self, number):
        order = [self.measure_glm, self.measure_llama]
        if number % 2:
            order.reverse()
        if self.is_large:  # all cases of one engine, then all of the other
            for measure in order:
                for case in self.cases:
                    self.show(number, case, measure)
                self.close()
        else:
            for case in self.cases:
                for measure in order:
                    self.show(number, case, measure)

    def show(self, number, case, measure):
        speed = measure(case)
        name = "glm" if measure == self.measure_glm else "llama.cpp"
        print(f"round {number + 1}  {case.key:64} {name:10}{speed:10.2f} tok/s", flush=True)

    def run(self):
        rounds = 1 if self.args.quick else ROUNDS_LARGE if self.is_large else ROUNDS
        try:
            for number in range(self.args.rounds or rounds):
                self.round(number)
        finally:
            self.close()
        self.record.data["cases"].update(self.results)
        kv_tokens = self.model["kv_capacity_tokens"]
        self.record.data["files"][self.path.name + (f", {self.isa}" if self.isa else "")] = {
            "bytes": self.path.stat().st_size, "kv_bytes": kv_tokens * self.model["kv_bytes_per_token"],
            "glm_peak_bytes": self.peaks["glm"], "llama_cpp_peak_bytes": self.peaks["llama_cpp"]}
        self.record.save()


def spread(values):
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def markdown(record):
    """The results as a table."""
    lines = ["| file | measurement | llama.cpp tok/s | glm tok/s | ratio | goal | share of the limit |", "|---|---|---|---|---|---|---|"]
    for case in record.data["cases"].values():
        ratio = statistics.median(case["glm"]) / statistics.median(case["llama_cpp"])
        share = statistics.median(case["limit_share"])
        reached = "" if ratio >= case["goal"] else " (missed)"
        lines.append(f"| {case['file'].removesuffix('.gguf')} | {case['label']} | {spread(case['llama_cpp'])} | {spread(case['glm'])} "
                     f"| **{ratio:.2f}**{reached} | {case['goal']} | {share:.0%} |")
    lines += ["", "| file | size | KV cache | peak memory, glm | above file + KV | peak memory, llama.cpp |", "|---|---|---|---|---|---|"]
    for name, file in record.data["files"].items():
        mib = {key: value / 2**20 for key, value in file.items()}
        above = mib["glm_peak_bytes"] - mib["bytes"] - mib["kv_bytes"]
        lines.append(f"| {name} | {mib['bytes']:.0f} MiB | {mib['kv_bytes']:.0f} MiB | {mib['glm_peak_bytes']:.0f} MiB | {above:+.0f} MiB "
                     f"| {mib['llama_cpp_peak_bytes']:.0f} MiB |")
    versions = {kind: about["llama_cpp_python"] for kind, about in record.data["llama_cpp"].items()}
    bandwidths = [value for case in record.data["cases"].values() for value in case["bandwidth_gb_s"]]
    lines += ["", f"{record.data['date']}, commit {record.data['commit']}, llama-cpp-python {versions}, "
              f"read bandwidth {min(bandwidths):.0f} to {max(bandwidths):.0f} GB/s" if bandwidths else ""]
    return "\n".join(lines)


def main():
    args = arguments()
    record = Record(args)
    wanted = [text for text in args.only.split(",") if text]
    cases = tables.table(args.threads) + (tables.avx2_table(args.threads) if args.avx2_llama_python else [])
    cases = [case for case in cases if not wanted or any(text in case.key for text in wanted)]
    begin = time.monotonic()
    for file, isa in dict.fromkeys((case.file, case.isa) for case in cases):
        todo = [case for case in cases if (case.file, case.isa) == (file, isa) and not record.has(case)]
        if todo:
            Group(args, todo, write_file(args, file), record).run()
    print(f"\n{markdown(record)}\n\n{(time.monotonic() - begin) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
