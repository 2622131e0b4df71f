#!/usr/bin/env python3
"""Makes models/tiny-*/adapters: LoRA adapters for the tiny checkpoints, as PEFT writes them, with golden outputs.

    venv/bin/python make_adapters.py        # after make_tiny.py, with its requirements

A folder holds what PEFT's `save_pretrained` writes (adapter_config.json, adapter_model.safetensors) and

  golden.safetensors  p0.input_ids [T] · p0.logits [T, V] · p0.greedy [16] (stop ids ignored)

A and B are drawn from PCG64 streams keyed by (seed, case, adapter, tensor name), large enough that an adapter changes every
answer. The goldens are PEFT's own, in f32, one thread. The remote-code form `chatglm` has no model in transformers: its adapters
are merged, W + scaling · B A, into transformers' `glm` over the same numbers.
"""

import argparse
import json
import math
import re
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import make_tiny

NUM_GREEDY = 16
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

# {checkpoint: {adapter: (dtype, LoraConfig's arguments)}}
PEFT_CASES = {
    "tiny-glm": {
        # every linear layer there is, by PEFT's own choice
        "all": ("bf16", dict(r=8, lora_alpha=16, target_modules="all-linear")),
    },
    "tiny-glm4": {
        # ranks and scalings that differ from module to module; no multiple of a vector
        "patterns": ("f32", dict(
            r=6, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"],
            rank_pattern={"o_proj": 3, r"layers\.[12]\.self_attn\.v_proj": 5},
            alpha_pattern={"model.layers.0.self_attn.q_proj": 5, "down_proj": 1.5})),
        # some layers only; the matrices of the MLP
        "mlp": ("f16", dict(r=4, lora_alpha=4, target_modules=r"model\.layers\.\d+\.mlp\.(gate_up|down)_proj",
                            exclude_modules=["model.layers.1.mlp.down_proj"])),
        # the embedding and the output layer, of both of which PEFT saves a copy besides
        "ends": ("bf16", dict(r=5, lora_alpha=40, target_modules=["embed_tokens", "lm_head", "o_proj"])),
        "one-layer": ("bf16", dict(r=2, lora_alpha=8, target_modules=["v_proj", "gate_up_proj"], layers_to_transform=[2])),
    },
}

# {checkpoint: {adapter: (dtype, r, lora_alpha, modules as the adapter names them)}}
MERGED_CASES = {
    # fused on both sides, and apart in the adapter
    "tiny-chatglm3": {
        "fused": ("bf16", 8, 12, ["self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]),
        "apart": ("f32", 4, 8, ["self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"]),
    },
    # apart in the checkpoint, fused in the adapter
    "tiny-glm": {
        "fused": ("f32", 8, 16, ["self_attention.query_key_value", "mlp.dense_4h_to_h"]),
    },
}


def draw(shape, dtype, *key):
    """One matrix on the grid of `dtype`; a row of A times a hidden state is about 1, and so is what B makes of it."""
    z = torch.from_numpy(make_tiny.generator(*key).standard_normal(tuple(shape))).float()
    return (z / math.sqrt(shape[1])).to(dtype)


def base_model(models, seed, case):
    """transformers' model over a checkpoint's numbers, its config and the ids of its first prompt."""
    config, _, kind, _ = make_tiny.cases()[case]
    tensors = {name: make_tiny.draw(seed, case, name, shape) for name, shape in make_tiny.shapes(config).items()}
    ids = load_file(models / case / "golden.safetensors")["p0.input_ids"].tolist()
    return make_tiny.build(config, tensors), config, ids


def write_golden(folder, model, ids):
    logits = model(torch.tensor([ids])).logits[0]
    answer = list(ids)
    for _ in range(NUM_GREEDY):
        answer.append(int(model(torch.tensor([answer])).logits[0, -1].argmax()))
    save_file({"p0.input_ids": torch.tensor(ids, dtype=torch.int32), "p0.logits": logits.contiguous(),
               "p0.greedy": torch.tensor(answer[-NUM_GREEDY:], dtype=torch.int32)}, folder / "golden.safetensors")


def peft_case(models, seed, case, adapter, dtype, arguments):
    """An adapter that PEFT makes, saves and computes with."""
    folder = models / case / "adapters" / adapter
    shutil.rmtree(folder, ignore_errors=True)
    model, _, ids = base_model(models, seed, case)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.1, **arguments)).eval()
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            value = draw(parameter.shape, DTYPES[dtype], seed, case, adapter, name)
            parameter.copy_(value)  # rounded to the stored type, computed in f32
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    tidy_config(folder)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: value.to(DTYPES[dtype]) for name, value in sorted(weights.items())},
              folder / "adapter_model.safetensors", metadata={"format": "pt"})
    write_golden(folder, model, ids)


