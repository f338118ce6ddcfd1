#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "model/layout.h"

namespace atl::model {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

// DeepSeek-V3's published config.json, its sizes included.
Json V3() {
  return Json::parse(R"({
    "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "bos_token_id": 0, "eos_token_id": 1,
    "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168, "intermediate_size": 18432,
    "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v3",
    "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256,
    "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                            "weight_block_size": [128, 128]},
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                     "original_max_position_embeddings": 4096, "type": "yarn"},
    "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": false,
    "topk_group": 4, "topk_method": "noaux_tc", "v_head_dim": 128, "vocab_size": 129280})");
}

// The fields that a DeepSeek-V2 configuration cannot do without.
Json MinimalV2() {
  return {
      {"model_type", "deepseek_v2"}, {"vocab_size", 1000},       {"hidden_size", 64},
      {"num_hidden_layers", 4},      {"num_attention_heads", 4}, {"intermediate_size", 128},
      {"q_lora_rank", nullptr},      {"kv_lora_rank", 32},       {"qk_nope_head_dim", 16},
      {"qk_rope_head_dim", 8},       {"v_head_dim", 16},         {"max_position_embeddings", 2048}};
}

Json Edited(Json json, const std::function<void(Json&)>& edit) {
  edit(json);
  return json;
}

StatusOr<ModelConfig> Parse(const Json& json) {
  return ParseModelConfig(json.dump(), "config.json");
}

TEST(Config, ReadsThePublishedV3) {
  const StatusOr<ModelConfig> c = Parse(V3());
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->architecture, "DeepseekV3ForCausalLM");
  EXPECT_EQ(c->q_lora_rank, 1536);
  EXPECT_EQ(c->n_group, 8);
  EXPECT_EQ(c->topk_group, 4);
  EXPECT_TRUE(c->norm_topk_prob);
  EXPECT_EQ(c->routed_scaling_factor, 2.5);
  EXPECT_EQ(c->num_nextn_predict_layers, 1);
  EXPECT_TRUE(c->fp8);
  EXPECT_EQ(c->eos_token_ids, std::vector<uint32_t>{1});
  EXPECT_EQ(c->bos_token_id, 0u);
  ASSERT_TRUE(c->rope_scaling.has_value());
  EXPECT_EQ(c->rope_scaling->factor, 40);
  EXPECT_EQ(c->rope_scaling->mscale_all_dim, 1);
  EXPECT_EQ(c->cache_values_per_token_layer(), 576);
  EXPECT_FALSE(c->is_moe_layer(2));
  EXPECT_TRUE(c->is_moe_layer(3));
  EXPECT_TRUE(c->is_moe_layer(61)) << "the MTP layer";
  EXPECT_TRUE(CheckServable(*c).ok());
}

TEST(Config, SilenceMeansWhatTheFamilysClassSays) {
  const StatusOr<ModelConfig> c = Parse(MinimalV2());
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->q_lora_rank, 0);
  EXPECT_EQ(c->n_routed_experts, 0);
  EXPECT_FALSE(c->is_moe_layer(3));
  EXPECT_EQ(c->num_key_value_heads, 4);
  EXPECT_EQ(c->rms_norm_eps, 1e-6);
  EXPECT_EQ(c->rope_theta, 10000);
  EXPECT_FALSE(c->rope_scaling.has_value());
  EXPECT_FALSE(c->tie_word_embeddings);
  EXPECT_FALSE(c->fp8);

  const StatusOr<ModelConfig> moe = Parse(Edited(MinimalV2(), [](Json& j) {
    j.update({{"n_routed_experts", 16},
              {"moe_intermediate_size", 32},
              {"num_experts_per_tok", 2},
              {"n_group", nullptr}});
  }));
  ASSERT_TRUE(moe.ok()) << moe.status();
  EXPECT_EQ(moe->n_group, 1);
  EXPECT_EQ(moe->scoring_func, "softmax");
  EXPECT_EQ(moe->topk_method, "greedy");
  EXPECT_FALSE(moe->norm_topk_prob);
  EXPECT_EQ(moe->moe_layer_freq, 1);
  EXPECT_EQ(moe->n_shared_experts, 0);

  const StatusOr<ModelConfig> v3 = Parse(Edited(V3(), [](Json& j) {
    for (const char* key :
         {"scoring_func", "topk_method", "norm_topk_prob", "num_nextn_predict_layers"})
      j.erase(key);
  }));
  ASSERT_TRUE(v3.ok()) << v3.status();
  EXPECT_EQ(v3->scoring_func, "sigmoid");
  EXPECT_EQ(v3->topk_method, "noaux_tc");
  EXPECT_TRUE(v3->norm_topk_prob);
  EXPECT_EQ(v3->num_nextn_predict_layers, 0);
}

