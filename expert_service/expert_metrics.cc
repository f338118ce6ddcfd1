#include "expert_service/expert_metrics.h"

#include <map>
#include <string>

namespace atl::expert {
namespace {

using Labels = std::vector<std::pair<std::string, std::string>>;

// Experts held by layer, and rows and time of each while they are few enough.
std::vector<metrics::Family> HeldMetrics(const ExpertStore& store, size_t max_series) {
  metrics::Family held{.name = "atoll_expert_held",
                       .help = "Experts held, shared ones included, by layer."};
  metrics::Family rows{.name = "atoll_expert_held_rows_total",
                       .help = "Rows that a held expert has computed since it was loaded.",
                       .counter = true};
  metrics::Family seconds{.name = "atoll_expert_held_busy_seconds_total",
                          .help = "Time that these rows took.",
                          .counter = true};
  const auto experts = store.List();
  std::map<int32_t, double> held_by_layer;
  for (const auto& [key, expert] : experts) {
    ++held_by_layer[key.layer];
    if (experts.size() > max_series) continue;
    const Labels labels = {{"layer", std::to_string(key.layer)},
                           {"expert", std::to_string(key.expert)}};
    rows.samples.push_back({.labels = labels, .value = static_cast<double>(expert->rows)});
    seconds.samples.push_back(
        {.labels = labels, .value = static_cast<double>(expert->time_ns) * 1e-9});
  }
  for (const auto& [layer, count] : held_by_layer)
    held.samples.push_back({.labels = {{"layer", std::to_string(layer)}}, .value = count});
  return {held, rows, seconds};
}

// By layer, of all experts that were ever held.
std::vector<metrics::Family> LayerMetrics(const EngineStats& stats) {
  metrics::Family rows{.name = "atoll_expert_rows_total",
                       .help = "Pairs of row and expert computed, by layer.",
                       .counter = true};
  metrics::Family seconds{.name = "atoll_expert_busy_seconds_total",
                          .help = "Time that the experts' products took, by layer.",
                          .counter = true};
  for (size_t i = 0; i < stats.layers.size(); ++i) {
    const Labels labels = {{"layer", std::to_string(i)}};
    const EngineStats::Layer& layer = stats.layers[i];
    rows.samples.push_back({.labels = labels, .value = static_cast<double>(layer.rows)});
    seconds.samples.push_back(
        {.labels = labels, .value = static_cast<double>(layer.busy_ns) * 1e-9});
  }
  return {rows, seconds};
}

}  // namespace

std::vector<metrics::Family> ExpertMetrics(const ExpertStore& store, const EngineStats& stats,
                                           size_t max_series) {
  using metrics::Counter;
  using metrics::DistributionOf;
  using metrics::Gauge;
  std::vector<metrics::Family> all = {
      Gauge("atoll_expert_held_bytes", "Packed weights held.",
            static_cast<double>(store.bytes_held())),
      Gauge("atoll_expert_budget_bytes", "Packed weights allowed; 0: no bound.",
            static_cast<double>(store.budget_bytes())),
      Gauge("atoll_expert_queued_rows", "Rows that wait.", static_cast<double>(stats.queued_rows)),
      DistributionOf("atoll_expert_queue_seconds",
                     "Time that a piece of work waited until it was computed.",
                     stats.queue_seconds),
      DistributionOf("atoll_expert_batch_rows", "Pairs of row and expert computed together.",
                     stats.batch_rows),
      DistributionOf("atoll_expert_batch_seconds", "Time of the products of each such batch.",
                     stats.batch_seconds),
      Counter("atoll_expert_calls_total", "Pieces of work answered.",
              static_cast<double>(stats.calls)),
      Counter("atoll_expert_merged_calls_total",
              "Of these, computed together with another caller's.",
              static_cast<double>(stats.merged_calls)),
      Counter("atoll_expert_errors_total", "Work answered with an error.",
              static_cast<double>(stats.errors)),
      Counter("atoll_expert_bad_frames_total", "Frames that broke their shape.",
              static_cast<double>(stats.bad_frames)),
  };
  metrics::Append(HeldMetrics(store, max_series), &all);
  metrics::Append(LayerMetrics(stats), &all);
  return all;
}

}  // namespace atl::expert
