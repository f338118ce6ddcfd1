// What an attention node sees of the experts: rows in, combined rows out.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>

#include "absl/time/time.h"
#include "base/buffer.h"
#include "base/dtype.h"
#include "base/status.h"

namespace atl::dispatch {

struct DispatchCall {
  int32_t layer = 0;
  int32_t micro_batch = 0;
  uint64_t bias_version = 0;  // of every row
  int64_t rows = 0;
  Buffer x;  // [rows, D] in the profile's wire type
  absl::Time deadline = absl::InfiniteFuture();
};

// Thread-compatible: called by one thread, the one that owns the loop it pumps.
class ExpertFabric {
 public:
  virtual ~ExpertFabric() = default;

  // Starts a call, returns at once; the id is for Wait. Never fails: what goes wrong is told by
  // Wait.
  virtual uint64_t Submit(DispatchCall call) = 0;

  // Waits for the call and moves its y [rows, D] (wire type) into `y`. Runs the loop meanwhile.
  // Every id is waited for once.
  //   Unavailable: an expert nobody holds, or no router, for longer than the coverage timeout (or
  //   no budget can hold it: at once). DeadlineExceeded, Internal (work that brought down several
  //   nodes): the call's rows are lost.
  virtual Status Wait(uint64_t call_id, Buffer* y) = 0;

  // From now on every Wait ends, with Unavailable if there is no answer yet. Any thread; a Wait
  // that sleeps in the loop sees it when the loop is woken (EventLoop::Post).
  void Stop() { stopped_.store(true); }

  // Asked at each turn of a Wait: true ends it with Unavailable and takes the call back, for who
  // wanted its rows has gone. Set before the first Submit; called on the thread of Wait.
  void SetNobodyWaits(std::function<bool()> nobody_waits) {
    nobody_waits_ = std::move(nobody_waits);
  }

 protected:
  // OK: Wait goes on.
  Status GoesOn() const {
    if (stopped_.load()) return absl::UnavailableError("the node stops");
    if (nobody_waits_ && nobody_waits_()) return absl::UnavailableError("nobody waits any longer");
    return absl::OkStatus();
  }

 private:
  std::atomic<bool> stopped_{false};
  std::function<bool()> nobody_waits_;
};

}  // namespace atl::dispatch
