#include "base/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "absl/time/clock.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace atl {
namespace {

inline void CpuRelax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

// One job is published as a generation number; workers that see a new one claim indices from `next`
// until `count`. A worker joins a job by raising `gate` while it is open; the caller closes it and
// waits until every worker that joined has left, so `fn` never outlives the call.
struct ThreadPool::State {
  // std:: mutexes here, for ThreadSanitizer sees them and Debian's absl ones it does not.
  std::mutex caller_mu;  // one loop at a time

  std::mutex mu;
  std::condition_variable wake;
  std::atomic<uint64_t> generation{0};
  std::atomic<bool> stop{false};
  int sleepers = 0;  // guarded by mu

  // The job in hand. Written by the caller while `open` is false.
  const absl::FunctionRef<void(int64_t)>* fn = nullptr;
  int64_t count = 0;
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<int64_t> done{0};
  // Low bit: the job is open to joiners; the rest counts joined workers times two.
  alignas(64) std::atomic<int64_t> gate{0};
};

ThreadPool::ThreadPool(ThreadPoolOptions options)
    : num_threads_(options.num_threads < 1 ? 1 : options.num_threads),
      spin_(options.spin),
      state_(std::make_unique<State>()) {
  for (int i = 1; i < num_threads_; ++i) {
    threads_.emplace_back([this, i] { Work(i); });
    pthread_setname_np(threads_.back().native_handle(),
                       (options.name + "-" + std::to_string(i)).substr(0, 15).c_str());
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mu);
    state_->stop.store(true);
    state_->generation.fetch_add(1);
    state_->wake.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::ParallelFor(int64_t count, absl::FunctionRef<void(int64_t)> fn) {
  if (count <= 0) return;
  if (num_threads_ == 1 || count == 1) {
    for (int64_t i = 0; i < count; ++i) fn(i);
    return;
  }
  State& s = *state_;
  std::lock_guard caller(s.caller_mu);
  s.fn = &fn;
  s.count = count;
  s.next.store(0, std::memory_order_relaxed);
  s.done.store(0, std::memory_order_relaxed);
  s.gate.store(1, std::memory_order_release);
  {
    std::lock_guard lock(s.mu);
    s.generation.fetch_add(1, std::memory_order_release);
    if (s.sleepers > 0) s.wake.notify_all();
  }
  RunJobs();
  // Indices are all claimed: close the gate, then wait for those who joined.
  s.gate.fetch_sub(1, std::memory_order_acq_rel);
  while (s.gate.load(std::memory_order_acquire) != 0 ||
         s.done.load(std::memory_order_acquire) != count)
    CpuRelax();
}

void ThreadPool::RunJobs() {
  State& s = *state_;
  const int64_t count = s.count;
  const absl::FunctionRef<void(int64_t)>& fn = *s.fn;
  int64_t finished = 0;
  int64_t i = s.next.load(std::memory_order_relaxed);
  while (i < count) {
    // Neighbours go to one thread, and few claims are made: cores may be far apart. The last ones
    // are claimed one by one, so that all threads end together.
    const int64_t claim = std::max<int64_t>(1, (count - i) / (2 * num_threads_));
    if (!s.next.compare_exchange_weak(i, i + claim, std::memory_order_relaxed)) continue;
    for (const int64_t end = i + claim; i < end; ++i) fn(i);
    finished += claim;
    i = s.next.load(std::memory_order_relaxed);
  }
  s.done.fetch_add(finished, std::memory_order_acq_rel);
}

void ThreadPool::Work(int /*worker_idx*/) {
  State& s = *state_;
  uint64_t seen = 0;
  for (;;) {
    // Spin for the next generation, then sleep for it.
    const absl::Time until = absl::Now() + spin_;
    while (s.generation.load(std::memory_order_acquire) == seen && absl::Now() < until) {
      for (int i = 0; i < 8; ++i) CpuRelax();
    }
    if (s.generation.load(std::memory_order_acquire) == seen) {
      std::unique_lock lock(s.mu);
      ++s.sleepers;
      s.wake.wait(lock, [&] { return s.generation.load(std::memory_order_acquire) != seen; });
      --s.sleepers;
    }
    seen = s.generation.load(std::memory_order_acquire);
    if (s.stop.load()) return;
    // Join only while the gate is open; a late worker finds it closed and goes back to waiting.
    int64_t gate = s.gate.load(std::memory_order_acquire);
    bool joined = false;
    while ((gate & 1) != 0) {
      if (s.gate.compare_exchange_weak(gate, gate + 2, std::memory_order_acq_rel)) {
        joined = true;
        break;
      }
    }
    if (!joined) continue;
    RunJobs();
    s.gate.fetch_sub(2, std::memory_order_acq_rel);
  }
}

}  // namespace atl
