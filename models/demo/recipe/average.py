"""Averages the weights of models of one lineage, which are often better together than each is (Wortsman et al. 2022, "Model soups").

    python -m recipe.average --out work/model FOLDER=SHARE FOLDER=SHARE…

Shares are numbers; their sum counts as one. All but the weights is that of the first.
"""

import argparse
from pathlib import Path

from safetensors.torch import load_file

from . import tokenizer as tok
from .model import build, export


def part(text):
    """A folder and its share."""
    folder, _, share = text.rpartition("=")
    if not Path(folder, "model.safetensors").exists():
        raise argparse.ArgumentTypeError(f"no model.safetensors in {folder!r}; wanted FOLDER=SHARE, found {text!r}")
    return Path(folder), float(share)


def average(parts):
    """The weighted mean of the tensors."""
    whole = sum(share for _, share in parts)
    mean = {}
    for folder, share in parts:
        for name, tensor in load_file(folder / "model.safetensors").items():
            mean[name] = mean.get(name, 0.0) + tensor.float() * (share / whole)
    return mean


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("parts", type=part, nargs="+", metavar="FOLDER=SHARE")
    args = parser.parse_args()
    tokenizer = tok.load(args.parts[0][0])
    model = build(tokenizer, seed=0)
    missing, unexpected = model.load_state_dict(average(args.parts), strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)
    model.tie_weights()
    export(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
