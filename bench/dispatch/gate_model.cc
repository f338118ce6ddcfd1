#include "bench/dispatch/gate_model.h"

#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "model/checkpoint.h"
#include "model/make_model.h"
#include "model/presets.h"

namespace atl::bench {
namespace {

StatusOr<model::ModelConfig> SmallConfig(const std::string& preset, int64_t experts, bool shared) {
  ATL_ASSIGN_OR_RETURN(model::ModelConfig c, model::FindPreset(preset));
  if (experts > 0) c.n_routed_experts = experts;
  if (!shared) c.n_shared_experts = 0;
  c.num_hidden_layers = 1;
  c.first_k_dense_replace = 0;
  c.num_nextn_predict_layers = 0;
  c.num_attention_heads = c.num_key_value_heads = 1;
  c.kv_lora_rank = c.qk_nope_head_dim = c.v_head_dim = 1;
  c.qk_rope_head_dim = 2;
  if (c.q_lora_rank > 0) c.q_lora_rank = 1;
  c.intermediate_size = c.moe_intermediate_size = 1;
  c.vocab_size = 1;
  c.bos_token_id.reset();
  c.eos_token_ids.clear();
  return c;
}

}  // namespace

StatusOr<GateModel> MakeGateModel(const std::string& preset, int64_t experts, bool shared,
                                  ThreadPool* pool) {
  ATL_ASSIGN_OR_RETURN(const model::ModelConfig config, SmallConfig(preset, experts, shared));
  std::string folder = std::filesystem::temp_directory_path() / "atoll-dispatch-bench-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return Internal("no temporary folder %s", folder);
  const auto remove = absl::MakeCleanup([&folder] {
    std::error_code ignored;  // what stays is small, and the system's to clear
    std::filesystem::remove_all(folder, ignored);
  });
  ATL_RETURN_IF_ERROR(model::MakeModel({.config = config, .pool = pool}, folder).status());
  ATL_ASSIGN_OR_RETURN(const auto checkpoint, model::Checkpoint::Open(folder));
  GateModel model = {.config = checkpoint->config()};
  ATL_ASSIGN_OR_RETURN(model.gates, dispatch::GateWeights::Load(*checkpoint, pool));
  return model;
}

}  // namespace atl::bench
