// A dispatcher's counters as Prometheus metrics.
#pragma once

#include <vector>

#include "metrics/metrics_server.h"
#include "router_service/dispatch/dispatcher.h"

namespace atl::dispatch {

std::vector<metrics::Family> DispatchMetrics(const Dispatcher& dispatcher);

}  // namespace atl::dispatch
