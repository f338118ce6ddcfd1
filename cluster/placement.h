// Who holds which expert. A snapshot: made by whoever hears the announcements, handed to readers as
// shared_ptr<const>.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace atl::cluster {

using NodeName = std::string;  // unique in the cluster: "expert-3"

// The unit of placement. expert == num_routed is the layer's shared expert.
struct LayerExpert {
  int32_t layer = 0;
  int32_t expert = 0;
  auto operator<=>(const LayerExpert&) const = default;
};

// What there is to place: a model's experts in numbers.
struct ModelExperts {
  std::vector<bool> moe_layers;  // [layer]: whether it has experts
  int64_t num_routed = 0;        // ids 0 .. num_routed - 1
  bool has_shared = false;       // id num_routed
  int64_t routed_bytes = 0;      // packed, of one routed expert
  int64_t shared_bytes = 0;      // packed, of one layer's shared expert

  int64_t num_ids() const { return num_routed + (has_shared ? 1 : 0); }
  int64_t num_moe_layers() const;
  bool Has(LayerExpert id) const {
    return id.layer >= 0 && id.layer < static_cast<int64_t>(moe_layers.size()) &&
           moe_layers[id.layer] && id.expert >= 0 && id.expert < num_ids();
  }
};

// holders[layer][expert] lists indexes into `nodes`, ascending. Layers without experts are empty.
// Expert id E is the shared one. MTP layers are layers L, L + 1, ...
struct Placement {
  uint64_t version = 0;
  std::vector<NodeName> nodes;
  std::vector<std::vector<std::vector<int32_t>>> holders;

  // (layer, expert) pairs without a holder, of the first `num_layers` layers: 0 means coverage.
  int64_t MissingExperts(int64_t num_layers = std::numeric_limits<int64_t>::max()) const;
};

}  // namespace atl::cluster
