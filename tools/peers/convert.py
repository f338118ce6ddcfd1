#!/usr/bin/env python3
"""Writes a checkpoint of DeepSeek's architecture as the GGUF file that llama.cpp reads, every weight exactly.

    convert.py CHECKPOINT OUT.gguf

Checkpoints in bf16 give bf16, others (float32, FP8 blocks) float32; the MTP layers are left out. llama.cpp's own converter
does the same and wants torch, gigabytes of it. Names and keys: llama.cpp, src/llama-arch.cpp, src/models/deepseek2.cpp.
"""

import argparse
import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import gguf_file  # noqa: E402
from gguf_file import BOOL, F32, I32, STRING, U32, Tensor  # noqa: E402
from safetensors_file import Checkpoint  # noqa: E402

ARCHITECTURE = "deepseek2"
LITE_LAYERS = (26, 27)  # by these llama.cpp knows models without q_lora_rank
INNER_NORM_EPS = 1e-6  # of q_a_layernorm and kv_a_layernorm, whatever config.json says
GATING = {"softmax": 1, "sigmoid": 2}
FILE_TYPES = {"f32": 0, "bf16": 32}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # kinds of tokens

# Matrices that keep their shape.
ATTENTION = {"q_proj": "attn_q", "q_a_proj": "attn_q_a", "q_b_proj": "attn_q_b", "kv_a_proj_with_mqa": "attn_kv_a_mqa",
             "o_proj": "attn_output"}
NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_a_layernorm": "attn_q_a_norm",
         "self_attn.kv_a_layernorm": "attn_kv_a_norm"}
FFN = {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}


def check(config):
    """Refuses what llama.cpp's deepseek2 would compute otherwise, or not at all."""
    lite = not config.get("q_lora_rank")
    layers = config["num_hidden_layers"]
    if lite != (layers in LITE_LAYERS):
        raise ValueError(f"{layers} layers {'without' if lite else 'with'} q_lora_rank: llama.cpp takes models of "
                         f"{LITE_LAYERS} layers for ones without it, and no others")
    if config.get("topk_method") == "group_limited_greedy" and config.get("n_group", 1) > 1:
        raise ValueError("topk_method group_limited_greedy: llama.cpp scores a group by its two best experts")
    yarn = config.get("rope_scaling")
    if yarn and (not yarn["mscale_all_dim"] or yarn["mscale"] != yarn["mscale_all_dim"]):
        raise ValueError(f"rope_scaling: mscale {yarn['mscale']}, mscale_all_dim {yarn['mscale_all_dim']}: llama.cpp takes "
                         "them to be the same")
    if config["rms_norm_eps"] != INNER_NORM_EPS:
        raise ValueError(f"rms_norm_eps {config['rms_norm_eps']}: llama.cpp takes the norms inside attention, of {INNER_NORM_EPS}, "
                         "to have the same")
    if config.get("tie_word_embeddings"):
        raise ValueError("tie_word_embeddings: not written here")


def scalars(config, exact_type):
    """Keys without the architecture's prefix."""
    c = config
    keys = [
        ("block_count", U32, c["num_hidden_layers"]), ("context_length", U32, c["max_position_embeddings"]),
        ("embedding_length", U32, c["hidden_size"]), ("feed_forward_length", U32, c["intermediate_size"]),
        ("vocab_size", U32, c["vocab_size"]), ("attention.layer_norm_rms_epsilon", F32, c["rms_norm_eps"]),
        # Absorbed MLA is attention with one key and value head: the latent.
        ("attention.head_count", U32, c["num_attention_heads"]), ("attention.head_count_kv", U32, 1),
        ("attention.kv_lora_rank", U32, c["kv_lora_rank"]),
        ("attention.key_length", U32, c["kv_lora_rank"] + c["qk_rope_head_dim"]),
        ("attention.value_length", U32, c["kv_lora_rank"]),
        ("attention.key_length_mla", U32, c["qk_nope_head_dim"] + c["qk_rope_head_dim"]),
        ("attention.value_length_mla", U32, c["v_head_dim"]), ("rope.dimension_count", U32, c["qk_rope_head_dim"]),
        ("rope.freq_base", F32, c["rope_theta"]), ("leading_dense_block_count", U32, c["first_k_dense_replace"]),
        ("expert_count", U32, c["n_routed_experts"]), ("expert_used_count", U32, c["num_experts_per_tok"]),
        ("expert_shared_count", U32, c["n_shared_experts"]),
        ("expert_feed_forward_length", U32, c["moe_intermediate_size"]),
        ("expert_gating_func", U32, GATING[c["scoring_func"]]),
        ("expert_weights_scale", F32, c["routed_scaling_factor"]),
        ("expert_weights_norm", BOOL, bool(c.get("norm_topk_prob"))),
    ]
    if c.get("q_lora_rank"):
        keys.append(("attention.q_lora_rank", U32, c["q_lora_rank"]))
    if c.get("n_group"):
        keys += [("expert_group_count", U32, c["n_group"]), ("expert_group_used_count", U32, c["topk_group"])]
    if yarn := c.get("rope_scaling"):
        keys += [
            ("rope.scaling.type", STRING, "yarn"), ("rope.scaling.factor", F32, yarn["factor"]),
            ("rope.scaling.original_context_length", U32, yarn["original_max_position_embeddings"]),
            ("rope.scaling.yarn_beta_fast", F32, yarn["beta_fast"]), ("rope.scaling.yarn_beta_slow", F32, yarn["beta_slow"]),
            ("rope.scaling.yarn_log_multiplier", F32, 0.1 * yarn["mscale_all_dim"]),  # the loader divides by 0.1
        ]
    general = [("general.architecture", STRING, ARCHITECTURE), ("general.file_type", U32, FILE_TYPES[exact_type])]
    return general + [(f"{ARCHITECTURE}.{name}", kind, value) for name, kind, value in keys]


