// config.json and generation_config.json of a DeepSeek-V2/V3-architecture checkpoint, checked.
// Fields keep the checkpoint's own names.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace atl::model {

struct RopeScaling {  // type "yarn"
  double factor = 1;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 1;
  double mscale_all_dim = 0;
  int64_t original_max_position_embeddings = 4096;
};

struct ModelConfig {
  std::string model_type;             // "deepseek_v3", "kimi_k2", "deepseek_v2", "deepseek"
  std::string architecture;           // "DeepseekV3ForCausalLM"
  int64_t vocab_size = 0;             // V
  int64_t hidden_size = 0;            // D
  int64_t num_hidden_layers = 0;      // L, without the MTP layers
  int64_t num_attention_heads = 0;    // H
  int64_t num_key_value_heads = 0;    // MHA/GQA only ("deepseek")
  int64_t q_lora_rank = 0;            // Rq; 0: q_proj is one matrix
  int64_t kv_lora_rank = 0;           // R
  int64_t qk_nope_head_dim = 0;       // Dn
  int64_t qk_rope_head_dim = 0;       // Dr
  int64_t v_head_dim = 0;             // Dv
  int64_t intermediate_size = 0;      // of dense layers
  int64_t moe_intermediate_size = 0;  // F
  int64_t n_routed_experts = 0;       // E; 0: a dense model
  int64_t n_shared_experts = 0;       // their MLPs are one MLP of n_shared_experts * F
  int64_t num_experts_per_tok = 0;    // K
  int64_t n_group = 1;
  int64_t topk_group = 1;
  bool norm_topk_prob = false;
  std::string scoring_func;  // "softmax", "sigmoid"
  std::string topk_method;   // "greedy", "group_limited_greedy", "noaux_tc"
  double routed_scaling_factor = 1;
  int64_t first_k_dense_replace = 0;
  int64_t moe_layer_freq = 1;
  int64_t num_nextn_predict_layers = 0;  // MTP layers, `model.layers.L...`
  double rms_norm_eps = 1e-6;  // of layer norms; q_a_layernorm and kv_a_layernorm use 1e-6 always
  double rope_theta = 10000;
  std::optional<RopeScaling> rope_scaling;
  int64_t max_position_embeddings = 0;
  bool tie_word_embeddings = false;
  bool fp8 = false;  // quantization_config: e4m3 blocks of 128 x 128 with weight_scale_inv
  int64_t fp8_block = 128;
  std::vector<uint32_t> eos_token_ids;  // config.json's, overridden by generation_config.json's
  std::optional<uint32_t> bos_token_id;

  bool is_mla() const { return model_type != "deepseek"; }
  bool is_moe_layer(int64_t layer) const {
    return n_routed_experts > 0 && layer >= first_k_dense_replace && layer % moe_layer_freq == 0;
  }
  int64_t cache_values_per_token_layer() const { return kv_lora_rank + qk_rope_head_dim; }
  // Experts of a MoE layer as placement counts them: routed 0..E-1, and E for the shared one if
  // there is one.
  int64_t num_expert_ids() const { return n_routed_experts + (n_shared_experts > 0 ? 1 : 0); }
  int64_t shared_expert_id() const { return n_routed_experts; }
};

// Defaults of generation_config.json; absent fields stay empty.
struct GenerationConfig {
  std::optional<bool> do_sample;
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<uint32_t> top_k;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
};

// Parses and checks config.json's text (`where` names it in errors). Refuses by name what is not
// supported, what is missing, and values that contradict each other. "deepseek" (DeepSeekMoE-16B,
// MHA) parses: CheckServable refuses it.
StatusOr<ModelConfig> ParseModelConfig(const std::string& json, const std::string& where);
StatusOr<GenerationConfig> ParseGenerationConfig(const std::string& json, const std::string& where,
                                                 ModelConfig* config);

// Unimplemented for what `plan` can count but nothing here can serve.
Status CheckServable(const ModelConfig& config);

}  // namespace atl::model
