#include "router_service/router_metrics.h"

#include <string>

#include "absl/status/status.h"
#include "router_service/dispatch/dispatch_metrics.h"

namespace atl::router {

std::vector<metrics::Family> RouterMetrics(const front_door::FrontDoor& door,
                                           const dispatch::Dispatcher& dispatcher) {
  using metrics::Counter;
  using metrics::DistributionOf;
  using metrics::Gauge;
  const front_door::RequestHistograms& h = door.histograms();
  const front_door::FrontDoorStats s = door.stats();
  metrics::Family requests{.name = "atoll_router_requests_total",
                           .help = "Requests that have ended or were refused, by gRPC status.",
                           .counter = true};
  for (const auto& [code, count] : s.requests) {
    requests.samples.push_back({.labels = {{"code", absl::StatusCodeToString(code)}},
                                .value = static_cast<double>(count)});
  }
  const uint64_t tokens =
      h.first_token_seconds.Read().count() + h.inter_token_seconds.Read().count();
  std::vector<metrics::Family> all = {
      requests,
      Gauge("atoll_router_running_requests", "Requests at attention nodes.", door.num_running()),
      Gauge("atoll_router_queued_requests", "Requests that wait here.", door.num_queued()),
      Counter("atoll_router_prompt_tokens_total", "Prompt tokens of requests that have ended.",
              static_cast<double>(s.prompt_tokens)),
      Counter("atoll_router_cached_prompt_tokens_total", "Of these, found in prefix caches.",
              static_cast<double>(s.cached_prompt_tokens)),
      Counter("atoll_router_generated_tokens_total", "Tokens generated, counted as they come.",
              static_cast<double>(tokens)),
      Counter("atoll_router_replays_total", "Sequences started again on another attention node.",
              static_cast<double>(s.replays)),
      DistributionOf("atoll_router_queue_seconds",
                     "Time that a request waited, here and at the node, until its first step.",
                     h.queue_seconds),
      DistributionOf("atoll_router_time_to_first_token_seconds",
                     "From a request's arrival to its first token.", h.first_token_seconds),
      DistributionOf("atoll_router_inter_token_seconds",
                     "From one token of a request to its next; tokens that come together: 0.",
                     h.inter_token_seconds),
      DistributionOf("atoll_router_time_per_output_token_seconds",
                     "Mean gap between the tokens of an answered request.", h.token_seconds),
      DistributionOf("atoll_router_request_seconds", "From arrival to end of an answered request.",
                     h.request_seconds),
      DistributionOf("atoll_router_request_prompt_tokens", "Prompt tokens of an answered request.",
                     h.prompt_tokens),
      DistributionOf("atoll_router_request_generated_tokens",
                     "Tokens generated for an answered request.", h.generated_tokens),
  };
  metrics::Append(dispatch::DispatchMetrics(dispatcher), &all);
  return all;
}

}  // namespace atl::router
