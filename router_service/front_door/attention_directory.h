// The attention nodes that a front door may choose from.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "attention_service/client/attention_backend.h"

namespace atl::front_door {

struct AttentionNode {
  std::string name;
  std::shared_ptr<attention::AttentionBackend> backend;
  uint32_t running_sequences = 0;
  uint32_t waiting_sequences = 0;
  bool draining = false;
  std::shared_ptr<const std::unordered_set<uint64_t>> cached_prefixes;  // PrefixHashes; may be null
};

// Thread-safe.
class AttentionDirectory {
 public:
  virtual ~AttentionDirectory() = default;
  // Live nodes, as last announced.
  virtual std::vector<AttentionNode> List() const = 0;
};

}  // namespace atl::front_door
