#include "model/config.h"

#include <algorithm>
#include <set>

#include "model/config_reader.h"
#include "model/json.h"

namespace atl::model {
namespace {

using Json = nlohmann::json;

// Sanity limits: several times what was ever published, small enough that products of sizes fit in
// 63 bits.
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxWidth = int64_t{1} << 18;  // hidden sizes, ranks, intermediate sizes
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 8192;
constexpr int64_t kMaxExperts = 4096;  // what kernels/gate.h takes
constexpr int64_t kMaxSharedExperts = 64;
constexpr int64_t kMaxMtpLayers = 16;
constexpr int64_t kMaxPositions = int64_t{1} << 24;
constexpr int64_t kFp8Block = 128;

bool IsV3(const ModelConfig& c) {
  return c.model_type == "deepseek_v3" || c.model_type == "kimi_k2";
}

void ReadFamily(const Json& object, FieldReader& f, ModelConfig& c) {
  c.model_type = f.String("model_type", "");
  if (!IsV3(c) && c.model_type != "deepseek_v2" && c.model_type != "deepseek") {
    f.Unsupported("model_type", c.model_type, "deepseek_v3, kimi_k2, deepseek_v2 or deepseek");
    return;
  }
  const auto it = object.find("architectures");
  if (it != object.end() && it->is_array() && !it->empty() && it->front().is_string()) {
    c.architecture = it->front().get<std::string>();
  }
}

void ReadSizes(FieldReader& f, ModelConfig& c) {
  c.vocab_size = f.RequiredInt("vocab_size", 1, kMaxVocab);
  c.hidden_size = f.RequiredInt("hidden_size", 1, kMaxWidth);
  c.num_hidden_layers = f.RequiredInt("num_hidden_layers", 1, kMaxLayers);
  c.num_attention_heads = f.RequiredInt("num_attention_heads", 1, kMaxHeads);
  c.num_key_value_heads = f.Int("num_key_value_heads", c.num_attention_heads, 1, kMaxHeads);
  c.intermediate_size = f.RequiredInt("intermediate_size", 1, kMaxWidth);
  c.max_position_embeddings = f.RequiredInt("max_position_embeddings", 1, kMaxPositions);
  c.tie_word_embeddings = f.Bool("tie_word_embeddings", false);
  c.rms_norm_eps = f.Double("rms_norm_eps", 1e-6, 1e-12, 0.1);
  if (!c.is_mla()) return;
  f.RequireKey("q_lora_rank", "a single q_proj");  // transformers would take 1536 for silence
  c.q_lora_rank = f.Int("q_lora_rank", 0, 1, kMaxWidth);
  c.kv_lora_rank = f.RequiredInt("kv_lora_rank", 1, kMaxWidth);
  c.qk_nope_head_dim = f.RequiredInt("qk_nope_head_dim", 1, kMaxHeadDim);
  c.qk_rope_head_dim = f.RequiredInt("qk_rope_head_dim", 2, kMaxHeadDim);
  c.v_head_dim = f.RequiredInt("v_head_dim", 1, kMaxHeadDim);
}

// Defaults differ by family; they are those of DeepSeek's configuration classes.
void ReadRouting(FieldReader& f, ModelConfig& c) {
  const bool v3 = IsV3(c);
  c.scoring_func = f.String("scoring_func", v3 ? "sigmoid" : "softmax");
  c.topk_method = f.String("topk_method", v3 ? "noaux_tc" : "greedy");
  if (c.scoring_func != (v3 ? "sigmoid" : "softmax")) {
    f.Unsupported("scoring_func", c.scoring_func,
                  (v3 ? "sigmoid of " : "softmax of ") + c.model_type);
  }
  if (v3 && c.topk_method != "noaux_tc")
    f.Unsupported("topk_method", c.topk_method, "noaux_tc of " + c.model_type);
  if (!v3 && c.topk_method != "greedy" && c.topk_method != "group_limited_greedy") {
    f.Unsupported("topk_method", c.topk_method,
                  "greedy or group_limited_greedy of " + c.model_type);
  }
  c.norm_topk_prob = f.Bool("norm_topk_prob", v3);
  c.routed_scaling_factor = f.Double("routed_scaling_factor", 1.0, 1e-6, 1e6);
  c.n_group = f.Int("n_group", 1, 1, kMaxExperts);
  c.topk_group = f.Int("topk_group", 1, 1, kMaxExperts);
}

void ReadExperts(FieldReader& f, ModelConfig& c) {
  if (IsV3(c)) {
    // DeepSeek's class for V2 has none of these by default, the one for V3 has the 671B model's: no
    // default is safe.
    f.RequireKey("n_routed_experts", "a dense model");
    f.RequireKey("n_shared_experts", "none");
    f.RequireKey("first_k_dense_replace", "0");
    f.RequireKey("n_group", "1");
    f.RequireKey("topk_group", "1");
    f.RequireKey("routed_scaling_factor", "1");
  }
  c.n_routed_experts = f.Int("n_routed_experts", 0, 0, kMaxExperts);
  c.first_k_dense_replace = f.Int("first_k_dense_replace", 0, 0, kMaxLayers);
  c.moe_layer_freq = f.Int("moe_layer_freq", 1, 1, kMaxLayers);
  c.num_nextn_predict_layers = f.Int("num_nextn_predict_layers", 0, 0, kMaxMtpLayers);
  if (c.n_routed_experts == 0) return;
  c.n_shared_experts = f.Int("n_shared_experts", 0, 0, kMaxSharedExperts);
  c.moe_intermediate_size = f.RequiredInt("moe_intermediate_size", 1, kMaxWidth);
  c.num_experts_per_tok = f.RequiredInt("num_experts_per_tok", 1, kMaxExperts);
  ReadRouting(f, c);
}

// One object of rope_scaling, or of rope_parameters as transformers 5 writes it (with rope_theta
// inside).
void ReadRopeObject(const Json& object, const std::string& name, FieldReader& parent,
                    ModelConfig& c) {
  FieldReader f(object, parent.where() + ": " + name);
  const std::string type = f.String("rope_type", f.String("type", ""));
  if (f.Has("type") && f.String("type", "") != type) {
    f.Contradiction(
        absl::StrFormat("type '%s' and rope_type '%s' differ", f.String("type", ""), type));
  }
  c.rope_theta = f.Double("rope_theta", c.rope_theta, 1.000001, 1e12);
  if (type == "yarn") {
    static const std::set<std::string> kKnown = {
        "type",           "rope_type", "rope_theta",
        "factor",         "mscale",    "beta_fast",
        "mscale_all_dim", "beta_slow", "original_max_position_embeddings"};
    for (const auto& [key, value] : object.items()) {
      if (!kKnown.contains(key) && !value.is_null())
        f.Unsupported("key", key, "the keys of DeepSeek's yarn");
    }
    if (!f.Has("factor")) f.Contradiction("'factor' is missing: expected a number from 1 on");
    RopeScaling yarn;
    yarn.factor = f.Double("factor", 1, 1, 1e6);
    yarn.beta_fast = f.Double("beta_fast", yarn.beta_fast, 1e-6, 1e6);
    yarn.beta_slow = f.Double("beta_slow", yarn.beta_slow, 1e-6, 1e6);
    yarn.mscale = f.Double("mscale", yarn.mscale, 0, 1e3);
    yarn.mscale_all_dim = f.Double("mscale_all_dim", yarn.mscale_all_dim, 0, 1e3);
    yarn.original_max_position_embeddings =
        f.RequiredInt("original_max_position_embeddings", 1, kMaxPositions);
    if (yarn.beta_fast < yarn.beta_slow) {
      f.Contradiction(
          absl::StrFormat("beta_fast %g is below beta_slow %g", yarn.beta_fast, yarn.beta_slow));
    }
    c.rope_scaling = yarn;
  } else if (type != "default") {
    f.Unsupported("rope type", type, "yarn or default");
  }
  if (!f.status().ok()) parent.Fail(f.status());
}

void ReadRope(const Json& object, FieldReader& f, ModelConfig& c) {
  c.rope_theta = f.Double("rope_theta", 10000, 1.000001, 1e12);
  if (f.Has("rope_scaling") && f.Has("rope_parameters")) {
    f.Contradiction("rope_scaling and rope_parameters are both given: expected one");
  }
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    if (!f.Has(name)) continue;
    const Json& value = object[name];
    if (value.is_object()) {
      ReadRopeObject(value, name, f, c);
    } else {
      f.Contradiction(
          absl::StrFormat("'%s' is %s: expected an object or null", name, JsonTypeName(value)));
    }
  }
  if (!f.Bool("rope_interleave", true))
    f.Unsupported("rope_interleave", "false", "true: adjacent pairs");
}

void ReadQuantization(const Json& object, FieldReader& parent, ModelConfig& c) {
  if (!parent.Has("quantization_config")) return;
  const Json& value = object["quantization_config"];
  if (!value.is_object()) {
    parent.Contradiction("'quantization_config' is " + JsonTypeName(value) +
                         ": expected an object or null");
    return;
  }
  FieldReader f(value, parent.where() + ": quantization_config");
  const std::string method = f.String("quant_method", "");
  const std::string fmt = f.String("fmt", "e4m3");
  const std::string scheme = f.String("activation_scheme", "dynamic");
  const std::string scale_fmt = f.String("scale_fmt", "ue8m0");
  if (method != "fp8") f.Unsupported("quant_method", method, "fp8");
  if (fmt != "e4m3") f.Unsupported("fmt", fmt, "e4m3");
  if (scheme != "dynamic") f.Unsupported("activation_scheme", scheme, "dynamic");
  // Scales that are powers of two are stored as the same float32 values.
  if (scale_fmt != "ue8m0") f.Unsupported("scale_fmt", scale_fmt, "ue8m0 or none");
  const std::vector<int64_t> block = f.Ints("weight_block_size", 1, kMaxWidth);
  if (block != std::vector<int64_t>{kFp8Block, kFp8Block}) {
    std::string found;
    for (const int64_t side : block) found += (found.empty() ? "" : " x ") + std::to_string(side);
    f.Unsupported("weight_block_size", found, "128 x 128");
  }
  if (!f.status().ok()) parent.Fail(f.status());
  c.fp8 = true;
  c.fp8_block = kFp8Block;
}

void RefuseOtherForms(FieldReader& f) {
  const std::string act = f.String("hidden_act", "silu");
  if (act != "silu") f.Unsupported("hidden_act", act, "silu");
  for (const char* name : {"attention_bias", "mlp_bias"}) {
    if (f.Bool(name, false)) f.Unsupported(name, "true", "false");
  }
}

void CheckRouting(FieldReader& f, const ModelConfig& c) {
  const int64_t e = c.n_routed_experts;
  const int64_t k = c.num_experts_per_tok;
  if (k > e)
    f.Contradiction(absl::StrFormat("num_experts_per_tok %d is above n_routed_experts %d", k, e));
  if (c.n_group > e || e % c.n_group != 0) {
    f.Contradiction(
        absl::StrFormat("n_routed_experts %d is no multiple of n_group %d", e, c.n_group));
    return;
  }
  if (c.topk_group > c.n_group) {
    f.Contradiction(absl::StrFormat("topk_group %d is above n_group %d", c.topk_group, c.n_group));
  }
  const int64_t eligible = c.topk_method == "greedy" ? e : c.topk_group * (e / c.n_group);
  if (k > eligible) {
    f.Contradiction(absl::StrFormat(
        "num_experts_per_tok %d is above the %d experts of topk_group %d of n_group %d", k,
        eligible, c.topk_group, c.n_group));
  }
  if (c.topk_method == "noaux_tc" && c.n_group > 1 && e / c.n_group < 2) {
    f.Contradiction(
        "noaux_tc scores a group by its two best experts, but n_group leaves one in each");
  }
}

void CheckLayers(const Json& object, FieldReader& f, const ModelConfig& c) {
  if (c.first_k_dense_replace > c.num_hidden_layers) {
    f.Contradiction(absl::StrFormat("first_k_dense_replace %d is above num_hidden_layers %d",
                                    c.first_k_dense_replace, c.num_hidden_layers));
  }
  if (c.num_nextn_predict_layers > 0 && (c.n_routed_experts == 0 || c.moe_layer_freq != 1)) {
    f.Contradiction(
        "num_nextn_predict_layers needs n_routed_experts and moe_layer_freq 1: an MTP layer is a "
        "MoE layer");
  }
  const auto types = object.find(
      "mlp_layer_types");  // written by transformers 5 beside, or instead of, the numbers
  if (types == object.end() || types->is_null()) return;
  if (!types->is_array() || types->size() < static_cast<size_t>(c.num_hidden_layers)) {
    f.Contradiction(
        absl::StrFormat("'mlp_layer_types' is no list of %d layers", c.num_hidden_layers));
    return;
  }
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    if ((*types)[layer] != (c.is_moe_layer(layer) ? "sparse" : "dense")) {
      f.Contradiction(
          absl::StrFormat("mlp_layer_types of layer %d contradicts first_k_dense_replace %d and "
                          "moe_layer_freq %d",
                          layer, c.first_k_dense_replace, c.moe_layer_freq));
    }
  }
}

