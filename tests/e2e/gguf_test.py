"""Checkpoints written as GGUF for `./dev bench peers`: keys, names, shapes and values, read as the format says; and what is
computed from them as llama.cpp does it, against the goldens."""

import json
import os
import struct
import sys
import tempfile
import unittest

import gguf_model
import gguf_reader
import numpy as np

from support import main, paths

sys.path.insert(0, os.path.join(paths.SOURCE, "tools", "peers"))

import convert  # noqa: E402
import gguf_file  # noqa: E402
from safetensors_file import Checkpoint  # noqa: E402

HEADS, NOPE, ROPE, VALUE, RANK, HIDDEN, INNER, EXPERTS = 2, 4, 2, 3, 6, 8, 5, 3
BLOCK = 2  # of FP8 scales
CONFIG = {
    "vocab_size": 7, "hidden_size": HIDDEN, "num_hidden_layers": 2, "intermediate_size": 9, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "q_lora_rank": 4, "kv_lora_rank": RANK,
    "qk_nope_head_dim": NOPE, "qk_rope_head_dim": ROPE, "v_head_dim": VALUE, "rope_theta": 10000.0,
    "first_k_dense_replace": 1, "n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": INNER, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "routed_scaling_factor": 2.5,
    "norm_topk_prob": True, "n_group": 1, "topk_group": 1, "bos_token_id": 0, "eos_token_id": [1, 2],
    "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1,
                     "mscale": 0.5, "mscale_all_dim": 0.5},
    "quantization_config": {"weight_block_size": [BLOCK, BLOCK]},
}
TOKENIZER = {
    "model": {"vocab": {"a": 3, "b": 4, "ab": 5}, "merges": [["a", "b"]]},
    "added_tokens": [{"id": 0, "content": "<bos>", "special": True}, {"id": 1, "content": "<think>", "special": False}],
}


def shapes():
    """Of every tensor of the checkpoint."""
    found = {"model.embed_tokens.weight": (7, HIDDEN), "lm_head.weight": (7, HIDDEN), "model.norm.weight": (HIDDEN,)}

    def ffn(prefix, inner):
        found.update({f"{prefix}gate_proj.weight": (inner, HIDDEN), f"{prefix}up_proj.weight": (inner, HIDDEN),
                      f"{prefix}down_proj.weight": (HIDDEN, inner)})

    for layer in range(3):  # the last one is the MTP layer
        at = f"model.layers.{layer}."
        for name, shape in {"input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,),
                            "self_attn.q_a_proj": (4, HIDDEN), "self_attn.q_a_layernorm": (4,),
                            "self_attn.q_b_proj": (HEADS * (NOPE + ROPE), 4),
                            "self_attn.kv_a_proj_with_mqa": (RANK + ROPE, HIDDEN), "self_attn.kv_a_layernorm": (RANK,),
                            "self_attn.kv_b_proj": (HEADS * (NOPE + VALUE), RANK),
                            "self_attn.o_proj": (HIDDEN, HEADS * VALUE)}.items():
            found[f"{at}{name}.weight"] = shape
        if layer == 0:
            ffn(at + "mlp.", 9)
            continue
        found[at + "mlp.gate.weight"] = (EXPERTS, HIDDEN)
        found[at + "mlp.gate.e_score_correction_bias"] = (EXPERTS,)
        ffn(at + "mlp.shared_experts.", INNER)
        for expert in range(EXPERTS):
            ffn(f"{at}mlp.experts.{expert}.", INNER)
    return found


