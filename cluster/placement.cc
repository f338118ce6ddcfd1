#include "cluster/placement.h"

#include <algorithm>

namespace atl::cluster {

int64_t ModelExperts::num_moe_layers() const {
  return std::count(moe_layers.begin(), moe_layers.end(), true);
}

int64_t Placement::MissingExperts() const {
  int64_t missing = 0;
  for (const auto& layer : holders) {
    missing +=
        std::count_if(layer.begin(), layer.end(), [](const auto& nodes) { return nodes.empty(); });
  }
  return missing;
}

}  // namespace atl::cluster
