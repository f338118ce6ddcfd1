// A client of the public API that knows several routers and goes on at another one when its stream
// breaks.
#pragma once

#include <grpcpp/client_context.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "atollpb/v1/inference.grpc.pb.h"
#include "base/status.h"

namespace atl::cli {

struct ApiClientOptions {
  std::vector<std::string> addresses;  // HOST:PORT, at least one; tried in this order
  absl::Duration timeout = absl::InfiniteDuration();  // of one request, all attempts together
  absl::Duration patience = absl::Seconds(15);  // without any progress, while servers come back
  absl::Duration connect_timeout = absl::Seconds(3);
  // Told why, before each wait for servers that were unavailable. On the calling thread; may be
  // null.
  std::function<void(const Status&)> on_retry;
};

// What is needed to go on with a stream elsewhere. Pure.
class StreamProgress {
 public:
  explicit StreamProgress(const atollpb::v1::GenerateRequest& request);

  // Takes in a message. What the first one of a resumed stream repeats is cleared in it.
  void Add(atollpb::v1::GenerateStreamResponse* message);
  // The request as first sent; once a message has come, with resume_from, seed and bias_version.
  atollpb::v1::GenerateRequest NextRequest() const;
  bool finished() const;
  int64_t num_messages() const { return num_messages_; }
  // All messages put together: what Generate would have answered.
  const atollpb::v1::GenerateResponse& answer() const { return answer_; }

 private:
  const atollpb::v1::GenerateRequest request_;
  atollpb::v1::GenerateResponse answer_;
  int64_t num_messages_ = 0;
};

// One request at a time; Cancel from any thread.
class ApiClient {
 public:
  using OnMessage = std::function<void(const atollpb::v1::GenerateStreamResponse&)>;

  explicit ApiClient(ApiClientOptions options);

  // Streams an answer; each new message is told once, whichever server it came from. Returns the
  // whole. Unavailable: no server at any address, or none that went on within `patience`.
  // Cancelled: by Cancel. DeadlineExceeded: by `timeout`. Else the server's error.
  StatusOr<atollpb::v1::GenerateResponse> Stream(const atollpb::v1::GenerateRequest& request,
                                                 const OnMessage& on_message);
  // Unary calls: tried at the other addresses while servers are unavailable. Errors as above.
  StatusOr<atollpb::v1::GenerateResponse> Generate(const atollpb::v1::GenerateRequest& request);
  StatusOr<atollpb::v1::GetModelResponse> GetModel();
  StatusOr<atollpb::v1::TokenizeResponse> Tokenize(const atollpb::v1::TokenizeRequest& request);
  StatusOr<atollpb::v1::DetokenizeResponse> Detokenize(
      const atollpb::v1::DetokenizeRequest& request);

  // Ends the request under way, if there is one.
  void Cancel();
  // Where the last answer came from, or the last attempt went.
  const std::string& address() const { return options_.addresses[current_]; }
  std::shared_ptr<grpc::Channel> channel() const { return channels_[current_]; }

 private:
  // One call on a connected channel.
  using Attempt =
      std::function<grpc::Status(grpc::ClientContext*, const std::shared_ptr<grpc::Channel>&)>;

  // Runs attempts until one succeeds or fails for good. `num_arrived` grows when an attempt gets
  // somewhere.
  Status TryEverywhere(const Attempt& attempt, const std::function<int64_t()>& num_arrived);
  Status Connect(size_t idx, absl::Time deadline);
  grpc::Status RunAttempt(const Attempt& attempt, absl::Time deadline);
  Status NoServer() const;
  Status NoTime() const;
  bool IsCancelled();
  // False if cancelled meanwhile.
  bool Sleep(absl::Duration duration);
  template <typename Response, typename Call>
  StatusOr<Response> Unary(Call call);

  const ApiClientOptions options_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  size_t current_ = 0;
  absl::Mutex mu_;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mu_) = nullptr;  // of the call under way
};

}  // namespace atl::cli
