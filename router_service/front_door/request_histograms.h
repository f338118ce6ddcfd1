// What requests and their tokens took, as distributions, for metrics.
#pragma once

#include "metrics/histogram.h"

namespace atl::front_door {

// Each counts what it says as soon as it is known. Times in seconds by the front door's clock.
struct RequestHistograms {
  using Histogram = metrics::Histogram;
  Histogram queue_seconds{metrics::kSecondsBounds};  // here and at the node; with the first answer
  Histogram first_token_seconds{metrics::kSecondsBounds};  // from arrival (TTFT)
  Histogram inter_token_seconds{metrics::kSecondsBounds};  // each token after its first (ITL)
  // Of requests that are answered:
  Histogram token_seconds{
      metrics::kSecondsBounds};  // mean of the gaps, with 2 tokens or more (TPOT)
  Histogram request_seconds{metrics::kSecondsBounds};  // from arrival
  Histogram prompt_tokens{metrics::kCountBounds};
  Histogram generated_tokens{metrics::kCountBounds};  // without those resumed from
};

}  // namespace atl::front_door
