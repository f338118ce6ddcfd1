"""What llama.cpp computes from a GGUF file of the architecture deepseek2, in numpy: from keys and tensors alone.

Source: llama.cpp, src/models/deepseek2.cpp `graph`, src/llama-graph.cpp `build_moe_ffn`, src/llama-context.cpp (YaRN's
factors), ggml/src/ggml-cpu/ops.cpp `rope_yarn`, ggml/src/ggml.c `ggml_rope_yarn_corr_dims`.
"""

import math

import gguf_reader
import numpy as np

SOFTMAX, SIGMOID = 1, 2


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Model:
    def __init__(self, path):
        keys, tensors = gguf_reader.read(path)
        assert keys["general.architecture"] == "deepseek2"
        self.keys = {name.removeprefix("deepseek2."): value for name, value in keys.items()}
        self.tensors = {name: (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array
                        for name, array in tensors.items()}

    def weight(self, layer, name):
        return self.tensors[f"blk.{layer}.{name}.weight"]

    def has(self, layer, name):
        return f"blk.{layer}.{name}.weight" in self.tensors

    def norm(self, x, weight):
        eps = self.keys["attention.layer_norm_rms_epsilon"]
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight

    def logits(self, ids):
        """[T, V]."""
        x = self.tensors["token_embd.weight"][ids]
        for layer in range(self.keys["block_count"]):
            x = x + self.attention(layer, self.norm(x, self.weight(layer, "attn_norm")))
            h = self.norm(x, self.weight(layer, "ffn_norm"))
            dense = layer < self.keys["leading_dense_block_count"]
            x = x + (self.ffn(layer, h, "") if dense else self.experts(layer, h))
        return self.norm(x, self.tensors["output_norm.weight"]) @ self.tensors["output.weight"].T

    # ---- attention

    def angles(self, positions):
        """[T, rope / 2]: of each pair of values."""
        k, size = self.keys, self.keys["rope.dimension_count"]
        base = k["rope.freq_base"]
        pair = np.arange(size // 2)
        extrapolated = positions[:, None] * base**(-2.0 * pair / size)
        if k.get("rope.scaling.type") != "yarn":
            return extrapolated

        def dimension(rotations):
            turns = k["rope.scaling.original_context_length"] / (rotations * 2 * math.pi)
            return size * math.log(turns) / (2 * math.log(base))

        low = max(0, math.floor(dimension(k["rope.scaling.yarn_beta_fast"])))
        high = min(size - 1, math.ceil(dimension(k["rope.scaling.yarn_beta_slow"])))
        mix = 1 - np.clip((pair - low) / max(0.001, high - low), 0, 1)
        return extrapolated / k["rope.scaling.factor"] * (1 - mix) + extrapolated * mix

    def rotate(self, x):
        """x [T, ..., rope]: adjacent values are a pair. YaRN's factor of the length is cancelled by llama-context.cpp."""
        angles = self.angles(np.arange(len(x))).reshape(len(x), *[1] * (x.ndim - 2), -1)
        a, b = x[..., 0::2], x[..., 1::2]
        turned = np.stack([a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)], -1)
        return turned.reshape(x.shape)

    def scale(self):
        scale = self.keys["attention.key_length_mla"]**-0.5
        if self.keys.get("rope.scaling.type") == "yarn":
            log_multiplier = self.keys["rope.scaling.yarn_log_multiplier"] / 0.1
            scale *= (1 + 0.1 * log_multiplier * math.log(self.keys["rope.scaling.factor"]))**2
        return scale

    def attention(self, layer, x):
        heads, rank = self.keys["attention.head_count"], self.keys["attention.kv_lora_rank"]
        rope = self.keys["rope.dimension_count"]
        if self.has(layer, "attn_q"):
            q = x @ self.weight(layer, "attn_q").T
        else:
            q = self.norm(x @ self.weight(layer, "attn_q_a").T, self.weight(layer, "attn_q_a_norm"))
            q = q @ self.weight(layer, "attn_q_b").T
        q = q.reshape(len(x), heads, -1)
        latent = x @ self.weight(layer, "attn_kv_a_mqa").T
        keys = np.concatenate([self.norm(latent[:, :rank], self.weight(layer, "attn_kv_a_norm")),
                               self.rotate(latent[:, rank:])], -1)
        absorbed = np.einsum("thn,hrn->thr", q[..., :-rope], self.weight(layer, "attn_k_b"))
        queries = np.concatenate([absorbed, self.rotate(q[..., -rope:])], -1)
        scores = np.einsum("thr,sr->hts", queries, keys) * self.scale()
        scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
        mixed = np.einsum("hts,sr->thr", softmax(scores), keys[:, :rank])
        values = np.einsum("thr,hvr->thv", mixed, self.weight(layer, "attn_v_b"))
        return values.reshape(len(x), -1) @ self.weight(layer, "attn_output").T

    # ---- FFN

    def ffn(self, layer, x, suffix):
        gate, up = (self.weight(layer, f"ffn_{name}{suffix}") for name in ("gate", "up"))
        return (silu(x @ gate.T) * (x @ up.T)) @ self.weight(layer, "ffn_down" + suffix).T

    def experts(self, layer, x):
        k = self.keys
        logits = x @ self.weight(layer, "ffn_gate_inp").T
        scores = {SOFTMAX: softmax, SIGMOID: lambda z: 1 / (1 + np.exp(-z))}[k["expert_gating_func"]](logits)
        choice = scores + self.tensors.get(f"blk.{layer}.exp_probs_b.bias", 0)
        if k.get("expert_group_count", 0) > 1:
            groups = choice.reshape(len(x), k["expert_group_count"], -1)
            best_two = np.sort(groups, -1)[..., -2:].sum(-1)
            kept = np.argsort(-best_two, -1)[:, :k["expert_group_used_count"]]
            mask = np.full(groups.shape, -np.inf)
            np.put_along_axis(mask, kept[..., None], 0, 1)
            choice = (groups + mask).reshape(choice.shape)
        chosen = np.argsort(-choice, -1)[:, :k["expert_used_count"]]
        weights = np.take_along_axis(scores, chosen, -1)
        if k["expert_weights_norm"]:
            weights = weights / weights.sum(-1, keepdims=True)
        weights = weights * k["expert_weights_scale"]
        out = self.ffn(layer, x, "_shexp")
        gates, ups, downs = (self.weight(layer, f"ffn_{name}_exps") for name in ("gate", "up", "down"))
        for token, (row, experts) in enumerate(zip(x, chosen)):
            for expert, weight in zip(experts, weights[token]):
                out[token] += weight * (downs[expert] @ (silu(gates[expert] @ row) * (ups[expert] @ row)))
        return out
