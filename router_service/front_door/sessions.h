// All requests of a front door: how many run, who waits, who is told what.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "atollpb/v1/inference.pb.h"
#include "router_service/front_door/front_door.h"
#include "router_service/front_door/node_choice.h"
#include "router_service/front_door/request_error.h"
#include "router_service/front_door/resolve.h"
#include "router_service/front_door/scheduler.h"

namespace atl::front_door {

class Session;

// Takes what a request answers. Called from any thread, one call at a time; must not block.
class ResponseSink {
 public:
  virtual ~ResponseSink() = default;
  // Deltas in order; the last has a finish_reason.
  virtual void Send(atollpb::v1::GenerateStreamResponse delta) = 0;
  // Exactly once, after the last Send; nothing comes after it. OK only after a finish_reason.
  virtual void Done(const RequestError& error) = 0;
};

// When to come back: a place in a full queue frees within seconds; a node or a router is back
// within one or two.
inline constexpr absl::Duration kQueueFullRetry = absl::Seconds(2);
inline constexpr absl::Duration kUnavailableRetry = absl::Seconds(1);

// Thread-safe.
class Sessions {
 public:
  // tokenizer may be null. All must outlive the sessions.
  Sessions(const text::Tokenizer* tokenizer, const AttentionDirectory* directory,
           const FrontDoorOptions& options, Scheduler* scheduler);

  // RESOURCE_EXHAUSTED or UNAVAILABLE if a request would be refused now: asked before time is spent
  // on its text.
  RequestError CheckAdmission() const;
  // Around turning `bytes` of text into ids: false while others are at as much text as memory is
  // kept for (tokenizing takes some tens of bytes for each of the text); one alone always may, and
  // so may what has no text. EndTokenizing only after true.
  bool BeginTokenizing(int64_t bytes);
  void EndTokenizing(int64_t bytes);

  // Runs a request; `sink` must live until its Done.
  //   arrival, deadline  by the scheduler's clock; InfiniteFuture: none
  std::shared_ptr<Session> Start(ResolvedRequest request, ResponseSink* sink, absl::Time arrival,
                                 absl::Time deadline);

  void OnDirectoryChanged();
  void StopAdmitting();
  void EndAll();
  int num_running() const;
  int num_queued() const;
  // No request runs or waits; false where `timeout` passes first.
  bool WaitUntilIdle(absl::Duration timeout) const;

  // One request has ended with this status; `ended` says what it did (its `requests` stay empty).
  void Count(absl::StatusCode code, const FrontDoorStats& ended);
  FrontDoorStats stats() const;
  const RequestHistograms& histograms() const { return histograms_; }

 private:
  friend class Session;
  enum class Place { kRunning, kQueued, kFull, kStopped };
  Place Enter(std::shared_ptr<Session> session);
  void Leave(Session* session);
  std::vector<std::shared_ptr<Session>> All() const;

  const text::Tokenizer* const tokenizer_;
  const AttentionDirectory* const directory_;
  const FrontDoorOptions options_;
  Scheduler* const scheduler_;
  NodeUse node_use_;
  RequestHistograms histograms_;  // sessions count into it

  std::atomic<int64_t> tokenizing_bytes_{0};
  mutable absl::Mutex mu_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  std::unordered_map<Session*, std::shared_ptr<Session>> running_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, std::shared_ptr<Session>> queue_
      ABSL_GUARDED_BY(mu_);  // by ticket: first come, first served
  std::unordered_map<Session*, uint64_t> tickets_ ABSL_GUARDED_BY(mu_);
  uint64_t last_ticket_ ABSL_GUARDED_BY(mu_) = 0;
  bool look_posted_ ABSL_GUARDED_BY(mu_) = false;  // a change of the directory waits to be told
  FrontDoorStats stats_ ABSL_GUARDED_BY(mu_);
};

// What a request is refused with.
RequestError QueueFull(int max_queued);
RequestError ShuttingDown();

}  // namespace atl::front_door
