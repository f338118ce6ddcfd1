#include "router_service/router_metrics.h"

#include <string>

#include "absl/status/status.h"

namespace atl::router {

std::vector<metrics::Family> RouterMetrics(const front_door::FrontDoor& door,
                                           const dispatch::Dispatcher& dispatcher) {
  using metrics::Counter;
  using metrics::Gauge;
  const front_door::FrontDoorStats s = door.stats();
  metrics::Family requests{.name = "atoll_router_requests_total",
                           .help = "Requests that have ended or were refused, by gRPC status.",
                           .counter = true};
  for (const auto& [code, count] : s.requests) {
    requests.samples.push_back({.labels = {{"code", absl::StatusCodeToString(code)}},
                                .value = static_cast<double>(count)});
  }
  return {
      requests,
      Gauge("atoll_router_running_requests", "Requests at attention nodes.", door.num_running()),
      Gauge("atoll_router_queued_requests", "Requests that wait here.", door.num_queued()),
      Counter("atoll_router_prompt_tokens_total", "Prompt tokens of answered requests.",
              static_cast<double>(s.prompt_tokens)),
      Counter("atoll_router_cached_prompt_tokens_total", "Of these, found in prefix caches.",
              static_cast<double>(s.cached_prompt_tokens)),
      Counter("atoll_router_generated_tokens_total", "Tokens generated.",
              static_cast<double>(s.generated_tokens)),
      Counter("atoll_router_replays_total", "Sequences started again on another attention node.",
              static_cast<double>(s.replays)),
      Counter("atoll_router_queue_seconds_total",
              "Time that requests waited, here and at the node.", s.queue_s),
      Counter("atoll_router_first_token_seconds_total", "Sum of times to first token.", s.ttft_s),
      Counter("atoll_router_first_tokens_total", "Requests whose first token has come.",
              static_cast<double>(s.first_tokens)),
      Gauge("atoll_dispatch_calls", "Dispatch calls in flight.",
            static_cast<double>(dispatcher.outstanding())),
      Counter("atoll_dispatch_retries_total", "Pieces of work sent to a node again.",
              static_cast<double>(dispatcher.retries())),
  };
}

}  // namespace atl::router
