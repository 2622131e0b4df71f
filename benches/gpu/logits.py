#!/usr/bin/env python3
"""Does this engine compute what transformers does, with a model at its true size?

Writes a checkpoint with random weights, and compares the logits of a text: transformers in f32 is right, transformers in bf16 shows
what rounding does, and this engine may be little farther from f32 than that. Formats that it quantises to are compared too, more
loosely. Then it answers a prompt, a token at a time, and each token must be the likeliest by transformers, or as good as that.

Prints a line of JSON for each comparison.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar
except ImportError as error:
    print(error)
    sys.exit(77)

# Largest distance from f32, over the length of its logits, by format; with None, which is the weights as they are, as many times
# that of transformers in bf16.
DISTANCE = {None: 1.5, "q8_0": 0.05, "fp8": 0.15}
FEW_BITS = 0.5  # for other formats
# Which is never taken to be less than this: matrices as small as those of a test are hardly rounded.
LEAST_DISTANCE = 2e-3
# How much less likely than the likeliest token a chosen one may be, over the largest logit.
GAP = 2e-2
PROMPT, ANSWER = 64, 48


def model_of(path, device):
    """A model with weights of a size that makes logits like a trained model's, and with no bias or norm that could be forgotten."""
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), dtype=torch.bfloat16)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0.0, parameter.shape[-1] ** -0.5)
            else:
                # Norms are around 1, biases around 0.
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@torch.no_grad()
def logits(model, ids):
    """The logits after every token, on the host."""
    return model(torch.tensor([ids], device=model.device)).logits[0].float().cpu()


def compared(got, want):
    """The distance between two lists of logits over the length of the second, and how often the same token is the likeliest."""
    distance = ((got - want).norm() / want.norm()).item()
    return distance, (got.argmax(-1) == want.argmax(-1)).float().mean().item()


class Engine:
    """This engine's program, and the checkpoint."""

    def __init__(self, program, device, folder, length):
        self.program, self.folder = program, folder
        self.common = ["--model", str(folder), "--device", device, "--max-model-len", str(length)]

    def run(self, *words):
        done = subprocess.run([self.program, *words, *self.common], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-300:])
        return json.loads(done.stdout)

    def logits(self, ids, vocab_size, quantize):
        files = self.folder / "ids.json", self.folder / "logits"
        files[0].write_text(json.dumps(ids))
        more = ["--quantize", quantize] if quantize else []
        words = ["--ids", str(files[0]), "--logits", str(files[1]), "--window", str(len(ids)), "--json"]
        said = self.run("perplexity", *words, *more)
        values = torch.frombuffer(bytearray(files[1].read_bytes()), dtype=torch.float32)
        return values.reshape(len(ids), vocab_size), said["mean_nll"]

    def answer(self, ids):
        prompt = ",".join(map(str, ids))
        words = ["--max-tokens", str(ANSWER), "--temperature", "0", "--ignore-eos", "--json"]
        return self.run("generate", "--prompt-ids", prompt, *words)["token_ids"]


def compare_logits(engine, ids, want, rounded, quantize):
    """Holds the logits of the engine against those in f32."""
    got, nll = engine.logits(ids, want.shape[1], quantize)
    distance, same = compared(got, want)
    own_distance, own_same = compared(rounded, want)
    allowed = DISTANCE.get(quantize, FEW_BITS) * (1.0 if quantize else max(own_distance, LEAST_DISTANCE))
    right = torch.log_softmax(want[:-1].double(), -1).gather(1, torch.tensor(ids[1:])[:, None]).mean().neg().item()
    return {
        "name": f"of {len(ids)} tokens in {quantize or 'bf16'}",
        "status": "ok" if distance <= allowed else "failed",
        "distance": distance,
        "allowed": allowed,
        "same_likeliest": same,
        "transformers_bf16_distance": own_distance,
        "transformers_bf16_same": own_same,
        "nll": nll,
        "transformers_nll": right,
    }


def compare_answer(engine, ids, model):
    """Holds every token of an answer against the logits in f32 after those before it."""
    tokens = engine.answer(ids)
    rows = logits(model, (ids + tokens)[:-1])[len(ids) - 1:]
    chosen = rows.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    gaps = (rows.max(-1).values - chosen) / rows.abs().max(-1).values
    return {
        "name": f"an answer of {len(tokens)} tokens",
        "status": "ok" if len(tokens) == ANSWER and gaps.max().item() <= GAP else "failed",
        "worst_gap": gaps.max().item(),
        "allowed": GAP,
        "same_likeliest": (rows.argmax(-1) == torch.tensor(tokens)).float().mean().item(),
    }


def report(name, work):
    try:
        result = work()
    except Exception as error:  # what one comparison lacks, another may have
        result = {"name": name, "status": "failed", "error": f"{type(error).__name__}: {error}"[:500]}
    print(json.dumps(result), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True, help="glm-cli")
    parser.add_argument("--config", type=Path, required=True, help="the config.json of the model")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--formats", default="fp8,int4", help="what to quantise to as well, or nothing")
    parser.add_argument("--folder", help="where the checkpoint is written, and removed again; it takes two bytes for each weight")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("PyTorch has no device")
        sys.exit(77)
    disable_progress_bar()
    torch.manual_seed(0)
    model = model_of(args.config, args.device)
    needed = 2 * sum(parameter.numel() for parameter in model.parameters())
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="glm-logits-") as folder:
        if shutil.disk_usage(folder).free < needed * 1.1:
            sys.exit(f"the checkpoint takes {needed >> 20} MiB, more than there is in {folder}: name another place with --folder")
        model.save_pretrained(folder, max_shard_size="4GB")
        ids = torch.randint(0, model.config.vocab_size, (args.tokens,)).tolist()
        rounded = logits(model, ids)
        model.float()  # the weights keep their values
        want = logits(model, ids)
        engine = Engine(args.program, args.device, Path(folder), max(args.tokens, PROMPT + ANSWER) + 1)
        for quantize in [None, *filter(None, args.formats.split(","))]:
            report(quantize or "bf16", lambda: compare_logits(engine, ids, want, rounded, quantize))
            if quantize is None:
                report("an answer", lambda: compare_answer(engine, ids[:PROMPT], model))


if __name__ == "__main__":
    main()
