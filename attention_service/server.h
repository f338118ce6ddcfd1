// An attention node: engine, gRPC adapter, fabric to the experts, membership.
#pragma once

#include <memory>
#include <string>

#include "attention_service/engine_options.h"
#include "base/status.h"
#include "cluster/node_options.h"
#include "weights/packed_cache.h"

namespace atl::attention {

struct AttentionServerOptions {
  cluster::NodeOptions node;
  EngineOptions engine;
  std::string dispatch = "service";  // or "inline"
  weights::PackedCacheOptions packed_cache;
};

class AttentionServer {
 public:
  static StatusOr<std::unique_ptr<AttentionServer>> Start(const AttentionServerOptions& options);
  virtual ~AttentionServer() = default;
  virtual cluster::NodeAddresses addresses() const = 0;
  virtual void DrainAndStop() = 0;
};

}  // namespace atl::attention