void CheckHeads(FieldReader& f, const ModelConfig& c) {
  const int64_t h = c.num_attention_heads;
  if (c.is_mla()) {
    if (c.qk_rope_head_dim % 2 != 0) {
      f.Contradiction(
          absl::StrFormat("qk_rope_head_dim %d is odd: rotation takes pairs", c.qk_rope_head_dim));
    }
    if (c.num_key_value_heads != h) {
      f.Contradiction(absl::StrFormat(
          "num_key_value_heads %d differs from num_attention_heads %d: MLA has as many",
          c.num_key_value_heads, h));
    }
    return;
  }
  if (c.hidden_size % (2 * h) != 0) {
    f.Contradiction(absl::StrFormat("hidden_size %d is no even multiple of num_attention_heads %d",
                                    c.hidden_size, h));
  }
  if (h % c.num_key_value_heads != 0) {
    f.Contradiction(
        absl::StrFormat("num_attention_heads %d is no multiple of num_key_value_heads %d", h,
                        c.num_key_value_heads));
  }
}

void ReadTokens(FieldReader& f, ModelConfig& c) {
  if (f.Has("eos_token_id")) {
    const std::vector<int64_t> ids = f.Ints("eos_token_id", 0, c.vocab_size - 1);
    c.eos_token_ids.assign(ids.begin(), ids.end());
  }
  const std::optional<int64_t> bos = f.MaybeInt("bos_token_id", 0, c.vocab_size - 1);
  if (bos) c.bos_token_id = static_cast<uint32_t>(*bos);
}

}  // namespace

