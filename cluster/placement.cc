#include "cluster/placement.h"

#include <algorithm>

namespace atl::cluster {

int64_t ModelExperts::num_moe_layers() const {
  return std::count(moe_layers.begin(), moe_layers.end(), true);
}

int64_t Placement::MissingExperts(int64_t num_layers) const {
  int64_t missing = 0;
  const int64_t end = std::min<int64_t>(num_layers, holders.size());
  for (int64_t l = 0; l < end; ++l) {
    missing += std::count_if(holders[l].begin(), holders[l].end(),
                             [](const auto& nodes) { return nodes.empty(); });
  }
  return missing;
}

}  // namespace atl::cluster
