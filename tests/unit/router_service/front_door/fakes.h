// A front door's surroundings, moved by hand: clock, attention nodes, directory, client.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "attention_service/client/attention_backend.h"
#include "router_service/front_door/attention_directory.h"
#include "router_service/front_door/request_error.h"
#include "router_service/front_door/scheduler.h"
#include "router_service/front_door/sessions.h"
#include "router_service/front_door/text_stream.h"
#include "text/tokenizer.h"

namespace atl::front_door {

// Time stands still until a test moves it; what is due runs in the test's thread.
class FakeScheduler : public Scheduler {
 public:
  absl::Time Now() const override { return now_; }
  TimerId At(absl::Time when, std::function<void()> fn) override {
    return timers_.Add(when, std::move(fn));
  }
  void Cancel(TimerId timer) override { timers_.Remove(timer); }

  void RunDue() {
    while (std::function<void()> fn = timers_.TakeDue(now_)) fn();
  }
  // Stops at every timer on the way.
  void Advance(absl::Duration by) {
    const absl::Time end = now_ + by;
    for (;;) {
      RunDue();
      if (timers_.next() > end) break;
      now_ = timers_.next();
    }
    now_ = end;
  }
  bool idle() const { return timers_.next() == absl::InfiniteFuture(); }

 private:
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  TimerQueue timers_;
};

// A run at a fake node; its node's scripted tokens are handed out by hand.
struct FakeRun {
  atollpb::v1::RunStart start;
  attention::RunObserver* observer = nullptr;  // null once the Run is destroyed
  std::vector<uint32_t> script;                // tokens of the whole generation
  int emitted = 0;
  bool cancelled = false;

  // The next `n` tokens of the script after start.generated_ids, in one response.
  atollpb::v1::RunResponse Next(int n) {
    atollpb::v1::RunResponse response;
    for (int i = 0; i < n; ++i) {
      const uint32_t id = script.at(start.generated_ids_size() + emitted++);
      response.add_token_ids(id);
      if (start.logprobs() < 0) continue;
      atollpb::v1::TokenLogprob* logprob = response.add_logprobs();
      logprob->set_id(id);
      logprob->set_logprob(-0.25f * static_cast<float>(id % 16));
    }
    if (emitted == n && start.prompt_logprobs() >= 0) {
      for (int i = 1; i < start.prompt_ids_size(); ++i)
        response.add_prompt_logprobs()->set_id(start.prompt_ids(i));
    }
    return response;
  }
  void Emit(int n) { Say(Next(n)); }
  // The rest of the script, or of max_tokens, with its finish_reason.
  void EmitRest() {
    const int want = std::min<int>(script.size(), start.max_tokens());
    atollpb::v1::RunResponse response = Next(want - start.generated_ids_size() - emitted);
    const bool all = want < static_cast<int>(start.max_tokens());
    response.set_finish_reason(all ? atollpb::v1::FINISH_REASON_STOP
                                   : atollpb::v1::FINISH_REASON_LENGTH);
    Say(std::move(response));
    End(absl::OkStatus());
  }
  void Say(atollpb::v1::RunResponse response) {
    if (observer != nullptr) observer->OnResponse(std::move(response));
  }
  void End(const Status& status) {
    if (attention::RunObserver* o = std::exchange(observer, nullptr)) o->OnDone(status);
  }
};

// An attention node: keeps what was started there. Thread-safe as far as Start and `Runs` go.
class FakeBackend : public attention::AttentionBackend {
 public:
  explicit FakeBackend(std::vector<uint32_t> script) : script_(std::move(script)) {}

  std::unique_ptr<attention::Run> Start(const atollpb::v1::RunStart& start,
                                        attention::RunObserver* observer) override {
    auto run = std::make_shared<FakeRun>();
    run->start = start;
    run->observer = observer;
    run->script = script_;
    {
      std::lock_guard lock(mu_);
      runs_.push_back(run);
    }
    if (on_start) on_start(run.get());
    return std::make_unique<Handle>(run);
  }

  std::vector<std::shared_ptr<FakeRun>> Runs() const {
    std::lock_guard lock(mu_);
    return runs_;
  }
  int num_runs() const { return static_cast<int>(Runs().size()); }
  FakeRun* last() const { return Runs().back().get(); }

  // Answers from inside Start.
  std::function<void(FakeRun*)> on_start;

 private:
  class Handle : public attention::Run {
   public:
    explicit Handle(std::shared_ptr<FakeRun> run) : run_(std::move(run)) {}
    ~Handle() override { run_->observer = nullptr; }
    void Cancel() override { run_->cancelled = true; }

   private:
    std::shared_ptr<FakeRun> run_;
  };

  const std::vector<uint32_t> script_;
  mutable std::mutex mu_;
  std::vector<std::shared_ptr<FakeRun>> runs_;
};

class FakeDirectory : public AttentionDirectory {
 public:
  std::vector<AttentionNode> List() const override {
    std::lock_guard lock(mu_);
    return nodes_;
  }
  void Set(std::vector<AttentionNode> nodes) {
    std::lock_guard lock(mu_);
    nodes_ = std::move(nodes);
  }
  void Add(const std::string& name, std::shared_ptr<FakeBackend> backend) {
    std::lock_guard lock(mu_);
    nodes_.push_back({.name = name, .backend = std::move(backend)});
  }
  void Remove(const std::string& name) {
    std::lock_guard lock(mu_);
    std::erase_if(nodes_, [&](const AttentionNode& node) { return node.name == name; });
  }
  void SetDraining(const std::string& name) {
    std::lock_guard lock(mu_);
    for (AttentionNode& node : nodes_) node.draining |= node.name == name;
  }

 private:
  mutable std::mutex mu_;
  std::vector<AttentionNode> nodes_;
};

// A client that keeps what it is told.
struct FakeSink : ResponseSink {
  std::vector<atollpb::v1::GenerateStreamResponse> deltas;
  std::vector<RequestError> ends;
  std::function<void()> on_send;

  void Send(atollpb::v1::GenerateStreamResponse delta) override {
    deltas.push_back(std::move(delta));
    if (on_send) on_send();
  }
  void Done(const RequestError& error) override { ends.push_back(error); }

  bool done() const { return !ends.empty(); }
  absl::StatusCode code() const { return ends.at(0).status.code(); }
  atollpb::v1::GenerateResponse Sum() const {
    atollpb::v1::GenerateResponse sum;
    for (const auto& delta : deltas) AppendDelta(delta, &sum);
    return sum;
  }
  std::vector<uint32_t> Ids() const {
    const auto sum = Sum();
    return {sum.token_ids().begin(), sum.token_ids().end()};
  }
};

inline ResolvedRequest TestRequest(std::vector<uint32_t> prompt, uint32_t max_tokens) {
  ResolvedRequest request{.request_id = "r"};
  request.start.set_request_id(absl::StrFormat("%s#1", request.request_id));
  request.start.mutable_prompt_ids()->Add(prompt.begin(), prompt.end());
  request.start.mutable_sampling()->set_seed(7);
  request.start.set_max_tokens(max_tokens);
  request.start.add_stop_token_ids(1);
  request.start.set_logprobs(-1);
  request.start.set_prompt_logprobs(-1);
  return request;
}

}  // namespace atl::front_door
