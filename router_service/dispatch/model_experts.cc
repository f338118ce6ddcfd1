#include "router_service/dispatch/model_experts.h"

namespace atl::dispatch {

cluster::ModelExperts ModelExpertsOf(const model::ModelConfig& config) {
  cluster::ModelExperts experts;
  experts.moe_layers.resize(config.num_hidden_layers);
  for (int64_t l = 0; l < config.num_hidden_layers; ++l)
    experts.moe_layers[l] = config.is_moe_layer(l);
  experts.num_routed = config.n_routed_experts;
  experts.has_shared = config.n_shared_experts > 0;
  return experts;
}

}  // namespace atl::dispatch
