#!/usr/bin/env python3
"""Compares the numbers of this engine with llama.cpp's, and its quantiser with llama.cpp's. Run it with the Python that has
llama-cpp-python:

    venv/bin/python benches/compare/quality.py --output quality.json

- Agreement: both engines read the same GGUF file and score the same tokens. The difference of their negative log-likelihoods is
  held against llama.cpp's own float noise: the difference between its prefill with flash attention and its decoding, one token
  at a time, without. Greedy answers are compared token by token; random weights have no clear favourite among the tokens, so
  where the answers part, the gap between llama.cpp's two best logits is printed: a tie, if it is within the noise.
- Quantisation: the Kullback-Leibler divergence of the predictions of a quantised model from those of the bf16 weights under f32
  arithmetic, natural logarithm, mean over the positions; for this engine quantising while it loads, and for llama.cpp running a
  file that its own quantiser made (every matrix in the one format, as here).

Results are kept after every row: the same command with the same --output goes on where it stopped. The defaults are meant for
some six minutes on two cores, most of which the two quantisers take for q4_k of the 1.5B model.
"""

import argparse
import time
from pathlib import Path

import numpy as np

import llama
from engines import random_file
from llama import PHYSICAL_BATCH
from record import ROOT, WORK_DIR, Record
from scores import F16_KV, Glm, divergence, nll, random_ids

# Small checkpoints of this repository, one for each kind of model and of weights; their contexts are short.
TINY = ["tiny-glm4/model-bf16.gguf", "tiny-glm4-nobias/model-bf16.gguf", "tiny-glm4/model-q8_0.gguf",
        "tiny-chatglm-glm4/model-bf16.gguf", "tiny-glm4-kquants/model-mixed.gguf"]
TINY_TOKENS, PROMPT_TOKENS = 48, 32


class Llama:
    """A model in llama.cpp."""

    def __init__(self, path, threads):
        self.model, self.threads = llama.Model(path), threads

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.model.free()

    def logits(self, ids, one_by_one=False):
        """After each token of a text, `[len(ids), vocab_size]`: as a prompt with flash attention, or token by token without."""
        context = llama.Context(self.model, 1, len(ids), not one_by_one, self.threads)
        step = 1 if one_by_one else PHYSICAL_BATCH
        rows = []
        for start in range(0, len(ids), step):
            entries = [(token, start + i, 0, True) for i, token in enumerate(ids[start:start + step])]
            context.decode(entries)
            rows.append(context.logits(len(entries)))
        context.free()
        return np.concatenate(rows)

    def greedy(self, prompt, count):
        """The likeliest tokens after `prompt`, and how far each was ahead of the second."""
        context = llama.Context(self.model, 1, len(prompt) + count, True, self.threads)
        entries = [(token, i, 0, i + 1 == len(prompt)) for i, token in enumerate(prompt)]
        ids, gaps = [], []
        for position in range(len(prompt), len(prompt) + count):
            context.decode(entries)
            row = context.logits(1)[0]
            second, first = np.partition(row, -2)[-2:]
            ids.append(int(row.argmax()))
            gaps.append(float(first - second))
            entries = [(ids[-1], position, 0, True)]
        context.free()
        return ids, gaps


def agreement(glm, path, tokens, greedy_tokens):
    """Both engines on one file."""
    with Llama(path, glm.threads) as model:
        ids = random_ids(tokens, model.model.vocab_size)
        theirs, again = model.logits(ids), model.logits(ids, one_by_one=True)
        expected, gaps = model.greedy(ids[:PROMPT_TOKENS], greedy_tokens)
    ours = glm.logits(path, ids)
    found = glm.greedy(path, ids[:PROMPT_TOKENS], greedy_tokens)
    same = next((i for i, (a, b) in enumerate(zip(expected, found)) if a != b), greedy_tokens)
    theirs_nll, ours_nll = nll(theirs, ids), nll(ours, ids)
    noise, difference = np.abs(theirs_nll - nll(again, ids)), np.abs(ours_nll - theirs_nll)
    return {"tokens": tokens, "nll_llama_cpp": float(theirs_nll.mean()), "nll_glm": float(ours_nll.mean()),
            "mean_difference": float(difference.mean()), "mean_noise": float(noise.mean()),
            "max_difference": float(difference.max()), "max_noise": float(noise.max()),
            "logit_difference": float(np.abs(ours - theirs).mean()), "logit_noise": float(np.abs(again - theirs).mean()),
            "greedy_same": same, "greedy_tokens": greedy_tokens, "gap_where_they_part": gaps[same] if same < greedy_tokens else None}


def agreement_of_preset(glm, preset, format, args):
    return agreement(glm, random_file(glm.program, glm.folder, preset, format), args.tokens, args.greedy_tokens)


