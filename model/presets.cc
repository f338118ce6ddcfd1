#include "model/presets.h"

#include <filesystem>
#include <utility>

#include "base/file.h"

namespace atl::model {
namespace {

RopeScaling Yarn(double factor, double beta_fast, double mscale) {
  return {.factor = factor,
          .beta_fast = beta_fast,
          .beta_slow = 1,
          .mscale = mscale,
          .mscale_all_dim = mscale,
          .original_max_position_embeddings = 4096};
}

// What all MLA models so far have in common.
ModelConfig Mla() {
  ModelConfig c;
  c.kv_lora_rank = 512;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.v_head_dim = 128;
  return c;
}

// Source: config.json of deepseek-ai/DeepSeek-V2-Lite.
ModelConfig V2Lite() {
  ModelConfig c = Mla();
  c.model_type = "deepseek_v2";
  c.architecture = "DeepseekV2ForCausalLM";
  c.vocab_size = 102400;
  c.hidden_size = 2048;
  c.num_hidden_layers = 27;
  c.num_attention_heads = c.num_key_value_heads = 16;
  c.intermediate_size = 10944;
  c.moe_intermediate_size = 1408;
  c.n_routed_experts = 64;
  c.n_shared_experts = 2;
  c.num_experts_per_tok = 6;
  c.scoring_func = "softmax";
  c.topk_method = "greedy";
  c.first_k_dense_replace = 1;
  c.rope_scaling = Yarn(40, 32, 0.707);
  c.max_position_embeddings = 163840;
  c.bos_token_id = 100000;
  c.eos_token_ids = {100001};
  return c;
}

// Source: config.json of deepseek-ai/DeepSeek-V2.
ModelConfig V2() {
  ModelConfig c = V2Lite();
  c.hidden_size = 5120;
  c.num_hidden_layers = 60;
  c.num_attention_heads = c.num_key_value_heads = 128;
  c.q_lora_rank = 1536;
  c.intermediate_size = 12288;
  c.moe_intermediate_size = 1536;
  c.n_routed_experts = 160;
  c.n_group = 8;
  c.topk_group = 3;
  c.topk_method = "group_limited_greedy";
  c.routed_scaling_factor = 16;
  c.rope_scaling = Yarn(40, 32, 1);
  return c;
}

// Source: config.json of deepseek-ai/DeepSeek-V3.
ModelConfig V3() {
  ModelConfig c = Mla();
  c.model_type = "deepseek_v3";
  c.architecture = "DeepseekV3ForCausalLM";
  c.vocab_size = 129280;
  c.hidden_size = 7168;
  c.num_hidden_layers = 61;
  c.num_attention_heads = c.num_key_value_heads = 128;
  c.q_lora_rank = 1536;
  c.intermediate_size = 18432;
  c.moe_intermediate_size = 2048;
  c.n_routed_experts = 256;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 8;
  c.n_group = 8;
  c.topk_group = 4;
  c.norm_topk_prob = true;
  c.scoring_func = "sigmoid";
  c.topk_method = "noaux_tc";
  c.routed_scaling_factor = 2.5;
  c.first_k_dense_replace = 3;
  c.num_nextn_predict_layers = 1;
  c.rope_scaling = Yarn(40, 32, 1);
  c.max_position_embeddings = 163840;
  c.fp8 = true;
  c.bos_token_id = 0;
  c.eos_token_ids = {1};
  return c;
}

// Source: config.json of moonshotai/Kimi-K2-Instruct.
ModelConfig KimiK2() {
  ModelConfig c = V3();
  c.model_type = "kimi_k2";
  c.vocab_size = 163840;
  c.num_attention_heads = c.num_key_value_heads = 64;
  c.n_routed_experts = 384;
  c.n_group = c.topk_group = 1;
  c.routed_scaling_factor = 2.827;
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = 0;
  c.rope_theta = 50000;
  c.rope_scaling = Yarn(32, 1, 1);
  c.max_position_embeddings = 131072;
  c.bos_token_id = 163584;
  c.eos_token_ids = {163585};
  return c;
}

// Source: config.json of deepseek-ai/deepseek-moe-16b-base.
ModelConfig MoE16B() {
  ModelConfig c;
  c.model_type = "deepseek";
  c.architecture = "DeepseekForCausalLM";
  c.vocab_size = 102400;
  c.hidden_size = 2048;
  c.num_hidden_layers = 28;
  c.num_attention_heads = c.num_key_value_heads = 16;
  c.intermediate_size = 10944;
  c.moe_intermediate_size = 1408;
  c.n_routed_experts = 64;
  c.n_shared_experts = 2;
  c.num_experts_per_tok = 6;
  c.scoring_func = "softmax";
  c.topk_method = "greedy";
  c.first_k_dense_replace = 1;
  c.max_position_embeddings = 4096;
  c.bos_token_id = 100000;
  c.eos_token_ids = {100001};
  return c;
}

using Maker = ModelConfig (*)();
constexpr std::pair<const char*, Maker> kPresets[] = {{"v2-lite", &V2Lite},
                                                      {"v2", &V2},
                                                      {"v3", &V3},
                                                      {"kimi-k2", &KimiK2},
                                                      {"deepseek-moe-16b", &MoE16B}};

}  // namespace

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const auto& [name, maker] : kPresets) names.push_back(name);
  return names;
}

StatusOr<ModelConfig> FindPreset(const std::string& name) {
  std::string known;
  for (const auto& [preset, maker] : kPresets) {
    if (name == preset) return maker();
    known += (known.empty() ? "" : ", ") + std::string(preset);
  }
  return InvalidArgument("unknown preset '%s': expected one of %s", name, known);
}

StatusOr<ModelConfig> ResolveModelConfig(const std::string& preset_or_path) {
  const StatusOr<ModelConfig> preset = FindPreset(preset_or_path);
  if (preset.ok()) return preset;
  std::error_code ignored;
  const bool is_folder = std::filesystem::is_directory(preset_or_path, ignored);
  if (!is_folder && !FileExists(preset_or_path)) {
    return NotFound("%s, and there is no such folder or file", preset.status().message());
  }
  const std::string path = is_folder ? preset_or_path + "/config.json" : preset_or_path;
  ATL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return ParseModelConfig(text, path);
}

}  // namespace atl::model
