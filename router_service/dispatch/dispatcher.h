// Gate, fan-out, combine: the router's heart, without threads or gRPC. Runs in a router process
// (`service`), inside an attention node (`inline`), or in the one process of `atoll serve`.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/time/time.h"
#include "cluster/placement.h"
#include "kernels/context.h"
#include "model/config.h"
#include "model/profile.h"
#include "router_service/dispatch/dispatch_histograms.h"
#include "router_service/dispatch/expert_fabric.h"
#include "router_service/dispatch/gate_weights.h"
#include "router_service/dispatch/route_counters.h"
#include "transport/event_loop.h"
#include "transport/link.h"

namespace atl::dispatch {

struct DispatcherOptions {
  absl::Duration coverage_timeout = absl::Seconds(60);
  // A (row, expert) pair that this many expert nodes have died with ends its call with Internal.
  int max_lost_nodes = 3;
  absl::Duration call_timeout = absl::Minutes(5);  // of a call whose own deadline is later, or none
  // Work later than this, and than 8 times the usual time of work of its size, goes to another
  // holder too.
  absl::Duration hedge_after = absl::Milliseconds(500);
  // Work whose outs would be larger goes as several frames. At most the link's window.
  int64_t max_frame_bytes = int64_t{16} << 20;
  // RemoteFabric: a router that is owed an answer and says nothing for this long, pings included,
  // is given up.
  absl::Duration router_silence = absl::Seconds(10);
};

// Lives on one EventLoop's thread.
class Dispatcher {
 public:
  using Done = std::function<void(StatusOr<Buffer> y)>;  // y [rows, D] in the wire type

  // `gates` and `loop` must outlive it.
  Dispatcher(transport::EventLoop* loop, kernels::KernelContext ctx,
             const model::ModelConfig& config, const model::NumericProfile& profile,
             const GateWeights* gates, DispatcherOptions options);
  ~Dispatcher();  // calls in flight end without `done`

  // Gates the rows (reading them as rounded), groups pairs by expert node, sends kWork, and when
  // every out is there combines in ascending expert id, the shared expert first. `done` is called
  // exactly once, from the loop, possibly from inside Submit. Returns an id for Cancel. Work of a
  // link that dies or sends what is no answer, and work answered NOT_FOUND, RESOURCE_EXHAUSTED or
  // UNAVAILABLE, is sent to another holder, after a new placement or a little later if there is
  // none. Late work is sent to another holder too; the first answer counts.
  //   InvalidArgument: no MoE layer, or x is not [rows, D].  FailedPrecondition: unknown bias
  //   version. Unavailable, DeadlineExceeded, Internal: as ExpertFabric::Wait.
  uint64_t Submit(DispatchCall call, Done done);
  void Cancel(uint64_t id);  // `done` is not called

  // Choice among holders: not suspected of hanging, then least outstanding rows, then lowest name.
  // Only nodes with a live link count.
  void SetPlacement(std::shared_ptr<const cluster::Placement> placement);
  void AddLink(const cluster::NodeName& node,
               std::unique_ptr<transport::Link> link);  // replaces the one there was
  void RemoveLink(const cluster::NodeName& node);       // its work goes elsewhere
  bool HasLink(const cluster::NodeName& node) const;
  // Told, from the loop, when a link dies: the owner connects again. Not of links removed or
  // replaced.
  void OnLinkClosed(std::function<void(const cluster::NodeName&, const Status&)> fn);

  const RouteCounters& counters() const;
  const DispatchHistograms& histograms() const;
  // Calls in flight; calls so far; pieces of work sent a second time, hedges included; hedges. Any
  // thread.
  int64_t outstanding() const;
  uint64_t calls() const;
  uint64_t retries() const;
  uint64_t hedges() const;

  // Tests: sees every choice (expert_id [rows, K] ascending, weight), and may replace the ids,
  // which are then weighed.
  using RouteHook = std::function<void(int32_t layer, int64_t rows, int32_t* expert_id,
                                       float* weight, bool* replaced)>;
  void SetRouteHookForTest(RouteHook hook);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace atl::dispatch
