#!/usr/bin/env python3
"""Decodes and prefills the same GGUF file with llama.cpp and with glm-cli, turn about, and prints ratios of medians.

    python3 -m venv venv && venv/bin/pip install llama-cpp-python
    cargo build --release -p glm-cli
    venv/bin/python benches/compare/against_llama_cpp.py model.gguf --threads 4

Turn about, because a laptop's clock and a cloud machine's neighbours change within minutes: each round measures one engine
right after the other, and the order changes every round. Both are given the same number of threads and random token ids.
"""

import argparse
import json
import platform
import random
import statistics
import subprocess
import time
from pathlib import Path

import llama_cpp

ROOT = Path(__file__).resolve().parents[2]


def measure_glm(args):
    """One `glm-cli bench`, one repeat: (prefill tok/s, decode tok/s)."""
    command = [args.glm_cli, "bench", "--model", args.model, "--threads", str(args.threads), "--prompt-tokens",
               str(args.prompt_tokens), "--gen-tokens", str(args.gen_tokens), "--batch", "1", "--depth", "0",
               "--repeat", "1", "--max-model-len", str(context(args)), "--json"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return report["prefill"][0]["tok_s"], report["decode"][0]["tok_s"]


def context(args):
    return args.prompt_tokens + 4 * args.gen_tokens + 64


class Llama:
    """llama.cpp over its C API: what the high-level class spends in Python is not its engine's time."""

    def __init__(self, args):
        self.args = args
        self.llama = llama_cpp.Llama(args.model, n_ctx=context(args), n_batch=args.prompt_tokens, n_threads=args.threads,
                                     n_threads_batch=args.threads, n_gpu_layers=0, verbose=False)
        self.llama.eval([1, 2, 3])  # touch every page

    def evaluate(self, ids, start):
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, start + i, 1, 0
            batch.logits[i] = i + 1 == len(ids)
        begin = time.perf_counter()
        status = llama_cpp.llama_decode(self.llama.ctx, batch)
        elapsed = time.perf_counter() - begin
        llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        return elapsed

    def measure(self, seed):
        ids = random.Random(seed).choices(range(self.llama.n_vocab()), k=self.args.prompt_tokens + self.args.gen_tokens)
        prompt, answer = ids[: self.args.prompt_tokens], ids[self.args.prompt_tokens :]
        self.llama._ctx.kv_cache_clear()
        prefill = self.evaluate(prompt, 0)
        self.llama._ctx.kv_cache_clear()
        self.evaluate(prompt[:1], 0)
        decode = sum(self.evaluate([token], 1 + i) for i, token in enumerate(answer))
        return len(prompt) / prefill, len(answer) / decode


def spread(values):
    return f"{statistics.median(values):9.2f}  [{min(values):.2f}, {max(values):.2f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file that both engines read")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--gen-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--glm-cli", default=str(ROOT / "target/release/glm-cli"))
    parser.add_argument("--json", type=Path, help="keep the raw numbers here (see benches/results)")
    args = parser.parse_args()

    llama = Llama(args)
    runs = {"glm": [], "llama.cpp": []}
    for turn in range(args.rounds):
        engines = [("glm", lambda: measure_glm(args)), ("llama.cpp", lambda: llama.measure(turn))]
        for name, measure in engines if turn % 2 == 0 else reversed(engines):
            runs[name].append(measure())
            print(f"round {turn + 1} {name:10} prefill {runs[name][-1][0]:9.2f}  decode {runs[name][-1][1]:8.2f} tok/s", flush=True)
    for i, what in enumerate(("prefill", "decode")):
        columns = {name: [run[i] for run in values] for name, values in runs.items()}
        for name, values in columns.items():
            print(f"{what:8}{name:10} {spread(values)} tok/s")
        ratio = statistics.median(columns["glm"]) / statistics.median(columns["llama.cpp"])
        print(f"{what:8}glm / llama.cpp {ratio:.3f}")
    if args.json:
        args.json.write_text(json.dumps(dict(
            date=time.strftime("%Y-%m-%d"), machine=platform.processor() or platform.machine(), model=Path(args.model).name,
            threads=args.threads, prompt_tokens=args.prompt_tokens, gen_tokens=args.gen_tokens,
            llama_cpp_python=llama_cpp.__version__, runs=runs), indent=1) + "\n")


if __name__ == "__main__":
    main()
