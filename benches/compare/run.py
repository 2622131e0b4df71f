#!/usr/bin/env python3
"""Compares this engine with llama.cpp on the same GGUF files, turn about, and prints the ratios of the medians.

    python3 -m venv venv && venv/bin/pip install llama-cpp-python
    cargo build --release -p glm-cli
    venv/bin/python benches/compare/run.py --output run.json

Files of random weights are written with `glm-cli quantize` and kept in --work-dir (25 GB for all; see --only). Each engine stays
loaded while a file is measured, but for the 9B files, which take turns in memory. In each round every measurement is made by
both engines, one right after the other, and the order changes from round to round, because a laptop's clock and a cloud
machine's neighbours change within minutes. The machine's read bandwidth is measured in every round. llama.cpp runs with and
without flash attention in the first round; the faster way counts and is used from then on.

It says at the start how long it will take. Results are kept after every measurement: the same command with the same --output
goes on where it stopped, and with more --rounds adds those that are missing.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import cases as tables
from engines import random_file, start_glm, start_llama
from record import ROOT, WORK_DIR, Record

ROUNDS, ROUNDS_LARGE = 5, 3
ENGINES = ("glm", "llama_cpp")
# What memory is compared for: enough tokens that the buffers of a step are at their largest.
MEMORY_QUERY = tables.prefill(512)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-python", default=sys.executable, help="a Python that has llama-cpp-python; default: the one that runs this")
    parser.add_argument("--avx2-llama-python", help="one whose llama.cpp was built without AVX-512: adds the AVX2 comparison")
    parser.add_argument("--glm-cli", default=str(ROOT / "target/release/glm-cli"))
    parser.add_argument("--work-dir", type=Path, default=WORK_DIR, help="where the GGUF files are, or are written; default: target/compare")
    parser.add_argument("--output", type=Path, help="results as JSON; measurements that it holds are not repeated")
    parser.add_argument("--threads", type=int, default=max(1, len(os.sched_getaffinity(0))))
    parser.add_argument("--only", default="", metavar="TEXT,…", help="rows whose file or name contains one of these texts")
    parser.add_argument("--list", action="store_true", help="print the rows and about how long a round of each takes, and stop")
    parser.add_argument("--quick", action="store_true", help="one round of everything")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, for the 9B files {ROUNDS_LARGE}")
    args = parser.parse_args()
    if args.quick and args.rounds:
        parser.error("--quick is one round")
    return args


def new_record(args):
    return Record(args.output, machine={}, llama_cpp={}, files={}, cases={},
                  memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
                  os=f"{platform.system()} {platform.machine()}")


def new_result(case):
    return {"file": case.file.name, "label": case.label, "query": case.query, "threads": case.threads, "goal": case.goal,
            "glm": [], "llama_cpp": [], "flash_attn": None, "bandwidth_gb_s": [], "limit_share": []}


def rounds_of(args, file):
    return 1 if args.quick else args.rounds or (ROUNDS_LARGE if file.is_large else ROUNDS)


class Group:
    """One file measured with one pair of engines."""

    def __init__(self, args, cases, record):
        self.args, self.cases, self.record = args, cases, record
        self.file, self.isa = cases[0].file, cases[0].isa
        self.python = args.avx2_llama_python if self.isa else args.llama_python
        self.rounds = rounds_of(args, self.file)
        self.results = {case.key: record["cases"].get(case.key) or new_result(case) for case in cases}
        self.name = self.file.name + (f", {self.isa}" if self.isa else "")
        self.engines = {}

    def done(self, case, engine):
        return len(self.results[case.key][engine])

    def missing(self, case):
        """Rounds that both engines have still to measure."""
        return self.rounds - min(self.done(case, engine) for engine in ENGINES)

    def run(self):
        if all(self.missing(case) <= 0 for case in self.cases) and self.name in self.record["files"]:
            return
        self.path = random_file(self.args.glm_cli, self.args.work_dir, self.file.preset, self.file.format)
        try:
            for number in range(self.rounds):
                self.round(number)
            self.close()
            if self.name not in self.record["files"]:
                self.measure_memory()
        finally:
            self.close()

    def round(self, number):
        order = [("glm", self.measure_glm), ("llama_cpp", self.measure_llama)]
        if number % 2:
            order.reverse()
        todo = [(case, *engine) for case in self.cases for engine in order]
        if self.file.is_large:  # all cases of one engine, then all of the other
            todo = [(case, *engine) for engine in order for case in self.cases]
        for case, name, measure in todo:
            if self.done(case, name) > number:
                continue
            if self.file.is_large:
                self.close(all_but=name)
            speed = measure(case)
            self.record["cases"][case.key] = self.results[case.key]
            self.record.save()
            print(f"round {number + 1}  {case.key:64} {name:10}{speed:10.2f} tok/s", flush=True)

    def engine(self, name, threads):
        """A running engine. llama.cpp changes its number of threads while it runs."""
        key = (name, threads if name == "glm" else None)
        if key not in self.engines:
            if name == "glm":
                queries = [case.query for case in self.cases if case.threads == threads]
                engine = start_glm(self.args.glm_cli, self.path, threads, queries, self.isa)
                machine = engine.about["machine"]
                self.record["machine"][f"{machine['isa']}, {threads} threads"] = machine
            else:
                engine = start_llama(self.python, self.path, [case.query for case in self.cases])
                self.record["llama_cpp"]["avx2" if self.isa else "native"] = engine.about
            self.engines[key] = engine
        return self.engines[key]

    def close(self, all_but=None):
        for key in [key for key in self.engines if key[0] != all_but]:
            self.engines.pop(key).close()

    def measure_glm(self, case):
        """The machine's limits, then the case."""
        engine = self.engine("glm", case.threads)
        machine = engine.ask({"measure": "machine"})
        answer = engine.ask(case.query)
        result = self.results[case.key]
        result["glm"].append(answer["tok_s"])
        result["bandwidth_gb_s"].append(machine["bandwidth_gb_s"])
        result["limit_share"].append(answer["peak_share" if case.query["measure"] == "prefill" else "limit_share"])
        return answer["tok_s"]

    def measure_llama(self, case):
        result = self.results[case.key]
        # With it last, because it usually wins: a long context that was computed for it is used again in the next round.
        ways = [False, True] if result["flash_attn"] is None else [result["flash_attn"]]
        if self.args.quick and case.query["depth"]:
            ways = ways[-1:]  # to compute a long context twice takes minutes
        query = {**case.query, "threads": case.threads}
        engine = self.engine("llama_cpp", case.threads)
        speeds = {way: engine.ask({**query, "flash_attn": way})["tok_s"] for way in ways}
        best = max(speeds, key=speeds.get)
        if len(speeds) > 1:
            result["first_round"] = {"flash_attn": speeds[True], "without": speeds[False]}
        result["flash_attn"] = best
        result["llama_cpp"].append(speeds[best])
        return speeds[best]

    def measure_memory(self):
        """Peaks of fresh processes whose KV cache has room for one query and no more, so that all of it is in use."""
        entry = {"bytes": self.path.stat().st_size, "query": MEMORY_QUERY}
        glm = start_glm(self.args.glm_cli, self.path, self.args.threads, [MEMORY_QUERY], self.isa)
        model = glm.about["model"]
        entry["kv_bytes"] = model["kv_capacity_tokens"] * model["kv_bytes_per_token"]
        entry["glm_peak_bytes"] = peak(glm, MEMORY_QUERY)
        llama = start_llama(self.python, self.path, [MEMORY_QUERY])
        entry["llama_cpp_peak_bytes"] = peak(llama, {**MEMORY_QUERY, "flash_attn": True, "threads": self.args.threads})
        self.record["files"][self.name] = entry
        self.record.save()


