// Gate, fan-out, combine: the router's heart, without threads or gRPC. Runs in a router process (`service`), inside an
// attention node (`inline`), or in the one process of `atoll serve`.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "cluster/placement.h"
#include "kernels/gate.h"
#include "kernels/matmul.h"
#include "model/checkpoint.h"
#include "model/profile.h"
#include "router_service/dispatch/expert_fabric.h"
#include "transport/event_loop.h"
#include "transport/link.h"

namespace atl::dispatch {

// Gate weights of all MoE layers (MTP layers included). Constant after loading.
class GateWeights {
 public:
  static StatusOr<std::unique_ptr<GateWeights>> Load(const model::Checkpoint& checkpoint, ThreadPool* pool);
  const kernels::GateParams& params() const { return params_; }
  const kernels::PackedMatrix& weight(int32_t layer) const { return layers_[layer].weight; }
  // e_score_correction_bias [E], null if the model has none.
  const float* bias(int32_t layer, uint64_t bias_version) const;
  bool has_bias_version(uint64_t version) const { return version == 0; }

 private:
  struct Layer {
    kernels::PackedMatrix weight;  // [E, D], exact
    std::vector<float> bias;
  };
  kernels::GateParams params_;
  std::vector<Layer> layers_;
};

struct DispatcherOptions {
  absl::Duration coverage_timeout = absl::Seconds(60);
  int max_lost_nodes = 3;  // work that lost this many expert nodes fails with Internal
};

// Counters per (layer, expert): rows that the gate chose it for, the shared expert included. Readable from any thread.
class RouteCounters {
 public:
  RouteCounters(int64_t num_layers, int64_t num_experts);
  void Add(int32_t layer, int32_t expert, uint64_t rows);
  uint64_t Get(int32_t layer, int32_t expert) const;
  int64_t num_layers() const { return num_layers_; }
  int64_t num_experts() const { return num_experts_; }

 private:
  const int64_t num_layers_;
  const int64_t num_experts_;
  std::vector<std::atomic<uint64_t>> rows_;
};

// Lives on one EventLoop's thread.
class Dispatcher {
 public:
  using Done = std::function<void(StatusOr<Buffer> y)>;  // y [rows, D] in the wire type

  // `gates` and `loop` must outlive it.
  Dispatcher(transport::EventLoop* loop, kernels::KernelContext ctx, const model::ModelConfig& config,
             const model::NumericProfile& profile, const GateWeights* gates, DispatcherOptions options);
  ~Dispatcher();

  // Gates the rows (reading them as rounded), groups pairs by expert node, sends kWork, and when every out is there combines in ascending
  // expert id, the shared expert first. `done` is called exactly once, from the loop, possibly from inside Submit. Returns an id for Cancel.
  // Work of a link that dies, answers NOT_FOUND or RESOURCE_EXHAUSTED is sent to another holder, after a new placement if there is none.
  uint64_t Submit(DispatchCall call, Done done);
  void Cancel(uint64_t id);  // `done` is not called

  // Choice among holders: least outstanding rows, then lowest name. Only nodes with a live link count.
  void SetPlacement(std::shared_ptr<const cluster::Placement> placement);
  void AddLink(const cluster::NodeName& node, std::unique_ptr<transport::Link> link);
  void RemoveLink(const cluster::NodeName& node);  // its work goes elsewhere
  bool HasLink(const cluster::NodeName& node) const;
  // Told, from the loop, when a link dies: the owner connects again.
  void OnLinkClosed(std::function<void(const cluster::NodeName&, const Status&)> fn);

  const RouteCounters& counters() const;
  // Calls in flight.
  int64_t outstanding() const;

  // Tests: sees every choice (expert_id [rows, K] ascending, weight), and may replace the ids, which are then weighed.
  using RouteHook = std::function<void(int32_t layer, int64_t rows, int32_t* expert_id, float* weight, bool* replaced)>;
  void SetRouteHookForTest(RouteHook hook);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// ExpertFabric over a dispatcher in the same thread: Wait pumps the loop.
std::unique_ptr<ExpertFabric> MakeInlineFabric(transport::EventLoop* loop, Dispatcher* dispatcher);

// Router side of `service` dispatch: takes kDispatch frames from attention links, answers kCombined or kError.
class DispatchServer {
 public:
  DispatchServer(transport::EventLoop* loop, const model::ModelConfig& config, const model::NumericProfile& profile, Dispatcher* dispatcher);
  ~DispatchServer();
  void AddLink(const std::string& peer, std::unique_ptr<transport::Link> link);
  int num_links() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Attention side of `service` dispatch: sends calls to routers over links; a call whose router dies, or answers UNAVAILABLE because it is shutting down, goes to
// another. Choice: the same router as long as it lives (rows of several attention nodes meet there), then the lowest name.
class RemoteFabric : public ExpertFabric {
 public:
  RemoteFabric(transport::EventLoop* loop, const model::ModelConfig& config, const model::NumericProfile& profile,
               DispatcherOptions options);
  ~RemoteFabric() override;
  uint64_t Submit(DispatchCall call) override;
  Status Wait(uint64_t call_id, Buffer* y) override;
  void AddLink(const cluster::NodeName& router, std::unique_ptr<transport::Link> link);
  void RemoveLink(const cluster::NodeName& router);
  bool HasLink(const cluster::NodeName& router) const;
  void OnLinkClosed(std::function<void(const cluster::NodeName&, const Status&)> fn);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace atl::dispatch
