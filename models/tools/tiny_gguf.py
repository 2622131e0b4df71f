"""The tiny checkpoints as GGUF, under llama.cpp's names and metadata, written with gguf-py: independent of this project's
own writer and reader."""

import json
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import TokenType

import tiny_text as text

TENSORS = {  # transformers' name -> llama.cpp's, inside `model.layers.N.` / `blk.N.`
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_self_attn_layernorm": "post_attention_norm",
    "post_attention_layernorm": "ffn_norm",  # the norm before the MLP, whatever its name says
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_mlp_layernorm": "post_ffw_norm",
    # the remote-code form
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
TOP = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "transformer.embedding.word_embeddings": "token_embd", "transformer.encoder.final_layernorm": "output_norm",
    "transformer.output_layer": "output",
}

# Every block format that GLM files use, one matrix each (and the two common mixes of q4_k_m: v and down in q6_k).
MIX = {
    "model.embed_tokens": "Q4_K", "lm_head": "Q4_1",
    "0.self_attn.q_proj": "Q4_K", "0.self_attn.k_proj": "Q5_K", "0.self_attn.v_proj": "Q6_K", "0.self_attn.o_proj": "Q3_K",
    "0.mlp.gate_up_proj": "Q4_K", "0.mlp.down_proj": "Q6_K",
    "1.self_attn.q_proj": "Q2_K", "1.self_attn.k_proj": "IQ4_NL", "1.self_attn.v_proj": "IQ4_XS",
    "1.self_attn.o_proj": "Q4_0", "1.mlp.gate_up_proj": "Q5_0", "1.mlp.down_proj": "Q5_1",
}
# Byte offset of the f16 scale in a block, of the f16 minimum if there is one, and minimum / scale that centres the weights.
SCALES = {"Q2_K": (80, 82, 1.5), "Q3_K": (108, None, 0), "Q4_K": (0, 2, 7.5), "Q5_K": (0, 2, 15.5), "Q6_K": (208, None, 0),
          "IQ4_NL": (0, None, 0), "IQ4_XS": (0, None, 0)}


@dataclass
class Source:
    """A checkpoint to convert: its config as transformers computes it and as stored, and its tensors as stored."""

    config: dict
    stored: dict
    tokenizer: str
    template: str | None
    tensors: dict[str, torch.Tensor]

    @property
    def arch(self):
        return "glm4" if self.stored["model_type"] == "glm4" else "chatglm"


def gguf_name(name):
    stem, kind = name.rsplit(".", 1)
    if stem in TOP:
        return f"{TOP[stem]}.{kind}"
    layer, rest = stem.split("layers.")[1].split(".", 1)
    return f"blk.{layer}.{TENSORS[rest]}.{kind}"


def add_config(writer, config):
    head_dim, rotary = config["head_dim"], config.get("rope_parameters", config)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(int(head_dim * rotary["partial_rotary_factor"]))
    writer.add_rope_freq_base(rotary["rope_theta"])
    if scaling := config.get("rope_scaling"):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])


def add_vocabulary(writer, tokens, rows):
    """Tokens as (text, score, type), filled up to the rows of the embedding."""
    tokens = tokens + [(f"[PAD{i}]", -1000.0, TokenType.UNUSED) for i in range(len(tokens), rows)]
    writer.add_token_list([t for t, _, _ in tokens])
    writer.add_token_scores([s for _, s, _ in tokens])
    writer.add_token_types([k for _, _, k in tokens])


def add_sentencepiece(writer, rows):
    processor, _ = text.spm()
    kind = lambda i: (TokenType.UNKNOWN if processor.is_unknown(i) else TokenType.CONTROL if processor.is_control(i)
                      else TokenType.BYTE if processor.is_byte(i) else TokenType.NORMAL)
    tokens = [(processor.id_to_piece(i), processor.get_score(i), kind(i)) for i in range(processor.get_piece_size())]
    tokens += [(token, -1000.0, TokenType.CONTROL) for token in text.SPM_SPECIAL]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("chatglm-spm")
    add_vocabulary(writer, tokens, rows)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(0)


