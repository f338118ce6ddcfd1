// A fixed team of compute threads that lives as long as the process.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"

namespace atl {

struct ThreadPoolOptions {
  int num_threads = 1;  // the caller included: 1 starts no thread at all
  std::string name = "compute";
  // How long an idle worker spins for the next job before it sleeps. Spin only where cores are
  // free.
  absl::Duration spin = absl::Microseconds(20);
};

// Runs one parallel loop at a time. The calling thread works too. Which thread runs which index is
// not determined: a job's result may depend on its index alone. Thread-safe: concurrent callers are
// served one after another.
class ThreadPool {
 public:
  explicit ThreadPool(ThreadPoolOptions options);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls fn(i) once for each i in [0, count), returns when all have returned. No allocation. fn
  // must not call ParallelFor of the same pool.
  void ParallelFor(int64_t count, absl::FunctionRef<void(int64_t)> fn);

 private:
  struct State;
  void Work(int worker_idx);
  void RunJobs();

  const int num_threads_;
  const absl::Duration spin_;
  std::unique_ptr<State> state_;
  std::vector<std::thread> threads_;
};

}  // namespace atl
