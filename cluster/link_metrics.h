// Link counters as Prometheus metrics.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "metrics/metrics_server.h"
#include "transport/counted_link.h"

namespace atl::cluster {

// Labelled by the peers' role ("router", "attention", "expert", "caller") and the kind of link;
// kinds that were never used are there too, so that a rate is known from the first one on.
std::vector<metrics::Family> LinkMetrics(
    const std::vector<std::pair<std::string, const transport::LinkCounters*>>& by_peer_role);

}  // namespace atl::cluster
