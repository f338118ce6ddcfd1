#include "router_service/dispatch/gate_weights.h"

#include <string>

#include "weights/load_packed.h"

namespace atl::dispatch {
namespace {

kernels::GateParams Params(const model::ModelConfig& c) {
  kernels::GateParams params;
  params.scoring_func =
      c.scoring_func == "softmax" ? kernels::ScoringFunc::kSoftmax : kernels::ScoringFunc::kSigmoid;
  params.topk_method = c.topk_method == "greedy" ? kernels::TopkMethod::kGreedy
                       : c.topk_method == "group_limited_greedy"
                           ? kernels::TopkMethod::kGroupLimitedGreedy
                           : kernels::TopkMethod::kNoauxTc;
  params.n_routed_experts = static_cast<int32_t>(c.n_routed_experts);
  params.num_experts_per_tok = static_cast<int32_t>(c.num_experts_per_tok);
  params.n_group = static_cast<int32_t>(c.n_group);
  params.topk_group = static_cast<int32_t>(c.topk_group);
  params.norm_topk_prob = c.norm_topk_prob;
  params.routed_scaling_factor = static_cast<float>(c.routed_scaling_factor);
  return params;
}

}  // namespace

StatusOr<std::unique_ptr<GateWeights>> GateWeights::Load(const model::Checkpoint& checkpoint,
                                                         ThreadPool* pool) {
  const model::ModelConfig& c = checkpoint.config();
  auto gates = std::make_unique<GateWeights>();
  gates->params_ = Params(c);
  gates->layers_.resize(c.num_hidden_layers + c.num_nextn_predict_layers);
  for (int64_t l = 0; l < static_cast<int64_t>(gates->layers_.size()); ++l) {
    if (!c.is_moe_layer(l)) continue;
    const std::string prefix = model::LayerPrefix(l) + "mlp.gate.";
    // Exact whatever the profile: the gate is computed in float32 from unrounded weights
    // (docs/numerics.md).
    ATL_ASSIGN_OR_RETURN(
        gates->layers_[l].weight,
        weights::LoadPacked(checkpoint, prefix + "weight", model::MatrixFormat::kExact, pool));
    if (gates->params_.topk_method == kernels::TopkMethod::kNoauxTc) {
      ATL_ASSIGN_OR_RETURN(gates->layers_[l].bias,
                           checkpoint.ReadAll(prefix + "e_score_correction_bias"));
    }
  }
  return gates;
}

const float* GateWeights::bias(int32_t layer, uint64_t /*bias_version: 0 is the only one*/) const {
  return layers_[layer].bias.empty() ? nullptr : layers_[layer].bias.data();
}

}  // namespace atl::dispatch
