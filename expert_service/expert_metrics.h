// An expert node's counters as Prometheus metrics.
#pragma once

#include <vector>

#include "expert_service/expert_engine.h"
#include "expert_service/expert_store.h"
#include "metrics/metrics_server.h"

namespace atl::expert {

// A model may have 15,000 experts: a node that holds more than this tells of layers alone.
inline constexpr size_t kMaxExpertSeries = 512;

std::vector<metrics::Family> ExpertMetrics(const ExpertStore& store, const EngineStats& stats,
                                           size_t max_series = kMaxExpertSeries);

}  // namespace atl::expert
