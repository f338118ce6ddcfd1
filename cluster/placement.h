// Who holds which expert. A snapshot: made by whoever hears the announcements, handed to readers as shared_ptr<const>.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace atl::cluster {

using NodeName = std::string;  // unique in the cluster: "expert-3"

// holders[layer][expert] lists indexes into `nodes`, ascending. Layers without experts are empty. Expert id E is the
// shared one. MTP layers are layers L, L + 1, ...
struct Placement {
  uint64_t version = 0;
  std::vector<NodeName> nodes;
  std::vector<std::vector<std::vector<int32_t>>> holders;

  // (layer, expert) pairs of layers that have experts without a holder: 0 means coverage.
  int64_t MissingExperts() const;
};

}  // namespace atl::cluster