def write_checkpoint(folder, bits, dtype):
    """bits: {name: array}, stored as `dtype` says, but for float32 arrays."""
    head, data = {}, b""
    for name, array in bits.items():
        kind = "F32" if array.dtype == np.float32 else dtype
        head[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
    for name, value in (("config.json", CONFIG), ("tokenizer.json", TOKENIZER)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(value, file)


def read_golden(path):
    """{name: array} of a golden.safetensors."""
    with open(path, "rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    dtypes = {"F32": np.float32, "I32": np.int32, "I64": np.int64}
    return {name: np.frombuffer(data[slice(*entry["data_offsets"])], dtypes[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in head.items() if name != "__metadata__"}


class GgufTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def convert(self, bits, dtype):
        write_checkpoint(self.folder, bits, dtype)
        path = os.path.join(self.folder, "out.gguf")
        convert.convert(self.folder, path)
        return gguf_reader.read(path)

    @staticmethod
    def bf16_bits():
        random = np.random.default_rng(1)
        return {name: random.random(shape, np.float32) if name.endswith("bias")
                else random.integers(0, 1 << 15, shape, np.uint16) for name, shape in shapes().items()}

    def test_bf16_matrices_keep_their_bits(self):
        bits = self.bf16_bits()
        _, found = self.convert(bits, "BF16")
        same = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight",
                "blk.0.attn_q_a.weight": "model.layers.0.self_attn.q_a_proj.weight",
                "blk.1.attn_q_b.weight": "model.layers.1.self_attn.q_b_proj.weight",
                "blk.1.attn_kv_a_mqa.weight": "model.layers.1.self_attn.kv_a_proj_with_mqa.weight",
                "blk.0.attn_output.weight": "model.layers.0.self_attn.o_proj.weight",
                "blk.0.ffn_gate.weight": "model.layers.0.mlp.gate_proj.weight",
                "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
                "blk.1.ffn_up_shexp.weight": "model.layers.1.mlp.shared_experts.up_proj.weight"}
        for ours, theirs in same.items():
            np.testing.assert_array_equal(found[ours], bits[theirs], ours)
        for name in ("gate", "up", "down"):
            np.testing.assert_array_equal(
                found[f"blk.1.ffn_{name}_exps.weight"],
                [bits[f"model.layers.1.mlp.experts.{expert}.{name}_proj.weight"] for expert in range(EXPERTS)])

    def test_kv_b_is_split_by_head_and_its_keys_are_transposed(self):
        bits = self.bf16_bits()
        _, found = self.convert(bits, "BF16")
        source = bits["model.layers.1.self_attn.kv_b_proj.weight"]
        keys, values = found["blk.1.attn_k_b.weight"], found["blk.1.attn_v_b.weight"]
        self.assertEqual((keys.shape, values.shape), ((HEADS, RANK, NOPE), (HEADS, VALUE, RANK)))
        for head in range(HEADS):
            for r in range(RANK):
                for n in range(NOPE):
                    self.assertEqual(keys[head, r, n], source[head * (NOPE + VALUE) + n, r])
                for v in range(VALUE):
                    self.assertEqual(values[head, v, r], source[head * (NOPE + VALUE) + NOPE + v, r])

    def test_norms_gate_and_bias_are_float32(self):
        bits = self.bf16_bits()
        _, found = self.convert(bits, "BF16")
        for ours, theirs in {"output_norm.weight": "model.norm.weight",
                             "blk.1.attn_norm.weight": "model.layers.1.input_layernorm.weight",
                             "blk.1.ffn_norm.weight": "model.layers.1.post_attention_layernorm.weight",
                             "blk.1.attn_q_a_norm.weight": "model.layers.1.self_attn.q_a_layernorm.weight",
                             "blk.1.attn_kv_a_norm.weight": "model.layers.1.self_attn.kv_a_layernorm.weight",
                             "blk.1.ffn_gate_inp.weight": "model.layers.1.mlp.gate.weight"}.items():
            self.assertEqual(found[ours].dtype, np.float32, ours)
            np.testing.assert_array_equal(found[ours].view(np.uint32), bits[theirs].astype(np.uint32) << 16, ours)
        np.testing.assert_array_equal(found["blk.1.exp_probs_b.bias"], bits["model.layers.1.mlp.gate.e_score_correction_bias"])

    def test_the_mtp_layer_is_left_out(self):
        _, found = self.convert(self.bf16_bits(), "BF16")
        self.assertEqual({name.split(".")[1] for name in found if name.startswith("blk.")}, {"0", "1"})

    def test_fp8_blocks_become_float32(self):
        bits = {name: np.full(shape, 0x38, np.uint8) for name, shape in shapes().items()}  # ones
        name = "model.layers.0.self_attn.o_proj.weight"
        bits[name][0, :5] = [0x01, 0x7E, 0xC0, 0x00, 0x40]
        for matrix, array in list(bits.items()):
            if array.ndim == 1:
                bits[matrix] = np.ones(array.shape, np.float32)
            else:
                bits[matrix + "_scale_inv"] = np.ones([-(-size // BLOCK) for size in array.shape], np.float32)
        bits[name + "_scale_inv"][0, 1] = 0.25
        _, found = self.convert(bits, "F8_E4M3")
        row = found["blk.0.attn_output.weight"][0]
        np.testing.assert_array_equal(row, [2.0**-9, 448, -2 * 0.25, 0, 2, 1])

    def test_keys(self):
        keys, _ = self.convert(self.bf16_bits(), "BF16")
        for name, wanted in {"general.architecture": "deepseek2", "general.file_type": 32, "deepseek2.block_count": 2,
                             "deepseek2.attention.head_count_kv": 1, "deepseek2.attention.key_length": RANK + ROPE,
                             "deepseek2.attention.key_length_mla": NOPE + ROPE, "deepseek2.attention.value_length_mla": VALUE,
                             "deepseek2.attention.q_lora_rank": 4, "deepseek2.expert_gating_func": 2,
                             "deepseek2.expert_weights_norm": True, "deepseek2.expert_weights_scale": 2.5,
                             "deepseek2.leading_dense_block_count": 1, "deepseek2.rope.scaling.type": "yarn",
                             "deepseek2.rope.scaling.original_context_length": 16,
                             "tokenizer.ggml.tokens": ["<bos>", "<think>", "[PAD2]", "a", "b", "ab", "[PAD6]"],
                             "tokenizer.ggml.token_type": [3, 4, 5, 1, 1, 1, 5], "tokenizer.ggml.merges": ["a b"],
                             "tokenizer.ggml.eos_token_id": 1}.items():
            self.assertEqual(keys[name], wanted, name)
        self.assertAlmostEqual(keys["deepseek2.rope.scaling.yarn_log_multiplier"], 0.05)

    def test_the_head_is_read_back(self):
        keys, tensors = self.convert(self.bf16_bits(), "BF16")
        found_keys, found = gguf_file.read_head(os.path.join(self.folder, "out.gguf"))
        self.assertEqual(found_keys, keys)
        self.assertEqual({tensor.name: (tensor.shape, tensor.num_bytes) for tensor in found},
                         {name: (array.shape, array.nbytes) for name, array in tensors.items()})

    def test_bytes_that_a_token_reads(self):
        _, tensors = self.convert(self.bf16_bits(), "BF16")
        experts = {f"blk.1.ffn_{name}_exps.weight" for name in ("gate", "up", "down")}
        rest = sum(array.nbytes for name, array in tensors.items() if name not in experts | {"token_embd.weight"})
        self.assertAlmostEqual(gguf_file.active_bytes(os.path.join(self.folder, "out.gguf")),
                               rest + 2 * 3 * 2 * HIDDEN * INNER)  # 2 of 3 experts, of 3 matrices in bf16

    def test_a_file_of_another_kind_is_refused(self):
        path = os.path.join(self.folder, "other")
        for data, message in ((b"GGML" + bytes(60), "no GGUF"), (b"GGUF" + struct.pack("<IQQ", 2, 0, 0), "version 2")):
            with open(path, "wb") as file:
                file.write(data)
            with self.assertRaisesRegex(ValueError, message):
                gguf_file.read_head(path)

    def test_quantised_tensors_have_the_bytes_of_their_blocks(self):
        # 34 bytes for 32 values in 8 bits and 18 in 4: a float16 scale and the values.
        self.assertEqual(gguf_file.Tensor("x", (3, 64), "q8_0").num_bytes, 3 * 2 * 34)
        self.assertEqual(gguf_file.Tensor("x", (3, 64), "q4_0").num_bytes, 3 * 2 * 18)

    def test_what_llama_cpp_computes_otherwise_is_refused(self):
        for changes, message in (({"q_lora_rank": None}, "2 layers without q_lora_rank"),
                                 ({"num_hidden_layers": 27}, "27 layers with q_lora_rank"),
                                 ({"topk_method": "group_limited_greedy", "n_group": 2}, "group_limited_greedy"),
                                 ({"rope_scaling": {**CONFIG["rope_scaling"], "mscale": 1.0}}, "mscale 1.0"),
                                 ({"rope_scaling": {**CONFIG["rope_scaling"], "mscale": 0, "mscale_all_dim": 0}}, "mscale 0"),
                                 ({"rms_norm_eps": 1e-5}, "rms_norm_eps 1e-05"),
                                 ({"tie_word_embeddings": True}, "tie_word_embeddings")):
            with self.assertRaisesRegex(ValueError, message):
                convert.check({**CONFIG, **changes})


class GoldenTest(unittest.TestCase):
    """transformers' logits of the golden checkpoints (tools/golden/README.md), computed from the file."""

    TOLERANCE = 2e-4  # of logits up to 14; transformers is 9e-5 off at most

    def compare(self, preset, prompts=("p1", "p4")):
        folder = os.path.join(paths.BUILD, "golden", preset)
        golden = read_golden(os.path.join(folder, "golden.safetensors"))
        with tempfile.TemporaryDirectory() as out:
            path = os.path.join(out, "out.gguf")
            convert.write(Checkpoint(os.path.join(folder, "checkpoint")), TOKENIZER, path)
            model = gguf_model.Model(path)
        for prompt in prompts:
            logits = model.logits(golden[f"{prompt}.input_ids"])
            np.testing.assert_allclose(logits[-1], golden[f"{prompt}.last_logits"], 0, self.TOLERANCE, f"{preset} {prompt}")
            top = np.take_along_axis(logits, golden[f"{prompt}.top_ids"].astype(np.int64), -1)
            np.testing.assert_allclose(top, golden[f"{prompt}.top_logits"], 0, self.TOLERANCE, f"{preset} {prompt}")

    def test_v3(self):
        self.compare("v3")

    def test_v3_in_fp8_blocks(self):
        self.compare("v3_fp8")

    def test_v2_lite(self):
        self.compare("v2_lite")

    def test_kimi(self):
        self.compare("kimi")


if __name__ == "__main__":
    main()
