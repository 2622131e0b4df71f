#!/usr/bin/env python3
"""Makes models/tiny-* (tiny random GLM checkpoints with golden outputs).

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python make_tiny.py                 # everything, in place
    venv/bin/python make_tiny.py tiny-glm4       # one case
    venv/bin/python make_tiny.py --seed 7 --vary --out /tmp/other    # the same kinds, other numbers and other shapes

A case is a folder in Hugging Face layout and, beside the checkpoint,

  golden.safetensors  p{i}.input_ids [T] · p{i}.logits [T, V] · p{i}.greedy [32] (stop ids ignored)
                      p0.hidden.0 [T, C] (embeddings) · p0.hidden.{l+1} [T, C] (output of layer l) · p0.final_norm [T, C]
  golden.json         the prompts; what the tokenizer makes of odd strings; rendered chats and their ids
  model-*.gguf        the same checkpoint under llama.cpp's names (see tiny_gguf.py)

Weights are drawn from PCG64 streams keyed by (seed, case, tensor name), rounded to bf16 and stored so. Biases and norm
gains are far from 0 and 1 on purpose: a tensor that is left out shows. The goldens are transformers' own, in f32, eager
attention, one thread; the remote-code form `chatglm` is computed by transformers' `glm` over the same numbers.
"""

import argparse
import hashlib
import math
import os
import shutil
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import Glm4Config, Glm4ForCausalLM, GlmConfig, GlmForCausalLM

import tiny_gguf
import tiny_text as text
from tiny_text import write_json

torch.set_num_threads(1)
torch.set_grad_enabled(False)

NUM_GREEDY = 32
CLASSES = {"glm": (GlmConfig, GlmForCausalLM), "glm4": (Glm4Config, Glm4ForCausalLM)}


# ---------------------------------------------------------------- weights

def generator(*key):
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest)))


def draw(seed, case, name, shape):
    """One tensor on the bf16 grid; scaled so that hidden states keep their size and logits spread over a few units."""
    z = torch.from_numpy(generator(seed, case, name).standard_normal(tuple(shape))).float()
    if name.endswith(".bias"):
        z = 0.4 * z
    elif len(shape) == 1:
        z = 1 + 0.3 * z
    elif "embed_tokens" in name:
        z = 0.8 * z
    else:
        gain = 2.5 if "lm_head" in name else 1.5
        z = gain / math.sqrt(shape[1]) * z
    return z.to(torch.bfloat16)


def fuse_qkv(tensors, num_layers):
    """`glm` tensors under the names and in the layout of the remote-code form: rows of Q, then K, then V."""
    out = {"transformer.embedding.word_embeddings.weight": tensors["model.embed_tokens.weight"],
           "transformer.encoder.final_layernorm.weight": tensors["model.norm.weight"],
           "transformer.output_layer.weight": tensors["lm_head.weight"]}
    renamed = {"input_layernorm.weight": "input_layernorm.weight",
               "post_attention_layernorm.weight": "post_attention_layernorm.weight",
               "self_attn.o_proj.weight": "self_attention.dense.weight",
               "mlp.gate_up_proj.weight": "mlp.dense_h_to_4h.weight",
               "mlp.down_proj.weight": "mlp.dense_4h_to_h.weight"}
    for layer in range(num_layers):
        source, target = f"model.layers.{layer}.", f"transformer.encoder.layers.{layer}."
        for old, new in renamed.items():
            out[target + new] = tensors[source + old]
        for kind in ("weight", "bias"):
            out[f"{target}self_attention.query_key_value.{kind}"] = torch.cat(
                [tensors[f"{source}self_attn.{x}_proj.{kind}"] for x in "qkv"])
    return out


# ---------------------------------------------------------------- configurations

def dense(model_type, architecture, **changes):
    """config.json of a `glm` or `glm4` checkpoint, flat rope keys as published files have them."""
    config = dict(
        architectures=[architecture], model_type=model_type, attention_bias=True, attention_dropout=0.0,
        eos_token_id=text.stop_ids(), head_dim=16, hidden_act="silu", hidden_size=64, intermediate_size=96,
        max_position_embeddings=1024, num_attention_heads=4, num_hidden_layers=2, num_key_value_heads=1,
        pad_token_id=text.stop_ids()[0], partial_rotary_factor=0.5, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=False, torch_dtype="bfloat16", use_cache=True, vocab_size=400)
    config.update(changes)
    return {key: value for key, value in config.items() if value is not None}


