#include "attention_service/client/attention_backend.h"

#include <grpcpp/grpcpp.h>

#include <mutex>
#include <utility>

#include "atollpb/v1/attention.grpc.pb.h"
#include "rpc/channel.h"
#include "rpc/status.h"

namespace atl::attention {
namespace {

namespace pb = atollpb::v1;

// One Run call. Keeps itself alive until gRPC is done with it; the observer is let go of when the
// Run is destroyed.
class RemoteCall : public grpc::ClientBidiReactor<pb::RunRequest, pb::RunResponse>,
                   public std::enable_shared_from_this<RemoteCall> {
 public:
  RemoteCall(const pb::RunStart& start, RunObserver* observer) : observer_(observer) {
    *request_.mutable_start() = start;
  }

  void Begin(pb::AttentionService::Stub* stub) {
    self_ = shared_from_this();
    stub->async()->Run(&context_, this);
    StartWrite(&request_);
    StartRead(&response_);
    StartCall();
  }

  void Cancel() { context_.TryCancel(); }

  void Detach() {
    {
      std::lock_guard lock(mu_);
      observer_ = nullptr;
    }
    context_.TryCancel();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    {
      std::lock_guard lock(mu_);
      if (response_.finish_reason() != pb::FINISH_REASON_UNSPECIFIED) finished_ = true;
      if (observer_ != nullptr) observer_->OnResponse(std::move(response_));
    }
    response_.Clear();
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    std::shared_ptr<RemoteCall> self = std::move(self_);
    std::lock_guard lock(mu_);
    RunObserver* observer = std::exchange(observer_, nullptr);
    if (observer == nullptr) return;
    if (status.ok() && !finished_) {
      observer->OnDone(
          absl::UnavailableError("the attention node ended the run without a finish reason"));
    } else {
      observer->OnDone(rpc::FromGrpc(status));
    }
  }

 private:
  grpc::ClientContext context_;
  pb::RunRequest request_;
  pb::RunResponse response_;
  std::shared_ptr<RemoteCall> self_;
  // Held while the observer is called, so that Detach waits for a call under way; recursive, for a
  // Run may be destroyed by its own observer.
  std::recursive_mutex mu_;
  RunObserver* observer_;
  bool finished_ = false;
};

class RemoteRun : public Run {
 public:
  explicit RemoteRun(std::shared_ptr<RemoteCall> call) : call_(std::move(call)) {}
  ~RemoteRun() override { call_->Detach(); }
  void Cancel() override { call_->Cancel(); }

 private:
  std::shared_ptr<RemoteCall> call_;
};

class RemoteAttention : public AttentionBackend {
 public:
  explicit RemoteAttention(const std::string& address)
      : stub_(pb::AttentionService::NewStub(rpc::MakeChannel(address))) {}

  std::unique_ptr<Run> Start(const pb::RunStart& start, RunObserver* observer) override {
    auto call = std::make_shared<RemoteCall>(start, observer);
    call->Begin(stub_.get());
    return std::make_unique<RemoteRun>(std::move(call));
  }

 private:
  std::unique_ptr<pb::AttentionService::Stub> stub_;
};

}  // namespace

std::unique_ptr<AttentionBackend> MakeRemoteAttention(const std::string& address) {
  return std::make_unique<RemoteAttention>(address);
}

}  // namespace atl::attention