TEST(Config, ReadsRopeAsTransformers5WritesIt) {
  const StatusOr<ModelConfig> c = Parse(Edited(V3(), [](Json& j) {
    j["rope_parameters"] = {{"rope_type", "yarn"},
                            {"rope_theta", 50000.0},
                            {"factor", 32},
                            {"attention_factor", nullptr},
                            {"original_max_position_embeddings", 4096}};
    j.erase("rope_scaling");
    j.erase("rope_theta");
  }));
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->rope_theta, 50000);
  EXPECT_EQ(c->rope_scaling->factor, 32);
  EXPECT_EQ(c->rope_scaling->beta_fast, 32);

  const StatusOr<ModelConfig> plain = Parse(Edited(V3(), [](Json& j) {
    j["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 50000.0}};
    j.erase("rope_scaling");
  }));
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_FALSE(plain->rope_scaling.has_value());
  EXPECT_EQ(plain->rope_theta, 50000);
}

TEST(Config, DeepSeekMoE16BParsesButIsNotServed) {
  const StatusOr<ModelConfig> c = Parse({{"model_type", "deepseek"},
                                         {"vocab_size", 102400},
                                         {"hidden_size", 2048},
                                         {"num_hidden_layers", 28},
                                         {"num_attention_heads", 16},
                                         {"num_key_value_heads", 16},
                                         {"intermediate_size", 10944},
                                         {"moe_intermediate_size", 1408},
                                         {"n_routed_experts", 64},
                                         {"n_shared_experts", 2},
                                         {"num_experts_per_tok", 6},
                                         {"first_k_dense_replace", 1},
                                         {"max_position_embeddings", 4096}});
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_FALSE(c->is_mla());
  const Status servable = CheckServable(*c);
  EXPECT_EQ(servable.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(servable.message()), HasSubstr("'deepseek'"));
}

struct Refusal {
  std::string name;
  Json edit;  // merged into V3's config.json; a key whose value is "<absent>" is erased
  absl::StatusCode code;
  std::string says;
};

class RefusedConfig : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusedConfig, ByName) {
  Json json = V3();
  for (const auto& [key, value] : GetParam().edit.items()) {
    if (value == "<absent>") {
      json.erase(key);
    } else {
      json[key] = value;
    }
  }
  const StatusOr<ModelConfig> c = Parse(json);
  ASSERT_FALSE(c.ok());
  EXPECT_EQ(c.status().code(), GetParam().code) << c.status();
  EXPECT_THAT(std::string(c.status().message()), HasSubstr(GetParam().says));
  EXPECT_THAT(std::string(c.status().message()), HasSubstr("config.json"));
}

constexpr absl::StatusCode kUnsupported = absl::StatusCode::kUnimplemented;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

Json Yarn(const Json& change) {
  Json yarn = V3()["rope_scaling"];
  yarn.update(change);
  return {{"rope_scaling", yarn}};
}

Json Quantization(const Json& change) {
  Json q = V3()["quantization_config"];
  q.update(change);
  return {{"quantization_config", q}};
}

