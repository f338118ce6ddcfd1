// One request's life: waits for its turn, runs on an attention node, is replayed on another when
// that one fails.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "atollpb/v1/attention.pb.h"
#include "router_service/front_door/node_troubles.h"
#include "router_service/front_door/sessions.h"
#include "router_service/front_door/text_stream.h"

namespace atl::front_door {

// Thread-safe. What happens to a session is an event; events are handled one at a time by whichever
// thread finds none being handled, with no lock held. So callbacks never wait for one another, and
// a node may answer from inside Start. The sink gets all that is to be told of a request: tokens
// never twice, whatever nodes are lost meanwhile.
class Session : public std::enable_shared_from_this<Session> {
 public:
  // By Sessions::Start alone, which then calls Begin.
  Session(Sessions* sessions, ResolvedRequest request, ResponseSink* sink, absl::Time arrival,
          absl::Time deadline);
  ~Session();
  void Begin();

  // The client has gone: ends at once, its run too.
  void Cancel();
  // Its turn has come (it was queued).
  void Admit();
  // The directory has changed.
  void LookAgain();
  void End(const RequestError& error);

 private:
  enum class State { kNew, kQueued, kSeeking, kRunning, kEnded };
  class Observer;
  struct ActiveRun;

  void Enqueue(std::function<void()> event);
  // What follows is called for events only.
  void DoBegin();
  void DoEnd(const RequestError& error);
  void DoCancel();
  void OnTimer();
  void ArmTimer();

  // Looks for a node; starts the run there, waits or gives up.
  void Seek();
  RequestError GiveUp(const std::vector<AttentionNode>& listed, absl::Time now);
  void WaitForNode(absl::Time now, absl::Time wake);
  void StartRun(const AttentionNode& node);
  void OnRunResponse(uint32_t run_number, atollpb::v1::RunResponse* response);
  void OnRunDone(uint32_t run_number, const Status& status);
  void OnRunFailed(NodeTroubles::Kind kind, const Status& status);
  void DropRun();

  atollpb::v1::FinishReason EndedByResume();
  Status CheckResponse(const atollpb::v1::RunResponse& response) const;
  void TakeFirstResponse(atollpb::v1::RunResponse* response);
  // True if a token has ended the request (a stop string).
  bool TakeTokens(atollpb::v1::RunResponse* response);
  // One new token has come.
  void NoteToken(absl::Time now);
  // The request is answered.
  void NoteAnswer() const;
  void SendReady();
  void Finish(atollpb::v1::FinishReason reason);
  void FillFirst(atollpb::v1::GenerateStreamResponse* delta);
  void FillLast(atollpb::v1::FinishReason reason, atollpb::v1::GenerateStreamResponse* delta) const;
  FrontDoorStats Stats() const;
  int num_new_tokens() const { return request_.start.generated_ids_size() - num_resumed_; }

  Sessions* const sessions_;
  Scheduler* const scheduler_;
  const FrontDoorOptions& options_;
  const absl::Time arrival_;
  const absl::Time deadline_;
  const int num_resumed_;

  absl::Mutex mu_;
  std::deque<std::function<void()>> events_ ABSL_GUARDED_BY(mu_);
  bool handling_ ABSL_GUARDED_BY(mu_) = false;

  // Touched by the handler of an event only.
  State state_ = State::kNew;
  ResolvedRequest request_;  // start.generated_ids grow with every token
  ResponseSink* sink_;       // null once Done
  TextStream text_;
  bool first_sent_ = false;

  std::unique_ptr<ActiveRun> run_;
  uint32_t next_run_number_ = 0;
  NodeTroubles troubles_;
  Status last_error_;
  absl::Time settle_until_ = absl::InfinitePast();    // see Seek
  absl::Time seek_wake_ = absl::InfiniteFuture();     // when to look for a node again
  absl::Time outage_since_ = absl::InfiniteFuture();  // no node could be tried since
  absl::Time stalled_since_;                          // last new token, or its turn

  bool have_first_response_ = false;
  bool have_prompt_logprobs_ = false;
  google::protobuf::RepeatedPtrField<atollpb::v1::TokenLogprob> prompt_logprobs_;
  uint32_t cached_prompt_tokens_ = 0;
  absl::Duration queued_;  // here, then at the node
  absl::Time first_token_at_;
  absl::Time last_token_at_;

  Scheduler::TimerId timer_ = 0;
  absl::Time timer_at_ = absl::InfiniteFuture();
};

}  // namespace atl::front_door
