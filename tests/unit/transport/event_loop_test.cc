#include "transport/event_loop.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "absl/time/clock.h"

namespace atl::transport {
namespace {

class Pipe {
 public:
  Pipe() { EXPECT_EQ(pipe2(fds_, O_NONBLOCK | O_CLOEXEC), 0); }
  ~Pipe() {
    close(fds_[0]);
    close(fds_[1]);
  }
  int in() const { return fds_[0]; }
  void Write() { EXPECT_EQ(write(fds_[1], "x", 1), 1); }
  void Read() {
    char c;
    EXPECT_EQ(read(fds_[0], &c, 1), 1);
  }

 private:
  int fds_[2];
};

TEST(EventLoopTest, PostedFunctionsRunInOrderWithoutWaiting) {
  EventLoop loop;
  std::vector<int> seen;
  for (int i = 0; i < 5; ++i) loop.Post([&, i] { seen.push_back(i); });
  loop.RunOnce(absl::InfiniteDuration());
  EXPECT_EQ(seen, (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST(EventLoopTest, PostFromInsideRunsInTheNextTurn) {
  EventLoop loop;
  int runs = 0;
  loop.Post([&] { loop.Post([&] { ++runs; }); });
  loop.RunOnce(absl::InfiniteDuration());
  EXPECT_EQ(runs, 0);
  loop.RunOnce(absl::InfiniteDuration());
  EXPECT_EQ(runs, 1);
}

TEST(EventLoopTest, PostFromAnotherThreadWakesTheLoop) {
  EventLoop loop;
  constexpr int kPosts = 10'000;
  int seen = 0;
  bool ordered = true;
  std::thread other([&] {
    for (int i = 0; i < kPosts; ++i) {
      loop.Post([&, i] {
        ordered &= i == seen;
        ++seen;
      });
    }
  });
  while (seen < kPosts)
    loop.RunOnce(absl::InfiniteDuration());  // a lost wake-up hangs here: the test's limit ends it
  other.join();
  EXPECT_TRUE(ordered);
}

TEST(EventLoopTest, FunctionsLeftOverAreDroppedWithTheLoop) {
  auto token = std::make_shared<int>(1);
  {
    EventLoop loop;
    loop.Post([token] {});
    EXPECT_EQ(token.use_count(), 2);
  }
  EXPECT_EQ(token.use_count(), 1);
}

TEST(EventLoopTest, WatchIsLevelTriggered) {
  EventLoop loop;
  Pipe pipe;
  int calls = 0;
  loop.Watch(pipe.in(), EPOLLIN, [&](uint32_t events) {
    EXPECT_EQ(events, uint32_t{EPOLLIN});
    ++calls;
  });
  loop.RunOnce(absl::ZeroDuration());
  EXPECT_EQ(calls, 0);
  pipe.Write();
  loop.RunOnce(absl::InfiniteDuration());
  loop.RunOnce(absl::ZeroDuration());
  EXPECT_EQ(calls, 2);
  pipe.Read();
  loop.RunOnce(absl::ZeroDuration());
  EXPECT_EQ(calls, 2);
  pipe.Write();
  loop.Rearm(pipe.in(), 0);
  loop.RunOnce(absl::ZeroDuration());
  EXPECT_EQ(calls, 2);
  loop.Unwatch(pipe.in());
}

TEST(EventLoopTest, UnwatchInsideACallbackSilencesTheOtherReadyDescriptor) {
  EventLoop loop;
  Pipe a, b;
  int calls = 0;
  const auto once = [&](uint32_t) {
    ++calls;
    loop.Unwatch(a.in());
    loop.Unwatch(b.in());
    // The same number watched anew in the same turn is another watch: the old event is not its own.
    loop.Watch(a.in(), 0, [&](uint32_t) { ADD_FAILURE() << "stale event"; });
    loop.Watch(b.in(), 0, [&](uint32_t) { ADD_FAILURE() << "stale event"; });
  };
  loop.Watch(a.in(), EPOLLIN, once);
  loop.Watch(b.in(), EPOLLIN, once);
  a.Write();
  b.Write();
  loop.RunOnce(absl::InfiniteDuration());
  EXPECT_EQ(calls, 1);
  loop.Unwatch(a.in());
  loop.Unwatch(b.in());
}

TEST(EventLoopTest, TimersRunInTheOrderOfTheirTimes) {
  EventLoop loop;
  std::vector<int> seen;
  const absl::Time now = absl::Now();
  loop.RunAt(now + absl::Milliseconds(6), [&] { seen.push_back(3); });
  loop.RunAt(now + absl::Milliseconds(2), [&] { seen.push_back(1); });
  const uint64_t cancelled = loop.RunAt(now + absl::Milliseconds(3), [&] { seen.push_back(99); });
  loop.RunAt(now + absl::Milliseconds(4), [&] { seen.push_back(2); });
  EXPECT_NE(cancelled, 0u);
  loop.CancelTimer(cancelled);
  loop.CancelTimer(cancelled);
  loop.CancelTimer(0);
  while (seen.size() < 3) loop.RunOnce(absl::InfiniteDuration());
  EXPECT_GE(absl::Now() - now, absl::Milliseconds(6));
  EXPECT_EQ(seen, (std::vector<int>{1, 2, 3}));
}

TEST(EventLoopTest, TimerMayCancelAnotherThatIsDueAndSetNewOnes) {
  EventLoop loop;
  bool second = false;
  bool third = false;
  uint64_t id = 0;
  loop.RunAt(absl::InfinitePast(), [&] {
    loop.CancelTimer(id);
    loop.RunAt(absl::InfinitePast(), [&] { third = true; });
  });
  id = loop.RunAt(absl::Now(), [&] { second = true; });
  loop.RunOnce(absl::ZeroDuration());
  EXPECT_FALSE(third) << "belongs to the next turn";
  loop.RunOnce(absl::InfiniteDuration());
  EXPECT_TRUE(third);
  EXPECT_FALSE(second);
}

TEST(EventLoopTest, RunOnceKeepsItsTimeout) {
  EventLoop loop;
  loop.RunAt(absl::InfiniteFuture(), [] { ADD_FAILURE(); });
  const absl::Time begin = absl::Now();
  loop.RunOnce(absl::Milliseconds(5));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(4));
}

}  // namespace
}  // namespace atl::transport
