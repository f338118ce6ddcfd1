#include "model/presets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/config_json.h"
#include "tests/support/golden.h"

namespace atl::model {
namespace {

using ::testing::HasSubstr;

TEST(Presets, SurviveTheirOwnConfigJson) {
  for (const std::string& name : PresetNames()) {
    const ModelConfig preset = *FindPreset(name);
    const StatusOr<ModelConfig> read = ParseModelConfig(ConfigToJson(preset), name);
    ASSERT_TRUE(read.ok()) << read.status();
    // Written again: equal text means that every field that config.json has came back.
    EXPECT_EQ(ConfigToJson(*read), ConfigToJson(preset));
    EXPECT_EQ(read->model_type, preset.model_type);
    EXPECT_EQ(read->eos_token_ids, preset.eos_token_ids);
  }
}

TEST(Presets, UnknownNamesWhatThereIs) {
  const Status status = FindPreset("v4").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  for (const std::string& name : PresetNames())
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  EXPECT_EQ(ResolveModelConfig("v4").status().code(), absl::StatusCode::kNotFound);
}

TEST(Presets, AFolderOrAFileWillDo) {
  const std::string demo = atl::testing::DemoModelDir();
  EXPECT_EQ(ResolveModelConfig("v3")->hidden_size, 7168);
  EXPECT_EQ(ResolveModelConfig(demo)->hidden_size, 256);
  EXPECT_EQ(ResolveModelConfig(demo + "/config.json")->hidden_size, 256);
  EXPECT_FALSE(ResolveModelConfig(demo + "/tokenizer_config.json").ok());
}

TEST(OverrideConfig, ReplacesFieldsAndChecksTheWhole) {
  const ModelConfig v3 = *FindPreset("v3");
  const StatusOr<ModelConfig> c = OverrideConfig(v3, {{"n_routed_experts", "16"},
                                                      {"q_lora_rank", "null"},
                                                      {"rope_scaling", "null"},
                                                      {"num_attention_heads", "4"}});
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->n_routed_experts, 16);
  EXPECT_EQ(c->q_lora_rank, 0);
  EXPECT_FALSE(c->rope_scaling.has_value());
  EXPECT_EQ(c->num_key_value_heads, 4);
  EXPECT_EQ(c->hidden_size, 7168);

  EXPECT_EQ(OverrideConfig(v3, {{"experts", "16"}}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OverrideConfig(v3, {{"n_routed_experts", "15"}}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OverrideConfig(v3, {{"hidden_size", "wide"}}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OverrideConfig(v3, {{"hidden_act", "gelu"}}).status().code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(OverrideConfig(v3, {{"hidden_act", "\xff"}}).status().code(),
            absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace atl::model
