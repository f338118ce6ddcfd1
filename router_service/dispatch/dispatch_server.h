// The dispatcher behind links.
#pragma once

#include <memory>
#include <string>

#include "model/config.h"
#include "model/profile.h"
#include "router_service/dispatch/dispatcher.h"
#include "transport/event_loop.h"
#include "transport/link.h"

namespace atl::dispatch {

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

}  // namespace atl::dispatch
