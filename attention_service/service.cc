#include "attention_service/service.h"

#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "rpc/status.h"

namespace atl::attention {
namespace {

namespace pb = atollpb::v1;

// One Run call. Responses that come while a write is under way are merged into one message, so a
// slow router holds back nobody and the memory is bounded by the sequence's own tokens.
class RunReactor : public grpc::ServerBidiReactor<pb::RunRequest, pb::RunResponse> {
 public:
  explicit RunReactor(Engine* engine) : engine_(engine), observer_(this) { StartRead(&request_); }

  void OnReadDone(bool ok) override {
    if (!ok) {
      // The client has half-closed or is gone; without a start there is nothing to wait for.
      if (run_ == nullptr)
        End(absl::InvalidArgumentError("the call ended before its start message"));
      return;
    }
    if (request_.has_start()) {
      if (run_ != nullptr) {
        End(absl::InvalidArgumentError("a second start message in one call"));
        return;
      }
      auto run = engine_->Start(request_.start(), &observer_);
      std::lock_guard lock(mu_);
      run_ = std::move(run);
      if (cancelled_) run_->Cancel();
    } else if (request_.has_cancel() && run_ != nullptr) {
      run_->Cancel();
    } else {
      End(absl::InvalidArgumentError("expected a start message, then at most cancel"));
      return;
    }
    StartRead(&request_);
  }

  void OnCancel() override {
    std::lock_guard lock(mu_);
    cancelled_ = true;
    if (run_ != nullptr) run_->Cancel();
  }

  void OnWriteDone(bool ok) override {
    Update([&] {
      writing_ = false;
      if (!ok) has_pending_ = false;  // the client is gone: OnCancel ends the run
    });
  }

  void OnDone() override {
    run_.reset();  // no observer call after this
    delete this;
  }

 private:
  struct Observer : RunObserver {
    explicit Observer(RunReactor* reactor) : reactor(reactor) {}
    void OnResponse(pb::RunResponse response) override { reactor->Push(std::move(response)); }
    void OnDone(const Status& status) override { reactor->End(status); }
    RunReactor* const reactor;
  };

  void Push(pb::RunResponse response) {
    Update([&] {
      pending_.MergeFrom(response);
      has_pending_ = true;
    });
  }

  void End(const Status& status) {
    Update([&] {
      if (!end_.has_value()) end_ = status;
    });
  }

  // Changes what there is to say, then says the next of it. Finish comes last and with no lock
  // held: OnDone, which deletes the reactor, may follow on another thread at once.
  template <typename Change>
  void Update(Change change) {
    std::optional<Status> end;
    {
      std::lock_guard lock(mu_);
      change();
      if (writing_ || finished_) return;
      if (has_pending_) {
        outgoing_ = std::exchange(pending_, pb::RunResponse());
        has_pending_ = false;
        writing_ = true;
        StartWrite(&outgoing_);
      } else if (end_.has_value()) {
        finished_ = true;
        end = end_;
      }
    }
    if (end.has_value()) Finish(rpc::ToGrpc(*end));
  }

  Engine* const engine_;
  Observer observer_;
  pb::RunRequest request_;
  std::mutex mu_;
  std::unique_ptr<Run> run_;
  bool cancelled_ = false;
  pb::RunResponse pending_, outgoing_;
  bool has_pending_ = false;
  bool writing_ = false;
  bool finished_ = false;
  std::optional<Status> end_;
};

}  // namespace

grpc::ServerBidiReactor<pb::RunRequest, pb::RunResponse>* AttentionServiceImpl::Run(
    grpc::CallbackServerContext*) {
  return new RunReactor(engine_);
}

grpc::ServerUnaryReactor* AttentionServiceImpl::GetAttentionStats(
    grpc::CallbackServerContext* context, const pb::GetAttentionStatsRequest*,
    pb::GetAttentionStatsResponse* response) {
  const EngineStats& stats = engine_->stats();
  response->set_running_sequences(stats.running);
  response->set_waiting_sequences(stats.waiting);
  response->set_cache_blocks_total(stats.blocks_total);
  response->set_cache_blocks_used(stats.blocks_used);
  response->set_cache_blocks_cached(stats.blocks_cached);
  response->set_steps(stats.steps);
  response->set_prefill_tokens(stats.prefill_tokens);
  response->set_decode_tokens(stats.decode_tokens);
  response->set_preemptions(stats.preemptions);
  response->set_cached_tokens(stats.cached_tokens);
  response->set_dispatched_rows(stats.dispatched_rows);
  response->set_drafted_tokens(stats.drafted_tokens);
  response->set_accepted_tokens(stats.accepted_tokens);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace atl::attention