def peak(engine, query):
    """The largest memory of an engine that answers one query, which ends it."""
    try:
        engine.ask(query)
        return engine.ask({"measure": "memory"})["peak_memory_bytes"]
    finally:
        engine.close()


def spread(values):
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def markdown(record):
    """The results as tables."""
    lines = ["| file | measurement | llama.cpp tok/s | glm tok/s | ratio | goal | share of the limit |", "|---|---|---|---|---|---|---|"]
    measured = [case for case in record["cases"].values() if case["glm"] and case["llama_cpp"]]
    for case in measured:
        ratio = statistics.median(case["glm"]) / statistics.median(case["llama_cpp"])
        share = statistics.median(case["limit_share"])
        reached = "" if ratio >= case["goal"] else " (missed)"
        lines.append(f"| {case['file'].removesuffix('.gguf')} | {case['label']} | {spread(case['llama_cpp'])} | {spread(case['glm'])} "
                     f"| **{ratio:.2f}**{reached} | {case['goal']} | {share:.0%} |")
    lines += ["", f"Memory at its peak, of a process that computes a prompt of {MEMORY_QUERY['tokens']} tokens:", "",
              "| file | size | KV cache | glm | above file + KV | llama.cpp |", "|---|---|---|---|---|---|"]
    for name, file in record["files"].items():
        mib = {key: file[key] / 2**20 for key in ("bytes", "kv_bytes", "glm_peak_bytes", "llama_cpp_peak_bytes")}
        above = mib["glm_peak_bytes"] - mib["bytes"] - mib["kv_bytes"]
        lines.append(f"| {name} | {mib['bytes']:.0f} MiB | {mib['kv_bytes']:.0f} MiB | {mib['glm_peak_bytes']:.0f} MiB | {above:+.0f} MiB "
                     f"| {mib['llama_cpp_peak_bytes']:.0f} MiB |")
    versions = {kind: about["llama_cpp_python"] for kind, about in record["llama_cpp"].items()}
    bandwidths = [value for case in measured for value in case["bandwidth_gb_s"]] or [0]
    lines += ["", f"{record['date']}, commit {record['commit']}, llama-cpp-python {versions}, "
              f"read bandwidth {min(bandwidths):.0f} to {max(bandwidths):.0f} GB/s"]
    return "\n".join(lines)


def main():
    args = arguments()
    wanted = [text for text in args.only.split(",") if text]
    cases = tables.table(args.threads) + (tables.avx2_table(args.threads) if args.avx2_llama_python else [])
    cases = [case for case in cases if not wanted or any(text in case.key for text in wanted)]
    if args.list:
        print("\n".join(f"{case.seconds:5.0f} s  {case.key}" for case in cases))
        return
    record = new_record(args)
    groups = [Group(args, [case for case in cases if (case.file, case.isa) == pair], record)
              for pair in dict.fromkeys((case.file, case.isa) for case in cases)]
    seconds = sum(case.seconds * max(group.missing(case), 0) for group in groups for case in group.cases)
    print(f"Rows: {len(cases)}. About {seconds / 60:.0f} minutes on two cores once the files are written", flush=True)
    begin = time.monotonic()
    for group in groups:
        group.run()
    print(f"\n{markdown(record)}\n\n{(time.monotonic() - begin) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
