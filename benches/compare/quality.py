#!/usr/bin/env python3
"""Compares the numbers of this engine with llama.cpp's, and its quantiser with llama.cpp's. Run it with the Python that has
llama-cpp-python:

    venv/bin/python benches/compare/quality.py --work-dir files --output quality.json

- Agreement: both engines read the same GGUF file and score the same tokens. The difference of their negative log-likelihoods is
  held against llama.cpp's own float noise: the difference between its prefill with flash attention and its decoding, one token
  at a time, without. Greedy answers are compared token by token; random weights have no clear favourite among the tokens, so
  where the answers part, the gap between llama.cpp's two best logits is printed: a tie, if it is within the noise.
- Quantisation: the Kullback-Leibler divergence of the predictions of a quantised model from those of the bf16 weights under f32
  arithmetic, natural logarithm, mean over the positions; for this engine quantising while it loads, and for llama.cpp running a
  file that its own quantiser made (every matrix in the one format, as here). The last column is llama.cpp running a file that
  this quantiser made, which shows what of the difference is the quantiser's.
"""

import argparse
import ctypes
import json
import os
import random
import subprocess
import time
from pathlib import Path

import llama_cpp as api
import numpy as np

from run import ROOT, commit

PHYSICAL_BATCH = 512
F16_KV = ("--kv-dtype", "f16")


class Llama:
    """A model in llama.cpp; keys and values are f16 as in the engine it is compared with."""

    def __init__(self, path, threads):
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = api.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path.parent.name}/{path.name}")
        self.threads = threads
        self.vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))

    def context(self, length, flash_attn):
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = length, PHYSICAL_BATCH, PHYSICAL_BATCH
        params.n_threads = params.n_threads_batch = self.threads
        params.type_k = params.type_v = api.GGML_TYPE_F16
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attn else api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return api.llama_init_from_model(self.model, params)

    def run(self, ctx, ids, start):
        """Logits after each of `ids`, `[len(ids), vocab_size]`."""
        batch = api.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, start + i, 1, 0, True
        if api.llama_decode(ctx, batch) != 0:
            raise RuntimeError("llama_decode failed")
        logits = np.ctypeslib.as_array(api.llama_get_logits(ctx), shape=(len(ids), self.vocab_size)).copy()
        api.llama_batch_free(batch)
        return logits

    def logits(self, ids, one_by_one=False):
        """Of a whole text: as a prompt with flash attention, or token by token without."""
        ctx = self.context(len(ids) + 16, flash_attn=not one_by_one)
        step = 1 if one_by_one else PHYSICAL_BATCH
        rows = [self.run(ctx, ids[start:start + step], start) for start in range(0, len(ids), step)]
        api.llama_free(ctx)
        return np.concatenate(rows)

    def greedy(self, prompt, count):
        """The likeliest tokens after `prompt`, and how far each was ahead of the second."""
        ctx = self.context(len(prompt) + count + 16, flash_attn=True)
        row, ids, gaps = self.run(ctx, prompt, 0)[-1], [], []
        for i in range(count):
            second, first = np.sort(row)[-2:]
            ids.append(int(row.argmax()))
            gaps.append(float(first - second))
            row = self.run(ctx, ids[-1:], len(prompt) + i)[-1]
        api.llama_free(ctx)
        return ids, gaps

    def free(self):
        api.llama_model_free(self.model)


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def nll(logits, ids):
    return -log_softmax(logits)[np.arange(len(ids) - 1), ids[1:]]


def divergence(reference, logits):
    """KL(reference || other) at every position."""
    p, q = log_softmax(reference), log_softmax(logits)
    return (np.exp(p) * (p - q)).sum(axis=1)


class Glm:
    """This engine through its command."""

    def __init__(self, args):
        self.program, self.threads, self.folder = args.glm_cli, args.threads, args.work_dir

    def call(self, command, model, *options, isa=None):
        line = [self.program, command, "--model", str(model), "--threads", str(self.threads), *map(str, options)]
        env = {**os.environ, "GLM_ISA": isa} if isa else None
        return subprocess.run(line, check=True, capture_output=True, text=True, env=env).stdout

    def logits(self, model, ids, *options, isa=None):
        texts, rows = self.folder / "ids.json", self.folder / "logits.f32"
        texts.write_text(json.dumps(ids))
        self.call("perplexity", model, "--ids", texts, "--logits", rows, *(options or F16_KV), isa=isa)
        logits = np.fromfile(rows, dtype="<f4").reshape(len(ids), -1)
        rows.unlink()
        return logits

    def greedy(self, model, prompt, count):
        answer = self.call("generate", model, "--prompt-ids", ",".join(map(str, prompt)), "--max-tokens", count, "--temperature", 0,
                           "--ignore-eos", "--kv-dtype", "f16", "--json")
        return json.loads(answer)["token_ids"]

    def write(self, preset, format):
        path = self.folder / f"{preset}-{format}.gguf"
        if not path.exists():
            self.call("quantize", f"random:{preset}", "--format", format, "--output", path)
        return path


def agreement(glm, path, ids, greedy_tokens, threads):
    """Both engines on one file."""
    llama = Llama(path, threads)
    theirs, again = llama.logits(ids), llama.logits(ids, one_by_one=True)
    ours = glm.logits(path, ids)
    noise, difference = np.abs(nll(theirs, ids) - nll(again, ids)), np.abs(nll(ours, ids) - nll(theirs, ids))
    expected, gaps = llama.greedy(ids[:32], greedy_tokens)
    found = glm.greedy(path, ids[:32], greedy_tokens)
    llama.free()
    same = next((i for i, (a, b) in enumerate(zip(expected, found)) if a != b), greedy_tokens)
    name = path.name if path.parent == glm.folder else f"{path.parent.name}/{path.name}"
    return {"file": name, "tokens": len(ids), "nll_llama_cpp": float(nll(theirs, ids).mean()),
            "nll_glm": float(nll(ours, ids).mean()), "mean_difference": float(difference.mean()), "mean_noise": float(noise.mean()),
            "max_difference": float(difference.max()), "max_noise": float(noise.max()),
            "logit_difference": float(np.abs(ours - theirs).mean()), "logit_noise": float(np.abs(again - theirs).mean()),
            "greedy_same": same, "greedy_tokens": greedy_tokens, "gap_where_they_part": gaps[same] if same < greedy_tokens else None}


