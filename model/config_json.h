// A configuration back as config.json, and with some of its fields replaced.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "model/config.h"

namespace atl::model {

// config.json that ParseModelConfig reads back as `config`.
std::string ConfigToJson(const ModelConfig& config);

// generation_config.json with the config's begin and end tokens.
std::string GenerationConfigToJson(const ModelConfig& config);

// `config` with fields of config.json replaced: {"n_routed_experts", "16"}, {"q_lora_rank",
// "null"}; a value is JSON, or else a string. num_key_value_heads follows num_attention_heads
// unless it is given too. InvalidArgument for a field that config.json does not have; else as
// ParseModelConfig: contradictions are refused.
StatusOr<ModelConfig> OverrideConfig(
    const ModelConfig& config, const std::vector<std::pair<std::string, std::string>>& fields);

}  // namespace atl::model
