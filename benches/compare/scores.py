"""What a model predicts for a text, and how far two predictions are apart."""

import json
import os
import random
import subprocess

import numpy as np

F16_KV = ("--kv-dtype", "f16")


class Glm:
    """This engine through its command."""

    def __init__(self, args):
        self.program, self.threads, self.folder = args.glm_cli, args.threads, args.work_dir

    def call(self, command, model, *options, isa=None, stdin=None):
        line = [self.program, command, "--model", str(model), "--threads", str(self.threads), *map(str, options)]
        env = {**os.environ, "GLM_ISA": isa} if isa else None
        return subprocess.run(line, check=True, stdin=stdin, stdout=subprocess.PIPE, text=True, env=env).stdout

    def logits(self, model, ids, *options, isa=None):
        """After each token of a text, `[len(ids), vocab_size]`."""
        texts, rows = self.folder / "ids.json", self.folder / "logits.f32"
        texts.write_text(json.dumps(ids))
        self.call("perplexity", model, "--ids", texts, "--logits", rows, *(options or F16_KV), isa=isa)
        logits = np.fromfile(rows, dtype="<f4").reshape(len(ids), -1)
        rows.unlink()
        return logits

    def greedy(self, model, prompt, count):
        answer = self.call("generate", model, "--prompt-ids", ",".join(map(str, prompt)), "--max-tokens", count, "--temperature", 0,
                           "--ignore-eos", "--json", *F16_KV)
        return json.loads(answer)["token_ids"]


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


def random_ids(count, vocab_size):
    return random.Random(7).choices(range(vocab_size), k=count)
