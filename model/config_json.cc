#include "model/config_json.h"

#include <nlohmann/json.hpp>

namespace atl::model {
namespace {

using Json = nlohmann::json;

Json TokenIds(const std::vector<uint32_t>& ids) {
  if (ids.empty()) return nullptr;
  if (ids.size() == 1) return ids[0];
  return ids;
}

Json Positive(int64_t value) { return value > 0 ? Json(value) : Json(nullptr); }

Json BosToken(const ModelConfig& c) {
  return c.bos_token_id ? Json(*c.bos_token_id) : Json(nullptr);
}

Json RopeToJson(const ModelConfig& c) {
  if (!c.rope_scaling) return nullptr;
  return {{"type", "yarn"},
          {"factor", c.rope_scaling->factor},
          {"beta_fast", c.rope_scaling->beta_fast},
          {"beta_slow", c.rope_scaling->beta_slow},
          {"mscale", c.rope_scaling->mscale},
          {"mscale_all_dim", c.rope_scaling->mscale_all_dim},
          {"original_max_position_embeddings", c.rope_scaling->original_max_position_embeddings}};
}

Json ToJson(const ModelConfig& c) {
  Json json = {{"architectures", {c.architecture}},
               {"attention_bias", false},
               {"bos_token_id", BosToken(c)},
               {"eos_token_id", TokenIds(c.eos_token_ids)},
               {"first_k_dense_replace", c.first_k_dense_replace},
               {"hidden_act", "silu"},
               {"hidden_size", c.hidden_size},
               {"intermediate_size", c.intermediate_size},
               {"max_position_embeddings", c.max_position_embeddings},
               {"model_type", c.model_type},
               {"moe_layer_freq", c.moe_layer_freq},
               {"n_routed_experts", Positive(c.n_routed_experts)},
               {"n_shared_experts", Positive(c.n_shared_experts)},
               {"num_attention_heads", c.num_attention_heads},
               {"num_hidden_layers", c.num_hidden_layers},
               {"num_key_value_heads", c.num_key_value_heads},
               {"num_nextn_predict_layers", c.num_nextn_predict_layers},
               {"rms_norm_eps", c.rms_norm_eps},
               {"rope_scaling", RopeToJson(c)},
               {"rope_theta", c.rope_theta},
               {"tie_word_embeddings", c.tie_word_embeddings},
               {"torch_dtype", "bfloat16"},
               {"vocab_size", c.vocab_size}};
  if (c.is_mla()) {
    json.update({{"kv_lora_rank", c.kv_lora_rank},
                 {"q_lora_rank", Positive(c.q_lora_rank)},
                 {"qk_nope_head_dim", c.qk_nope_head_dim},
                 {"qk_rope_head_dim", c.qk_rope_head_dim},
                 {"v_head_dim", c.v_head_dim}});
  }
  json.update({{"moe_intermediate_size", Positive(c.moe_intermediate_size)},
               {"n_group", c.n_group},
               {"norm_topk_prob", c.norm_topk_prob},
               {"num_experts_per_tok", Positive(c.num_experts_per_tok)},
               {"routed_scaling_factor", c.routed_scaling_factor},
               {"topk_group", c.topk_group}});
  if (!c.scoring_func.empty()) json["scoring_func"] = c.scoring_func;
  if (!c.topk_method.empty()) json["topk_method"] = c.topk_method;
  if (c.fp8) {
    json["quantization_config"] = {{"activation_scheme", "dynamic"},
                                   {"fmt", "e4m3"},
                                   {"quant_method", "fp8"},
                                   {"weight_block_size", {c.fp8_block, c.fp8_block}}};
  }
  return json;
}

}  // namespace

std::string ConfigToJson(const ModelConfig& config) { return ToJson(config).dump(2) + "\n"; }

std::string GenerationConfigToJson(const ModelConfig& config) {
  Json json = {{"_from_model_config", true}};
  if (config.bos_token_id) json["bos_token_id"] = *config.bos_token_id;
  if (!config.eos_token_ids.empty()) json["eos_token_id"] = TokenIds(config.eos_token_ids);
  return json.dump(2) + "\n";
}

StatusOr<ModelConfig> OverrideConfig(
    const ModelConfig& config, const std::vector<std::pair<std::string, std::string>>& fields) {
  Json json = ToJson(config);
  bool kv_heads_given = false;
  for (const auto& [name, text] : fields) {
    if (!json.contains(name) && name != "quantization_config") {
      return InvalidArgument("'%s' is no field of config.json for model_type %s", name,
                             config.model_type);
    }
    const Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    json[name] = value.is_discarded() ? Json(text) : value;
    kv_heads_given = kv_heads_given || name == "num_key_value_heads";
  }
  const bool heads_changed = json["num_attention_heads"] != config.num_attention_heads;
  if (heads_changed && !kv_heads_given) json["num_key_value_heads"] = json["num_attention_heads"];
  return ParseModelConfig(json.dump(-1, ' ', false, Json::error_handler_t::replace),
                          "overridden config");
}

}  // namespace atl::model
