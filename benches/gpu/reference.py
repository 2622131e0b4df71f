#!/usr/bin/env python3
"""What PyTorch reaches on a device: its memory and its matrix products, and a model with random bf16 weights in transformers, with SDPA:
the same work as `run.py` gives this engine.

Prints a line of JSON as soon as a number is known. Decoding is measured with a static cache, and also with `torch.compile`.
"""

import argparse
import contextlib
import json
import signal
import sys
import time
from pathlib import Path

try:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, StaticCache
except ImportError as error:
    print(error)
    sys.exit(77)

PROMPT_TOKENS = 65_536  # computed at once while a context is filled: more would not fit
STEPS = 32


class Reference:
    def __init__(self, device, compile_seconds):
        self.device, self.compile_seconds = torch.device(device), compile_seconds
        self.model = None

    def load(self, config):
        with self.device:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
        self.model = model.eval()

    def synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work, repeat):
        """The median time of `repeat` calls, after one that does not count."""
        times = []
        for _ in range(repeat + 1):
            self.synchronize()
            start = time.perf_counter()
            work()
            self.synchronize()
            times.append(time.perf_counter() - start)
        return sorted(times[1:])[repeat // 2]

    def copy_rate(self):
        """Bytes read and written by a copy within the device's memory, in GB/s."""
        count = (4 << 30) if self.device.type == "cuda" else (64 << 20)
        source, target = (torch.empty(count, dtype=torch.uint8, device=self.device) for _ in range(2))
        return {"copy_gb_s": 2 * count / self.seconds(lambda: target.copy_(source), 10) / 1e9}

    def product_rate(self):
        """Operations of a large product of bf16 matrices, a multiply-add being two, in 1e12 per second."""
        size = 8192 if self.device.type == "cuda" else 512
        a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=self.device) for _ in range(2))
        return {"bf16_tflop_s": 2 * size**3 / self.seconds(lambda: a @ b, 10) / 1e12}

    def ids(self, batch, tokens):
        return torch.randint(0, self.model.config.vocab_size, (batch, tokens), device=self.device)

    @torch.no_grad()
    def decode(self, batch, depth, compiled=False):
        """Tokens per second of `batch` streams after `depth` tokens."""
        cache = StaticCache(config=self.model.config, max_cache_len=max(depth, 1) + STEPS + 8)
        ids = self.ids(batch, max(depth, 1))
        for part in ids.split(max(1, PROMPT_TOKENS // batch), dim=1):
            self.model(part, past_key_values=cache, use_cache=True, logits_to_keep=1)
        forward = torch.compile(self.model.forward, mode="reduce-overhead") if compiled else self.model.forward
        token = ids[:, :1].clone()

        def step():
            forward(token, past_key_values=cache, use_cache=True)

        with self.limited(compiled):
            for _ in range(3):
                step()
        return {"tok_s": batch / self.seconds(step, STEPS)}

    @torch.no_grad()
    def prefill(self, tokens):
        """Tokens per second of one prompt."""
        ids = self.ids(1, tokens)
        seconds = self.seconds(lambda: self.model(ids, use_cache=True, logits_to_keep=1), 3)
        return {"tok_s": tokens / seconds, "ttft_ms": seconds * 1e3}

    @contextlib.contextmanager
    def limited(self, compiled):
        """Ends a compilation that takes too long."""
        def too_long(*_):
            raise TimeoutError(f"more than {self.compile_seconds} s to compile")

        before = signal.signal(signal.SIGALRM, too_long)
        signal.alarm(self.compile_seconds if compiled else 0)
        try:
            yield
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


def report(name, work):
    """Prints a number, or why there is none: the others count all the same."""
    try:
        result = {"name": name, **work()}
    except Exception as error:  # out of memory, a compiler that is not there
        result = {"name": name, "status": "failed", "error": f"{type(error).__name__}: {error}"[:300]}
    print(json.dumps(result), flush=True)
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, help="the config.json of the model")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", choices=["limits", "model"])
    parser.add_argument("--prompt", type=int, default=8192, help="tokens of the prompt")
    parser.add_argument("--depth", type=int, default=2048, help="tokens before those that many streams decode")
    parser.add_argument("--compile-seconds", type=int, default=90)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch has no device")
        sys.exit(77)
    torch.manual_seed(0)
    reference = Reference(args.device, args.compile_seconds)
    if args.only != "model":
        report("copy", reference.copy_rate)
        report("product of bf16", reference.product_rate)
    if args.only == "limits":
        return
    reference.load(AutoConfig.from_pretrained(args.config))
    depth = args.depth
    report("1 stream", lambda: reference.decode(1, 0))
    report(f"64 streams at {depth}", lambda: reference.decode(64, depth))
    report(f"prompt of {args.prompt}", lambda: reference.prefill(args.prompt))
    report("1 stream, compiled", lambda: reference.decode(1, 0, compiled=True))
    report(f"64 streams at {depth}, compiled", lambda: reference.decode(64, depth, compiled=True))
    report(f"256 streams at {depth}", lambda: reference.decode(256, depth))
    report(f"1 stream at {depth}", lambda: reference.decode(1, depth))
    report(f"256 streams at {depth}, compiled", lambda: reference.decode(256, depth, compiled=True))


if __name__ == "__main__":
    main()
