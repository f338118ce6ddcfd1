// Sessions under real threads: nodes that answer and die from threads of their own, clients that
// go, a directory that changes. Built for ThreadSanitizer; here gRPC is not in the way.
#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <random>
#include <thread>

#include "router_service/front_door/session.h"
#include "tests/unit/router_service/front_door/fakes.h"

namespace atl::front_door {
namespace {

namespace pb = atollpb::v1;

constexpr uint32_t kTokens = 40;

// Tokens 1000, 1001, ... one response each, on the node's own thread; every third run dies on the
// way.
class ThreadedNode : public attention::AttentionBackend {
 public:
  explicit ThreadedNode(uint32_t seed) : random_(seed), thread_([this] { Loop(); }) {}
  ~ThreadedNode() override {
    {
      std::lock_guard lock(mu_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  std::unique_ptr<attention::Run> Start(const pb::RunStart& start,
                                        attention::RunObserver* observer) override {
    auto call = std::make_shared<Call>();
    call->observer = observer;
    call->next = start.generated_ids_size();
    {
      std::lock_guard lock(mu_);
      call->dies_after = random_() % 3 == 0 ? random_() % kTokens : kTokens + 1;
      calls_.push_back(call);
    }
    wake_.notify_one();
    return std::make_unique<Handle>(call);
  }

 private:
  struct Call {
    std::recursive_mutex mu;  // held while the observer is called
    attention::RunObserver* observer;
    uint32_t next;
    uint32_t dies_after;
  };
  struct Handle : attention::Run {
    explicit Handle(std::shared_ptr<Call> c) : call(std::move(c)) {}
    ~Handle() override {
      std::lock_guard lock(call->mu);
      call->observer = nullptr;
    }
    void Cancel() override {}
    std::shared_ptr<Call> call;
  };

  // One token of the run; false once it has ended.
  static bool Step(Call* call) {
    std::lock_guard lock(call->mu);
    if (call->observer == nullptr) return false;
    if (call->dies_after-- == 0) {
      std::exchange(call->observer, nullptr)->OnDone(Unavailable("dies"));
      return false;
    }
    pb::RunResponse response;
    response.add_token_ids(1000 + call->next++);
    const bool last = call->next == kTokens;
    if (last) response.set_finish_reason(pb::FINISH_REASON_LENGTH);
    call->observer->OnResponse(std::move(response));
    if (last && call->observer != nullptr)
      std::exchange(call->observer, nullptr)->OnDone(absl::OkStatus());
    return !last;
  }

  void Loop() {
    std::unique_lock lock(mu_);
    for (;;) {
      wake_.wait(lock, [this] { return stopping_ || !calls_.empty(); });
      if (stopping_) return;
      const std::shared_ptr<Call> call = std::move(calls_.front());
      calls_.pop_front();
      lock.unlock();
      const bool more = Step(call.get());
      lock.lock();
      if (more) calls_.push_back(call);
    }
  }

  std::mutex mu_;
  std::condition_variable wake_;
  std::mt19937 random_;
  std::deque<std::shared_ptr<Call>> calls_;
  bool stopping_ = false;
  std::thread thread_;
};

class WaitingSink : public FakeSink {
 public:
  void Done(const RequestError& error) override {
    std::lock_guard lock(mu_);
    FakeSink::Done(error);
    wake_.notify_one();
  }
  bool Wait() {
    std::unique_lock lock(mu_);
    return wake_.wait_for(lock, std::chrono::seconds(60), [this] { return done(); });
  }

 private:
  std::mutex mu_;
  std::condition_variable wake_;
};

struct Outcome {
  int answered = 0;
  int cancelled = 0;
};

// One client after another; every fourth goes after its fifth delta.
Outcome RunClients(Sessions* sessions, Scheduler* scheduler, int num_requests) {
  Outcome outcome;
  for (int i = 0; i < num_requests; ++i) {
    WaitingSink sink;
    std::shared_ptr<Session> session;
    std::recursive_mutex session_mu;  // the first deltas may come from inside Start
    if (i % 4 == 3) {
      sink.on_send = [&] {
        if (sink.deltas.size() != 5) return;
        std::lock_guard lock(session_mu);
        if (session != nullptr) session->Cancel();
      };
    }
    {
      std::lock_guard lock(session_mu);
      session = sessions->Start(TestRequest({1, 2, 3}, kTokens), &sink, scheduler->Now(),
                                absl::InfiniteFuture());
    }
    EXPECT_TRUE(sink.Wait());
    if (sink.code() == absl::StatusCode::kCancelled) {
      ++outcome.cancelled;
      continue;
    }
    EXPECT_TRUE(sink.ends[0].ok()) << sink.ends[0].status;
    std::vector<uint32_t> expected(kTokens);
    for (uint32_t t = 0; t < kTokens; ++t) expected[t] = 1000 + t;
    EXPECT_EQ(sink.Ids(), expected);
    ++outcome.answered;
  }
  return outcome;
}

TEST(SessionThreadsTest, ClientsNodesAndDirectoryAllAtOnce) {
  constexpr int kClients = 6, kRequests = 40;
  std::vector<std::shared_ptr<ThreadedNode>> nodes;
  for (uint32_t n = 0; n < 3; ++n) nodes.push_back(std::make_shared<ThreadedNode>(n));
  FakeDirectory directory;
  directory.Set({{.name = "a", .backend = nodes[0]},
                 {.name = "b", .backend = nodes[1]},
                 {.name = "c", .backend = nodes[2]}});
  FrontDoorOptions options;
  options.max_concurrent_requests = 4;  // some wait in the queue
  auto scheduler = std::make_unique<ThreadScheduler>();
  Sessions sessions(nullptr, &directory, options, scheduler.get());
  std::vector<Outcome> outcomes(kClients);
  std::vector<std::thread> clients;
  for (int c = 0; c < kClients; ++c) {
    clients.emplace_back(
        [&, c] { outcomes[c] = RunClients(&sessions, scheduler.get(), kRequests); });
  }
  for (int i = 0; i < 200; ++i) {
    sessions.OnDirectoryChanged();
    std::this_thread::yield();
  }
  int answered = 0, cancelled = 0;
  for (int c = 0; c < kClients; ++c) {
    clients[c].join();
    answered += outcomes[c].answered;
    cancelled += outcomes[c].cancelled;
  }
  EXPECT_EQ(answered + cancelled, kClients * kRequests);
  EXPECT_GE(answered, kClients * kRequests * 3 / 4);
  EXPECT_GT(cancelled, 0);
  EXPECT_EQ(sessions.num_running() + sessions.num_queued(), 0);
  EXPECT_GT(sessions.stats().replays, 0);
  scheduler.reset();  // the last runs go before their nodes
}

}  // namespace
}  // namespace atl::front_door
