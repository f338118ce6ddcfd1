// A router's counters as Prometheus metrics.
#pragma once

#include <vector>

#include "metrics/metrics_server.h"
#include "router_service/dispatch/dispatcher.h"
#include "router_service/front_door/front_door.h"

namespace atl::router {

std::vector<metrics::Family> RouterMetrics(const front_door::FrontDoor& door,
                                           const dispatch::Dispatcher& dispatcher);

}  // namespace atl::router
