// Between an engine and a run's observer: lets go of the observer at once, whatever the engine
// still has to say.
#pragma once

#include <mutex>
#include <utility>

#include "attention_service/client/attention_backend.h"

namespace atl::attention {

// Thread-safe. Recursive, for an observer may destroy its Run from inside a call.
class RunSink {
 public:
  explicit RunSink(RunObserver* observer) : observer_(observer) {}

  void OnResponse(atollpb::v1::RunResponse response) {
    std::lock_guard lock(mu_);
    if (observer_ != nullptr) observer_->OnResponse(std::move(response));
  }

  void OnDone(const Status& status) {
    std::lock_guard lock(mu_);
    if (RunObserver* observer = std::exchange(observer_, nullptr)) observer->OnDone(status);
  }

  // After it returns the observer is not called again. Waits for a call under way on another
  // thread.
  void Detach() {
    std::lock_guard lock(mu_);
    observer_ = nullptr;
  }

 private:
  std::recursive_mutex mu_;
  RunObserver* observer_;
};

}  // namespace atl::attention