std::vector<Refusal> Refusals() {
  return {
      // Not supported, by name.
      {"ModelType", {{"model_type", "llama"}}, kUnsupported, "model_type 'llama'"},
      {"NoModelType", {{"model_type", "<absent>"}}, kUnsupported, "model_type ''"},
      {"RopeType", Yarn({{"type", "linear"}}), kUnsupported, "rope type 'linear'"},
      {"RopeTypeAbsent", {{"rope_scaling", Json::object()}}, kUnsupported, "rope type ''"},
      {"RopeKey", Yarn({{"attention_factor", 1.5}}), kUnsupported, "key 'attention_factor'"},
      {"RopeHalves", {{"rope_interleave", false}}, kUnsupported, "rope_interleave"},
      {"Activation", {{"hidden_act", "gelu"}}, kUnsupported, "hidden_act 'gelu'"},
      {"AttentionBias", {{"attention_bias", true}}, kUnsupported, "attention_bias"},
      {"MlpBias", {{"mlp_bias", true}}, kUnsupported, "mlp_bias"},
      {"ScoringFunc", {{"scoring_func", "softmax"}}, kUnsupported, "scoring_func 'softmax'"},
      {"TopkMethod", {{"topk_method", "gready"}}, kUnsupported, "topk_method 'gready'"},
      {"V2Scoring", {{"model_type", "deepseek_v2"}}, kUnsupported, "scoring_func 'sigmoid'"},
      {"QuantMethod", Quantization({{"quant_method", "awq"}}), kUnsupported, "quant_method 'awq'"},
      {"QuantFormat", Quantization({{"fmt", "e5m2"}}), kUnsupported, "fmt 'e5m2'"},
      {"QuantBlock", Quantization({{"weight_block_size", {128, 64}}}), kUnsupported, "'128 x 64'"},
      {"QuantNoBlock", Quantization({{"weight_block_size", nullptr}}), kUnsupported,
       "weight_block_size"},
      {"QuantStatic", Quantization({{"activation_scheme", "static"}}), kUnsupported,
       "activation_scheme 'static'"},
      {"QuantScale", Quantization({{"scale_fmt", "float"}}), kUnsupported, "scale_fmt 'float'"},
      // Missing.
      {"NoHiddenSize", {{"hidden_size", "<absent>"}}, kInvalid, "'hidden_size' is missing"},
      {"NoVocab", {{"vocab_size", nullptr}}, kInvalid, "'vocab_size' is missing"},
      {"NoQLoraRank", {{"q_lora_rank", "<absent>"}}, kInvalid, "'q_lora_rank' is missing"},
      {"NoKvLoraRank", {{"kv_lora_rank", "<absent>"}}, kInvalid, "'kv_lora_rank' is missing"},
      {"NoGroups", {{"n_group", "<absent>"}}, kInvalid, "'n_group' is missing"},
      {"NoExperts", {{"n_routed_experts", "<absent>"}}, kInvalid, "'n_routed_experts' is missing"},
      {"NoShared", {{"n_shared_experts", "<absent>"}}, kInvalid, "'n_shared_experts' is missing"},
      {"NoDense",
       {{"first_k_dense_replace", "<absent>"}},
       kInvalid,
       "'first_k_dense_replace' is missing"},
      {"NoScaling",
       {{"routed_scaling_factor", "<absent>"}},
       kInvalid,
       "'routed_scaling_factor' is missing"},
      {"NoTopK", {{"num_experts_per_tok", nullptr}}, kInvalid, "'num_experts_per_tok' is missing"},
      {"YarnNoFactor", {{"rope_scaling", {{"type", "yarn"}}}}, kInvalid, "'factor' is missing"},
      {"YarnNoOriginal",
       {{"rope_scaling", {{"type", "yarn"}, {"factor", 40}}}},
       kInvalid,
       "'original_max_position_embeddings' is missing"},
      // Wrong type.
      {"HiddenIsText", {{"hidden_size", "7168"}}, kInvalid, "'hidden_size' is a string"},
      {"HiddenIsFloat", {{"hidden_size", 7168.0}}, kInvalid, "'hidden_size' is a number"},
      {"BiasIsNumber", {{"attention_bias", 0}}, kInvalid, "'attention_bias' is a number"},
      {"ActIsBool", {{"hidden_act", true}}, kInvalid, "'hidden_act' is a boolean"},
      {"EpsIsText", {{"rms_norm_eps", "1e-6"}}, kInvalid, "'rms_norm_eps' is a string"},
      {"ScalingIsText", {{"rope_scaling", "yarn"}}, kInvalid, "'rope_scaling' is a string"},
      {"QuantIsText",
       {{"quantization_config", "fp8"}},
       kInvalid,
       "'quantization_config' is a string"},
      // Out of range.
      {"ZeroLayers", {{"num_hidden_layers", 0}}, kInvalid, "'num_hidden_layers' is 0"},
      {"ZeroHeads", {{"num_attention_heads", 0}}, kInvalid, "'num_attention_heads' is 0"},
      {"ZeroF", {{"moe_intermediate_size", 0}}, kInvalid, "'moe_intermediate_size' is 0"},
      {"ZeroK", {{"num_experts_per_tok", 0}}, kInvalid, "'num_experts_per_tok' is 0"},
      {"NegativeVocab", {{"vocab_size", -1}}, kInvalid, "'vocab_size' is -1"},
      {"HugeVocab", {{"vocab_size", int64_t{1} << 40}}, kInvalid, "'vocab_size' is 1099511627776"},
      {"BeyondInt64",
       {{"hidden_size", UINT64_MAX}},
       kInvalid,
       "'hidden_size' is 18446744073709551615"},
      {"HugeExperts", {{"n_routed_experts", 1 << 20}}, kInvalid, "'n_routed_experts' is 1048576"},
      {"HugePositions",
       {{"max_position_embeddings", int64_t{1} << 33}},
       kInvalid,
       "'max_position_embeddings'"},
      {"ThetaOne", {{"rope_theta", 1}}, kInvalid, "'rope_theta' is 1"},
      {"EpsZero", {{"rms_norm_eps", 0}}, kInvalid, "'rms_norm_eps' is 0"},
      {"ScalingZero", {{"routed_scaling_factor", 0}}, kInvalid, "'routed_scaling_factor' is 0"},
      {"YarnShrinks", Yarn({{"factor", 0.5}}), kInvalid, "'factor' is 0.5"},
      {"EosOutside", {{"eos_token_id", {1, 129280}}}, kInvalid, "'eos_token_id' is 129280"},
      {"BosOutside", {{"bos_token_id", 129280}}, kInvalid, "'bos_token_id' is 129280"},
      // Contradictions.
      {"OddRope", {{"qk_rope_head_dim", 63}}, kInvalid, "qk_rope_head_dim 63 is odd"},
      {"KvHeads", {{"num_key_value_heads", 64}}, kInvalid, "num_key_value_heads 64 differs"},
      {"KAboveE",
       {{"num_experts_per_tok", 257}},
       kInvalid,
       "num_experts_per_tok 257 is above n_routed_experts 256"},
      {"GroupsDoNotDivide", {{"n_group", 7}}, kInvalid, "no multiple of n_group 7"},
      {"GroupsAboveE", {{"n_group", 512}}, kInvalid, "no multiple of n_group 512"},
      {"TopkGroupAboveGroups", {{"topk_group", 9}}, kInvalid, "topk_group 9 is above n_group 8"},
      {"KAboveTopkGroups",
       {{"topk_group", 1}, {"num_experts_per_tok", 33}},
       kInvalid,
       "num_experts_per_tok 33 is above the 32 experts of topk_group 1 of n_group 8"},
      {"GroupsOfOne", {{"n_group", 256}, {"topk_group", 8}}, kInvalid, "leaves one in each"},
      {"DenseAboveLayers",
       {{"first_k_dense_replace", 62}},
       kInvalid,
       "first_k_dense_replace 62 is above"},
      {"MtpWithoutExperts", {{"n_routed_experts", 0}}, kInvalid, "num_nextn_predict_layers needs"},
      {"MtpWithFreq", {{"moe_layer_freq", 2}}, kInvalid, "num_nextn_predict_layers needs"},
      {"BetasSwapped", Yarn({{"beta_fast", 1}, {"beta_slow", 32}}), kInvalid,
       "beta_fast 1 is below beta_slow 32"},
      {"TwoRopeTypes", Yarn({{"rope_type", "default"}}), kInvalid,
       "type 'yarn' and rope_type 'default' differ"},
      {"TwoRopes", {{"rope_parameters", {{"rope_type", "default"}}}}, kInvalid, "are both given"},
      {"LayerTypes",
       {{"mlp_layer_types", Json::array({"dense"})}},
       kInvalid,
       "'mlp_layer_types' is no list of 61"},
      {"LayerTypesDiffer",
       {{"mlp_layer_types", std::vector<std::string>(61, "sparse")}},
       kInvalid,
       "mlp_layer_types of layer 0 contradicts"},
  };
}

