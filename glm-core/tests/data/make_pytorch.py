"""Writes the PyTorch checkpoints beside this file (torch 2.x; only needed to change them).

One layer of `glm`, hidden size 8; element k of the i-th tensor in name order is k / 4 - i, exact in every dtype here.
"""

import json
import pathlib

import torch

HERE = pathlib.Path(__file__).parent
CONFIG = dict(model_type="glm", vocab_size=12, hidden_size=8, intermediate_size=6, num_hidden_layers=1, num_attention_heads=2,
              num_key_value_heads=1, head_dim=4, attention_bias=True, tie_word_embeddings=False, rms_norm_eps=1e-5,
              max_position_embeddings=64, eos_token_id=[1, 2])
LAYER = {"input_layernorm.weight": (8,), "self_attn.q_proj.weight": (8, 8), "self_attn.k_proj.weight": (4, 8),
         "self_attn.v_proj.weight": (4, 8), "self_attn.q_proj.bias": (8,), "self_attn.k_proj.bias": (4,),
         "self_attn.v_proj.bias": (4,), "self_attn.o_proj.weight": (8, 8), "post_attention_layernorm.weight": (8,),
         "mlp.gate_up_proj.weight": (12, 8), "mlp.down_proj.weight": (8, 6)}
SHAPES = {"model.embed_tokens.weight": (12, 8), "model.norm.weight": (8,), "lm_head.weight": (12, 8)}
SHAPES |= {f"model.layers.0.{name}": shape for name, shape in LAYER.items()}


def state_dict(dtype):
    out = {}
    for i, (name, shape) in enumerate(sorted(SHAPES.items())):
        count = torch.Size(shape).numel()
        out[name] = (torch.arange(count, dtype=torch.float32) / 4 - i).to(dtype).reshape(shape)
    return out


def write(name, files):
    directory = HERE / name
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG) + "\n")
    for file, tensors in files.items():
        torch.save(tensors, directory / file)
    return directory


write("pytorch-single", {"pytorch_model.bin": state_dict(torch.bfloat16)})

# As training scripts leave it: wrapped, parameters, two tensors in one storage, a buffer and a number beside them.
tensors = state_dict(torch.float32)
shared = torch.cat([tensors["model.layers.0.self_attn.k_proj.weight"], tensors["model.layers.0.self_attn.v_proj.weight"]])
tensors["model.layers.0.self_attn.k_proj.weight"], tensors["model.layers.0.self_attn.v_proj.weight"] = shared[:4], shared[4:]
tensors["model.norm.weight"] = torch.nn.Parameter(tensors["model.norm.weight"])
tensors["model.rotary_emb.inv_freq"] = torch.ones(2, dtype=torch.float64)
write("pytorch-wrapped", {"checkpoint.pt": {"state_dict": tensors, "epoch": 3, "args": ["--lr", 1.5]}})

tensors = state_dict(torch.float16)
first = {name: tensor for name, tensor in tensors.items() if "layers" in name}
second = {name: tensor for name, tensor in tensors.items() if "layers" not in name}
shards = {"pytorch_model-00001-of-00002.bin": first, "pytorch_model-00002-of-00002.bin": second}
directory = write("pytorch-sharded", shards)
weight_map = {name: file for file, part in shards.items() for name in part}
(directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}) + "\n")

torch.save({"model.norm.weight": torch.ones(8)}, HERE / "legacy.bin", _use_new_zipfile_serialization=False)
