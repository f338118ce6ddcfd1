#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace atl {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, EveryIndexRunsOnce) {
  ThreadPool pool({.num_threads = GetParam()});
  for (const int64_t count : {0, 1, 2, 3, 17, 1000}) {
    std::vector<std::atomic<int>> runs(count);
    pool.ParallelFor(count, [&](int64_t i) { ++runs[i]; });
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(runs[i], 1) << i;
  }
}

TEST_P(ThreadPoolTest, WhatTheJobsWroteIsSeenAfterwards) {
  ThreadPool pool({.num_threads = GetParam(), .spin = absl::ZeroDuration()});
  std::vector<int64_t> values(64);
  for (int round = 0; round < 2000; ++round) {
    pool.ParallelFor(values.size(), [&](int64_t i) { values[i] += i; });
  }
  for (int64_t i = 0; i < 64; ++i) EXPECT_EQ(values[i], 2000 * i);
}

TEST_P(ThreadPoolTest, CallersOnSeveralThreadsAreServedOneAfterAnother) {
  ThreadPool pool({.num_threads = GetParam()});
  std::atomic<int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) pool.ParallelFor(10, [&](int64_t i) { sum += i; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 4 * 200 * 45);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 4, 7));

}  // namespace
}  // namespace atl
