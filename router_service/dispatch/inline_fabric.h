// The experts as a dispatcher in the same thread gives them.
#pragma once

#include <memory>

#include "router_service/dispatch/dispatcher.h"
#include "router_service/dispatch/expert_fabric.h"
#include "transport/event_loop.h"

namespace atl::dispatch {

// ExpertFabric over a dispatcher in the same thread: Wait pumps the loop.
std::unique_ptr<ExpertFabric> MakeInlineFabric(transport::EventLoop* loop, Dispatcher* dispatcher);

}  // namespace atl::dispatch