def add_bpe(writer, arch, rows):
    tokenizer = text.bpe()
    kind = lambda token: (TokenType.CONTROL if token in text.SPECIAL
                          else TokenType.USER_DEFINED if token in text.VISIBLE else TokenType.NORMAL)
    ordered = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("glm4" if arch == "glm4" else "chatglm-bpe")
    add_vocabulary(writer, [(token, 0.0, kind(token)) for token in ordered], rows)
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]])
    end, user, observation = text.stop_ids()
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_unk_token_id(end)
    writer.add_eot_token_id(user)
    writer.add_eom_token_id(observation)


def open_writer(path, source, file_type, split):
    per_file = (len(source.tensors) + 1) // 2 if split else 0
    writer = gguf.GGUFWriter(path, source.arch, split_max_tensors=per_file)
    writer.add_name(path.parent.name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_config(writer, source.config)
    if source.tokenizer == "sentencepiece":
        add_sentencepiece(writer, source.config["vocab_size"])
    else:
        add_bpe(writer, source.arch, source.config["vocab_size"])
    writer.add_add_bos_token(False)
    if source.template:
        writer.add_chat_template(source.template)
    return writer


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def matrix_type(tensor, wanted):
    """Norm gains and biases stay f32, as llama.cpp's converter keeps them; a row that is not whole blocks stays bf16."""
    if tensor.ndim == 1:
        return Type.F32
    block, _ = gguf.GGML_QUANT_SIZES[Type[wanted]]
    return Type[wanted] if tensor.shape[-1] % block == 0 else Type.BF16


def write(path: Path, source, wanted="BF16", split=False):
    """Writes one file (or a split pair) and returns the dequantised tensors under the source's names."""
    file_type = {"BF16": gguf.LlamaFileType.MOSTLY_BF16, "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[wanted]
    writer, dequantised = open_writer(path, source, file_type, split), {}
    for name, tensor in source.tensors.items():
        kind = matrix_type(tensor, wanted)
        data = gguf.quantize(tensor.float().numpy(), kind)
        writer.add_tensor(gguf_name(name), data, raw_dtype=kind)
        dequantised[name] = torch.from_numpy(gguf.dequantize(data, kind).copy())
    finish(writer)
    return dequantised


def random_blocks(kind, shape, std, rng):
    """Blocks with random contents whose dequantised values have the given spread: gguf-py cannot quantise k-quants."""
    values, size = gguf.GGML_QUANT_SIZES[Type[kind]]
    at, at_minimum, ratio = SCALES[kind]
    blocks = rng.integers(0, 256, (shape[0], shape[1] // values, size), dtype=np.uint8)
    spread = rng.uniform(0.5, 1.5, blocks.shape[:2])

    def with_scale(scale):
        for offset, factor in ((at, 1.0), (at_minimum, ratio)):
            if offset is not None:
                half = (scale * factor * spread).astype(np.float16)
                blocks[:, :, offset : offset + 2] = half.view(np.uint8).reshape(*blocks.shape[:2], 2)
        return blocks.reshape(shape[0], -1)

    probe = gguf.dequantize(with_scale(1e-3), Type[kind])
    return with_scale(1e-3 * std / float(probe.std()))


def write_mixed(path: Path, source, rng):
    """A file with every block format of `MIX`; returns the dequantised tensors."""
    writer = open_writer(path, source, gguf.LlamaFileType.MOSTLY_Q4_K_M, split=False)
    dequantised = {}
    for name, tensor in source.tensors.items():
        values = tensor.float().numpy()
        chosen = MIX.get(name.removesuffix(".weight").removeprefix("model.layers."), "F32")
        kind = Type[chosen] if tensor.ndim == 2 else Type.F32
        if chosen in SCALES and tensor.ndim == 2:
            data = random_blocks(chosen, values.shape, float(values.std()), rng)
        else:
            data = gguf.quantize(values, kind)
        writer.add_tensor(gguf_name(name), data, raw_dtype=kind)
        dequantised[name] = torch.from_numpy(gguf.dequantize(data, kind).copy())
    finish(writer)
    return dequantised
