#!/usr/bin/env python3
"""What each type of the KV cache costs in quality. Run it with a Python that has numpy:

    venv/bin/python benches/compare/kv_cache.py MODEL … --output kv-cache.json

A text goes through the cache once for each type, in windows, and every prediction is compared with that of an f32 cache: the
negative log-likelihood of the true tokens, the Kullback-Leibler divergence of all of them, and whether the likeliest token is
the same. All run with the same instruction set (--isa), one that computes in f32, so that nothing but the storage of keys and
values differs.

The text is --text, or else this repository's own pages. A model without a tokenizer (random:PRESET) gets random tokens: what it
predicts means nothing, but its keys and values have the sizes of a real one, and so has the divergence.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from record import ROOT, WORK_DIR, Record
from scores import Glm, divergence, nll, random_ids

REFERENCE = "f32"


def own_pages():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(page.read_text() for page in pages)


def windows(glm, model, text, args):
    """Lists of token ids, `--tokens` in all, each as long as the context allows."""
    about = json.loads(glm.call("inspect", model, "--json"))
    if about["tokenizer"] is None:
        ids = random_ids(args.tokens, about["config"]["vocab_size"])
    else:
        source = args.work_dir / "text.txt"
        source.write_text(text)
        with open(source) as stdin:
            ids = json.loads(glm.call("tokenize", model, "--json", stdin=stdin))["token_ids"][:args.tokens]
    length = min(args.window, about["memory"]["max_model_len"])
    cut = [ids[start:start + length] for start in range(0, len(ids), length)]
    return [window for window in cut if len(window) > 1]


def measure(glm, model, text, args):
    texts = windows(glm, model, text, args)
    scores = {dtype: {"nll": [], "kl": [], "same": []} for dtype in args.types}
    for ids in texts:
        reference = glm.logits(model, ids, "--kv-dtype", REFERENCE, *args.options, isa=args.isa)
        for dtype, score in scores.items():
            logits = glm.logits(model, ids, "--kv-dtype", dtype, *args.options, isa=args.isa)
            score["nll"].append(nll(logits, ids) - nll(reference, ids))
            score["kl"].append(divergence(reference, logits))
            score["same"].append(logits.argmax(axis=1) == reference.argmax(axis=1))
            score.setdefault("reference", []).append(nll(reference, ids))
    return {dtype: summary(score) for dtype, score in scores.items()}


def summary(score):
    difference, kl, same, reference = (np.concatenate(score[key]) for key in ("nll", "kl", "same", "reference"))
    return {"tokens": len(kl), "nll_f32": float(reference.mean()), "nll_difference": float(difference.mean()),
            "nll_error": float(difference.std(ddof=1) / len(difference) ** 0.5), "kl_mean": float(kl.mean()),
            "kl_99": float(np.quantile(kl, 0.99)), "kl_max": float(kl.max()), "same_top": float(same.mean())}


def report(record):
    lines = ["| model | KV cache | perplexity with f32 | change (± standard error) | mean KL | 99 of 100 below | same likeliest token |",
             "|---|---|---|---|---|---|---|"]
    for model, rows in record["models"].items():
        for dtype, row in rows.items():
            change, error = (100 * np.expm1(row["nll_difference"]), 100 * row["nll_error"])
            lines.append(f"| {model} | {dtype} | {np.exp(row['nll_f32']):.4g} | {change:+.4f} % ± {error:.4f} % | {row['kl_mean']:.1e} "
                         f"| {row['kl_99']:.1e} | {100 * row['same_top']:.2f} % |")
    return "\n".join(lines)


def cpu():
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0]}, {len(names)} processors" if names else "unknown"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="as glm-cli takes it")
    parser.add_argument("--text", type=Path, help="what is predicted; default: this repository's pages")
    parser.add_argument("--types", type=lambda text: text.split(","), default=["f16", "bf16", "q8_0"], metavar="TYPE,…")
    parser.add_argument("--tokens", type=int, default=1024, help="how much of the text")
    parser.add_argument("--window", type=int, default=512, help="tokens that are predicted from each other")
    parser.add_argument("--quantize", metavar="FORMAT", help="of the weights, for all runs")
    parser.add_argument("--isa", default="avx2", help="instruction set (GLM_ISA)")
    parser.add_argument("--glm-cli", default=str(ROOT / "target/release/glm-cli"))
    parser.add_argument("--work-dir", type=Path, default=WORK_DIR, help="for intermediate files; default: target/compare")
    parser.add_argument("--output", type=Path, help="results as JSON; models that it holds are not measured again")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.options = ("--quantize", args.quantize) if args.quantize else ()
    return args


def main():
    args = arguments()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    glm = Glm(args)
    record = Record(args.output, cpu=cpu(), models={})
    text = args.text.read_text() if args.text else own_pages()
    for model in args.models:
        name = model if model.startswith("random:") else Path(model).name
        name += f", {args.quantize}" if args.quantize else ""
        if name not in record["models"]:
            begin = time.monotonic()
            record["models"][name] = measure(glm, model, text, args)
            record.save()
            print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
    print(f"\n{report(record)}")


if __name__ == "__main__":
    main()