INSTANTIATE_TEST_SUITE_P(Each, RefusedConfig, ::testing::ValuesIn(Refusals()),
                         [](const auto& info) { return info.param.name; });

// {"a": {"a": ... 1 ...}}, the innermost object inside `depth` others.
std::string NestedObjects(int depth) {
  std::string text;
  for (int i = 0; i <= depth; ++i) text += "{\"a\": ";
  return text + "1" + std::string(depth + 1, '}');
}

TEST(Config, RefusesTextThatIsNoObject) {
  for (const auto& [text, says] : std::vector<std::pair<std::string, std::string>>{
           {"", "not valid JSON"},
           {"{", "not valid JSON"},
           {"{\"a\": 1,}", "not valid JSON at byte 9"},
           {"[1]", "found an array"},
           {"\"x\"", "found a string"},
           {"{\"a\xff\": 1}", "not valid JSON"},
           {"{\"a\": 1, \"b\": {\"a\": 2}, \"a\": 3}", "key 'a' is given twice"},
           {"{\"a\": " + std::string(40, '[') + std::string(40, ']') + "}", "nests deeper than 32"},
           {NestedObjects(33), "nests deeper than 32"},
           {NestedObjects(40), "nests deeper than 32"},
           {NestedObjects(40000), "nests deeper than 32"},
           {"{\"a\": " + NestedObjects(40) + ", \"b\": {\"c\": 1}, \"b\": 2}",
            "key 'b' is given twice"},
           {std::string(1 << 20, '['), "not valid JSON"}}) {
    const StatusOr<ModelConfig> c = ParseModelConfig(text, "x.json");
    ASSERT_FALSE(c.ok()) << text.substr(0, 40);
    EXPECT_THAT(std::string(c.status().message()), HasSubstr(says));
  }
}