def tidy_config(folder):
    """PEFT writes sets in an order that changes from run to run, and the path of the model."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    for field in ("target_modules", "exclude_modules"):
        if isinstance(config[field], list):
            config[field].sort()
    config["base_model_name_or_path"] = None
    path.write_text(json.dumps(config, indent=1) + "\n")


def rows_of(module, config):
    """The tensors of transformers' `glm` whose rows a module is, in order, each with the rows of it (None: all)."""
    f = config["intermediate_size"]
    return {
        "self_attention.query_key_value": [("self_attn.q_proj", None), ("self_attn.k_proj", None), ("self_attn.v_proj", None)],
        "self_attention.dense": [("self_attn.o_proj", None)],
        "mlp.dense_h_to_4h": [("mlp.gate_up_proj", None)],
        "mlp.dense_4h_to_h": [("mlp.down_proj", None)],
        "mlp.gate_proj": [("mlp.gate_up_proj", slice(0, f))],
        "mlp.up_proj": [("mlp.gate_up_proj", slice(f, 2 * f))],
    }.get(module, [(module, None)])


def merged_case(models, seed, case, adapter, dtype, rank, alpha, modules):
    """An adapter under the names of a module tree that transformers does not have, merged into one that it has."""
    folder = models / case / "adapters" / adapter
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model, config, ids = base_model(models, seed, case)
    state, weights = model.state_dict(), {}
    for layer in range(config["num_hidden_layers"]):
        for module in modules:
            remote = re.match(r"self_attention|mlp\.dense", module)
            tree = "transformer.encoder.layers" if remote else "model.layers"
            parts = [(state[f"model.layers.{layer}.{name}.weight"], rows or slice(None)) for name, rows in rows_of(module, config)]
            parts = [weight[rows] for weight, rows in parts]  # views
            path = f"base_model.model.{tree}.{layer}.{module}"
            a = draw((rank, parts[0].shape[1]), DTYPES[dtype], seed, case, adapter, path, "A")
            b = draw((sum(map(len, parts)), rank), DTYPES[dtype], seed, case, adapter, path, "B")
            weights |= {f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}
            for weight, change in zip(parts, (alpha / rank * b.float() @ a.float()).split([len(part) for part in parts])):
                weight += change
    save_file({name: weights[name].contiguous() for name in sorted(weights)}, folder / "adapter_model.safetensors",
              metadata={"format": "pt"})
    names = sorted({module.rsplit(".", 1)[1] for module in modules})
    known = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, task_type="CAUSAL_LM", inference_mode=True)
    known.save_pretrained(folder)
    tidy_config(folder)
    write_golden(folder, model, ids)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=20261120)
    args = parser.parse_args()
    models = Path(__file__).resolve().parent.parent
    for make, cases in ((peft_case, PEFT_CASES), (merged_case, MERGED_CASES)):
        for case, adapters in cases.items():
            for adapter, arguments in adapters.items():
                make(models, args.seed, case, adapter, *arguments)
                print(f"{case}/adapters/{adapter}")


if __name__ == "__main__":
    main()
