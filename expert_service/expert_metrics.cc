#include "expert_service/expert_metrics.h"

#include <map>
#include <string>

namespace atl::expert {

std::vector<metrics::Family> ExpertMetrics(const ExpertStore& store, const EngineStats& stats) {
  using metrics::Counter;
  using metrics::Gauge;
  std::map<int32_t, double> rows, seconds, held;  // by layer; of experts held now
  for (const auto& [key, expert] : store.List()) {
    rows[key.layer] += static_cast<double>(expert->rows);
    seconds[key.layer] += static_cast<double>(expert->time_ns) / 1e9;
    held[key.layer] += 1;
  }
  const auto by_layer = [](std::string name, std::string help,
                           const std::map<int32_t, double>& values) {
    metrics::Family family{.name = std::move(name), .help = std::move(help)};
    for (const auto& [layer, value] : values) {
      family.samples.push_back({.labels = {{"layer", std::to_string(layer)}}, .value = value});
    }
    return family;
  };
  return {
      by_layer("atoll_expert_held", "Experts held, shared ones included.", held),
      by_layer("atoll_expert_held_rows",
               "Rows computed by the experts held, since each was loaded.", rows),
      by_layer("atoll_expert_held_busy_seconds", "Time that these rows took.", seconds),
      Gauge("atoll_expert_held_bytes", "Packed weights held.",
            static_cast<double>(store.bytes_held())),
      Gauge("atoll_expert_budget_bytes", "Packed weights allowed; 0: no bound.",
            static_cast<double>(store.budget_bytes())),
      Gauge("atoll_expert_queued_rows", "Rows that wait.", static_cast<double>(stats.queued_rows)),
      Counter("atoll_expert_calls_total", "Pieces of work answered.",
              static_cast<double>(stats.calls)),
      Counter("atoll_expert_merged_calls_total",
              "Of these, computed together with another caller's.",
              static_cast<double>(stats.merged_calls)),
      Counter("atoll_expert_rows_total", "Pairs of row and expert computed.",
              static_cast<double>(stats.rows)),
      Counter("atoll_expert_errors_total", "Work answered with an error.",
              static_cast<double>(stats.errors)),
      Counter("atoll_expert_bad_frames_total", "Frames that broke their shape.",
              static_cast<double>(stats.bad_frames)),
  };
}

}  // namespace atl::expert
