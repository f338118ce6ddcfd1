// An engine's counters as Prometheus metrics.
#pragma once

#include <vector>

#include "attention_service/engine.h"
#include "metrics/metrics_server.h"

namespace atl::attention {

std::vector<metrics::Family> EngineMetrics(const EngineStats& stats);

}  // namespace atl::attention
