// Parallel loops whose jobs may fail.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "base/status.h"
#include "base/thread_pool.h"

namespace atl::weights {

// job(i) for i in [0, count) on `pool`'s threads (null: the caller's). The error of the lowest job
// that failed, whatever the timing; jobs above a failed one may be left out.
Status RunJobs(ThreadPool* pool, int64_t count, absl::FunctionRef<Status(int64_t)> job);

}  // namespace atl::weights
