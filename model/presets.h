// Published models by name, as configurations.
#pragma once

#include <string>
#include <vector>

#include "model/config.h"

namespace atl::model {

// "v2-lite", "v2", "v3", "kimi-k2", "deepseek-moe-16b": the sizes of the published config.json
// files.
std::vector<std::string> PresetNames();

// InvalidArgument names the unknown preset and lists those there are.
StatusOr<ModelConfig> FindPreset(const std::string& name);

// A preset's name, a checkpoint folder, or a config.json. NotFound if it is none of them; else as
// ParseModelConfig.
StatusOr<ModelConfig> ResolveModelConfig(const std::string& preset_or_path);

}  // namespace atl::model
