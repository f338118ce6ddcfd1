// The dispatcher behind links.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "model/config.h"
#include "model/profile.h"
#include "router_service/dispatch/dispatcher.h"
#include "transport/event_loop.h"
#include "transport/link.h"

namespace atl::dispatch {

// Router side of `service` dispatch: takes kDispatch and kCancel frames from attention links,
// answers kCombined, or kError with the call's status. A frame that breaks its shape closes its
// link; so does a call id that is in use. More than 256 calls of one link at once are refused with
// RESOURCE_EXHAUSTED. The calls of a link that dies are cancelled. Lives on the loop's thread.
class DispatchServer {
 public:
  // `dispatcher` outlives it.
  DispatchServer(transport::EventLoop* loop, const model::ModelConfig& config,
                 const model::NumericProfile& profile, Dispatcher* dispatcher);
  ~DispatchServer();
  void AddLink(const std::string& peer, std::unique_ptr<transport::Link> link);
  // From now on new calls are answered UNAVAILABLE with kFlagTryAnother; those in flight go on.
  void StartDrain();
  int num_links() const;
  int64_t calls_in_flight() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace atl::dispatch
