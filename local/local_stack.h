// The whole model in one process: what `atoll serve`, `atoll verify` and the exactness tests are
// built from.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "attention_service/engine.h"
#include "attention_service/model_weights.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "expert_service/expert_engine.h"
#include "expert_service/expert_store.h"
#include "model/checkpoint.h"
#include "model/profile.h"
#include "router_service/dispatch/dispatch_server.h"
#include "router_service/dispatch/dispatcher.h"
#include "router_service/dispatch/gate_weights.h"
#include "transport/event_loop.h"
#include "weights/packed_cache.h"

namespace atl::local {

struct LocalStackOptions {
  std::string model_dir;
  std::string profile;  // empty: model::kDefaultProfile
  std::string isa = "auto";
  int threads = 0;  // 0: all cores
  std::string dispatch =
      "service";  // "service": frames through a router's server; "inline": the dispatcher directly
  attention::EngineOptions engine;
  weights::PackedCacheOptions packed_cache;
  bool with_mtp = false;     // load the MTP layer even if the engine does not speculate
  int num_expert_nodes = 1;  // engines, each with its share of the experts
  // Which node holds (layer, expert); empty: expert modulo nodes.
  std::function<int(int32_t layer, int32_t expert)> shard;
};

// All parts run on one loop, joined by in-process links: a frame is a direct call. The loop belongs
// to the engine's thread once Start was called, before that to the caller.
class LocalStack {
 public:
  static StatusOr<std::unique_ptr<LocalStack>> Open(const LocalStackOptions& options);
  ~LocalStack();  // stops the engine

  // Starts the engine's thread.
  void Start();
  // Ends it; running sequences end with UNAVAILABLE.
  void Stop();

  const model::Checkpoint& checkpoint() const { return *checkpoint_; }
  const model::NumericProfile& profile() const { return profile_; }
  const kernels::KernelContext& ctx() const { return ctx_; }
  const attention::ModelWeights& weights() const { return *weights_; }
  const attention::EngineOptions& engine_options() const { return engine_options_; }
  attention::Engine* engine() { return engine_.get(); }
  dispatch::Dispatcher* dispatcher() { return dispatcher_.get(); }
  dispatch::ExpertFabric* fabric() { return fabric_.get(); }
  transport::EventLoop* loop() { return &loop_; }
  int num_expert_nodes() const { return static_cast<int>(nodes_.size()); }
  const expert::ExpertStore& store(int node) const { return *nodes_[node].store; }
  const weights::PackedCache& packed_cache() const { return *packed_cache_; }
  // What loading all weights took.
  absl::Duration load_time() const { return load_time_; }
  expert::ExpertEngine* expert_engine(int node) { return nodes_[node].engine.get(); }

 private:
  struct ExpertNode {
    std::unique_ptr<expert::ExpertStore> store;
    std::unique_ptr<expert::ExpertEngine> engine;
  };

  LocalStack() = default;
  Status LoadExperts(const LocalStackOptions& options);
  void Connect(const LocalStackOptions& options);

  std::unique_ptr<model::Checkpoint> checkpoint_;
  model::NumericProfile profile_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<weights::PackedCache> packed_cache_;
  absl::Duration load_time_;
  kernels::KernelContext ctx_;
  std::unique_ptr<attention::ModelWeights> weights_;
  std::unique_ptr<dispatch::GateWeights> gates_;
  attention::EngineOptions engine_options_;
  transport::EventLoop loop_;
  std::vector<ExpertNode> nodes_;
  std::unique_ptr<dispatch::Dispatcher> dispatcher_;
  std::unique_ptr<dispatch::DispatchServer> dispatch_server_;
  std::unique_ptr<dispatch::ExpertFabric> fabric_;
  std::unique_ptr<attention::Engine> engine_;
  std::thread thread_;
};

}  // namespace atl::local
