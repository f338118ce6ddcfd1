#include "weights/jobs.h"

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace atl::weights {
namespace {

// The error of the lowest job that failed. Jobs are taken in ascending order, and only those above
// a failed one are skipped, so which error it is does not depend on timing.
class FirstError {
 public:
  void Add(int64_t job, const Status& status) {
    absl::MutexLock lock(&mu_);
    if (!status_.ok() && job_ < job) return;
    job_ = job;
    status_ = status;
  }
  bool IsBelow(int64_t job) const {
    absl::MutexLock lock(&mu_);
    return !status_.ok() && job_ < job;
  }
  Status Take() const {
    absl::MutexLock lock(&mu_);
    return status_;
  }

 private:
  mutable absl::Mutex mu_;
  int64_t job_ ABSL_GUARDED_BY(mu_) = 0;
  Status status_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

Status RunJobs(ThreadPool* pool, int64_t count, absl::FunctionRef<Status(int64_t)> job) {
  FirstError error;
  const auto run = [&](int64_t i) {
    if (error.IsBelow(i)) return;
    const Status status = job(i);
    if (!status.ok()) error.Add(i, status);
  };
  if (pool != nullptr) {
    pool->ParallelFor(count, run);
  } else {
    for (int64_t i = 0; i < count; ++i) run(i);
  }
  return error.Take();
}

}  // namespace atl::weights