// Values of any kind in any field: an error, or a configuration whose numbers can be worked with.
TEST(Config, NoValueBreaksTheParser) {
  const std::vector<Json> values = {nullptr,
                                    true,
                                    false,
                                    0,
                                    1,
                                    -1,
                                    2,
                                    3,
                                    64,
                                    1e300,
                                    -0.0,
                                    0.5,
                                    INT64_MAX,
                                    INT64_MIN,
                                    UINT64_MAX,
                                    "",
                                    "x",
                                    "yarn",
                                    "greedy",
                                    Json::array(),
                                    Json::array({1, 2}),
                                    Json::object(),
                                    Json{{"type", "yarn"}, {"factor", 1e300}}};
  int accepted = 0;
  const Json small_v3 = Edited(V3(), [](Json& j) { j["n_routed_experts"] = 32; });
  for (const Json& base : {small_v3, MinimalV2()}) {
    for (const auto& [key, old] : base.items()) {
      for (const Json& value : values) {
        Json json = base;
        json[key] = value;
        const StatusOr<ModelConfig> c = Parse(json);
        if (!c.ok()) continue;
        ++accepted;
        EXPECT_GT(c->hidden_size, 0) << json;
        const ParamCount count = CountParams(*c);
        EXPECT_GT(count.active, 0) << json;
        EXPECT_LE(count.active, count.total) << json;
      }
    }
  }
  EXPECT_GT(accepted, 100);
}

TEST(Config, TheSameKeyInTwoObjectsIsFine) {
  ModelConfig c;
  c.vocab_size = 10;
  EXPECT_TRUE(
      ParseGenerationConfig(R"({"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}, {"x": 2}]})", "g", &c)
          .ok());
}

TEST(GenerationConfig, OverridesTheEndTokensAndKeepsSilenceApart) {
  ModelConfig c = *Parse(V3());
  const StatusOr<GenerationConfig> g = ParseGenerationConfig(
      R"({"eos_token_id": [1, 7], "do_sample": true, "temperature": 0.5, "top_p": 0.25, "top_k": 40})",
      "g.json", &c);
  ASSERT_TRUE(g.ok()) << g.status();
  EXPECT_EQ(c.eos_token_ids, (std::vector<uint32_t>{1, 7}));
  EXPECT_EQ(g->do_sample, true);
  EXPECT_EQ(g->temperature, 0.5f);
  EXPECT_EQ(g->top_p, 0.25f);
  EXPECT_EQ(g->top_k, 40u);
  EXPECT_FALSE(g->min_p.has_value());
  EXPECT_FALSE(g->repetition_penalty.has_value());

  ASSERT_TRUE(ParseGenerationConfig("{}", "g.json", &c).ok());
  EXPECT_EQ(c.eos_token_ids, (std::vector<uint32_t>{1, 7})) << "silence changes nothing";
}

TEST(GenerationConfig, RefusesWhatNoSamplerCanDo) {
  for (const char* text :
       {R"({"temperature": -1})", R"({"top_p": 1.5})", R"({"top_k": -1})", R"({"min_p": 2})",
        R"({"repetition_penalty": 0})", R"({"eos_token_id": 129280})", R"({"do_sample": 1})",
        R"({"temperature": "1"})", "[]"}) {
    ModelConfig c = *Parse(V3());
    EXPECT_EQ(ParseGenerationConfig(text, "g.json", &c).status().code(), kInvalid) << text;
  }
}

}  // namespace
}  // namespace atl::model