# `llama_ftype` of llama.h. The K-quants are S mixes there; `pure` makes every matrix the same.
LLAMA_FTYPES = {"q8_0": 7, "q4_k": 14, "q5_k": 16, "q6_k": 18, "q4_0": 2}


def llama_quantize(source, target, format, threads):
    params = api.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = LLAMA_FTYPES[format], True, threads
    if api.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        raise RuntimeError("llama_model_quantize failed")


def quantisation(glm, preset, format, ids, reference, threads):
    """Divergence from the bf16 weights, of both engines and of both quantisers in llama.cpp."""
    source, target = glm.write(preset, "bf16"), glm.folder / f"{preset}-{format}-llama.gguf"
    llama_quantize(source, target, format, threads)
    results = {}
    for name, path in (("llama_cpp", target), ("glm_file_in_llama_cpp", glm.write(preset, format))):
        llama = Llama(path, threads)
        results[name] = divergence(reference, llama.logits(ids))
        llama.free()
    target.unlink()
    results["glm"] = divergence(reference, glm.logits(source, ids, "--quantize", format, *F16_KV))
    excess = results["glm"] - results["llama_cpp"]
    return {"preset": preset, "format": format, **{name: float(values.mean()) for name, values in results.items()},
            "excess": float(excess.mean()), "excess_error": float(excess.std(ddof=1) / len(excess) ** 0.5)}


def report(rows):
    lines = ["| file | mean NLL, llama.cpp | glm | mean difference (llama.cpp's noise) | largest | greedy tokens alike |", "|---|---|---|---|---|---|"]
    for row in rows["agreement"]:
        parted = "" if row["gap_where_they_part"] is None else f", then a gap of {row['gap_where_they_part']:.1e} in the logits"
        lines.append(f"| {row['file']} | {row['nll_llama_cpp']:.5f} | {row['nll_glm']:.5f} | {row['mean_difference']:.1e} ({row['mean_noise']:.1e}) "
                     f"| {row['max_difference']:.1e} ({row['max_noise']:.1e}) | {row['greedy_same']} of {row['greedy_tokens']}{parted} |")
    lines += ["", "| weights | format | KL, llama.cpp | glm | glm more by (± standard error) | our file in llama.cpp |", "|---|---|---|---|---|---|"]
    for row in rows["quantisation"]:
        lines.append(f"| {row['preset']} | {row['format']} | {row['llama_cpp']:.3e} | {row['glm']:.3e} "
                     f"| {row['excess']:+.1e} ± {row['excess_error']:.1e} | {row['glm_file_in_llama_cpp']:.3e} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glm-cli", default=str(ROOT / "target/release/glm-cli"))
    parser.add_argument("--work-dir", type=Path, required=True, help="where the GGUF files are, or are written")
    parser.add_argument("--output", type=Path, help="results as JSON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--presets", default="tiny-9m,glm-edge-1.5b")
    args = parser.parse_args()
    silence = api.llama_log_callback(lambda _level, _text, _data: None)
    api.llama_log_set(silence, None)
    api.llama_backend_init()
    args.work_dir.mkdir(parents=True, exist_ok=True)

    glm, generator = Glm(args), random.Random(7)
    rows = {"date": time.strftime("%Y-%m-%d"), "commit": commit(), "llama_cpp_python": api.__version__,
            "system_info": api.llama_print_system_info().decode(), "agreement": [], "quantisation": []}
    tiny = [ROOT / "models" / name for name in ("tiny-glm4/model-bf16.gguf", "tiny-glm4-nobias/model-bf16.gguf",
                                                "tiny-glm4/model-q8_0.gguf", "tiny-chatglm-glm4/model-bf16.gguf",
                                                "tiny-glm4-kquants/model-mixed.gguf")]
    presets = args.presets.split(",")
    for path in tiny + [glm.write(preset, format) for preset in presets for format in ("bf16", "q8_0", "q4_k_m", "q4_0")]:
        try:
            llama = Llama(path, args.threads)
        except RuntimeError as error:
            print(f"skipped: {error}")
            continue
        length = 48 if path in tiny else args.tokens  # the tiny models' contexts are short
        ids = [generator.randrange(llama.vocab_size) for _ in range(length)]
        llama.free()
        rows["agreement"].append(agreement(glm, path, ids, 32 if path in tiny else 64, args.threads))
        print(rows["agreement"][-1], flush=True)
    for preset in presets:
        source = glm.write(preset, "bf16")
        llama = Llama(source, args.threads)
        ids = [generator.randrange(llama.vocab_size) for _ in range(args.tokens)]
        llama.free()
        # The bf16 weights under f32 arithmetic: newer instruction sets may round activations to bf16.
        reference = glm.logits(source, ids, "--kv-dtype", "f32", isa="avx2")
        for format in LLAMA_FTYPES:
            rows["quantisation"].append(quantisation(glm, preset, format, ids, reference, args.threads))
            print(rows["quantisation"][-1], flush=True)
    if args.output:
        args.output.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"\n{report(rows)}")


if __name__ == "__main__":
    main()
