#!/usr/bin/env python3
"""Writes models/tiny-*/golden-beams.json: what transformers' beam search finds on two of the tiny checkpoints.

    venv/bin/python make_beams.py                # in place, after make_tiny.py

A row is one call of `generate(num_beams=…, do_sample=False)` in f32 on one thread: its options, and for every beam its tokens (up to the
end id or the limit) and its score. The end ids are tokens that the model often chooses, because random weights rarely choose
its own.
"""

import json
import os
from collections import Counter
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

MODELS = Path(__file__).resolve().parents[1]
CASES = ("tiny-glm", "tiny-glm4-nobias")
MAX_NEW_TOKENS = 10
# width, length penalty, early stopping
OPTIONS = ((1, 1.0, False), (2, 1.0, False), (3, 0.0, "never"), (4, 1.0, True), (4, 2.0, "never"), (5, -1.0, False), (6, 0.5, False))

torch.set_num_threads(1)
torch.set_grad_enabled(False)


def search(model, ids, ends, width, length_penalty, early_stopping):
    output = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False, num_beams=width,
        num_return_sequences=width, length_penalty=length_penalty, early_stopping=early_stopping, max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=ends or [-1], pad_token_id=0, temperature=None, top_p=None, output_scores=True, return_dict_in_generate=True)
    sequences = output.sequences[:, len(ids):].tolist()
    # One beam is not searched for, but taken greedily: it has no score.
    scores = [None] if width == 1 else output.sequences_scores.tolist()
    return [dict(tokens=until_end(row, ends), score=score) for row, score in zip(sequences, scores)]


def until_end(row, ends):
    at = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
    return row[:at + 1]


def main():
    for case in CASES:
        model = AutoModelForCausalLM.from_pretrained(MODELS / case, dtype=torch.float32, attn_implementation="eager").eval()
        rows = []
        with safe_open(MODELS / case / "golden.safetensors", "pt") as golden:
            prompts = [golden.get_tensor(f"p{i}.input_ids").tolist() for i in range(2)]
        for p, ids in enumerate(prompts):
            free = search(model, ids, [], 6, 1.0, False)
            common = Counter(token for beam in free for token in beam["tokens"]).most_common(4)
            for ends in ([], [token for token, _ in common][1:]):
                for options in OPTIONS:
                    width, length_penalty, early_stopping = options
                    rows.append(dict(prompt=p, ends=ends, width=width, length_penalty=length_penalty,
                                     early_stopping=early_stopping, beams=search(model, ids, ends, *options)))
        text = json.dumps(dict(max_tokens=MAX_NEW_TOKENS, rows=rows), separators=(",", ":"))
        (MODELS / case / "golden-beams.json").write_text(text + "\n")
        ended = sum(beam["tokens"][-1] in row["ends"] for row in rows for beam in row["beams"])
        print(f"{case:20} {len(rows)} searches, {ended} beams that ended")


if __name__ == "__main__":
    main()
