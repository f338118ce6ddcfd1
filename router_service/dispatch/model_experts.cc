#include "router_service/dispatch/model_experts.h"

#include <algorithm>

namespace atl::dispatch {

cluster::ModelExperts ModelExpertsOf(const model::ModelConfig& config, bool with_mtp) {
  cluster::ModelExperts experts;
  const int64_t mtp_layers = with_mtp ? std::min<int64_t>(1, config.num_nextn_predict_layers) : 0;
  const int64_t layers = config.num_hidden_layers + mtp_layers;
  experts.moe_layers.resize(layers);
  for (int64_t l = 0; l < layers; ++l) experts.moe_layers[l] = config.is_moe_layer(l);
  experts.num_routed = config.n_routed_experts;
  experts.has_shared = config.n_shared_experts > 0;
  return experts;
}

}  // namespace atl::dispatch
