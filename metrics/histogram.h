// Distributions and times, counted cheaply enough for the path of every step and token: relaxed
// atomics, no lock, no allocation.
#pragma once

#include <time.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace atl::metrics {

// Upper bounds for seconds: 10 us to 2 minutes.
inline constexpr std::array<double, 22> kSecondsBounds = {
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025,
    0.05, 0.1,    0.25, 0.5,  1,      2.5,  5,    10,     30,   60,   120};
// Upper bounds for counts of rows, sequences and tokens: powers of two up to 65,536.
inline constexpr std::array<double, 17> kCountBounds = {
    1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536};

// What a histogram holds.
struct Distribution {
  std::vector<double>
      bounds;  // ascending, each inclusive; what is larger than the last comes after
  std::vector<uint64_t> counts;  // [bounds + 1], each bucket by itself
  double sum = 0;

  uint64_t count() const;
};

// Thread-safe. A reader may see a value's bucket without its part of the sum.
class Histogram {
 public:
  // REQUIRES: ascending bounds.
  explicit Histogram(std::span<const double> bounds)
      : bounds_(bounds.begin(), bounds.end()), counts_(bounds.size() + 1) {}

  // Values below 0 (a clock that was set back) and NaN count as 0.
  void Record(double value) noexcept;
  Distribution Read() const;

 private:
  const std::vector<double> bounds_;
  std::vector<std::atomic<uint64_t>> counts_;
  std::atomic<double> sum_{0};
};

inline int64_t MonotonicNs() noexcept {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

// Adds the nanoseconds from its making to its end.
class ScopedTime {
 public:
  explicit ScopedTime(std::atomic<uint64_t>* ns) noexcept : ns_(ns), began_(MonotonicNs()) {}
  ~ScopedTime() {
    ns_->fetch_add(static_cast<uint64_t>(MonotonicNs() - began_), std::memory_order_relaxed);
  }
  ScopedTime(const ScopedTime&) = delete;
  ScopedTime& operator=(const ScopedTime&) = delete;

 private:
  std::atomic<uint64_t>* const ns_;
  const int64_t began_;
};

}  // namespace atl::metrics
