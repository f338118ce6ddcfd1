#include "transport/event_loop.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <functional>
#include <memory>
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

// Ready as often as it is told; keeps what the loop said to it.
class FakePoller : public Poller {
 public:
  explicit FakePoller(EventLoop* loop) : loop_(loop) { loop_->AddPoller(this); }
  ~FakePoller() { loop_->RemovePoller(this); }
  bool Ready() override { return ready_if_ ? ready_if_() : ready > 0; }
  void Run() override {
    --ready;
    ++runs;
    if (on_run) on_run();
  }
  void SetAsleep(bool asleep) override { said.push_back(asleep); }
  void ReadyIf(std::function<bool()> when) { ready_if_ = std::move(when); }

  int ready = 0;
  int runs = 0;
  std::vector<bool> said;
  std::function<void()> on_run;

 private:
  EventLoop* const loop_;
  std::function<bool()> ready_if_;
};

TEST(EventLoopTest, AReadyPollerRunsWithoutSleep) {
  EventLoop loop;
  FakePoller poller(&loop);
  loop.RunOnce(absl::ZeroDuration());
  EXPECT_EQ(poller.runs, 0);
  EXPECT_TRUE(poller.said.empty()) << "a turn that does not sleep says nothing";
  poller.ready = 2;
  loop.RunOnce(absl::InfiniteDuration());
  loop.RunOnce(absl::InfiniteDuration());
  EXPECT_EQ(poller.runs, 2);
}

// What came just before the loop said that it sleeps is found by asking once more.
TEST(EventLoopTest, APollerIsAskedAgainAfterItWasToldOfTheSleep) {
  EventLoop loop;
  FakePoller poller(&loop);
  poller.ReadyIf([&] { return !poller.said.empty() && poller.said.size() < 3; });
  loop.RunOnce(absl::InfiniteDuration());
  EXPECT_EQ(poller.said, (std::vector<bool>{true, false}));
  EXPECT_EQ(poller.runs, 1);
}

TEST(EventLoopTest, ASleepingLoopIsWokenByTheDescriptorOfAPoller) {
  EventLoop loop;
  FakePoller poller(&loop);
  Pipe pipe;
  loop.Watch(pipe.in(), EPOLLIN, [&](uint32_t) {
    pipe.Read();
    poller.ready = 1;
  });
  std::thread other([&] { pipe.Write(); });
  loop.RunOnce(absl::InfiniteDuration());
  EXPECT_EQ(poller.runs, 1) << "in the same turn";
  other.join();
  loop.Unwatch(pipe.in());
}

TEST(EventLoopTest, APollerMayRemoveItselfAndOthersAndAddNewOnes) {
  EventLoop loop;
  auto first = std::make_unique<FakePoller>(&loop);
  auto second = std::make_unique<FakePoller>(&loop);
  std::unique_ptr<FakePoller> third;
  first->ready = second->ready = 1;
  second->on_run = [] { ADD_FAILURE() << "was removed"; };
  first->on_run = [&] {
    second.reset();
    third = std::make_unique<FakePoller>(&loop);
    third->ready = 1;
    const auto self = std::move(first);
  };
  loop.RunOnce(absl::ZeroDuration());
  EXPECT_EQ(third->runs, 0) << "belongs to the next turn";
  loop.RunOnce(absl::ZeroDuration());
  EXPECT_EQ(third->runs, 1);
}

TEST(EventLoopTest, SpinningEndsWithAPostAPollerADescriptorOrTheTimeout) {
  EventLoop loop;
  loop.SetSpin(absl::InfiniteDuration());
  FakePoller poller(&loop);
  bool posted = false;
  std::thread other([&] { loop.Post([&] { posted = true; }); });
  loop.RunOnce(absl::InfiniteDuration());
  EXPECT_TRUE(posted);
  other.join();
  Pipe pipe;
  int calls = 0;
  loop.Watch(pipe.in(), EPOLLIN, [&](uint32_t) {
    pipe.Read();
    ++calls;
  });
  std::thread writer([&] { pipe.Write(); });
  loop.RunOnce(absl::InfiniteDuration());
  writer.join();
  EXPECT_EQ(calls, 1);
  loop.Unwatch(pipe.in());
  int asked = 0;
  poller.ReadyIf([&] { return ++asked > 1000; });
  loop.RunOnce(absl::InfiniteDuration());
  EXPECT_EQ(poller.runs, 1);
  poller.ReadyIf([] { return false; });
  const absl::Time begin = absl::Now();
  loop.RunOnce(absl::Milliseconds(2));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(2));
  loop.SetSpin(absl::ZeroDuration());
  poller.said.clear();
  loop.RunOnce(absl::Milliseconds(1));
  EXPECT_EQ(poller.said, (std::vector<bool>{true, false}));
}

}  // namespace
}  // namespace atl::transport
