// Where packed weights come from: a folder that keeps them from one start to the next, or the
// checkpoint, from which they are made.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "base/buffer.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "model/profile.h"

namespace atl::weights {

struct PackedCacheOptions {
  std::string dir;   // empty: nothing is kept
  bool map = false;  // use the files where they lie instead of copying them into huge pages
};

// InvalidArgument: `map` without a folder.
Status CheckPackedCacheOptions(const PackedCacheOptions& options);

// What is loaded at a time, and the unit of a file: one expert, one layer's projections, the head.
struct PieceId {
  std::string name;  // the file's name, DIR/REVISION-PROFILE/NAME: one word without slashes
  std::string
      contents;       // which weights, in which form and order; files of other contents are stale
  int64_t bytes = 0;  // at least 1
};

// Bytes of pieces loaded so far.
struct PackedCacheStats {
  std::atomic<int64_t> made{0};    // from the checkpoint
  std::atomic<int64_t> copied{0};  // from files
  std::atomic<int64_t> mapped{0};
  int64_t total() const { return made + copied + mapped; }
};

// Nothing about the folder makes loading fail: what is missing, stale, damaged or cannot be read is
// made from the checkpoint and written anew; after the first file that cannot be written a warning
// is logged and no more are. Processes of one or many hosts may share the folder. A checkpoint is
// known by its revision. Thread-safe.
class PackedCache {
 public:
  using Memory = std::shared_ptr<Buffer>;

  // Suffixes of the profile do not matter (model::BaseName).
  // Makes the folder, and removes what writers that died left in it an hour ago or earlier.
  PackedCache(const PackedCacheOptions& options, const std::string& revision,
              const model::NumericProfile& profile);

  // Memory that holds the piece: a file's, every byte checked, or new memory (zero), filled by
  // `make`, whose error is the only one there is. Work is done on `pool`'s threads (null: the
  // caller's). Mapped memory is read-only.
  StatusOr<Memory> Load(const PieceId& piece, ThreadPool* pool,
                        absl::FunctionRef<Status(const Memory&)> make);

  const PackedCacheStats& stats() const { return stats_; }
  // "4865 MB of packed weights in 1.20 s, 4865 MB of them from DIR", for the log.
  std::string Summary(double seconds) const;

 private:
  std::string PathOf(const PieceId& piece) const { return folder_ + "/" + piece.name; }
  std::string KeyOf(const PieceId& piece) const;
  StatusOr<Memory> Read(const PieceId& piece, ThreadPool* pool);
  // Warns, once: from then on nothing is written.
  void GiveUpWriting(const Status& why);

  // Constant after construction.
  const PackedCacheOptions options_;
  const std::string revision_, profile_;
  std::string folder_;  // empty: nothing is kept
  // Own synchronisation.
  std::atomic<bool> writable_{true};
  PackedCacheStats stats_;
};

// The same without a cache (null): memory filled by `make`.
StatusOr<PackedCache::Memory> LoadMemory(
    PackedCache* cache, const PieceId& piece, ThreadPool* pool,
    absl::FunctionRef<Status(const PackedCache::Memory&)> make);

}  // namespace atl::weights