StatusOr<ModelConfig> ParseModelConfig(const std::string& json, const std::string& where) {
  ATL_ASSIGN_OR_RETURN(const Json object, ParseJsonObject(json, where));
  FieldReader f(object, where);
  ModelConfig c;
  ReadFamily(object, f, c);
  ATL_RETURN_IF_ERROR(f.status());
  ReadSizes(f, c);
  ReadExperts(f, c);
  ReadRope(object, f, c);
  ReadQuantization(object, f, c);
  RefuseOtherForms(f);
  // From here on the numbers are in range; what is left is how they fit together.
  ATL_RETURN_IF_ERROR(f.status());
  CheckHeads(f, c);
  if (c.n_routed_experts > 0) CheckRouting(f, c);
  CheckLayers(object, f, c);
  ReadTokens(f, c);
  ATL_RETURN_IF_ERROR(f.status());
  return c;
}

StatusOr<GenerationConfig> ParseGenerationConfig(const std::string& json, const std::string& where,
                                                 ModelConfig* config) {
  ATL_ASSIGN_OR_RETURN(const Json object, ParseJsonObject(json, where));
  FieldReader f(object, where);
  GenerationConfig g;
  const auto narrow = [](const std::optional<double>& value) {
    return value ? std::optional<float>(static_cast<float>(*value)) : std::nullopt;
  };
  g.do_sample = f.MaybeBool("do_sample");
  g.temperature = narrow(f.MaybeDouble("temperature", 0, 100));
  g.top_p = narrow(f.MaybeDouble("top_p", 0, 1));
  const std::optional<int64_t> top_k = f.MaybeInt("top_k", 0, kMaxVocab);
  if (top_k) g.top_k = static_cast<uint32_t>(*top_k);
  g.min_p = narrow(f.MaybeDouble("min_p", 0, 1));
  g.repetition_penalty = narrow(f.MaybeDouble("repetition_penalty", 1e-3, 1e3));
  ReadTokens(f, *config);
  ATL_RETURN_IF_ERROR(f.status());
  return g;
}

Status CheckServable(const ModelConfig& config) {
  if (config.is_mla()) return absl::OkStatus();
  return Unimplemented(
      "model_type '%s' has multi-head attention: it can be planned for, but only models with MLA "
      "(deepseek_v2, deepseek_v3, kimi_k2) can be served",
      config.model_type);
}

}  // namespace atl::model
