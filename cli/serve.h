// `atoll serve`: every role in one process, over the same libraries.
#pragma once

#include <memory>
#include <string>

#include "attention_service/engine_options.h"
#include "base/status.h"
#include "cluster/node_options.h"
#include "weights/packed_cache.h"

namespace atl::cli {

struct ServeOptions {
  cluster::NodeOptions node;  // join, links, zone are not used
  attention::EngineOptions engine;
  weights::PackedCacheOptions packed_cache;
  std::string dispatch = "service";  // or "inline": which code path runs
  int max_concurrent_requests = 256;
  int max_queued_requests = 1024;
};

class ServeProcess {
 public:
  static StatusOr<std::unique_ptr<ServeProcess>> Start(const ServeOptions& options);
  virtual ~ServeProcess() = default;
  virtual cluster::NodeAddresses addresses() const = 0;
  virtual void DrainAndStop() = 0;
};

}  // namespace atl::cli