def chatglm(config, **extra):
    """The remote-code spelling of a `glm` config. rope_theta becomes 10000 · rope_ratio."""
    return dict(
        architectures=["ChatGLMModel"], model_type="chatglm", add_bias_linear=False, add_qkv_bias=True,
        apply_query_key_layer_scaling=True, apply_residual_connection_post_layernorm=False,
        ffn_hidden_size=config["intermediate_size"], fp32_residual_connection=False, hidden_size=config["hidden_size"],
        kv_channels=config["head_dim"], layernorm_epsilon=config["rms_norm_eps"], multi_query_attention=True,
        multi_query_group_num=config["num_key_value_heads"], num_attention_heads=config["num_attention_heads"],
        num_layers=config["num_hidden_layers"], original_rope=True, padded_vocab_size=config["vocab_size"],
        post_layer_norm=True, rmsnorm=True, seq_length=config["max_position_embeddings"], tie_word_embeddings=False,
        torch_dtype="bfloat16", use_cache=True) | extra


def other_shape(config, rng):
    """The same kind of checkpoint with sizes that no kernel was tuned for."""
    kv_heads = int(rng.integers(1, 4))
    return config | dict(
        hidden_size=8 * int(rng.integers(5, 16)), intermediate_size=4 * int(rng.integers(9, 40)),
        head_dim=4 * int(rng.integers(2, 17)), num_key_value_heads=kv_heads,
        num_attention_heads=kv_heads * int(rng.integers(1, 6)), num_hidden_layers=int(rng.integers(2, 5)))


def cases(shape=lambda config: config):
    """{folder: (config that transformers computes with, config.json as stored, tokenizer kind, extra files)}"""
    glm = lambda **kw: shape(dense("glm", "GlmForCausalLM", **kw))
    glm4 = lambda **kw: shape(dense("glm4", "Glm4ForCausalLM", **kw))
    chatglm3 = glm(num_key_value_heads=2, vocab_size=512, eos_token_id=2, pad_token_id=0, num_hidden_layers=3)
    glm4_9b = glm(rope_theta=5e6, rms_norm_eps=1.5625e-7, num_attention_heads=8, num_key_value_heads=2, head_dim=8)
    nobias = glm4(attention_bias=False, num_attention_heads=6, num_key_value_heads=2, head_dim=24,
                  intermediate_size=80, rope_theta=None, partial_rotary_factor=None, rope_parameters=dict(
                      rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5))
    yarn = glm4(head_dim=32, num_attention_heads=2, max_position_embeddings=256, rope_scaling=dict(
        type="yarn", factor=4.0, original_max_position_embeddings=64))
    return {
        "tiny-chatglm3": (chatglm3, chatglm(chatglm3, eos_token_id=2, pad_token_id=0), "sentencepiece", ["bf16"]),
        "tiny-chatglm-glm4": (glm4_9b, chatglm(
            glm4_9b, architectures=["ChatGLMForConditionalGeneration"], rope_ratio=500, eos_token_id=text.stop_ids(),
            pad_token_id=text.stop_ids()[0]), "tiktoken", ["bf16"]),
        # rows above the tokenizer's entries: padding, as every published vocabulary has
        "tiny-glm": (g := glm(rope_theta=5e6, rms_norm_eps=1.5625e-7, vocab_size=416), g, "jinja", ["split"]),
        # heads · head_dim is not hidden_size
        "tiny-glm-edge": (e := glm(attention_bias=False, partial_rotary_factor=1.0, tie_word_embeddings=True,
                                   num_attention_heads=6, num_key_value_heads=3), e, "jinja", ["bf16", "pytorch"]),
        "tiny-glm4": (g4 := glm4(num_hidden_layers=3, num_key_value_heads=2), g4, "inline", ["bf16", "q8_0", "sharded"]),
        "tiny-glm4-nobias": (nobias, nobias, "jinja", ["bf16"]),
        "tiny-glm4-yarn": (yarn, yarn, "z1", ["bf16"]),
        "tiny-glm4-kquants": (k := glm4(hidden_size=256, head_dim=32, num_attention_heads=8, num_key_value_heads=2,
                                        intermediate_size=256), k, "inline", ["mixed only"]),
    }


# ---------------------------------------------------------------- goldens