class Quantisation:
    """How far quantised models of a preset are from its bf16 weights."""

    def __init__(self, glm, preset, tokens):
        self.glm, self.preset = glm, preset
        self.source = random_file(glm.program, glm.folder, preset, "bf16")
        with Llama(self.source, glm.threads) as model:
            self.ids = random_ids(tokens, model.model.vocab_size)
        # Under f32 arithmetic: newer instruction sets may round activations to bf16.
        self.reference = glm.logits(self.source, self.ids, "--kv-dtype", "f32", isa="avx2")

    def row(self, format):
        theirs, ours = self.llama_cpp(format), divergence(self.reference, self.ours(format))
        excess = ours - theirs
        return {"tokens": len(self.ids), "llama_cpp": float(theirs.mean()), "glm": float(ours.mean()), "excess": float(excess.mean()),
                "excess_error": float(excess.std(ddof=1) / len(excess) ** 0.5)}

    def ours(self, format):
        return self.glm.logits(self.source, self.ids, "--quantize", format, *F16_KV)

    def llama_cpp(self, format):
        target = self.glm.folder / f"{self.preset}-{format}-llama.gguf"
        llama.quantize(self.source, target, format, self.glm.threads)
        with Llama(target, self.glm.threads) as model:
            logits = model.logits(self.ids)
        target.unlink()
        return divergence(self.reference, logits)


def report(record):
    lines = ["| file | mean NLL, llama.cpp | glm | mean difference (llama.cpp's noise) | largest | greedy tokens alike |", "|---|---|---|---|---|---|"]
    for name, row in record["agreement"].items():
        parted = "" if row["gap_where_they_part"] is None else f", then a gap of {row['gap_where_they_part']:.1e} in the logits"
        lines.append(f"| {name} | {row['nll_llama_cpp']:.5f} | {row['nll_glm']:.5f} | {row['mean_difference']:.1e} ({row['mean_noise']:.1e}) "
                     f"| {row['max_difference']:.1e} ({row['max_noise']:.1e}) | {row['greedy_same']} of {row['greedy_tokens']}{parted} |")
    lines += ["", "| weights, format | KL, llama.cpp | glm | glm more by (± standard error) |", "|---|---|---|---|"]
    for name, row in record["quantisation"].items():
        lines.append(f"| {name} | {row['llama_cpp']:.3e} | {row['glm']:.3e} | {row['excess']:+.1e} ± {row['excess_error']:.1e} |")
    return "\n".join(lines)


def names(text):
    return [name for name in text.split(",") if name]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glm-cli", default=str(ROOT / "target/release/glm-cli"))
    parser.add_argument("--work-dir", type=Path, default=WORK_DIR, help="where the GGUF files are, or are written; default: target/compare")
    parser.add_argument("--output", type=Path, help="results as JSON; rows that it holds are not measured again")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--presets", type=names, default=["tiny-9m", "glm-edge-1.5b"], metavar="NAME,…")
    parser.add_argument("--agreement", type=names, default=["bf16", "q8_0", "q4_k_m"], metavar="FORMAT,…", help="files to compare the numbers on")
    parser.add_argument("--quantisation", type=names, default=["q8_0", "q4_k"], metavar="FORMAT,…",
                        help=f"formats to quantise to: {', '.join(llama.FILE_TYPES)}")
    parser.add_argument("--tokens", type=int, default=96, help="of the text that is scored")
    parser.add_argument("--greedy-tokens", type=int, default=32)
    args = parser.parse_args()
    unknown = [format for format in args.quantisation if format not in llama.FILE_TYPES]
    if unknown:
        parser.error(f"llama.cpp's number of {', '.join(unknown)} is not known here")
    if args.tokens < PROMPT_TOKENS:
        parser.error(f"--tokens must be at least {PROMPT_TOKENS}")
    return args


def add_row(record, section, name, measure, *arguments):
    """Measures a row that is not there yet, and keeps it."""
    if name in record[section]:
        return
    begin = time.monotonic()
    record[section][name] = measure(*arguments)
    record.save()
    print(f"{section} of {name}: {time.monotonic() - begin:.0f} s", flush=True)


def main():
    args = arguments()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    glm = Glm(args)
    record = Record(args.output, **llama.start(), agreement={}, quantisation={})
    for name in TINY:
        add_row(record, "agreement", name, agreement, glm, ROOT / "models" / name, TINY_TOKENS, args.greedy_tokens)
    for preset in args.presets:
        for format in args.agreement:
            add_row(record, "agreement", f"{preset}-{format}", agreement_of_preset, glm, preset, format, args)
        missing = [format for format in args.quantisation if f"{preset}, {format}" not in record["quantisation"]]
        if missing:
            quantisation = Quantisation(glm, preset, args.tokens)
        for format in missing:
            add_row(record, "quantisation", f"{preset}, {format}", quantisation.row, format)
    print(f"\n{report(record)}")


if __name__ == "__main__":
    main()
