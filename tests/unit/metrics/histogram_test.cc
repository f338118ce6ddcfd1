#include "metrics/histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>
#include <vector>

namespace atl::metrics {
namespace {

constexpr std::array<double, 3> kBounds = {1, 2, 5};

TEST(HistogramTest, BoundsAreInclusive) {
  Histogram histogram(kBounds);
  for (const double value : {0.5, 1.0, 1.5, 2.0, 2.25, 5.0, 5.5, 100.0}) histogram.Record(value);
  const Distribution all = histogram.Read();
  EXPECT_EQ(all.bounds, (std::vector<double>{1, 2, 5}));
  EXPECT_EQ(all.counts, (std::vector<uint64_t>{2, 2, 2, 2}));
  EXPECT_EQ(all.count(), 8u);
  EXPECT_DOUBLE_EQ(all.sum, 117.75);
}

TEST(HistogramTest, NothingRecorded) {
  const Distribution all = Histogram(kBounds).Read();
  EXPECT_EQ(all.count(), 0u);
  EXPECT_EQ(all.sum, 0);
  EXPECT_EQ(all.counts.size(), 4u);
}

// A clock that is set back must not make a sum that falls: Prometheus would take it for a restart.
TEST(HistogramTest, ValuesBelowZeroCountAsZero) {
  Histogram histogram(kBounds);
  for (const double value : {-3.0, -0.0, std::nan(""), -std::numeric_limits<double>::infinity()})
    histogram.Record(value);
  const Distribution all = histogram.Read();
  EXPECT_EQ(all.counts, (std::vector<uint64_t>{4, 0, 0, 0}));
  EXPECT_EQ(all.sum, 0);
}

TEST(HistogramTest, ThreadsLoseNothing) {
  Histogram histogram(kBounds);
  constexpr int kThreads = 4, kValues = 20000;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&histogram, t] {
      for (int i = 0; i < kValues; ++i) histogram.Record(t + 1);  // 1 to 4: exact in a double
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Distribution all = histogram.Read();
  EXPECT_EQ(all.counts, (std::vector<uint64_t>{kValues, kValues, 2 * kValues, 0}));
  EXPECT_EQ(all.sum, kValues * 10.0);
}

TEST(HistogramTest, TheBoundsOfSecondsAndCountsAscend) {
  EXPECT_TRUE(std::is_sorted(kSecondsBounds.begin(), kSecondsBounds.end(), std::less_equal<>()));
  EXPECT_TRUE(std::is_sorted(kCountBounds.begin(), kCountBounds.end(), std::less_equal<>()));
  static_assert(noexcept(std::declval<Histogram&>().Record(1)));
}

TEST(ScopedTimeTest, AddsWhatHasPassed) {
  std::atomic<uint64_t> ns{7};
  const int64_t before = MonotonicNs();
  int64_t inside = 0;
  {
    const ScopedTime time(&ns);
    const int64_t began = MonotonicNs();
    while (inside < 100'000) inside = MonotonicNs() - began;
  }
  EXPECT_GE(ns.load(), 7u + 100'000u);
  EXPECT_LE(ns.load(), 7u + static_cast<uint64_t>(MonotonicNs() - before));
}

}  // namespace
}  // namespace atl::metrics
