#include "router_service/front_door/scheduler.h"

#include <gtest/gtest.h>

#include <vector>

#include "absl/synchronization/notification.h"

namespace atl::front_door {
namespace {

const absl::Time kStart = absl::UnixEpoch();

TEST(TimerQueueTest, EarliestFirstEqualTimesInOrder) {
  TimerQueue queue;
  std::vector<int> ran;
  queue.Add(kStart + absl::Seconds(2), [&] { ran.push_back(3); });
  queue.Add(kStart + absl::Seconds(1), [&] { ran.push_back(1); });
  queue.Add(kStart + absl::Seconds(1), [&] { ran.push_back(2); });
  EXPECT_EQ(queue.next(), kStart + absl::Seconds(1));
  EXPECT_EQ(queue.TakeDue(kStart), nullptr);
  while (auto fn = queue.TakeDue(kStart + absl::Seconds(2))) fn();
  EXPECT_EQ(ran, (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(queue.next(), absl::InfiniteFuture());
}

TEST(TimerQueueTest, ARemovedTimerDoesNotRun) {
  TimerQueue queue;
  const auto id = queue.Add(kStart, [] { FAIL(); });
  queue.Remove(id);
  queue.Remove(id);
  queue.Remove(0);
  EXPECT_EQ(queue.TakeDue(absl::InfiniteFuture()), nullptr);
}

TEST(ThreadSchedulerTest, RunsWhatIsDueAndWhatIsMadeMeanwhile) {
  ThreadScheduler scheduler;
  absl::Notification done;
  const auto never = scheduler.At(scheduler.Now() + absl::Hours(1), [] { FAIL(); });
  scheduler.At(scheduler.Now() + absl::Milliseconds(5),
               [&] { scheduler.Post([&] { done.Notify(); }); });
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(30)));
  scheduler.Cancel(never);
}

TEST(ThreadSchedulerTest, ItsEndRunsWhatIsDueAndDropsTheRest) {
  int ran = 0;
  {
    ThreadScheduler scheduler;
    scheduler.At(scheduler.Now() + absl::Hours(1), [] { FAIL(); });
    for (int i = 0; i < 100; ++i) scheduler.Post([&] { ++ran; });
  }
  EXPECT_EQ(ran, 100);
}

}  // namespace
}  // namespace atl::front_door
