#include "cli/api_client.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "base/check.h"
#include "rpc/channel.h"
#include "rpc/status.h"

namespace atl::cli {
namespace {

using atollpb::v1::GenerateRequest;
using atollpb::v1::GenerateResponse;
using atollpb::v1::GenerateStreamResponse;
using atollpb::v1::InferenceService;
using atollpb::v1::ModelService;

constexpr absl::Duration kMinWait = absl::Milliseconds(100);
constexpr absl::Duration kMaxWait = absl::Seconds(5);
constexpr absl::Duration kStateStep = absl::Milliseconds(100);

// A server that is ended cancels its calls; Cancel is looked at apart.
bool MayGoOnElsewhere(const Status& status) {
  return rpc::IsRetryable(status) || absl::IsCancelled(status);
}

Status CancelledError() { return Cancelled("the request was cancelled here"); }

gpr_timespec ToGpr(absl::Duration from_now) {
  return gpr_time_add(gpr_now(GPR_CLOCK_REALTIME),
                      gpr_time_from_millis(absl::ToInt64Milliseconds(from_now), GPR_TIMESPAN));
}

}  // namespace

ApiClient::ApiClient(ApiClientOptions options) : options_(std::move(options)) {
  ATL_CHECK(!options_.addresses.empty());
  for (const std::string& address : options_.addresses)
    channels_.push_back(rpc::MakeChannel(address));
}

StatusOr<GenerateResponse> ApiClient::Stream(const GenerateRequest& request,
                                             const OnMessage& on_message) {
  StreamProgress progress(request);
  auto attempt = [&](grpc::ClientContext* context, const std::shared_ptr<grpc::Channel>& channel) {
    const auto stub = InferenceService::NewStub(channel);
    const auto reader = stub->GenerateStream(context, progress.NextRequest());
    GenerateStreamResponse message;
    while (reader->Read(&message)) {
      progress.Add(&message);
      on_message(message);
    }
    const grpc::Status status = reader->Finish();
    if (progress.finished()) return grpc::Status::OK;
    if (!status.ok()) return status;
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the stream ended without a finish reason");
  };
  ATL_RETURN_IF_ERROR(TryEverywhere(attempt, [&] { return progress.num_messages(); }));
  return progress.answer();
}

template <typename Response, typename Call>
StatusOr<Response> ApiClient::Unary(Call call) {
  Response response;
  auto attempt = [&](grpc::ClientContext* context, const std::shared_ptr<grpc::Channel>& channel) {
    return call(context, channel, &response);
  };
  ATL_RETURN_IF_ERROR(TryEverywhere(attempt, [] { return int64_t{0}; }));
  return response;
}

StatusOr<GenerateResponse> ApiClient::Generate(const GenerateRequest& request) {
  return Unary<GenerateResponse>([&](auto* context, const auto& channel, auto* response) {
    return InferenceService::NewStub(channel)->Generate(context, request, response);
  });
}

StatusOr<atollpb::v1::GetModelResponse> ApiClient::GetModel() {
  return Unary<atollpb::v1::GetModelResponse>(
      [&](auto* context, const auto& channel, auto* response) {
        return ModelService::NewStub(channel)->GetModel(context, {}, response);
      });
}

StatusOr<atollpb::v1::TokenizeResponse> ApiClient::Tokenize(
    const atollpb::v1::TokenizeRequest& request) {
  return Unary<atollpb::v1::TokenizeResponse>(
      [&](auto* context, const auto& channel, auto* response) {
        return ModelService::NewStub(channel)->Tokenize(context, request, response);
      });
}

StatusOr<atollpb::v1::DetokenizeResponse> ApiClient::Detokenize(
    const atollpb::v1::DetokenizeRequest& request) {
  return Unary<atollpb::v1::DetokenizeResponse>(
      [&](auto* context, const auto& channel, auto* response) {
        return ModelService::NewStub(channel)->Detokenize(context, request, response);
      });
}

Status ApiClient::TryEverywhere(const Attempt& attempt,
                                const std::function<int64_t()>& num_arrived) {
  {
    absl::MutexLock lock(&mu_);
    cancelled_ = false;
  }
  const absl::Time deadline = absl::Now() + options_.timeout;
  absl::Time last_progress = absl::Now();
  bool reached = false;
  while (true) {
    const int64_t arrived_before = num_arrived();
    absl::Duration wait = kMinWait;
    Status last;
    for (size_t i = 0; i < channels_.size(); ++i) {
      last = Connect(current_, deadline);
      if (last.ok()) {
        reached = true;
        const grpc::Status ended = RunAttempt(attempt, deadline);
        if (ended.ok()) return absl::OkStatus();
        last = rpc::FromGrpc(ended);
        wait = std::max(wait, std::min(rpc::RetryDelay(ended), kMaxWait));
      }
      if (IsCancelled()) return CancelledError();
      if (!MayGoOnElsewhere(last)) return last;
      current_ = (current_ + 1) % channels_.size();
    }
    if (!reached) return absl::Now() < deadline ? NoServer() : NoTime();
    if (num_arrived() > arrived_before) {
      last_progress = absl::Now();
    } else if (absl::Now() + wait - last_progress > options_.patience ||
               absl::Now() + wait > deadline) {
      return last;
    } else {
      if (options_.on_retry) options_.on_retry(last);
      if (!Sleep(wait)) return CancelledError();
    }
  }
}

Status ApiClient::Connect(size_t idx, absl::Time deadline) {
  const absl::Time give_up = std::min(deadline, absl::Now() + options_.connect_timeout);
  grpc_connectivity_state state = channels_[idx]->GetState(/*try_to_connect=*/true);
  while (state != GRPC_CHANNEL_READY && state != GRPC_CHANNEL_TRANSIENT_FAILURE &&
         absl::Now() < give_up && !IsCancelled()) {
    channels_[idx]->WaitForStateChange(state, ToGpr(kStateStep));
    state = channels_[idx]->GetState(/*try_to_connect=*/true);
  }
  if (state == GRPC_CHANNEL_READY) return absl::OkStatus();
  // The next attempt is a new channel's: between calls nobody drives a channel's own attempts, and
  // gRPC looks after them every 5 s.
  channels_[idx] = rpc::MakeChannel(options_.addresses[idx]);
  return Unavailable("no answer from %s", options_.addresses[idx]);
}

Status ApiClient::NoServer() const {
  std::string all;
  for (const std::string& address : options_.addresses) all += (all.empty() ? "" : ", ") + address;
  return Unavailable("no Atoll server answers at %s (atoll serve and atoll cluster start one)",
                     all);
}

Status ApiClient::NoTime() const {
  return DeadlineExceeded("no answer within %s (--timeout)",
                          absl::FormatDuration(options_.timeout));
}

grpc::Status ApiClient::RunAttempt(const Attempt& attempt, absl::Time deadline) {
  grpc::ClientContext context;
  if (deadline != absl::InfiniteFuture()) rpc::SetDeadline(&context, deadline - absl::Now());
  {
    absl::MutexLock lock(&mu_);
    if (cancelled_) return grpc::Status::CANCELLED;
    context_ = &context;
  }
  grpc::Status status = attempt(&context, channels_[current_]);
  absl::MutexLock lock(&mu_);
  context_ = nullptr;
  return status;
}

void ApiClient::Cancel() {
  absl::MutexLock lock(&mu_);
  cancelled_ = true;
  if (context_ != nullptr) context_->TryCancel();
}

bool ApiClient::IsCancelled() {
  absl::MutexLock lock(&mu_);
  return cancelled_;
}

bool ApiClient::Sleep(absl::Duration duration) {
  absl::MutexLock lock(&mu_);
  return !mu_.AwaitWithTimeout(absl::Condition(&cancelled_), duration);
}

}  // namespace atl::cli