def first(ids):
    return ids[0] if isinstance(ids, list) else ids


def tokenizer_keys(config, file):
    """`file`: tokenizer.json."""
    size = config["vocab_size"]
    tokens, kinds = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    for text, token in file["model"]["vocab"].items():
        tokens[token], kinds[token] = text, NORMAL
    for added in file["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], CONTROL if added["special"] else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in file["model"]["merges"]]
    keys = [("model", STRING, "gpt2"), ("pre", STRING, "deepseek-v3"), ("tokens", STRING, tokens), ("token_type", I32, kinds),
            ("merges", STRING, merges), ("add_bos_token", BOOL, False)]
    for name in ("bos", "eos"):
        if (token := first(config.get(f"{name}_token_id"))) is not None:
            keys.append((f"{name}_token_id", U32, token))
    return [("tokenizer.ggml." + name, kind, value) for name, kind, value in keys]


class TensorList:
    """What the file will hold, in its order; values are read when they are written."""

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint
        self.tensors = []

    def add(self, name, sources, shape=None, cut=None):
        """`sources`: names, or one of them, whose matrices one after another are the tensor; `cut` changes each."""
        sources = [sources] if isinstance(sources, str) else sources
        c = self.checkpoint

        def parts():
            for source in sources:
                array = c.exact(source)
                yield np.ascontiguousarray(cut(array) if cut else array)

        self.tensors.append(Tensor(name + ".weight", shape or c.shape(sources[0]), c.exact_type, parts))

    def add_float32(self, name, source):
        c = self.checkpoint
        self.tensors.append(Tensor(name, c.shape(source), "f32", lambda: [np.ascontiguousarray(c.float32(source))]))

    def add_ffn(self, source, target, suffix=""):
        for theirs, ours in FFN.items():
            self.add(target + ours + suffix, f"{source}{theirs}.weight")

    def add_experts(self, source, target):
        count = self.checkpoint.config["n_routed_experts"]
        for theirs, ours in FFN.items():
            names = [f"{source}experts.{i}.{theirs}.weight" for i in range(count)]
            self.add(f"{target}{ours}_exps", names, (count, *self.checkpoint.shape(names[0])))

    def add_kv_b(self, source, target):
        """Head by head apart: keys transposed, so that both are multiplied from the latent's side."""
        c = self.checkpoint.config
        heads, nope, value, rank = c["num_attention_heads"], c["qk_nope_head_dim"], c["v_head_dim"], c["kv_lora_rank"]

        def by_head(array):
            return array.reshape(heads, nope + value, rank)

        self.add(target + "attn_k_b", source, (heads, rank, nope), lambda array: by_head(array)[:, :nope].transpose(0, 2, 1))
        self.add(target + "attn_v_b", source, (heads, value, rank), lambda array: by_head(array)[:, nope:])

    def add_layer(self, layer):
        c = self.checkpoint
        source, target = f"model.layers.{layer}.", f"blk.{layer}."
        for theirs, ours in NORMS.items():
            if f"{source}{theirs}.weight" in c:
                self.add_float32(f"{target}{ours}.weight", f"{source}{theirs}.weight")
        for theirs, ours in ATTENTION.items():
            if f"{source}self_attn.{theirs}.weight" in c:
                self.add(target + ours, f"{source}self_attn.{theirs}.weight")
        self.add_kv_b(source + "self_attn.kv_b_proj.weight", target)
        if f"{source}mlp.gate.weight" not in c:
            self.add_ffn(source + "mlp.", target)
            return
        self.add_float32(target + "ffn_gate_inp.weight", source + "mlp.gate.weight")
        if f"{source}mlp.gate.e_score_correction_bias" in c:
            self.add_float32(target + "exp_probs_b.bias", source + "mlp.gate.e_score_correction_bias")
        self.add_experts(source + "mlp.", target)
        self.add_ffn(source + "mlp.shared_experts.", target, "_shexp")


def write(checkpoint, tokenizer, path):
    """`tokenizer`: tokenizer.json. Whether llama.cpp takes the model is not asked."""
    tensors = TensorList(checkpoint)
    tensors.add("token_embd", "model.embed_tokens.weight")
    tensors.add_float32("output_norm.weight", "model.norm.weight")
    tensors.add("output", "lm_head.weight")
    for layer in range(checkpoint.config["num_hidden_layers"]):
        tensors.add_layer(layer)
    keys = scalars(checkpoint.config, checkpoint.exact_type) + tokenizer_keys(checkpoint.config, tokenizer)
    gguf_file.write(path, keys, tensors.tensors)


def convert(folder, path):
    checkpoint = Checkpoint(folder)
    check(checkpoint.config)
    write(checkpoint, checkpoint.json("tokenizer.json"), path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("out")
    flags = parser.parse_args()
    convert(flags.checkpoint, flags.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