def build(config, tensors):
    """transformers' model in f32 over the stored numbers."""
    config_class, model_class = CLASSES[config["model_type"]]
    model = model_class._from_config(config_class(**config), attn_implementation="eager", dtype=torch.float32).eval()
    state = {name: tensor.float() for name, tensor in tensors.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model


def shapes(config):
    """{name: shape} of the checkpoint; a tied head is not stored."""
    config_class, model_class = CLASSES[config["model_type"]]
    state = model_class._from_config(config_class(**config)).state_dict()
    tied = config["tie_word_embeddings"]
    return {name: tensor.shape for name, tensor in state.items() if not (tied and name == "lm_head.weight")}


def greedy(model, ids):
    """32 tokens by argmax, the whole sequence computed anew each time, and the smallest gap to the runner-up."""
    ids, gap = list(ids), math.inf
    for _ in range(NUM_GREEDY):
        best = model(torch.tensor([ids])).logits[0, -1].topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    return ids[-NUM_GREEDY:], gap


def hidden_states(model, ids):
    """Embeddings, the output of every layer, and what the final norm makes of the last."""
    record = {}
    keep = lambda name: lambda module, args, output: record.__setitem__(
        name, (output[0] if isinstance(output, tuple) else output)[0].clone())
    hooks = [model.model.embed_tokens.register_forward_hook(keep("p0.hidden.0")),
             model.model.norm.register_forward_hook(keep("p0.final_norm"))]
    hooks += [layer.register_forward_hook(keep(f"p0.hidden.{i + 1}")) for i, layer in enumerate(model.model.layers)]
    model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return record


def prompts(kind, template):
    """[(name, text, ids)]: short English (with hidden states), Chinese, and a chat beyond two blocks of 16."""
    if kind == "sentencepiece":
        prefix = [text.spm_special("[gMASK]"), text.spm_special("sop")]
        rows = [(f"plain{i}", t, prefix + text.spm()[0].encode(t)) for i, t in enumerate(text.PROMPTS)]
        return rows + [("chat", None, text.chatglm3_ids(text.CHATS["multi_turn"]["messages"]))]
    rows = [(f"plain{i}", t, text.bpe().encode(t).ids) for i, t in enumerate(text.PROMPTS)]
    chat = text.render(template, text.CHATS["multi_turn"])
    rows.append(("chat", chat, text.bpe().encode(chat, add_special_tokens=False).ids))
    if kind == "z1":  # beyond original_max_position_embeddings
        rows[1] = ("long", text.LONG_PROMPT, text.bpe().encode(text.LONG_PROMPT).ids)
    return rows


def write_goldens(folder, seed, model, kind, template):
    golden, rows = {}, []
    for i, (name, source, ids) in enumerate(prompts(kind, template)):
        logits = model(torch.tensor([ids])).logits[0]
        tokens, gap = greedy(model, ids)
        if i == 0:
            golden |= hidden_states(model, ids)
        golden |= {f"p{i}.input_ids": torch.tensor(ids, dtype=torch.int32), f"p{i}.logits": logits,
                   f"p{i}.greedy": torch.tensor(tokens, dtype=torch.int32)}
        rows.append(dict(name=name, text=source, ids=ids, greedy=tokens, min_top2_margin=round(gap, 6)))
    save_file({name: tensor.contiguous() for name, tensor in golden.items()}, folder / "golden.safetensors")
    if kind == "sentencepiece":
        strings, chats = text.spm_rows(), text.chatglm3_chats()
    else:
        names = None if kind != "tiktoken" else {"user", "multi_turn", "chinese_system", "empty", "two_system", "tools"}
        strings, chats = text.bpe_rows(), text.template_chats(template, names)
    write_json(folder / "golden.json", dict(seed=seed, prompts=rows, tokenizer_cases=strings, chats=chats), indent=None)
    return min(row["min_top2_margin"] for row in rows)


# ---------------------------------------------------------------- files

def generation_config(config):
    return dict(do_sample=True, eos_token_id=config["eos_token_id"], pad_token_id=config["pad_token_id"], temperature=0.8,
                top_p=0.8)


def write_tokenizer(folder, kind):
    """The tokenizer in the container of its generation; returns the chat template, None for ChatGLM3."""
    if kind == "sentencepiece":
        (folder / "tokenizer.model").write_bytes(text.spm()[1])
        write_json(folder / "tokenizer_config.json", dict(
            tokenizer_class="ChatGLMTokenizer", remove_space=False, do_lower_case=False,
            auto_map={"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]}))
        return None
    if kind == "tiktoken":  # carries no template: the reader must know the generation's own
        text.write_tiktoken(folder)
        write_json(folder / "tokenizer_config.json", text.tokenizer_config(
            tokenizer_class="ChatGLM4Tokenizer", auto_map={"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]}))
        return text.TEMPLATE_GLM4
    text.bpe().save(str(folder / "tokenizer.json"), pretty=False)
    template = text.TEMPLATE_Z1 if kind == "z1" else text.TEMPLATE_GLM4
    inline = {"chat_template": template} if kind == "inline" else {}
    write_json(folder / "tokenizer_config.json", text.tokenizer_config(tokenizer_class="PreTrainedTokenizerFast", **inline))
    if kind != "inline":
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return template


def write_weights(folder, tensors):
    save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, folder / "model.safetensors",
              metadata={"format": "pt"})


def write_pytorch(folder, stored, tensors):
    """The same checkpoint as a pickle, the oldest form still published."""
    folder.mkdir()
    write_json(folder / "config.json", stored)
    torch.save(tensors, folder / "pytorch_model.bin")


def write_sharded(folder, stored, tensors):
    """The same checkpoint in two safetensors files and an index."""
    folder.mkdir()
    write_json(folder / "config.json", stored)
    names, weight_map = sorted(tensors), {}
    for shard, part in enumerate((names[: len(names) // 2], names[len(names) // 2:]), 1):
        file = f"model-{shard:05}-of-00002.safetensors"
        save_file({name: tensors[name].contiguous() for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(folder / "model.safetensors.index.json", dict(metadata=dict(total_size=size), weight_map=weight_map))


def quantised_golden(folder, config, kind, template, label, tensors):
    """Logits of the quantised weights, dequantised by gguf-py: what an engine that keeps the blocks must come near."""
    model, golden = build(config, tensors), {}
    for i, (_, _, ids) in enumerate(prompts(kind, template)[:2]):
        golden |= {f"p{i}.input_ids": torch.tensor(ids, dtype=torch.int32),
                   f"p{i}.logits": model(torch.tensor([ids])).logits[0].contiguous()}
    save_file(golden, folder / f"golden-{label}.safetensors")


def make_case(out, case, seed, config, stored, kind, extras):
    folder = out / case
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors = {name: draw(seed, case, name, shape) for name, shape in shapes(config).items()}
    on_disk = fuse_qkv(tensors, config["num_hidden_layers"]) if stored["model_type"] == "chatglm" else tensors
    template = write_tokenizer(folder, kind)
    source = tiny_gguf.Source(config, stored, kind, template, on_disk)
    if "mixed only" in extras:  # too large to keep a second time in bf16
        dequantised = tiny_gguf.write_mixed(folder / "model-mixed.gguf", source, generator(seed, case, "blocks"))
        quantised_golden(folder, config, kind, template, "mixed", dequantised)
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
        print(f"{case:20} mixed block formats")
        return
    write_json(folder / "config.json", stored)
    write_json(folder / "generation_config.json", generation_config(stored))
    write_weights(folder, on_disk)
    gap = write_goldens(folder, seed, build(config, tensors), kind, template)
    if "bf16" in extras:
        tiny_gguf.write(folder / "model-bf16.gguf", source)
    if "q8_0" in extras:
        dequantised = tiny_gguf.write(folder / "model-q8_0.gguf", source, "Q8_0")
        quantised_golden(folder, config, kind, template, "q8_0", dequantised)
    if "split" in extras:
        tiny_gguf.write(folder / "model.gguf", source, split=True)
    if "pytorch" in extras:
        write_pytorch(folder / "pytorch", stored, on_disk)
    if "sharded" in extras:
        write_sharded(folder / "sharded", stored, on_disk)
    print(f"{case:20} smallest greedy gap {gap:.4f}")


def main():
    models = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", help="folders to make (default: all)")
    parser.add_argument("--seed", type=int, default=20261120)
    parser.add_argument("--vary", action="store_true", help="draw the shapes from the seed too (needs --out)")
    parser.add_argument("--out", type=Path, default=models)
    args = parser.parse_args()
    if args.vary and args.out == models:
        parser.error("--vary needs --out: the committed checkpoints keep their shapes")
    stream = generator(args.seed, "shapes")
    known = cases(lambda config: other_shape(config, stream)) if args.vary else cases()
    if args.vary:
        known.pop("tiny-glm4-kquants")  # its blocks need rows of 256
    for case in args.case or known:
        make_case(args.out, case, args.seed, *known[case])


if __name__ == "__main__":
    main()
