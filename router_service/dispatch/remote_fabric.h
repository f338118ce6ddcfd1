// The experts as routers give them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "cluster/placement.h"
#include "model/config.h"
#include "model/profile.h"
#include "router_service/dispatch/dispatcher.h"
#include "router_service/dispatch/expert_fabric.h"
#include "transport/event_loop.h"
#include "transport/link.h"

namespace atl::dispatch {

// Attention side of `service` dispatch: sends calls to routers over links; a call whose router
// dies, falls silent (options.router_silence), or answers that it is shutting down, goes to
// another. Choice: the same router as long as it lives (rows of several attention nodes meet
// there), then the lowest name. Without any, calls wait for one until options.coverage_timeout.
class RemoteFabric : public ExpertFabric {
 public:
  RemoteFabric(transport::EventLoop* loop, const model::ModelConfig& config,
               const model::NumericProfile& profile, DispatcherOptions options);
  ~RemoteFabric() override;
  uint64_t Submit(DispatchCall call) override;
  Status Wait(uint64_t call_id, Buffer* y) override;
  void AddLink(const cluster::NodeName& router,
               std::unique_ptr<transport::Link> link);  // replaces the one there was
  void RemoveLink(const cluster::NodeName& router);
  bool HasLink(const cluster::NodeName& router) const;
  // Told, from the loop or from Wait, when a link dies or its router fell silent: the owner
  // connects again. Not of links removed.
  void OnLinkClosed(std::function<void(const cluster::NodeName&, const Status&)> fn);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace atl::dispatch
