// Computes the rows that links bring, merging rows of different callers that want the same expert.
// Stateless and pure: any piece of work may be sent again, here or elsewhere, with the same bits
// back.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "expert_service/expert_store.h"
#include "kernels/context.h"
#include "metrics/histogram.h"
#include "transport/event_loop.h"
#include "transport/link.h"

namespace atl::expert {

struct EngineStats {  // atomics inside; readable from any thread
  struct Layer {      // pairs computed, and the time of their products
    std::atomic<uint64_t> rows{0}, busy_ns{0};
  };

  explicit EngineStats(int64_t num_layers) : layers(num_layers) {}

  std::vector<Layer> layers;                             // dense ones stay at 0
  metrics::Histogram batch_rows{metrics::kCountBounds};  // pairs computed together
  metrics::Histogram batch_seconds{metrics::kSecondsBounds};
  metrics::Histogram queue_seconds{metrics::kSecondsBounds};  // of work, until it is computed
  std::atomic<uint64_t> calls{0};
  std::atomic<uint64_t> rows{0};          // pairs computed
  std::atomic<uint64_t> merged_calls{0};  // calls computed together with another caller's
  std::atomic<uint64_t> errors{0};
  std::atomic<uint64_t> bad_frames{0};
  std::atomic<int64_t> queued_rows{0};
};

struct EngineOptions {
  bool merge = true;                  // false: one call at a time (benchmarks)
  int64_t max_queued_rows = 1 << 16;  // pairs; beyond: kError RESOURCE_EXHAUSTED
};

// Lives on one EventLoop's thread.
class ExpertEngine {
 public:
  // `loop` and `store` outlive it.
  ExpertEngine(transport::EventLoop* loop, kernels::KernelContext ctx,
               const model::ModelConfig& config, const model::NumericProfile& profile,
               ExpertStore* store, EngineOptions options);
  ~ExpertEngine();

  // Takes kWork and kCancel frames from the link, answers with kOuts, or kError: NOT_FOUND for an
  // expert that is not held (nothing of that call is computed), DEADLINE_EXCEEDED for work whose
  // time is up before it starts. A frame that breaks its shape closes the link. Work found in one
  // turn of the loop is computed together, layer by layer, oldest first, in batches of about 4096
  // pairs; work flagged kFlagAlone is merged with none. Work is never answered from inside
  // on_frame. kPing is answered with kPong. `peer` is for logs.
  void AddLink(const std::string& peer, std::unique_ptr<transport::Link> link);

  // The same computation without a link: ExpertService.Forward. x: float32 [rows, D], already
  // rounded to the wire type; pairs by (expert, row) ascending; out [pairs, D]. NotFound as above.
  Status Compute(int32_t layer, int64_t rows, const float* x,
                 std::span<const transport::WorkPair> pairs, float* out);

  int num_links() const;
  // All work is answered.
  bool idle() const { return stats().queued_rows.load() == 0; }
  const EngineStats& stats() const;

 private:
  struct State;
  std::shared_ptr<State> state_;  // the loop's posted functions hold it weakly
};

}  // namespace atl::expert
