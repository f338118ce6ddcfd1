// A cluster of cores in one process, each on a thread and loop of its own, joined by links of any
// kind: what the exactness tests arrange in every way there is. No gRPC.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "attention_service/engine.h"
#include "attention_service/model_weights.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "expert_service/expert_engine.h"
#include "expert_service/expert_store.h"
#include "kernels/context.h"
#include "model/checkpoint.h"
#include "router_service/dispatch/dispatch_server.h"
#include "router_service/dispatch/dispatcher.h"
#include "router_service/dispatch/gate_weights.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"
#include "transport/link.h"

namespace atl::testing {

// A loop with its thread. Call runs a function there and waits for it.
class LoopThread {
 public:
  LoopThread();
  ~LoopThread();
  transport::EventLoop* loop() { return &loop_; }
  void Call(const std::function<void()>& fn);

 private:
  transport::EventLoop loop_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

struct ThreadClusterOptions {
  std::string model_dir;
  std::string profile = "bf16";
  std::string isa = "auto";
  int threads = 2;
  std::string dispatch = "service";
  transport::LinkKind links = transport::LinkKind::kInproc;
  int num_experts = 2;
  int num_attention = 1;
  attention::EngineOptions engine;
  // Nodes that hold (layer, expert); empty: the one node expert modulo num_experts.
  std::function<std::vector<int>(int32_t layer, int32_t expert)> holders;
};

class ThreadCluster {
 public:
  static StatusOr<std::unique_ptr<ThreadCluster>> Start(const ThreadClusterOptions& options);
  ~ThreadCluster();

  const model::Checkpoint& checkpoint() const { return *checkpoint_; }
  const model::NumericProfile& profile() const { return profile_; }
  attention::Engine* attention(int i);
  // Cuts every link of an expert node: what its death looks like to the others.
  void CutExpert(int i);
  const expert::ExpertStore& store(int i) const;
  // Rows that the gates of all dispatchers chose (layer, expert) for.
  uint64_t RoutedRows(int32_t layer, int32_t expert) const;

 private:
  struct ExpertNode;
  struct RouterNode;
  struct AttentionNode;

  ThreadCluster() = default;
  Status StartExperts(const ThreadClusterOptions& options);
  Status StartRouter(const ThreadClusterOptions& options);
  Status StartAttention(const ThreadClusterOptions& options, int i);
  std::unique_ptr<dispatch::Dispatcher> MakeDispatcher(transport::EventLoop* loop);
  // On the loop's thread; `done` is called there once for each expert node.
  void ConnectExperts(transport::EventLoop* loop, dispatch::Dispatcher* dispatcher,
                      const std::function<void(Status)>& done);

  std::unique_ptr<model::Checkpoint> checkpoint_;
  model::NumericProfile profile_;
  std::unique_ptr<ThreadPool> pool_;
  kernels::KernelContext ctx_;
  std::unique_ptr<attention::ModelWeights> weights_;
  std::unique_ptr<dispatch::GateWeights> gates_;
  std::shared_ptr<const cluster::Placement> placement_;
  std::vector<std::unique_ptr<ExpertNode>> experts_;
  std::unique_ptr<RouterNode> router_;
  std::vector<std::unique_ptr<AttentionNode>> attention_;
};

}  // namespace atl::testing
