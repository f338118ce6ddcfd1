// An attention node's view of the experts, a dispatcher, and expert nodes that stand in.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/buffer.h"
#include "base/status.h"
#include "bench/dispatch/gate_model.h"
#include "bench/dispatch/stand_in_node.h"
#include "cluster/loop_thread.h"
#include "kernels/context.h"
#include "model/profile.h"
#include "router_service/dispatch/dispatch_server.h"
#include "router_service/dispatch/dispatcher.h"
#include "router_service/dispatch/expert_fabric.h"
#include "transport/counted_link.h"

namespace atl::bench {

struct DispatchRigOptions {
  std::string mode = "inline";  // or "service": the dispatcher behind a link of the same kind
  // kInproc: all on one thread, a frame is a direct call, as in `atoll serve`. Else the nodes have
  // threads of their own, and in `service` the router has one.
  transport::LinkKind link = transport::LinkKind::kInproc;
  int nodes = 1;
  int node_threads = 1;     // that the nodes share, at most one a node
  absl::Duration per_pair;  // of a stand-in
  absl::Duration spin;      // of every loop before it sleeps
  bool even = false;        // experts in turn instead of the gate's choice: the same for all
  int64_t rows = 64;        // of every call
};

// What one dispatch took; bytes are payload.
struct DispatchCost {
  double us = 0;  // from Submit to the end of Wait
  double gate_us = 0, combine_us = 0;
  int64_t to_router = 0, from_router = 0;  // `service` alone
  int64_t to_experts = 0, from_experts = 0;
  int64_t most_pairs = 0;  // of one node
};

// Thread-compatible.
class DispatchRig {
 public:
  // Expert e is on node e modulo nodes, the shared one on all, as the planner places them where
  // there is room. `model` outlives the rig.
  static StatusOr<std::unique_ptr<DispatchRig>> Make(const DispatchRigOptions& options,
                                                     const kernels::KernelContext& ctx,
                                                     const GateModel& model,
                                                     const model::NumericProfile& profile);
  ~DispatchRig();

  // x [rows, D] in the wire type.
  StatusOr<DispatchCost> Dispatch(Buffer x);

 private:
  DispatchRig(const DispatchRigOptions& options, const GateModel& model,
              const model::NumericProfile& profile);
  Status AddNodes();
  Status MakeFabric();
  void RouteEvenly();
  transport::EventLoop* router_loop() { return router_ != nullptr ? router_->loop() : &near_; }
  DispatchCost Totals() const;

  const DispatchRigOptions options_;
  const model::ModelConfig config_;
  const model::NumericProfile profile_;
  transport::EventLoop near_;  // the attention node's
  std::unique_ptr<cluster::LoopThread> router_;
  std::vector<std::unique_ptr<cluster::LoopThread>> node_threads_;
  transport::LinkCounters router_links_, expert_links_;
  std::vector<std::unique_ptr<StandInNode>> nodes_;
  std::unique_ptr<dispatch::Dispatcher> dispatcher_;
  std::unique_ptr<dispatch::DispatchServer> server_;
  std::unique_ptr<dispatch::ExpertFabric> fabric_;
  std::vector<int64_t> pairs_before_;  // [nodes]
};

}  // namespace atl::bench
