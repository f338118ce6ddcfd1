// The expert weights that this node holds, packed. Loading and use may run side by side.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "kernels/ffn.h"
#include "model/checkpoint.h"
#include "model/profile.h"
#include "weights/packed_cache.h"

namespace atl::expert {

// One (layer, expert): the unit of placement. expert == n_routed_experts is the layer's shared
// expert. MTP layers count as layers L, L+1, ...
struct ExpertKey {
  int32_t layer = 0;
  int32_t expert = 0;
  auto operator<=>(const ExpertKey&) const = default;
};

struct HeldExpert {
  kernels::FfnWeights weights;
  int64_t bytes = 0;
  std::atomic<uint64_t> rows{0};     // (row, expert) pairs computed since it was loaded
  std::atomic<uint64_t> time_ns{0};  // spent on them
};

// Thread-safe. Readers keep an expert alive by the shared_ptr that Find gives.
class ExpertStore {
 public:
  // `checkpoint` and `cache` (null: none) must outlive the store. budget_bytes bounds the packed
  // weights held, mapped ones included (0: no bound).
  ExpertStore(const model::Checkpoint* checkpoint, const model::NumericProfile& profile,
              int64_t budget_bytes, weights::PackedCache* cache = nullptr);

  // Takes it from the cache, or reads and packs, on `pool`'s threads (null: the caller's). OK if it
  // is held already. ResourceExhausted: over budget; InvalidArgument: the model has no such expert;
  // DataLoss: bad weights, the expert is then not held and the message names the tensor.
  Status Load(ExpertKey key, ThreadPool* pool);
  Status Unload(ExpertKey key);  // NotFound

  std::shared_ptr<HeldExpert> Find(ExpertKey key) const;                        // null: not held
  std::vector<std::pair<ExpertKey, std::shared_ptr<HeldExpert>>> List() const;  // ascending
  int64_t bytes_held() const;  // those being loaded included
  int64_t budget_bytes() const { return budget_bytes_; }
  // Packed bytes of one expert of the model, routed or shared; 0 if the model has none.
  int64_t ExpertBytes(bool shared) const;
  // Raised by each Load and Unload that changed something.
  uint64_t version() const;

 private:
  const model::Checkpoint* const checkpoint_;
  const model::NumericProfile profile_;
  const int64_t budget_bytes_;
  weights::PackedCache* const cache_;
  mutable absl::Mutex mu_;
  std::vector<std::vector<std::shared_ptr<HeldExpert>>> held_
      ABSL_GUARDED_BY(mu_);  // [layer][expert]
  int64_t bytes_held_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t version_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace atl::expert
