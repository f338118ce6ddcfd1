#include "router_service/dispatch/dispatch_metrics.h"

namespace atl::dispatch {

std::vector<metrics::Family> DispatchMetrics(const Dispatcher& dispatcher) {
  using metrics::Counter;
  using metrics::DistributionOf;
  const DispatchHistograms& h = dispatcher.histograms();
  return {
      metrics::Gauge("atoll_dispatch_calls", "Dispatch calls in flight.",
                     static_cast<double>(dispatcher.outstanding())),
      DistributionOf("atoll_dispatch_call_rows", "Rows of each dispatch call.", h.call_rows),
      DistributionOf("atoll_dispatch_call_seconds",
                     "From a dispatch call to its combined rows, of calls that had them.",
                     h.call_seconds),
      Counter("atoll_dispatch_gate_seconds_total", "Time spent choosing experts.",
              static_cast<double>(h.gate_ns.load()) * 1e-9),
      Counter("atoll_dispatch_combine_seconds_total", "Time spent summing experts' outputs.",
              static_cast<double>(h.combine_ns.load()) * 1e-9),
      Counter("atoll_dispatch_retries_total", "Pieces of work sent to a node again.",
              static_cast<double>(dispatcher.retries())),
      Counter("atoll_dispatch_hedges_total",
              "Of these, late work that was sent to another holder too.",
              static_cast<double>(dispatcher.hedges())),
  };
}

}  // namespace atl::dispatch
