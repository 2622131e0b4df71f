#!/usr/bin/env python3
"""GLM-4-9B at its true size with random bf16 weights in transformers, with SDPA: the same work as `run.sh` gives this engine, on the same device.

Prints one line of JSON. Decoding is measured with a static cache and, where it compiles, with `torch.compile`.
"""

import json
import time

import torch
from transformers import AutoModelForCausalLM, Glm4Config, StaticCache


def config():
    """The configuration of GLM-4-9B-0414."""
    return Glm4Config(
        vocab_size=151552,
        hidden_size=4096,
        intermediate_size=13696,
        num_hidden_layers=40,
        num_attention_heads=32,
        num_key_value_heads=2,
        head_dim=128,
        attention_bias=False,
        max_position_embeddings=32768,
    )


def seconds(work, repeat):
    """The median time of `repeat` calls, after one that does not count."""
    times = []
    for _ in range(repeat + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeat // 2]


@torch.inference_mode()
def decode(model, batch, depth, steps, compiled):
    """Tokens per second of `batch` streams after `depth` tokens."""
    cache = StaticCache(config=model.config, max_cache_len=depth + steps + 8)
    ids = torch.randint(0, 150000, (batch, max(depth, 1)), device="cuda")
    model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    forward = torch.compile(model.forward, mode="reduce-overhead") if compiled else model.forward
    token = ids[:, :1]
    position = torch.tensor([max(depth, 1)], device="cuda")

    def step():
        forward(token, past_key_values=cache, cache_position=position, position_ids=position.expand(batch, 1), use_cache=True)

    for _ in range(3):
        step()
    return batch / seconds(step, steps)


@torch.inference_mode()
def prefill(model, tokens):
    """Tokens per second of one prompt."""
    ids = torch.randint(0, 150000, (1, tokens), device="cuda")
    return tokens / seconds(lambda: model(ids, use_cache=True, logits_to_keep=1), 3)


def measured(work):
    """A number, or why there is none."""
    try:
        return work()
    except Exception as error:  # out of memory, a compiler that is not there: the other numbers count all the same
        return f"{type(error).__name__}: {error}"[:300]


def main():
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config(), dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    result = {"torch": torch.__version__, "device": torch.cuda.get_device_name()}
    for compiled in [False, True]:
        for batch, depth in [(1, 0), (1, 2048), (8, 2048), (64, 2048)]:
            name = f"decode_{batch}x{depth}{'_compiled' if compiled else ''}_tok_s"
            result[name] = measured(lambda: decode(model, batch, depth, 32, compiled))
    result["prefill_8192_tok_s"] = measured(lambda: prefill(model, 8192))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
