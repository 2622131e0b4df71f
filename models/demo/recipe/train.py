"""Trains the demo model. Kill it at any time: the same command continues from the last checkpoint.

    python -m recipe.train                      # from models/demo; everything goes to recipe/work/
    python -m recipe.train --tokens 2e6         # a short one, to see the loss go down
    python -m recipe.train --from . --seed 1 --tokens 40e6    # more for a model that is trained, with other conversations

Learning rate: warm-up, constant, then linearly to zero over the last third of the tokens.
"""

import argparse
import csv
import ctypes
import os
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, pad
from transformers.utils import logging

from . import plot
from . import tokenizer as tok
from .data import Encoder
from .model import build, export, load

LOG_FIELDS = ("step", "tokens", "rate", "loss", "seconds")
WARM_UP, DECAY = 0.01, 0.35
NO_TOKEN = -100


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=tok.WORK)
    parser.add_argument("--from", dest="parent", type=Path,
                        help="folder of a trained model to start with, its tokenizer included; default: from nothing")
    parser.add_argument("--tokens", type=float, default=100e6, help="tokens to train on, prompts included")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens of a batch, padding included")
    parser.add_argument("--accumulate", type=int, default=2, help="batches, of different lengths, behind each update")
    parser.add_argument("--rate", type=float, default=3e-3,
                        help="AdamW's learning rate, for embeddings, norms and biases")
    parser.add_argument("--muon-rate", type=float, default=0.02,
                        help="Muon's learning rate, for matrices; 0: AdamW for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True,
                        help="twice as fast; needs a C++ compiler and a minute")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long, to be continued")
    parser.add_argument("--save-every", type=float, default=120, help="seconds between checkpoints")
    return parser.parse_args()


def schedule(progress):
    """The learning rate's share of its peak when this share of the tokens is done."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return min(1.0, max(0.0, (1 - progress) / DECAY))


def optimizers(model, args):
    """Muon for the matrices inside the layers, AdamW for the rest."""
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed_tokens" not in name]
    if not args.muon_rate:
        matrices = []
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    made = [torch.optim.AdamW(rest, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.0)]
    if matrices:
        made.append(torch.optim.Muon(matrices, lr=args.muon_rate, weight_decay=0.01, adjust_lr_fn="original"))
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


def keep_memory():
    """Lets the C library keep freed memory: giving it back between steps costs a third of the time (glibc only)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        trim_threshold, mmap_max = -1, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


class Loss:
    """Summed cross-entropy over the tokens that the model is to write.

    `ids`: `[B, T]`; `places`: where, in the flattened ids, such a token comes next; `wanted`: these tokens or NO_TOKEN.
    Only the layers are compiled: with the loss, whose number of tokens varies most, the graph would be compiled again
    and again, into slower code.
    """

    def __init__(self, model, compiled):
        self.layers = torch.compile(model.model, dynamic=True) if compiled else model.model
        self.head = model.lm_head

    def __call__(self, ids, places, wanted):
        hidden = self.layers(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[places]
        return cross_entropy(self.head(hidden).float(), wanted, reduction="sum", ignore_index=NO_TOKEN)


def with_places(ids, targets):
    """The arguments of `Loss`: positions are found here, since a compiled graph cannot; few numbers of them occur."""
    places = targets.roll(-1, dims=1)
    places[:, -1] = False
    places, wanted = places.flatten().nonzero().squeeze(1), ids[targets]
    missing = -len(places) % 256
    return ids, pad(places, (0, missing)), pad(wanted, (0, missing), value=NO_TOKEN)


class Run:
    """Model, optimizers and how far they are."""

    def __init__(self, args):
        self.args = args
        self.tokenizer = tok.load(args.parent or args.work / "tokenizer")
        self.encoder = Encoder(self.tokenizer)
        self.model = build(self.tokenizer, args.seed).to(args.device)
        self.loss = Loss(self.model, args.compile)
        self.optimizers = optimizers(self.model, args)
        self.at = dict(step=0, tokens=0, seconds=0.0, shard=0, batch=0)
        self.checkpoint = args.work / "checkpoint.pt"
        self.log = args.work / "loss.csv"
        if self.checkpoint.exists():
            self.resume()
            return
        if args.parent:
            load(self.model, args.parent)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text(",".join(LOG_FIELDS) + "\n")

    def resume(self):
        state = torch.load(self.checkpoint, map_location=self.args.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self.at = state["at"]
        # what was logged after the checkpoint will happen again
        rows = list(csv.DictReader(self.log.open()))
        self.write_log([row for row in rows if int(row["step"]) <= self.at["step"]], "w")

    def write_log(self, rows, mode="a"):
        with self.log.open(mode, newline="") as file:
            writer = csv.DictWriter(file, LOG_FIELDS, lineterminator="\n")
            if mode == "w":
                writer.writeheader()
            writer.writerows(rows)

    def save(self):
        """A checkpoint that is there in full or not at all."""
        state = dict(model=self.model.state_dict(),
                     optimizers=[optimizer.state_dict() for optimizer in self.optimizers], at=self.at)
        torch.save(state, self.checkpoint.with_suffix(".new"))
        os.replace(self.checkpoint.with_suffix(".new"), self.checkpoint)

    def step(self, batches):
        """One update from these batches: the mean loss of all that is to be written in them, and the rate's share."""
        share = schedule(self.at["tokens"] / self.args.tokens)
        wanted = sum(int(targets.sum()) for _, targets in batches)
        total = 0.0
        for ids, targets in batches:
            arguments = [tensor.to(self.args.device) for tensor in with_places(ids, targets)]
            with torch.autocast(self.args.device.split(":")[0], torch.bfloat16):
                loss = self.loss(*arguments) / wanted
            loss.backward()
            total += loss.item()
            self.at["tokens"] += ids.numel()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
            optimizer.step()
            optimizer.zero_grad()
        self.at["step"] += 1
        return total, share

    def train(self):
        """Goes on until the tokens or the minutes are used up; True when the tokens are."""
        started, before, saved = time.monotonic(), self.at["seconds"], time.monotonic()
        losses = []
        while True:
            batches = self.encoder.batches(self.args.seed, self.at["shard"], self.args.batch_tokens)
            while self.at["batch"] < len(batches):
                group = batches[self.at["batch"]:self.at["batch"] + self.args.accumulate]
                loss, share = self.step(group)
                losses.append(loss)
                self.at["batch"] += len(group)
                now = time.monotonic()
                self.at["seconds"] = before + now - started
                done = self.at["tokens"] >= self.args.tokens
                if self.at["step"] % 50 == 0 or done:
                    row = dict(step=self.at["step"], tokens=self.at["tokens"], rate=f"{share:.4f}",
                               loss=f"{sum(losses) / len(losses):.4f}", seconds=f"{self.at['seconds']:.0f}")
                    self.write_log([row])
                    print(*row.values(), f"{self.at['tokens'] / self.at['seconds']:.0f} tokens/s", flush=True)
                    losses = []
                stop = done or now - started > 60 * self.args.minutes
                if stop or now - saved > self.args.save_every:
                    self.save()
                    saved = now
                if stop:
                    return done
            self.at |= dict(shard=self.at["shard"] + 1, batch=0)


def main():
    logging.set_verbosity_error()
    keep_memory()
    args = arguments()
    run = Run(args)
    done = run.train()
    export(run.model, run.tokenizer, args.work / "model")
    plot.write(args.work / "loss.csv", args.work / "loss.svg")
    print("trained" if done else "to be continued", args.work / "model")


if __name__ == "__main__":
    main()
