"""Accuracy per skill: greedy answers to examinations that no training line contains.

    python -m recipe.evaluate --model recipe/work/model          # accuracy.json and accuracy.md beside the model
    python -m recipe.evaluate --model . --count 50 --show 3      # and some answers that are wrong
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import Glm4ForCausalLM
from transformers.utils import logging

from . import mix
from .chat import completion, parse, prompt
from .checks import failed
from .tokenizer import stop_ids

BATCH = 64
MOST_NEW_TOKENS = 200


class Examinee:
    """A trained checkpoint that answers greedily."""

    def __init__(self, folder, device="cpu"):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.model = Glm4ForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        self.stops = stop_ids(self.tokenizer)
        self.device = device

    def write(self, prompts):
        """What the model writes after each prompt, special tokens included."""
        encoded = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(prompts, add_special_tokens=False)]
        longest = max(map(len, encoded))
        pad = self.stops[0]
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in encoded], device=self.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in encoded], device=self.device)
        with torch.inference_mode():
            out = self.model.generate(input_ids=ids, attention_mask=mask, do_sample=False,
                                      max_new_tokens=MOST_NEW_TOKENS,
                                      eos_token_id=self.stops, pad_token_id=pad, temperature=None, top_p=None)
        return [self.until_stop(row[longest:].tolist()) for row in out]

    def until_stop(self, ids):
        end = next((at + 1 for at, token in enumerate(ids) if token in self.stops), len(ids))
        return self.tokenizer.decode(ids[:end], skip_special_tokens=False)


def examine(examinee, skills, count):
    """`(skill, language, conversation, what the model wrote, failed checks)` of every examination."""
    papers = [(skill, "en" if index % 2 else "zh", mix.examination(skill, index))
              for skill in skills for index in range(count)]
    papers.sort(key=lambda paper: len(prompt(paper[2])))
    for start in range(0, len(papers), BATCH):
        batch = papers[start:start + BATCH]
        written = examinee.write([prompt(conversation) for _, _, conversation in batch])
        for (skill, lang, conversation), text in zip(batch, written):
            yield skill, lang, conversation, text, failed(parse(text, conversation.thinking), conversation.checks)


def table(right, asked):
    """The accuracy table in markdown."""
    share = lambda skill, lang: f"{100 * right[skill, lang] / asked[skill, lang]:.1f}" if asked[skill, lang] else "–"
    skills = list(dict.fromkeys(skill for skill, _ in asked))
    lines = ["| skill | English | Chinese | examinations |", "|---|---|---|---|"]
    for skill in skills:
        number = asked[skill, "en"] + asked[skill, "zh"]
        lines.append(f"| {skill} | {share(skill, 'en')} | {share(skill, 'zh')} | {number} |")
    lines.append(f"| **all** | | **{100 * sum(right.values()) / sum(asked.values()):.1f}** | {sum(asked.values())} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="folder of accuracy.json and accuracy.md; default: the model's")
    parser.add_argument("--count", type=int, default=200, help="examinations per skill")
    parser.add_argument("--skills", nargs="*", default=list(mix.EXAMINED))
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print per skill")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    logging.set_verbosity_error()
    right, asked = ({(skill, lang): 0 for skill in args.skills for lang in ("en", "zh")} for _ in range(2))
    shown = defaultdict(int)
    for skill, lang, conversation, written, wrong in examine(Examinee(args.model, args.device), args.skills,
                                                             args.count):
        asked[skill, lang] += 1
        right[skill, lang] += not wrong
        if wrong and shown[skill] < args.show:
            shown[skill] += 1
            print(f"--- {skill}: {wrong}\n{prompt(conversation)[-300:]}")
            print(f"wrote:  {written!r}\nwanted: {completion(conversation)!r}")
    out = args.out or args.model
    out.mkdir(parents=True, exist_ok=True)
    text = table(right, asked)
    print(text)
    (out / "accuracy.md").write_text(text)
    rows = {skill: {lang: right[skill, lang] / asked[skill, lang] for lang in ("en", "zh") if asked[skill,
        lang]} for skill in args.skills}
    (out / "accuracy.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
