"""The model: transformers' `Glm4ForCausalLM` of four million parameters, and its files."""

import json

import torch
from safetensors.torch import load_file, save_file
from transformers import Glm4Config, Glm4ForCausalLM

from . import tokenizer as tok
from .data import MAX_LENGTH

NOTE = "a toy of four million parameters for trying this software: its answers are often wrong"

#: Widths are multiples of 256, so that every quantised format fits; 7.7 MB as bf16.
SIZES = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=5, num_attention_heads=8, num_key_value_heads=2,
             head_dim=32)
CONTEXT = 2 * MAX_LENGTH


def config_json(tokenizer):
    """config.json with flat rope keys, as the published files have them."""
    stops = tok.stop_ids(tokenizer)
    return dict(
        architectures=["Glm4ForCausalLM"], model_type="glm4", attention_bias=True, attention_dropout=0.0,
        eos_token_id=stops, hidden_act="silu",
        **SIZES, max_position_embeddings=CONTEXT, pad_token_id=stops[0], partial_rotary_factor=0.5, rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True, torch_dtype="bfloat16", use_cache=True, vocab_size=tokenizer.get_vocab_size(),
        glm_demo_note=NOTE)


def build(tokenizer, seed):
    """An untrained model.

    Embeddings start at the size that tied logits need; the gains after attention and MLP start small, so that the
    embedding is not drowned by what the first layers add to it.
    """
    torch.manual_seed(seed)
    # Written-out attention: compiled, it is faster on a CPU than the fused kernel, whose gradient is slow.
    model = Glm4ForCausalLM(Glm4Config(**config_json(tokenizer), attn_implementation="eager"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("post_self_attn_layernorm.weight", "post_mlp_layernorm.weight")):
                parameter.fill_(0.2)
            elif "embed_tokens" in name:
                parameter.normal_(std=0.05)
            elif parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return model


def load(model, folder):
    """Puts the weights of an exported model into one of the same sizes."""
    missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)
    model.tie_weights()


def export(model, tokenizer, folder):
    """Writes the checkpoint: what `models/demo` holds, weights in bf16."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().to(torch.bfloat16).contiguous().clone() for name,
               tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = config_json(tokenizer)
    generation = dict(do_sample=True, eos_token_id=config["eos_token_id"], pad_token_id=config["pad_token_id"],
                      temperature=0.3, top_p=0.8)
    for name, value in {"config.json": config, "generation_config.json": generation}.items():
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
    tok.write(tokenizer, folder, CONTEXT)
