// An expert node's counters as Prometheus metrics.
#pragma once

#include <vector>

#include "expert_service/expert_engine.h"
#include "expert_service/expert_store.h"
#include "metrics/metrics_server.h"

namespace atl::expert {

// Rows are labelled by layer, not by expert: a model may have 15,000 of them.
std::vector<metrics::Family> ExpertMetrics(const ExpertStore& store, const EngineStats& stats);

}  // namespace atl::expert
