#include "router_service/front_door/inference_service.h"

#include <chrono>
#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "router_service/front_door/session.h"
#include "router_service/front_door/text_stream.h"

namespace atl::front_door {
namespace {

namespace pb = atollpb::v1;

// Deltas that wait are put together up to this many tokens: with 20 logprobs each, well under
// gRPC's usual 4 MiB.
constexpr int kMaxTokensPerDelta = 4096;

absl::Time Deadline(const grpc::CallbackServerContext& call, absl::Time now) {
  if (call.deadline() == std::chrono::system_clock::time_point::max())
    return absl::InfiniteFuture();
  return now + (absl::FromChrono(call.deadline()) - absl::Now());
}

int64_t TextBytes(const pb::GenerateRequest& request) {
  int64_t bytes = static_cast<int64_t>(request.text().size());
  for (const pb::Message& message : request.messages().messages())
    bytes += static_cast<int64_t>(message.role().size() + message.content().size());
  return bytes;
}

RequestError Tokenize(const InferenceContext& context, const pb::GenerateRequest& request,
                      std::vector<uint32_t>* prompt_ids) {
  const int64_t bytes = TextBytes(request);
  if (!context.sessions->BeginTokenizing(bytes)) {
    return RequestError::RetryLater(
        absl::ResourceExhaustedError("the router is at as much text as it takes at a time"),
        kQueueFullRetry);
  }
  const absl::Cleanup end = [&] { context.sessions->EndTokenizing(bytes); };
  return PromptIds(*context.model, context.limits, request, prompt_ids);
}

// Starts the request's session; if it is refused, the sink hears of it and there is none.
std::shared_ptr<Session> StartSession(const InferenceContext& context,
                                      const grpc::CallbackServerContext& call,
                                      const pb::GenerateRequest& request, ResponseSink* sink) {
  const absl::Time arrival = context.scheduler->Now();
  std::vector<uint32_t> prompt_ids;
  RequestError error = context.sessions->CheckAdmission();
  if (error.ok()) error = ValidateRequest(request, context.limits);
  if (error.ok()) error = Tokenize(context, request, &prompt_ids);
  if (!error.ok()) {
    context.sessions->Count(error.status.code(), {});
    sink->Done(error);
    return nullptr;
  }
  return context.sessions->Start(Resolve(request, prompt_ids, context.resolve), sink, arrival,
                                 Deadline(call, arrival));
}

// gRPC deletes a reactor's call after OnDone, which follows Finish: the session is told of nothing
// after its Done.
class UnaryCall : public grpc::ServerUnaryReactor, public ResponseSink {
 public:
  UnaryCall(const InferenceContext& context, grpc::CallbackServerContext* call,
            const pb::GenerateRequest* request, pb::GenerateResponse* response)
      : response_(response), session_(StartSession(context, *call, *request, this)) {}

  void Send(pb::GenerateStreamResponse delta) override { AppendDelta(delta, response_); }
  void Done(const RequestError& error) override { Finish(ToGrpc(error)); }

  void OnCancel() override {
    if (session_ != nullptr) session_->Cancel();
  }
  void OnDone() override { delete this; }

 private:
  pb::GenerateResponse* const response_;
  const std::shared_ptr<Session> session_;
};

class StreamCall : public grpc::ServerWriteReactor<pb::GenerateStreamResponse>,
                   public ResponseSink {
 public:
  StreamCall(const InferenceContext& context, grpc::CallbackServerContext* call,
             const pb::GenerateRequest* request)
      : session_(StartSession(context, *call, *request, this)) {}

  void Send(pb::GenerateStreamResponse delta) override {
    absl::MutexLock lock(&mu_);
    if (!waiting_.empty() &&
        waiting_.back().token_ids_size() + delta.token_ids_size() <= kMaxTokensPerDelta) {
      AppendDelta(delta, &waiting_.back());
    } else {
      waiting_.push_back(std::move(delta));
    }
    WriteNext();
  }

  void Done(const RequestError& error) override {
    {
      absl::MutexLock lock(&mu_);
      done_ = true;
      status_ = ToGrpc(error);
      if (writing_) return;
    }
    Finish(status_);
  }

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mu_);
      writing_ = false;
      if (!ok) waiting_.clear();  // nobody reads any more; OnCancel ends the session
      WriteNext();
      if (writing_ || !done_) return;
    }
    Finish(status_);
  }

  void OnCancel() override {
    if (session_ != nullptr) session_->Cancel();
  }
  void OnDone() override { delete this; }

 private:
  // Under the lock, for no reaction runs inside StartWrite. Finish is called without it: the call
  // may be deleted at once.
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || waiting_.empty()) return;
    writing_ = true;
    written_ = std::move(waiting_.front());
    waiting_.pop_front();
    StartWrite(&written_);
  }

  absl::Mutex mu_;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
  grpc::Status status_;  // set before done_
  std::deque<pb::GenerateStreamResponse> waiting_ ABSL_GUARDED_BY(mu_);
  pb::GenerateStreamResponse written_;      // gRPC's while `writing_`
  const std::shared_ptr<Session> session_;  // the last to be made: it calls back at once
};

}  // namespace

grpc::ServerUnaryReactor* InferenceService::Generate(grpc::CallbackServerContext* call,
                                                     const pb::GenerateRequest* request,
                                                     pb::GenerateResponse* response) {
  return new UnaryCall(*context_, call, request, response);
}

grpc::ServerWriteReactor<pb::GenerateStreamResponse>* InferenceService::GenerateStream(
    grpc::CallbackServerContext* call, const pb::GenerateRequest* request) {
  return new StreamCall(*context_, call, request);
}

}  // namespace atl::front_door
